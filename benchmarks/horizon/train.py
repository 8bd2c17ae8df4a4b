"""Full trainings, from weights to curves: several members as one program, or one after another.

A stack keeps all weights of its members in one matrix, a row per member, so that the optimizer is a few operations on
that matrix and every member may have a rate of its own. The formulas are those of torch's optimizers; a test holds the
two ways together.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.horizon.task import LongTask, Schedule
from initadvisor.schemes.scheme import Scheme

SIGNIFICANT_DIGITS = 5
"""Losses are rounded at the source: what is read from memory is what is read from disk."""

FIRST_STEPS = (0, 1, 2, 3, 5, 7)
"""Steps at which the held-out loss is read before the even spacing begins."""

PER_DOUBLING = 4
"""Readings for every doubling of the steps, through 20·2^k, where halving stops."""

WORTH_RECORDING = 100
"""Steps from which it pays to record a stack's step: recording takes as long as some thirty of them."""

LAST_SHARES = (0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Curve:
    """What a training left behind.

    Attributes:
        steps: optimizer steps done at each evaluation.
        heldout: held-out loss there.
        train: mean training loss since the evaluation before (NaN at step 0).
        diverged: step at which a loss was first seen not to be finite, where the curve ends; None where it never was.
        seconds: processor time of this member's share of the training.
        fill_seconds: processor time of making and filling the model.
    """

    steps: tuple[int, ...]
    heldout: tuple[float, ...]
    train: tuple[float, ...]
    diverged: int | None
    seconds: float
    fill_seconds: float


def evaluation_steps(steps: int) -> tuple[int, ...]:
    """Steps at which a training of that length is evaluated: even in the logarithm."""
    spaced = {round(20 * 2 ** (k / PER_DOUBLING)) for k in range(-PER_DOUBLING, 12 * PER_DOUBLING)}
    last = {round(share * steps) for share in LAST_SHARES} if steps > 200 else {steps}
    return tuple(sorted(s for s in {*FIRST_STEPS, *spaced, *last} if s <= steps))


def fresh_model(task: LongTask, scheme: Scheme | None, seed: int) -> nn.Module:
    """A model drawn from ``seed`` and filled by ``scheme`` (None: as its code builds it), in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build()
        if scheme is not None:
            scheme.apply(model, seed=seed, batch=next(task.batches(seed)), loss=task.loss)
    return model.train()


def train(
    task: LongTask,
    members: Sequence[tuple[Scheme | None, float]],
    seed: int,
    *,
    steps: int | None = None,
    schedule: Schedule | None = None,
) -> list[Curve]:
    """Train members that share a seed, and so their batches.

    Args:
        task: the training.
        members: scheme and rate of each.
        seed: of weights and batches.
        steps: how far; the full length unless told otherwise.
        schedule: of the rate; the task's own unless told otherwise.
    """
    steps, schedule = steps or task.steps, schedule or task.schedule
    began = time.process_time()
    models = [fresh_model(task, scheme, seed) for scheme, _ in members]
    fill = (time.process_time() - began) / len(models)
    rates = [lr for _, lr in members]
    if task.stacked:
        return _Stack(task, models, rates, record=steps >= WORTH_RECORDING).run(seed, steps, schedule, fill)
    return [
        _Single(task, model, lr).run(seed, steps, schedule, fill)[0] for model, lr in zip(models, rates, strict=True)
    ]


class _Runner:
    """Batches, schedule and evaluations, whatever way a step is taken."""

    task: LongTask
    size: int

    def step(self, batch: tuple[torch.Tensor, ...], factor: float) -> torch.Tensor:
        """One optimizer step of all members at that factor of their rates; their losses before it."""
        raise NotImplementedError

    def heldout(self) -> torch.Tensor:
        """Held-out loss of every member."""
        raise NotImplementedError

    def run(self, seed: int, steps: int, schedule: Schedule, fill_seconds: float) -> list[Curve]:
        """Train and evaluate along the way."""
        began = time.process_time()
        wanted = evaluation_steps(steps)
        heldout, trained = [self.heldout()], [torch.full((self.size,), math.nan)]
        total, since = torch.zeros(self.size), 0
        for step, batch in zip(range(1, steps + 1), self.task.batches(seed), strict=False):
            total += self.step(batch, schedule(step - 1))
            if step in wanted:
                heldout.append(self.heldout())
                trained.append(total / (step - since))
                total, since = torch.zeros(self.size), step
                if not heldout[-1].isfinite().any():
                    break
        seconds = round((time.process_time() - began) / self.size, 3)
        columns = zip(torch.stack(heldout).T.tolist(), torch.stack(trained).T.tolist(), strict=True)
        return [_curve(wanted, h, t, seconds, round(fill_seconds, 3)) for h, t in columns]


def _curve(
    wanted: tuple[int, ...], heldout: list[float], trained: list[float], seconds: float, fill_seconds: float
) -> Curve:
    rows = list(zip(wanted, heldout, trained, strict=False))
    bad = next((i for i, (s, h, t) in enumerate(rows) if not math.isfinite(h) or (s and not math.isfinite(t))), None)
    kept = rows if bad is None else rows[: bad + 1]
    return Curve(
        tuple(s for s, _, _ in kept),
        tuple(_rounded(h) for _, h, _ in kept),
        tuple(_rounded(t) for _, _, t in kept),
        None if bad is None else rows[bad][0],
        seconds,
        fill_seconds,
    )


def _rounded(loss: float) -> float:
    return float(f"{loss:.{SIGNIFICANT_DIGITS}g}")


class _Single(_Runner):
    """One member with torch's own optimizer."""

    def __init__(self, task: LongTask, model: nn.Module, lr: float) -> None:
        self.task, self.model, self.lr, self.size = task, model, lr, 1
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = task.optimizer(self.trained, lr=lr, fused=True)

    def step(self, batch: tuple[torch.Tensor, ...], factor: float) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        self.optimizer.zero_grad()
        loss = self.task.batch_loss(self.model, batch)
        loss.backward()
        if self.task.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.task.clip_norm)
        self.optimizer.step()
        return loss.detach()[None]

    @torch.no_grad()
    def heldout(self) -> torch.Tensor:
        self.model.eval()
        loss = self.task.batch_loss(self.model, self.task.heldout)
        self.model.train()
        return loss.detach()[None]


