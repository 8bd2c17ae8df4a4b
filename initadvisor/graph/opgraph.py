"""What one forward pass did: ops, the values between them, the named tensors they start from. Holds no tensor data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import torch


class Source(StrEnum):
    """Where a value comes from."""

    OP = "op"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    INPUT = "input"  # a tensor of the batch
    CONSTANT = "constant"  # any other tensor that existed before the pass


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a tensor among an op's arguments: the index of its value."""

    value: int


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor as it passed between ops.

    Attributes:
        index: position in ``OpGraph.values``.
        shape: its sizes.
        dtype: its element type.
        source: what made it.
        op: index of the op that made it, None for sources.
        name: dotted path of a parameter or buffer (its first name), else empty.
        number: its value, where it is a single known constant.
    """

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: Source
    op: int | None = None
    name: str = ""
    number: float | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One semantic operation.

    Attributes:
        index: position in ``OpGraph.ops``, which is execution order.
        name: canonical name: ``"linear"``, ``"add"`` (also for ``+``, ``add_`` and ``torch.add``), ``"T"``.
        function: what was called, for replaying elementwise ops on a grid.
        args, kwargs: its arguments, tensors replaced by :class:`Ref`, foreign objects by None.
        inputs: values of all tensors among the arguments, in order.
        outputs: values it made.
        module: dotted path of the innermost module whose ``forward`` called it.
        in_place: it wrote into its first input.
    """

    index: int
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    module: str = ""
    in_place: bool = False

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Argument by position or keyword."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def ref(self, position: int, name: str) -> int | None:
        """Value index of a tensor argument, None where it is absent or no tensor."""
        found = self.arg(position, name)
        return found.value if isinstance(found, Ref) else None


@dataclass(frozen=True)
class OpGraph:
    """A recorded forward pass.

    Attributes:
        ops: in execution order.
        values: everything that passed between them.
        outputs: values the model returned.
        parameters: every dotted name (tied ones included) -> value.
        buffers: likewise.
        input_count: number of tensors in the batch.
    """

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    outputs: tuple[int, ...]
    parameters: dict[str, int]
    buffers: dict[str, int]
    input_count: int = 0

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Per value: indices of the ops that read it, in order."""
        found: list[list[int]] = [[] for _ in self.values]
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                found[value].append(op.index)
        return tuple(tuple(f) for f in found)

    def producer(self, value: int) -> Op | None:
        """The op that made a value, None for sources."""
        index = self.values[value].op
        return None if index is None else self.ops[index]

    def sources(self, kind: Source) -> Iterator[Value]:
        """All values of one kind of source."""
        return (v for v in self.values if v.source is kind)
