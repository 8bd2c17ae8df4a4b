"""Residual paths as rules want them told: last weights, the norm or factor that ends them, style, neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field

from initadvisor.graph import kinds
from initadvisor.graph.activations import Bends
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import Kind
from initadvisor.graph.opgraph import Op
from initadvisor.graph.residual import Path, Residuals, branch_length
from initadvisor.graph.spec import NormStyle

_LONGEST = 80
"""Ops between a branch's last weights and its sum; a mixture of experts' combination takes up to 40."""
_MASK = 4
"""Ops from random numbers to a mask: add, floor, divide, cast."""
_SHORTEST_MLP, _LONGEST_MLP = 2, 3
"""Weights in a row of what is called a feed-forward branch."""


@dataclass
class End:
    """How a branch ends.

    Attributes:
        last: uses of weights whose output reaches the sum with no other weight between.
        norm: op index of a norm between them and the sum, None where there is none.
        scales: op indices where a learned factor multiplies the branch.
        constant: product of fixed factors.
    """

    last: list[Layer] = field(default_factory=list)
    norm: int | None = None
    scales: list[int] = field(default_factory=list)
    constant: float = 1.0


class Branches:
    """All branches of a graph, and which one an op lies on."""

    def __init__(self, flow: Flow, bends: Bends, residuals: Residuals) -> None:
        self.flow = flow
        self.bends = bends
        self.residuals = residuals
        self.paths = residuals.paths
        self.ends = [self._end(path) for path in self.paths]
        self.lengths = [branch_length(flow, path) for path in self.paths]
        self.of_op: dict[int, Path] = {}
        for path in sorted(self.paths, key=lambda p: -len(p.ops)):  # the innermost is written last
            for index in path.ops | path.side_ops:
                self.of_op[index] = path
        self.feed_forward = [self._is_feed_forward(path) for path in self.paths]
        self.shortcuts = {layer.index for path in self.paths for layer in path.projection}
        self.ending_scales = {i: path for path, end in zip(self.paths, self.ends, strict=True) for i in end.scales}

    def path_of(self, op: int) -> Path | None:
        """The innermost branch an op lies on."""
        return self.of_op.get(op)

    def level_in(self, path: Path, layer: Layer) -> int:
        """How many weights of its branch lie before a layer, counting itself."""
        start = self.flow.depth[path.fork]
        return self.flow.depth[layer.output] - start

    def _end(self, path: Path) -> End:
        flow, end = self.flow, End()
        todo = [(path.term, True)]
        seen: set[int] = set()
        masked: int | None = None
        while todo and len(seen) < _LONGEST:
            value, trailing = todo.pop()
            if value in seen or value == path.fork:
                continue
            seen.add(value)
            op = flow.producer(value)
            if op is None or op.index not in path.ops:
                continue
            if op.index in flow.layers_of:
                end.last += flow.layers_of[op.index]
                continue
            kind = flow.kind_of(op)
            if kind is Kind.MIX and (weighed := _weighed(op)) is not None:
                todo.append((weighed, False))
                continue
            if kind in (Kind.MIX, Kind.ATTENTION, Kind.SOFTMAX):
                continue  # whatever weights lie behind have met others on the way
            if trailing and kind is Kind.NORM and end.norm is None:
                end.norm = op.index
            elif trailing and end.norm is None and flow.is_constant_scale(op):
                if self._drops(op):
                    masked = flow.single_ref(op)
                elif value != masked:  # what keeps the mean of a branch that is dropped at random is no factor
                    self._scale(op, end)
            sources = self._sources(op, kind)
            weighs = kind is Kind.PRODUCT and len(sources) == 1  # a gate leaves zero what its norm made zero
            trailing &= (kind in (Kind.CARRY, Kind.NORM) or weighs) and value not in self.bends.by_exit
            todo += [(s, trailing) for s in sources]
        end.last.sort(key=lambda layer: layer.index)
        return end

    def _drops(self, op: Op) -> bool:
        """Multiplies by random numbers (stochastic depth, dropout written by hand)."""
        values = [i for i in op.inputs if not self.flow.is_live(i)]
        for _ in range(_MASK):
            made = [m for v in values if (m := self.flow.producer(v)) is not None]
            if any(m.name in kinds.DRAWS for m in made):
                return True
            values = [i for m in made for i in m.inputs]
        return False

    def _scale(self, op: Op, end: End) -> None:
        pure = self.flow.pure_operand(op)
        if pure is not None:
            if scale_of(self.flow, op) is None:
                end.scales.append(op.index)
            return
        numbers = [
            a for a in (*op.args, *op.kwargs.values()) if isinstance(a, (int, float)) and not isinstance(a, bool)
        ]
        if len(numbers) == 1 and numbers[0]:
            end.constant *= 1 / numbers[0] if op.name == "div" else numbers[0]

    def _sources(self, op: Op, kind: Kind) -> tuple[int, ...]:
        """Signals to go on with; of a product only those of full size, since a broadcast one is a gate."""
        sources = self.flow.signals(op)
        if kind is not Kind.PRODUCT:
            return sources
        shape = self.flow.values[op.outputs[0]].shape
        full = tuple(s for s in sources if self.flow.values[s].shape == shape)
        return full or sources

    def _is_feed_forward(self, path: Path) -> bool:
        """Two or three maps in a row, with no op that mixes positions."""
        flow = self.flow
        if not _SHORTEST_MLP <= self.lengths[path.index] <= _LONGEST_MLP:
            return False
        for index in path.ops:
            kind = flow.kind[index]
            if kind is Kind.MIX and _weighed(flow.graph.ops[index]) is not None:
                continue  # experts' results, weighed
            if kind in (Kind.MIX, Kind.ATTENTION) or index in self.residuals.joins:
                return False
            for layer in flow.layers_of.get(index, ()):
                shape = flow.values[layer.reading.weight].shape
                mixes = any(n > 1 for n, a in zip(shape, layer.reading.axes, strict=True) if a == "k")
                if mixes or len(flow.layers_of[index]) > 1 or layer.reading.groups > 1:
                    return False
        return True

    def style(self, path: Path) -> NormStyle:
        """Where normalisation sits."""
        flow = self.flow
        readers = [flow.graph.ops[i] for i in path.ops if path.fork in flow.signals(flow.graph.ops[i])]
        norms = [i for i in path.ops if flow.kind[i] is Kind.NORM and not self._for_heads(i)]
        if any(self._norm_first(op) for op in readers):
            return NormStyle.PRE_NORM
        if norms:  # also where a stage ends with a norm of its own, as in ConvNeXt
            return NormStyle.INNER_NORM
        after = self._only_readers(flow.graph.ops[path.join].outputs[0])
        post = bool(after) and all(flow.kind_of(op) is Kind.NORM for op in after)
        return NormStyle.POST_NORM if post else NormStyle.NONE

    def _for_heads(self, index: int) -> bool:
        return self.flow.norms[index][0] == "l2_norm"

    def _norm_first(self, op: Op) -> bool:
        """The branch starts with a norm, perhaps behind ops that only move or put together."""
        for _ in range(_LONGEST):
            kind = self.flow.kind_of(op)
            if kind in (Kind.NORM, Kind.INNER):
                return True
            if kind not in (Kind.CARRY, Kind.JOIN):
                return False
            following = [o for out in op.outputs for o in self.flow.consumers(out)]
            if not following:
                return False
            op = following[0]
        return False

    def _only_readers(self, value: int) -> list[Op]:
        """Ops that read a value, behind casts and dropout; a hand-written norm counts as one."""
        flow, found = self.flow, []
        for op in flow.consumers(value):
            kind = flow.kind_of(op)
            if kind is Kind.INNER or (kind is Kind.NORM):
                norm = next((o for o in flow.graph.ops[op.index : op.index + 12] if o.index in flow.norms), op)
                found.append(norm)
            elif kind is Kind.CARRY and op.outputs and not flow.is_constant_scale(op):
                found += self._only_readers(op.outputs[0])
            else:
                found.append(op)
        return found


def after_norm(flow: Flow, op: Op) -> int | None:
    """Index of the norm whose result an op reads directly, behind casts, layout, scales and shifts; None otherwise."""
    value = flow.single_ref(op)
    for _ in range(_LONGEST):
        if value is None:
            return None
        made = flow.producer(value)
        if made is None:
            return None
        if made.index in flow.norms:
            return made.index
        if flow.kind_of(made) is not Kind.CARRY:
            return None
        value = flow.single_ref(made)
    return None


def scale_of(flow: Flow, op: Op) -> int | None:
    """Index of the norm whose scale an op applies; None also where the norm has a scale before."""
    norm = after_norm(flow, op)
    if norm is None:
        return None
    made: Op | None = flow.graph.ops[norm]
    if any(flow.is_pure(i) for i in made.inputs):  # type: ignore[union-attr]
        return None
    value = flow.single_ref(op)
    while value is not None and (made := flow.producer(value)) is not None and made.index != norm:
        if flow.is_constant_scale(made) and flow.pure_operand(made) is not None:
            return None
        value = flow.single_ref(made)
    return norm


def _weighed(op: Op) -> int | None:
    """What an einsum weighs whose one operand has all axes of the other: results of experts, by their shares."""
    equation = op.args[0] if op.name == "einsum" and op.args and isinstance(op.args[0], str) else ""
    sides = equation.replace(" ", "").split("->")[0].split(",")
    if len(sides) != 2 or len(op.inputs) != 2 or "." in equation:
        return None
    one, two = (set(side) for side in sides)
    if one < two:
        return op.inputs[1]
    return op.inputs[0] if two < one else None
