"""What every initializer promises, tried on every card."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table import TABLE, Row, fill, generator

from initadvisor.errors import RegistryError
from initadvisor.initializers.card import Card, register
from initadvisor.initializers.registry import cards, get
from initadvisor.references import REFERENCES
from initadvisor.types import Fans

CARDS = list(cards())
CASES = [
    pytest.param(card, shape, fans, TABLE[card.name], id=f"{card.name}-{'x'.join(map(str, shape))}")
    for card in CARDS
    if card.name in TABLE
    for shape, fans in TABLE[card.name].shapes
]
SIGMAS = 6.0
"""Deviations beyond which a test fails: under 1e-8 by chance for a statistic that is near normal."""


def test_every_card_is_in_the_table() -> None:
    assert {c.name for c in CARDS} == set(TABLE)


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.name)
def test_the_card_says_everything(card: Card) -> None:
    assert card.summary.endswith(".")
    assert card.formula
    assert card.right_when.endswith(".")
    assert card.wrong_when.endswith(".")
    assert all(key in REFERENCES for key in card.references)
    assert all(get(alias) is card for alias in card.aliases)
    for name, hyperparameter in card.args.items():
        assert hyperparameter.meaning, name


def test_a_name_is_registered_once_and_mistypings_are_told() -> None:
    with pytest.raises(RegistryError, match="twice"):
        register(replace(get("zeros"), aliases=()))
    with pytest.raises(RegistryError, match='did you mean "xavier_normal"'):
        get("xavier_nromal")


@pytest.mark.parametrize(("card", "shape", "fans", "row"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_shape_dtype_and_randomness(
    card: Card, shape: tuple[int, ...], fans: Fans, row: Row, dtype: torch.dtype
) -> None:
    before = torch.get_rng_state()
    one = fill(card, shape, fans, seed=1, dtype=dtype, **row.args)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    assert one.shape == shape
    assert one.dtype == dtype
    assert one.is_contiguous()
    assert torch.isfinite(one).all()
    assert torch.equal(one, fill(card, shape, fans, seed=1, dtype=dtype, **row.args))
    assert torch.equal(one, fill(card, shape, fans, seed=2, dtype=dtype, **row.args)) is not row.random


@pytest.mark.parametrize(("card", "shape", "fans", "row"), CASES)
def test_what_is_declared_is_what_is_drawn(card: Card, shape: tuple[int, ...], fans: Fans, row: Row) -> None:
    gain, draws = 1.3, 24
    declared = card.declare(shape, fans, gain, row.args)
    values = torch.stack(
        [fill(card, shape, fans, gain=gain, seed=s, dtype=torch.float64, **row.args) for s in range(draws)]
    )
    if declared.low is not None and declared.high is not None:
        assert declared.low - 1e-9 <= float(values.min())
        assert float(values.max()) <= declared.high + 1e-9
    std = declared.std or 0.0
    if declared.mean is not None:
        means = values.flatten(1).mean(1)
        tolerance = SIGMAS * std / math.sqrt(values.numel()) + 1e-9
        assert float(means.mean()) == pytest.approx(declared.mean, abs=tolerance)
    if declared.std is not None:
        # The spread of the squares is estimated from the draws themselves, whatever their law or dependence.
        squares = (values - (declared.mean or 0.0)).square().flatten(1).mean(1)
        tolerance = SIGMAS * float(squares.std()) / math.sqrt(draws) + 1e-9
        assert float(squares.mean()) == pytest.approx(declared.std**2, abs=tolerance)
    if declared.exact:
        assert torch.equal(values[0], values[1])


@pytest.mark.parametrize(("card", "shape", "fans", "row"), CASES)
def test_gain_times_k_is_std_times_k(card: Card, shape: tuple[int, ...], fans: Fans, row: Row) -> None:
    if not row.scales:
        return
    mean = float(row.args.get("mean", 0.0))
    one, three = (fill(card, shape, fans, gain=g, dtype=torch.float64, **row.args) - mean for g in (1.0, 3.0))
    torch.testing.assert_close(three, 3 * one)


@pytest.mark.parametrize("name", [n for n, row in TABLE.items() if row.random and n != "vector"])
@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_fill_has_the_law_of_each_group(name: str, groups: int) -> None:
    """Size and orthogonality of every group are those of the same group filled alone."""
    out, inputs = 32, 24
    whole = fill(name, (out, inputs // groups, 3, 3), Fans(inputs // groups * 9, out // groups * 9, groups=groups))
    alone = fill(name, (out // groups, inputs // groups, 3, 3), Fans(inputs // groups * 9, out // groups * 9))
    for part in whole.chunk(groups):
        n = part.numel()
        ratio = float(part.square().mean() / alone.square().mean())
        kurtosis = float(alone.pow(4).mean() / alone.square().mean() ** 2)
        assert ratio == pytest.approx(1, abs=SIGMAS * math.sqrt(2 * max(kurtosis - 1, 0.01) / n))


@pytest.mark.parametrize("name", ["orthogonal", "delta_orthogonal", "kaiming_normal", "zero_init", "dirac"])
def test_a_transposed_layout_is_the_transposed_fill(name: str) -> None:
    """A transposed convolution's tensor holds the same maps with output and input axes exchanged."""
    direct = fill(name, (12, 8, 3, 3), Fans(72, 108))
    swapped = fill(name, (8, 12, 3, 3), Fans(72, 108, out_dim=1, in_dim=0))
    assert swapped.std() == pytest.approx(float(direct.std()), rel=0.2)
    if name != "kaiming_normal":
        torch.testing.assert_close(swapped.transpose(0, 1).contiguous(), direct)


