from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from fakes import SPEC, Fill, blobs, current, tanh_mlp, xavier
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.training.engine.choice import Choice
from initadvisor.training.engine.engine import Engine
from initadvisor.training.engine.pace import WEAR
from initadvisor.training.engine.result import Status
from initadvisor.training.engine.stack import Batching
from initadvisor.training.task import make_task
from initadvisor.trials.budget import PLAY_OFF, Plan, plan_for_steps
from initadvisor.trials.clock import HARD_STOP, OutOfTimeError, PlanPace, Timekeeper
from initadvisor.trials.gate import gate
from initadvisor.trials.progress import Progress
from initadvisor.trials.race import run_race

SCHEMES = [current(), xavier("a"), xavier("b", 1.7), xavier("c", 0.5)]


@settings(deadline=None, max_examples=80)
@given(
    start=st.floats(0, 0.5),
    step=st.floats(1e-5, 0.1),
    evaluation=st.floats(0, 0.1),
    seconds=st.floats(1, 500),
    candidates=st.integers(1, 24),
    length=st.integers(30, 5000),
)
def test_a_plan_fits_into_the_seconds_it_was_made_for(
    start: float, step: float, evaluation: float, seconds: float, candidates: int, length: int
) -> None:
    pace = PlanPace(start, start / 2, evaluation, lambda members, seeds: step)

    def make(steps: int) -> Plan:
        return plan_for_steps(steps, candidates=candidates, rates=3, length=length)

    plan = pace.fit(seconds, make)
    assert pace.seconds(plan) <= seconds or plan == make(1), "only what no plan can do without may exceed it"
    slower = replace(pace, step=lambda members, seeds: 2 * step).fit(seconds, make)
    assert slower.steps <= plan.steps


@pytest.mark.parametrize("phase", ["rung", "confirm"])
def test_a_budget_in_seconds_ends_the_race_whatever_the_machine_does(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """A clock that leaps once a phase has begun: what was planned cannot be kept, and the race ends by itself."""
    now, jump, seconds = 0.0, 0.001, 30.0

    def leaping() -> float:
        nonlocal now
        now += jump
        return now

    def listen(event: Progress) -> None:
        nonlocal jump
        if event.phase == phase and event.done:
            jump = 4.0

    monkeypatch.setattr("initadvisor.training.engine.engine.Engine._possible_workers", lambda self: 1)
    monkeypatch.setattr(time, "perf_counter", leaping)
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.05, 0.2), steps=60)
    result = run_race(task, SCHEMES, SPEC, budget=seconds, on_event=listen)
    assert any("was used up" in note for note in result.notes)
    assert result.decision.interrupted
    assert result.cost.seconds <= HARD_STOP * seconds + 10 * 4.0, "a group of trainings looks at the clock a few times"


def test_the_pace_holds_what_a_bare_step_leaves_out() -> None:
    def slow(tensor: torch.Tensor, generator: torch.Generator) -> None:
        time.sleep(0.02)
        torch.nn.init.xavier_normal_(tensor, generator=generator)

    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.05,), steps=60)
    with Engine(task, [current(), Fill("slow", slow)], SPEC, workers=1) as engine:
        engine.time_loop(1)
        pace = engine.pace(["slow"], 1)
        assert engine.step_seconds is not None
        assert pace.step(1, 1) == WEAR * engine.step_seconds
        assert pace.start > 0.02, "three matrices are drawn, 20 ms each"
        assert pace.evaluation > 0
        assert engine.started == 0, "members that set the pace are not the race's"


def test_members_that_all_die_at_once_leave_the_bare_step() -> None:
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.05, 0.2), steps=60)
    broken = Fill("broken", lambda p, g: p.fill_(torch.nan))
    with Engine(task, [current(), broken], SPEC, workers=1) as engine:
        engine.time_loop(1)
        assert engine.step_seconds is not None
        pace = engine.pace(["broken"], 1)
        assert pace.step(1, 1) == WEAR * engine.step_seconds
        assert pace.advance == 0.0


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(200, 200_000), candidates=st.integers(1, 24), length=st.integers(30, 3000))
def test_what_is_expected_of_a_plan_is_the_sum_of_its_parts(steps: int, candidates: int, length: int) -> None:
    plan = plan_for_steps(steps, candidates=candidates, rates=3, length=length)
    by_steps = PlanPace(0.0, 0.0, 0.0, lambda members, seeds: 1.0)
    assert by_steps.seconds(plan) == pytest.approx(plan.steps)
    for done in range(len(plan.rungs) + 1):
        assert by_steps.seconds(plan, done) == pytest.approx(plan.steps - plan.steps_to(done))
    starts = PlanPace(1.0, 0.0, 0.0, lambda members, seeds: 0.0).seconds(plan)
    refining = plan.refine * plan.draws + (PLAY_OFF * plan.play_off if plan.refine else 0)
    assert starts == pytest.approx(plan.rung_members + plan.confirm_members + refining)


