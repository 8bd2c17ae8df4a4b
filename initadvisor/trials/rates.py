"""Which learning rate? Early views prefer rates that are too high, so of those that are level the lowest is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping

from initadvisor.trials.odds import artefact


def choose_rate(scores: Mapping[float, float], *, steps: int, full_steps: int | None, noise: float = 0.0) -> float:
    """The rate to use: the lowest of those that an early view cannot tell from the best.

    How far behind a lower rate may be, and still be taken, was fitted to recorded trainings; it shrinks as more of
    the training is seen.

    Args:
        scores: held-out loss (lower is better) by rate; a value that is not finite is a training that broke down.
        steps: optimizer steps behind the scores.
        full_steps: length of the user's training; None where unknown.
        noise: standard error of a score, 0 where unknown.

    Raises:
        ValueError: ``scores`` is empty.

    Example:
        >>> choose_rate({0.01: 0.500, 0.03: 0.499}, steps=40, full_steps=2000)
        0.01
        >>> choose_rate({0.01: 0.5, 0.03: 0.1}, steps=40, full_steps=2000)
        0.03
    """
    if not scores:
        raise ValueError("no learning rate has a score")
    alive = {rate: score for rate, score in scores.items() if math.isfinite(score)}
    if not alive:
        return min(scores)
    fitted = artefact()["rates"]
    share = min(1.0, steps / full_steps) if full_steps else 0.0
    best = min(alive.values())
    reach = fitted["level"] * max(0.0, 1.0 - share / fitted["until_share"]) * abs(best)
    reach += max(0.0, noise) if math.isfinite(noise) else 0.0
    return min(rate for rate, score in alive.items() if score <= best + reach)