@settings(deadline=None, max_examples=40)
@given(
    out=st.integers(1, 12), inputs=st.integers(1, 12), kernel=st.sampled_from([(), (3,), (2, 3)]),
    gain=st.floats(0.1, 3.0), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_orthogonal_is_orthogonal(out: int, inputs: int, kernel: tuple[int, ...], gain: float, seed: int) -> None:
    taps = math.prod(kernel)
    w = fill("orthogonal", (out, inputs, *kernel), Fans(inputs * taps, out * taps), gain=gain, seed=seed,
             dtype=torch.float64).reshape(out, -1)  # fmt: skip
    small = w @ w.T if out <= w.shape[1] else w.T @ w
    torch.testing.assert_close(small, gain**2 * torch.eye(len(small), dtype=torch.float64), atol=1e-9, rtol=0)


def test_orthogonal_is_haar() -> None:
    """Entries have the moments of the uniform law on O(n); a missing sign correction would show in the diagonal."""
    n, draws = 4, 20000
    from initadvisor.initializers.orthogonal import haar

    q = haar(draws, n, n, generator(3), torch.float64)
    mean = q.mean(0)
    assert float(mean.abs().max()) < SIGMAS / math.sqrt(n * draws)
    traces = q.diagonal(dim1=1, dim2=2).sum(1)  # E = 0, Var = 1 under Haar (Diaconis and Shahshahani 1994)
    assert abs(float(traces.mean())) < SIGMAS / math.sqrt(draws)
    assert float(traces.var()) == pytest.approx(1, abs=SIGMAS * math.sqrt(2 / draws))
    determinants = torch.linalg.det(q).sign().mean()
    assert abs(float(determinants)) < SIGMAS / math.sqrt(draws)


def test_delta_orthogonal_is_an_isometry_of_images() -> None:
    w = fill("delta_orthogonal", (8, 8, 3, 3), Fans(72, 72), dtype=torch.float64)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64, generator=generator(0))
    y = torch.nn.functional.conv2d(x, w, padding=1)
    torch.testing.assert_close(y.norm(), x.norm())


def test_dirac_passes_the_input_through() -> None:
    x = torch.randn(2, 8, 5, 5, generator=generator(0))
    for groups in (1, 4):
        w = fill("dirac", (8, 8 // groups, 3, 3), Fans(72 // groups, 72 // groups, groups=groups))
        torch.testing.assert_close(torch.nn.functional.conv2d(x, w, padding=1, groups=groups), x)


def test_zero_init_widens_without_losing_anything() -> None:
    w = fill("zero_init", (12, 5), Fans(5, 12), dtype=torch.float64)
    assert torch.linalg.matrix_rank(w) == 5
    assert torch.equal(fill("zero_init", (5, 5), Fans(5, 5)), torch.eye(5))
