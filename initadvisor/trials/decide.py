"""From paired trainings on fresh seeds and rows to a statement: switch, keep or undecided, with interval and p."""

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
        parts: current minus challenger on each part of the held-out rows; empty where it is not known.
    """

    seed: int
    current: float
    challenger: float
    current_died: bool = False
    challenger_died: bool = False
    parts: tuple[float, ...] = ()


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


def look(
    pairs: Sequence[Pair], smallest: float, weights: Sequence[float] = (), *, first: int, planned: int
) -> tuple[Finding, bool]:
    """Judge the seeds there are so far, and say whether more are needed.

    A first look may switch at :data:`FIRST_ALPHA` or give up where nothing speaks for the challenger (which costs no
    false switch); the last one judges at :data:`LAST_ALPHA`.

    Args:
        pairs: one per fresh seed, so far.
        smallest: least effect that matters.
        weights: rows in each of :attr:`Pair.parts`.
        first: seeds of the first look.
        planned: seeds of the last.

    Returns:
        The finding, and whether it is final.

    Example:
        >>> found, final = look([Pair(s, 2.3, 0.1 + 0.01 * s) for s in range(3)], 0.02, first=3, planned=5)
        >>> found.verdict.value, final
        ('switch', True)
    """
    if len(pairs) >= planned:
        return decide(pairs, smallest, LAST_ALPHA, weights), True
    finding = decide(pairs, smallest, FIRST_ALPHA, weights)
    return finding, len(pairs) >= first and finding.verdict is not Verdict.UNDECIDED


def decide(pairs: Sequence[Pair], smallest: float, alpha: float = ALPHA, weights: Sequence[float] = ()) -> Finding:
    """Judge paired trainings on seeds that took no part in choosing the challenger.

    Deaths come first, by an exact test on the seeds where only one side died; otherwise Student's t on the paired
    differences, with the error over seeds and, where the differences on parts of the rows are known, that over rows.
    A switch needs the one-sided bound above ``smallest``, not above zero.

    Args:
        pairs: one per fresh seed.
        smallest: least effect that matters.
        alpha: rate of false switches this judgement may have. The p that is given back is scaled so that it is always
            :data:`ALPHA` that it has to stay below.
        weights: rows in each of :attr:`Pair.parts`.

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
        return _by_deaths(pairs, smallest, alpha, weights, Verdict.KEEP, why)
    if only_current:
        # McNemar's exact test: under no difference each such seed is a fair coin.
        p = 0.5**only_current
        dead = sum(p.current_died for p in pairs)
        other = "less often" if any(p.challenger_died for p in pairs) else "on none"
        seeds = f"on {dead} of {count} fresh seeds"
        why = f"{seeds} training broke down with the current weights, with the challenger {other}"
        verdict = Verdict.SWITCH if p <= alpha else Verdict.UNDECIDED
        return _by_deaths(pairs, smallest, alpha, weights, verdict, why, min(1.0, p * ALPHA / alpha))
    alive = [p for p in pairs if not p.current_died]
    if not alive:
        why = f"training broke down on all {count} fresh seeds, whichever the weights"
        return Finding(Verdict.KEEP, 0.0, (-math.inf, math.inf), 1.0, smallest, why)
    return _by_difference(alive, smallest, alpha, weights)


def _by_deaths(
    pairs: Sequence[Pair],
    smallest: float,
    alpha: float,
    weights: Sequence[float],
    verdict: Verdict,
    why: str,
    p: float = 1.0,
) -> Finding:
    current = sum(pair.current_died for pair in pairs)
    challenger = sum(pair.challenger_died for pair in pairs)
    if current == len(pairs) and challenger == 0:
        return Finding(verdict, math.inf, (math.inf, math.inf), p, smallest, why)
    both = [pair for pair in pairs if not (pair.current_died or pair.challenger_died)]
    effect, interval, _ = _t_test(both, smallest, alpha, weights) if both else (0.0, (-math.inf, math.inf), 1.0)
    return Finding(verdict, effect, interval, p, smallest, why)


def _t_test(
    pairs: Sequence[Pair], smallest: float, alpha: float, weights: Sequence[float]
) -> tuple[float, tuple[float, float], float]:
    """Mean, two-sided interval and one-sided p of a mean not above ``smallest``."""
    from scipy.stats import t as student

    differences = [p.current - p.challenger for p in pairs]
    count = len(differences)
    mean = math.fsum(differences) / count
    if count < 2 or not math.isfinite(mean):
        return mean, (-math.inf, math.inf), 1.0
    variance, freedom = _error(pairs, weights)
    error = math.sqrt(variance)
    if error == 0:
        return mean, (mean, mean), 0.0 if mean > smallest else 1.0
    reach = float(student.ppf(1 - alpha, freedom)) * error
    return mean, (mean - reach, mean + reach), float(student.sf((mean - smallest) / error, freedom))


def _error(pairs: Sequence[Pair], weights: Sequence[float]) -> tuple[float, float]:
    """Variance of the mean difference and its degrees of freedom.

    Seeds and rows are crossed: every seed is scored on the same rows. Of the mean of a seed × part table, the variance
    of the seeds' means holds what seeds do, that of the parts' means what rows do; what only their combination does is
    in both and is taken off once. Parts weigh by their rows (the linearised ratio of totals). Degrees of freedom of
    the sum by Satterthwaite (Biometrics 2, 1946).

    Args:
        pairs: at least two.
        weights: rows of each part; without them, or where a part's difference is not finite, seeds alone count.
    """
    count = len(pairs)
    differences = [p.current - p.challenger for p in pairs]
    mean = math.fsum(differences) / count
    over_seeds = math.fsum((d - mean) ** 2 for d in differences) / (count - 1) / count
    table = [p.parts for p in pairs]
    parts = len(weights)
    if parts < 2 or any(len(row) != parts or not all(map(math.isfinite, row)) for row in table):
        return over_seeds, count - 1
    total = math.fsum(weights)
    shares = [w * parts / total for w in weights]
    columns = [math.fsum(row[k] for row in table) / count for k in range(parts)]
    deviations = [s * (c - mean) for s, c in zip(shares, columns, strict=True)]
    over_rows = math.fsum(d * d for d in deviations) / (parts - 1) / parts
    left = [
        shares[k] * (row[k] - difference - columns[k] + mean)
        for row, difference in zip(table, differences, strict=True)
        for k in range(parts)
    ]
    both = math.fsum(x * x for x in left) / ((count - 1) * (parts - 1)) / (count * parts)
    variance = max(over_seeds, over_rows, over_seeds + over_rows - both)
    if variance == 0:
        return 0.0, count - 1
    freedom = (over_seeds + over_rows) ** 2 / (over_seeds**2 / (count - 1) + over_rows**2 / (parts - 1))
    return variance, max(freedom, min(count, parts) - 1)


def _by_difference(pairs: Sequence[Pair], smallest: float, alpha: float, weights: Sequence[float]) -> Finding:
    effect, interval, p = _t_test(pairs, smallest, alpha, weights)
    p = min(1.0, p * ALPHA / alpha)
    seeds = f"on {len(pairs)} fresh seeds"
    if p <= ALPHA:
        bound = f"at least {interval[0]:.3g} at {1 - ALPHA:.0%} confidence"
        why = f"{seeds} the held-out loss is lower by {effect:.3g}, {bound}"
        return Finding(Verdict.SWITCH, effect, interval, p, smallest, why)
    if effect <= 0 or interval[1] <= smallest:
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
