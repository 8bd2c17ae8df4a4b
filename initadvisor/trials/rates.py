"""Which learning rate? The best so far, but of rates that are level in a long training the lowest.

Early views of long trainings prefer rates that are too high: a high rate falls first and stays above. In trainings of a
few hundred steps the leader so far errs to both sides alike, and nothing is to be won by taking a lower one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from initadvisor.trials.odds import artefact
from initadvisor.trials.view import ASSUMED_STEPS

SHORT, LONG = 500, 3_000
"""Lengths of the recorded trainings; between them, and not beyond, the level goes with the logarithm of the length."""

FURTHEST = 3.5
"""Largest factor by which the rate may be lowered: one step of a usual grid (1, 3, 10). Lower
ones were too low as often."""

SETTLED = 0.5
"""Share of a training after which what leads is taken as it is; the level shrinks to nothing up to there."""


def choose_rate(scores: Mapping[float, float], *, steps: int, full_steps: int | None, noise: float = 0.0) -> float:
    """The rate to use: the best so far, or the next lower one where an early view cannot tell it from the best.

    How far behind a lower rate may be and still be taken was fitted to recorded trainings (``odds.json``); what it
    saves stands in ``benchmarks/odds/results/odds.md``.

    Args:
        scores: held-out loss (lower is better) by rate; a value that is not finite is a training that broke down.
        steps: optimizer steps behind the scores.
        full_steps: length of the user's training; None where unknown.
        noise: standard error of a score, 0 where unknown.

    Raises:
        ValueError: ``scores`` is empty.

    Example:
        >>> choose_rate({0.01: 0.5, 0.03: 0.1}, steps=40, full_steps=2000)
        0.03
    """
    level = artefact()["rates"]["level"]
    return lowest_level(scores, level_with(level["short"], level["long"], steps, full_steps), noise)


def level_with(short: float, long: float, steps: int, full_steps: int | None) -> float:
    """Share of the best loss by which a lower rate may be behind.

    Args:
        short: that share in trainings of :data:`SHORT` steps, of which hardly anything is seen.
        long: the same in trainings of :data:`LONG` steps.
        steps: seen.
        full_steps: of the whole training.

    Example:
        >>> level_with(0.0, 0.04, 30, 300), round(level_with(0.0, 0.04, 300, 3000), 3)
        (0.0, 0.032)
    """
    length = full_steps if full_steps and full_steps > 0 else ASSUMED_STEPS
    way = math.log(min(max(length, SHORT), LONG) / SHORT) / math.log(LONG / SHORT)
    left = max(0.0, 1.0 - max(steps, 0) / length / SETTLED)
    return (short + (long - short) * way) * left


def lowest_level(scores: Mapping[float, float], level: float, noise: float) -> float:
    """The lowest rate near the best one whose score is no further behind than the level and the noise."""
    if not scores:
        raise ValueError("no learning rate has a score")
    alive = {rate: score for rate, score in scores.items() if math.isfinite(score)}
    if not alive:
        return min(scores)
    leader = min(alive, key=lambda rate: (alive[rate], rate))
    best = alive[leader]
    reach = level * abs(best)
    if level and math.isfinite(noise):
        reach = max(reach, noise)  # noise widens what is level; where nothing is, the leader is the better guess
    return min(rate for rate, score in alive.items() if score <= best + reach and rate >= leader / FURTHEST)
