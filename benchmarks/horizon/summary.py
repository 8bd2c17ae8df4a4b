"""What the report tells: regret and harm by cost, how early views rank, and what the rules' order is worth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.horizon.methods import FREE, SEARCHES, Method
from benchmarks.horizon.store import Row
from benchmarks.horizon.table import HARM, Arm, Table, View

COSTS = (0.02, 0.05, 0.1, 0.3, 1.0, 3.0)
"""In full trainings."""

LOOKS = (3, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3000)
"""Steps at which it is asked how what was seen ranks with the end."""


@dataclass(frozen=True)
class Line:
    """One method at one cost, over the tasks.

    Attributes:
        method, cost: which.
        tasks: with something to win, over which regret is taken.
        regret, median, p90: of the picks' normalised regret there.
        harm: share of all tasks in which the pick ends worse than the default by over 2% and two standard errors.
        rate: share of all tasks in which another rate of the picked scheme ends better by over 2%.
    """

    method: str
    cost: float
    tasks: int
    regret: float
    median: float
    p90: float
    harm: float
    rate: float


def line(method: str, cost: float, picks: Iterable[tuple[View, Sequence[Arm]]]) -> Line:
    """Average over tasks; picks of one task that were drawn by lot count together as one."""
    given = list(picks)
    regrets = [float(np.mean([view.regret(a) for a in arms])) for view, arms in given if view.is_won]
    harms = [float(np.mean([view.harms(a) for a in arms])) for view, arms in given]
    rates = [float(np.mean([costs_by_rate(view, a) for a in arms])) for view, arms in given]
    return Line(
        method,
        cost,
        len(regrets),
        _mean(regrets),
        float(np.median(regrets)) if regrets else math.nan,
        float(np.quantile(regrets, 0.9)) if regrets else math.nan,
        _mean(harms),
        _mean(rates),
    )


def _mean(values: Sequence[float]) -> float:
    known = [x for x in values if math.isfinite(x)]
    return float(np.mean(known)) if known else math.nan


def costs_by_rate(view: View, arm: Arm) -> bool:
    """Whether another rate of the same scheme ends better by over 2%."""
    best = min(view.end(a) for a in view.arms if a.digest == arm.digest)
    return view.end(arm) > best + HARM * abs(best)


def lines(views: Sequence[View]) -> list[Line]:
    """Every method at every cost."""
    free = [line(name, 0.0, [(v, method(v, 0)) for v in views]) for name, method in FREE.items()]
    return free + searched(views, SEARCHES)


def searched(views: Sequence[View], methods: Mapping[str, Method]) -> list[Line]:
    """These methods at every cost."""
    found: list[Line] = []
    for name, method in methods.items():
        found += [line(name, cost, [(v, _picks(method, v, cost)) for v in views]) for cost in COSTS]
    return found


def _picks(method: Method, view: View, cost: float) -> list[Arm]:
    return method(view, round(cost * view.task.steps))


def spearman(one: Sequence[float], two: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    from scipy.stats import spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(spearmanr(_ranked(one), _ranked(two)).statistic)


def _ranked(values: Sequence[float]) -> list[float]:
    """Trainings that broke are the worst, all alike."""
    return [x if math.isfinite(x) else 1e30 for x in values]


Look = Callable[[Arm, int], float]


def as_trained(arm: Arm, step: int) -> float:
    """Best held-out loss so far of the user's training."""
    return arm.first.until(step)


def without_warmup(arm: Arm, step: int) -> float:
    """The same at the full rate from the first step; NaN where that was not followed so far."""
    row = arm.constant
    if row is None:
        return arm.first.until(step)
    return row.until(step) if row.curve.steps[-1] >= step or row.curve.diverged is not None else math.nan


def of_training_loss(arm: Arm, step: int) -> float:
    """Mean training loss so far of the user's training."""
    return mean_training_loss(arm.first, step)


def mean_training_loss(row: Row, step: int) -> float:
    """Mean training loss from the first step up to the last evaluation before ``step``."""
    total, before = 0.0, 0
    for at, loss in zip(row.curve.steps[1:], row.curve.train[1:], strict=True):
        if at > step:
            break
        total, before = total + (at - before) * loss, at
    return total / before if before and math.isfinite(total) else math.inf


def rho(views: Iterable[View], look: Look, step: int) -> float:
    """Mean rank correlation of what is seen at a step with the end, over tasks."""
    found = []
    for view in views:
        seen = [look(a, step) for a in view.arms]
        if not any(map(math.isnan, seen)):
            found.append(spearman(seen, [view.end(a) for a in view.arms]))
    return _mean(found)


def leader_regret(views: Iterable[View], look: Look, step: int) -> float:
    """Mean regret of the arm that leads at a step, over tasks with something to win."""
    return _mean([view.regret(min(view.arms, key=lambda a: look(a, step))) for view in views if view.is_won])


@dataclass(frozen=True)
class Place:
    """How a scheme of the rules fares on one task.

    Attributes:
        scheme: which.
        rank: place in the rules' order, 1 the first.
        at_rate, at_best: its regret at the rate a user would try first, and of its own best rate among all arms.
        place: its place among the schemes at the user's rate, 1 the best.
    """

    scheme: str
    rank: int
    at_rate: float
    at_best: float
    place: int


def places(table: Table) -> list[Place]:
    """Every scheme of a task, the default first, then in the rules' order; none while the middle rate is missing."""
    view, rates = table.one_rate, table.all_rates
    if view is None:
        return []
    ordered = sorted(view.arms, key=view.end)
    found = []
    for arm in sorted(view.arms, key=lambda a: a.rank):
        mine = [a for a in rates.arms if a.digest == arm.digest] if rates is not None else []
        own = min((rates.regret(a) for a in mine), default=math.nan) if rates is not None else math.nan
        found.append(Place(arm.scheme, arm.rank, view.regret(arm), own, ordered.index(arm) + 1))
    return found
