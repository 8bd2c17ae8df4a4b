"""What does a race need of whatever runs trainings? A few calls, which the engine answers, and scripts can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.member import MemberState


class Runs(Protocol):
    """Runs trainings of schemes, side by side where that is faster.

    Attributes:
        steps: optimizer steps taken so far, of all runs.
        started: runs that were started.
        measured: seeds whose runs have their signal and gradient flow measured.
        notes: what happened that a report should tell.
    """

    steps: int
    started: int
    measured: tuple[int, ...]
    notes: list[str]

    @property
    def description(self) -> str:
        """How trainings are run, for the report."""

    def add(self, scheme: Scheme) -> None:
        """Make a scheme known that was found during the race."""

    def advance(self, states: Sequence[MemberState], until: int, evals: Sequence[int]) -> Iterator[list[MemberState]]:
        """Train runs on to ``until`` steps, scored at ``evals``; yields them in groups, as they are done."""

    def per_second(self) -> float | None:
        """Optimizer steps per second of wall time that can be expected; None before anything was timed."""

    def step_cost(self, runs: int) -> float:
        """Seconds of wall time of an optimizer step of each of so many runs side by side."""

    def choose(self, seed: int, ahead: int, members: int | None = None) -> None:
        """Decide how runs are executed, by a probe that costs a small part of the steps ahead."""


@dataclass(frozen=True)
class About:
    """What a race knows of the training itself.

    Attributes:
        rates: learning rates to try, ascending.
        lr_locked: there is only the user's own rate.
        full_steps: optimizer steps of the full training, None where unknown.
        limit: steps after which no training can go on (its schedule ends), None without such a limit.
        optimizer_name, loss_name: for the report.
        warmup: steps of the user's warm-up that screening leaves out.
        identity: all that decides what a run computes, as plain values; a stored study is recognised by it.
        weights: digest of the current weights.
        fold_of: which rows a seed is scored on, where seeds have rows of their own.
    """

    rates: tuple[float, ...]
    lr_locked: bool
    full_steps: int | None
    limit: int | None = None
    optimizer_name: str = ""
    loss_name: str = ""
    warmup: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    fold_of: Mapping[int, int] = field(default_factory=dict)

    @property
    def chosen_rates(self) -> tuple[float, ...]:
        """All rates, the one to fall back on first: the lower middle of the grid, then outwards, upwards first.

        Example:
            >>> About((1e-4, 1e-3, 1e-2, 1e-1), False, None).chosen_rates
            (0.001, 0.01, 0.0001, 0.1)
        """
        middle = (len(self.rates) - 1) // 2
        order = sorted(range(len(self.rates)), key=lambda i: (abs(i - middle), -i))
        return tuple(self.rates[i] for i in order)

    @property
    def low_rates(self) -> tuple[float, ...]:
        """The rate to fall back on and those below it, in that order.

        Example:
            >>> About((1e-4, 1e-3, 1e-2, 1e-1), False, None).low_rates
            (0.001, 0.0001)
        """
        return tuple(rate for rate in self.chosen_rates if rate <= self.chosen_rates[0])
