"""The fit: one logistic regression of "the end is above t" for many t at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.odds.pairs import Pair
from initadvisor.trials.odds import WORSE_BY, features

Array = NDArray[np.float64]

GAP_UNIT = 0.005
"""Gap at which the size of a lead begins to count by its logarithm. Of .005, .02, .05, .1 and .3 the least gives the
best odds on families left out (area under the curve .804, .800, .796, .792, .784 in that order)."""

END_UNIT = 0.02
"""The same for ends; it makes the middle of the distribution wide enough for the noise of ends."""

NOT_WORSE = -math.log1p(WORSE_BY)

THRESHOLDS = {NOT_WORSE: 2, 0.0: 3} | dict.fromkeys((-0.7, -0.2, -0.1, -0.05, 0.02, 0.05, 0.1, 0.2, 0.7), 1)
"""Ends that the distribution is fitted at, and their weights: the two that are said as odds count most."""

LEAD = "lead × "

STRENGTH = 1.0
"""Inverse of the ridge penalty; with this many pairs it only keeps the fit defined."""


def columns(found: Sequence[Pair]) -> tuple[list[str], Array, list[str], Array, Array]:
    """Features of all pairs: names and values of what moves the location, then of what sets the steepness; ends."""
    odd, even = [], []
    for pair in found:
        evidence, prior, spread = features(pair.view, GAP_UNIT)
        lead = evidence.pop("lead")
        odd.append({f"{LEAD}{name}": lead * value for name, value in evidence.items()} | prior)
        even.append(spread)
    a, b = (np.array([list(row.values()) for row in rows]) for rows in (odd, even))
    return list(odd[0]), a, list(even[0]), b, np.array([p.end for p in found])


def regress(odd: Array, even: Array, ends: Array, weights: Array) -> Array:
    """Coefficients of odd and even features: logit P(end > t) = odd·a − asinh(t / unit) even·b."""
    from sklearn.linear_model import LogisticRegression

    rows = np.vstack([np.hstack([odd, -math.asinh(t / END_UNIT) * even]) for t in THRESHOLDS])
    above = np.concatenate([ends > t for t in THRESHOLDS])
    weight = np.concatenate([weights * w for w in THRESHOLDS.values()])
    size = np.sqrt((rows**2).mean(axis=0))
    size[size == 0] = 1.0
    model = LogisticRegression(fit_intercept=False, C=STRENGTH, max_iter=500)
    model.fit(rows / size, above, sample_weight=weight / weight.mean())
    return np.asarray(model.coef_[0] / size)


def artefact_of(found: Sequence[Pair], weights: Array) -> dict[str, Any]:
    """What ``odds`` reads, fitted to the pairs."""
    names, odd, even_names, even, ends = columns(found)
    fitted = regress(odd, even, ends, weights)
    evidence = [n for n in names if n.startswith(LEAD)]
    location = dict(zip(names, fitted, strict=False))
    steepness = dict(zip(even_names, fitted[len(names) :], strict=True))

    def rounded(values: dict[str, float]) -> dict[str, float]:
        return {name: round(float(value), 4) for name, value in values.items()}

    return {
        "unit": {"gap": GAP_UNIT, "end": END_UNIT},
        "evidence": rounded({n.removeprefix(LEAD): location[n] for n in evidence}),
        "prior": rounded({n: location[n] for n in names if n not in evidence}),
        "spread": rounded(steepness),
    }
