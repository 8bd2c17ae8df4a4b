"""Intervals over tasks and seeds: tasks are resampled as wholes, and within each task the seeds of its trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.regret.table import Losses, Table, regret

RESAMPLES = 1000
LEVEL = 0.95

Figure = Callable[[Sequence[Losses]], float]
"""Of one array of draws per task, every task weighing the same."""


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval at :data:`LEVEL`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean(draws: Sequence[Losses]) -> float:
    """Mean over tasks of each task's mean over draws."""
    return float(np.mean([d.mean() for d in draws]))


def quantile(share: float) -> Figure:
    """Quantile over all draws, each task's draws sharing one vote."""

    def figure(draws: Sequence[Losses]) -> float:
        values = np.concatenate(draws)
        votes = np.concatenate([np.full(len(d), 1 / len(d)) for d in draws])
        order = values.argsort(kind="stable")
        reached = votes[order].cumsum() - votes[order] / 2
        return float(np.interp(share * votes.sum(), reached, values[order]))

    return figure


class Bootstrap:
    """One set of resamples for every method, so that methods are compared on the same ones.

    Args:
        tables: the complete tables by task.
        resamples: how many.
        seed: of the resampling.
    """

    def __init__(self, tables: Mapping[str, Table], *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._tables = tables
        self._resamples = resamples
        self._weights = {name: self._seed_weights(table.default.shape[0]) for name, table in tables.items()}

    def _seed_weights(self, seeds: int) -> Losses:
        drawn = self._rng.multinomial(seeds, [1 / seeds] * seeds, self._resamples).T / seeds
        return np.concatenate([np.full((seeds, 1), 1 / seeds), drawn], axis=1)

    def regrets(self, name: str, picks: Sequence[Losses]) -> Losses:
        """Regret of each pick on one task: column 0 as measured, the others resampled over seeds."""
        table, weights = self._tables[name], self._weights[name]
        best = (table.losses @ weights).min(0)
        return regret(np.stack(picks) @ weights, best, table.default @ weights)

    def constant(self, values: Losses) -> Losses:
        """Draws of a figure that seeds are not resampled for, in the shape of :meth:`regrets`."""
        return np.repeat(np.asarray(values, dtype=float)[:, None], self._resamples + 1, axis=1)

    def interval(self, values: Mapping[str, Losses], figure: Figure) -> Interval:
        """A figure over tasks, as measured, with its interval; NaN where there is no task."""
        columns = list(values.values())
        if not columns:
            return Interval(np.nan, np.nan, np.nan)
        measured = figure([c[:, 0] for c in columns])
        chosen = self._rng.integers(len(columns), size=(self._resamples, len(columns)))
        again = [figure([columns[i][:, b + 1] for i in index]) for b, index in enumerate(chosen)]
        low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(measured, float(low), float(high))
