"""GradInit: one factor per tensor, learned so that the optimizer's first step lowers the loss as far as it can."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from initadvisor.errors import SchemeError
from initadvisor.initializers.card import Hyperparameter
from initadvisor.schemes.data_driven.card import CalibrationCard, Site, register
from initadvisor.schemes.data_driven.objective import (
    Objective,
    Weights,
    gradients,
    told_factors,
    twice_differentiable,
)
from initadvisor.schemes.seeding import stream

OPTIMIZERS = ("sgd", "adam")
_RATES = {"sgd": 0.1, "adam": 0.001}
"""Step sizes of the first step where none is given: customary rates of either optimizer."""

_FIRST_ORDER_DROP = 0.1
"""Largest decrease of the loss that the first step may promise to first order, η·‖g‖₂² for SGD and η·‖g‖₁ for Adam.
For SGD at its rate of .1 this is the authors' bound of 1 on the gradient's norm; it carries over to any rate."""

_SMALLEST = math.log(0.01)
"""Lower bound of a factor, the authors' value: a tensor must not be switched off."""

_LARGEST = math.log(100.0)
"""The same distance upwards."""

_BETAS = (0.9, 0.999)
"""Of the Adam that learns the factors."""


def first_step(weights: Weights, slopes: Sequence[torch.Tensor], rate: float, optimizer: str) -> Weights:
    """The weights after the optimizer's first step, differentiable where the step is (Adam's first step is a sign)."""
    moved = slopes if optimizer == "sgd" else [g.detach().sign() for g in slopes]
    return {path: w - rate * d for (path, w), d in zip(weights.items(), moved, strict=True)}


def promised_drop(slopes: Sequence[torch.Tensor], rate: float, optimizer: str) -> torch.Tensor:
    """Decrease of the loss in the first step, to first order."""
    parts = [g.square().sum() if optimizer == "sgd" else g.abs().sum() for g in slopes]
    return rate * torch.stack(parts).sum()


def gradinit(
    site: Site, *, optimizer: str = "sgd", lr: float = 0.0, steps: float = 60.0, rate: float = 0.05
) -> tuple[str, ...]:
    """Learn one factor per tensor such that one step of the optimizer leaves the least loss.

    Zhu et al. 2021, algorithm 1: while the gradient is larger than its bound, the factors descend on its norm (2-norm
    for SGD, 1-norm for Adam), else on the loss after one step, taken on other samples than the gradient.

    Args:
        site: what to work on.
        optimizer: whose first step: ``"sgd"`` or ``"adam"``.
        lr: its rate; 0 takes .1 for SGD and .001 for Adam.
        steps: updates of the factors.
        rate: of Adam on the factors' logarithms.

    Returns:
        Notes: the factors' range, and the loss after one step before and after.

    Raises:
        SchemeError: the loss is not finite to begin with, or nothing can be scaled.
        InputError: the loss cannot be inferred from the batch.
    """
    eta = lr if lr > 0 else _RATES[optimizer]
    objective = Objective(site, norms=True)
    generator = stream(site.seed, "gradinit")
    logs = torch.zeros(len(objective.paths), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logs], lr=rate, betas=_BETAS)
    with twice_differentiable():
        before = _lookahead(objective, logs.detach(), eta, optimizer)
        if not math.isfinite(before[0]):
            raise SchemeError("the loss of the filled weights is not finite")
        for _ in range(int(steps)):
            weights = objective.weights(logs.detach())
            seen, fresh = objective.halves(generator)
            slopes = gradients(objective.loss(weights, seen), weights)
            drop = promised_drop(slopes, eta, optimizer)
            if not float(drop.detach()) <= _FIRST_ORDER_DROP:
                # Its logarithm has the same descent direction, whatever the gradient's size.
                target = drop.log()
            else:
                target = objective.loss(first_step(weights, slopes, eta, optimizer), fresh)
            logs.grad = objective.by_factor(target, weights).nan_to_num(0.0, 0.0, 0.0)
            adam.step()
            with torch.no_grad():
                logs.clamp_(_SMALLEST, _LARGEST)
        after = _lookahead(objective, logs.detach(), eta, optimizer)
    told = f"loss after one step {before[1]:.4g} before, {after[1]:.4g} after"
    if not after[1] < before[1]:
        return (f"gradinit: nothing gained ({told}), the filled weights stay",)
    objective.write(site.slots, logs.detach())
    return (told_factors("gradinit", logs.detach()), f"gradinit: {told}")


def _lookahead(objective: Objective, logs: torch.Tensor, eta: float, optimizer: str) -> tuple[float, float]:
    """Loss before and after one step, on the whole batch; infinity where it is not a number."""
    weights = objective.weights(logs)
    value = objective.loss(weights)
    stepped = first_step(weights, gradients(value, weights), eta, optimizer)
    with torch.no_grad():
        after = float(objective.loss(stepped))
    return float(value.detach()), after if math.isfinite(after) else math.inf


register(
    CalibrationCard(
        name="gradinit",
        summary="One learned factor per tensor, such that the optimizer's first step lowers the loss the most.",
        fn=gradinit,
        references=("zhu2021",),
        descends=True,
        args={
            "optimizer": Hyperparameter("sgd", choices=OPTIMIZERS, meaning="whose first step"),
            "lr": Hyperparameter(0.0, low=0.0, high=10.0, meaning="its rate; 0: .1 for sgd, .001 for adam"),
            "steps": Hyperparameter(60.0, low=1.0, high=5000.0, log=True, meaning="updates of the factors"),
            "rate": Hyperparameter(0.05, low=1e-4, high=1.0, log=True, meaning="of Adam on the factors' logarithms"),
        },
        right_when="Nets that diverge in their first steps: no norms, post-norm transformers without warm-up.",
        wrong_when="Large models (each update differentiates a gradient), and starts whose signal has vanished.",
        deviation="Factors are learned as logarithms, in far fewer updates, on halves of one batch; the bound on the "
        "gradient is one on the promised decrease, which is the authors' at their rate.",
    )
)
