"""With which power of its sources a value grows: what is divided by its own size does not grow at all."""

from __future__ import annotations

from collections.abc import Set

from initadvisor.graph import kinds
from initadvisor.graph.flow import Flow
from initadvisor.graph.opgraph import Op

_POWERS = {
    "square": 2.0,
    "var": 2.0,
    "sqrt": 0.5,
    "rsqrt": -0.5,
    "reciprocal": -1.0,
    "linalg_inv": -1.0,
    "inverse": -1.0,
}
"""How results grow with their input where not in proportion; a norm and a standard deviation do in proportion."""

_LEVELS = frozenset(kinds.NORMS) | kinds.SOFTMAXES | frozenset({"sign", "sgn"})
"""Ops whose result does not grow with what they read (a softmax does grow, but towards nothing)."""


def growth(flow: Flow, value: int, bases: Set[int]) -> float | None:
    """Power of the bases that a value grows with, None where it grows with none.

    Args:
        flow: of the graph.
        value: whose growth is asked.
        bases: values that grow with power one.
    """
    known: dict[int, float | None] = {}
    todo = [value]
    while todo:  # a loop, since chains of parametrizations may be long
        current = flow.root(todo[-1])
        op = None if current in bases else flow.producer(current)
        unread = [] if op is None or current in known else [i for i in op.inputs if flow.root(i) not in known]
        unread = [i for i in unread if flow.root(i) not in bases and flow.producer(flow.root(i)) is not None]
        if unread and not set(map(flow.root, unread)) & set(map(flow.root, todo)):
            todo += unread
            continue
        todo.pop()
        if op is not None and current not in known:
            powers = [1.0 if flow.root(i) in bases else known.get(flow.root(i)) for i in op.inputs]
            known[current] = _grown(op, current, powers)
    return 1.0 if flow.root(value) in bases else known.get(flow.root(value))


def exponent_of(op: Op) -> float:
    """The exponent of a power, 0 where it is no number."""
    found = op.arg(1, "exponent", 0.0)
    return float(found) if isinstance(found, (int, float)) else 0.0


def _grown(op: Op, value: int, powers: list[float | None]) -> float | None:
    """The power of an op's result from those of its inputs."""
    told = [p for p in powers if p is not None]
    if not told:
        return None
    first, name = told[0], op.name
    if name in _LEVELS:
        return 0.0
    if name == "mul" or name in kinds.CONTRACTIONS:
        return sum(told) if len(powers) > 1 else first
    if name in ("div", "rdiv"):
        over, under = (powers[0], powers[1]) if len(powers) > 1 else (first, None) if name == "div" else (None, first)
        if name == "rdiv" and len(powers) > 1:
            over, under = under, over
        return (over or 0.0) - (under or 0.0)
    if name == "pow":
        return first * exponent_of(op)
    if name == "var_mean":
        return 2 * first if op.outputs[0] == value else first
    return first * _POWERS.get(name, 1.0)
