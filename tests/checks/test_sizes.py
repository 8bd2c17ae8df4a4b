"""Starts too small or too large for what follows, at any depth and for any activation; right ones are silent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import Sines, rows
from torch import nn

from initadvisor.checks.runner import check
from initadvisor.checks.topics.sizes import passed

Bend = Callable[[torch.Tensor], torch.Tensor]

BENDS: dict[str, Bend] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "square": torch.square,
    "gaussian": lambda z: torch.exp(-z.square() / 2),
    "gabor": lambda z: torch.cos(5 * z) * torch.exp(-z.square()),
}


class Net(nn.Module):
    def __init__(self, bend: Bend, depth: int, size: float, biased: bool) -> None:
        super().__init__()
        self.bend = bend
        self.layers = nn.ModuleList(nn.Linear(32, 32, bias=biased) for _ in range(depth))
        self.head = nn.Linear(32, 3)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=size / math.sqrt(32))  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.bend(layer(x))
        return self.head(x)


def codes(model: nn.Module, batch: Any) -> set[str]:
    return {f.code for f in check(model, batch)}


@settings(deadline=None, max_examples=30)
@given(bend=st.sampled_from(sorted(BENDS)), depth=st.integers(1, 3), biased=st.booleans(), seed=st.integers(0, 99),
       size=st.sampled_from([1e-3, 1e-5, 1.0]))  # fmt: skip
def test_a_layer_that_leaves_nothing_of_its_input_is_told(
    bend: str, depth: int, biased: bool, seed: int, size: float
) -> None:
    torch.manual_seed(seed)
    batch = (torch.randn(64, 32), torch.randint(3, (64,)))
    assert ("INI210" in codes(Net(BENDS[bend], depth, size, biased), batch)) == (size < 0.1)


@settings(deadline=None, max_examples=10)
@given(speed=st.sampled_from([10.0, 30.0, 60.0]), inputs=st.integers(1, 4), seed=st.integers(0, 99))
def test_sine_nets_are_judged_by_their_own_rule(speed: float, inputs: int, seed: int) -> None:
    class Sine(Sines):
        def __init__(self, first: float, hidden: float) -> None:
            super().__init__(first, hidden)
            self.layers[0] = nn.Linear(inputs, 64)
            nn.init.uniform_(self.layers[0].weight, -first, first)  # type: ignore[arg-type]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers[:-1]:
                x = torch.sin(speed * layer(x))
            return self.layers[-1](x)

    torch.manual_seed(seed)
    right = math.sqrt(6 / 64) / speed
    batch = (torch.rand(128, inputs) * 2 - 1, torch.randn(128, 1))
    assert not codes(Sine(1 / inputs, right), batch) & {"INI210", "INI211"}
    assert "INI210" in codes(Sine(0.1 / inputs, right), batch)
    assert ("INI211" in codes(Sine(1 / inputs, 0.125), batch)) == (speed * 0.125 / 3**0.5 * 8 * 0.7 > 6)


class Product(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        for layer in (self.one, self.two):
            nn.init.normal_(layer.weight, std=size / math.sqrt(32))
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.one(x) * self.two(x))


@pytest.mark.parametrize(("size", "told"), [(0.03, True), (1.0, False)])
def test_two_small_factors_are_smaller_still(size: float, told: bool) -> None:
    torch.manual_seed(0)
    assert ("INI210" in codes(Product(size), (rows(64, 32), torch.randint(3, (64,))))) == told


def test_a_map_that_makes_weights_may_be_small() -> None:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.make = nn.Linear(4, 16), nn.Linear(16, 64)
            nn.init.normal_(self.make.weight, std=1e-3)

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            w = self.make(torch.tanh(self.body(z))).view(-1, 8, 8)
            return torch.einsum("bi,bij->bj", x, w)

    assert "INI210" not in codes(Hyper(), (rows(64, 8), rows(64, 4), rows(64, 8)))


def test_one_hot_inputs_have_no_scale() -> None:
    net = nn.Sequential(nn.Linear(4096, 8), nn.ReLU(), nn.Linear(8, 3))
    hot = nn.functional.one_hot(torch.randint(4096, (64,)), 4096).float()
    assert "INI602" not in codes(net, (hot, torch.randint(3, (64,))))


def test_a_small_head_and_a_small_branch_are_no_fault() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 3)
            nn.init.normal_(self.down.weight, std=1e-5)
            nn.init.normal_(self.head.weight, std=1e-4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x + self.down(torch.relu(self.up(x))))

    assert "INI210" not in codes(Residual(), (rows(64, 32), torch.randint(3, (64,))))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_what_a_norm_scales_up_again_is_not_small(norm: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(32, 32), norm(32), nn.ReLU(), nn.Linear(32, 3))  # type: ignore[call-arg]
    nn.init.normal_(net[0].weight, std=1e-5)
    assert "INI210" not in codes(net, (rows(64, 32), torch.randint(3, (64,))))


def test_what_is_passed_agrees_with_known_slopes() -> None:
    assert passed(torch.tanh, 1e-3) == pytest.approx(1.0, rel=1e-3)
    assert passed(torch.sigmoid, 1e-3) == pytest.approx(0.25, rel=1e-3)
    assert passed(torch.relu, 7.0) == pytest.approx(math.sqrt(0.5 - 0.5 / math.pi), rel=1e-2)
    assert passed(torch.square, 0.01) == pytest.approx(math.sqrt(2) * 0.01, rel=1e-2)


@settings(deadline=None, max_examples=16)
@given(way=st.sampled_from(["data", "init", "v", "g", "both", "none"]), transposed=st.booleans(), norm=st.booleans())
def test_a_write_to_a_derived_weight_is_told_and_one_to_its_sources_is_not(
    way: str, transposed: bool, norm: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = nn.ConvTranspose1d(4, 4, 3, padding=1) if transposed else nn.Conv1d(4, 4, 3, padding=1)
        wrap = nn.utils.weight_norm if norm else nn.utils.spectral_norm
        conv = wrap(made)
    source = conv.weight_v if norm else conv.weight_orig
    if way == "data":
        conv.weight.data.normal_(std=0.01)
    elif way == "init":
        nn.init.normal_(conv.weight, std=0.01)
    elif way in ("v", "both"):
        nn.init.normal_(source, std=0.3)
    if way in ("g", "both") and norm:
        conv.weight_g.data.mul_(3)
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3))
    found = codes(net, (torch.randn(16, 4, 9), torch.randint(3, (16,))))
    # A spectral norm shares the memory of its source until the first pass, so that a write to it is one to that.
    assert ("INI215" in found) == (norm and way in ("data", "init"))


@settings(deadline=None, max_examples=12)
@given(law=st.sampled_from(["normal", "uniform", "unit", "near one", "trained", "ones"]), seed=st.integers(0, 99))
def test_norm_scales_that_a_loop_has_drawn_are_told_from_trained_ones(law: str, seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(24, 24), nn.LayerNorm(24), nn.ReLU())))
    net.append(nn.Linear(24, 3))
    fills: dict[str, Callable[[torch.Tensor], Any]] = {
        "normal": lambda p: nn.init.normal_(p, std=0.02),
        "uniform": lambda p: nn.init.uniform_(p, -0.1, 0.1),
        "unit": nn.init.uniform_,
        "near one": lambda p: nn.init.normal_(p, 1.0, 0.02),
        "trained": lambda p: nn.init.normal_(p, 0.8, 0.3),
        "ones": nn.init.ones_,
    }
    for m in net:
        if isinstance(m, nn.LayerNorm):
            fills[law](m.weight)
    found = codes(net, (rows(64, 24), torch.randint(3, (64,))))
    assert ("INI213" in found) == (law in ("normal", "uniform", "unit"))
