"""How sure is an early look? Odds of how a candidate's training ends beside that of the current weights.

One distribution stands behind all figures: with ``d`` the logarithm of the ratio of final losses, current over
candidate, ``asinh(d / unit)`` is logistic. So ``better`` and ``worse`` cannot contradict each other or the interval.
Its coefficients are fitted to recorded trainings and kept in ``odds.json``, which ``python -m benchmarks.odds`` makes;
how well said and true agree on families that took no part in the fit stands in ``benchmarks/odds/results/odds.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

ARTEFACT = Path(__file__).with_name("odds.json")

WORSE_BY = 0.02
"""Share of the final loss by which an end counts as worse: below it two seeds of one scheme differ as much."""

LEAST_GAIN = 0.01
"""Least expected gain that is worth a change: the user's trouble, and a line in the paper, have to be worth it."""

LARGEST = 5.0
"""Largest logarithm of a ratio of losses that is told apart: beyond a factor of 150 all ends are alike."""

ASSUMED_SHARE = 0.02
"""Share seen of a training whose length nobody gave: views are short, and a smaller share says less."""

LEAST_SHARE = 0.01
"""Shares below this count as this: no view of the records is shorter, and twenty steps tell something of any length."""

UNORDERED = 10
"""Place of a candidate that no rule ordered: in the middle of the twenty that are proposed."""

FLATTEST = 0.05
"""Least steepness of the distribution; keeps it a distribution far outside of what was fitted."""

LEVELS = 50
"""Equally likely points by which a distribution is averaged: finer changes no figure that is shown."""

DEAD_PRIOR = 0.5
"""Runs added to those that broke down and to those that did not (Jeffreys' prior), once one has broken down."""


@dataclass(frozen=True, slots=True)
class View:
    """What a race has seen of one candidate and of the current weights, each at the rate it is compared at.

    Attributes:
        candidate: held-out losses of the candidate at the evaluations common to both, first to last, means over seeds.
        current: the same of the current weights.
        steps: optimizer steps both have done.
        full_steps: length of the user's training; None where unknown.
        initial: held-out loss of the current weights before any step.
        noise: standard error of the gap between the two, in units of the loss; 0 where unknown.
        seeds: paired seeds behind it.
        place: of the candidate in the rules' order, 0 is first; -1 for one that no rule ordered.
        candidate_dead: runs of the candidate that broke down or got no gradient, of ``seeds``.
        current_dead: the same of the current weights.
    """

    candidate: tuple[float, ...]
    current: tuple[float, ...]
    steps: int
    full_steps: int | None
    initial: float
    noise: float = 0.0
    seeds: int = 1
    place: int = 0
    candidate_dead: int = 0
    current_dead: int = 0


@dataclass(frozen=True, slots=True)
class Odds:
    """How the candidate's training ends beside that of the current weights, both in full on fresh seeds.

    Attributes:
        better: probability that it ends with a lower held-out loss (best checkpoint).
        worse: probability that it ends higher by more than :data:`WORSE_BY`.
        gain: expected relative reduction of the final loss, .2 is a fifth lower. A loss that is doubled, or a training
            that breaks down, counts -1: one such end does not outweigh everything else.
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

    A larger gap never lowers ``better``; more noise moves it towards what the rules alone say.

    Losses that are all positive are compared by their ratio, others (likelihoods) by their difference in units of what
    has been gained since the start.

    Example:
        >>> ahead = odds(View(candidate=(2.3, 1.0), current=(2.3, 2.0), steps=100, full_steps=1000, initial=2.3))
        >>> behind = odds(View(candidate=(2.3, 2.0), current=(2.3, 1.0), steps=100, full_steps=1000, initial=2.3))
        >>> ahead.better > 0.7 > 0.5 > behind.better, ahead.gain > 0.1 > behind.gain
        (True, True)
    """
    fitted = artefact()
    seen, prior, spread = features(view, fitted["unit"]["gap"])
    location = seen.pop("lead") * max(0.0, _dot(seen, fitted["evidence"])) + _dot(prior, fitted["prior"])
    steepness = max(_dot(spread, fitted["spread"]), FLATTEST)
    ends = [(_ratio_at(level, location, steepness, fitted["unit"]["end"])) for level in _levels()]
    unit = fitted["unit"]["end"]
    better = _sigmoid(location)
    worse = _sigmoid(-location - steepness * math.asinh(math.log1p(WORSE_BY) / unit))
    alone, beaten, both = _broken(view)
    alive = 1.0 - alone - beaten - both
    weights = [(gain, alive / LEVELS) for gain in ends]
    weights += [(-1.0, alone), (1.0, beaten), (0.0, both)]
    return _summary(better * alive + beaten + both / 2, worse * alive + alone, weights)


def no_trial(place: int, family: str | None = None) -> Odds:
    """Odds by the rules alone, nothing trained: how candidates at that place ended in recorded trainings.

    Args:
        place: in the rules' order, 0 is first; -1 for one that no rule ordered.
        family: kind of network as ``benchmarks/odds`` names it; None, or one without records, takes all.

    Example:
        >>> 0.5 < no_trial(0).better < 0.9
        True
    """
    rates = artefact()["base_rates"]
    table = rates["family"].get(family, rates["all"])
    name = "unordered" if place < 0 else str(min(place, rates["last_place"]))
    row = table[name]
    return Odds(row["better"], row["worse"], row["gain"], row["low"], row["high"])


