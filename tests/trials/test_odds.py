"""Odds of early views: finite for anything, monotone where they must be, and nothing where nothing was seen."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.trials.odds import Facts, Odds, View, action, artefact, no_trial, odds
from initadvisor.trials.rates import choose_rate, level_with, lowest_level
from initadvisor.trials.view import network_facts, seen

anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
losses = st.lists(anything, min_size=0, max_size=6).map(tuple)
positive = st.floats(1e-8, 1e8)
facts = st.builds(
    Facts, depth=st.none() | st.integers(-1, 10**4), normalised=st.none() | st.booleans(), residual=st.booleans()
)
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
    facts=facts,
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
    facts=facts,
)


@settings(max_examples=300)
@given(views)
def test_odds_are_odds_whatever_was_seen(view: View) -> None:
    found = odds(view)
    assert all(map(math.isfinite, astuple(found)))
    assert 0 <= found.better <= 1 and 0 <= found.worse <= 1 and found.better + found.worse <= 1 + 1e-9
    assert -1 <= found.low <= found.gain <= found.high <= 1
    assert action(found) in ("switch", "keep", "undecided")


@settings(max_examples=200)
@given(sound, st.floats(1e-4, 0.99))
def test_a_larger_lead_is_never_worth_less(view: View, factor: float) -> None:
    ahead = replace(view, candidate=tuple(x * factor for x in view.candidate))
    if view.current not in (view.candidate, ahead.candidate):  # equal curves are a case of their own
        assert odds(ahead).better >= odds(view).better - 1e-12


@settings(max_examples=200)
@given(sound, st.floats(0.01, 1e6))
def test_noise_leads_back_to_what_is_said_without_a_lead(view: View, more: float) -> None:
    nothing = odds(replace(view, noise=1e300)).better
    before, after = odds(view).better, odds(replace(view, noise=view.noise + more)).better
    assert abs(after - nothing) <= abs(before - nothing) + 1e-9


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5).map(tuple), st.integers(-1, 20), facts)
def test_the_same_curve_promises_nothing(curve: tuple[float, ...], place: int, known: Facts) -> None:
    found = odds(View(curve, curve, 40, 1000, curve[0], place=place, facts=known))
    assert found == Odds(0.5, 0.0, 0.0, 0.0, 0.0) and action(found) == "keep"


@given(sound, st.floats(1e-3, 1e3))
def test_units_of_the_loss_do_not_matter(view: View, unit: float) -> None:
    scaled = replace(
        view,
        candidate=tuple(unit * x for x in view.candidate),
        current=tuple(unit * x for x in view.current),
        initial=unit * view.initial,
        noise=unit * view.noise,
    )
    assert odds(scaled).better == pytest.approx(odds(view).better, abs=1e-6)


def test_negative_losses_are_compared_by_what_was_gained() -> None:
    ahead = View((-1.0, -8.0), (-1.0, -5.0), 100, 1000, -1.0)
    behind = View((-1.0, -5.0), (-1.0, -8.0), 100, 1000, -1.0)
    assert odds(ahead).better > 0.7 > 0.5 > odds(behind).better


@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_runs_that_break_down_count(seeds: int) -> None:
    whole = View((2.0, 1.0), (2.0, 1.5), 100, 1000, 2.0, seeds=seeds)
    some = replace(whole, candidate_dead=1)
    assert odds(some).better < odds(whole).better and odds(some).worse > odds(whole).worse
    all_dead = replace(whole, candidate=(math.nan, math.nan), candidate_dead=seeds)
    assert odds(all_dead).better < 0.3 and odds(all_dead).gain < 0
    current_dead = replace(whole, current_dead=seeds)
    assert odds(current_dead).better > odds(whole).better


def test_more_of_a_training_tells_more() -> None:
    """The same lead sets ahead and behind further apart late than early, and on more seeds than one."""

    def apart(**changes: int) -> float:
        ahead = View((2.0, 1.5), (2.0, 1.7), 20, 3000, 2.0)
        behind = replace(ahead, candidate=ahead.current, current=ahead.candidate)
        return odds(replace(ahead, **changes)).better - odds(replace(behind, **changes)).better

    assert 0 < apart() < apart(steps=1000)
    assert apart() < apart(seeds=5)
    assert seen(20, 3000) < seen(200, 3000) < seen(3000, 3000)
    assert seen(20, 10**6) < seen(20, 3000) < seen(20, 200)


def test_rules_alone_have_odds() -> None:
    assert no_trial(0).better > no_trial(9).better
    assert no_trial(0) == no_trial(0, Facts())
    deep, normed = Facts(20, normalised=False), Facts(20, normalised=True)
    assert no_trial(0, deep).better > no_trial(0, normed).better


def test_facts_are_read_from_the_spec() -> None:
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    assert network_facts(analyze(plain, (x, y))) == Facts(3, normalised=False, residual=False)
    assert network_facts(analyze(normed, (x, y))) == Facts(2, normalised=True, residual=False)


def test_a_change_that_promises_nothing_is_not_advised() -> None:
    most_worse, least_better = (artefact()["action"][name] for name in ("most_worse", "least_better"))
    good = Odds(0.9, 0.02, 0.3, 0.1, 0.5)
    assert action(good) == "switch"
    assert action(replace(good, gain=0.004)) == action(replace(good, gain=0.04), least=0.05) == "keep"
    assert action(replace(good, better=least_better - 0.01)) == "keep"
    assert action(replace(good, better=least_better, worse=most_worse)) == "switch"
    assert action(replace(good, better=least_better, worse=most_worse + 0.01)) == "undecided"


@given(st.dictionaries(st.floats(1e-6, 10), anything, min_size=1, max_size=6), st.integers(-1, 10**6), anything)
def test_a_rate_is_always_chosen(scores: dict[float, float], steps: int, noise: float) -> None:
    rate = choose_rate(scores, steps=steps, full_steps=1000, noise=noise)
    assert rate in scores
    if any(map(math.isfinite, scores.values())):
        assert math.isfinite(scores[rate])


def test_of_rates_that_are_level_the_lowest_is_taken() -> None:
    scores = {0.01: 0.52, 0.03: 0.50, 0.1: math.nan}
    assert lowest_level(scores, 0.05, 0.0) == 0.01
    assert lowest_level(scores, 0.0, 0.0) == lowest_level(scores, 0.0, 0.1) == 0.03
    assert lowest_level(scores, 0.01, 0.1) == 0.01  # noise widens what is level
    assert lowest_level({0.001: 0.5, 0.01: 0.5, 0.03: 0.5}, 0.05, 0.0) == 0.001  # the best of equal ones is the lowest
    assert lowest_level({0.001: 0.51, 0.01: 0.51, 0.03: 0.5}, 0.05, 0.0) == 0.01  # one step, no further
    with pytest.raises(ValueError, match="no learning rate"):
        choose_rate({}, steps=1, full_steps=None)


@given(st.integers(0, 10**6), st.none() | st.integers(1, 10**7))
def test_the_level_shrinks_to_nothing(steps: int, full_steps: int | None) -> None:
    level = level_with(0.01, 0.08, steps, full_steps)
    assert 0 <= level <= 0.08 + 1e-12
    if full_steps and steps >= full_steps / 2:
        assert level == 0
