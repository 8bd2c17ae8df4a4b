"""From paired trainings on fresh seeds to a statement: switch, keep or undecided, with effect, interval and p."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from initadvisor.trials.result import Verdict

ALPHA = 0.05
"""Rate of false switches that is accepted: one-sided, on seeds no selection has seen."""

FIRST_ALPHA = 0.01
"""Part of :data:`ALPHA` spent on a first look after a few seeds. Effects that make a net train at all pass it on three
seeds and save the others; Bonferroni's split keeps the rate of false switches, whatever the looks have in common."""

LAST_ALPHA = ALPHA - FIRST_ALPHA
"""The rest, for the last look; five seeds on which only the current weights die (p = 1/32) pass it."""

CONFIDENCE = 1 - 2 * ALPHA
"""Level of the two-sided interval whose lower end is that one-sided bound."""

EFFECT_SHARE = 0.01
"""Smallest effect that matters, as a share of the current weights' final loss: a percent is about what an epoch more
brings at the end of a training, and less is not worth touching a model for."""

EFFECT_OF_DROP = 0.001
"""The same as a share of how much training lowers the loss; for losses that end near zero or below it."""


SHORTEST_KEEP = 10
"""Steps below which a training has hardly begun, whatever the weights: no ground for "keep"."""

SHORTEST_KEEP_SHARE = 0.05
"""Share of the full training below which "keep" is not said: rankings at 5% have a regret of .23 (the first rung)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Current weights and challenger on one fresh seed, each at its own best rate.

    Attributes:
        seed: of the draw.
        current, challenger: best held-out loss.
        current_died, challenger_died: the training diverged or raised.
        fold: which rows scored it; None where all seeds share theirs.
    """

    seed: int
    current: float
    challenger: float
    current_died: bool = False
    challenger_died: bool = False
    fold: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What paired trainings say.

    Attributes:
        verdict: switch, keep or undecided.
        effect: mean of current minus challenger; inf where only the current weights died, and on every seed.
        interval: of the effect, at :data:`CONFIDENCE`.
        p: one-sided, of an effect not above ``smallest``.
        smallest: least effect that matters.
        why: one sentence.
    """

    verdict: Verdict
    effect: float
    interval: tuple[float, float]
    p: float
    smallest: float
    why: str


def smallest_effect(final: float, initial: float) -> float:
    """Least improvement worth a change, in units of the loss.

    Example:
        >>> smallest_effect(final=2.0, initial=2.3)
        0.02
    """
    drop = abs(initial - final) if math.isfinite(initial) and math.isfinite(final) else 0.0
    return max(EFFECT_SHARE * abs(final) if math.isfinite(final) else 0.0, EFFECT_OF_DROP * drop)


def too_short_to_keep(horizon: int, full_steps: int | None) -> bool:
    """Whether trainings of that length cannot show that nothing is to be gained.

    An effect that is seen is seen at any horizon; one that is not may need longer to appear, so "keep" asks for more.

    Args:
        horizon: optimizer steps of each confirmation training.
        full_steps: of the user's full training, None where unknown.

    Example:
        >>> too_short_to_keep(1, 400), too_short_to_keep(40, 400), too_short_to_keep(40, None)
        (True, False, False)
    """
    return horizon < SHORTEST_KEEP or (full_steps is not None and horizon < SHORTEST_KEEP_SHARE * full_steps)


def decide(pairs: Sequence[Pair], smallest: float, alpha: float = ALPHA) -> Finding:
    """Judge paired trainings on seeds that took no part in choosing the challenger.

    Deaths come first, by an exact test on the seeds where only one side died; otherwise Student's t on the paired
    differences. Where seeds were scored on rows of their own, their scatter holds the chance of the rows as well; seeds
    that share rows then count as one. A switch needs the one-sided bound above ``smallest``, not above zero.

    Args:
        pairs: one per fresh seed.
        smallest: least effect that matters.
        alpha: rate of false switches this judgement may have. The p that is given back is scaled so that it is always
            :data:`ALPHA` that it has to stay below.

    Example:
        >>> decide([Pair(s, 2.3, 0.1 + 0.01 * s) for s in range(5)], 0.02).verdict.value
        'switch'
    """
    count = len(pairs)
    if count == 0:
        why = "no fresh seed was finished, so nothing is confirmed"
        return Finding(Verdict.UNDECIDED, 0.0, (-math.inf, math.inf), 1.0, smallest, why)
    only_current = sum(p.current_died and not p.challenger_died for p in pairs)
    only_challenger = sum(p.challenger_died and not p.current_died for p in pairs)
    if only_challenger:
        dead = sum(p.challenger_died for p in pairs)
        why = f"the challenger's training broke down on {dead} of {count} fresh seeds"
        return _by_deaths(pairs, smallest, alpha, Verdict.KEEP, why)
    if only_current:
        # McNemar's exact test: under no difference each such seed is a fair coin.
        p = 0.5**only_current
        dead = sum(p.current_died for p in pairs)
        other = "less often" if any(p.challenger_died for p in pairs) else "on none"
        seeds = f"on {dead} of {count} fresh seeds"
        why = f"{seeds} training broke down with the current weights, with the challenger {other}"
        verdict = Verdict.SWITCH if p <= alpha else Verdict.UNDECIDED
        return _by_deaths(pairs, smallest, alpha, verdict, why, min(1.0, p * ALPHA / alpha))
    alive = [p for p in pairs if not p.current_died]
    if not alive:
        why = f"training broke down on all {count} fresh seeds, whichever the weights"
        return Finding(Verdict.KEEP, 0.0, (-math.inf, math.inf), 1.0, smallest, why)
    return _by_difference(alive, smallest, alpha)


def _by_deaths(
    pairs: Sequence[Pair], smallest: float, alpha: float, verdict: Verdict, why: str, p: float = 1.0
) -> Finding:
    current = sum(pair.current_died for pair in pairs)
    challenger = sum(pair.challenger_died for pair in pairs)
    if current == len(pairs) and challenger == 0:
        return Finding(verdict, math.inf, (math.inf, math.inf), p, smallest, why)
    both = [pair for pair in pairs if not (pair.current_died or pair.challenger_died)]
    effect, interval, _ = _t_test(_differences(both), smallest, alpha) if both else (0.0, (-math.inf, math.inf), 1.0)
    return Finding(verdict, effect, interval, p, smallest, why)


def _t_test(differences: Sequence[float], smallest: float, alpha: float) -> tuple[float, tuple[float, float], float]:
    """Mean, two-sided interval and one-sided p of a mean not above ``smallest``."""
    from scipy.stats import t as student

    count = len(differences)
    mean = math.fsum(differences) / count
    if count < 2 or not math.isfinite(mean):
        return mean, (-math.inf, math.inf), 1.0
    variance = math.fsum((d - mean) ** 2 for d in differences) / (count - 1)
    error = math.sqrt(variance / count)
    if error == 0:
        return mean, (mean, mean), 0.0 if mean > smallest else 1.0
    reach = float(student.ppf(1 - alpha, count - 1)) * error
    return mean, (mean - reach, mean + reach), float(student.sf((mean - smallest) / error, count - 1))


def _differences(pairs: Sequence[Pair]) -> list[float]:
    """Independent differences: one of each fold, the mean of its seeds; of each seed where there are no folds."""
    folds: dict[int, list[float]] = {}
    for pair in pairs:
        if pair.fold is not None:
            folds.setdefault(pair.fold, []).append(pair.current - pair.challenger)
    if len(folds) < 2:
        return [p.current - p.challenger for p in pairs]
    return [math.fsum(values) / len(values) for values in folds.values()]


def _by_difference(pairs: Sequence[Pair], smallest: float, alpha: float) -> Finding:
    effect, interval, p = _t_test(_differences(pairs), smallest, alpha)
    p = min(1.0, p * ALPHA / alpha)
    seeds = f"on {len(pairs)} fresh seeds"
    if p <= ALPHA:
        bound = f"at least {interval[0]:.3g} at {1 - ALPHA:.0%} confidence"
        why = f"{seeds} the held-out loss is lower by {effect:.3g}, {bound}"
        return Finding(Verdict.SWITCH, effect, interval, p, smallest, why)
    if effect <= smallest:
        worse = f"higher by {-effect:.3g}" if effect < 0 else f"lower by {effect:.3g} only"
        why = f"{seeds} the challenger's held-out loss is {worse}; nothing above {smallest:.2g} is to be gained"
        if interval[1] > smallest:
            why = f"{seeds} the challenger's held-out loss is {worse}"
        return Finding(Verdict.KEEP, effect, interval, p, smallest, why)
    why = (
        f"{seeds} the held-out loss is lower by {effect:.3g}, but the interval {interval[0]:.3g} to {interval[1]:.3g} "
        f"does not exclude less than {smallest:.2g}, the least that matters"
    )
    return Finding(Verdict.UNDECIDED, effect, interval, p, smallest, why)
