"""The fit: one logistic regression of "the end is above t" for many t at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.odds.pairs import Pair
from benchmarks.odds.records import Losses
from initadvisor.trials.odds import FLATTEST, LEAST_TRUST, LEVELS, WORSE_BY
from initadvisor.trials.view import LARGEST, facts_features, features, place_feature

GAP_UNIT = 0.005
"""Gap at which the size of a lead begins to count by its logarithm: of values from .005 to .3 the smallest gave the
best odds on families left out."""

END_UNIT = 0.02
"""The same for ends; it makes the middle of the distribution wide enough for the noise of ends."""

NOT_WORSE = -math.log1p(WORSE_BY)

THRESHOLDS = {NOT_WORSE: 2, 0.0: 3, 0.02: 1, 3.0: 1} | {
    s * t: 1 for t in (0.05, 0.1, 0.2, 0.4, 0.7, 1.5) for s in (-1, 1)
}
"""Ends that the distribution is fitted at, and their weights: the two that are said as odds count most; without the
outer ones the expected gain comes out too large."""

STRENGTH = 1.0
"""Inverse of the ridge penalty; with so many pairs it only keeps the fit defined."""

LEAD = "lead × "


@dataclass(frozen=True)
class Columns:
    """Features of pairs, a row each.

    Attributes:
        odd_names, odd: what moves the distribution; changes sign when the two sides change places.
        even_names, even: what sets its steepness.
    """

    odd_names: tuple[str, ...]
    odd: Losses
    even_names: tuple[str, ...]
    even: Losses

    def rows(self, chosen: Losses) -> Columns:
        """Some of the rows."""
        return Columns(self.odd_names, self.odd[chosen], self.even_names, self.even[chosen])


@dataclass(frozen=True)
class Said:
    """Odds of many pairs, an array each; see :class:`initadvisor.trials.odds.Odds`."""

    better: Losses
    worse: Losses
    gain: Losses
    low: Losses
    high: Losses


def columns(found: Sequence[Pair]) -> Columns:
    """Features of all pairs, by the advisor's own code."""
    odd, even = [], []
    for pair in found:
        lead, trust, prior, spread = features(pair.view, GAP_UNIT)
        odd.append({f"{LEAD}{name}": lead * value for name, value in trust.items()} | prior)
        even.append(spread)
    return _table(odd, even)


def untried(found: Sequence[Pair]) -> Columns:
    """What is known of the candidates of pairs before anything is trained."""
    odd = [{"rules": 1.0, "place": place_feature(p.view.place)} | facts_features(p.view.facts) for p in found]
    return _table(odd, [{"one": 1.0} | facts_features(p.view.facts) for p in found])


def _table(odd: Sequence[dict[str, float]], even: Sequence[dict[str, float]]) -> Columns:
    a, b = (np.array([list(row.values()) for row in rows]) for rows in (odd, even))
    return Columns(tuple(odd[0]), a, tuple(even[0]), b)


@dataclass(frozen=True)
class Model:
    """Fitted coefficients of odd and even features: logit P(end > t) = odd·a − asinh(t / unit) even·b."""

    odd: Losses
    even: Losses

    def said(self, given: Columns) -> Said:
        """Odds of all rows, as the advisor says them of runs that do not break down."""
        of_lead = np.array([n.startswith(LEAD) for n in given.odd_names])
        location = given.odd[:, ~of_lead] @ self.odd[~of_lead]
        if of_lead.any():
            lead = given.odd[:, given.odd_names.index(f"{LEAD}one")]
            gained = given.odd[:, of_lead] @ self.odd[of_lead]
            location = location + np.sign(lead) * np.maximum(gained * np.sign(lead), LEAST_TRUST * np.abs(lead))
        steepness = np.maximum(given.even @ self.even, FLATTEST)
        levels = np.array([math.log((i + 0.5) / (LEVELS - i - 0.5)) for i in range(LEVELS)])
        reach = np.clip((location[:, None] + levels) / steepness[:, None], -50, 50)
        gains = gain_of(np.clip(END_UNIT * np.sinh(reach), -LARGEST, LARGEST))
        low, high = gains[:, math.ceil(0.05 * LEVELS) - 1], gains[:, math.ceil(0.95 * LEVELS) - 1]
        return Said(
            better=_sigmoid(location),
            worse=_sigmoid(-location + steepness * math.asinh(NOT_WORSE / END_UNIT)),
            gain=np.clip(gains.mean(axis=1), low, high),
            low=low,
            high=high,
        )


def gain_of(end: Losses) -> Losses:
    """Relative reduction of the final loss, -1 at worst."""
    return np.maximum(-1.0, -np.expm1(-end))


def _sigmoid(x: Losses) -> Losses:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def regress(given: Columns, ends: Losses, weights: Losses) -> Model:
    """Fit the coefficients."""
    from sklearn.linear_model import LogisticRegression

    rows = np.vstack([np.hstack([given.odd, -math.asinh(t / END_UNIT) * given.even]) for t in THRESHOLDS])
    above = np.concatenate([ends > t for t in THRESHOLDS])
    weight = np.concatenate([weights * w for w in THRESHOLDS.values()])
    size = np.sqrt((rows**2).mean(axis=0))
    size[size == 0] = 1.0
    model = LogisticRegression(fit_intercept=False, C=STRENGTH, max_iter=1000)
    model.fit(rows / size, above, sample_weight=weight / weight.mean())
    found = model.coef_[0] / size
    return Model(found[: given.odd.shape[1]], found[given.odd.shape[1] :])


def coefficients(model: Model, given: Columns) -> dict[str, dict[str, float]]:
    """What the artefact holds of a model."""
    odd = {n: round(float(x), 4) for n, x in zip(given.odd_names, model.odd, strict=True)}
    found = {
        "trust": {n.removeprefix(LEAD): x for n, x in odd.items() if n.startswith(LEAD)},
        "prior": {n: x for n, x in odd.items() if not n.startswith(LEAD)},
        "spread": {n: round(float(x), 4) for n, x in zip(given.even_names, model.even, strict=True)},
    }
    return {name: values for name, values in found.items() if values}
