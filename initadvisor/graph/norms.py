"""Normalisations: those called by name, and those written by hand as x / sqrt(mean(x²) + ε) in any arrangement."""

from __future__ import annotations

from initadvisor.graph import kinds
from initadvisor.graph.flow import Flow
from initadvisor.graph.growth import exponent_of, growth
from initadvisor.graph.kinds import Kind, words
from initadvisor.graph.opgraph import Op, OpGraph

_REDUCTIONS = words("mean sum var std norm var_mean std_mean amax")
_CENTRED = words("var std var_mean std_mean")
_AVERAGES = words("mean var std var_mean std_mean")
_ROOTS = words("sqrt rsqrt std norm std_mean")
_BETWEEN = words(
    "mul div rdiv add sub pow square reciprocal clamp clamp_min clamp_max abs maximum neg expand expand_as unsqueeze "
    "squeeze view reshape getitem"
)
_LONGEST = 24
"""Ops a hand-written statistic may take; the longest seen has 11."""


_PARAMETER_NORMS = words("layer_norm native_layer_norm rms_norm")
"""Norms of places, which a signal that starts from a parameter goes through."""


def read_flow(graph: OpGraph) -> Flow:
    """The flow of a graph with its norms marked.

    A parameter that is normalised as a signal is, and then read by a map, is a signal itself: latents that
    cross-attend, queries. So is one that reads a signal beside it and then has the result added: a class token that
    attends (Touvron et al. 2021). A weight that is standardised is the map, and stays one.
    """
    flow = Flow(graph)
    joined = _concatenated_starts(flow)
    streams = _normalised_starts(flow)
    if joined or streams:
        flow = Flow(graph, joined | streams, frozenset(joined.keys() - streams.keys()))
    mark_norms(flow)
    return flow


def _normalised_starts(flow: Flow) -> dict[int, int]:
    """Such parameters -> the op that first reads each."""
    todo = [v for layer in flow.layers for v in layer.reading.data if flow.is_pure(v)]
    seen, found = set(todo), dict[int, int]()
    while todo:
        op = flow.producer(todo.pop())
        if op is None:
            continue
        base = _normalised(flow, op)
        origins = sorted(flow.origins[base]) if base is not None else []
        for start in origins:
            if len(origins) == 1 or sum(n > 1 for n in flow.values[start].shape) > 1:  # a vector is a norm's own
                found[start] = flow.graph.consumers[start][0]
        fresh = {i for i in op.inputs if flow.is_pure(i)} - seen
        todo += fresh
        seen |= fresh
    return found


def _concatenated_starts(flow: Flow) -> dict[int, int]:
    """Parameters that are concatenated with a signal and later added to one -> the op that first reads each."""
    found = dict[int, int]()
    for op in flow.graph.ops:
        if op.name not in kinds.JOINING or flow.kind_of(op) is not Kind.JOIN:
            continue
        for value in op.inputs:
            later = (r for r in flow.consumers(value) if r.index > op.index and r.name == "add")
            if flow.is_pure(value) and len(flow.origins[value]) == 1 and any(flow.signals(r) for r in later):
                start = min(flow.origins[value])
                found[start] = flow.graph.consumers[start][0]
    return found


def _normalised(flow: Flow, op: Op) -> int | None:
    """What an op normalises, None where it does not."""
    if op.name in _PARAMETER_NORMS:
        return op.inputs[0]
    if op.name not in kinds.PRODUCTS or len(op.inputs) != 2:
        return None
    return next((found[1] for pair in _arrangements(op) if (found := _statistic(flow, *pair)) is not None), None)


def mark_norms(flow: Flow) -> None:
    """Fill ``flow.norms`` and give hand-written norms and their inner ops their kinds."""
    for op in flow.graph.ops:
        if flow.kind_of(op) is Kind.NORM:
            flow.mark_norm(op, kinds.NORMS[op.name], op.inputs[0])
        elif flow.kind_of(op) is Kind.PRODUCT and len(op.inputs) == 2:
            _mark_written(flow, op)


def _mark_written(flow: Flow, op: Op) -> None:
    for arrangement in _arrangements(op):
        found = _statistic(flow, *arrangement)
        if found is None:
            continue
        name, base, inner = found
        flow.mark_norm(op, name, base)
        for index in inner:
            flow.kind[index] = Kind.INNER
        return


def _arrangements(op: Op) -> list[tuple[int, int, float]]:
    """What may be normalised by what in a product of two, and how that must grow: as it, or as its inverse."""
    left, right = op.inputs
    return [(left, right, 1.0)] if op.name == "div" else [(left, right, -1.0), (right, left, -1.0)]


def _alike(flow: Flow, op: Op, value: int) -> list[int]:
    """Inputs that are made of what ``value`` is made of: signal, or parameters."""
    return [i for i in op.inputs if flow.state[i] is flow.state[value]]


def _statistic(flow: Flow, numerator: int, statistic: int, degree: float) -> tuple[str, int, list[int]] | None:
    """Name, normalised value and inner ops, where ``statistic`` grows as ``numerator`` to the power of ``degree``."""
    top = flow.root(numerator)
    bases, base, inner = {top}, numerator, []
    centring = flow.producer(top)
    if centring is not None and centring.name == "sub" and len(centring.inputs) == 2:
        whole, mean = centring.inputs
        made = flow.producer(flow.root(mean))
        if made is not None and made.name in ("mean", *_BETWEEN, "getitem") and _reaches(flow, mean, flow.root(whole)):
            base = whole
            bases.add(flow.root(whole))
            inner.append(centring.index)
    centred = len(bases) > 1
    reductions: set[str] = set()
    rooted, todo, seen = False, [statistic], set[int]()
    while todo:
        value = flow.root(todo.pop())
        if value in bases or value in seen:
            continue
        seen.add(value)
        made = flow.producer(value)
        if made is None or len(seen) > _LONGEST or not (made.name in _REDUCTIONS or made.name in _BETWEEN | _ROOTS):
            return None
        if made.name in _REDUCTIONS:
            reductions.add(made.name)
        rooted |= made.name in _ROOTS or (made.name == "pow" and abs(exponent_of(made)) == 0.5)
        inner.append(made.index)
        todo += _alike(flow, made, numerator)
    if not rooted or not reductions or flow.values[statistic].shape == flow.values[numerator].shape:
        return None
    # What is normalised does not grow with its input; a response relative to others' (x·‖x‖/mean‖x‖) does.
    if growth(flow, statistic, bases) != degree:
        return None
    if not reductions & _AVERAGES:
        return "l2_norm", base, inner
    # With the mean taken off it is LayerNorm, whichever axes; without, RMSNorm.
    name = "layer_norm" if centred or reductions & _CENTRED else "rms_norm"
    return name, base, inner


def _reaches(flow: Flow, value: int, target: int) -> bool:
    """Whether a mean goes back to ``target`` through reductions and layout only."""
    for _ in range(_LONGEST):
        value = flow.root(value)
        if value == target:
            return True
        op = flow.producer(value)
        if op is None or not (op.name in _REDUCTIONS or op.name in _BETWEEN):
            return False
        found = set(_alike(flow, op, target))
        if len(found) != 1:
            return False
        value = found.pop()
    return False
