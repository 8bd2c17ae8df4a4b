"""Where does a race keep what it has trained, what it has spent, and what is left? One place for all phases."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import Status
from initadvisor.trials.plan import Prices
from initadvisor.trials.port import About, Runs
from initadvisor.trials.progress import OnEvent, Progress

SECONDS_MARGIN = 0.95
"""Part of a budget in seconds that is planned; the rest absorbs what comes once (a decision, a report)."""

HARD_STOP = 1.0
"""Share of a budget in seconds at which a race ends whatever it is at."""

TRUSTED = 0.5, 4.0
"""Bounds of the ratio between what rungs took and what they were expected to take, by which the rest is expected."""


class OutOfMoneyError(Exception):
    """A budget is used up; caught where the race is run, which then decides by what is done."""


class Log(Protocol):
    """What records a race; :class:`initadvisor.trials.study.StudyLog` is one."""

    def open(self, identity: Mapping[str, Any]) -> dict[MemberKey, MemberState]:
        """Begin, or go on; gives back what is known of runs."""

    def note(self, name: str, value: Any) -> None:
        """Keep a plain value."""

    def noted(self, name: str) -> Any:
        """A value kept before, None where there is none."""

    def begin(self, keys: Sequence[MemberKey], *, schemes: Sequence[str], rates: Sequence[float]) -> None:
        """Runs are about to start."""

    def save(self, states: Sequence[MemberState]) -> None:
        """What is known of runs now."""

    def report(self, key: MemberKey, step: int, value: float) -> None:
        """The score of an arm at a rung."""

    def finish(self, key: MemberKey, status: Status, value: float, why: str = "") -> None:
        """How an arm ended."""

    def suggest(
        self, names: Sequence[str], scheme: str, lr: float, *, low: float, high: float, seed: int
    ) -> dict[str, float]:
        """Multipliers for a refined scheme."""


class Ledger:
    """Trains runs, writes each down as soon as it is there, and knows what is left of the money.

    Attributes:
        states: all runs of this race, by key.
        known: runs that a stored study holds.
        resumed: optimizer steps that were read from it.
        probed: optimizer steps that a probe of the machine took.
        reserve: of the money, what is kept for that probe.
        money: optimizer steps, or seconds, that the race may cost; infinite until it is planned.
        in_seconds: the money is seconds.
    """

    def __init__(self, runs: Runs, about: About, log: Log, schemes: Sequence[str], on_event: OnEvent) -> None:
        """Start the clock."""
        self.runs, self.about, self.log, self.on_event = runs, about, log, on_event
        self.schemes = tuple(schemes)
        self.states: dict[MemberKey, MemberState] = {}
        self.known: dict[MemberKey, MemberState] = {}
        self.resumed = self.probed = self.reserve = 0
        self.money = math.inf
        self.in_seconds = False
        self.prices = Prices()
        self.training_seconds = 0.0
        self._began = time.perf_counter()
        self._took = self._expected = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the race began."""
        return time.perf_counter() - self._began

    @property
    def steps(self) -> int:
        """Optimizer steps taken: of all runs, those read from a stored study included, and of the probe.

        It follows from the runs alone, so a race that goes on counts as the one that was not stopped.
        """
        return sum(s.steps for s in self.states.values()) + self.probed

    @property
    def left(self) -> float:
        """Money that may still be planned."""
        if self.in_seconds:
            return max(0.0, self.money * SECONDS_MARGIN - self.elapsed) / self._worn
        return max(0.0, self.money - self.reserve - (self.steps - self.probed))

    @property
    def _worn(self) -> float:
        """What rungs took, as a multiple of what they were expected to take."""
        low, high = TRUSTED
        return min(high, max(low, self._took / self._expected)) if self._expected > 0 else 1.0

    def check(self) -> None:
        """Look at the clock.

        Raises:
            OutOfMoneyError: the seconds are used up.
        """
        if self.in_seconds and self.elapsed > HARD_STOP * self.money:
            raise OutOfMoneyError

    def advance(self, keys: Sequence[MemberKey], until: int, evals: Sequence[int], message: str) -> None:
        """Bring runs to ``until`` steps; those of a stored study are taken over."""
        self.log.begin(keys, schemes=self.schemes, rates=self.about.rates)
        todo = []
        for key in keys:
            stored, state = self.known.get(key), self.states.get(key)
            if state is not None and _tells(state, until, evals):
                continue
            if stored is not None and _tells(stored, until, evals):
                # No more of it than the race has asked for so far, so that it goes on as it would have gone.
                self.states[key] = stored.until(until)
                self.resumed += self.states[key].steps - (state.steps if state is not None else 0)
                continue
            todo.append(state if state is not None else MemberState(key))
        phase = keys[0].phase if keys else "race"
        self.tell(phase, message)
        began, before = self.elapsed, self.runs.steps
        for done in self.runs.advance(todo, until, evals):
            for state in done:
                self.states[state.key] = state
            self.log.save(done)
            self.tell(phase, message)
            self.check()
        taken = self.runs.steps - before
        self.training_seconds += self.elapsed - began
        if self.in_seconds and taken:
            self._took += self.elapsed - began
            resumed = sum(s.steps > 0 for s in todo)
            self._expected += self.prices.cost(len(todo), taken, len(todo) - resumed)

    def report(self, key: MemberKey, step: int, value: float) -> None:
        """Write down the score of an arm at a rung."""
        self.log.report(key, step, value)

    def finish(self, key: MemberKey, status: Status, value: float, why: str = "") -> None:
        """Write down how an arm ended."""
        self.log.finish(key, status, value, why)

    def drop_checkpoints(self, keep: Callable[[MemberKey], bool]) -> None:
        """Free the weights of runs that go no further."""
        for key, state in self.states.items():
            if state.checkpoint is not None and not keep(key):
                self.states[key] = replace(state, checkpoint=None)

    def tell(self, phase: str, message: str) -> None:
        """One event for whoever watches."""
        if phase == "done":
            self.on_event(Progress(self.steps, self.steps, phase, message, self.elapsed, 0.0))
            return
        if self.in_seconds:
            eta: float | None = max(0.0, self.money - self.elapsed)
            share = min(1.0, self.elapsed / self.money)
            total = max(self.steps, round(self.steps / share)) if share > 0 else self.steps
        else:
            total = int(self.money) if math.isfinite(self.money) else self.steps
            done = self.steps - self.resumed
            eta = max(0, total - self.steps) * self.elapsed / done if done > 0 else None
        self.on_event(Progress(self.steps, max(total, self.steps), phase, message, self.elapsed, eta))


def _tells(state: MemberState, until: int, evals: Sequence[int]) -> bool:
    """Whether all there is to know of a run up to some steps is known, its scores included."""
    if state.dead and state.steps < until:
        return True
    scored = {step for step, _ in state.heldout}
    return state.steps >= until and {e for e in evals if e <= until} <= scored
