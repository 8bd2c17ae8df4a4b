"""How well could anyone choose from full trainings? What the noise of these tasks leaves to be had at which price.

A method that trains every scheme of the pool in full and takes the best is what a careful user without an advisor does.
It is judged like the others, on seeds that took no part in its choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.regret.bootstrap import Bootstrap, Interval, mean, quantile
from benchmarks.regret.pool import SEEDS
from benchmarks.regret.table import Losses, Table, regret


@dataclass(frozen=True)
class Limit:
    """Choosing by full trainings of every scheme on so many seeds.

    Attributes:
        seeds: on which it chooses, besides the one that found each scheme's rate.
        mean, median, p90: of normalised regret on the seeds that are left.
        cost: full trainings, mean over tasks: every rate on one seed, then the best rate on ``seeds``.
        of_sweep: the same as a share of the sweep on all of the pool's seeds.
    """

    seeds: int
    mean: Interval
    median: Interval
    p90: Interval
    cost: float
    of_sweep: float


def regrets_of_best(losses: Losses, seeds: int) -> Losses:
    """Regret of the best on ``seeds`` columns, judged on the others, for every choice of columns; ``losses`` are
    (schemes, seeds), the default first."""
    best, default, found = losses.mean(1).min(), losses[0].mean(), []
    for chosen in itertools.combinations(range(losses.shape[1]), seeds):
        others = [i for i in range(losses.shape[1]) if i not in chosen]
        picked = int(losses[:, list(chosen)].mean(1).argmin())
        found.append(float(regret(losses[picked, others].mean(), best, default)))
    return np.array(found)


def limits(tables: Mapping[str, Table], bootstrap: Bootstrap) -> list[Limit]:
    """From one seed to all but one; ``tables`` of tasks on which something is to be gained."""
    found = []
    for seeds in range(1, len(SEEDS)) if tables else ():
        regrets = {name: bootstrap.constant(regrets_of_best(t.losses, seeds)) for name, t in tables.items()}
        costs = [len(t.rows) * (len(t.task.lrs) + seeds) for t in tables.values()]
        sweeps = [len(SEEDS) * t.sweep_steps / t.task.steps for t in tables.values()]
        found.append(
            Limit(
                seeds,
                bootstrap.interval(regrets, mean),
                bootstrap.interval(regrets, quantile(0.5)),
                bootstrap.interval(regrets, quantile(0.9)),
                float(np.mean(costs)),
                float(np.mean([c / s for c, s in zip(costs, sweeps, strict=True)])),
            )
        )
    return found
