"""The pool's raw curves as one table per task, and the arithmetic of regret on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.regret.pool import SEEDS, TUNING_SEEDS, best_rate
from benchmarks.regret.store import CURRENT_DIGEST, Key, Store
from benchmarks.regret.task import Task
from benchmarks.regret.train import Curve

Losses = NDArray[np.float64]

NULL_STANDARD_ERRORS = 2.0
"""A task is null where the default is within so many standard errors of the best (the definition we were given)."""

DENOMINATOR_FLOOR = 0.05
"""Least gap regret is divided by, as a share of the default's loss."""

REGRET_CEILING = 10.0
"""Regret above this is as useless as this; it keeps one exploding scheme from being the whole mean."""

UNUSABLE = 2.0
"""Loss of a training that never had a finite checkpoint, in untrained losses of the default."""


@dataclass(frozen=True)
class Row:
    """One scheme of the pool on one task.

    Attributes:
        name, kind, prior, calibrations: as proposed.
        digest: what it does.
        lr: its own best rate, chosen on the tuning seeds.
        losses: best-checkpoint loss on each evaluation seed at that rate.
        tuning: curve by rate, on the first tuning seed.
    """

    name: str
    kind: str
    prior: float
    calibrations: tuple[str, ...]
    digest: str
    lr: float
    losses: Losses
    tuning: dict[float, Curve]


@dataclass(frozen=True)
class Table:
    """All of the pool on one task; the default (the model as it comes) is the first row."""

    task: Task
    rows: tuple[Row, ...]

    @property
    def default(self) -> Losses:
        """Losses of the model as it comes."""
        return self.rows[0].losses

    @property
    def losses(self) -> Losses:
        """Array of shape (schemes, seeds)."""
        return np.stack([row.losses for row in self.rows])

    @property
    def best(self) -> Row:
        """The scheme with the lowest mean loss."""
        return min(self.rows, key=lambda row: float(row.losses.mean()))

    @property
    def sweep_steps(self) -> int:
        """Optimizer steps of the smallest full sweep: every scheme at every rate, one seed."""
        return len(self.rows) * len(self.task.lrs) * self.task.steps


def usable(curve: Curve, untrained: float) -> float:
    """Best-checkpoint loss of a curve, finite in any case."""
    return curve.best if math.isfinite(curve.best) else UNUSABLE * untrained


def build(task: Task, store: Store) -> Table | None:
    """The table of one task; None while a scheme of its pool still lacks a training."""
    proposals = store.proposals().get(task.name, [])
    curves = store.curves(task)
    first = curves.get(Key(CURRENT_DIGEST, task.lrs[0], TUNING_SEEDS[0]))
    if not proposals or first is None:
        return None
    rows = []
    for item in proposals:
        if item["fault"] is not None:
            continue
        lr = best_rate(task.lrs, curves, item["digest"])
        got = [] if lr is None else [curves.get(Key(item["digest"], lr, seed)) for seed in SEEDS]
        found = [c for c in got if c is not None]
        if lr is None or len(found) < len(SEEDS):
            return None
        rows.append(
            Row(
                name=item["name"],
                kind=item["kind"],
                prior=item["prior"],
                calibrations=tuple(item["calibrations"]),
                digest=item["digest"],
                lr=lr,
                losses=np.array([usable(c, first.heldout[0]) for c in found]),
                tuning={rate: curves[Key(item["digest"], rate, TUNING_SEEDS[0])] for rate in task.lrs},
            )
        )
    rows.sort(key=lambda row: row.digest != CURRENT_DIGEST)
    return Table(task, tuple(rows)) if rows[0].digest == CURRENT_DIGEST else None


def standard_error(differences: Losses) -> float:
    """Standard error of the mean of paired differences."""
    return float(differences.std(ddof=1) / math.sqrt(len(differences)))


def best_elsewhere(table: Table) -> Losses:
    """Loss on each seed of the scheme that is best on the *others*: what a sweep would pick, fairly judged."""
    losses = table.losses
    seeds = np.arange(losses.shape[1])
    return np.array([losses[losses[:, seeds != i].mean(1).argmin(), i] for i in seeds])


def honest_gap(table: Table) -> Losses:
    """Default minus best on each seed, the best chosen on the *other* seeds.

    The least of many noisy means is too low; chosen elsewhere, its advantage is unbiased, and a task on which nothing
    matters shows a gap around zero.
    """
    return table.default - best_elsewhere(table)


def is_null(table: Table) -> bool:
    """Whether the default is within two standard errors of the best."""
    gap = honest_gap(table)
    return float(gap.mean()) <= NULL_STANDARD_ERRORS * standard_error(gap)


def regret(pick: Losses, best: Losses, default: Losses) -> Losses:
    """Normalised regret of mean losses, elementwise: 0 is the best of the pool, 1 the default.

    Args:
        pick: mean loss of the picked scheme.
        best: lowest mean loss of the pool.
        default: mean loss of the model as it comes.
    """
    gap = np.maximum(default - best, DENOMINATOR_FLOOR * default)
    return np.minimum((pick - best) / np.maximum(gap, np.finfo(float).tiny), REGRET_CEILING)


def excess(table: Table, pick: Losses) -> float:
    """How much worse a pick is than the default, in standard errors of the paired difference; 0 for the default."""
    difference = pick - table.default
    if not difference.any():
        return 0.0
    return float(difference.mean() / max(standard_error(difference), np.finfo(float).tiny))
