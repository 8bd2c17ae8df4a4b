"""Units of an activation: along which axis they lie, which are dead, how much is flat; for race and audit alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DEAD_BELOW = 1e-7
"""Largest output on a whole batch of a unit that counts as dead: exact zeros of ReLU, underflow of smooth ones."""

FLAT_ABOVE = 0.99
"""Part of its range beyond which a bounded activation counts as saturated: tanh's slope is 2% of its largest there."""

RECTIFIERS = frozenset(
    {"relu", "relu6", "leaky_relu", "rrelu", "prelu", "threshold", "gelu", "silu", "elu", "selu", "celu", "mish"}
    | {"hardswish", "softplus"}
)
"""Activations with a side on which a unit can die."""

BOUNDED = {
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softsign": (-1.0, 1.0),
}
"""Activations with flat ends, and where these are."""

MOVING = frozenset({"transpose", "permute", "movedim", "swapaxes", "swapdims", "moveaxis"})
"""Ops that take the channels of a convolution to the end, where whoever uses them on such an output wants them."""


class ChannelAxis:
    """Follows along which axis the features of the current signal lie, op by op.

    A convolution makes images and sequences with channels in axis 1, of any number of axes; everything else works on
    the last axis.

    Example:
        >>> axis = ChannelAxis()
        >>> axis.layer("conv1d")
        >>> axis.of(torch.zeros(8, 16, 30))
        1
        >>> axis.op("transpose")
        >>> axis.of(torch.zeros(8, 30, 16))
        2
    """

    def __init__(self) -> None:
        self._second = False

    def layer(self, name: str) -> None:
        """A weight was used by the op of this name."""
        self._second = name.startswith("conv")

    def op(self, name: str) -> None:
        """Any other op ran."""
        if name in MOVING:
            self._second = False

    def of(self, value: torch.Tensor) -> int:
        """The axis of features."""
        return 1 if self._second and value.ndim > 2 else value.ndim - 1


@dataclass(frozen=True, slots=True)
class Units:
    """What an activation made of a batch.

    Attributes:
        count: units.
        dead: how many of them are zero on the whole batch, None where the activation cannot die.
        flat: share of values in its flat ends, None where it has none.
    """

    count: int
    dead: torch.Tensor | None
    flat: torch.Tensor | None


def look_at(name: str, value: torch.Tensor, axis: int) -> Units:
    """Dead units and flat values of the output of an activation.

    Args:
        name: of the activation.
        value: its output.
        axis: of the units.

    Example:
        >>> out = torch.relu(torch.tensor([[-1.0, 1.0], [-2.0, 3.0]]))
        >>> seen = look_at("relu", out, 1)
        >>> seen.count, int(seen.dead), seen.flat
        (2, 1, None)
    """
    dead = flat = None
    if name in RECTIFIERS:
        others = [d for d in range(value.ndim) if d != axis]
        largest = torch.linalg.vector_norm(value, ord=math.inf, dim=others) if others else value.abs()
        dead = (largest <= DEAD_BELOW).sum()
    if name in BOUNDED:
        low, high = BOUNDED[name]
        margin = (1 - FLAT_ABOVE) * (high - low) / 2
        flat = ((value > high - margin) | (value < low + margin)).float().mean()
    return Units(value.shape[axis], dead, flat)
