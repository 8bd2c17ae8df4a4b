"""One full training, from weights to curve."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from benchmarks.regret.task import Optimizers, Task
from initadvisor.schemes.scheme import Scheme

EVALUATIONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the full length at which the held-out loss is read: dense early, where short trials stop."""


HELDOUT_SEED = 3
"""Of the noise that a loss may draw on the held-out rows."""

SIGNIFICANT_DIGITS = 6
"""Losses are rounded at the source, so that a rate chosen from memory is the rate chosen from disk."""


@dataclass(frozen=True)
class Curve:
    """What a training left behind.

    Attributes:
        steps: optimizer steps done at each evaluation.
        heldout: held-out loss there.
        train: mean training loss since the start, up to there (NaN at step 0).
        diverged: the loss or a weight stopped being finite; the curve ends there.
        seconds: processor time of the training, without making and filling the model.
        fill_seconds: processor time of filling the model.
    """

    steps: tuple[int, ...]
    heldout: tuple[float, ...]
    train: tuple[float, ...]
    diverged: bool
    seconds: float
    fill_seconds: float

    @property
    def best(self) -> float:
        """Held-out loss of the best checkpoint, as a user would keep it; inf where none was finite."""
        return min((x for x in self.heldout if math.isfinite(x)), default=math.inf)


def evaluation_steps(steps: int) -> tuple[int, ...]:
    """Steps at which a training of that length is evaluated."""
    return tuple(sorted({round(share * steps) for share in EVALUATIONS}))


def fresh_model(task: Task, scheme: Scheme | None, seed: int) -> nn.Module:
    """A model drawn from ``seed`` and filled by ``scheme`` (None: as its code builds it)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build()
        if scheme is not None:
            scheme.apply(model, seed=seed, batch=next(task.batches(seed)), loss=task.loss)
    return model


def fused(optimizer: Optimizers) -> Optimizers:
    """The same optimizer with torch's fused step: the same arithmetic in one kernel, much faster on small tensors."""
    return partial(optimizer, fused=True)


@torch.no_grad()
def heldout_loss(task: Task, model: nn.Module) -> float:
    """Loss on all held-out rows in evaluation mode."""
    model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(HELDOUT_SEED)  # a loss that draws noise is read with the same noise every time
        loss = float(task.batch_loss(model, task.load().heldout))
    model.train()
    return loss


def train(task: Task, scheme: Scheme | None, lr: float, seed: int) -> Curve:
    """Train in full and evaluate along the way.

    The seed fixes weights, batch order and dropout; for one seed all schemes and rates see the same batches.
    """
    began = time.process_time()
    model = fresh_model(task, scheme, seed)
    filled = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steps, heldout, mean_train, diverged = _run(task, model.train(), lr, seed)
    seconds, fill_seconds = round(time.process_time() - filled, 3), round(filled - began, 3)
    return Curve(steps, _rounded(heldout), _rounded(mean_train), diverged, seconds, fill_seconds)


def _rounded(losses: list[float]) -> tuple[float, ...]:
    return tuple(float(f"{x:.{SIGNIFICANT_DIGITS}g}") for x in losses)


def _run(task: Task, model: nn.Module, lr: float, seed: int) -> tuple[tuple[int, ...], list[float], list[float], bool]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = fused(task.optimizer)(trained, lr=lr)
    wanted = evaluation_steps(task.steps)
    steps, heldout, mean_train = [0], [heldout_loss(task, model)], [math.nan]
    total = torch.zeros(())
    for step, batch in zip(range(1, task.steps + 1), task.batches(seed), strict=False):
        optimizer.zero_grad()
        loss = task.batch_loss(model, batch)
        loss.backward()
        if task.clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, task.clip_norm)
        optimizer.step()
        total += loss.detach()
        if step in wanted:
            steps.append(step)
            heldout.append(heldout_loss(task, model))
            mean_train.append(float(total) / step)
            if not (math.isfinite(heldout[-1]) and math.isfinite(mean_train[-1])):
                return tuple(steps), heldout, mean_train, True
    return tuple(steps), heldout, mean_train, False
