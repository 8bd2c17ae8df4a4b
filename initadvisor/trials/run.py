"""From a training and its candidates to everything that was found: open, plan, race, decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from initadvisor.errors import InputError
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.redraw import is_another_draw
from initadvisor.schemes.scheme import Scheme
from initadvisor.streams import derive
from initadvisor.training.data import tensors_in
from initadvisor.training.engine.engine import Engine
from initadvisor.training.engine.result import Status, TrialResult
from initadvisor.training.identity import task_identity
from initadvisor.training.task import TrainingTask
from initadvisor.trials.diagnose import Figures, diagnose
from initadvisor.trials.ledger import Ledger, Log, OutOfMoneyError
from initadvisor.trials.opening import open_study, plan_race
from initadvisor.trials.plan import Plan, describe, read_budget
from initadvisor.trials.port import About, Runs
from initadvisor.trials.progress import OnEvent, ignore
from initadvisor.trials.race import FRESH, MOST_FRESH, RACE, Race, Setting, check_candidates
from initadvisor.trials.result import Cost, Decision, RaceResult, RankingEntry
from initadvisor.trials.standings import ranking
from initadvisor.types import CURRENT

if TYPE_CHECKING:
    from initadvisor.trials.study import StudyLog


REDRAW = "the weights as they came are already drawn like this"


def run_race(
    task: TrainingTask,
    schemes: Sequence[Scheme],
    spec: ModelSpec,
    *,
    budget: str | float | int = "standard",
    seed: int = 0,
    study: StudyLog | None = None,
    executor: Executor | None = None,
    on_event: OnEvent = ignore,
) -> RaceResult:
    """Find the scheme that trains best at the user's own settings, and say how sure that is.

    Ctrl-C ends the race early: the decision is what the trainings that are done say, and is marked as interrupted.

    Args:
        task: the training.
        schemes: candidates; one must be named ``"current"``.
        spec: the reading of the model.
        budget: ``"fast"``, ``"standard"``, ``"thorough"``, seconds (a float) or optimizer steps (an int).
        seed: of everything drawn.
        study: where it is recorded; None records in memory.
        executor: runs chunks of trainings; None uses processes of its own where they pay.
        on_event: told about progress.

    Raises:
        InputError: the candidates or the budget cannot be used, or every training fails.
        StorageError: the record cannot be written.
    """
    check_candidates(schemes)
    racing, redraws = _worth_racing(task, schemes)
    task = task.turned([derive(seed, FRESH, i) for i in range(MOST_FRESH)])
    if study is None:
        from initadvisor.trials.study import StudyLog

        study = StudyLog()
    with Engine(task, racing, spec, executor=executor) as engine:
        engine.measured = (derive(seed, RACE, 0), derive(seed, FRESH, 0))
        setting = Setting(racing, spec, seed)
        race, result = race_over(engine, about_task(task), setting, budget=budget, log=study, on_event=on_event)
    if race is not None:
        figures = Figures(task, tuple(race.ledger.states.values()), race.field, result.decision.verdict)
        result = replace(result, decision=replace(result.decision, diagnosis=diagnose(figures)))
    return replace(result, ranking=(*result.ranking, *redraws))


def _worth_racing(task: TrainingTask, schemes: Sequence[Scheme]) -> tuple[tuple[Scheme, ...], tuple[RankingEntry, ...]]:
    """Best prior first, the current weights before all; another draw of these very weights wins by chance alone."""
    ordered = sorted(schemes, key=lambda s: (s.name != CURRENT, -getattr(s, "prior", 0.0)))
    racing, redraws = [], []
    for scheme in ordered:
        if isinstance(scheme, Scheme) and is_another_draw(scheme, task.model):
            redraws.append(RankingEntry.untrained(scheme.name, Status.GATED, REDRAW))
        else:
            racing.append(scheme)
    return tuple(racing), tuple(redraws)


def race_over(
    runs: Runs,
    about: About,
    setting: Setting,
    *,
    budget: str | float | int,
    log: Log,
    on_event: OnEvent = ignore,
) -> tuple[Race | None, RaceResult]:
    """Race over whatever runs trainings; see :func:`run_race` for one in this process and its workers.

    Returns:
        The race as it ended, None where it was stopped before there was one, and what was found.
    """
    allowed = read_budget(budget)
    ledger = Ledger(runs, about, log, [s.name for s in setting.schemes], on_event)
    notes: list[str] = []
    race: Race | None = None
    interrupted = False
    try:
        open_study(ledger, setting, [(s.name, _scheme_digest(s)) for s in setting.schemes], notes)
        plan = plan_race(ledger, setting, allowed)
        race = Race(ledger, setting, plan, about.low_rates if plan.low_rates else about.chosen_rates)
        ledger.tell("plan", foretold(ledger, plan))
        race.run()
    except OutOfMoneyError:
        notes.append(f"the budget of {allowed.text} was used up before all was tried")
    except KeyboardInterrupt:
        interrupted = True
    if race is None:
        race = Race(ledger, setting, Plan(0, 0, ()), about.chosen_rates)
    decision = race.decision(interrupted=interrupted)
    _raise_if_all_failed(ledger)
    ledger.tell("done", "done")
    return race, _result(race, decision, allowed.text, notes, interrupted=interrupted)


def foretold(ledger: Ledger, plan: Plan) -> str:
    """What will run, for how long and at what share of one training, before it starts."""
    speed, full = ledger.runs.per_second(), ledger.about.full_steps
    steps = sum(
        r.runs * (r.steps - (b.steps if b else 0)) for r, b in zip(plan.rungs, (None, *plan.rungs), strict=False)
    )
    most = steps if plan.in_seconds else max(steps, int(plan.money))
    told = [describe(plan)]
    if plan.in_seconds:
        told.append(f"about {plan.money:.0f} s")
    elif speed and most:
        told.append(f"at most {most:,} optimizer steps, about {most / speed:.0f} s")
    if full and most:
        told.append(f"{most / full:.0%} of one full training" if most < full else f"{most / full:.1f} full trainings")
    elif full is None and plan.rungs:
        told.append(f"length of your training not given (steps=): {plan.length:,} steps assumed")
    return "; ".join(told)


def about_task(task: TrainingTask) -> About:
    """What a race knows of a training."""
    return About(
        rates=task.rates,
        lr_locked=task.lr_locked,
        full_steps=task.full_steps,
        limit=task.schedule.ends,
        optimizer_name=task.optimizer_name,
        loss_name=task.loss_name,
        warmup=task.schedule.warmup,
        identity=task_identity(task),
        weights=weights_digest(task.model),
        fold_of=task.fold_of,
    )


def weights_digest(model: nn.Module) -> str:
    """Of all parameters and buffers, to know a model again."""
    sink = hashlib.sha256()
    for tensor in tensors_in([list(model.parameters()), list(model.buffers())]):
        sink.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return sink.hexdigest()[:16]


def _result(race: Race, decision: Decision, budget: str, notes: list[str], *, interrupted: bool) -> RaceResult:
    """Everything as the other packages read it."""
    ledger, about, plan = race.ledger, race.ledger.about, race.plan
    steps, full = ledger.steps, about.full_steps
    cost = Cost(
        model_steps=steps,
        seconds=ledger.elapsed,
        share_of_full=steps / full if full else None,
        members=ledger.runs.started,
        other_seconds=max(0.0, ledger.elapsed - ledger.training_seconds),
    )
    if ledger.resumed:
        notes.append(f"{ledger.resumed} of {steps} optimizer steps were read from the stored study")
    if about.warmup and plan.rungs:
        notes.append(
            f"the warm-up of {about.warmup} steps is left out while candidates are compared, since all starts look "
            "alike under it; fresh seeds run as you train"
        )
    schemes = (*race.setting.schemes, *race.refined_schemes)
    rates = ", ".join(f"{r:g}" for r in about.rates) + (" (yours)" if about.lr_locked else "")
    settings = (
        ("optimizer", about.optimizer_name),
        ("loss", about.loss_name),
        ("learning rates", rates),
        ("budget", budget),
        ("seeds", f"{race.seeds} while choosing, {decision.fresh} fresh"),
        ("rungs", ", ".join(map(str, race.horizons)) or "none"),
        ("engine", ledger.runs.description),
    )
    return RaceResult(
        decision=decision,
        ranking=ranking(race.field, schemes, race.final),
        trials=tuple(_trials(race, interrupted=interrupted)),
        cost=cost,
        settings=settings,
        notes=(*notes, *ledger.runs.notes),
        refined=tuple(race.refined_schemes),
        plan=race.planned,
    )


def _raise_if_all_failed(ledger: Ledger) -> None:
    ran = [s for s in ledger.states.values() if s.status is not None or s.steps]
    if ran and all(s.status is Status.FAILED for s in ran):
        raise InputError(f"every training fails: {ran[0].message}")


def _trials(race: Race, *, interrupted: bool) -> Iterable[TrialResult]:
    for key, state in race.ledger.states.items():
        yield state.result(race.fate(key, interrupted=interrupted))


def _scheme_digest(scheme: Any) -> str:
    told = repr((getattr(scheme, "assignments", ()), getattr(scheme, "calibrations", ())))
    return hashlib.sha256(told.encode()).hexdigest()[:12]
