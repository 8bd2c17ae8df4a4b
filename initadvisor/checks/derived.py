"""Weights that each pass makes anew from others: what was written to them before is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from initadvisor.checks.figures import LostFigures
from initadvisor.private import version_of

SOURCES = ("_v", "_orig")
"""Endings of the parameters that torch's weight norm and spectral norm make a weight of."""

NEAR_BOUND = 0.8
"""Part of the bound that the largest of a few dozen uniform draws exceeds but by chance."""

PARALLEL = 1e-3
"""One minus the cosine between a weight and what it was made of, up to which only lengths changed."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor beside the parameters of a module, as it was before a pass.

    Attributes:
        module: that holds it.
        name: of the attribute.
        path: dotted.
        source: path of the parameter it is made of.
        value: before the pass.
        version: how often it has been written in place.
    """

    module: nn.Module
    name: str
    path: str
    source: str
    value: torch.Tensor
    version: int


def derived_tensors(model: nn.Module) -> list[Derived]:
    """Plain tensors of modules that stand for a parameter, with their values now."""
    found = []
    for prefix, module in model.named_modules():
        for name, value in list(vars(module).items()):
            ending = next((e for e in SOURCES if f"{name}{e}" in module._parameters), None)
            if isinstance(value, torch.Tensor) and ending is not None and value.is_floating_point():
                path = f"{prefix}.{name}" if prefix else name
                kept = value.detach().clone()
                found.append(Derived(module, name, path, f"{path}{ending}", kept, version_of(value)))
    return found


def lost_writes(before: list[Derived]) -> Iterator[LostFigures]:
    """Those whose values before the pass came neither from their sources as they are nor from an earlier state of them.

    A weight that is parallel to its source, row by row, has only been scaled; one whose rows have the lengths that the
    source prescribes was made of an earlier direction, which has been drawn anew since. What is neither was written by
    somebody else.

    Args:
        before: as :func:`derived_tensors` gave it before the pass that has now run.
    """
    for item in before:
        after = vars(item.module).get(item.name)
        if not isinstance(after, torch.Tensor) or after.shape != item.value.shape:
            continue
        now, old = after.detach().float(), item.value.float()
        if torch.allclose(now, old, rtol=1e-3, atol=1e-6) or _is_scaled(old, now):
            continue
        if item.version == 0 and (_has_lengths(old, now) or _is_default(old)):
            continue
        yield LostFigures(item.path, item.source, float(old.std()), float(now.std()))


def _is_scaled(old: torch.Tensor, now: torch.Tensor) -> bool:
    """Every row of one is a positive multiple of the same row of the other (of either first axis)."""
    for axis in range(min(2, old.ndim)):
        a, b = (t.movedim(axis, 0).flatten(1) for t in (old, now))
        cosines = torch.nn.functional.cosine_similarity(a, b, dim=1)
        if bool((cosines > 1 - PARALLEL).all()):
            return True
    return False


def _is_default(old: torch.Tensor) -> bool:
    """It is what torch draws when a layer is made, U(±1/√fan_in): all that it was made of has been filled since."""
    bound = max(1, math.prod(old.shape[1:])) ** -0.5
    return bool(NEAR_BOUND * bound < float(old.abs().max()) <= bound * (1 + 1e-5))


def _has_lengths(old: torch.Tensor, now: torch.Tensor) -> bool:
    for axis in range(min(2, old.ndim)):
        a, b = (t.movedim(axis, 0).flatten(1).norm(dim=1) for t in (old, now))
        if torch.allclose(a, b, rtol=1e-3):
            return True
    return False
