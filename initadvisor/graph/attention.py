"""Attention, called by name or written out, and which weights make its queries, keys and values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from initadvisor.graph.flow import Flow
from initadvisor.graph.kinds import Kind
from initadvisor.graph.opgraph import Op
from initadvisor.graph.residual import Residuals

_LONGEST = 40
"""Ops between scores and softmax, or softmax and values; masks, scales and position terms take up to 20."""

_SCORE_OPS = frozenset({Kind.CARRY, Kind.SUM, Kind.BEND, Kind.JOIN, Kind.OTHER})


@dataclass
class Attentions:
    """All attentions of a graph.

    Attributes:
        operands: (op index, value) -> ``"query"``, ``"key"`` or ``"value"``: where a signal enters an attention.
        results: values that attentions make.
        scores: values between the scores and the softmax.
        softmaxes: indices of ops that turn scores into weights.
        widths: (op index, value) of an operand -> features of one head there.
        result_widths: value that an attention makes -> features of one head there.
        axes: (op index, value) of an operand -> the axes whose sizes make that width, negative.
    """

    operands: dict[tuple[int, int], str] = field(default_factory=dict)
    results: set[int] = field(default_factory=set)
    scores: set[int] = field(default_factory=set)
    softmaxes: set[int] = field(default_factory=set)
    widths: dict[tuple[int, int], int] = field(default_factory=dict)
    result_widths: dict[int, int] = field(default_factory=dict)
    axes: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def enter(
        self, op: Op, value: int, name: str, shape: tuple[int, ...], axes: tuple[int, ...] | None, beside: int = 1
    ) -> None:
        """Note that a signal enters an attention: the axes that hold a head's features, ``beside`` heads on them."""
        self.operands[(op.index, value)] = name
        width = math.prod(shape[a] for a in axes) // beside if axes is not None else 0
        if width and axes is not None:
            if beside == 1:
                self.axes[(op.index, value)] = axes
            self.widths[(op.index, value)] = width
            if name == "value":
                self.result_widths.update(dict.fromkeys(op.outputs, width))

    def forget_width(self, op: Op, value: int) -> None:
        """Take back the width of a head where what it counts turns out to be no features."""
        del self.widths[(op.index, value)]
        for out in op.outputs:
            self.result_widths.pop(out, None)


def find_attentions(flow: Flow, residuals: Residuals) -> Attentions:
    """All attentions: whole calls, and softmaxes between two contractions of signals."""
    found = Attentions()
    for op in flow.graph.ops:
        kind = flow.kind_of(op)
        if op.name == "scaled_dot_product_attention":
            for position, name in enumerate(("query", "key", "value")):
                operand = op.ref(position, name)
                if operand is not None:
                    # A call that was written out keeps its heads side by side on the last axis and says how many.
                    beside = int(op.kwargs.get("heads", 1))
                    found.enter(op, operand, name, flow.values[operand].shape, (-1,), beside)
            found.results.update(op.outputs)
            mask = op.ref(3, "attn_mask")
            if mask is not None:
                found.scores.add(mask)
        elif kind is Kind.SOFTMAX:
            _written(flow, residuals, found, op)
    return found


def _written(flow: Flow, residuals: Residuals, found: Attentions, softmax: Op) -> None:
    scores, between = _back(flow, residuals, softmax)
    applied = _applied(flow, softmax.outputs[0])
    if not scores or not applied:
        return
    rank = len(flow.values[softmax.outputs[0]].shape)
    dim = softmax.arg(1, "dim", -1)
    last = not isinstance(dim, int) or dim % rank == rank - 1
    found.softmaxes.add(softmax.index)
    found.scores |= between
    for op in scores:
        left, right = _operands(flow, op)
        names = ("query", "key") if last else ("key", "query")
        for value, name in zip((left, right), names, strict=True):
            found.enter(op, value, name, flow.values[value].shape, _summed_axes(flow, op, value))
    for op, weights in applied:
        for value in op.inputs:
            if value != weights and flow.is_live(value):
                found.enter(op, value, "value", flow.values[value].shape, _kept_axes(flow, op, value))
        found.results.update(op.outputs)


