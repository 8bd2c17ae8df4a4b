"""The signal's way through an op graph: what is data, what is made of parameters, what every op does to the signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from initadvisor.graph import kinds
from initadvisor.graph.contractions import Reading, lookup_reading, read_weights
from initadvisor.graph.kinds import Kind, words
from initadvisor.graph.opgraph import Op, OpGraph, Source


class State(IntEnum):
    """What a value is made of; that of an op's output is the highest of its inputs."""

    COLD = 0  # constants, buffers, integers, masks: no float of the batch and no parameter
    PURE = 1  # parameters, with constants
    LIVE = 2  # the signal


@dataclass(frozen=True, slots=True)
class Layer:
    """One use of one weight.

    Attributes:
        index: position in ``Flow.layers``, execution order.
        op: index of the op.
        reading: axes and fans.
        output: the value it makes.
    """

    index: int
    op: int
    reading: Reading
    output: int


_CASTS = words(
    "to type float double half bfloat16 type_as contiguous clone detach data alias cuda cpu identity as_tensor "
    "positive requires_grad dropout dropout2d alpha_dropout feature_dropout pin_memory real"
)
"""Ops that leave a value what it is, up to its type."""


SHAPE_ONLY = words("type_as expand_as view_as reshape_as to")
"""Ops that look at a second tensor's shape or type only."""


def read_by(op: Op) -> tuple[int, ...]:
    """Values whose numbers an op reads."""
    return op.inputs[:1] if op.name in SHAPE_ONLY else op.inputs


_PRODUCTS = words("mv dot vdot vecdot matmul rmatmul mm bmm addmm addmv addbmm baddbmm einsum inner tensordot")
"""Contractions that do not say which operand is the weight."""


_RANK_OF_MAPS = 3
"""Axes of a stack of matrices."""

_BATCHED = words("bmm matmul rmatmul einsum baddbmm _grouped_mm grouped_mm")
"""Products that keep several maps apart."""

_TO_PRODUCT = 8
"""Views and casts between picked maps and the product they are for."""


