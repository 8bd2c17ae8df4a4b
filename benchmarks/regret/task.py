"""What a benchmark task is: a model, data, and the training its owner would run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

Tensors = tuple[torch.Tensor, ...]
Optimizers = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Data:
    """Training rows and rows that neither training nor advisor ever see; the last tensor of each is the target."""

    train: Tensors
    heldout: Tensors


@dataclass(frozen=True)
class Task:
    """One small training, complete.

    Attributes:
        name: unique.
        family: label of leave-one-family-out.
        build: makes the model as torch makes it, from the global generator.
        load: the data, always the same.
        optimizer: ``(params, lr=…) -> Optimizer``, as ``advise`` takes it.
        lrs: the grid that pool and advisor search, ascending.
        steps: length of the full training.
        batch_size: rows per step.
        loss: ``(output, target) -> scalar``, or ``(model, batch) -> scalar`` where ``on_model`` is set.
        on_model: which of the two.
        clip_norm: gradient-norm bound of the training.
        expected_null: we expect that nothing beats the default beyond noise; the report measures whether it is so.
        unseen: made after the advisor; nothing of it was chosen by this task's results, and it is reported apart.
        version: raise it when anything above changes: results of another version are not used.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    load: Callable[[], Data]
    optimizer: Optimizers
    lrs: tuple[float, ...]
    steps: int
    batch_size: int
    loss: Callable[..., torch.Tensor] = F.cross_entropy
    on_model: bool = False
    clip_norm: float | None = None
    expected_null: bool = False
    unseen: bool = False
    version: int = 1

    def loader(self, seed: int) -> DataLoader[tuple[torch.Tensor, ...]]:
        """The training rows as a user would hand them to ``advise``."""
        rows = TensorDataset(*self.load().train)
        order = torch.Generator().manual_seed(seed)
        return DataLoader(rows, batch_size=self.batch_size, shuffle=True, drop_last=True, generator=order)

    def batches(self, seed: int) -> Iterator[Tensors]:
        """Endless training batches; their order depends on the seed alone, so that schemes and rates share it."""
        rows = self.load().train
        order = torch.Generator().manual_seed(seed)
        while True:
            for index in torch.randperm(len(rows[0]), generator=order).split(self.batch_size):
                if len(index) == self.batch_size:
                    yield tuple(t[index] for t in rows)

    def batch_loss(self, model: nn.Module, batch: Tensors) -> torch.Tensor:
        """Loss of one batch."""
        if self.on_model:
            return self.loss(model, batch)
        *inputs, target = batch
        return self.loss(model(*inputs), target)

    def advise_arguments(self, seed: int) -> dict[str, Any]:
        """This training as keyword arguments of ``advise``, without model and batch."""
        return {
            "loss": self.loss,
            "optimizer": self.optimizer,
            "lr": self.lrs,
            "clip_norm": self.clip_norm,
            "steps": self.steps,
            "seed": seed,
        }


def sgd(momentum: float = 0.9) -> Optimizers:
    """SGD with momentum."""
    return partial(torch.optim.SGD, momentum=momentum)


def adam() -> Optimizers:
    """Adam as torch sets it."""
    return partial(torch.optim.Adam)


def adamw(weight_decay: float = 0.01) -> Optimizers:
    """AdamW."""
    return partial(torch.optim.AdamW, weight_decay=weight_decay)


def token_cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per token of ``(batch, time, classes)`` logits, in nats."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def round_robin(tasks: Iterable[Task]) -> list[Task]:
    """The first task of every family, then the second of every family: a run cut short still covers them all."""
    by_family: dict[str, list[Task]] = {}
    for task in tasks:
        by_family.setdefault(task.family, []).append(task)
    longest = max(map(len, by_family.values()), default=0)
    return [group[i] for i in range(longest) for group in by_family.values() if i < len(group)]
