"""Which shape of rungs picks the best leader? Replayed on the pool's full trainings, in seconds.

    python -m benchmarks.regret.shapes

A short training is the beginning of a long one: a race over the pool's schemes, each at its own best rate, is read off
their curves, its draws taken from some of the pool's seeds and its leader scored on the others. A shape is chosen as
the one with the lowest mean regret; leaving out one family at a time says whether that choice rests on any of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.regret.pool import SEEDS
from benchmarks.regret.store import Key, Store
from benchmarks.regret.summary import complete_tables
from benchmarks.regret.table import Table, is_null, regret
from benchmarks.regret.train import Curve
from initadvisor.trials.standings import WORST_WEIGHT, mean_weight

RATES = 3, 2
"""Learning rates in the first rung and in the others, for the cost; the replay knows each scheme's best."""

CEILING = 3.0
"""Regret of a leader above this counts as this: one that explodes is not kept by the confirmation anyway."""


class Rung(NamedTuple):
    """Share of the full length, schemes that go on (a share below 1, or a number), and draws."""

    share: float
    keep: float
    draws: int


SHAPES: Mapping[str, tuple[Rung, ...]] = {
    "two draws throughout, three at half": (
        Rung(0.05, 0.5, 2), Rung(0.1, 0.25, 2), Rung(0.2, 3, 2), Rung(0.5, 1, 2),
    ),
    "one draw first, three at half": (Rung(0.05, 0.5, 1), Rung(0.1, 0.25, 2), Rung(0.2, 3, 2), Rung(0.5, 1, 2)),
    "one draw first, two at half": (Rung(0.05, 0.5, 1), Rung(0.1, 0.25, 2), Rung(0.2, 2, 2), Rung(0.5, 1, 2)),
    "one draw first, four at half": (Rung(0.05, 0.5, 1), Rung(0.1, 0.25, 2), Rung(0.2, 4, 2), Rung(0.5, 1, 2)),
    "one draw twice, two at half": (Rung(0.05, 0.5, 1), Rung(0.1, 0.25, 1), Rung(0.2, 2, 2), Rung(0.5, 1, 2)),
    "one draw first, none at half": (Rung(0.05, 0.5, 1), Rung(0.1, 0.25, 2), Rung(0.2, 1, 2)),
}  # fmt: skip


def score(curves: Sequence[Curve], share: float, steps: int) -> float:
    """A scheme's score at a share of the length, as the race computes it."""
    weight, each = mean_weight(share), []
    for curve in curves:
        seen = [i for i, step in enumerate(curve.steps) if step <= round(share * steps)]
        finite = [curve.heldout[i] for i in seen if math.isfinite(curve.heldout[i])]
        if not finite or (curve.diverged and curve.steps[-1] < share * steps):
            return math.inf
        each.append((1 - weight) * min(finite) + weight * curve.train[seen[-1]])
    mean = sum(each) / len(each)
    return mean + WORST_WEIGHT * (max(each) - mean) if math.isfinite(mean) else math.inf


def leader(rungs: Sequence[Rung], curves: Sequence[Sequence[Curve]], steps: int) -> int:
    """Index of the scheme a race of that shape leads with; ``curves`` are by scheme, then by draw."""
    alive = list(range(len(curves)))
    for rung in rungs:
        scores = {i: score(curves[i][: rung.draws], rung.share, steps) for i in alive}
        keep = math.ceil(rung.keep * len(curves)) if rung.keep < 1 else int(rung.keep)
        alive = sorted(alive, key=scores.__getitem__)[: max(1, keep)]
    return alive[0]


def cost(rungs: Sequence[Rung], schemes: int) -> float:
    """Full trainings the rungs take, the current weights included."""
    total, share, draws, members = 0.0, 0.0, 0, (schemes + 1) * RATES[0]
    for rung in rungs:
        total += members * (rung.draws * (rung.share - share) + max(0, rung.draws - draws) * share)
        share, draws = rung.share, rung.draws
        members = (1 + (math.ceil(rung.keep * schemes) if rung.keep < 1 else int(rung.keep))) * RATES[1]
    return total


def mean_regret(rungs: Sequence[Rung], table: Table, curves: Mapping[Key, Curve]) -> float:
    """Of the leaders over all choices of two of the pool's seeds, scored on the other two."""
    losses = table.losses
    best, default = losses.mean(1).min(), losses[0].mean()
    found = []
    for chosen in itertools.permutations(range(len(SEEDS)), 2):
        own = [[curves[Key(row.digest, row.lr, SEEDS[i])] for i in chosen] for row in table.rows[1:]]
        picked = 1 + leader(rungs, own, table.task.steps)
        others = [i for i in range(len(SEEDS)) if i not in chosen]
        found.append(min(float(regret(losses[picked, others].mean(), best, default)), CEILING))
    return sum(found) / len(found)


def main(store: Store | None = None) -> None:
    """Print every shape's mean regret and cost, and what is chosen with each family left out."""
    store = store or Store()
    tables = {name: table for name, table in complete_tables(store).items() if not is_null(table)}
    curves = {name: store.curves(table.task) for name, table in tables.items()}
    found = {
        label: {name: mean_regret(rungs, table, curves[name]) for name, table in tables.items()}
        for label, rungs in SHAPES.items()
    }
    for label, by_task in sorted(found.items(), key=lambda item: np.mean(list(item[1].values()))):
        taken = np.mean([cost(SHAPES[label], len(t.rows) - 1) for t in tables.values()])
        print(f"{label:38} mean regret {np.mean(list(by_task.values())):.3f}, {taken:.1f} full trainings")
    left_out = []
    for family in sorted({table.task.family for table in tables.values()}):
        rest = [name for name, table in tables.items() if table.task.family != family]
        chosen = min(SHAPES, key=lambda label: float(np.mean([found[label][name] for name in rest])))
        left_out += [found[chosen][name] for name in tables if name not in rest]
        print(f"without {family:24} {chosen}")
    print(f"chosen without the family it is judged on: mean regret {np.mean(left_out):.3f}")


if __name__ == "__main__":
    main()