def _terms(op: Op, value: int) -> tuple[str, str, str] | None:
    """Letters of an operand, of the other one and of the result in an einsum of two, None where it is none."""
    if op.name != "einsum" or not isinstance(op.args[0], str) or len(op.inputs) != 2:
        return None
    terms, arrow, out = op.args[0].replace(" ", "").partition("->")
    pieces = terms.split(",")
    if not arrow or len(pieces) != 2 or "." in terms:
        return None
    own = op.inputs.index(value)
    return pieces[own], pieces[1 - own], out


def _is_left(op: Op, value: int) -> bool:
    """Whether an operand of a matrix product stands on its left."""
    left, right = op.inputs[-2:]
    return value == (right if op.name == "rmatmul" else left)


def _summed_axes(flow: Flow, op: Op, value: int) -> tuple[int, ...] | None:
    """Axes that scores sum over: of a query and a key the features of one head."""
    rank = len(flow.values[value].shape)
    if op.name != "einsum":
        return (-1 if _is_left(op, value) else -2,) if rank > 1 else None
    terms = _terms(op, value)
    if terms is None or len(terms[0]) != rank:
        return None
    own, other, out = terms
    return tuple(i - rank for i, letter in enumerate(own) if letter in other and letter not in out)


def _kept_axes(flow: Flow, op: Op, value: int) -> tuple[int, ...] | None:
    """Axes of values that attention weights do not have: the features of one head."""
    rank = len(flow.values[value].shape)
    if op.name != "einsum":
        return (-2 if _is_left(op, value) else -1,) if rank > 1 else None
    terms = _terms(op, value)
    if terms is None or len(terms[0]) != rank:
        return None
    own, other, out = terms
    return tuple(i - rank for i, letter in enumerate(own) if letter in out and letter not in other)


def _operands(flow: Flow, op: Op) -> tuple[int, int]:
    """The two signals of a contraction, rows' first."""
    live = [v for v in op.inputs if flow.is_live(v)]
    left, right = live[-2], live[-1]
    if op.name == "rmatmul":
        left, right = right, left
    if op.name == "einsum" and isinstance(op.args[0], str):
        terms, _, out = op.args[0].replace(" ", "").partition("->")
        pieces = terms.split(",")
        if len(pieces) == 2 and out and out[-1] in pieces[0] and out[-1] not in pieces[1]:
            left, right = right, left  # the operand that has the output's last letter holds the keys
    return left, right


def _back(flow: Flow, residuals: Residuals, softmax: Op) -> tuple[list[Op], set[int]]:
    """Contractions whose result the softmax normalises, and the values on the way."""
    todo, seen = list(flow.signals(softmax)), set[int]()
    scores: list[Op] = []
    while todo and len(seen) < _LONGEST:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        op = flow.producer(value)
        if op is None or op.index in residuals.joins:
            continue
        kind = flow.kind_of(op)
        if kind is Kind.MIX:
            scores.append(op)
        elif kind in _SCORE_OPS:
            todo += [i for i in op.inputs if flow.is_live(i)]
        elif kind is Kind.LAYER:
            todo += _over_heads(flow, op, softmax.outputs[0])
    return scores, seen


def _applied(flow: Flow, weights: int) -> list[tuple[Op, int]]:
    """Contractions of the attention weights with values, and the operand that holds the weights."""
    todo, seen = [weights], set[int]()
    found: list[tuple[Op, int]] = []
    while todo and len(seen) < _LONGEST:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        for op in flow.consumers(value):
            kind = flow.kind_of(op)
            if kind is Kind.MIX:
                found.append((op, value))
            elif kind in (Kind.CARRY, Kind.JOIN, Kind.OTHER) or _over_heads(flow, op, weights):
                todo += list(op.outputs)
    return found


def _over_heads(flow: Flow, op: Op, weights: int) -> tuple[int, ...]:
    """Scores that a map mixes over their heads alone (Shazeer et al. 2020), none where it is no such map."""
    layers = flow.layers_of.get(op.index, ())
    whole = flow.values[weights].shape
    if len(layers) != 1 or len(layers[0].reading.data) != 1 or len(whole) != 4:
        return ()
    data = layers[0].reading.data[0]
    batch, _, *places = whole
    wanted = sorted((batch, int(layers[0].reading.fan_in), *places))
    return (data,) if sorted(flow.values[data].shape) == wanted else ()