def test_few_members_side_by_side_are_dearer_than_many() -> None:
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.05,), steps=60)
    with Engine(task, [current()], SPEC, workers=2) as engine:
        engine.step_seconds = 1.0
        assert engine.step_cost(1, 1) == WEAR * 1.0, "one process has nothing to do"
        assert engine.step_cost(8, 1) == WEAR * 0.5
        mixed = Batching(active=(), mixed=True, member_bytes=1)
        engine.choice = Choice(mixed, timed=((4, 1.2), (16, 1.6)), limit=64, looped=1.0)
        assert engine.step_cost(64, 8) == pytest.approx(WEAR * 0.1 / 2)
        assert engine.step_cost(8, 8) == pytest.approx(WEAR * 0.3 / 2)
        engine.choice = replace(engine.choice, batching=replace(mixed, mixed=False))
        assert engine.step_cost(64, 16) == pytest.approx(WEAR * 0.3 / 2), "seeds have stacks of their own"
        assert engine.step_cost(8, 8) == pytest.approx(WEAR * 1.0 / 2), "a stack of one is a loop"


def test_the_rest_is_planned_at_the_pace_of_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    plan = plan_for_steps(20_000, candidates=12, rates=2, length=1000)
    pace = PlanPace(0.0, 0.0, 0.0, lambda members, seeds: 0.001)

    def planned(slower: float) -> float:
        """Confirming steps after a first rung that took so many times as long as expected."""
        nonlocal now
        now = 0.0
        clock = Timekeeper(40.0, lambda: 1)
        clock.pace = pace
        with clock.rung(plan, 0):
            now += slower * (pace.seconds(plan) - pace.seconds(plan, 1))
        again = clock.refitted(plan, 1)
        assert slower * pace.seconds(again, 1) <= clock.left
        assert again.rungs[0] == plan.rungs[0]
        return again.confirm_steps

    assert planned(1.0) > planned(2.0) > planned(3.0)
    assert planned(0.5) >= planned(1.0)


def test_confirming_more_has_to_fit_into_the_seconds_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    plan = plan_for_steps(20_000, candidates=12, rates=2, length=1000)
    clock, free = Timekeeper(10.0, lambda: 1), Timekeeper(None, lambda: 1)
    clock.pace = PlanPace(0.0, 0.0, 0.0, lambda members, seeds: 0.001)
    needed = 8 * plan.confirm_steps * 0.001
    now = 10.0 - needed - 0.1
    assert clock.affords(plan, 8, 4)
    now += 0.2
    assert not clock.affords(plan, 8, 4)
    assert free.affords(plan, 8, 4)
    now = HARD_STOP * 10.0 + 0.1
    free.check()
    with pytest.raises(OutOfTimeError):
        clock.check()


def test_rungs_taken_over_from_a_study_do_not_make_the_rest_look_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A race that goes on has no pace of its own; what it finds trained takes no time."""
    now, steps = 0.0, 1000
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    plan = plan_for_steps(20_000, candidates=12, rates=2, length=1000)
    clock = Timekeeper(40.0, lambda: steps)
    now = 10.0  # ten seconds for a thousand steps
    with clock.rung(plan, 0):
        now += 0.01
    left = clock.refitted(plan, 1)
    assert 0.01 * (left.steps - left.steps_to(1)) <= clock.left * 1.01


def test_what_takes_long_to_draw_is_left_out_of_a_short_race() -> None:
    def slow(tensor: torch.Tensor, generator: torch.Generator) -> None:
        time.sleep(0.05)
        torch.nn.init.xavier_normal_(tensor, generator=generator)

    dear = []
    for name in ("first", "second"):
        scheme = Fill(name, slow)
        scheme.calibrations = ("measures",)
        dear.append(scheme)
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.05,), steps=60)
    everything = [current(), *dear, xavier("cheap")]
    assert [p.scheme for p in gate(task, everything, 1, seconds=0.1)] == ["current", "first", "cheap"]
    assert len(gate(task, everything, 1)) == 4
    result = run_race(task, everything, SPEC, budget=1.0)
    (left,) = [entry for entry in result.ranking if entry.scheme == "second"]
    assert left.status is Status.PRUNED
    assert "budget" in left.why
