"""What a running race tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One event of a running race.

    Attributes:
        done: optimizer steps taken so far, summed over all members.
        total: steps planned; may shrink when members diverge or are dropped, never grows beyond the budget.
        phase: ``"race"``, ``"warm"``, ``"refine"``, ``"fresh"`` (fresh seeds), ``"done"``, or
            ``"plan"``: once, before the first rung, what will run, for how long, at what share of one training.
        message: one line for people (``"rung 2 of 3: 12 trainings to step 80"``).
        seconds: wall time since the race began.
        eta: estimated seconds left, None before anything has been timed.
    """

    done: int
    total: int
    phase: str
    message: str
    seconds: float = 0.0
    eta: float | None = None

    @property
    def share(self) -> float:
        """Part done, between 0 and 1.

        Example:
            >>> Progress(50, 200, "rung", "").share
            0.25
        """
        return min(1.0, self.done / self.total) if self.total else 0.0


OnEvent = Callable[[Progress], None]
"""A listener; what it raises stops the race, so that a UI can cancel."""


def ignore(event: Progress) -> None:
    """Listen to nothing."""
