"""The rate that is taken after an early view, against the rate that is best in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from benchmarks.odds.calibrate import FOLDS, mean
from benchmarks.odds.pairs import looks
from benchmarks.odds.records import Key, Record
from benchmarks.regret.store import CURRENT_DIGEST
from initadvisor.trials.rates import level_with, lowest_level

COSTLY = math.log1p(0.02)
"""Logarithm of the ratio of final losses from which a rate has cost something."""

MOST_COST = 1.0
"""Largest such logarithm that counts, so that one training that never starts is not the whole mean."""

LEVELS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares behind the best within which lower rates count as level, that are tried."""


LEAST_FAMILIES = 3
"""Families of long tasks below which their level stays zero: two tasks are an accident, not a rule."""


@dataclass(frozen=True)
class Case:
    """One scheme at all of its rates, seen so far, and how each ends.

    Attributes:
        record: the task.
        steps: seen.
        scores: held-out loss so far by rate; inf where the training broke down.
        ends: final loss by rate.
        weight: tasks and looks count alike.
    """

    record: Record
    steps: int
    scores: Mapping[float, float]
    ends: Mapping[float, float]
    weight: float

    def cost(self, rate: float) -> float:
        """Logarithm of the final loss at a rate over that of the best."""
        return min(math.log(self.ends[rate] / min(self.ends.values())), MOST_COST)

    def too_high(self, rate: float) -> bool:
        """Whether a lower rate is best."""
        return rate > min(self.ends, key=lambda lr: self.ends[lr])


def cases(records: Iterable[Record]) -> Iterator[Case]:
    """All of the records whose every rate was trained, where rates differ."""
    for record in records:
        schemes = [
            s for s in (CURRENT_DIGEST, *record.place)
            if all(Key(s, lr, record.tuning) in record.curves for lr in record.lrs)
        ]  # fmt: skip
        wanted = looks(record)
        for scheme in schemes:
            keys = {lr: Key(scheme, lr, record.tuning) for lr in record.lrs}
            ends = {lr: record.ends[k] for lr, k in keys.items()}
            if len(set(ends.values())) == 1:
                continue
            for look in wanted:
                scores = {
                    lr: math.inf if record.dead(k, look) else float(record.curves[k][look]) for lr, k in keys.items()
                }
                if any(map(math.isfinite, scores.values())):
                    yield Case(record, record.steps[look], scores, ends, 1 / (len(schemes) * len(wanted)))


@dataclass(frozen=True)
class Costs:
    """What a choice of rates costs, over cases that had seen about as much."""

    seen: str
    count: int
    best: float
    costly: float
    too_high: float
    mean: float


Choice = Callable[[Case], float]

WINDOWS: Mapping[str, tuple[bool, float, float]] = {
    "short, up to 7%": (False, 0.0, 0.07),
    "short, 7 to 35%": (False, 0.07, 0.35),
    "long, up to 50 steps": (True, 0.0, 0.017),
    "long, 50 to 300 steps": (True, 0.017, 0.1),
    "long, over 300 steps": (True, 0.1, 1.0),
}
"""What was seen: long tasks or short ones, and shares of the training."""


def leading(case: Case) -> float:
    """The rate that leads so far."""
    return min(case.scores, key=lambda lr: case.scores[lr])


def costs(found: Sequence[Case], picks: Sequence[float]) -> list[Costs]:
    """What picks cost, by what was seen."""
    rows = []
    for name, (long, low, high) in WINDOWS.items():
        chosen = [
            i for i, c in enumerate(found)
            if c.record.long is long and low < c.steps / c.record.full_steps <= high
        ]  # fmt: skip
        if not chosen:
            continue
        weight = np.array([found[i].weight for i in chosen])
        cost = np.array([found[i].cost(picks[i]) for i in chosen])
        high_ = np.array([found[i].too_high(picks[i]) for i in chosen])
        shares = [mean(x.astype(float), weight) for x in (cost == 0, cost > COSTLY, (cost > COSTLY) & high_)]
        rows.append(Costs(name, len(chosen), *shares, mean(cost, weight)))
    return rows


def fitted(found: Sequence[Case]) -> dict[str, Any]:
    """Levels, of short trainings and of long ones, at the least mean cost."""
    best: tuple[float, tuple[float, float]] | None = None
    enough = len({c.record.family for c in found if c.record.long}) >= LEAST_FAMILIES
    for pair in product(LEVELS, LEVELS if enough else LEVELS[:1]):
        total = sum(c.weight * c.cost(_pick(c, pair)) for c in found)
        best = min(best or (math.inf, pair), (total, pair))
    assert best is not None
    return {"level": {"short": best[1][0], "long": best[1][1]}}


def _pick(case: Case, levels: tuple[float, float]) -> float:
    level = level_with(levels[0], levels[1], case.steps, case.record.full_steps)
    return lowest_level(case.scores, level, 0.0)


def left_out(found: Sequence[Case]) -> list[float]:
    """Rates chosen by levels that were fitted without the family."""
    names = np.random.default_rng(0).permutation(sorted({c.record.family for c in found}))
    picks = [0.0] * len(found)
    for group in np.array_split(names, FOLDS):
        rest = fitted([c for c in found if c.record.family not in group])["level"]
        for i, case in enumerate(found):
            if case.record.family in group:
                picks[i] = _pick(case, (rest["short"], rest["long"]))
    return picks
