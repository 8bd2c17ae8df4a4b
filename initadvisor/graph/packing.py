"""Where each output feature of a weight goes: packed projections are found by following feature numbers downstream.

The feature numbers 0 … n−1 are laid along the output's feature axis and sent, as a strided tensor without memory of its
own, through the very chunks, views and transposes the model applied. Whatever layout a model uses (blocks of q, k, v;
per-head interleaving; grouped queries), the parts are read off at the places where they end.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import torch

from initadvisor.graph import kinds
from initadvisor.graph.activations import Bends
from initadvisor.graph.attention import Attentions
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import Kind, words
from initadvisor.graph.opgraph import Op, Ref
from initadvisor.graph.residual import Residuals

_LARGEST_COPY = 1 << 22
"""Elements a feature-number tensor may take where a reshape cannot be a view; beyond, only sets are followed."""
_LONGEST = 160
"""Ops followed per weight; an attention with rotary positions takes about 30."""
_TO_THE_END = frozenset({Kind.CARRY, Kind.BEND, Kind.SUM, Kind.OTHER, Kind.SOFTMAX, Kind.CHOOSE})
"""What scores go through on their way out; where they weigh other signals they are a gate or a router."""

_VIEWS = words(
    "permute transpose t T mT H squeeze unsqueeze expand expand_as movedim chunk split split_with_sizes unsafe_chunk "
    "unsafe_split unbind getitem narrow select diagonal broadcast_to adjoint"
)
_RESHAPES = words("view reshape flatten unflatten view_as reshape_as ravel")

Label = tuple[Any, ...]
"""Where features end: ``("query",)``, ``("layer", op)``, ``("sum", op, operand)``, with further ops alike."""


@dataclass(slots=True)
class Trail:
    """Feature numbers at one value.

    Attributes:
        numbers: feature number at every position of the value, None where only the set is known.
        mask: which features the value holds, shape ``(features,)``.
        acted: an activation has been applied.
        faint: beyond a product; only attention is still of interest.
        share: part of the value's last axis that comes from here, where it was concatenated with other things.
    """

    numbers: torch.Tensor | None
    mask: torch.Tensor
    acted: bool = False
    faint: bool = False
    share: float = 1.0


@dataclass
class Reach:
    """Where a weight's output goes.

    Attributes:
        ends: label -> which features end there, bool of shape ``(features,)``.
        split: whether any op on the way handed different features to different readers.
        widths: ``"query"``, ``"key"`` or ``"value"`` -> features of one head that come from here where they enter an
            attention.
    """

    ends: dict[Label, torch.Tensor] = field(default_factory=dict)
    split: bool = False
    widths: dict[str, int] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Some features end at a label of that name."""
        return any(label[0] == name for label in self.ends)

    def labels(self, name: str) -> list[Label]:
        """All ends of that name."""
        return [label for label in self.ends if label[0] == name]

    def add(self, label: Label, mask: torch.Tensor) -> None:
        """Note that features end at a label."""
        self.ends[label] = self.ends[label] | mask if label in self.ends else mask.clone()

    def parts(self) -> list[tuple[frozenset[Label], torch.Tensor]]:
        """Features grouped by the set of their ends, in order of the first feature; masks are disjoint."""
        if not self.ends:
            return []
        labels = list(self.ends)
        table = torch.stack([self.ends[label] for label in labels])
        if bool(table.all()):
            return [(frozenset(labels), table[0])]
        group = torch.zeros(table.shape[1], dtype=torch.int64)
        for row in table:  # refine the grouping label by label: numbering them all at once may overflow
            _, group = torch.unique(2 * group + row, return_inverse=True)
        found = []
        for number in range(int(group.max()) + 1):
            mask = group == number
            first = int(mask.nonzero()[0])
            found.append((first, frozenset(x for i, x in enumerate(labels) if bool(table[i, first])), mask))
        return [(ends, mask) for _, ends, mask in sorted(found, key=lambda f: f[0])]