class _Called:
    """A module with the tensors of one member, as far as a loss sees it."""

    def __init__(self, module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        self.module, self.tensors, self.training = module, tensors, module.training

    def __call__(self, *inputs: Any) -> Any:
        return functional_call(self.module, self.tensors, inputs)


class _Stack(_Runner):
    """Members side by side: a row of one matrix for each."""

    def __init__(self, task: LongTask, models: Sequence[nn.Module], rates: Sequence[float], *, record: bool) -> None:
        self.task, self.size = task, len(models)
        self.module = copy.deepcopy(models[0])
        self.rates = torch.tensor(rates, dtype=torch.float32)[:, None]
        trained = [{n: p.detach() for n, p in m.named_parameters() if p.requires_grad} for m in models]
        self.matrix = torch.stack([torch.cat([p.flatten() for p in row.values()]) for row in trained])
        self.weights: dict[str, torch.Tensor] = {}
        start = 0
        for name, p in trained[0].items():
            self.weights[name] = self.matrix[:, start : start + p.numel()].view(self.size, *p.shape)
            start += p.numel()
        fixed = [{n: t.detach() for n, t in m.state_dict().items() if n not in self.weights} for m in models]
        self.fixed = {n: torch.stack([row[n] for row in fixed]) for n in fixed[0]}
        self.update = _update_rule(task)
        gradients = vmap(grad_and_value(self._loss), in_dims=(0, 0, None))
        self._gradients = _recorded(gradients) if record else gradients
        self._losses = vmap(self._loss, in_dims=(0, 0, None))

    def _loss(
        self, weights: dict[str, torch.Tensor], fixed: dict[str, torch.Tensor], batch: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        return self.task.batch_loss(_Called(self.module, {**weights, **fixed}), batch)

    @torch.no_grad()
    def step(self, batch: tuple[torch.Tensor, ...], factor: float) -> torch.Tensor:
        gradients, losses = self._gradients(self.weights, self.fixed, batch)
        gradient = torch.cat([gradients[name].flatten(1) for name in self.weights], 1)
        if self.task.clip_norm is not None:
            gradient *= (self.task.clip_norm / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        self.update(self.matrix, gradient, factor * self.rates)
        return losses.detach()  # type: ignore[no-any-return]

    @torch.no_grad()
    def heldout(self) -> torch.Tensor:
        self.module.eval()
        losses = self._losses(self.weights, self.fixed, self.task.heldout)
        self.module.train()
        return losses  # type: ignore[no-any-return]


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as the list of tensor operations that its first call ran: a fifth faster than under vmap.

    Right for what computes the same from batches of one shape, with no choices of its own.
    """
    recorded: list[Callable[..., Any]] = []

    def call(*tensors: Any) -> Any:
        if not recorded:
            recorded.append(make_fx(lambda *given: function(*given))(*tensors))
        return recorded[0](*tensors)

    return call


Update = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


def _update_rule(task: LongTask) -> Update:
    """What the task's optimizer does to a matrix of weights, with a rate for each row."""
    probe = task.optimizer([torch.zeros(1, requires_grad=True)], lr=1.0)
    group = probe.param_groups[0]
    if isinstance(probe, torch.optim.Adam):  # AdamW is one of them
        return _Adam(
            group["betas"], group["eps"], group["weight_decay"], decoupled=isinstance(probe, torch.optim.AdamW)
        )
    if isinstance(probe, torch.optim.SGD):
        return _Momentum(group["momentum"], group["weight_decay"])
    raise TypeError(f"{type(probe).__name__} has no update rule for stacks; set stacked=False")


class _Adam:
    """Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), as torch computes them."""

    def __init__(self, betas: tuple[float, float], eps: float, decay: float, *, decoupled: bool) -> None:
        if decay and not decoupled:
            raise TypeError("Adam with weight decay in the gradient has no update rule for stacks; set stacked=False")
        self.betas, self.eps, self.decay, self.count = betas, eps, decay, 0
        self.first: torch.Tensor | None = None
        self.second: torch.Tensor | None = None

    def __call__(self, weights: torch.Tensor, gradient: torch.Tensor, rate: torch.Tensor) -> None:
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(weights), torch.zeros_like(weights)
        self.count += 1
        one, two = self.betas
        self.first.lerp_(gradient, 1 - one)
        self.second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        if self.decay:
            weights.mul_(1 - rate * self.decay)
        size = (self.second.sqrt() / math.sqrt(1 - two**self.count)).add_(self.eps)
        weights.sub_(rate / (1 - one**self.count) * self.first / size)


class _Momentum:
    """SGD with momentum, as torch computes it."""

    def __init__(self, momentum: float, decay: float) -> None:
        self.momentum, self.decay = momentum, decay
        self.moving: torch.Tensor | None = None

    def __call__(self, weights: torch.Tensor, gradient: torch.Tensor, rate: torch.Tensor) -> None:
        if self.decay:
            gradient = gradient + self.decay * weights
        self.moving = gradient.clone() if self.moving is None else self.moving.mul_(self.momentum).add_(gradient)
        weights.sub_(rate * self.moving)
