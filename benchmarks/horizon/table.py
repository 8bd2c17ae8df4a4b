"""The pool of one task as a table, and the arithmetic of regret and harm on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.horizon.pool import SEEDS
from benchmarks.horizon.store import CONSTANT, FULL, SHORT, Row
from benchmarks.horizon.task import LongTask
from benchmarks.regret.store import CURRENT_DIGEST
from benchmarks.regret.table import DENOMINATOR_FLOOR, REGRET_CEILING

HARM = 0.02
"""An end so much worse than the default's is harm, as a share of the default's loss."""

STANDARD_ERRORS = 2.0
"""Harm, and a win, has to be beyond so many standard errors."""

UNUSABLE = 2.0
"""End of a training without a finite loss, in untrained losses of the default."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A scheme at a rate.

    Attributes:
        scheme, digest: which scheme.
        lr: which rate.
        rank: place of the scheme among those that are trained, 0 for the default, then as the rules order them.
        full: the user's training by seed.
        constant: the beginning at the full rate on the first seed, where the schedule is another.
        short: the whole decay in a tenth of the steps on the first seed, where there is one.
        rise: steps until the user's schedule reaches the full rate.
    """

    scheme: str
    digest: str
    lr: float
    rank: int
    full: dict[int, Row]
    constant: Row | None = None
    short: Row | None = None
    rise: int = 0

    @property
    def first(self) -> Row:
        """The user's training on the seed that searches see."""
        return self.full[SEEDS[0]]

    @property
    def is_default(self) -> bool:
        """Whether it is the model as it comes."""
        return self.digest == CURRENT_DIGEST


@dataclass(frozen=True, eq=False)
class View:
    """Arms among which is chosen, and what each of them ends at.

    An arm that is trained on the first seed only is taken to stand to the default on the others as it does there.

    Attributes:
        task: the training.
        arms: every scheme at every rate that is allowed; of the default at least one.
    """

    task: LongTask
    arms: tuple[Arm, ...]

    @cached_property
    def default(self) -> Arm:
        """The default at the rate at which it ends best on the first seed."""
        return min((a for a in self.arms if a.is_default), key=lambda a: self.loss(a, SEEDS[0]))

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """Rates that are allowed, ascending."""
        return tuple(sorted({a.lr for a in self.arms}))

    @cached_property
    def schemes(self) -> int:
        """How many schemes there are."""
        return len({a.digest for a in self.arms})

    def loss(self, arm: Arm, seed: int) -> float:
        """Best checkpoint of an arm on one seed, finite in any case."""
        row = arm.full[seed]
        return row.best if math.isfinite(row.best) else UNUSABLE * abs(row.curve.heldout[0])

    def gaps(self, arm: Arm) -> np.ndarray:
        """Loss less the default's on every seed that both were trained on."""
        shared = [seed for seed in SEEDS if seed in arm.full and seed in self.default.full]
        return np.array([self.loss(arm, seed) - self.loss(self.default, seed) for seed in shared])

    @cached_property
    def base(self) -> float:
        """Mean end of the default."""
        return float(np.mean([self.loss(self.default, seed) for seed in self.default.full]))

    def end(self, arm: Arm) -> float:
        """What an arm ends at: the default's mean end plus the mean difference to it."""
        return self.base + float(self.gaps(arm).mean())

    @cached_property
    def spread(self) -> float:
        """Standard deviation of a difference to the default from seed to seed, pooled over arms; 0 where unknown."""
        several = [g for a in self.arms if a is not self.default and len(g := self.gaps(a)) > 1]
        degrees = sum(len(g) - 1 for g in several)
        return math.sqrt(sum(float(g.var()) * len(g) for g in several) / degrees) if degrees else 0.0

    def error(self, arm: Arm) -> float:
        """Standard error of an arm's difference to the default."""
        return self.spread / math.sqrt(len(self.gaps(arm)))

    @cached_property
    def best(self) -> Arm:
        """The arm that ends lowest."""
        return min(self.arms, key=self.end)

    @cached_property
    def is_won(self) -> bool:
        """Whether the best ends better than the default by more than 2% and two standard errors."""
        gain = self.base - self.end(self.best)
        return gain > max(HARM * self.base, STANDARD_ERRORS * self.error(self.best))

    def regret(self, arm: Arm) -> float:
        """0 is the best arm, 1 the default at its best rate."""
        best = self.end(self.best)
        gap = max(self.base - best, DENOMINATOR_FLOOR * abs(self.base), np.finfo(float).tiny)
        return min((self.end(arm) - best) / gap, REGRET_CEILING)

    def harms(self, arm: Arm) -> bool:
        """Whether an arm ends worse than the default by more than 2% and two standard errors."""
        loss = self.end(arm) - self.base
        return loss > max(HARM * abs(self.base), STANDARD_ERRORS * self.error(arm))

    def rules_first(self, lr: float | None = None) -> Arm:
        """What the rules propose first, at a rate, or at the one at which it ends best."""
        found = [a for a in self.arms if a.rank == 1 and lr in (None, a.lr)]
        return min(found, key=self.end)


@dataclass(frozen=True)
class Table:
    """All trainings of one task."""

    task: LongTask
    arms: tuple[Arm, ...]
    proposals: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def at(self, lr: float) -> View | None:
        """Every scheme at one rate; None while one of them is missing."""
        wanted = self._digests("trained" if lr == self.task.rate else "rated")
        arms = tuple(a for a in self.arms if a.lr == lr and a.digest in wanted)
        return View(self.task, arms) if len(arms) == len(wanted) else None

    @property
    def one_rate(self) -> View | None:
        """Every scheme at the rate a user would try first."""
        return self.at(self.task.rate)

    @property
    def all_rates(self) -> View | None:
        """Every scheme that is trained at every rate; None while one is missing."""
        wanted = self._digests("rated")
        arms = tuple(a for a in self.arms if a.digest in wanted)
        return View(self.task, arms) if len(arms) == len(wanted) * len(self.task.lrs) else None

    def _digests(self, mark: str) -> set[str]:
        return {p["digest"] for p in self.proposals if p[mark]}


def build(task: LongTask, rows: Iterable[Row], proposals: Sequence[dict[str, Any]]) -> Table:
    """The table of one task from what is on record."""
    mine = [r for r in rows if r.task == task.name and r.version == task.version]
    by: dict[tuple[str, float, str], dict[int, Row]] = {}
    for row in mine:
        by.setdefault((row.digest, row.lr, row.variant), {})[row.seed] = row
    trained = sorted((p for p in proposals if p["trained"]), key=lambda p: (p["digest"] != CURRENT_DIGEST, -p["prior"]))
    arms = []
    for rank, item in enumerate(trained):
        for lr in task.lrs:
            full = by.get((item["digest"], lr, FULL), {})
            if SEEDS[0] not in full:
                continue
            constant = by.get((item["digest"], lr, CONSTANT), {}).get(SEEDS[0])
            short = by.get((item["digest"], lr, SHORT), {}).get(SEEDS[0])
            arms.append(Arm(item["name"], item["digest"], lr, rank, full, constant, short, task.schedule.rise))
    return Table(task, tuple(arms), tuple(proposals))
