"""Normalisations: those called by name, and those written by hand as x / sqrt(mean(x²) + ε) in any arrangement."""

from __future__ import annotations

from initadvisor.graph import kinds
from initadvisor.graph.flow import Flow
from initadvisor.graph.kinds import Kind, words
from initadvisor.graph.opgraph import Op, OpGraph

_REDUCTIONS = words("mean sum var std norm var_mean std_mean amax")
_CENTRED = words("var std var_mean std_mean")
_AVERAGES = words("mean var std var_mean std_mean")
_ROOTS = words("sqrt rsqrt std norm std_mean")
_POWERS = {"square": 2.0, "var": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}
"""How results grow with their input where not in proportion; a norm and a standard deviation do in proportion."""
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
    starts = _normalised_starts(flow) | _concatenated_starts(flow)
    if starts:
        flow = Flow(graph, starts)
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
        rooted |= made.name in _ROOTS or (made.name == "pow" and abs(_exponent(made)) == 0.5)
        inner.append(made.index)
        todo += _alike(flow, made, numerator)
    if not rooted or not reductions or flow.values[statistic].shape == flow.values[numerator].shape:
        return None
    # What is normalised does not grow with its input; a response relative to others' (x·‖x‖/mean‖x‖) does.
    if _degree(flow, statistic, bases, {}) != degree:
        return None
    if not reductions & _AVERAGES:
        return "l2_norm", base, inner
    # With the mean taken off it is LayerNorm, whichever axes; without, RMSNorm.
    name = "layer_norm" if centred or reductions & _CENTRED else "rms_norm"
    return name, base, inner


def _exponent(op: Op) -> float:
    found = op.arg(1, "exponent", 0.0)
    return float(found) if isinstance(found, (int, float)) else 0.0


def _degree(flow: Flow, value: int, bases: set[int], known: dict[int, float | None]) -> float | None:
    """Power of the bases that a value grows with, None where it grows with none."""
    value = flow.root(value)
    if value in bases:
        return 1.0
    if value not in known:
        known[value] = None
        op = flow.producer(value)
        if op is not None:
            known[value] = _grown(op, value, [_degree(flow, i, bases, known) for i in op.inputs])
    return known[value]


def _grown(op: Op, value: int, powers: list[float | None]) -> float | None:
    """The power of an op's result from those of its inputs."""
    told = [p for p in powers if p is not None]
    if not told:
        return None
    first, name = told[0], op.name
    if name == "mul":
        return sum(p or 0.0 for p in powers) if len(powers) > 1 else first
    if name in ("div", "rdiv"):
        over, under = (powers[0], powers[1]) if len(powers) > 1 else (first, None) if name == "div" else (None, first)
        if name == "rdiv" and len(powers) > 1:
            over, under = under, over
        return (over or 0.0) - (under or 0.0)
    if name == "pow":
        return first * _exponent(op)
    if name == "var_mean":
        return 2 * first if op.outputs[0] == value else first
    return first * _POWERS.get(name, 1.0)


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
