"""Regions of a tensor: which elements a packed slice owns, how they are taken out and put back."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from initadvisor.types import Slice


def slice_shape(shape: tuple[int, ...], part: Slice | None) -> tuple[int, ...]:
    """Shape of the tensor a part is filled as: the whole's, with the slice's size along its axis.

    Example:
        >>> from initadvisor.types import Fans, Role
        >>> key = Slice("k", 0, ((8, 16),), Role.KEY, Fans(8, 8))
        >>> slice_shape((24, 8), key)
        (8, 8)
    """
    if part is None:
        return shape
    return (*shape[: part.dim], part.size, *shape[part.dim + 1 :])


def gather(tensor: torch.Tensor, part: Slice | None) -> torch.Tensor:
    """The elements a part owns, as one tensor (a view where the part is one range)."""
    if part is None:
        return tensor
    pieces = [tensor.narrow(part.dim, start, stop - start) for start, stop in part.ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=part.dim)


def scatter(tensor: torch.Tensor, part: Slice | None, value: torch.Tensor) -> None:
    """Write ``value`` (of :func:`slice_shape`) to the elements a part owns, in place."""
    if part is None:
        tensor.copy_(value)
        return
    offset = 0
    for start, stop in part.ranges:
        tensor.narrow(part.dim, start, stop - start).copy_(value.narrow(part.dim, offset, stop - start))
        offset += stop - start


def coverage_fault(shape: tuple[int, ...], parts: Iterable[Slice | None]) -> str | None:
    """Why the parts do not cover a tensor of ``shape`` exactly once; None where they do.

    Slices may lie along different axes; only the axes that are used are counted over, so that it costs nothing.

    Example:
        >>> coverage_fault((4, 2), [None])
        >>> coverage_fault((4, 2), [None, None])
        'is filled 2 times in places'
    """
    slices = list(parts)
    axes = sorted({s.dim for s in slices if s is not None})
    for s in slices:
        if s is None:
            continue
        if not 0 <= s.dim < len(shape):
            return f'has no axis {s.dim} for its slice "{s.name}"'
        if any(not 0 <= start < stop <= shape[s.dim] for start, stop in s.ranges):
            return f'slice "{s.name}" leaves axis {s.dim} of size {shape[s.dim]}: {s.ranges}'
    counts = torch.zeros([shape[axis] for axis in axes], dtype=torch.int32)
    for s in slices:
        if s is None:
            counts += 1
            continue
        for start, stop in s.ranges:
            counts.narrow(axes.index(s.dim), start, stop - start).add_(1)
    low, high = int(counts.min()), int(counts.max())
    if low < 1:
        return "is not covered by its slices"
    return f"is filled {high} times in places" if high > 1 else None
