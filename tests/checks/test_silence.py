"""What is right, or only unusual, is not accused: zeros that wake, streams of their own, priors set on purpose."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import LanguageModel, mlp, rows
from torch import nn

from initadvisor.checks.finding import Finding
from initadvisor.checks.runner import check
from initadvisor.checks.waking import waking


def accused(model: nn.Module, batch: Any, loss: Any = None) -> list[Finding]:
    return [f for f in check(model, batch, loss=loss) if f.severity.value != "info"]


class Gained(nn.Module):
    """A zero somewhere that the first steps move, on the only path or beside it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.body, self.head = mlp(16, 1), nn.Linear(10, 3)
        self.gain = nn.Parameter(torch.zeros(()))
        self.down, self.up = nn.Linear(10, 4, bias=False), nn.Linear(4, 10, bias=False)
        nn.init.zeros_(self.up.weight)
        if where == "head":
            nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        if self.where == "adapter":
            return self.head(h + self.up(self.down(h)))
        return self.head(h) * (self.gain if self.where == "output" else 1.0) + 0.0 * self.up(self.down(h)).sum()


@settings(deadline=None, max_examples=9)
@given(where=st.sampled_from(["output", "head", "adapter"]), seed=st.integers(0, 99))
def test_a_zero_that_the_first_steps_move_is_no_error(where: str, seed: int) -> None:
    torch.manual_seed(seed)
    batch = (rows(64, 16), torch.randn(64, 3))
    assert not [f for f in check(Gained(where), batch) if f.severity.value == "error"]


@settings(deadline=None, max_examples=10)
@given(depth=st.integers(1, 4), seed=st.integers(0, 99))
def test_zeros_in_a_row_wake_one_by_one(depth: int, seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth + 1)))
    for layer in net[1:]:
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    x, y = torch.randn(8, 3), torch.randn(8, 3)

    def loss() -> torch.Tensor:
        return (net(x) - y).square().mean()

    before = {k: v.clone() for k, v in net.state_dict().items()}
    loss().backward()
    first = {path: 0.0 if p.grad is None else float(p.grad.norm()) for path, p in net.named_parameters()}
    assert waking(net, first, loss).get("0.weight", True)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_nothing_reaches_stays_asleep() -> None:
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.randn(8, 3)
    nn.init.constant_(net[0].bias, -100.0)

    def loss() -> torch.Tensor:
        return (net(x) - 1).square().mean()

    loss().backward()
    first = {path: float(p.grad.norm()) for path, p in net.named_parameters() if p.grad is not None}
    assert waking(net, first, loss) == {"0.bias": False, "0.weight": False, "2.weight": False}
    (found,) = [f for f in check(net, (x, torch.ones(8, 1))) if f.code == "INI112"]
    assert found.severity.value == "error"


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("widening", [2, 4])
def test_one_depth_rule_for_all_is_no_half_of_one(layers: int, widening: int) -> None:
    torch.manual_seed(layers)
    model = LanguageModel(layers)
    ids = torch.randint(100, (4, 16))
    for block in model.blocks:
        block.fc, block.out = nn.Linear(64, 64 * widening), nn.Linear(64 * widening, 64)  # type: ignore[union-attr]
        nn.init.normal_(block.fc.weight, std=0.02)  # type: ignore[union-attr,arg-type]
        nn.init.normal_(block.out.weight, std=0.02 / math.sqrt(2 * layers))  # type: ignore[union-attr,arg-type]
    assert "INI208" not in {f.code for f in check(model, (ids, ids))}


class Towers(nn.Module):
    """Two streams with tables of their own sizes and depth rules of their own."""

    def __init__(self, width: int, one: float, other: float) -> None:
        super().__init__()
        self.text, self.image = LanguageModel(3, width), LanguageModel(4, width)
        for tower, size in ((self.text, one), (self.image, other)):
            for table in (tower.tokens, tower.places):
                nn.init.normal_(table.weight, std=size)
        for block in self.image.blocks:
            for layer in (block.proj, block.out):  # type: ignore[union-attr]
                nn.init.normal_(layer.weight, std=0.02)  # type: ignore[union-attr,arg-type]

    def forward(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        a, b = (nn.functional.normalize(t(i).mean(1), dim=-1) for t, i in ((self.text, text), (self.image, image)))
        return 10 * a @ b.T


@settings(deadline=None, max_examples=6)
@given(sizes=st.sampled_from([(0.02, 1.0), (1.0, 0.02), (0.1, 0.001)]), seed=st.integers(0, 99))
def test_two_streams_are_not_compared(sizes: tuple[float, float], seed: int) -> None:
    torch.manual_seed(seed)
    ids = torch.randint(100, (6, 12))
    codes = {f.code for f in check(Towers(32, *sizes), (ids, ids.flip(0), torch.arange(6)))}
    assert not codes & {"INI208", "INI313"}


@settings(deadline=None, max_examples=8)
@given(prior=st.sampled_from([0.01, 0.001, 1e-5]), inside=st.booleans())
def test_a_prior_on_purpose_does_not_saturate(prior: float, inside: bool) -> None:
    head = nn.Linear(16, 1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.constant_(head.bias, math.log(prior / (1 - prior)))
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), head, *([nn.Sigmoid()] if inside else []))
    target = (torch.rand(256, 1) < prior).float()
    loss = nn.BCELoss() if inside else nn.BCEWithLogitsLoss()
    assert "INI402" not in {f.code for f in check(model, (torch.randn(256, 8), target), loss=loss)}


def test_a_frozen_head_is_not_to_be_rescaled() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    model[2].weight.data.mul_(60)
    model[2].requires_grad_(False)
    found = {f.code: f for f in check(model, (rows(64, 16), torch.randint(3, (64,))))}
    assert found["INI501"].severity.value == "info"
    assert "frozen" in found["INI501"].remedy


def test_a_mean_over_time_is_no_symmetry() -> None:
    """A linear map along the series that starts as its mean, as DLinear has it."""
    model = nn.Linear(24, 8)
    nn.init.constant_(model.weight, 1 / 24)
    assert not accused(model, (torch.randn(64, 24), torch.randn(64, 8)))


def test_equal_units_that_learn_alike_are_an_error() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 3))
    for layer in model:
        nn.init.constant_(layer.weight, 0.05)
    found = [f for f in check(model, (rows(64, 16), torch.randint(3, (64,)))) if f.code == "INI104"]
    assert {(f.path, f.severity.value) for f in found} >= {("0.weight", "error")}
    assert "gradients are equal" in found[0].message


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_masks_hold_infinities_on_purpose(share: float) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(16, 1)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.net(mask.softmax(-1) * x)

    mask = torch.zeros(64, 16)
    mask[:, 8:] = -math.inf
    x = rows(64, 16)
    x[0, 0] = math.inf if share else 0.0
    codes = {f.code for f in check(Masked(), (x, mask, torch.randint(10, (64,))))}
    assert ("INI601" in codes) == bool(share)
