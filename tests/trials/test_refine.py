from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import blobs, tanh_mlp

import initadvisor.trials.budget as budget_module
from initadvisor.graph.analyze import analyze
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Calibration, SchemeKind
from initadvisor.training.engine.result import Status
from initadvisor.training.task import TrainingTask, make_task
from initadvisor.trials.budget import Rung
from initadvisor.trials.race import run_race
from initadvisor.trials.refine import HIGHEST, LOWEST, refinable, refined
from initadvisor.trials.result import RaceResult
from initadvisor.trials.standings import Contest, Standing
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
    return run_race(task, candidates(task), spec, budget="fast", study=StudyLog(url))


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


def test_where_the_leader_has_no_gains_the_next_one_that_has_is_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budget_module.LEVELS, "fast", replace(budget_module.LEVELS["fast"], refine=2))
    task = task_of()
    spec = analyze(task.model, task.sample)
    current, plain, *_ = candidates(task)
    calibrated = replace(plain, name="calibrated", calibrations=(Calibration("lsuv"),))
    smaller = [replace(refined(plain, spec, {"hidden": g}, 1), name=f"{g:g}") for g in (0.3, 0.2, 0.15, 0.1)]
    result = run_race(task, (current, calibrated, *smaller), spec, budget="fast")
    assert next(e.scheme for e in result.ranking if e.scheme != CURRENT and "×" not in e.scheme) == "calibrated"
    assert [s.name for s in result.refined] == ["0.3×1", "0.3×2"]


def test_a_race_refines_its_leader_and_a_resumed_one_does_not_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(budget_module.LEVELS, "fast", replace(budget_module.LEVELS["fast"], refine=6))
    url = f"sqlite:///{tmp_path / 'study.db'}"
    first = race(url)
    assert len(first.refined) == 6
    tried = [t for t in first.trials if t.phase == "refine"]
    assert {t.scheme for t in tried} == {s.name for s in first.refined}
    assert {e.scheme for e in first.ranking} >= {s.name for s in first.refined}
    gains = [p.fill.gain for s in first.refined for a in s.assignments for p in a.parts]
    base = next(s for s in candidates(task_of()) if first.refined[0].name.startswith(s.name))
    plain = [p.fill.gain for _ in first.refined for a in base.assignments for p in a.parts]
    ratios = {round(g / b, 6) for g, b in zip(gains, plain, strict=True) if b}
    assert len(ratios) > 6
    assert all(LOWEST <= r <= HIGHEST for r in ratios)
    second = race(url)
    assert second.decision == first.decision
    assert second.refined == first.refined
    assert second.cost.members == 0


def at(scheme: str, score: float, draws: int = 3, lr: float = 0.1) -> Standing:
    return Standing(scheme, lr, score, score, 0.0, 50, draws)


def contest_of(*standings: Standing) -> Contest:
    return Contest(alive=[(s.scheme, s.lr) for s in standings], latest={(s.scheme, s.lr): s for s in standings})


def test_the_best_variants_meet_the_best_that_is_none() -> None:
    variants = {"a×1", "a×2", "a×3", "a×4"}
    found = contest_of(
        at(CURRENT, 0.1),
        at("a", 0.5),
        at("a", 0.55, lr=0.3),
        at("b", 0.45),
        *(at(f"a×{i}", 0.5 - i / 10) for i in (1, 2, 3)),
    )
    assert [s.scheme for s in found.contenders(variants, 3)] == ["a×3", "a×2", "b"]
    assert [s.scheme for s in found.contenders(variants, 9)] == ["a×3", "a×2", "a×1", "b"]
    assert contest_of(at(CURRENT, 0.1), at("a", 0.3), at("a×1", 0.4)).contenders(variants, 3) == []


def test_a_variant_that_was_lucky_is_not_put_forward() -> None:
    """Further draws cost the two best their lead; the third, with the few draws that flatter it, does not inherit."""
    found = contest_of(at(CURRENT, 1.0), at("a", 0.50), at("a×1", 0.30), at("a×2", 0.31), at("a×3", 0.32))
    for scheme, score in (("a×1", 0.6), ("a×2", 0.7), ("a", 0.51)):
        found.update(at(scheme, score, draws=6))
    assert [s.scheme for s in found.challengers()] == ["a", "a×1", "a×2", "a×3"]
    finalists = found.finalists()
    assert finalists is not None
    assert finalists[1].scheme == "a"


def test_a_variant_that_dies_on_a_further_draw_leaves() -> None:
    found = contest_of(at(CURRENT, 1.0), at("a", 0.50), at("a×1", 0.30))
    found.update(at("a", 0.5, draws=6))
    found.update(replace(at("a×1", math.inf, draws=6), status=Status.DIVERGED))
    assert [s.scheme for s in found.challengers()] == ["a"]
    assert found.fate("a×1", 0.1, interrupted=False) is Status.PRUNED


def test_the_play_off_is_trained_and_a_resumed_race_does_not_train_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    level = replace(budget_module.LEVELS["fast"], refine=5, play_off=2)
    monkeypatch.setitem(budget_module.LEVELS, "fast", level)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    first = race(url)
    met = [t for t in first.trials if t.phase == "playoff"]
    names = {t.scheme for t in met}
    variants = names & {s.name for s in first.refined}
    assert 1 <= len(variants) <= 2
    assert len(names) == len(variants) + 1
    assert len(met) == 2 * len(names)
    earlier = {t.seed for t in first.trials if t.phase in ("rung", "refine")}
    confirmed = {t.seed for t in first.trials if t.phase == "confirm"}
    assert len({t.seed for t in met}) == 2
    assert not {t.seed for t in met} & (earlier | confirmed)
    assert {e.draws for e in first.ranking if e.scheme in names} == {1 + 2}
    assert first.decision.challenger in names
    second = race(url)
    assert second.decision == first.decision
    assert second.cost.members == 0


def test_the_current_weights_may_go_on_at_more_rates_than_challengers() -> None:
    entered = [
        at(name, score, lr=lr) for name in (CURRENT, "a", "b") for lr, score in ((0.1, 3.0), (0.3, 1.0), (1.0, 2.0))
    ]
    found = contest_of(*entered)
    found.close_rung(entered, Rung(50, keep=1, rates=2, draws=3, control_rates=3), 0, 2)
    assert sorted(found.alive) == [("a", 0.3), ("a", 1.0), *((CURRENT, lr) for lr in (0.1, 0.3, 1.0))]
    assert [s.lr for s in found.controls()] == [0.3, 1.0, 0.1]
