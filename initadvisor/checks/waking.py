"""Does a weight without a gradient get one? Told by a few small steps on the spot, not by what it is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from initadvisor.guard import preserve_model

STEPS = 4
"""Steps after which what has not moved is stuck: one frees an adapter, three the blocks of an adaLN-zero model whose
head starts at zero, too."""

STRIDE = 0.01
"""Length of a step of each parameter, relative to its RMS: what an optimizer does in a few of its first steps."""

SMALLEST = 0.01
"""RMS that a parameter of zeros is taken to have."""


def waking(
    model: nn.Module, gradients: Mapping[str, float | None], compute: Callable[[], torch.Tensor | None]
) -> dict[str, bool]:
    """Whether the parameters whose gradient is exactly zero receive one within :data:`STEPS` small steps.

    A weight at zero may stop the gradient of all others on purpose (a zero head, ReZero, LoRA, adaLN-zero): the first
    step mends that. Where nothing gets through after several, nothing ever does.

    Args:
        model: left as it was; one more copy of its weights is held meanwhile.
        gradients: RMS of the first gradient by path, None where no gradient reached.
        compute: the loss once more, with graph; None where it cannot be told. The caller guards the process.

    Returns:
        Path -> it received a gradient, for those whose first gradient is exactly zero; empty where there are none.

    Example:
        >>> net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(8, 3)
        >>> _ = nn.init.zeros_(net[2].weight)
        >>> waking(net, {"0.weight": 0.0, "2.weight": 0.5}, lambda: (net(x) - 1).square().mean())
        {'0.weight': True}
    """
    asleep = {path for path, size in gradients.items() if size == 0.0}
    if not asleep:
        return {}
    moving = [size for size in gradients.values() if size and math.isfinite(size)]
    if not moving:
        return dict.fromkeys(sorted(asleep), False)
    named = {path: p for path, p in model.named_parameters() if p.requires_grad}
    woken: set[str] = set()
    with preserve_model(model):
        for _ in range(STEPS):
            with torch.no_grad():
                for parameter in named.values():
                    _move(parameter)
            loss = compute()
            if loss is None or not loss.requires_grad:
                return {}
            loss.backward()  # type: ignore[no-untyped-call]
            woken |= {path for path in asleep if _has_gradient(named[path])}
            if woken == asleep:
                break
    return {path: path in woken for path in sorted(asleep)}


def _move(parameter: nn.Parameter) -> None:
    grad, parameter.grad = parameter.grad, None
    if grad is None:
        return
    dense = grad.to_dense() if grad.is_sparse else grad
    size = torch.linalg.vector_norm(dense) / math.sqrt(max(1, dense.numel()))
    if not bool(torch.isfinite(size)) or float(size) == 0.0:
        return
    own = float(torch.linalg.vector_norm(parameter)) / math.sqrt(parameter.numel())
    parameter.sub_(dense / size, alpha=STRIDE * max(own, SMALLEST))


def _has_gradient(parameter: nn.Parameter) -> bool:
    grad = parameter.grad
    return grad is not None and bool((grad._values() if grad.is_sparse else grad).any())
