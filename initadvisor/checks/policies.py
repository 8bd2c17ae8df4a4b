"""Action distributions: which head makes them, and how much they depend on it at the start."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from initadvisor.checks.lineage import Lineage, Use, rms

CALLS = {"broadcast_tensors": "torch.distributions.normal", "logsumexp": "torch.distributions.categorical"}
"""Ops that the constructors of torch's normal and categorical distribution run -> their modules."""

DEEPEST = 12
"""Frames between an op and the constructor it belongs to, at most; four are usual."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A distribution whose centre is the output of a head.

    Attributes:
        use: of the head's weight.
        size: of its output, relative to the spread of the distribution (of a categorical one: spread of the scores).
    """

    use: Use
    size: torch.Tensor


def policy_of(name: str, args: tuple[Any, ...], lineage: Lineage) -> Policy | None:
    """The policy that an op is part of, None where it is part of none.

    A normal distribution is one whose spread is learned and the same for all samples, as that of continuous actions
    is; a variational encoder makes both from its input.
    """
    wanted = CALLS.get(name)
    tensors = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
    if wanted is None or not tensors or not tensors[0].requires_grad or tensors[0].ndim < 2 or not _is_made_by(wanted):
        return None
    fact, value = lineage.of(tensors[0]), tensors[0].detach()
    if fact is None or fact.use is None:
        return None
    if name == "logsumexp":
        return Policy(fact.use, rms(value - value.mean(-1, keepdim=True)))
    if len(tensors) < 2 or not _is_shared(tensors[1], len(value)):
        return None
    return Policy(fact.use, rms(value) / tensors[1].detach().mean())


def _is_shared(spread: torch.Tensor, samples: int) -> bool:
    """Learned, and the same for every sample."""
    if not spread.requires_grad:
        return False
    value = spread.detach()
    return value.ndim < 2 or len(value) != samples or bool((value == value[:1]).all())


def _is_made_by(module: str) -> bool:
    frame = inspect.currentframe()
    for _ in range(DEEPEST):
        frame = None if frame is None else frame.f_back
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == module and frame.f_code.co_name == "__init__":
            return True
    return False