class Flow:
    """Facts about every value and op of a graph, each computed once, in execution order.

    Attributes:
        graph: what was recorded, calls that hide layers written out.
        state: per value.
        origins: per value that is made of parameters: values of those parameters.
        from_batch: per value: depends on a tensor of the batch, integers included.
        kind: per op.
        layers: every use of a weight.
        layers_of: op index -> its layers.
        norms: op index -> (name, value it normalises).
        starts: parameters that are a signal from the first (latents, queries) -> the op that first reads them.
        joined: those of them that are joined to a signal (tokens).
        modulated: values that are a weight times something of the signal (a kernel scaled for every sample).
        depth: per value: weight layers on the longest path to it.
    """

    def __init__(
        self, graph: OpGraph, starts: Mapping[int, int] | None = None, joined: frozenset[int] = frozenset()
    ) -> None:
        self.graph = graph
        self.values = graph.values
        count = len(graph.values)
        self.state = [State.COLD] * count
        self.origins: list[frozenset[int]] = [frozenset()] * count
        self.from_batch = [False] * count
        self.depth = [0] * count
        self.kind: list[Kind] = []
        self.layers: list[Layer] = []
        self.layers_of: dict[int, list[Layer]] = {}
        self.norms: dict[int, tuple[str, int]] = {}
        self._signals: list[tuple[int, ...]] = []
        self.starts = dict(starts or {})
        self.joined = joined
        self.modulated: set[int] = set()
        for value in graph.values:
            if value.index in self.starts:
                self.state[value.index] = State.LIVE
            elif value.source is Source.PARAMETER:
                self.state[value.index] = State.PURE
                self.origins[value.index] = frozenset({value.index})
            elif value.source is Source.INPUT:
                self.from_batch[value.index] = True
                if _is_signal(value.dtype):
                    self.state[value.index] = State.LIVE
        for op in graph.ops:
            self._read(op)

    # ---- construction

    def _read(self, op: Op) -> None:
        read, state_of, depth_of = read_by(op), self.state, self.depth
        batch = any(self.from_batch[i] for i in op.inputs)
        readings = read_weights(op, self.values, self.is_pure) or self._table_read(op) or self._modulated_read(op)
        if readings and op.name in _PRODUCTS and not any(self._is_data(i) for i in readings[0].data):
            readings = []  # a weight and a constant: part of a parametrization (power iteration, a fixed basis)
        layers = []
        for reading in readings:
            layer = Layer(len(self.layers), op.index, self._picked(reading), op.outputs[0])
            layers.append(layer)
            self.layers.append(layer)
        if layers:
            self.layers_of[op.index] = layers
            state, kind = State.LIVE, Kind.LAYER
        else:
            state = max([state_of[i] for i in read], default=State.COLD)
            if op.name in kinds.RANDOM and not (op.in_place and op.name in ("normal", "uniform")):
                state = State.COLD
            kind = self._kind(op) if state is State.LIVE else Kind.PURE
        self.kind.append(kind)
        level = max([depth_of[i] for i in read], default=0) + bool(layers)
        if len(layers) > 2:  # a recurrent layer with an output projection is two maps deep
            level += 1
        if state is State.LIVE and not layers and self._modulates(op):
            self.modulated.update(op.outputs)
        origins: frozenset[int] = frozenset()
        if state is State.PURE:
            origins = frozenset().union(*(self.origins[i] for i in read))
        for out in op.outputs:
            signal = _is_signal(self.values[out].dtype)
            self.state[out] = state if signal else State.COLD
            self.origins[out] = origins if signal else frozenset()
            self.depth[out] = level if signal else 0  # what is chosen by an index is no deeper for it
            self.from_batch[out] = batch
        passed = [v for layer in layers for v in layer.reading.data] if layers else self._live(read)
        if not layers and op.name in kinds.CONTRACTIONS and state is State.LIVE:
            spread = self._spread_by_data(op)
            passed = passed if spread is None else [spread]
        self._signals.append(tuple(dict.fromkeys(passed)))

    def _modulated_read(self, op: Op) -> list[Reading]:
        """A signal that is contracted with a weight which another signal has scaled (StyleGAN2's convolutions)."""
        if not any(i in self.modulated for i in op.inputs):
            return []
        found = read_weights(op, self.values, self.weighs)
        return [r for r in found if r.weight in self.modulated and not any(i in self.modulated for i in r.data)]

    def _modulates(self, op: Op) -> bool:
        """Scales a whole weight by something smaller of the signal, or moves what was scaled so."""
        if op.name in kinds.LAYOUT:
            return op.inputs[0] in self.modulated
        if op.name not in kinds.PRODUCTS or len(op.inputs) != 2:
            return False
        weights = [i for i in op.inputs if self.weighs(i)]
        if len(weights) != 1:
            return False
        own, made = self.values[weights[0]].shape, self.values[op.outputs[0]].shape
        other = next(i for i in op.inputs if i != weights[0])
        padded, beside = (((1,) * (len(made) - len(s)) + s)[1:] for s in (own, self.values[other].shape))
        spread = sum(n > 1 for n in own)
        return spread > 1 and padded == made[1:] and any(a > b for a, b in zip(padded, beside, strict=True))

    def _spread_by_data(self, op: Op) -> int | None:
        """Of a product with a matrix of the batch (a graph's neighbours), what came through weights; else None.

        Weights of attention stay a mix: their softmax says what of the data is read.
        """
        live = [i for i in op.inputs if self.state[i] is State.LIVE]
        deep = [i for i in live if self.depth[i]]
        if len(live) != 2 or len(deep) != 1:
            return None
        made = self.producer(deep[0])
        while made is not None and made.index < len(self.kind) and self.kind[made.index] is Kind.CARRY:
            sources = self._signals[made.index]
            made = self.producer(sources[0]) if len(sources) == 1 else None
        weighs = made is not None and made.index < len(self.kind) and self.kind[made.index] is Kind.SOFTMAX
        return None if weighs else deep[0]

    def mark_norm(self, op: Op, name: str, value: int) -> None:
        """Note that an op normalises a value."""
        self.norms[op.index] = (name, value)
        self.kind[op.index] = Kind.NORM
        self._signals[op.index] = (value,)

    def _live(self, values: tuple[int, ...]) -> list[int]:
        return [i for i in values if self.state[i] is State.LIVE]

    def _is_data(self, value: int) -> bool:
        return self.is_live(value) or self.from_batch[value]

    def _table_read(self, op: Op) -> list[Reading]:
        """A parameter indexed by integers of the batch is a table that is looked up."""
        if op.name not in ("getitem", "index_select", "gather", "take") or not op.inputs:
            return []
        table, *others = op.inputs
        if not self.is_pure(table) or not others:
            return []
        picks = [i for i in others if self.from_batch[i] and not _is_signal(self.values[i].dtype)]
        if picks and (self._multiplies_data(op, table) or self.is_bias_of_maps(op, table)):
            return []  # maps (or their biases) picked for every row of the data (experts), not rows of a table
        return [lookup_reading(self.values, picks[0], table)] if picks and op.name != "gather" else []

    def _picked(self, reading: Reading) -> Reading:
        """Axes of a weight along which maps were picked count maps, whatever the product does with them."""
        made = self.maker(reading.weight)
        if made is None or made.name not in ("getitem", "index_select") or len(made.inputs) < 2:
            return reading
        lead = len(self.values[made.inputs[1]].shape) if made.name == "getitem" else 1
        shape = self.values[reading.weight].shape
        if len(shape) != len(self.values[made.outputs[0]].shape) or not self.is_pure(made.inputs[0]):
            return reading
        fan_out = reading.fan_out
        for n, axis in zip(shape[:lead], reading.axes[:lead], strict=True):
            fan_out /= n if axis == "o" else 1
        kept = reading.out_axes[reading.axes[:lead].count("o") :]
        return replace(reading, axes="b" * lead + reading.axes[lead:], fan_out=fan_out, out_axes=kept)

    def is_bias_of_maps(self, op: Op, table: int) -> bool:
        """The rows are added to what a product with as many maps gave."""
        for reader in (r for out in op.outputs for r in self.consumers(out) if r.name in kinds.SUMS):
            for other in (i for i in reader.inputs if i not in op.outputs):
                made = self.maker(other)
                weights = self.origins_of(made) if made is not None and made.name in _BATCHED else ()
                shapes = [self.values[w].shape for w in weights]
                if any(len(s) > 2 and s[0] == self.values[table].shape[0] for s in shapes):
                    return True
        return False

    def maker(self, value: int) -> Op | None:
        """The op a value comes from, behind views."""
        op = self.producer(value)
        for _ in range(_TO_PRODUCT):
            if op is None or op.name not in kinds.LAYOUT or len(read_by(op)) != 1:
                return op
            op = self.producer(op.inputs[0])
        return op

    def origins_of(self, op: Op) -> frozenset[int]:
        """Parameters that an op reads as such."""
        return frozenset().union(*(self.origins[i] for i in op.inputs))

    def _multiplies_data(self, op: Op, table: int) -> bool:
        """What is picked is multiplied, as a matrix, with something that is no parameter."""
        if len(self.values[table].shape) < _RANK_OF_MAPS:
            return False
        values = list(op.outputs)
        for _ in range(_TO_PRODUCT):
            if not values:
                return False
            value = values.pop()
            for reader in self.consumers(value):
                if reader.name in _PRODUCTS and any(i != value and not self._constant(i) for i in reader.inputs):
                    return True
                if reader.name in kinds.LAYOUT:
                    values += reader.outputs
        return False

    def _constant(self, value: int) -> bool:
        """Made of parameters and buffers alone, as far as a few steps back show."""
        todo = [value]
        for _ in range(_TO_PRODUCT):
            if not todo:
                return True
            value = todo.pop()
            op = self.producer(value)
            if op is None and self.values[value].source is Source.INPUT:
                return False
            todo += op.inputs if op is not None else ()
        return False

    def _kind(self, op: Op) -> Kind:
        name = op.name
        live = {i for i in read_by(op) if self.state[i] is State.LIVE}
        if name == "alias" and len(live) > 1:
            return Kind.JOIN  # written to through another view
        if name in kinds.CONTRACTIONS:
            uses = sum(self.state[i] is State.LIVE for i in op.inputs)
            return Kind.MIX if uses > 1 and self._spread_by_data(op) is None else Kind.CARRY
        for names, kind in _BY_NAME:
            if name in names:
                return kind
        if name == "scaled_dot_product_attention" or name == "attention_weights":
            return Kind.ATTENTION
        if name in kinds.SUMS:
            return Kind.SUM if len(live) > 1 else Kind.CARRY
        if name in kinds.PRODUCTS:
            return self._product_kind(op, live)
        if name in kinds.BENDS or name in kinds.AFFINE:
            if len(live) > 1:
                return Kind.JOIN
            return Kind.CARRY if name in kinds.AFFINE else Kind.BEND
        if name in kinds.GATHERING or name in kinds.JOINING:
            several = len(live) > 1 or any(self.state[i] is State.PURE for i in op.inputs)
            return Kind.JOIN if several else Kind.CARRY
        return Kind.OTHER

    def _product_kind(self, op: Op, live: set[int]) -> Kind:
        if len(live) > 1:
            return Kind.PRODUCT
        only = next(iter(live))
        if sum(i == only for i in op.inputs) > 1:
            return Kind.BEND  # x · x
        divisor = op.ref(0, "input") if op.name == "rdiv" else op.ref(1, "other") if op.name == "div" else None
        return Kind.BEND if divisor == only else Kind.CARRY

    # ---- questions

    def is_pure(self, value: int) -> bool:
        """Made of parameters (and constants), no signal."""
        return self.state[value] is State.PURE

    def weighs(self, value: int) -> bool:
        """Made of parameters, or that scaled by the signal."""
        return self.is_pure(value) or value in self.modulated

    def is_live(self, value: int) -> bool:
        """Part of the signal."""
        return self.state[value] is State.LIVE

    def producer(self, value: int) -> Op | None:
        """The op that made a value."""
        return self.graph.producer(value)

    def consumers(self, value: int) -> Iterator[Op]:
        """Ops that read a value, in order."""
        return (self.graph.ops[i] for i in self.graph.consumers[value])

    def kind_of(self, op: Op) -> Kind:
        """What an op does to the signal."""
        return self.kind[op.index]

    def signals(self, op: Op) -> tuple[int, ...]:
        """Values whose signal an op passes on: of a layer its data, of a norm what it normalises."""
        return self._signals[op.index]

    def root(self, value: int) -> int:
        """The value before casts and copies."""
        while True:
            op = self.producer(value)
            if op is None or op.name not in _CASTS or len(op.inputs) != 1 or op.in_place:
                return value
            value = op.inputs[0]

    def is_constant_scale(self, op: Op) -> bool:
        """Multiplies or divides one signal by numbers."""
        return op.name in kinds.PRODUCTS and self.kind_of(op) is Kind.CARRY

    def pure_operand(self, op: Op) -> int | None:
        """The operand made of parameters of an op that has one signal, None where there is none."""
        found = [i for i in op.inputs if self.is_pure(i)]
        return found[0] if len(found) == 1 else None

    def single_ref(self, op: Op) -> int | None:
        """The only signal of an op, None where there are several or none."""
        found = self.signals(op)
        return found[0] if len(found) == 1 else None


def _is_signal(dtype: object) -> bool:
    return bool(dtype.is_floating_point or dtype.is_complex)  # type: ignore[attr-defined]


class _Fourier(frozenset[str]):
    """All transforms by their prefix."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(("fft_", "stft", "istft"))


_BY_NAME: tuple[tuple[frozenset[str], Kind], ...] = (
    (kinds.LAYOUT, Kind.CARRY),
    (kinds.POOLING, Kind.CARRY),
    (kinds.SOFTMAXES, Kind.SOFTMAX),
    (frozenset(kinds.NORMS), Kind.NORM),
    (kinds.CHOOSERS, Kind.CHOOSE),
    (_Fourier(), Kind.CARRY),
)
