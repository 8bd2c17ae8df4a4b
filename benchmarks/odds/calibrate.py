"""Said and true, each family judged by odds that were fitted without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from benchmarks.odds.fit import NOT_WORSE, Columns, Said, gain_of, regress
from benchmarks.odds.pairs import Pair
from benchmarks.odds.records import Losses

FOLDS = 8
"""Groups of families that are left out together; every fit still sees seven of eight families."""

EVERY = 3
"""Rows that a fit for judging uses: neighbours are views of the same trainings, so that a third says nearly as much."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Pairs with what was said of them by odds fitted without their families, and how they ended."""

    pairs: Sequence[Pair]
    weights: Losses
    ends: Losses
    said: Said

    @property
    def better(self) -> Losses:
        """1 where the candidate ended better; half where both ended alike."""
        return (self.ends > 0) + 0.5 * (self.ends == 0)

    @property
    def worse(self) -> Losses:
        """1 where it ended worse by more than 2%."""
        return (self.ends < NOT_WORSE).astype(float)

    @property
    def gain(self) -> Losses:
        """Relative reduction of the final loss."""
        return gain_of(self.ends)

    def where(self, chosen: Mask) -> Judged:
        """Some of the pairs."""
        index = np.flatnonzero(chosen)
        said = Said(**{f.name: getattr(self.said, f.name)[index] for f in fields(Said)})
        return Judged([self.pairs[i] for i in index], self.weights[index], self.ends[index], said)


def left_out(pairs: Sequence[Pair], given: Columns, weights: Losses, trained: Mask | None = None) -> Judged:
    """Said of every pair by a fit that saw nothing of its family.

    Args:
        pairs, given, weights: all pairs, their features and weights.
        trained: pairs that fits may use; all unless told otherwise.
    """
    ends = np.array([p.end for p in pairs])
    family = np.array([p.record.family for p in pairs])
    names = np.random.default_rng(0).permutation(np.unique(family))
    said = {f.name: np.zeros(len(pairs)) for f in fields(Said)}
    usable = np.ones(len(pairs), bool) if trained is None else trained
    every = np.random.default_rng(1).random(len(pairs)) < 1 / EVERY
    for group in np.array_split(names, FOLDS):
        out = np.isin(family, group)
        if not out.any():
            continue
        seen = np.flatnonzero(~out & usable & every)
        found = regress(given.rows(seen), ends[seen], weights[seen]).said(given.rows(np.flatnonzero(out)))
        for name, values in said.items():
            values[out] = getattr(found, name)
    return Judged(pairs, weights, ends, Said(**said))


def fifths(said: Losses, true: Losses, weights: Losses) -> list[tuple[float, float]]:
    """Mean said and mean true in fifths of equal weight, least said first."""
    order = np.argsort(said, kind="stable")
    place = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    parts = [order[(place >= i / 5) & (place < (i + 1) / 5)] for i in range(5)]
    return [(mean(said[p], weights[p]), mean(true[p], weights[p])) for p in parts]


def mean(values: Losses, weights: Losses) -> float:
    """Weighted mean; NaN of nothing."""
    return float(values @ weights / weights.sum()) if weights.sum() else float("nan")


def brier(said: Losses, true: Losses, weights: Losses) -> float:
    """Mean squared error of odds."""
    return mean((said - true) ** 2, weights)


def auc(said: Losses, true: Losses, weights: Losses) -> float:
    """Chance that of two pairs that ended differently the one with the higher odds is the one that came true."""
    from sklearn.metrics import roc_auc_score

    settled = true != 0.5
    if len(set(true[settled])) < 2:
        return float("nan")
    return float(roc_auc_score(true[settled] > 0.5, said[settled], sample_weight=weights[settled]))
