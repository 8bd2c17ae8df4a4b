"""From recorded trainings to what a race would have seen of a candidate, and how it ended."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.odds.records import Key, Losses, Record
from benchmarks.regret.store import CURRENT_DIGEST
from initadvisor.trials.view import View

LEAST_SEEN = 5
"""Fewest steps in a view of a long training: no race begins below, and short ones have nothing between 2% and none."""

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
            final best rate, on fresh seeds; ``"null"``: two seeds of the current weights.
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


def looks(record: Record) -> list[int]:
    """Evaluations at which views end."""
    least = LEAST_SEEN if record.long else 1
    return [i for i, step in enumerate(record.steps) if least <= step <= MOST_SEEN * record.full_steps]


def pairs(records: Iterable[Record]) -> Iterator[Pair]:
    """All pairs of the records whose views hold no training that broke down."""
    for record in records:
        own = {scheme: record.own_rate(scheme) for scheme in (CURRENT_DIGEST, *record.place)}
        for look in looks(record):
            for lr in record.lrs:
                yield from _tuning(record, "fixed", look, dict.fromkeys(own, lr))
            yield from _tuning(record, "early", look, {s: _leading_rate(record, s, look) for s in own})
            yield from _fresh(record, look, own)
            yield from _null(record, look, own[CURRENT_DIGEST])


def _leading_rate(record: Record, scheme: str, look: int) -> float:
    known = [lr for lr in record.lrs if Key(scheme, lr, record.tuning) in record.curves]
    return min(known, key=lambda lr: record.curves[Key(scheme, lr, record.tuning)][look])


def _tuning(record: Record, design: str, look: int, rates: Mapping[str, float]) -> Iterator[Pair]:
    """Views on the tuning seed; the end is that of other seeds where both rates were trained on others."""
    keys = {s: Key(s, lr, record.tuning) for s, lr in rates.items()}
    others = {s: record.seeds(s, lr) for s, lr in rates.items()}
    for scheme, leads in _ranked(record, {s: [k] for s, k in keys.items() if k in record.curves}, look):
        both = (scheme, CURRENT_DIGEST)
        shared = sorted(set(others[scheme]) & set(others[CURRENT_DIGEST])) or [record.tuning]
        end = _end(record, *([Key(s, rates[s], seed) for seed in shared] for s in both))
        view = _view(record, scheme, look, *([keys[s]] for s in both))
        yield from _sound(Pair(record, design, scheme, view, look, end, leads, (rates[scheme], rates[CURRENT_DIGEST])))


def _fresh(record: Record, look: int, own: Mapping[str, float]) -> Iterator[Pair]:
    """Views on some of the fresh seeds, ends on the others, each at its own best rate."""
    seeds = record.seeds(CURRENT_DIGEST, own[CURRENT_DIGEST])
    full = {s: lr for s, lr in own.items() if set(seeds) <= set(record.seeds(s, lr))}
    for count in SEEDS_SEEN:
        for first in range(0, len(seeds) - count + 1, count):
            chosen = seeds[first : first + count]
            rest = [s for s in seeds if s not in chosen]
            keys = {s: [Key(s, lr, seed) for seed in chosen] for s, lr in full.items()}
            for scheme, leads in _ranked(record, keys, look) if rest else ():
                both = (scheme, CURRENT_DIGEST)
                end = _end(record, *([Key(s, own[s], seed) for seed in rest] for s in both))
                view = _view(record, scheme, look, *(keys[s] for s in both))
                rates = (own[scheme], own[CURRENT_DIGEST])
                yield from _sound(Pair(record, "own", scheme, view, look, end, leads, rates))


def _null(record: Record, look: int, lr: float) -> Iterator[Pair]:
    """Seeds of the current weights held against each other, one or two a side, and how two others of them end.

    Two a side leave no two others; there nothing is said of the end, and the pair has no weight in the fit.
    """
    seeds = [record.tuning, *record.seeds(CURRENT_DIGEST, lr)]
    keys = [k for k in (Key(CURRENT_DIGEST, lr, seed) for seed in seeds) if k in record.curves]
    for a, b in itertools.permutations(range(len(keys)), 2):
        rest = [k for i, k in enumerate(keys) if i not in (a, b)]
        if len(rest) >= 2:
            c, d = rest[(a + b) % len(rest)], rest[(a + b + 1) % len(rest)]
            end = _end(record, *([c], [d]) if a < b else ([d], [c]))
            view = _view(record, CURRENT_DIGEST, look, [keys[a]], [keys[b]])
            yield from _sound(Pair(record, "null", CURRENT_DIGEST, view, look, end, False, (lr, lr)))
    for one in itertools.combinations(keys, 2) if len(keys) >= 4 else ():
        other = [k for k in keys if k not in one][:2]
        view = _view(record, CURRENT_DIGEST, look, one, other)
        yield from _sound(Pair(record, "null", CURRENT_DIGEST, view, look, 0.0, False, (lr, lr)))


def _ranked(record: Record, keys: Mapping[str, Sequence[Key]], look: int) -> Iterator[tuple[str, bool]]:
    """Candidates that were trained, each with whether it leads."""
    if CURRENT_DIGEST not in keys:
        return
    losses = {s: float(np.mean([record.curves[k][look] for k in some])) for s, some in keys.items()}
    del losses[CURRENT_DIGEST]
    leader = min(losses, key=losses.__getitem__, default=None)
    for scheme in losses:
        yield scheme, scheme == leader


def _end(record: Record, candidate: Sequence[Key], current: Sequence[Key]) -> float:
    a, b = (np.mean([record.ends[k] for k in keys]) for keys in (candidate, current))
    return math.log(b / a)


def _view(record: Record, scheme: str, look: int, candidate: Sequence[Key], current: Sequence[Key]) -> View:
    a, b = (np.array([record.curves[k][: look + 1] for k in keys]) for keys in (candidate, current))
    gaps, count = b[:, -1] - a[:, -1], len(candidate)
    return View(
        candidate=tuple(map(float, a.mean(axis=0))),
        current=tuple(map(float, b.mean(axis=0))),
        steps=record.steps[look],
        full_steps=record.full_steps,
        initial=record.initial,
        noise=float(gaps.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        seeds=count,
        place=record.place.get(scheme, -1),
        candidate_dead=sum(record.dead(k, look) for k in candidate),
        current_dead=sum(record.dead(k, look) for k in current),
        facts=record.facts,
    )


def _sound(pair: Pair) -> Iterator[Pair]:
    """The pair, if neither training had broken down: what follows from that is said by counts, not fitted."""
    if not (pair.view.candidate_dead or pair.view.current_dead):
        yield pair


LONG_WEIGHT = 2.0
"""Weight of a long task beside a short one: they are what the odds are for, and there are a third as many."""


def weights(found: Sequence[Pair]) -> Losses:
    """Within a task every look, and within that every design counts alike; null pairs as one more candidate."""
    groups = [(p.record.task, p.record.trial, p.look, p.design) for p in found]
    counts = Counter(groups)
    per_task = Counter(task for task, *_ in counts)
    size = [
        (LONG_WEIGHT if p.record.long else 1.0) / (counts[g] * per_task[g[0]])
        for g, p in zip(groups, found, strict=True)
    ]
    return np.array([w * _null_weight(p) if p.design == "null" else w for w, p in zip(size, found, strict=True)])


def _null_weight(pair: Pair) -> float:
    return 1.0 / len(pair.record.place) if pair.view.seeds == 1 else 0.0
