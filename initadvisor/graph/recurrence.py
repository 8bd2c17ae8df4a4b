"""Recurrences written as loops: a weight that reads its own earlier output, summed with one that reads fresh input."""

from __future__ import annotations

from itertools import pairwise

from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import Kind
from initadvisor.graph.residual import Ancestors, Residuals

_CARRIES = 12
"""Bias additions and reshapes between a map and the sum of both."""

_LONGEST_LOOP = 3
"""Steps compared: what holds from one step to the next holds for the rest."""


def find_recurrences(flow: Flow, residuals: Residuals) -> tuple[set[int], set[int]]:
    """Values of weights applied to input and of weights applied to the state, of all loops."""
    steps: dict[tuple[int, int], list[tuple[Layer, Layer]]] = {}
    for op in flow.graph.ops:
        if flow.kind_of(op) is not Kind.SUM or op.index in residuals.joins:
            continue
        sides = [_layer_behind(flow, v) for v in dict.fromkeys(op.inputs) if flow.is_live(v)]
        if len(sides) == 2 and sides[0] is not None and sides[1] is not None:
            one, two = sides[0], sides[1]
            steps.setdefault((one.reading.weight, two.reading.weight), []).append((one, two))
    inputs, states = set[int](), set[int]()
    for (first, second), pairs in steps.items():
        for mine, other, own in ((first, second, 0), (second, first, 1)):
            if _returns(flow, pairs, own) and not _returns(flow, pairs, 1 - own):
                states.add(mine)
                inputs.add(other)
    return inputs, states


def _layer_behind(flow: Flow, value: int) -> Layer | None:
    for _ in range(_CARRIES):
        op = flow.producer(value)
        if op is None:
            return None
        layers = flow.layers_of.get(op.index)
        if layers:
            return layers[0] if len(layers) == 1 else None
        if flow.kind_of(op) is not Kind.CARRY or len(flow.signals(op)) != 1:
            return None
        value = flow.signals(op)[0]
    return None


def _returns(flow: Flow, pairs: list[tuple[Layer, Layer]], own: int) -> bool:
    """Each use reads what the use before it made."""
    uses = [pair[own] for pair in pairs[:_LONGEST_LOOP]]
    return len(uses) > 1 and all(
        Ancestors(flow, later.reading.data[0]).has(earlier.output) is not None for earlier, later in pairwise(uses)
    )
