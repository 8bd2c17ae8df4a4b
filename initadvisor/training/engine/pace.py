"""What runs cost by the clock, as it was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WEAR = 1.3
"""What a step costs in a race, as a multiple of the fastest of a few timed by themselves."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What members cost, in seconds of wall time with all workers at work.

    Attributes:
        start: of beginning a member: its draw, its signal flow.
        advance: of having a member go on: its way to a worker and back, its signal flow after.
        evaluation: of scoring one member once.
        step: of one optimizer step of one of so many members, of so many seeds, side by side.
    """

    start: float
    advance: float
    evaluation: float
    step: Callable[[int, int], float]
