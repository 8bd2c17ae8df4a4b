from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from fakes import SPEC, Fill, blobs, current, tanh_mlp, xavier
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.trials.budget import Plan, plan_for_steps
from initadvisor.trials.clock import HARD_STOP, Pace
from initadvisor.trials.engine import Engine
from initadvisor.trials.progress import Progress
from initadvisor.trials.race import run_race
from initadvisor.trials.task import make_task

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
    pace = Pace(start, step, evaluation)

    def make(steps: int) -> Plan:
        return plan_for_steps(steps, candidates=candidates, rates=3, length=length)

    plan = pace.fit(seconds, make)
    assert pace.seconds(plan) <= seconds or plan == make(1), "only what no plan can do without may exceed it"
    slower = replace(pace, step=2 * step).fit(seconds, make)
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

    monkeypatch.setattr("initadvisor.trials.engine.Engine._possible_workers", lambda self: 1)
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
        assert pace.step > 0
        assert pace.start > 0.02, "three matrices are drawn, 20 ms each"
        assert pace.evaluation > 0
        assert engine.started == 0, "members that set the pace are not the race's"


def test_members_that_all_die_at_once_leave_the_bare_step() -> None:
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.05, 0.2), steps=60)
    broken = Fill("broken", lambda p, g: p.fill_(torch.nan))
    with Engine(task, [current(), broken], SPEC, workers=1) as engine:
        engine.time_loop(1)
        assert engine.step_seconds is not None
        assert engine.pace(["broken"], 1).step == engine.step_seconds