class Follower:
    """Follows features through one graph."""

    def __init__(self, flow: Flow, bends: Bends, residuals: Residuals, attentions: Attentions) -> None:
        self.flow = flow
        self.bends = bends
        self.residuals = residuals
        self.attentions = attentions
        self.outputs = frozenset(flow.graph.outputs)

    def follow(self, layer: Layer) -> Reach:
        """Where the features of one layer's output go."""
        shape = self.flow.values[layer.output].shape
        weight = self.flow.values[layer.reading.weight].shape
        sizes = [n for n, a in zip(weight, layer.reading.axes, strict=True) if a == "o"]
        if layer.op in self.flow.layers_of and len(self.flow.layers_of[layer.op]) > 1:
            sizes = []  # a recurrent layer's output is its state; its gates are known
        features = 1
        for size in sizes:
            features *= size
        mask = torch.ones(features, dtype=torch.bool)
        return self._run(layer.output, Trail(_lay(shape, sizes, layer.reading.out_axes), mask))

    def _run(self, value: int, trail: Trail) -> Reach:
        flow, reach = self.flow, Reach()
        trails = {value: trail}
        todo: list[int] = []
        queued: set[int] = set()
        self._arrive(value, trail, reach, todo, queued)
        steps = 0
        while todo and steps < _LONGEST:
            steps += 1
            op = flow.graph.ops[heapq.heappop(todo)]
            for source in dict.fromkeys(op.inputs):
                if source in trails:
                    for out, made in self._through(op, source, trails[source], reach):
                        if out in trails:
                            made.mask |= trails[out].mask
                            made.acted |= trails[out].acted
                            made.share = _both(op, made.share, trails[out].share)
                        trails[out] = made
                        self._arrive(out, made, reach, todo, queued)
        return reach

    def _arrive(self, value: int, trail: Trail, reach: Reach, todo: list[int], queued: set[int]) -> None:
        if value in self.outputs:
            reach.add(("output",), trail.mask)
        if value in self.attentions.scores:
            reach.add(("score",), trail.mask)
            return
        if value in self.residuals.forks:
            reach.add(("stream", value), trail.mask)
            return
        for index in self.flow.graph.consumers[value]:
            if index not in queued:
                queued.add(index)
                heapq.heappush(todo, index)

    def _through(self, op: Op, value: int, trail: Trail, reach: Reach) -> list[tuple[int, Trail]]:
        """Note an end, or give the trail at the op's outputs."""
        flow = self.flow
        name = self.attentions.operands.get((op.index, value))
        if name is not None:
            reach.add((name,), trail.mask)
            width = self.attentions.widths.get((op.index, value))
            axes = self.attentions.axes.get((op.index, value), ())
            if width is not None and trail.numbers is not None and _alike(trail.numbers, axes):
                self.attentions.forget_width(op, value)  # heads of places: attention runs over channels (XCiT)
            elif width is not None:
                reach.widths.setdefault(name, round(width * trail.share))
            return []
        kind = flow.kind_of(op)
        if kind in (Kind.INNER, Kind.PURE):
            return []
        if kind is Kind.LAYER:
            if value in flow.signals(op):
                self._end(("layer", op.index), trail, reach)
            return []
        if op.index in self.residuals.joins:
            self._end(("join", op.index), trail, reach)
            return []
        if kind in (Kind.MIX, Kind.SOFTMAX, Kind.CHOOSE, Kind.ATTENTION):
            self._end((kind.value, op.index), trail, reach)
            if kind in (Kind.SOFTMAX, Kind.CHOOSE) and self.ends_the_model(op):
                reach.add(("output",), trail.mask)
            return []
        if op.index in self.bends.inner:
            return [(o, Trail(trail.numbers, trail.mask, True, trail.faint, trail.share)) for o in op.outputs]
        if kind is Kind.PRODUCT:
            self._end(("product", op.index, trail.acted, op.inputs.index(value)), trail, reach)
            return [(o, Trail(None, trail.mask, trail.acted, True, trail.share)) for o in op.outputs]
        if kind is Kind.SUM:
            same = flow.values[value].shape == flow.values[op.outputs[0]].shape
            if not same:
                self._end(("sum", op.index, op.inputs.index(value)), trail, reach)
            numbers, faint = trail.numbers if same else None, not same or trail.faint
            return [(o, Trail(numbers, trail.mask, trail.acted, faint, trail.share)) for o in op.outputs]
        if kind is Kind.OTHER:
            self._end(("op", op.name, op.index, op.inputs.index(value)), trail, reach)
        return self._carry(op, value, trail, reach)

    def ends_the_model(self, op: Op) -> bool:
        """Whether what an op gives is what the model returns, as it is or as probabilities, choices or its own loss."""
        todo, seen = [op], {op.index}
        while todo and len(seen) < _LONGEST:
            op = todo.pop()
            if any(o in self.outputs for o in op.outputs):
                return True
            for reader in (r for o in op.outputs for r in self.flow.consumers(o)):
                if reader.index not in seen and self.flow.kind_of(reader) in _TO_THE_END:
                    seen.add(reader.index)
                    todo.append(reader)
        return False

    def _end(self, label: Label, trail: Trail, reach: Reach) -> None:
        if not trail.faint:
            reach.add(label, trail.mask)

    def _carry(self, op: Op, value: int, trail: Trail, reach: Reach) -> list[tuple[int, Trail]]:
        shape = self.flow.values[value].shape
        moved: list[torch.Tensor | None] = [None] * len(op.outputs)
        if trail.numbers is not None:
            replayed = self._replay(op, value, trail.numbers)
            if replayed is not None and len(replayed) == len(op.outputs):
                moved = list(replayed)
            elif op.name not in _VIEWS and op.name not in _RESHAPES:
                moved = [trail.numbers if self.flow.values[o].shape == shape else None for o in op.outputs]
        found = []
        for out, numbers in zip(op.outputs, moved, strict=True):
            mask = trail.mask
            if numbers is not None and op.name in kinds.SPLITTING:
                mask = _mask(numbers, len(trail.mask))
                reach.split |= bool(mask.sum() < trail.mask.sum())
            share = trail.share * _share(op, shape, self.flow.values[out].shape)
            found.append((out, Trail(numbers, mask, trail.acted, trail.faint, share)))
        return found

    def _replay(self, op: Op, value: int, numbers: torch.Tensor) -> list[torch.Tensor] | None:
        """The same layout op on feature numbers; None where it is none, or needs too much memory."""
        if op.name in _RESHAPES:
            shape = self.flow.values[op.outputs[0]].shape
            try:
                return [numbers.view(shape)]
            except RuntimeError:
                return [numbers.reshape(shape)] if numbers.numel() <= _LARGEST_COPY else None
        if op.name not in _VIEWS:
            return None
        foreign = False

        def filled(arg: Any) -> Any:
            nonlocal foreign
            if isinstance(arg, Ref):
                foreign |= arg.value != value
                return numbers
            return tuple(filled(a) for a in arg) if isinstance(arg, tuple) else arg

        args, kwargs = [filled(a) for a in op.args], {k: filled(v) for k, v in op.kwargs.items()}
        if foreign:
            if op.name == "expand_as":
                return [numbers.expand(self.flow.values[op.outputs[0]].shape)]
            return None
        try:
            made = op.function(*args, **kwargs)
        except (RuntimeError, TypeError, IndexError, ValueError):
            return None
        return [made] if isinstance(made, torch.Tensor) else list(made)


