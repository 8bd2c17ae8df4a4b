from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.errors import InputError
from initadvisor.trials.plan import (
    FIRST_RUNG,
    SHORTEST_RUNG,
    WORDS,
    Plan,
    Prices,
    Rung,
    Terms,
    make_plan,
    next_rung,
    read_budget,
    total,
)

SCHEMES, RATES = st.integers(2, 25), st.integers(1, 5)
LENGTHS = st.integers(20, 50_000)


def spent_by(plan: Plan) -> float:
    return total(plan.rungs, Prices())


@given(SCHEMES, RATES, LENGTHS, st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_money_is_used_and_never_exceeded(schemes: int, rates: int, length: int, size: float) -> None:
    """From 20 steps to 100 trainings, whatever the candidates, rates and lengths."""
    money = round(20 * (100 * length / 20) ** size)
    plan = make_plan(money, schemes=schemes, rates=rates, length=length)
    assert spent_by(plan) <= money
    assert plan.schemes <= schemes
    assert plan.rates <= rates
    if not plan.reaches:
        # Where the race does not get to the full training, all of the money is in it.
        assert spent_by(plan) >= 0.9 * money
    assert all(r.steps <= length and r.arms >= 2 for r in plan.rungs)
    assert [r.steps for r in plan.rungs] == sorted(r.steps for r in plan.rungs)
    assert [r.arms for r in plan.rungs] == sorted((r.arms for r in plan.rungs), reverse=True)


@given(SCHEMES, RATES, st.integers(200, 50_000), st.integers(1, 5000))
@settings(max_examples=200, deadline=None)
def test_no_horizon_is_compared_that_can_tell_nothing(schemes: int, rates: int, length: int, money: int) -> None:
    """Fewer rates, then fewer schemes, then two, then none."""
    plan = make_plan(money, schemes=schemes, rates=rates, length=length)
    if not plan.rungs:
        assert money < 2 * SHORTEST_RUNG
        return
    assert plan.rungs[0].steps >= SHORTEST_RUNG
    if plan.arms > 2:
        assert plan.rungs[0].steps >= FIRST_RUNG
    if plan.rates < rates and plan.schemes > 2:
        # Another rate would not have left the better part anything to go on with.
        more = Rung(FIRST_RUNG, plan.schemes * (plan.rates + 1)).cost(Prices(), None)
        assert more > 0.5 * money


@given(SCHEMES, RATES, LENGTHS, st.integers(40, 10**6), st.floats(1.0, 4.0))
@settings(max_examples=100, deadline=None)
def test_more_money_never_brings_less(schemes: int, rates: int, length: int, money: int, factor: float) -> None:
    less = make_plan(money, schemes=schemes, rates=rates, length=length)
    more = make_plan(money * factor, schemes=schemes, rates=rates, length=length)
    assert more.arms >= less.arms or more.rungs[-1].steps >= less.rungs[-1].steps


@given(
    st.integers(2, 64),
    st.integers(1, 4),
    st.integers(10, 2000),
    st.floats(0, 1e5),
    st.integers(20, 5000),
    st.floats(0.5, 0.95),
)
@settings(max_examples=300, deadline=None)
def test_a_rung_goes_on_from_the_one_before(
    arms: int, seeds: int, steps: int, money: float, length: int, keep: float
) -> None:
    before = Rung(min(steps, length), arms, seeds)
    rung = next_rung(before, money, Terms(length, keep))
    if rung is None:
        assert before.steps >= length or money < 2 * seeds
        return
    assert rung.cost(Prices(), before) <= money
    assert before.steps <= rung.steps <= length
    assert 2 <= rung.arms <= max(2, before.arms)
    assert (rung.steps, rung.seeds) > (before.steps, before.seeds) or rung.seeds > before.seeds


def test_seconds_pay_for_beginning_and_going_on() -> None:
    prices = Prices(lambda runs: 0.1 / min(runs, 4), begin=1.0, resume=0.5)
    plan = make_plan(60.0, schemes=8, rates=1, length=2000, prices=prices, in_seconds=True)
    assert 0.9 * 60 <= total(plan.rungs, prices) <= 60
    free = make_plan(60.0, schemes=8, rates=1, length=2000, prices=Prices(prices.step), in_seconds=True)
    assert free.rungs[-1].steps > plan.rungs[-1].steps


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(("full", "speed"), [(20_000, 0.5), (2000, 50.0), (400, 5000.0), (100, 1e6)])
def test_a_word_is_a_share_of_one_training_or_what_its_seconds_buy(word: str, full: int, speed: float) -> None:
    terms, steps = WORDS[word], read_budget(word).in_steps(full, speed)
    assert steps >= math.ceil(terms.share * full)
    assert steps <= max(math.ceil(terms.share * full), terms.trainings * full, 2 * FIRST_RUNG)
    assert steps <= max(math.ceil(terms.share * full), terms.seconds * speed, 2 * FIRST_RUNG)
    # What seconds buy is halved until it fits, so at least half of it is used.
    assert steps >= min(terms.trainings * full, terms.seconds * speed) / 2 - 1


def test_an_unknown_length_is_assumed_by_what_the_money_buys() -> None:
    budget = read_budget(60.0)
    assert budget.length(None, 1.0) == 400
    assert budget.length(None, 1e4) == 12_800
    assert budget.length(700, 1e4) == 700


@pytest.mark.parametrize("bad", ["quick", 0, -3, 0.0, math.nan, math.inf, True, None])
def test_a_budget_that_is_none_is_refused_in_one_line(bad: object) -> None:
    with pytest.raises(InputError, match="budget=") as caught:
        read_budget(bad)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_steps_that_were_not_timed_yet_have_no_price() -> None:
    """A race that goes on from a stored study may plan before anything was timed."""
    free = Prices(lambda runs: 0.0, begin=1.0)
    assert free.affordable(10.0, 2, 2) > 0
    assert free.affordable(1.0, 2, 2) == 0
    assert make_plan(60.0, schemes=4, rates=1, length=400, prices=free, in_seconds=True).rungs[-1].steps == 400
