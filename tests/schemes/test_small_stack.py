"""A plain stack may start small as a whole: evenly, and only where nothing else decides its scale."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.schemes.blueprints import SMALL_STACK
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import SchemeKind

NAME = "rules_small_stack"


def stack(layers: int, act: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    sizes = [10, *[32] * (layers - 1), 4]
    made = [[nn.Linear(a, b), *([nn.LayerNorm(b)] if norm else []), act()] for a, b in pairwise(sizes)]
    return nn.Sequential(*[part for group in made for part in group][:-1])


class Sine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30 * x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 32), nn.Linear(32, 4)
        self.branches = nn.ModuleList(stack_branch() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.last(x)


def stack_branch() -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(10, 16, num_layers=3, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0])


def candidates(model: nn.Module, *shape: int) -> dict[str, Scheme]:
    x = torch.randn(8, *(shape or (10,)))
    return {s.name: s for s in propose_from_spec(analyze(model, x), model)}


def gains(scheme: Scheme) -> dict[str, float]:
    return {a.path: a.parts[0].fill.gain for a in scheme.assignments if len(a.shape) > 1}


@pytest.mark.parametrize("layers", [3, 6, 20])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid])
def test_every_hidden_layer_takes_an_even_share(layers, act):
    made = candidates(stack(layers, act))
    plain, small = gains(made["rules_orthogonal"]), gains(made[NAME])
    first, *hidden, last = plain
    assert [small[first], small[last]] == [plain[first], plain[last]]
    model = stack(layers, act)
    made[NAME].apply(model)
    inward = model[0].weight.detach()  # 10 numbers to 32: their length is kept, and not their size
    torch.testing.assert_close(inward.T @ inward, torch.eye(10), atol=1e-5, rtol=0)
    ratios = [small[path] / plain[path] for path in hidden]
    assert ratios == pytest.approx([SMALL_STACK ** (1 / layers)] * len(hidden), rel=1e-4)
    assert math.prod(ratios) >= SMALL_STACK
    assert "rules_smaller" not in made


def test_it_comes_first_of_the_rules_and_says_why():
    made = candidates(stack(6))
    assert next(s.name for s in made.values() if s.kind is SchemeKind.RULES) == NAME
    hidden = next(a for a in made[NAME].assignments if a.path == "2.weight")
    assert "6 layers together start at 0.25" in hidden.reason
    assert "chizat2019" in hidden.references
    assert "chizat2019" not in made["rules_orthogonal"].references


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (stack(2), ()),
        (stack(6, norm=True), ()),
        (stack(6, nn.SELU), ()),
        (stack(6, Sine), ()),
        (Residual(), ()),
        (Reader(), (5, 10)),
        (nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(5)]), (3, 8, 8)),
    ],
    ids=["shallow", "normalised", "selu", "siren", "residual", "recurrent", "convolutional"],
)
def test_other_nets_are_left_at_their_own_scale(model, shape):
    assert NAME not in candidates(model, *shape)


def test_a_frozen_stack_has_nothing_to_make_small():
    model = stack(6)
    for parameter in [*model.parameters()][:-2]:
        parameter.requires_grad_(False)
    assert NAME not in candidates(model)