def _alike(numbers: torch.Tensor, axes: tuple[int, ...]) -> bool:
    """Whether all places along some axes hold the same features."""
    return any(numbers.shape[a] > 1 for a in axes) and all(numbers.stride(a) == 0 for a in axes if numbers.shape[a] > 1)


_GROWS = kinds.JOINING | {"alias", "copy", "setitem"}
"""Ops whose result holds what they read beside other things."""


def _share(op: Op, part: tuple[int, ...], whole: tuple[int, ...]) -> float:
    """Part of the last axis that an operand makes of what it is put together with."""
    if op.name not in _GROWS or len(part) != len(whole) or not part or not 0 < part[-1] < whole[-1]:
        return 1.0
    return part[-1] / whole[-1]


def _both(op: Op, one: float, two: float) -> float:
    """Part of an axis that two operands of one op make together."""
    return min(1.0, one + two) if op.name in _GROWS and one < 1.0 and two < 1.0 else max(one, two)


def _lay(shape: tuple[int, ...], sizes: list[int], axes: tuple[int, ...]) -> torch.Tensor | None:
    """Feature numbers on the feature axes of an output, expanded over all others without memory."""
    if not sizes or len(sizes) != len(axes) or any(shape[a] != s for a, s in zip(axes, sizes, strict=True)):
        return None
    numbers = torch.arange(torch.Size(sizes).numel(), dtype=torch.int32).view(sizes)
    order = sorted(range(len(axes)), key=lambda i: axes[i] % len(shape))
    numbers = numbers.permute(order)
    placed = sorted(a % len(shape) for a in axes)
    full = [1] * len(shape)
    for axis, size in zip(placed, numbers.shape, strict=True):
        full[axis] = size
    return numbers.reshape(full).expand(shape)


def _mask(numbers: torch.Tensor, features: int) -> torch.Tensor:
    """Which features occur."""
    for axis in range(numbers.ndim):
        if numbers.stride(axis) == 0 and numbers.shape[axis] > 1:
            numbers = numbers.narrow(axis, 0, 1)
    mask = torch.zeros(features, dtype=torch.bool)
    return mask.scatter_(0, numbers.reshape(-1).long(), True)  # indexing with a scalar is a thousand times slower


def ranges_of(mask: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of the true entries.

    Example:
        >>> ranges_of(torch.tensor([True, True, False, True]))
        ((0, 2), (3, 4))
    """
    edges = torch.diff(
        mask.to(torch.int8), prepend=torch.zeros(1, dtype=torch.int8), append=torch.zeros(1, dtype=torch.int8)
    )
    starts, stops = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return tuple(zip(starts, stops, strict=True))
