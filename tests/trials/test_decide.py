from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.trials.decide import ALPHA, Pair, decide, smallest_effect, too_short_to_keep
from initadvisor.trials.result import Verdict

DRAWS = 1500


def pairs_of(current: np.ndarray, challenger: np.ndarray) -> list[Pair]:
    return [Pair(i, float(a), float(b)) for i, (a, b) in enumerate(zip(current, challenger, strict=True))]


def allowed(rate: float, draws: int) -> float:
    """Largest count that a rate of ``rate`` exceeds once in ten thousand times."""
    from scipy.stats import binom

    return float(binom.ppf(1 - 1e-4, draws, rate))


@pytest.mark.parametrize("noise", ["normal", "heavy", "skewed"])
@pytest.mark.parametrize("seeds", [5, 8])
def test_false_switches_stay_at_the_nominal_rate(noise: str, seeds: int) -> None:
    """With no true difference beyond what matters, a switch is a false one."""
    rng = np.random.default_rng(hash(noise) % 1000 + seeds)
    draw = {
        "normal": lambda: rng.normal(size=seeds),
        "heavy": lambda: rng.standard_t(3, size=seeds),
        "skewed": lambda: rng.lognormal(0, 0.5, size=seeds),
    }[noise]
    false = sum(
        decide(pairs_of(1 + 0.1 * draw(), 1 + 0.1 * draw()), 0.0).verdict is Verdict.SWITCH for _ in range(DRAWS)
    )
    assert false <= allowed(ALPHA, DRAWS)


def test_an_effect_exactly_at_the_least_that_matters_is_no_reason_to_switch() -> None:
    rng = np.random.default_rng(0)
    switches = 0
    for _ in range(DRAWS):
        common = rng.normal(size=5)
        current, challenger = (
            1.05 + 0.1 * common + 0.03 * rng.normal(size=5),
            1.0 + 0.1 * common + 0.03 * rng.normal(size=5),
        )
        switches += decide(pairs_of(current, challenger), 0.05).verdict is Verdict.SWITCH
    assert switches <= allowed(ALPHA, DRAWS)


def test_large_effects_are_found() -> None:
    """At three standard deviations of a difference the t-test on five seeds has a power of about 99.6%."""
    rng = np.random.default_rng(1)
    found = sum(
        decide([Pair(i, 1.0 + d, 1.0) for i, d in enumerate(0.3 + 0.1 * rng.normal(size=5))], 0.01).verdict
        is Verdict.SWITCH
        for _ in range(300)
    )
    assert found >= 280


def test_only_the_current_weights_die() -> None:
    five = [Pair(i, 2.3, 0.1, current_died=True) for i in range(5)]
    found = decide(five, 0.01)
    assert found.verdict is Verdict.SWITCH
    assert found.effect == math.inf
    assert found.p == pytest.approx(0.5**5)
    assert decide(five[:4], 0.01).verdict is Verdict.UNDECIDED


def test_a_challenger_that_dies_where_the_current_weights_live_is_never_chosen() -> None:
    pairs = [Pair(i, 2.3, 0.1) for i in range(7)] + [Pair(7, 2.3, 2.3, challenger_died=True)]
    assert decide(pairs, 0.01).verdict is Verdict.KEEP


def test_nothing_finished_is_undecided_and_all_dead_is_kept() -> None:
    assert decide([], 0.1).verdict is Verdict.UNDECIDED
    dead = [Pair(i, 2.3, 2.3, current_died=True, challenger_died=True) for i in range(5)]
    assert decide(dead, 0.1).verdict is Verdict.KEEP


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)), min_size=2, max_size=9),
    st.floats(0, 0.5),
    st.floats(-3, 3),
)
def test_a_verdict_agrees_with_its_interval_and_does_not_depend_on_the_level(
    values: list[tuple[float, float]], smallest: float, shift: float
) -> None:
    found = decide([Pair(i, a, b) for i, (a, b) in enumerate(values)], smallest)
    moved = decide([Pair(i, a + shift, b + shift) for i, (a, b) in enumerate(values)], smallest)
    assert found.effect == pytest.approx(moved.effect, abs=1e-9)
    low, high = found.interval
    assert low <= found.effect <= high
    if found.verdict is Verdict.SWITCH:
        assert low >= smallest - 1e-9
    if found.verdict is Verdict.UNDECIDED:
        assert low <= smallest + 1e-9
        assert found.effect > smallest


def test_the_least_effect_that_matters_scales_with_the_loss() -> None:
    assert smallest_effect(2.0, 2.3) == pytest.approx(0.02)
    assert smallest_effect(0.0, 2.3) == pytest.approx(0.0023)
    assert smallest_effect(-4.0, -1.0) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("horizon", "full", "short"),
    [(1, 400, True), (9, None, True), (19, 400, True), (20, 400, False), (10, None, False)],
)
def test_keep_is_not_said_of_trainings_that_hardly_began(horizon: int, full: int | None, short: bool) -> None:
    assert too_short_to_keep(horizon, full) is short


def by_fold(rng: np.random.Generator, seeds: int, folds: int, sd: tuple[float, float]) -> list[Pair]:
    """Differences with a part for the draw and one for the rows it was scored on; none is true."""
    of_seed, of_rows = sd
    rows = of_rows * rng.normal(size=folds)
    return [
        Pair(i, 1 + of_seed * float(rng.normal()) + float(rows[i % folds]), 1.0, fold=i % folds) for i in range(seeds)
    ]


def test_seeds_that_share_rows_are_no_more_evidence_than_the_rows() -> None:
    """Eight seeds on two folds of rows that differ by chance: taken for eight, they switch far too often."""
    rng = np.random.default_rng(0)
    tables = [by_fold(rng, 8, 2, (0.001, 0.1)) for _ in range(DRAWS)]
    blind = sum(decide([replace(p, fold=None) for p in t], 0.0).verdict is Verdict.SWITCH for t in tables)
    seeing = sum(decide(t, 0.0).verdict is Verdict.SWITCH for t in tables)
    assert blind > 3 * ALPHA * DRAWS
    assert seeing <= allowed(ALPHA, DRAWS)
