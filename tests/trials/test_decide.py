from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.trials.decide import ALPHA, Pair, decide, look, smallest_effect, too_short_to_keep
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


@pytest.mark.parametrize("noise", ["normal", "heavy"])
@pytest.mark.parametrize(("first", "planned"), [(3, 5), (4, 8)])
def test_looking_twice_keeps_the_rate_of_false_switches(noise: str, first: int, planned: int) -> None:
    """The whole procedure as the race runs it, on made-up tables without a true difference."""
    rng = np.random.default_rng(first)
    false = early = 0
    for _ in range(DRAWS):
        draw = rng.normal(size=(2, planned)) if noise == "normal" else rng.standard_t(3, size=(2, planned))
        pairs = pairs_of(*(1 + 0.1 * draw))
        finding, final = look(pairs[:first], 0.0, first=first, planned=planned)
        early += final
        if not final:
            finding, final = look(pairs, 0.0, first=first, planned=planned)
        assert final
        false += finding.verdict is Verdict.SWITCH
    assert false <= allowed(ALPHA, DRAWS)
    assert early > DRAWS / 3, "half of the time nothing speaks for the challenger, and that is soon seen"


def test_clear_effects_are_settled_at_the_first_look() -> None:
    rng = np.random.default_rng(2)
    settled = 0
    for _ in range(200):
        pairs = pairs_of(2.3 + 0.01 * rng.normal(size=3), 0.15 + 0.02 * rng.normal(size=3))
        finding, final = look(pairs, 0.02, first=3, planned=5)
        settled += final and finding.verdict is Verdict.SWITCH
        assert finding.p <= 1
    assert settled == 200


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
        assert found.effect > 0


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


def crossed(rng: np.random.Generator, seeds: int, parts: int, sd: tuple[float, float, float]) -> list[Pair]:
    """Differences with a part for the seed, one for the rows (alike for all seeds) and one for both; none is true."""
    of_seed, of_rows, of_both = sd
    table = (
        of_seed * rng.normal(size=(seeds, 1))
        + of_rows * rng.normal(size=(1, parts))
        + of_both * rng.normal(size=(seeds, parts))
    )
    return [Pair(i, 1.0 + float(row.mean()), 1.0, parts=tuple(map(float, row))) for i, row in enumerate(table)]


@pytest.mark.parametrize("sd", [(0.1, 0.0, 0.1), (0.02, 0.1, 0.0), (0.05, 0.1, 0.2), (0.0, 0.1, 0.0)])
@pytest.mark.parametrize(("first", "planned"), [(3, 5), (4, 8)])
def test_the_rows_that_happen_to_be_held_out_cause_no_false_switch(
    sd: tuple[float, float, float], first: int, planned: int
) -> None:
    """Another draw of rows is part of the chance: over draws of both, the rate of false switches is the nominal one."""
    rng = np.random.default_rng(planned)
    parts = 12
    false = 0
    for _ in range(DRAWS):
        pairs = crossed(rng, planned, parts, sd)
        finding, final = look(pairs[:first], 0.0, [8] * parts, first=first, planned=planned)
        if not final:
            finding, _ = look(pairs, 0.0, [8] * parts, first=first, planned=planned)
        false += finding.verdict is Verdict.SWITCH
    assert false <= allowed(ALPHA, DRAWS)


def test_seeds_alone_would_take_a_lucky_choice_of_rows_for_an_effect() -> None:
    """What the error over rows is for: without it, half of all such tables end in a switch."""
    rng = np.random.default_rng(0)
    blind = sum(decide(crossed(rng, 5, 12, (0.005, 0.1, 0.0)), 0.0).verdict is Verdict.SWITCH for _ in range(DRAWS))
    assert blind > DRAWS / 4


def test_an_effect_that_all_rows_share_is_found_as_before() -> None:
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        pairs = [
            Pair(p.seed, p.current + 0.1, 1.0, parts=tuple(x + 0.1 for x in p.parts))
            for p in crossed(rng, 5, 12, (0.02, 0.05, 0.05))
        ]
        found += decide(pairs, 0.01, weights=[8] * 12).verdict is Verdict.SWITCH
    assert found > 180


def test_uneven_parts_weigh_by_their_rows() -> None:
    rng = np.random.default_rng(2)
    weights = [1, 1, 1, 1, 20, 20, 20, 20]
    false = 0
    for _ in range(DRAWS):
        # A part of few rows scatters more.
        table = rng.normal(size=(1, 8)) / np.sqrt(weights) + 0.05 * rng.normal(size=(5, 1))
        means = np.average(np.broadcast_to(table, (5, 8)), axis=1, weights=weights)
        pairs = [
            Pair(i, 1 + float(m), 1.0, parts=tuple(row)) for i, (m, row) in enumerate(zip(means, table, strict=True))
        ]
        false += decide(pairs, 0.0, weights=weights).verdict is Verdict.SWITCH
    # Four parts carry nearly all rows, so that the degrees of freedom are counted too high: up to twice the rate.
    assert false <= allowed(2 * ALPHA, DRAWS)
