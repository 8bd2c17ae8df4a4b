from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import blobs, tanh_mlp

import initadvisor.trials.plan as plan_module
from initadvisor.graph.analyze import analyze
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Calibration, SchemeKind
from initadvisor.training.task import TrainingTask, make_task
from initadvisor.trials.refine import HIGHEST, LOWEST, refinable, refined
from initadvisor.trials.result import RaceResult
from initadvisor.trials.run import run_race
from initadvisor.trials.study import StudyLog
from initadvisor.types import CURRENT


def task_of() -> TrainingTask:
    return make_task(tanh_mlp(depth=4, scale=0.05), blobs(), optimizer=torch.optim.SGD, lr=0.05, steps=40)


def candidates(task: TrainingTask) -> tuple[Scheme, ...]:
    spec = analyze(task.model, task.sample)
    found = propose_from_spec(spec, task.model, task.sample)
    plain = [s for s in found if s.kind is SchemeKind.RULES and not s.calibrations]
    return (next(s for s in found if s.name == CURRENT), *plain[:3])


def race(url: str | None = None) -> RaceResult:
    task = task_of()
    spec = analyze(task.model, task.sample)
    return run_race(task, candidates(task), spec, budget=3200, study=StudyLog(url))


def test_multipliers_scale_what_is_drawn_and_nothing_else() -> None:
    task = task_of()
    spec = analyze(task.model, task.sample)
    leader = candidates(task)[1]
    assert refinable(leader, spec) == ("first", "hidden", "output")
    variant = refined(leader, spec, {"hidden": 2.0, "output": 0.5}, 1)
    plain, scaled = task.member(), task.member()
    leader.apply(plain, seed=3)
    variant.apply(scaled, seed=3)
    factors = {"0.weight": 1.0, "2.weight": 2.0, "4.weight": 2.0, "6.weight": 0.5}
    for name, p in plain.named_parameters():
        torch.testing.assert_close(dict(scaled.named_parameters())[name], p * factors.get(name, 1.0))
    assert variant.kind is SchemeKind.REFINED
    assert any("found by search" in r for r in variant.reasons)


def test_what_rescales_itself_or_fills_nothing_is_not_refined() -> None:
    task = task_of()
    spec = analyze(task.model, task.sample)
    current, leader, *_ = candidates(task)
    assert refinable(current, spec) == ()
    assert refinable(replace(leader, calibrations=(Calibration("lsuv"),)), spec) == ()


@pytest.fixture
def refining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refinement from a budget on that a test can pay."""
    monkeypatch.setattr(plan_module, "REFINE_FROM", 5.0)


def test_where_the_leader_has_no_gains_the_next_one_that_has_is_refined(refining: None) -> None:
    task = task_of()
    spec = analyze(task.model, task.sample)
    current, plain, *_ = candidates(task)
    calibrated = replace(plain, name="calibrated", calibrations=(Calibration("lsuv"),), prior=9.0)
    smaller = [replace(refined(plain, spec, {"hidden": g}, 1), name=f"{g:g}", prior=g) for g in (0.3, 0.2, 0.15, 0.1)]
    result = run_race(task, (current, calibrated, *smaller), spec, budget=1200)
    assert next(e.scheme for e in result.ranking if e.scheme != CURRENT and "×" not in e.scheme) == "calibrated"
    assert result.refined
    assert {s.name.split("×")[0] for s in result.refined} <= {"0.3", "0.2", "0.15", "0.1"}


def test_a_race_refines_its_leader_and_a_resumed_one_does_not_again(refining: None, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    first = race(url)
    assert len(first.refined) >= 3
    tried = [t for t in first.trials if t.phase == "refine"]
    assert {t.scheme for t in tried} == {s.name for s in first.refined}
    assert {e.scheme for e in first.ranking} >= {s.name for s in first.refined}
    gains = [p.fill.gain for s in first.refined for a in s.assignments for p in a.parts]
    base = next(s for s in candidates(task_of()) if first.refined[0].name.startswith(s.name))
    plain = [p.fill.gain for _ in first.refined for a in base.assignments for p in a.parts]
    ratios = {round(g / b, 6) for g, b in zip(gains, plain, strict=True) if b}
    assert len(ratios) >= 3
    assert all(LOWEST <= r <= HIGHEST for r in ratios)
    second = race(url)
    assert second.decision == first.decision
    assert second.refined == first.refined
    assert second.cost.members == 0
