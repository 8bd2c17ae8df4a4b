"""A tensor is accused of wrong fans exactly where it was filled with wrong fans."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.checks.statistics import statistics_of
from initadvisor.checks.topics.fans import isometric
from initadvisor.checks.topics.symmetry import duplicate_rows
from initadvisor.checks.variance_rules import misfit, torch_fans
from initadvisor.types import Fans

WIDTHS = st.sampled_from([48, 80, 96, 160])


def drawn(shape: tuple[int, ...], variance: float, family: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if family == "uniform":
        return (torch.rand(shape, generator=generator) * 2 - 1) * math.sqrt(3 * variance)
    return torch.randn(shape, generator=generator) * math.sqrt(variance)


@settings(deadline=None, max_examples=60)
@given(
    width=WIDTHS, family=st.sampled_from(["normal", "uniform"]), seed=st.integers(0, 10**6),
    scale=st.sampled_from([(2.0, "in"), (1.0, "in"), (2.0, "out"), (1.0, "out"), (1.0, "avg"), (2.0, "avg")]),
)  # fmt: skip
def test_right_fans_are_never_accused(width: int, family: str, seed: int, scale: tuple[float, str]) -> None:
    fans = Fans(float(width), float(2 * width))
    count = {"in": fans.fan_in, "out": fans.fan_out, "avg": fans.fan_avg}[scale[1]]
    whole = (6 * width, width)  # three parts of 2·width rows
    part = drawn((2 * width, width), scale[0] / count, family, seed)
    assert misfit(statistics_of(part), whole, fans) is None


@settings(deadline=None, max_examples=60)
@given(
    # log(.5625/.5) must exceed 9 standard errors by another 4.5, which a normal draw of 26,400 values gives; of width
    # 200 the wrong std would be .05, which people type.
    width=st.sampled_from([176, 224, 256]), family=st.sampled_from(["normal", "uniform"]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_xavier_over_the_packed_fan_is_recognised(width: int, family: str, seed: int) -> None:
    whole = drawn((3 * width, width), 2 / (4 * width), family, seed)
    found = misfit(statistics_of(whole[:width]), tuple(whole.shape), Fans(float(width), float(width)))
    assert found is not None
    assert found.rule == "Xavier"
    assert found.factor == pytest.approx(0.5)


@pytest.mark.parametrize("std", [0.02, 0.01, 0.1])
def test_a_plain_constant_is_not_taken_for_a_rule(std: float) -> None:
    """Fans chosen so that the wrong rule's std is exactly the constant."""
    outputs = round(2 / std**2)
    tensor = torch.randn(min(outputs, 4000), 1, 1, 1, generator=torch.Generator().manual_seed(0)) * std
    assert misfit(statistics_of(tensor), (outputs, 1, 1, 1), Fans(1.0, 1.0, groups=outputs)) is None


@pytest.mark.parametrize("shape", [(64, 32), (64, 32, 3, 3), (8, 4, 5)])
def test_torch_fans_are_torchs(shape: tuple[int, ...]) -> None:
    assert torch_fans(shape) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(100, 5000), bound=st.floats(1e-3, 10))
def test_families_are_told_apart(seed: int, count: int, bound: float) -> None:
    uniform = statistics_of(drawn((count,), bound**2 / 3, "uniform", seed))
    assert uniform.is_uniform
    assert uniform.agrees(bound**2 / 3)
    assert uniform.contradicts(2 * bound**2 / 3)
    # Of a hundred values both may be true.
    normal = statistics_of(drawn((20 * count,), bound**2, "normal", seed))
    assert normal.is_normal
    assert not normal.is_uniform
    assert normal.agrees(bound**2)
    assert normal.contradicts(2 * bound**2)


def test_a_few_values_accuse_nobody() -> None:
    """Below 512 values nothing is told, even of a perfect match with a wrong rule."""
    fans = Fans(9.0, 9.0, groups=32)
    tensor = drawn((32, 1, 3, 3), 2 / (32 * 9), "normal", 0)
    assert misfit(statistics_of(tensor), (32, 1, 3, 3), fans) is None
    wider = drawn((64, 1, 3, 3), 2 / (64 * 9), "normal", 0)
    assert misfit(statistics_of(wider), (64, 1, 3, 3), Fans(9.0, 9.0, groups=64)) is not None


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(8, 200), columns=st.integers(3, 60), seed=st.integers(0, 10**6), copies=st.integers(0, 5))
def test_duplicate_rows_are_counted_exactly(rows: int, columns: int, seed: int, copies: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    doubled = torch.cat([matrix, matrix[:copies]])
    order = torch.randperm(len(doubled), generator=torch.Generator().manual_seed(seed))
    assert duplicate_rows(doubled[order]) == (min(copies, rows), len(doubled))


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (32, 32)])
def test_isometries_are_told_from_random_matrices(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    made = torch.empty(shape)
    assert isometric(nn.init.orthogonal_(made, gain=3.0))
    assert not isometric(torch.randn(shape))


def test_half_precision_and_extreme_sizes_are_read_without_overflow() -> None:
    for scale in (1e-15, 1e15):
        s = statistics_of(torch.randn(4096, generator=torch.Generator().manual_seed(0)) * scale)
        assert s.std == pytest.approx(scale, rel=0.1)
        assert s.is_normal
    half = statistics_of(torch.randn(4096, generator=torch.Generator().manual_seed(0)).half())
    assert half.agrees(1.0)
