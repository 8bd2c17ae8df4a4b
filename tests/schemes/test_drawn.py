"""Random draws are known as such, and what somebody set is not taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.initializers.registry import cards, get
from initadvisor.schemes.drawn import Look, look_at
from initadvisor.types import Fans

SET = {
    *("zeros", "ones", "constant", "vector", "identity", "dirac", "zero_init", "mimetic"),
    *("mamba_a_log", "mamba2_a_log", "mamba_dt_bias"),
}
"""Initializers whose values are chosen: one number, a pattern, or a distribution to one side of zero."""

DRAWS = sorted(card.name for card in cards() if card.name not in SET)
SHAPES = [(7,), (32,), (300,), (1, 8), (3, 4), (8, 8), (16, 3, 3, 3), (64, 27), (10, 128), (1, 20, 16), (64, 64)]
ERROR = 1 / 1000
"""What ``look_at`` promises of plain draws."""


def drawn(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    fans = Fans(float(math.prod(shape[1:])), float(shape[0]))
    return get(name).fn(shape, fans, gain=1.0, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_every_random_initializer_are_known(name):
    card, wrong, count = get(name), [], 0
    for shape in SHAPES:
        if len(shape) < card.min_dims:
            continue
        for seed in range(20):
            for dtype in (torch.float32, torch.bfloat16):
                found = look_at(drawn(name, shape, seed, dtype))
                count += 1
                if found.look is not Look.DRAWN:
                    wrong.append((shape, seed, found))
    # Binomial: more than this many errors has a chance of under 1e-4 at the promised rate.
    allowed = ERROR * count + 4 * math.sqrt(ERROR * count) + 1
    assert len(wrong) <= allowed, wrong


def grid() -> torch.Tensor:
    return torch.arange(32.0)[:, None]


STRUCTURES: dict[str, Callable[[], torch.Tensor]] = {
    "ramp of four": lambda: torch.linspace(0, 1, 4),
    "ramp": lambda: torch.linspace(-0.3, 0.7, 40),
    "decay": lambda: 0.9 ** torch.arange(16.0),
    "waves": lambda: torch.sin(grid() * 0.5 ** torch.arange(8.0) + 0.3),
    "fourier": lambda: torch.cos(2 * math.pi * grid() * torch.arange(32.0) / 32 + 0.1),
    "signs": lambda: torch.sign(normals(8, 8)),
    "identity and noise": lambda: torch.eye(16) + 0.1 * normals(16, 16),
    "rank one": lambda: normals(24, 1) @ normals(1, 40, seed=1),
    "rank four": lambda: normals(32, 4) @ normals(4, 32, seed=1),
    "rows of other sizes": lambda: normals(16, 32) * torch.logspace(-1, 1, 16)[:, None],
    "columns of other sizes": lambda: normals(32, 16) * torch.logspace(-1, 1, 16),
    "blocks": lambda: torch.block_diag(*[normals(8, 8, seed=i) for i in range(4)]),
    "poles": lambda: math.pi * torch.arange(8.0).repeat(12, 1),
    "log steps": lambda: torch.rand(64, generator=torch.Generator().manual_seed(0)) * math.log(100) - 7,
    "rates": lambda: torch.arange(1.0, 17).log().repeat(8, 1),
    "hippo": lambda: torch.tril(torch.sqrt((2 * grid() + 1) * (2 * grid().T + 1))),
    "toeplitz": lambda: normals(63)[(grid() - grid().T).long() + 31],
    "permutation": lambda: torch.eye(16)[torch.randperm(16, generator=torch.Generator().manual_seed(0))],
    "typed": lambda: torch.tensor([-4.6, -3.2, -0.1]),
    "complex poles": lambda: torch.complex(torch.full((4, 8), -0.5), math.pi * torch.arange(8.0).expand(4, 8)),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("scale", [1.0, 0.037])
def test_what_somebody_set_is_no_draw(name, scale):
    tensor = STRUCTURES[name]() * (1.0 if name == "typed" else scale)
    found = look_at(tensor)
    assert found.look is Look.STRUCTURED, found
    assert found.what
    assert found.value is None


@given(value=st.floats(-50, 50, width=32), size=st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_one_number_throughout_is_told_to_the_bit(value, size):
    found = look_at(torch.full((size,), value))
    assert (found.look, found.value) == (Look.CONSTANT, value)


def test_a_single_number_is_set_only_if_it_looks_typed():
    assert look_at(torch.tensor([3.5])).look is Look.CONSTANT
    assert look_at(torch.tensor([0.0])).look is Look.CONSTANT
    assert look_at(normals(1)).look is Look.DRAWN


def test_draws_about_another_centre():
    scales = 1 + 0.02 * normals(64)
    assert look_at(scales, centre=1.0).look is Look.DRAWN
    assert look_at(scales).look is Look.STRUCTURED


def test_padding_rows_and_missing_taps_are_not_part_of_a_draw():
    table = normals(40, 16)
    table[3] = 0
    assert look_at(table).look is Look.DRAWN


@pytest.mark.parametrize(
    ("tensor", "look"),
    [
        (torch.empty(3, 4, device="meta"), Look.UNSEEN),
        (torch.empty(0, 4), Look.UNSEEN),
        (torch.zeros(3, dtype=torch.long), Look.UNSEEN),
        (torch.tensor([1.0, float("nan")]), Look.BROKEN),
        (torch.tensor([1.0, float("inf")]), Look.BROKEN),
    ],
)
def test_what_cannot_be_read_is_said(tensor, look):
    assert look_at(tensor).look is look
