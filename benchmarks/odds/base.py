"""Rules alone: how candidates at each place of the rules' order end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.odds.records import Key, Record
from benchmarks.regret.store import CURRENT_DIGEST
from initadvisor.trials.odds import WORSE_BY

LAST_PLACE = 5
"""Places from here on are told together."""

PRIOR_TASKS = 4.0
"""Weight of the rates over all kinds beside those of one kind, in tasks."""


def gain_of(end: float) -> float:
    """Relative reduction of the final loss, -1 at worst."""
    return max(-1.0, -math.expm1(-end))


def _rows(record: Record) -> Iterable[tuple[str, float]]:
    for place, scheme in enumerate(record.order):
        name = "unordered" if scheme in record.unordered else str(min(place, LAST_PLACE))
        for lr in record.lrs:
            ends = [record.end(Key(s, lr, record.tuning)) for s in (scheme, CURRENT_DIGEST)]
            yield name, math.log(ends[1] / ends[0])


def base_rates(records: Iterable[Record]) -> dict[str, Any]:
    """Odds by place, over all tasks and by kind of network; at the user's rate, whichever of the grid it is."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for record in records:
        by_place: dict[str, list[float]] = {}
        for name, end in _rows(record):
            by_place.setdefault(name, []).append(end)
        for kind in ("all", record.kind):
            for name, ends in by_place.items():
                found.setdefault(kind, {}).setdefault(name, []).append(ends)
    every = {name: _summary(tasks) for name, tasks in found.pop("all").items()}
    family = {
        kind: {name: _shrunk(_summary(tasks), every[name], len(tasks)) for name, tasks in places.items()}
        for kind, places in sorted(found.items())
    }
    for table in family.values():
        table.update({name: row for name, row in every.items() if name not in table})
    return {"last_place": LAST_PLACE, "all": _sorted(every), "family": {k: _sorted(v) for k, v in family.items()}}


def _sorted(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {k: round(v, 3) for k, v in table[name].items()} for name in sorted(table)}


def _summary(tasks: list[list[float]]) -> dict[str, float]:
    values = np.concatenate(tasks)
    weights = np.concatenate([np.full(len(t), 1.0 / len(t)) for t in tasks])
    weights /= weights.sum()
    gains = np.array([gain_of(v) for v in values])
    order = np.argsort(gains)
    cumulated = np.cumsum(weights[order])
    low, high = (float(gains[order][np.searchsorted(cumulated, q)]) for q in (0.05, 0.95))
    return {
        "better": float(weights @ ((values > 0) + 0.5 * (values == 0))),
        "worse": float(weights @ (values < -math.log1p(WORSE_BY))),
        "gain": float(weights @ gains),
        "low": low,
        "high": high,
    }


def _shrunk(own: dict[str, float], every: dict[str, float], tasks: int) -> dict[str, float]:
    share = tasks / (tasks + PRIOR_TASKS)
    return {name: share * own[name] + (1 - share) * every[name] for name in own}
