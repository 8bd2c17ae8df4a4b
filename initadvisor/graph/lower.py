"""Calls that hide several layers, written out: multi-head attention, stacked recurrent nets and cells, GLU.

The result is again an op graph, so that everything above sees one linear map per op.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from initadvisor.graph.gates import RECURRENT
from initadvisor.graph.opgraph import Op, OpGraph, Ref, Source, Value

_CELLS = {name + "_cell": name for name in RECURRENT}

HIDING = frozenset({"multi_head_attention_forward", "glu", "addcmul", "broadcast_tensors", *RECURRENT, *_CELLS})
"""Calls that are written out."""


class _Writer:
    """Copies ops into a new graph and appends new ones."""

    def __init__(self, graph: OpGraph) -> None:
        self.values = list(graph.values)
        self.ops: list[Op] = []
        self.module = ""

    def value(self, shape: tuple[int, ...], like: int) -> int:
        index = len(self.values)
        self.values.append(Value(index, shape, self.values[like].dtype, Source.OP, len(self.ops)))
        return index

    def emit(
        self,
        name: str,
        function: Any,
        args: tuple[Any, ...],
        outputs: tuple[int, ...],
        kwargs: dict[str, Any] | None = None,
        in_place: bool = False,
    ) -> None:
        index = len(self.ops)
        kwargs = kwargs or {}
        inputs = tuple(_refs((args, kwargs)))
        self.ops.append(Op(index, name, function, args, kwargs, inputs, outputs, self.module, in_place))
        for out in outputs:
            old = self.values[out]
            self.values[out] = Value(out, old.shape, old.dtype, old.source, index, old.name, old.number)

    def new(self, name: str, function: Any, args: tuple[Any, ...], shape: tuple[int, ...], like: int) -> int:
        """Append an op with one new output."""
        out = self.value(shape, like)
        self.emit(name, function, args, (out,))
        return out

    def linear(self, data: int, weight: int, bias: int | None, out: int | None = None) -> int:
        shape = (*self.values[data].shape[:-1], self.values[weight].shape[0])
        made = self.value(shape, data) if out is None else out
        args = (Ref(data), Ref(weight), None if bias is None else Ref(bias))
        self.emit("linear", F.linear, args, (made,))
        return made

    def rows(self, tensor: int, start: int, stop: int) -> int:
        shape = (stop - start, *self.values[tensor].shape[1:])
        return self.new("getitem", torch.Tensor.__getitem__, (Ref(tensor), slice(start, stop)), shape, tensor)

    def parts(self, tensor: int, count: int) -> list[int]:
        """Equal parts of the last axis."""
        *lead, last = self.values[tensor].shape
        outs = tuple(self.value((*lead, last // count), tensor) for _ in range(count))
        self.emit("chunk", torch.Tensor.chunk, (Ref(tensor), count, -1), outs)
        return list(outs)


def _refs(value: Any) -> list[int]:
    if isinstance(value, Ref):
        return [value.value]
    if isinstance(value, tuple):
        return [r for v in value for r in _refs(v)]
    if isinstance(value, dict):
        return [r for v in value.values() for r in _refs(v)]
    return []


def lower(graph: OpGraph) -> OpGraph:
    """The graph with every hiding call written out; the graph itself where there is none."""
    if not any(op.name in HIDING for op in graph.ops):
        return graph
    writer = _Writer(graph)
    for op in graph.ops:
        writer.module = op.module
        if op.name == "multi_head_attention_forward":
            _attention(writer, op)
        elif op.name == "glu":
            _glu(writer, op)
        elif op.name == "addcmul":
            _addcmul(writer, op)
        elif op.name == "broadcast_tensors":
            _broadcast(writer, op)
        elif op.name in RECURRENT:
            _recurrent(writer, op)
        elif op.name in _CELLS:
            _cell(writer, op)
        else:
            writer.emit(op.name, op.function, op.args, op.outputs, op.kwargs, op.in_place)
    return OpGraph(
        tuple(writer.ops), tuple(writer.values), graph.outputs, graph.parameters, graph.buffers, graph.input_count
    )


def _attention(w: _Writer, op: Op) -> None:
    """``F.multi_head_attention_forward``: three projections (packed or not), attention, output projection."""
    names = (
        "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k",
        "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias",
    )  # fmt: skip
    at = {name: op.ref(i, name) for i, name in enumerate(names)}
    query, key, value = (at[n] for n in ("query", "key", "value"))
    assert query is not None and key is not None and value is not None
    bias, width = at["in_proj_bias"], w.values[query].shape[-1]
    separate = op.kwargs.get("use_separate_proj_weight", False)  # then some pass an empty tensor as the packed one
    packed = None if separate else at["in_proj_weight"]
    if packed is not None and query == key == value:
        q, k, v = w.parts(w.linear(query, packed, bias), 3)
    else:
        weights = (
            [w.rows(packed, i * width, (i + 1) * width) for i in range(3)]
            if packed is not None
            else [op.kwargs[n].value for n in ("q_proj_weight", "k_proj_weight", "v_proj_weight")]
        )
        biases = [None if bias is None else w.rows(bias, i * width, (i + 1) * width) for i in range(3)]
        q, k, v = (w.linear(d, m, b) for d, m, b in zip((query, key, value), weights, biases, strict=True))
    for name in ("bias_k", "bias_v"):
        extra = at[name]
        if extra is None:
            continue
        old = k if name == "bias_k" else v
        length, *rest = w.values[old].shape
        joined = w.new("cat", torch.cat, ((Ref(old), Ref(extra)),), (length + 1, *rest), old)
        k, v = (joined, v) if name == "bias_k" else (k, joined)
    heads = w.value(w.values[q].shape, q)
    count = op.arg(names.index("num_heads"), "num_heads", 1)
    operands = (Ref(q), Ref(k), Ref(v))
    name = "scaled_dot_product_attention"
    w.emit(name, F.scaled_dot_product_attention, operands, (heads,), {"heads": count})
    out = at["out_proj_weight"]
    assert out is not None
    w.linear(heads, out, at["out_proj_bias"], op.outputs[0])
    for other in op.outputs[1:]:  # the averaged attention weights
        w.emit("attention_weights", F.scaled_dot_product_attention, (Ref(heads),), (other,))


def _glu(w: _Writer, op: Op) -> None:
    """``F.glu``: the first half times the sigmoid of the second."""
    data, dim = op.inputs[0], op.arg(1, "dim", -1)
    shape = w.values[op.outputs[0]].shape
    halves = tuple(w.value(shape, data) for _ in range(2))
    w.emit("chunk", torch.Tensor.chunk, (Ref(data), 2, dim), halves)
    gate = w.new("sigmoid", torch.sigmoid, (Ref(halves[1]),), shape, data)
    w.emit("mul", torch.mul, (Ref(halves[0]), Ref(gate)), op.outputs)


def _addcmul(w: _Writer, op: Op) -> None:
    """``torch.addcmul``: a product, then a sum."""
    shape = w.values[op.outputs[0]].shape
    product = w.new("mul", torch.mul, (op.args[1], op.args[2]), shape, op.outputs[0])
    w.emit("add", torch.add, (op.args[0], Ref(product)), op.outputs, in_place=op.in_place)


def _broadcast(w: _Writer, op: Op) -> None:
    """``torch.broadcast_tensors`` (as ``torch.distributions`` call it): every tensor is expanded by itself."""
    given = op.inputs if len(op.inputs) == len(op.outputs) else tuple(_refs((op.args, op.kwargs)))
    for source, out in zip(given, op.outputs, strict=True):
        w.emit("expand", torch.Tensor.expand, (Ref(source), w.values[out].shape), (out,))


def _recurrent(w: _Writer, op: Op) -> None:
    """A stack of recurrent layers: one op per layer and direction, directions joined."""
    packed = isinstance(op.args[3], tuple)  # (data, batch_sizes, hx, flat_weights, …) instead of (input, hx, …)
    flat = op.args[3] if packed else op.args[2]
    has_bias, layers = op.args[4:6] if packed else op.args[3:5]
    bidirectional = op.args[8] if packed else op.args[7]
    weights = [r.value for r in flat]
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    signal = op.args[0].value
    state = op.args[2] if packed else op.args[1]
    for layer in range(layers):
        made = []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            own = weights[start : start + each]
            projected = each == (5 if has_bias else 3)
            width = w.values[own[-1]].shape[0] if projected else w.values[own[1]].shape[1]
            args = (Ref(signal), *(Ref(i) for i in own))
            kwargs = {"has_bias": bool(has_bias), "projected": projected, "start": state}
            out = w.value((*w.values[signal].shape[:-1], width), signal)
            w.emit(op.name + "_layer", op.function, args, (out,), kwargs)
            made.append(out)
        signal = made[0]
        if len(made) > 1:
            shape = (*w.values[made[0]].shape[:-1], sum(w.values[m].shape[-1] for m in made))
            signal = w.new("cat", torch.cat, (tuple(Ref(m) for m in made), -1), shape, made[0])
    for out in op.outputs:
        w.emit("alias", torch.Tensor.clone, (Ref(signal),), (out,))


def _cell(w: _Writer, op: Op) -> None:
    """One step of a recurrent cell: the same op as a layer, with the state as a second signal."""
    data, state, *weights = op.args
    states = state if isinstance(state, tuple) else (state,)
    weights = [a for a in weights if isinstance(a, Ref)]
    args = (data, *weights)
    kwargs = {"has_bias": len(weights) > 2, "projected": False, "state": tuple(states)}
    w.emit(_CELLS[op.name] + "_layer", op.function, args, op.outputs, kwargs)
