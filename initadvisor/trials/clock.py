"""A budget in seconds: what members cost by the clock, and the plan that fits into it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from initadvisor.training.engine.pace import Pace
from initadvisor.trials.budget import CONFIRM_EVALS, PLAY_OFF, Plan, refit

SECONDS_MARGIN = 0.9
"""Part of a budget in seconds that is planned; the rest absorbs what is paid once (a process, a storage)."""

HARD_STOP = 1.05
"""Share of a budget in seconds at which a race ends whatever it is at: trainings under way then end within the tenth a
budget is kept to, unless one of them is longer than that."""

MOST_STEPS = 1 << 40
"""Model-steps beyond which no larger plan is looked for."""

SEARCH_ROUNDS = 40
"""Bisections when a plan is fitted."""


class OutOfTimeError(Exception):
    """A budget in seconds is used up; caught where the race is run, which then decides by what is done."""


TRUSTED = 0.5, 3.0
"""Bounds of the ratio between what rungs took and what they were expected to take, by which the rest is expected."""


class PlanPace(Pace):
    """What plans cost at a pace."""

    __slots__ = ()

    @classmethod
    def of(cls, pace: Pace) -> PlanPace:
        """The same pace, ready to price plans."""
        return cls(pace.start, pace.advance, pace.evaluation, pace.step)

    def seconds(self, plan: Plan, done: int = 0) -> float:
        """Time a plan takes after so many rungs.

        Example:
            >>> from initadvisor.trials.budget import plan_for_steps
            >>> plan = plan_for_steps(1000, candidates=3, rates=1, length=100)
            >>> pace = PlanPace(start=0.0, advance=0.0, evaluation=0.0, step=lambda members, seeds: 0.01)
            >>> round(pace.seconds(plan) / 0.01) == plan.steps
            True
        """
        racing = sum(self._rung(plan, index) for index in range(done, len(plan.rungs)))
        horizon, draws = (plan.rungs[-1].steps, plan.draws) if plan.rungs else (0, 0)
        variant = self._members(draws, draws, horizon, starting=draws)
        more = self._members(PLAY_OFF * plan.play_off, plan.play_off, horizon, starting=PLAY_OFF * plan.play_off)
        refining = plan.refine * variant + more if plan.refine else 0.0
        # Confirmation comes in two waves, unless the first settles it: few members have little to share.
        later = plan.confirm_seeds - plan.first_look
        first = self.confirming(plan, plan.confirm_members - 2 * later, plan.first_look)
        return racing + refining + first + self.confirming(plan, 2 * later, later)

    def confirming(self, plan: Plan, members: int, seeds: int) -> float:
        """Time of so many confirming members side by side."""
        scores = members * (CONFIRM_EVALS - 1) * self.evaluation
        return scores + self._members(members, seeds, plan.confirm_steps, starting=members)

    def _rung(self, plan: Plan, index: int) -> float:
        rung, before = plan.rungs[index], plan.rungs[index - 1] if index else None
        schemes = before.going if before else (plan.candidates + 1) * plan.rates
        late = max(0, rung.draws - (before.draws if before else 0))  # start from the beginning
        steps = plan.steps_to(index + 1) - plan.steps_to(index)
        members = schemes * rung.draws
        return self._members(members, rung.draws, steps / max(1, members), starting=schemes * late)

    def _members(self, count: int, seeds: int, steps: float, *, starting: int) -> float:
        if not count:
            return 0.0
        each = self.advance + self.evaluation + steps * self.step(count, max(1, seeds))
        return count * each + starting * self.start

    def fit(self, seconds: float, make: Callable[[int], Plan]) -> Plan:
        """The largest plan of ``make`` (which takes a number of steps) that fits into so many seconds."""
        low, high = 1, 2
        while high < MOST_STEPS and self.seconds(make(high)) <= seconds:
            low, high = high, 2 * high
        for _ in range(SEARCH_ROUNDS):
            if high - low <= 1:
                break
            middle = (low + high) // 2
            low, high = (middle, high) if self.seconds(make(middle)) <= seconds else (low, middle)
        return make(low)


class Timekeeper:
    """Holds a race to a budget in seconds; without one it only tells the time.

    Attributes:
        seconds: the budget, or None.
        pace: what members cost, once that is known.
    """

    def __init__(self, seconds: float | None, steps: Callable[[], int]) -> None:
        """Start the clock.

        Args:
            seconds: the budget, or None.
            steps: tells the optimizer steps taken so far.
        """
        self.seconds = seconds
        self.pace: PlanPace | None = None
        self._steps = steps
        self._began = time.perf_counter()
        self._took = self._expected = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the race began."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds that may still be planned; infinite without a budget."""
        return math.inf if self.seconds is None else max(0.0, self.seconds * SECONDS_MARGIN - self.elapsed)

    def share(self, of: float) -> float:
        """A share of the budget in seconds; infinite without one."""
        return math.inf if self.seconds is None else of * self.seconds

    def check(self) -> None:
        """Look at the clock.

        Raises:
            OutOfTimeError: the budget is used up.
        """
        if self.elapsed > self.share(HARD_STOP):
            raise OutOfTimeError

    @contextmanager
    def rung(self, plan: Plan, index: int) -> Iterator[None]:
        """Hold what a rung takes against what it was expected to take."""
        began, pace = self.elapsed, self._expected_pace()
        yield
        self._took += self.elapsed - began
        self._expected += pace.seconds(plan, index) - pace.seconds(plan, index + 1)

    def refitted(self, plan: Plan, done: int) -> Plan:
        """What is left of a plan after so many rungs, stretched or shrunk to the seconds left."""
        pace, worn, left = self._expected_pace(), self._worn, self.left
        return refit(plan, done, lambda other: worn * pace.seconds(other, done) <= left)

    def affords(self, plan: Plan, members: int, seeds: int) -> bool:
        """Whether so many more confirming members can be trained side by side."""
        if self.seconds is None:
            return True
        return self.elapsed + self._worn * self._expected_pace().confirming(plan, members, seeds) <= self.seconds

    def _expected_pace(self) -> PlanPace:
        """As it was measured; of a race that goes on with a stored plan, as it was so far."""
        so_far = self.elapsed / max(1, self._steps())
        return self.pace or PlanPace(0.0, 0.0, 0.0, lambda members, seeds: so_far)

    @property
    def _worn(self) -> float:
        """What the rungs took, as a multiple of what they were expected to take."""
        low, high = TRUSTED
        if self.pace is None or not self._expected:
            return 1.0  # a pace that is taken from what the race took needs no correction by it
        return min(high, max(low, self._took / self._expected))