def action(odds: Odds, *, least: float = LEAST_GAIN) -> Action:
    """What the odds come to.

    ``"switch"``: a change is expected to gain more than ``least`` and more likely helps than not. ``"keep"``: no more
    than that is to be expected. ``"undecided"``: it is expected to gain, but the chance of real harm is too large.

    Args:
        odds: of the leader against the current weights.
        least: relative gain below which a change is not worth it.

    Example:
        >>> action(Odds(0.9, 0.03, 0.2, 0.01, 0.4)), action(Odds(0.5, 0.1, 0.0, -0.1, 0.1))
        ('switch', 'keep')
    """
    if odds.gain <= least or odds.better < 0.5:
        return "keep"
    return "switch" if odds.worse <= artefact()["action"]["most_worse"] else "undecided"


def features(view: View, gap_unit: float) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """What the model reads: the lead and what its weight depends on, the prior, and what sets the spread."""
    gap, noise, progress = _gap(view)
    length = view.full_steps if view.full_steps and view.full_steps > 0 else None
    share = min(1.0, max(view.steps, 1) / length) if length else ASSUMED_SHARE
    late = math.log(max(share, LEAST_SHARE) / 0.1)
    place = math.log1p(UNORDERED if view.place < 0 else view.place)
    lead = math.asinh(gap / math.hypot(gap_unit, noise))
    seeds = math.log(max(view.seeds, 1))
    evidence = {"lead": lead, "one": 1.0, "late": late, "progress": progress, "seeds": seeds}
    prior = {"rules": 1.0, "place": place, "rules_late": late, "place_late": place * late}
    spread = {"one": 1.0, "late": late, "progress": progress, "size": math.asinh(abs(gap) / 0.02), "seeds": seeds}
    return evidence, prior, spread


def _gap(view: View) -> tuple[float, float, float]:
    """Relative gap of the best losses so far, its relative error, and progress of the current weights (0 to 1)."""
    candidate, current = _best(view.candidate), _best(view.current)
    if candidate is None or current is None:
        return 0.0, 0.0, 0.0
    start = view.initial if math.isfinite(view.initial) else max(candidate, current)
    noise = abs(view.noise) if math.isfinite(view.noise) else 0.0
    if min(candidate, current, start) > 0:
        gap = math.log(current) - math.log(candidate)
        return _clip(gap), min(noise / current, LARGEST), max(0.0, 1.0 - current / start)
    fall = max(start - min(candidate, current), 1e-12 * max(abs(start), 1.0))
    return _clip((current - candidate) / fall), min(noise / fall, LARGEST), 0.5 if current < start else 0.0


def _best(losses: Sequence[float]) -> float | None:
    return min((x for x in losses if math.isfinite(x)), default=None)


def _clip(x: float) -> float:
    return max(-LARGEST, min(LARGEST, x))


def _broken(view: View) -> tuple[float, float, float]:
    """Chances that only the candidate's training breaks down, only that of the current weights, and both."""
    candidate = _rate(view.candidate_dead, view.seeds, not any(map(math.isfinite, view.candidate)))
    current = _rate(view.current_dead, view.seeds, not any(map(math.isfinite, view.current)))
    return candidate * (1 - current), current * (1 - candidate), candidate * current


def _rate(dead: int, seeds: int, all_dead: bool) -> float:
    seeds = max(seeds, dead, 1)
    dead = seeds if all_dead else max(dead, 0)
    return (dead + DEAD_PRIOR) / (seeds + 2 * DEAD_PRIOR) if dead else 0.0


def _dot(values: Mapping[str, float], coefficients: Mapping[str, float]) -> float:
    return math.fsum(value * coefficients[name] for name, value in values.items())


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


@cache
def _levels() -> tuple[float, ...]:
    return tuple(math.log((i + 0.5) / (LEVELS - i - 0.5)) for i in range(LEVELS))


def _ratio_at(level: float, location: float, steepness: float, unit: float) -> float:
    """Relative reduction of the final loss at one logit of the distribution."""
    reach = max(-50.0, min(50.0, (location + level) / steepness))
    return max(-1.0, -math.expm1(-_clip(unit * math.sinh(reach))))


def _summary(better: float, worse: float, weights: Iterable[tuple[float, float]]) -> Odds:
    ordered = sorted(weights)
    total = math.fsum(w for _, w in ordered)
    gain = math.fsum(x * w for x, w in ordered) / total
    low, high = _quantile(ordered, 0.05 * total), _quantile(ordered, 0.95 * total)
    return Odds(better, worse, max(low, min(high, gain)), low, high)


def _quantile(ordered: Sequence[tuple[float, float]], mass: float) -> float:
    so_far = 0.0
    for value, weight in ordered:
        so_far += weight
        if so_far >= mass:
            return value
    return ordered[-1][0]
