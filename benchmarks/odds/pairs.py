"""From recorded trainings to what a race would have seen of a candidate, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.odds.records import Key, Record
from benchmarks.regret.store import CURRENT_DIGEST
from initadvisor.trials.odds import View

MOST_SEEN = 0.55
"""Largest share of a training that a view is made of: whoever has seen more has nearly finished."""

SEEDS_SEEN = (1, 2)
"""Paired seeds in a view; at least one of the others is left to say how it ended."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One view and its end.

    Attributes:
        record: the task.
        design: ``"fixed"``: both at one rate; ``"early"``: each at the rate that leads so far; ``"own"``: each at its
            final best rate, on fresh seeds.
        scheme: the candidate.
        view: what was seen.
        look: index of the last evaluation in it.
        end: logarithm of the ratio of final losses, current over candidate: above 0 the candidate ends better.
        leader: the candidate leads all others of its design at that look.
        lrs: rates of candidate and current weights.
    """

    record: Record
    design: str
    scheme: str
    view: View
    look: int
    end: float
    leader: bool
    lrs: tuple[float, float]


def pairs(records: Iterable[Record]) -> Iterator[Pair]:
    """All pairs of the records."""
    for record in records:
        for look in range(1, len(record.steps)):
            if record.steps[look] > MOST_SEEN * record.steps[-1]:
                break
            for lr in record.lrs:
                yield from _tuning(record, "fixed", look, dict.fromkeys((CURRENT_DIGEST, *record.order), lr))
            early = {s: _leading_rate(record, s, look) for s in (CURRENT_DIGEST, *record.order)}
            yield from _tuning(record, "early", look, early)
            yield from _fresh(record, look)


def _leading_rate(record: Record, scheme: str, look: int) -> float:
    return min(record.lrs, key=lambda lr: record.curves[Key(scheme, lr, record.tuning)][look])


def _tuning(record: Record, design: str, look: int, rates: dict[str, float]) -> Iterator[Pair]:
    """Views on the tuning seed; the end is that of other seeds where the rate was trained on others."""
    seen = {s: record.curves[Key(s, lr, record.tuning)] for s, lr in rates.items()}
    leader = min(record.order, key=lambda s: seen[s][look], default=None)
    current = CURRENT_DIGEST
    for scheme in record.order:
        keys = [Key(s, rates[s], record.tuning) for s in (scheme, current)]
        view = _view(record, scheme, look, *([k] for k in keys))
        others = [record.seeds(s, rates[s]) for s in (scheme, current)]
        fresh = design == "early" and all(others)
        ends = [
            np.mean([record.end(Key(s, rates[s], seed)) for seed in (some if fresh else (record.tuning,))])
            for s, some in zip((scheme, current), others, strict=True)
        ]
        end = math.log(ends[1] / ends[0])
        yield Pair(record, design, scheme, view, look, end, scheme == leader, (rates[scheme], rates[current]))


def _fresh(record: Record, look: int) -> Iterator[Pair]:
    """Views on some of the fresh seeds, ends on the others, each at its own best rate."""
    current = CURRENT_DIGEST
    own = {s: record.own_rate(s) for s in (current, *record.order)}
    seeds = record.seeds(current, own[current])
    for count in SEEDS_SEEN:
        for first in range(0, len(seeds) - count + 1, count):
            chosen = seeds[first : first + count]
            rest = [s for s in seeds if s not in chosen]
            if not rest:
                continue
            mean = {s: np.mean([record.curves[Key(s, own[s], seed)][look] for seed in chosen]) for s in record.order}
            leader = min(record.order, key=lambda s: mean[s], default=None)
            for scheme in record.order:
                keys = [[Key(s, own[s], seed) for seed in chosen] for s in (scheme, current)]
                view = _view(record, scheme, look, *keys)
                ends = [np.mean([record.end(Key(s, own[s], seed)) for seed in rest]) for s in (scheme, current)]
                end = math.log(ends[1] / ends[0])
                yield Pair(record, "own", scheme, view, look, end, scheme == leader, (own[scheme], own[current]))


def _view(record: Record, scheme: str, look: int, candidate: Sequence[Key], current: Sequence[Key]) -> View:
    a, b = (np.array([record.curves[k][: look + 1] for k in keys]) for keys in (candidate, current))
    gaps, count = b[:, -1] - a[:, -1], len(candidate)
    return View(
        candidate=tuple(map(float, a.mean(axis=0))),
        current=tuple(map(float, b.mean(axis=0))),
        steps=record.steps[look],
        full_steps=record.steps[-1],
        initial=record.initial,
        noise=float(gaps.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        seeds=count,
        place=-1 if scheme in record.unordered else record.order.index(scheme),
        candidate_dead=sum(record.dead(k, look) for k in candidate),
        current_dead=sum(record.dead(k, look) for k in current),
    )


def weights(found: Sequence[Pair]) -> np.ndarray:
    """Every task counts alike, within it every look, and within that every design."""
    groups = [(p.record.task, p.look, p.design) for p in found]
    counts: dict[tuple[str, int, str], int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    looks = {(t, k, d) for t, k, d in groups}
    per_task: dict[str, int] = {}
    for task, _, _ in looks:
        per_task[task] = per_task.get(task, 0) + 1
    return np.array([1.0 / (counts[g] * per_task[g[0]]) for g in groups])
