"""What is plain to see of data and outputs before anything is trained: scales, infinities, probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from initadvisor.training.data import Batch, infinities, tensors_in

LARGE_SCALE = 10.0
"""Standard deviation, or mean, of inputs from which they are far from the unit scale that initialisers assume."""

SMALL_SCALE = 0.03
"""Standard deviation of inputs below which the first layer hardly sees them."""

UNEVEN = 100.0
"""Ratio of the largest to the smallest standard deviation of features from which the small ones are hardly seen."""

ROUNDING = 1e-3
"""By which probabilities may miss a sum of 1."""

FEWEST_ROWS = 2
"""Rows from which a common sum of 1 is no accident."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of one tensor of a batch.

    Attributes:
        what: in words (``"the inputs"``, ``"input tensor 1"``, ``"the target"``).
        infinite: how many of its values are infinite, those of masks left out.
        mean, std: of its values; NaN where some are not finite, or there are fewer than two.
        spread: smallest and largest standard deviation of its features; None unless it has two axes and several rows.
    """

    what: str
    infinite: int
    mean: float
    std: float
    spread: tuple[float, float] | None

    @property
    def remark(self) -> str:
        """What is wrong with the scale, in words; empty where nothing is."""
        if not (math.isfinite(self.mean) and math.isfinite(self.std)) or self.std == 0:
            return ""
        if self.std > LARGE_SCALE or self.std < SMALL_SCALE or abs(self.mean) > max(LARGE_SCALE, 3 * self.std):
            return f"{self.what} have mean {self.mean:.3g} and standard deviation {self.std:.3g}"
        if self.spread is not None and self.spread[1] > UNEVEN * self.spread[0]:
            low, high = self.spread
            return f"the features of {self.what} have standard deviations from {low:.2g} to {high:.2g}"
        return ""


def scales(batch: Batch) -> Iterator[Scale]:
    """Sizes of the floating-point tensors that a model is called with, then of its target.

    Single numbers per sample beside the data (a time, a noise level) and tensors of fewer than two values are left out,
    unless they hold infinities.

    Example:
        >>> batch = Batch((torch.tensor([[1.0, 2.0], [3.0, torch.inf]]),))
        >>> [(s.what, s.infinite) for s in scales(batch)]
        [('the inputs', 1)]
    """
    parts = batch.inputs if batch.args or batch.kwargs else batch.raw
    target = list(tensors_in(batch.target))
    for index, tensor in enumerate(tensors_in(parts)):
        if any(tensor is t for t in target) or not tensor.is_floating_point() or tensor.is_meta:
            continue
        beside = index > 0 and tensor.ndim < 2
        yield scale_of(tensor, "the inputs" if index == 0 else f"input tensor {index}", counted=not beside)
    for tensor in target:
        if tensor.is_floating_point() and not tensor.is_meta:
            yield scale_of(tensor, "the targets", counted=False)


def scale_of(tensor: torch.Tensor, what: str, *, counted: bool = True) -> Scale:
    """Size of one tensor.

    Args:
        tensor: of floating point.
        what: it is, in words.
        counted: measure its mean and spread, too; else infinities only.
    """
    if tensor.layout is not torch.strided:  # which entries are there says more than their sizes (an adjacency)
        tensor, counted = tensor.to_sparse(layout=torch.sparse_coo).coalesce().values(), False
    value = tensor.detach().double()
    infinite = infinities(value)
    nothing = Scale(what, infinite, math.nan, math.nan, None)
    if not counted or value.numel() < 2 or not bool(torch.isfinite(value).all()):
        return nothing
    if bool(((value == 0) | (value == 1)).all()):
        return nothing  # a mask, or classes one by one: there is no scale to mend
    spread = None
    if value.ndim == 2 and value.shape[0] > 1:
        each = value.std(dim=0)
        each = each[each > 0]
        spread = (float(each.min()), float(each.max())) if each.numel() > 1 else None
    return Scale(what, infinite, float(value.mean()), float(value.std()), spread)


def is_distribution(rows: torch.Tensor) -> bool:
    """Every row is a distribution over the last axis: numbers from 0 to 1 that sum to 1. NaN is none.

    Example:
        >>> is_distribution(torch.full((2, 4), 0.25)), is_distribution(torch.full((2, 4), torch.nan))
        (True, False)
    """
    if rows.ndim < 2 or rows.shape[-1] < 2 or rows.numel() // rows.shape[-1] < FEWEST_ROWS:
        return False
    inside = bool((rows >= 0).all()) and bool((rows <= 1 + ROUNDING).all())
    return inside and bool(((rows.sum(-1) - 1).abs() <= ROUNDING).all())
