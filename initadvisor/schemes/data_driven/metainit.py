"""MetaInit: weight norms tuned so that the loss is as nearly linear along its gradient as can be."""

from __future__ import annotations

import math

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

_EPSILON = 1e-5
"""Added to a gradient before it divides, with its sign: the authors' value."""

_MOMENTUM = 0.9
"""The authors' value."""

_FARTHEST = math.log(100.0)
"""No tensor is rescaled by more than a hundred: beyond, the start was broken in another way than by its norms."""


def gradient_quotient(objective: Objective, weights: Weights) -> torch.Tensor:
    """Mean over all weights of |(g - H·g)/g - 1| = |H·g / g|: relative change of the gradient in a step along itself.

    Dauphin & Schoenholz 2019, equation 1. It is 0 where the loss is linear.

    Args:
        objective: the loss.
        weights: where it is taken.

    Returns:
        A scalar that can be differentiated once more.
    """
    slopes = gradients(objective.loss(weights), weights)
    curved = gradients(sum((g.square().sum() for g in slopes), slopes[0].new_zeros(())) / 2, weights)
    total = slopes[0].new_zeros(())
    for g, h in zip(slopes, curved, strict=True):
        safe = g + _EPSILON * torch.where(g >= 0, 1.0, -1.0)
        total = total + ((g - h) / safe - 1).abs().sum()
    return total / sum(g.numel() for g in slopes)


def metainit(site: Site, *, steps: float = 60.0, rate: float = 0.005) -> tuple[str, ...]:
    """Descend on the gradient quotient over one factor per weight matrix, by the sign of the slope with momentum.

    Dauphin & Schoenholz 2019, algorithm 1. The factors with the least quotient seen are kept.

    Args:
        site: what to work on.
        steps: of the descent.
        rate: first change of a factor's logarithm per step, before momentum makes it ten times as large; it falls
            linearly to zero.

    Returns:
        Notes: the factors' range, and the quotient before and after.

    Raises:
        SchemeError: the quotient is not finite to begin with, or nothing can be scaled.
        InputError: the loss cannot be inferred from the batch.
    """
    objective = Objective(site, norms=False)
    logs = torch.zeros(len(objective.paths), dtype=torch.float64)
    velocity = torch.zeros_like(logs)
    seen: list[tuple[float, torch.Tensor]] = []
    count = int(steps)
    with twice_differentiable():
        for step in range(count + 1):
            weights = objective.weights(logs)
            quotient = gradient_quotient(objective, weights)
            if not bool(torch.isfinite(quotient)):
                break
            seen.append((float(quotient.detach()), logs))
            if step == count:
                break
            slope = objective.by_factor(quotient, weights)
            velocity = _MOMENTUM * velocity - rate * (1 - step / count) * slope.nan_to_num().sign()
            logs = (logs + velocity).clamp(-_FARTHEST, _FARTHEST)
    if not seen:
        raise SchemeError("the gradient quotient of the filled weights is not finite")
    best, chosen = min(seen, key=lambda pair: pair[0])
    objective.write(site.slots, chosen)
    return (told_factors("metainit", chosen), f"metainit: gradient quotient {seen[0][0]:.3g} before, {best:.3g} after")


register(
    CalibrationCard(
        name="metainit",
        summary="Norms of weight matrices tuned until the gradient hardly changes along its own direction.",
        fn=metainit,
        references=("dauphin2019",),
        descends=True,
        args={
            "steps": Hyperparameter(60.0, low=1.0, high=2000.0, log=True, meaning="steps of the descent"),
            "rate": Hyperparameter(0.005, low=1e-4, high=1.0, log=True, meaning="first change of a factor's logarithm"),
        },
        right_when="Deep plain nets whose scales are off and that no formula covers.",
        wrong_when="Large models: every step costs three backward passes, the last through the other two.",
        deviation="Real inputs and labels, not random ones; logarithms of norms, a falling rate and far fewer steps.",
    )
)
