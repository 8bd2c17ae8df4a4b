"""What a long task is: a model, data that do not run out, and the training its owner would run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.regret.task import Optimizers, Tensors

STEPS = 3000
"""Length of every full training: a tenth of it buys three hundred steps, where a short task's tenth buys a dozen."""

WARMUP = 100
"""Steps over which the rate rises linearly in the tasks that warm up."""

ONE_CYCLE_RISE, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4
"""Share of a one-cycle training in which the rate rises, and what it starts and ends at (as in torch's OneCycleLR)."""


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate by step.

    Attributes:
        shape: "constant", "cosine", "linear" (both down to zero) or "one_cycle".
        warmup: steps over which the factor first rises to one.
        steps: length of the training.
    """

    shape: str = "constant"
    warmup: int = 0
    steps: int = STEPS

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        share = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        if self.shape == "one_cycle":
            return self._one_cycle(share)
        if self.shape == "cosine":
            return _cosine(1.0, 0.0, share)
        return 1.0 - share if self.shape == "linear" else 1.0

    @staticmethod
    def _one_cycle(share: float) -> float:
        if share < ONE_CYCLE_RISE:
            return _cosine(ONE_CYCLE_START, 1.0, share / ONE_CYCLE_RISE)
        return _cosine(1.0, ONE_CYCLE_END, (share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))

    @property
    def rise(self) -> int:
        """Steps until the full rate is reached."""
        return round(ONE_CYCLE_RISE * self.steps) if self.shape == "one_cycle" else self.warmup

    @property
    def warms_up(self) -> bool:
        """Whether the first steps run at less than the full rate."""
        return self.rise > 0

    def without_warmup(self) -> Schedule:
        """The same at the full rate from the first step; of a one-cycle only its height is left."""
        return replace(self, warmup=0, shape="constant" if self.shape == "one_cycle" else self.shape)

    def __str__(self) -> str:
        return self.shape.replace("_", "-") + (f" after {self.warmup} steps of warm-up" if self.warmup else "")


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class LongTask:
    """One long training, complete.

    Attributes:
        name: unique.
        family: label of leave-one-family-out.
        build: makes the model as torch makes it, from the global generator.
        draw: makes one training batch from a generator; the last tensor is the target. All chance is in it.
        load_heldout: rows that are never trained on, always the same.
        optimizer: ``(params, lr=…) -> Optimizer``, as ``advise`` takes it.
        lrs: three rates, ascending; the middle one is what a user would try first.
        loss: ``(output, target) -> scalar``, or ``(model, batch) -> scalar`` where ``on_model`` is set.
        on_model: which of the two.
        schedule: of the rate.
        clip_norm: gradient-norm bound of the training.
        stacked: members are trained as one program, which is the faster way here; else one after another.
        steps: length of the training.
        version: raise it when anything above changes: results of another version are not used.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], Tensors]
    load_heldout: Callable[[], Tensors]
    optimizer: Optimizers
    lrs: tuple[float, float, float]
    loss: Callable[..., torch.Tensor] = F.cross_entropy
    on_model: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    clip_norm: float | None = None
    stacked: bool = True
    steps: int = STEPS
    version: int = 1

    @property
    def rate(self) -> float:
        """What a user would try first."""
        return self.lrs[1]

    @cached_property
    def heldout(self) -> Tensors:
        """Rows that are never trained on."""
        return self.load_heldout()

    def batches(self, seed: int) -> Iterator[Tensors]:
        """Endless training batches that depend on the seed alone, so that schemes and rates share them."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield self.draw(generator)

    def batch_loss(self, model: Callable[..., Any], batch: Tensors) -> torch.Tensor:
        """Loss of one batch."""
        if self.on_model:
            return self.loss(model, batch)
        *inputs, target = batch
        return self.loss(model(*inputs), target)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule as ``advise`` takes it."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
