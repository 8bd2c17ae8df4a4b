"""What advice by the odds would have led to: every recorded race, its leader held against the current weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.odds.calibrate import Judged, mean
from benchmarks.odds.fit import NOT_WORSE
from benchmarks.odds.records import Losses
from benchmarks.regret.table import DENOMINATOR_FLOOR, REGRET_CEILING

DESIGNS = ("fixed", "early")
"""Races as users run them: at one rate, or each scheme at the rate that leads."""


@dataclass(frozen=True)
class Race:
    """One look at one race.

    Attributes:
        members: indices of the pairs in it, in the rules' order.
        leader: index of the one with the lowest loss so far.
        expected: index of the one of which most is expected.
        best: end of the best, 0 where none ends better than the current weights.
        weight: every task alike, within it every look and design.
    """

    members: tuple[int, ...]
    leader: int
    expected: int
    best: float
    weight: float


def races(judged: Judged) -> Iterator[Race]:
    """All looks at all races."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, p in enumerate(judged.pairs):
        if p.design in DESIGNS:
            lr = p.lrs if p.design == "fixed" else None
            groups.setdefault((p.record.task, p.record.trial, p.design, p.look, lr), []).append(i)
    for members in groups.values():
        leader = next((i for i in members if judged.pairs[i].leader), None)
        if leader is None:
            continue
        expected = max(members, key=lambda i: judged.said.gain[i])
        best = max(0.0, *(float(judged.ends[i]) for i in members))
        weight = float(sum(judged.weights[i] for i in members))
        ordered = sorted(members, key=lambda i: judged.pairs[i].view.place % 1000)
        yield Race(tuple(ordered), leader, expected, best, weight)


def regret(end: float, best: float) -> float:
    """Normalised regret at an end: 0 for the best of the race, 1 for the current weights."""
    loss, least = math.exp(-end), math.exp(-best)
    return min((loss - least) / max(1.0 - least, DENOMINATOR_FLOOR), REGRET_CEILING)


@dataclass(frozen=True)
class Outcome:
    """What a policy leads to, weighted means over races.

    Attributes:
        regret: normalised.
        harm: share that ends worse than the current weights by more than 2%.
        switched: share that changes.
        idle: of the changes, share that gains less than 1%.
    """

    regret: float
    harm: float
    switched: float
    idle: float


Policy = Callable[[Race], int | None]
"""Which pair's candidate a race advises; None keeps the current weights."""


def outcome(judged: Judged, found: list[Race], policy: Policy) -> Outcome:
    """Follow a policy in all races."""
    picks = [policy(race) for race in found]
    ends = np.array([0.0 if i is None else judged.ends[i] for i in picks])
    weights: Losses = np.array([race.weight for race in found])
    changed = np.array([i is not None for i in picks])
    regrets = np.array([regret(end, race.best) for end, race in zip(ends, found, strict=True)])
    return Outcome(
        regret=mean(regrets, weights),
        harm=mean((ends < NOT_WORSE).astype(float), weights),
        switched=mean(changed.astype(float), weights),
        idle=mean((ends < math.log1p(0.01)).astype(float)[changed], weights[changed]) if changed.any() else 0.0,
    )
