"""State-space layers: the skip factor and the step-size bias around a parameter that acts as dynamics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from initadvisor.graph.activations import Bends
from initadvisor.graph.flow import Flow
from initadvisor.graph.kinds import Kind
from initadvisor.graph.residual import Ancestors
from initadvisor.graph.spec import Confidence
from initadvisor.graph.uses import Use
from initadvisor.types import Role

_TO_SUM = 6
"""Casts and reshapes between what the skip factor multiplies and the sum with the state's output."""

_TO_STEP = 24
"""Values looked at between a step-size bias and the dynamics it drives."""


def mark_dynamics(flow: Flow, bends: Bends, uses: dict[int, list[Use]]) -> None:
    """Give the neighbours of dynamics their role, in place.

    Args:
        flow: of the graph.
        bends: of the graph.
        uses: of every parameter, by its value; those of role ``state`` are what the others lie around.
    """
    state_ops = {use.op for own in uses.values() for use in own if use.role is Role.STATE}
    if not state_ops:
        return
    made = {o for i in state_ops for o in flow.graph.ops[i].outputs}
    sources = {s for i in state_ops for s in flow.signals(flow.graph.ops[i])}
    for own in uses.values():
        for i, use in enumerate(own):
            if use.result is None or use.op < 0:
                continue
            skips = use.role is Role.NORM_SCALE and use.confidence is Confidence.INFERRED and _skips(flow, use, made)
            if skips or (use.role is Role.BIAS and _steps(flow, bends, use.result, sources)):
                own[i] = replace(
                    use, role=Role.STATE, confidence=Confidence.INFERRED, note="part of a state-space layer", fans=None,
                    slices=(), facts=None, offset=0.0, owner=None,
                )  # fmt: skip


def _skips(flow: Flow, use: Use, made: set[int]) -> bool:
    """The product is added to what the dynamics made."""
    todo = [use.result] if use.result is not None else []
    for _ in range(_TO_SUM):
        following = [op for v in todo for op in flow.consumers(v)]
        for op in following:
            if flow.kind_of(op) is Kind.SUM:
                others = [i for i in op.inputs if i not in todo and flow.is_live(i)]
                return any(_comes_from(flow, o, made) for o in others)
        todo = [o for op in following if flow.kind_of(op) is Kind.CARRY for o in op.outputs]
    return False


def _comes_from(flow: Flow, value: int, made: Iterable[int]) -> bool:
    ancestors = Ancestors(flow, value)
    made = set(made)
    return ancestors.has(min(made)) is not None or bool(made & ancestors.layered.keys())


def _steps(flow: Flow, bends: Bends, result: int, sources: set[int]) -> bool:
    """A softplus of the sum goes into the dynamics."""
    todo, seen = [result], set[int]()
    while todo and len(seen) < _TO_STEP:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        bend = bends.by_start.get(value)
        if bend is not None:
            if bend.name == "softplus" and _carried(flow, bend.exit, sources):
                return True
            continue
        todo += [o for op in flow.consumers(value) if flow.kind_of(op) is Kind.CARRY for o in op.outputs]
    return False


def _carried(flow: Flow, value: int, targets: set[int]) -> bool:
    todo, seen = [value], set[int]()
    while todo and len(seen) < _TO_STEP:
        current = todo.pop()
        if current in targets:
            return True
        seen.add(current)
        for op in flow.consumers(current):
            if flow.kind_of(op) in (Kind.CARRY, Kind.BEND):
                todo += [o for o in op.outputs if o not in seen]
    return False
