"""From the weight an op sees back to the parameters it is made of: which axis is which, and which rows are used.

A parameter's contiguous strides name its axes. The views a model applies before use are replayed on a tensor without
memory, and the strides that arrive tell which axis of the parameter each axis of the operand is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from initadvisor.graph import kinds
from initadvisor.graph.flow import Flow
from initadvisor.graph.kinds import words
from initadvisor.graph.opgraph import Op, Ref, Source

_VIEWS = words(
    "permute transpose t T mT H squeeze unsqueeze expand expand_as movedim chunk split split_with_sizes unsafe_chunk "
    "unsafe_split unbind getitem narrow select diagonal broadcast_to adjoint flip"
)
_RESHAPES = words("view reshape flatten unflatten view_as reshape_as ravel")


_TO_NUMBER = 4
"""Casts and reshapes between a constant and what it multiplies."""


class Part(StrEnum):
    """What a parameter contributes to an operand."""

    MAIN = "main"  # its entries are the operand's entries
    FACTOR = "factor"  # it scales or shifts them (weight norm's magnitude, a learned temperature)
    LOW_RANK_OUT = "low_rank_out"  # left of a product of two parameters
    LOW_RANK_IN = "low_rank_in"  # right of it


@dataclass(frozen=True, slots=True)
class Origin:
    """One parameter behind an operand.

    Attributes:
        parameter: its value.
        part: what it contributes.
        tag: strided tensor on ``meta`` of the operand's shape over the parameter's memory, None where lost.
        ops: names of the ops in between.
        factor: product of the numbers that multiply it on the way.
        masked: an array that is no parameter multiplies it entry by entry (noise, a mask).
        place: (axis, first index, size) of the operand that it fills where it was concatenated with others, else None;
            the tag is then of that part alone.
    """

    parameter: int
    part: Part
    tag: torch.Tensor | None
    ops: frozenset[str] = frozenset()
    place: tuple[int, int, int] | None = None
    factor: float = 1.0
    masked: bool = False

    @property
    def bends(self) -> frozenset[str]:
        """Functions its entries pass one by one, where they do arrive."""
        return self.ops & kinds.BENDS if self.part is Part.MAIN and self.tag is not None else frozenset()


class Tracer:
    """Traces operands of one graph, each value once."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._known: dict[int, tuple[Origin, ...]] = {}

    def origins(self, value: int) -> tuple[Origin, ...]:
        """The parameters behind a value that is made of parameters."""
        if value not in self._known:
            order = self._chain(value)
            for v in order:
                self._known[v] = self._one(v)
        return self._known[value]

    def _chain(self, value: int) -> list[int]:
        """Untraced values behind ``value``, first first (a loop, since chains of writes may be long)."""
        todo, order, seen = [value], [], {value}
        while todo:
            current = todo.pop()
            order.append(current)
            op = self.flow.producer(current)
            for source in op.inputs if op is not None else ():
                if self.flow.weighs(source) and source not in self._known and source not in seen:
                    seen.add(source)
                    todo.append(source)
        return sorted(order)

    def _one(self, value: int) -> tuple[Origin, ...]:
        flow = self.flow
        info = flow.values[value]
        if info.source is Source.PARAMETER:
            return (Origin(value, Part.MAIN, torch.empty(info.shape, device="meta", dtype=torch.int8)),)
        op = flow.producer(value)
        if op is None:
            return ()
        pures = [i for i in dict.fromkeys(op.inputs) if flow.weighs(i)]
        times, masked = self._multiplied(op, pures)
        if op.name in kinds.CONTRACTIONS and len(pures) == 2 and len(op.inputs) == 2:
            parts = (Part.LOW_RANK_OUT, Part.LOW_RANK_IN)
            if op.name == "rmatmul":
                parts = parts[::-1]
            sides = [{o.parameter for o in self._known.get(source, ())} for source in pures]
            if sides[0] == sides[1]:  # a weight times itself (a spectral norm, a square) is no product of two
                return tuple(Origin(p, Part.MAIN, None, frozenset({op.name})) for p in sorted(sides[0]))
            return tuple(
                replace(o, part=part, ops=o.ops | {op.name}, place=None)
                for source, part in zip(pures, parts, strict=True)
                for o in self._known.get(source, ())
            )
        found = []
        for source in pures:
            for origin in self._known.get(source, ()):
                part, tag, place = origin.part, origin.tag, origin.place
                if op.name == "cat" and place is None:
                    place = self._put(op, source)
                elif place is not None and op.name in kinds.SPLITTING:
                    cut = self._cut(op, source, value, place, tag)
                    if cut is None:
                        continue  # none of it is in this part
                    tag, place = cut
                    found.append(replace(origin, tag=tag, ops=origin.ops | {op.name}, place=place))
                    continue
                if tag is not None and part is Part.MAIN:
                    tag = self._moved(op, source, value, tag)
                    if tag is None and op.name not in _RESHAPES | _VIEWS:
                        part = Part.FACTOR
                found.append(
                    Origin(
                        origin.parameter, part, tag, origin.ops | {op.name}, place, origin.factor * times,
                        origin.masked or masked,
                    )
                )  # fmt: skip
        # Where a parameter's entries arrive, what else was made of it on the way (its own norm) says nothing more.
        whole = {o.parameter for o in found if o.part is Part.MAIN and o.tag is not None}
        kept = (o for o in found if o.parameter not in whole or (o.part is Part.MAIN and o.tag is not None))
        return tuple(dict.fromkeys(kept))

    def _multiplied(self, op: Op, weights: list[int]) -> tuple[float, bool]:
        """By which number, and whether by an array that is no parameter, an op multiplies the one weight it reads."""
        if op.name not in kinds.PRODUCTS or len(weights) != 1:
            return 1.0, False
        others = [i for i in op.inputs if i not in weights and not self.flow.is_live(i)]
        numbers = [n for i in others if (n := self._number(i)) is not None]
        masked = len(numbers) < len(others) and op.name == "mul"
        if not others and len(op.inputs) == 1:
            given = (*op.args, *op.kwargs.values())
            numbers = [float(a) for a in given if isinstance(a, (int, float)) and not isinstance(a, bool)]
        if len(numbers) != 1 or not numbers[0] or op.name == "rdiv":
            return 1.0, masked
        return (1 / numbers[0] if op.name == "div" else numbers[0]), masked

    def _number(self, value: int) -> float | None:
        """A constant of one element, where it is known."""
        for _ in range(_TO_NUMBER):
            found = self.flow.values[value]
            op = self.flow.producer(value)
            if found.number is not None or op is None:
                return found.number
            if op.name == "tensor" and op.args and isinstance(op.args[0], (int, float)):
                return float(op.args[0])
            if op.name not in kinds.LAYOUT or len(op.inputs) != 1:
                return None
            value = op.inputs[0]
        return None

    def _put(self, op: Op, source: int) -> tuple[int, int, int] | None:
        """Where in a concatenation an operand lies, None where it is put there twice."""
        if op.inputs.count(source) != 1:
            return None
        shapes = [self.flow.values[i].shape for i in op.inputs]
        dim = op.arg(1, "dim", 0)
        axis = dim % len(shapes[0]) if isinstance(dim, int) and shapes[0] else 0
        sizes = [s[axis] for s in shapes if len(s) > axis]
        position = op.inputs.index(source)
        return None if len(sizes) < len(shapes) else (axis, sum(sizes[:position]), sizes[position])

    def _cut(
        self, op: Op, source: int, value: int, place: tuple[int, int, int], tag: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, tuple[int, int, int] | None] | None:
        """Tag and place in a part of a concatenation; None where that part holds nothing of it."""
        axis, first, size = place
        shape = self.flow.values[source].shape
        numbers = torch.arange(shape[axis]).view([-1 if k == axis else 1 for k in range(len(shape))]).expand(shape)
        kept = self._moved(op, source, value, numbers)
        if kept is None or kept.ndim != len(shape):
            return None, None
        row = kept[tuple(slice(None) if k == axis else 0 for k in range(kept.ndim))] if kept.numel() else kept.flatten()
        own = row[(row >= first) & (row < first + size)]
        if not len(own):
            return None
        start, stop = int(own[0]), int(own[-1]) + 1
        if stop - start != len(own):
            return None, None
        if tag is not None:
            tag = tag.narrow(axis, start - first, stop - start)
        whole = len(own) == len(row)
        return tag, None if whole else (axis, int((row < start).sum()), stop - start)

    def _moved(self, op: Op, source: int, value: int, tag: torch.Tensor) -> torch.Tensor | None:
        """The tag after one op; None where its axes are lost."""
        shape = self.flow.values[value].shape
        try:
            if op.name in ("getitem", "index_select") and self._picks_maps(op, source):
                lead = len(shape) - tag.ndim  # places further to the left share the axis that they pick from
                return tag.as_strided((*(1,) * lead, *tag.shape), (*(0,) * lead, *tag.stride()), tag.storage_offset())
            if op.name in _RESHAPES:
                return _one_of_many(tag, shape) if value in self.flow.modulated else tag.view(shape)
            if op.name in _VIEWS:

                def filled(arg: object) -> object:
                    if isinstance(arg, Ref):
                        if arg.value != source:
                            raise TypeError("an index that is a tensor picks rows at run time")
                        return tag
                    return tuple(filled(a) for a in arg) if isinstance(arg, tuple) else arg

                made = op.function(*(filled(a) for a in op.args), **{k: filled(v) for k, v in op.kwargs.items()})
                return made if isinstance(made, torch.Tensor) else made[op.outputs.index(value)]
            if op.name == "stack":
                dim = op.arg(1, "dim", 0)
                return tag.unsqueeze(dim if isinstance(dim, int) else 0)
        except (RuntimeError, TypeError, IndexError, ValueError):
            return None
        if op.name in kinds.JOINING or tuple(tag.shape) == shape:
            return tag
        if value in self.flow.modulated:
            return tag.expand(shape)  # by one factor for every sample
        return None

    def _picks_maps(self, op: Op, source: int) -> bool:
        """Whole entries of the first axis are picked by one tensor of whole numbers (an expert for every token)."""
        if op.name == "index_select":
            return bool(op.arg(1, "dim", 0) == 0)
        index = op.args[1] if len(op.args) == 2 else None
        index = index[0] if isinstance(index, tuple) and len(index) == 1 else index
        if not isinstance(index, Ref) or index.value == source:
            return False
        info = self.flow.values[index.value]
        return bool(info.shape) and not info.dtype.is_floating_point and info.dtype is not torch.bool


