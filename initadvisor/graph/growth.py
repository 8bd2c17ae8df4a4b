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
    top = flow.root(value)
    todo, behind = [top], {top}
    while todo:  # a loop, since chains of parametrizations may be long
        op = flow.producer(todo.pop())
        fresh = {flow.root(i) for i in op.inputs} - behind - bases if op is not None else set()
        todo += fresh
        behind |= fresh
    known: dict[int, float | None] = dict.fromkeys(bases, 1.0)
    for current in sorted(behind - bases):  # what is made later has the larger number
        op = flow.producer(current)
        if op is not None:
            known[current] = _grown(op, current, [known.get(flow.root(i)) for i in op.inputs])
    return known.get(top)


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
