"""How does the user's schedule move the rate? Read by stepping it over an optimizer that moves nothing."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

MOST_STEPS = 4000
"""Steps of a schedule that are read at most: a warm-up is over by then, and reading takes microseconds a step."""

UNKNOWN_LENGTH = 1000
"""Steps that are read where the length of the training is not known."""

RISE = 0.6
"""Largest first rate, as a share of the highest, of a schedule that warms up; smaller rises matter little."""

LONGEST_WARMUP = 0.5
"""Share of what was read up to which a rise is a warm-up; a longer one is the user's training itself."""


@dataclass(frozen=True)
class Schedule:
    """What was read of a schedule.

    Attributes:
        warmup: optimizer steps from the first to the highest rate; 0 where the rate does not rise.
        peaks: the highest rate of every parameter group, in multiples of the base rate.
        ends: optimizer steps after which the schedule raises an error; None where it goes on.
    """

    warmup: int = 0
    peaks: tuple[float, ...] = ()
    ends: int | None = None

    def held(self, step: int, lr: float) -> tuple[float, ...] | None:
        """Rates of all groups at a step of a training without the warm-up; None where the schedule's own hold.

        Until the warm-up would be over the rate is the highest; from then on it is the user's.

        Args:
            step: counted from 0.
            lr: the base rate.

        Example:
            >>> Schedule(warmup=100, peaks=(1.0,)).held(3, 0.1), Schedule(warmup=100, peaks=(1.0,)).held(100, 0.1)
            ((0.1,), None)
        """
        return tuple(lr * peak for peak in self.peaks) if step < self.warmup else None


def read_schedule(build: Callable[[float], tuple[Optimizer, Any]], lr: float, length: int | None) -> Schedule:
    """Step a schedule as often as the training would and tell where it rises and where it ends.

    Args:
        build: gives a fresh optimizer at a base rate and the user's scheduler over it, or None.
        lr: a base rate.
        length: optimizer steps of the full training, None where unknown.

    Example:
        >>> import torch
        >>> def build(lr):
        ...     optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
        ...     return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
        >>> read_schedule(build, 0.1, 2000).warmup
        100
    """
    optimizer, scheduler = build(lr)
    if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
        return Schedule()
    rows: list[list[float]] = []
    ends: int | None = None
    count = min(MOST_STEPS, length or UNKNOWN_LENGTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(count):
            rows.append([float(g["lr"]) for g in optimizer.param_groups])
            optimizer.step()  # no gradient: nothing moves, but the scheduler wants to have seen it
            try:
                scheduler.step()
            except ValueError:  # OneCycleLR and its kin, behind their last step
                ends = step
                break
    highest = [max(row[group] for row in rows) for group in range(len(rows[0]))]
    first = next(i for i, row in enumerate(rows) if row[0] >= highest[0] * (1 - 1e-9))
    rising = all(a[0] <= b[0] * (1 + 1e-9) for a, b in itertools.pairwise(rows[: first + 1]))
    if not rising or first == 0 or rows[0][0] > RISE * highest[0] or first > LONGEST_WARMUP * len(rows):
        return Schedule(ends=ends)
    return Schedule(first, tuple(rate / lr for rate in highest), ends)
