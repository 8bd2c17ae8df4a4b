"""What has a race seen of a candidate? The view, and what the odds read in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.rules.reading import has_norms

LARGEST = 5.0
"""Largest logarithm of a ratio of losses that is told apart: beyond a factor of 150 all ends are alike."""

SIZE_UNIT = 0.02
"""Gap from which its size begins to count for the width of the distribution: twice what is worth a change."""

ASSUMED_STEPS = 3_000
"""Length of a training that nobody gave: that of the long recorded ones."""

STEPS_TELL = (0.3, 300)
"""What steps tell whatever the length: at most as much as seeing this share of a training, half of it after so many
steps. With the share alone, odds fitted to trainings of a few hundred steps know too little after twenty steps of a
long one; with the steps alone, they are too sure."""

USUAL_SEEN = 0.2
"""Where the logarithm of what was seen is zero, so that coefficients read as those of such a view."""

UNORDERED = 10
"""Place of a candidate that no rule ordered: in the middle of the twenty that are proposed."""

USUAL_DEPTH, DEEPEST = 6, 60
"""Depth at which depth says nothing, and the one beyond which it says no more; the deepest recorded net has 24."""

UNKNOWN_NORMALISED, UNKNOWN_DEPTH = 0.25, 0.0
"""For facts that nobody gave: a quarter of the recorded tasks is normalised, the others are as deep as is usual."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the network itself says about how much there is to gain; None where unknown.

    Deep networks without normalisation or residual branches are where torch's default fails; normalised ones forgive
    almost any start.

    Attributes:
        depth: weight layers on the longest path from input to output.
        normalised: it has normalisation layers.
        residual: it has residual branches.
    """

    depth: int | None = None
    normalised: bool | None = None
    residual: bool = False


UNKNOWN_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class View:
    """What a race has seen of one candidate and of the current weights, each at the rate it is compared at.

    Attributes:
        candidate: held-out losses of the candidate at the evaluations common to both, first to last, means over seeds;
            the lowest counts, as for who keeps the best checkpoint.
        current: the same of the current weights.
        steps: optimizer steps both have done.
        full_steps: length of the user's training; None where unknown.
        initial: held-out loss of the current weights before any step.
        noise: standard error of the gap between the two, in units of the loss; 0 where unknown.
        seeds: paired seeds behind it.
        place: of the candidate in the rules' order, 0 is first; -1 for one that no rule ordered.
        candidate_dead: runs of the candidate that broke down or got no gradient, of ``seeds``.
        current_dead: the same of the current weights.
        facts: of the network.
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
    facts: Facts = UNKNOWN_FACTS


def network_facts(spec: ModelSpec | None) -> Facts:
    """The facts of an analysed network; nothing is known of one that was not."""
    return UNKNOWN_FACTS if spec is None else Facts(spec.depth, has_norms(spec), bool(spec.branches))


def seen(steps: int, full_steps: int | None) -> float:
    """How much of a training a view tells: the share of it, and what so many steps tell of any.

    Example:
        >>> round(seen(20, 200), 2), round(seen(20, 3000), 2), round(seen(20, 10**6), 2)
        (0.12, 0.03, 0.02)
    """
    steps = max(steps, 1)
    length = full_steps if full_steps and full_steps > 0 else max(ASSUMED_STEPS, steps)
    most, half = STEPS_TELL
    return min(1.0, steps / length) + most * steps / (steps + half)


Values = dict[str, float]


def features(view: View, gap_unit: float) -> tuple[float, Values, Values, Values]:
    """What the model reads: the lead, what its weight depends on, the prior, and what the width depends on."""
    gap, noise, progress = _gap(view)
    late = math.log(seen(view.steps, view.full_steps) / USUAL_SEEN)
    seeds = math.log(max(view.seeds, 1))
    lead = math.asinh(gap / math.hypot(gap_unit, noise))
    trust = {"one": 1.0, "late": late, "progress": progress, "seeds": seeds}
    prior = {"rules": 1.0, "place": place_feature(view.place)} | facts_features(view.facts)
    prior |= {f"{name}_late": late * value for name, value in prior.items()}
    size = math.asinh(abs(gap) / SIZE_UNIT)
    spread = {"one": 1.0, "late": late, "progress": progress, "size": size, "seeds": seeds} | facts_features(view.facts)
    return lead, trust, prior, spread


def place_feature(place: int) -> float:
    """Places count by their logarithm."""
    return math.log1p(UNORDERED if place < 0 else place)


def facts_features(facts: Facts) -> Values:
    """Depth counts where nothing makes up for it; what is unknown is as in the usual recorded network."""
    normalised = UNKNOWN_NORMALISED if facts.normalised is None else float(facts.normalised)
    bare = 0.0 if facts.residual else 1.0 - normalised
    depth = math.log(min(max(facts.depth, 1), DEEPEST) / USUAL_DEPTH) if facts.depth is not None else UNKNOWN_DEPTH
    return {"normalised": normalised, "depth": bare * depth}


def _gap(view: View) -> tuple[float, float, float]:
    """Relative gap of the best losses so far, its relative error, and progress of the current weights (0 to 1)."""
    candidate, current = best(view.candidate), best(view.current)
    if candidate is None or current is None:
        return 0.0, 0.0, 0.0
    start = view.initial if math.isfinite(view.initial) else max(candidate, current)
    noise = abs(view.noise) if math.isfinite(view.noise) else 0.0
    if min(candidate, current, start) > 0:
        gap = math.log(current) - math.log(candidate)
        return clip(gap), min(noise / current, LARGEST), max(0.0, 1.0 - current / start)
    fall = max(start - min(candidate, current), 1e-12 * max(abs(start), 1.0))
    return clip((current - candidate) / fall), min(noise / fall, LARGEST), 0.5 if current < start else 0.0


def best(losses: Sequence[float]) -> float | None:
    """The lowest finite loss; None where there is none."""
    return min((x for x in losses if math.isfinite(x)), default=None)


def clip(x: float) -> float:
    """Within what is told apart."""
    return max(-LARGEST, min(LARGEST, x))
