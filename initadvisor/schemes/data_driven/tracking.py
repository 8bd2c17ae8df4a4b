"""Follow moments through a recorded forward pass, op by op, without any data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from initadvisor.graph import kinds
from initadvisor.graph.activations import Bend, Bends, find_bends
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import Kind
from initadvisor.graph.lower import lower
from initadvisor.graph.norms import read_flow
from initadvisor.graph.opgraph import Op, OpGraph, Source
from initadvisor.initializers.gains import activation_fn, is_known
from initadvisor.schemes.data_driven import moments
from initadvisor.schemes.data_driven.moments import UNIT, Moments

Choose = Callable[[str, Moments, Moments], float]
"""``(path, moments without bias, moments of the bias) -> factor`` to put on a weight."""

_AVERAGES = kinds.words(
    "mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
)
_KEEP_SIZE = kinds.words("max_pool1d max_pool2d max_pool3d boolean_dispatch interpolate upsample amax max")
_DROPOUTS = kinds.words("dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout")
_UNIFORM_LOGITS = 1.0
"""Variance assumed of attention logits, for how many positions an attention averages over."""


class Tracker:
    """Moments of every value of one graph.

    Attributes:
        unknown: names of ops whose effect was not understood; unit moments are assumed behind them.
    """

    def __init__(self, graph: OpGraph, tensors: Mapping[str, torch.Tensor], choose: Choose) -> None:
        self.flow = read_flow(lower(graph))
        self.unknown: dict[str, None] = {}
        self._tensors = tensors
        self._choose = choose
        self._factors: dict[str, float] = {}
        self._found: dict[int, Moments] = {}
        self._bends: Bends = find_bends(self.flow, self._mean)

    def run(self) -> None:
        """Walk the graph in execution order."""
        for op in self.flow.graph.ops:
            bend = self._bends.inner.get(op.index)
            if bend is not None:
                if bend.exit in op.outputs:
                    self._found[bend.exit] = self._bent(bend)
                continue
            made = self._after(op)
            for out in op.outputs:
                self._found[out] = made

    def _bent(self, bend: Bend) -> Moments:
        """Behind an activation; one that is no function of a whole line (a root, a logarithm) is not understood."""
        if is_known(bend.name):
            return moments.bent(self.of(bend.start), activation_fn(bend.name, bend.args))
        if bend.name in self._bends.custom:
            return moments.bent(self.of(bend.start), self._bends.custom[bend.name])
        self.unknown.setdefault(bend.name)
        return UNIT

    def of(self, value: int) -> Moments:
        """Moments of a value."""
        if value in self._found:
            return self._found[value]
        known = self.flow.values[value]
        if known.number is not None:
            return Moments(known.number, 0.0, 0.0)
        if known.name in self._tensors:
            return self._tensor(known.name)
        return UNIT if known.source in (Source.INPUT, Source.OP) else Moments(0.0, 0.0, 0.0)

    def _tensor(self, path: str) -> Moments:
        tensor = self._tensors[path]
        if not tensor.is_floating_point():
            return UNIT
        return moments.scaled(moments.of_tensor(tensor), self._factors.get(path, 1.0))

    def _mean(self, path: str) -> float | None:
        tensor = self._tensors.get(path)
        return None if tensor is None else float(tensor.detach().double().mean())

    # ---- ops

    def _after(self, op: Op) -> Moments:
        if op.index in self.flow.norms:
            return self._normed(op)
        kind = self.flow.kind_of(op)
        signals = self.flow.signals(op)
        if kind is Kind.LAYER:
            return self._layer(op)
        if kind is Kind.PURE:
            return self._pure(op)
        if not signals:
            return UNIT
        first = self.of(signals[0])
        if kind is Kind.CARRY:
            return self._carried(op, first)
        if kind is Kind.INNER:
            return first
        if kind is Kind.SUM:
            return self._summed(op)
        if kind is Kind.PRODUCT and op.name == "mul" and len(signals) == 2:
            return moments.multiplied(first, self.of(signals[1]))
        if kind is Kind.JOIN and op.name in kinds.JOINING:
            sizes = (float(math.prod(self.flow.values[s].shape)) for s in signals)
            return moments.joined([(self.of(s), size) for s, size in zip(signals, sizes, strict=True)])
        if kind is Kind.SOFTMAX:
            return Moments(1 / max(self.flow.values[signals[0]].shape[-1], 1), 0.0, 0.0)
        if kind in (Kind.ATTENTION, Kind.MIX):
            return self._mixed(op)
        return self._not_understood(op)

    def _not_understood(self, op: Op) -> Moments:
        self.unknown.setdefault(op.name)
        return UNIT

    def _pure(self, op: Op) -> Moments:
        """Something made of parameters: what it was made of, where the op only moves numbers."""
        return self.of(op.inputs[0]) if op.inputs and op.name in kinds.LAYOUT else UNIT

    def _layer(self, op: Op) -> Moments:
        layers = self.flow.layers_of[op.index]
        if len(layers) != 1 or layers[0].reading.recurrent:
            return self._not_understood(op)
        layer = layers[0]
        reading = layer.reading
        if op.name in kinds.LOOKUPS or not reading.data or not any(self.flow.is_live(d) for d in reading.data):
            table = self.of(reading.weight)
            return Moments(table.mean, table.variance, 0.0)
        path = self._path(layer)
        if path is None:
            return self._not_understood(op)
        data = self.of(reading.data[0])
        for other in reading.data[1:]:
            data = moments.multiplied(data, self.of(other))
        fan_in = reading.fan_in * _inside(op, self.flow)
        bias = Moments(0.0, 0.0, 0.0) if reading.bias is None else self.of(reading.bias)
        made = moments.mapped(data, self._tensor(path), fan_in)
        if path not in self._factors:
            self._factors[path] = self._choose(path, made, bias)
            made = moments.scaled(made, self._factors[path])
        return moments.added(made, bias)

    def _path(self, layer: Layer) -> str | None:
        origins = self.flow.origins[layer.reading.weight]
        names = [self.flow.values[o].name for o in origins]
        return names[0] if len(names) == 1 and names[0] in self._tensors else None

    def _normed(self, op: Op) -> Moments:
        name, base = self.flow.norms[op.index]
        before = self.of(base)
        shape = self.flow.values[base].shape
        likeness = before.shared / before.variance if before.variance > 0 else 0.0
        if name == "l2_norm":
            after = Moments(0.0, 1 / max(shape[-1], 1), likeness / max(shape[-1], 1))
        elif name == "rms_norm":
            after = moments.scaled(before, 1 / math.sqrt(before.second)) if before.second > 0 else before
        else:
            # Statistics over the batch take out what all samples share.
            after = Moments(0.0, 1.0, 0.0 if name == "batch_norm" else likeness)
        for position, key in ((1, "weight"), (2, "bias")):
            position += {"batch_norm": 2, "instance_norm": 2, "group_norm": 1, "layer_norm": 1, "rms_norm": 1}.get(
                op.name, 0
            )
            value = op.ref(position, key) if op.name in kinds.NORMS else None
            if value is not None and self.flow.is_pure(value):
                own = self.of(value)
                after = moments.multiplied(after, own) if key == "weight" else moments.added(after, own)
        return after

    def _carried(self, op: Op, before: Moments) -> Moments:
        flow = self.flow
        if op.name in _DROPOUTS:
            trained = op.arg(2, "training", True) is not False
            return moments.dropped(before, float(op.arg(1, "p", 0.5))) if trained else before
        if op.name in _AVERAGES:
            inside, outside = (math.prod(flow.values[i].shape) for i in (flow.signals(op)[0], op.outputs[0]))
            return moments.averaged(before, _window(op) or inside / max(outside, 1))
        if op.name in kinds.LAYOUT or op.name in _KEEP_SIZE or op.name in kinds.GATHERING:
            return before
        if op.name in kinds.SUMS or op.name in kinds.PRODUCTS or op.name == "neg":
            return self._affine(op, before)
        return self._not_understood(op)

    def _affine(self, op: Op, before: Moments) -> Moments:
        """One signal with a number or with something made of parameters."""
        if op.name == "neg":
            return moments.scaled(before, -1.0)
        signal = self.flow.signals(op)[0]
        others = [i for i in op.inputs if i != signal]
        plain = [a for a in op.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
        if not others and not plain:
            return self._not_understood(op)
        other = self.of(others[0]) if others else Moments(float(plain[0]), 0.0, 0.0)
        if op.name in ("add", "sub", "rsub"):
            return moments.added(before, other)
        if op.name == "div":
            return moments.scaled(before, 1 / other.mean) if other.mean else before
        return moments.multiplied(before, other)

    def _summed(self, op: Op) -> Moments:
        total: Moments | None = None
        for value in op.inputs:
            own = self.of(value)
            total = own if total is None else moments.added(total, own, -1.0 if op.name in ("sub", "rsub") else 1.0)
        return total if total is not None else UNIT

    def _mixed(self, op: Op) -> Moments:
        """Attention averages its values over positions; a product of two signals sums over one axis."""
        if op.name == "scaled_dot_product_attention":
            return self._attended(op.inputs[2], op.inputs[1])
        if len(op.inputs) < 2:
            return self._not_understood(op)
        left, right = op.inputs[:2]
        if self._is_probability(left):
            return self._attended(right, right)
        size = self.flow.values[left].shape[-1] if self.flow.values[left].shape else 1
        return Moments(0.0, size * self.of(left).second * self.of(right).second, 0.0)

    def _attended(self, value: int, keys: int) -> Moments:
        shape = self.flow.values[keys].shape
        positions = shape[-2] if len(shape) > 1 else 1
        # Σp² over T positions of a softmax of Gaussian logits is exp(σ²)/T.
        return moments.averaged(self.of(value), positions / math.exp(_UNIFORM_LOGITS))

    def _is_probability(self, value: int) -> bool:
        op = self.flow.producer(self.flow.root(value))
        return op is not None and self.flow.kind_of(op) is Kind.SOFTMAX


def _window(op: Op) -> float | None:
    """Positions under an average pooling's window; None where the shapes say it."""
    if not op.name.startswith("avg_pool"):
        return None
    size = op.arg(1, "kernel_size")
    return float(math.prod(size)) if isinstance(size, tuple) else float(size ** int(op.name[-2]))


def _inside(op: Op, flow: Flow) -> float:
    """Share of a convolution's taps that fall on data rather than on zero padding, over all its outputs."""
    if op.name not in ("conv1d", "conv2d", "conv3d") or not isinstance(op.arg(4, "padding", 0), (int, tuple)):
        return 1.0
    data, weight = flow.values[op.inputs[0]].shape, flow.values[op.inputs[1]].shape
    sizes, kernel = data[-(len(weight) - 2) :], weight[2:]
    stride, padding, dilation = (_each(op.arg(at, name, d), len(kernel)) for at, name, d in _GEOMETRY)
    share = 1.0
    for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        outputs = max((n + 2 * p - d * (k - 1) - 1) // s + 1, 1)
        taps = sum(0 <= o * s - p + t * d < n for o in range(outputs) for t in range(k))
        share *= taps / (outputs * k)
    return share


_GEOMETRY = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))


def _each(value: int | tuple[int, ...], count: int) -> tuple[int, ...]:
    if isinstance(value, tuple):
        return value * count if len(value) == 1 else value
    return (value,) * count