def _one_of_many(tag: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A reshape of a weight that was spread over samples: where their axis joins another, one sample's part."""
    if tag.ndim and tag.stride(0) == 0 and tag.shape[0] > 1 and shape[0] % tag.shape[0] == 0:
        rest = tag[0]
        whole = shape[0] // tag.shape[0]
        return rest.view((whole, *shape[1:])) if shape[0] != tag.shape[0] else rest.view(shape[1:]).expand(shape)
    return tag.view(shape)


@dataclass(frozen=True, slots=True)
class AxisMap:
    """Axes of an operand in terms of the parameter's.

    Attributes:
        axes: per operand axis: the parameter's axis, None for a broadcast one.
        ranges: per parameter axis: the half-open range that is used.
        merged: some operand axis spans several of the parameter's, or one of the parameter's spans several.
    """

    axes: tuple[int | None, ...]
    ranges: tuple[tuple[int, int], ...]
    merged: bool = False


def axis_map(shape: tuple[int, ...], tag: torch.Tensor) -> AxisMap:
    """Read a tag.

    Args:
        shape: of the parameter.
        tag: strided view of it.

    Example:
        >>> axis_map((6, 4), torch.empty(6, 4, device="meta")[2:4].T).axes
        (1, 0)
        >>> axis_map((6, 4), torch.empty(6, 4, device="meta")[2:4].T).ranges
        ((2, 4), (0, 4))
    """
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    strides.reverse()
    axes: list[int | None] = []
    used = [1] * len(shape)
    merged = False
    for size, stride in zip(tag.shape, tag.stride(), strict=True):
        axis = None
        if stride != 0 and size > 1:
            inside = [k for k, s in enumerate(strides) if s <= stride < s * max(shape[k], 2) and shape[k] > 1]
            axis = inside[-1] if inside else None
        elif size == 1:
            axis = next((k for k, s in enumerate(shape) if s == 1 and k not in axes), None)
        if axis is not None:
            merged |= axis in axes or size > shape[axis]
            used[axis] = max(used[axis], 1) * size if size <= shape[axis] else shape[axis]
        axes.append(axis)
    offset, ranges = int(tag.storage_offset()), []
    for axis, stride in enumerate(strides):
        start = offset // stride if shape[axis] > 1 else 0
        offset -= start * stride
        ranges.append((start, min(start + used[axis], shape[axis])))
    return AxisMap(tuple(axes), tuple(ranges), merged)
