"""How sure is an early look? Odds of how a candidate's training ends beside that of the current weights.

One distribution stands behind all figures: with ``d`` the logarithm of the ratio of final losses, current over
candidate, ``asinh(d / unit)`` is logistic. So ``better`` and ``worse`` cannot contradict each other or the interval.
Its coefficients are fitted to recorded trainings and kept in ``odds.json``, which ``python -m benchmarks.odds`` makes;
how well said and true agree on families that took no part in the fit stands in ``benchmarks/odds/results/odds.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from initadvisor.trials.view import UNKNOWN_FACTS, Facts, View, best, clip, facts_features, features, place_feature

__all__ = ["UNKNOWN_FACTS", "Action", "Belief", "Facts", "Odds", "View", "action", "artefact", "no_trial", "odds"]

ARTEFACT = Path(__file__).with_name("odds.json")

WORSE_BY = 0.02
"""Share of the final loss by which an end counts as worse: below it two seeds of one scheme differ as much."""

LEAST_GAIN = 0.01
"""Least expected gain worth a change: as small as the difference between two seeds, and a change is work, too."""

LEAST_TRUST = 0.1
"""Least weight of a lead: far outside of what was fitted, a lead still counts for the one who has it."""

FLATTEST = 0.05
"""Least steepness of the distribution; keeps it a distribution far outside of what was fitted."""

LEVELS = 50
"""Equally likely points by which a distribution is averaged: finer changes no figure that is shown."""

DEAD_PRIOR = 0.5
"""Runs added to those that broke down and to those that did not (Jeffreys' prior), once one has broken down."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How the candidate's training ends beside that of the current weights, both in full on fresh seeds.

    Attributes:
        better: probability that it ends with a lower held-out loss (best checkpoint).
        worse: probability that it ends higher by more than :data:`WORSE_BY`.
        gain: expected relative reduction of the final loss, .2 is a fifth lower. A loss that is doubled, or a training
            that breaks down, counts -1, so that one such end does not outweigh everything else.
        low, high: 90% interval of that reduction, -1 standing for all that is worse.
    """

    better: float
    worse: float
    gain: float
    low: float
    high: float


class Belief(Protocol):
    """Who says how sure an early view is, so that calibrated odds can be exchanged for a rule of thumb."""

    def __call__(self, view: View) -> Odds:
        """Odds of one view."""
        ...


Action = Literal["switch", "keep", "undecided"]


@cache
def artefact() -> Mapping[str, Any]:
    """The fitted figures, read once."""
    found: dict[str, Any] = json.loads(ARTEFACT.read_text(encoding="utf-8"))
    return found


def odds(view: View) -> Odds:
    """Odds of one view.

    A larger gap never lowers ``better``; more noise moves it towards what would be said without a gap. Losses that are
    all positive are compared by their ratio, others (likelihoods) by their difference in units of what has been gained
    since the start. Curves that are equal to the last bit promise nothing.

    Example:
        >>> ahead = odds(View(candidate=(2.3, 1.0), current=(2.3, 2.0), steps=100, full_steps=1000, initial=2.3))
        >>> behind = odds(View(candidate=(2.3, 2.0), current=(2.3, 1.0), steps=100, full_steps=1000, initial=2.3))
        >>> ahead.better > 0.7 > 0.5 > behind.better, ahead.gain > 0.1 > behind.gain
        (True, True)
    """
    alone, beaten, both = _broken(view)
    alive = 1.0 - alone - beaten - both
    ends = [(-1.0, alone), (1.0, beaten), (0.0, both)]
    if view.candidate == view.current and best(view.current) is not None:
        return _summary(0.5 * (alive + both) + beaten, alone, [*ends, (0.0, alive)])
    fitted = artefact()
    lead, trust, prior, spread = features(view, fitted["unit"]["gap"])
    location = lead * max(LEAST_TRUST, _dot(trust, fitted["trust"])) + _dot(prior, fitted["prior"])
    found = _distribution(location, _dot(spread, fitted["spread"]), fitted["unit"]["end"])
    ends += [(gain, alive / LEVELS) for gain in found.gains]
    return _summary(found.better * alive + beaten + both / 2, found.worse * alive + alone, ends)


def no_trial(place: int, facts: Facts = UNKNOWN_FACTS) -> Odds:
    """Odds by the rules and the facts of the network alone, nothing trained.

    Args:
        place: in the rules' order, 0 is first; -1 for one that no rule ordered.
        facts: of the network.

    Example:
        >>> no_trial(0, Facts(depth=20, normalised=False)).better > no_trial(0, Facts(depth=20, normalised=True)).better
        True
    """
    fitted = artefact()["untried"]
    prior = {"rules": 1.0, "place": place_feature(place)} | facts_features(facts)
    location = _dot(prior, fitted["prior"])
    found = _distribution(
        location, _dot({"one": 1.0} | facts_features(facts), fitted["spread"]), artefact()["unit"]["end"]
    )
    return _summary(found.better, found.worse, [(gain, 1 / LEVELS) for gain in found.gains])


def action(odds: Odds, *, least: float = LEAST_GAIN) -> Action:
    """What the odds come to.

    ``"switch"``: a change is expected to gain more than ``least``, clearly more likely helps than not, and the chance
    that it ends worse by more than 2% is small enough; both bounds are in the artefact. ``"keep"``: no more than
    ``least`` is to be expected, or that it helps is little more likely than that it does not.
    ``"undecided"``: a gain is expected, but so is harm too often. No lead over the current weights is asked for beyond
    that. What other bounds would have led to stands in ``benchmarks/odds/results/odds.md``; of all candidates, the one
    with the largest expected gain is a better choice there than the one that leads so far.

    Args:
        odds: of the leader against the current weights.
        least: relative gain below which a change is not worth it.

    Example:
        >>> action(Odds(0.9, 0.03, 0.2, 0.01, 0.4)), action(Odds(0.5, 0.1, 0.0, -0.1, 0.1))
        ('switch', 'keep')
    """
    bounds = artefact()["action"]
    if odds.gain <= least or odds.better < bounds["least_better"]:
        return "keep"
    return "switch" if odds.worse <= bounds["most_worse"] else "undecided"


def _broken(view: View) -> tuple[float, float, float]:
    """Chances that only the candidate's training breaks down, only that of the current weights, and both."""
    candidate = _rate(view.candidate_dead, view.seeds, best(view.candidate) is None)
    current = _rate(view.current_dead, view.seeds, best(view.current) is None)
    return candidate * (1 - current), current * (1 - candidate), candidate * current


def _rate(dead: int, seeds: int, all_dead: bool) -> float:
    seeds = max(seeds, dead, 1)
    dead = seeds if all_dead else max(dead, 0)
    return (dead + DEAD_PRIOR) / (seeds + 2 * DEAD_PRIOR) if dead else 0.0


def _dot(values: dict[str, float], coefficients: dict[str, float]) -> float:
    return math.fsum(value * coefficients[name] for name, value in values.items())


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Of the end: two odds, and the gains at equally likely levels, ascending."""

    better: float
    worse: float
    gains: tuple[float, ...]


def _distribution(location: float, steepness: float, unit: float) -> _Distribution:
    steepness = max(steepness, FLATTEST)
    worse = _sigmoid(-location - steepness * math.asinh(math.log1p(WORSE_BY) / unit))
    return _Distribution(_sigmoid(location), worse, tuple(_gain(x, location, steepness, unit) for x in _levels()))


@cache
def _levels() -> tuple[float, ...]:
    return tuple(math.log((i + 0.5) / (LEVELS - i - 0.5)) for i in range(LEVELS))


def _gain(level: float, location: float, steepness: float, unit: float) -> float:
    """Relative reduction of the final loss at one logit of the distribution."""
    reach = max(-50.0, min(50.0, (location + level) / steepness))
    return max(-1.0, -math.expm1(-clip(unit * math.sinh(reach))))


def _summary(better: float, worse: float, ends: Sequence[tuple[float, float]]) -> Odds:
    ordered = sorted(ends)
    total = math.fsum(weight for _, weight in ordered)
    gain = math.fsum(x * weight for x, weight in ordered) / total
    low, high = _quantile(ordered, 0.05 * total), _quantile(ordered, 0.95 * total)
    return Odds(better, worse, max(low, min(high, gain)), low, high)


def _quantile(ordered: Sequence[tuple[float, float]], mass: float) -> float:
    so_far = 0.0
    for value, weight in ordered:
        so_far += weight
        if so_far >= mass:
            return value
    return ordered[-1][0]
