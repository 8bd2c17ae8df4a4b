from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.errors import InputError
from initadvisor.trials.budget import LEVELS, PATIENCE, build_plan, plan_for_steps, read_budget, refit

shapes = {"candidates": st.integers(1, 24), "rates": st.integers(1, 5), "length": st.integers(30, 20_000)}


@settings(deadline=None, max_examples=150)
@given(limit=st.integers(30, 2_000_000), **shapes)
def test_a_number_of_model_steps_is_kept_and_used(limit: int, candidates: int, rates: int, length: int) -> None:
    plan = plan_for_steps(limit, candidates=candidates, rates=rates, length=length)
    assert plan.steps <= limit
    horizons = [r.steps for r in plan.rungs]
    assert horizons == sorted(set(horizons))
    assert plan.confirm_steps >= horizons[-1]
    assert plan.confirm_steps <= length
    assert plan.candidates >= min(candidates, 3 if limit > 300 else 1)


@pytest.mark.parametrize("limit", [1, 30, 500, 100_000])
def test_the_current_weights_run_where_no_challenger_is_left(limit: int) -> None:
    plan = plan_for_steps(limit, candidates=0, rates=3, length=200)
    assert plan.candidates == 0
    assert plan.rungs


@settings(deadline=None, max_examples=100)
@given(limit=st.integers(20_000, 400_000), **shapes)
def test_what_can_be_used_of_a_budget_is_used(limit: int, candidates: int, rates: int, length: int) -> None:
    """Unless everything is trained in full already, at least 80% goes into the plan: the levels' steps are coarse."""
    plan = plan_for_steps(limit, candidates=candidates, rates=rates, length=length)
    in_full = plan.confirm_steps == length and plan.rungs[-1].steps == length
    assert in_full or plan.steps >= 0.8 * limit


def test_words_give_the_same_plan_on_machines_of_about_the_same_speed() -> None:
    budget = read_budget("standard")
    plans = {
        budget.plan(candidates=16, rates=3, full_steps=400, rate=rate) for rate in (300.0, 400.0, 1000.0, 1e5, None)
    }
    assert len(plans) == 1
    slow = budget.plan(candidates=16, rates=3, full_steps=400, rate=10.0)
    assert slow.steps <= PATIENCE["standard"] * 10.0


def test_the_standard_plan_costs_about_a_tenth_of_the_sweep() -> None:
    """A little more with few candidates and where it takes all seeds, and other rates, to settle it."""
    for candidates, rates, length in ((16, 3, 400), (20, 4, 1000), (12, 3, 2000), (24, 3, 150), (20, 3, 120)):
        plan = read_budget("standard").plan(candidates=candidates, rates=rates, full_steps=length, rate=None)
        assert plan.steps <= 0.17 * plan.sweep
        saved = (plan.confirm_members - 2 * plan.first_look) * plan.confirm_steps
        assert plan.steps - saved <= 0.10 * plan.sweep


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0.2, 3.0), done=st.integers(0, 3))
def test_a_refitted_plan_keeps_what_is_done_and_fits_what_is_left(share: float, done: int) -> None:
    plan = read_budget("thorough").plan(candidates=12, rates=3, full_steps=3000, rate=None)
    left = plan.steps - plan.steps_to(done)
    again = refit(plan, done, lambda other: other.steps - plan.steps_to(done) <= left * share)
    assert again.rungs[:done] == plan.rungs[:done]
    floor = plan.rungs[done - 1].steps if done else 0
    # The confirmation is never shorter than what the rungs have seen.
    assert again.steps - plan.steps_to(done) <= max(left * share, (plan.confirm_members + 12 * 3) * floor) * 1.01
    assert again.confirm_steps >= again.rungs[-1].steps


@pytest.mark.parametrize("bad", ["quick", 0, -3, 0.0, float("inf"), True, None])
def test_bad_budgets(bad: object) -> None:
    with pytest.raises(InputError, match="budget="):
        read_budget(bad)


def test_every_level_has_its_patience() -> None:
    assert set(LEVELS) == set(PATIENCE)


@pytest.mark.parametrize("level", LEVELS)
def test_rates_are_compared_on_seeds_that_the_first_look_has_seen(level: str) -> None:
    """The compared rate is trained on no other for sure; and what that costs is in the plan."""
    plan = read_budget(level).plan(candidates=12, rates=3, full_steps=3000, rate=None)
    assert 1 <= plan.rate_seeds <= plan.first_look
    fewer = replace(plan, control_rates=1)
    assert plan.steps - fewer.steps == (plan.control_rates - 1) * plan.rate_seeds * plan.confirm_steps


def test_a_thorough_race_keeps_every_rate_of_the_current_weights() -> None:
    """What it takes is in the plan: one rate more than of each challenger, in every rung after the first."""
    plan = read_budget("thorough").plan(candidates=12, rates=3, full_steps=3000, rate=None)
    assert [r.control_rates for r in plan.rungs] == [3] * len(plan.rungs)
    fewer = replace(plan, rungs=tuple(replace(r, control_rates=2) for r in plan.rungs))
    assert plan.steps - fewer.steps == plan.draws * (plan.rungs[-1].steps - plan.rungs[0].steps)
    assert all(
        r.control_rates == 2 for r in build_plan(LEVELS["thorough"], 1.0, candidates=9, rates=2, length=90).rungs
    )
