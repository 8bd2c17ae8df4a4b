"""Odds of early views: finite for anything, monotone where they must be, and nothing where nothing was seen."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.trials.odds import Odds, View, action, no_trial, odds
from initadvisor.trials.rates import choose_rate

anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
losses = st.lists(anything, min_size=0, max_size=6).map(tuple)
positive = st.floats(1e-8, 1e8)
views = st.builds(
    View,
    candidate=losses,
    current=losses,
    steps=st.integers(-1, 10**7),
    full_steps=st.none() | st.integers(-1, 10**8),
    initial=anything,
    noise=anything,
    seeds=st.integers(0, 9),
    place=st.integers(-1, 60),
    candidate_dead=st.integers(0, 9),
    current_dead=st.integers(0, 9),
)
sound = st.builds(
    View,
    candidate=st.tuples(positive, positive),
    current=st.tuples(positive, positive),
    steps=st.integers(1, 10**6),
    full_steps=st.none() | st.integers(10, 10**6),
    initial=positive,
    noise=st.floats(0, 10),
    seeds=st.integers(1, 7),
    place=st.integers(-1, 30),
)


@settings(max_examples=300)
@given(views)
def test_odds_are_odds_whatever_was_seen(view: View) -> None:
    found = odds(view)
    assert all(map(math.isfinite, astuple(found)))
    assert 0 <= found.better <= 1 and 0 <= found.worse <= 1 and found.better + found.worse <= 1 + 1e-9
    assert -1 <= found.low <= found.high <= 1 and found.low <= found.gain <= found.high
    assert action(found) in ("switch", "keep", "undecided")


@settings(max_examples=200)
@given(sound, st.floats(1e-4, 0.99))
def test_a_larger_lead_is_never_worth_less(view: View, factor: float) -> None:
    ahead = replace(view, candidate=tuple(x * factor for x in view.candidate))
    assert odds(ahead).better >= odds(view).better - 1e-12


@settings(max_examples=200)
@given(sound, st.floats(0.01, 1e6))
def test_noise_leads_back_to_what_the_rules_say(view: View, more: float) -> None:
    """Between the odds without noise and those of no lead at all."""
    nothing = odds(replace(view, noise=1e300)).better
    before, after = odds(view).better, odds(replace(view, noise=view.noise + more)).better
    assert abs(after - nothing) <= abs(before - nothing) + 1e-9


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5).map(tuple), st.integers(0, 20))
def test_the_same_curve_promises_nothing(curve: tuple[float, ...], place: int) -> None:
    found = odds(View(curve, curve, 40, 1000, curve[0], place=place))
    assert abs(found.gain) < 0.1 and found.worse < 0.5 and abs(found.better - 0.5) < 0.2


def test_negative_losses_are_compared_by_what_was_gained() -> None:
    ahead = odds(View((-1.0, -8.0), (-1.0, -5.0), 100, 1000, -1.0))
    assert ahead.better > 0.7 and odds(View((-1.0, -5.0), (-1.0, -8.0), 100, 1000, -1.0)).better < 0.4


@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_runs_that_break_down_count(seeds: int) -> None:
    whole = View((2.0, 1.0), (2.0, 1.5), 100, 1000, 2.0, seeds=seeds)
    some = replace(whole, candidate_dead=1)
    assert odds(some).better < odds(whole).better and odds(some).worse > odds(whole).worse
    all_dead = replace(whole, candidate=(math.nan, math.nan), candidate_dead=seeds)
    assert odds(all_dead).better < 0.3 and odds(all_dead).gain < 0
    current_dead = replace(whole, current_dead=seeds)
    assert odds(current_dead).better > odds(whole).better


def test_rules_alone_have_odds() -> None:
    assert no_trial(0).better > no_trial(9).better
    assert no_trial(0, "no such kind") == no_trial(0)
    assert no_trial(-1, "transformer") != no_trial(-1)


def test_a_change_that_promises_nothing_is_not_advised() -> None:
    assert action(Odds(0.6, 0.1, 0.004, -0.1, 0.1)) == "keep"
    assert action(Odds(0.6, 0.1, 0.04, -0.1, 0.1), least=0.05) == "keep"
    assert action(Odds(0.9, 0.02, 0.3, 0.1, 0.5)) == "switch"
    assert action(Odds(0.55, 0.45, 0.1, -1, 0.9)) == "undecided"


@given(st.dictionaries(st.floats(1e-6, 10), anything, min_size=1, max_size=6), st.integers(0, 10**6), anything)
def test_a_rate_is_always_chosen(scores: dict[float, float], steps: int, noise: float) -> None:
    rate = choose_rate(scores, steps=steps, full_steps=1000, noise=noise)
    assert rate in scores
    if any(map(math.isfinite, scores.values())):
        assert math.isfinite(scores[rate])
