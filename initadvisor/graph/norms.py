"""Normalisations: those called by name, and those written by hand as x / sqrt(mean(x²) + ε) in any arrangement."""

from __future__ import annotations

from initadvisor.graph import kinds
from initadvisor.graph.flow import Flow
from initadvisor.graph.kinds import Kind, words
from initadvisor.graph.opgraph import Op

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


def mark_norms(flow: Flow) -> None:
    """Fill ``flow.norms`` and give hand-written norms and their inner ops their kinds."""
    for op in flow.graph.ops:
        if flow.kind_of(op) is Kind.NORM:
            flow.mark_norm(op, kinds.NORMS[op.name], op.inputs[0])
        elif flow.kind_of(op) is Kind.PRODUCT and len(op.inputs) == 2:
            _mark_written(flow, op)


def _mark_written(flow: Flow, op: Op) -> None:
    left, right = op.inputs
    pairs = [(left, right)] if op.name == "div" else [(left, right), (right, left)]
    for numerator, statistic in pairs:
        found = _statistic(flow, numerator, statistic)
        if found is None:
            continue
        name, base, inner = found
        flow.mark_norm(op, name, base)
        for index in inner:
            flow.kind[index] = Kind.INNER
        return


def _statistic(flow: Flow, numerator: int, statistic: int) -> tuple[str, int, list[int]] | None:
    """Name, normalised value and inner ops, where ``statistic`` is a root of a second moment of ``numerator``."""
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
    rooted, todo, seen = False, [statistic], set()
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
        todo += [i for i in made.inputs if flow.is_live(i)]
    if not rooted or not reductions or flow.values[statistic].shape == flow.values[numerator].shape:
        return None
    if not reductions & _AVERAGES:
        return "l2_norm", base, inner
    # With the mean taken off it is LayerNorm, whichever axes; without, RMSNorm.
    name = "layer_norm" if centred or reductions & _CENTRED else "rms_norm"
    return name, base, inner


def _exponent(op: Op) -> float:
    found = op.arg(1, "exponent", 0.0)
    return float(found) if isinstance(found, (int, float)) else 0.0


def _reaches(flow: Flow, value: int, target: int) -> bool:
    """Whether a mean goes back to ``target`` through reductions and layout only."""
    for _ in range(_LONGEST):
        value = flow.root(value)
        if value == target:
            return True
        op = flow.producer(value)
        if op is None or not (op.name in _REDUCTIONS or op.name in _BETWEEN):
            return False
        live = flow.signals(op)
        if len(live) != 1:
            return False
        value = live[0]
    return False
