"""A budget in seconds: what members cost by the clock, and the plan that fits into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from initadvisor.trials.budget import CONFIRM_EVALS, Plan

SECONDS_MARGIN = 0.9
"""Part of a budget in seconds that is planned; the rest absorbs what is paid once (a process, a storage)."""

HARD_STOP = 1.05
"""Share of a budget in seconds at which a race ends whatever it is at: trainings under way then end within the tenth a
budget is kept to, unless one of them is longer than that."""

SEARCH_ROUNDS = 40
"""Bisections when a plan is fitted."""


class OutOfTimeError(Exception):
    """A budget in seconds is used up; caught where the race is run, which then decides by what is done."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What members cost, in seconds of wall time with all workers at work.

    Attributes:
        start: of beginning a member: its draw, its signal flow, its way to a worker.
        step: of one optimizer step of one member.
        evaluation: of scoring one member once.
    """

    start: float
    step: float
    evaluation: float

    def seconds(self, plan: Plan) -> float:
        """Time a plan takes.

        Example:
            >>> from initadvisor.trials.budget import plan_for_steps
            >>> plan = plan_for_steps(1000, candidates=3, rates=1, length=100)
            >>> Pace(start=0.0, step=0.01, evaluation=0.0).seconds(plan) == plan.steps * 0.01
            True
        """
        racing, confirming = plan.rung_members, plan.confirm_members
        scored = confirming * CONFIRM_EVALS + racing * len(plan.rungs)
        return plan.steps * self.step + (racing + confirming) * self.start + scored * self.evaluation

    def fit(self, seconds: float, make: Callable[[int], Plan]) -> Plan:
        """The largest plan of ``make`` (which takes a number of steps) that fits into so many seconds."""
        low, high = 1, max(2, int(seconds / max(self.step, 1e-9)))
        for _ in range(SEARCH_ROUNDS):
            if high - low <= 1:
                break
            middle = (low + high) // 2
            low, high = (middle, high) if self.seconds(make(middle)) <= seconds else (low, middle)
        return make(low)
