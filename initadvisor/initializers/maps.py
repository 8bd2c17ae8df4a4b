"""View any weight as the linear maps it consists of: experts, groups, output features × input features × kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from initadvisor.errors import SchemeError
from initadvisor.types import Fans

DrawMaps = Callable[[int, int, int, tuple[int, ...]], torch.Tensor]
"""``(maps, out, in, kernel) -> tensor of shape (maps, out, in, *kernel)``."""


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type to draw in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def draw_maps(shape: tuple[int, ...], fans: Fans, draw: DrawMaps) -> torch.Tensor:
    """Draw every independent linear map of a tensor and lay them into its own layout.

    Batch axes (experts) and groups become one leading axis; then come output features, input features and the kernel.
    The first axis of a grouped convolution is the one that groups divide: outputs of a convolution, inputs of a
    transposed one.

    Args:
        shape: of the tensor.
        fans: says which axes are which.
        draw: makes ``(maps, out, in, *kernel)``.

    Raises:
        SchemeError: the tensor has fewer than two map axes, or the groups do not divide it.
    """
    axes = [d for d in range(len(shape)) if d not in fans.batch_dims]
    if len(axes) < 2:
        raise SchemeError(f"a tensor of shape {shape} is not a linear map: it needs an output and an input axis")
    out_dim, in_dim = fans.out_dim, fans.in_dim
    kernel_dims = [d for d in axes if d not in (out_dim, in_dim)]
    out, inputs = shape[out_dim], shape[in_dim]
    batch = math.prod(shape[d] for d in fans.batch_dims)
    kernel = tuple(shape[d] for d in kernel_dims)
    groups = fans.groups
    grouped_out = out_dim < in_dim
    if (out if grouped_out else inputs) % groups:
        raise SchemeError(f"{groups} groups do not divide a tensor of shape {shape}")
    per_out, per_in = (out // groups, inputs) if grouped_out else (out, inputs // groups)
    value = draw(batch * groups, per_out, per_in, kernel).reshape(batch, groups, per_out, per_in, *kernel)
    if grouped_out:
        value = value.reshape(batch, out, inputs, *kernel)
    else:
        value = value.movedim(1, 2).reshape(batch, out, inputs, *kernel)
    value = value.reshape(*(shape[d] for d in fans.batch_dims), out, inputs, *kernel)
    order = [*fans.batch_dims, out_dim, in_dim, *kernel_dims]
    return value.permute([order.index(d) for d in range(len(shape))]).contiguous()


def centre_tap(value: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    """View of a kernel's middle tap (the right one of two for even sizes, as torch's ``dirac_`` has it).

    Args:
        value: shape (…, *kernel).
        kernel: sizes of the last axes; empty for matrices, which are their own centre.
    """
    for size in reversed(kernel):
        value = value.select(-1, size // 2)
    return value
