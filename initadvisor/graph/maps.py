"""Fans and packed parts of a map in the axes of the parameter it is made of."""

from __future__ import annotations

import math

import torch

from initadvisor.graph.axes import AxisMap, Origin, axis_map
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.gates import gate_names
from initadvisor.graph.layer_roles import LayerFacts
from initadvisor.graph.packing import ranges_of
from initadvisor.types import Fans, Role, Slice


class MapReader:
    """From the axes an op sees to those of the parameters behind it."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def puts_outputs_together(self, layer: Layer, origin: Origin) -> bool:
        """Whether a parameter makes some of the features of a weight that is concatenated from several."""
        axes = layer.reading.axes
        return origin.place is not None and axes.count("o") == 1 and axes[origin.place[0]] == "o"

    def fans(self, facts: LayerFacts, origin: Origin) -> tuple[Fans, tuple[Slice, ...], str]:
        """Fans in the parameter's own axes, its parts, and a note where the axes were lost on the way."""
        reading, axes = facts.layer.reading, facts.axes or facts.layer.reading.axes
        shape = self.flow.values[origin.parameter].shape
        note = ""
        if origin.tag is None:
            mapped = AxisMap(tuple(range(len(reading.axes))), tuple((0, n) for n in shape), merged=True)
            note = "it is reshaped before use, so which axis is which is read off the op"
        else:
            mapped = axis_map(shape, origin.tag)
        by_letter: dict[str, list[int]] = {"o": [], "i": [], "k": [], "b": []}
        for letter, axis in zip(axes, mapped.axes, strict=False):
            if axis is not None and axis < len(shape) and axis not in by_letter[letter]:
                by_letter[letter].append(axis)
        outs, ins = by_letter["o"], by_letter["i"]
        if len(shape) < 2:
            return Fans(reading.fan_in, reading.fan_out, 0, 0, reading.groups), (), note
        out_dim = outs[0] if outs else next((k for k in range(len(shape)) if k not in ins), 0)
        in_dim = ins[0] if ins else next((k for k in range(len(shape)) if k != out_dim), 0)
        picked = [
            k for k in range(len(shape)) if k not in mapped.axes and shape[k] > 1 and mapped.ranges[k] != (0, shape[k])
        ]
        # An index that picks one map of many makes that axis enumerate maps.
        single = [k for k in picked if mapped.ranges[k][1] - mapped.ranges[k][0] == 1 and k not in outs + ins]
        batch = tuple(sorted({*by_letter["b"], *single}))
        operand = self.flow.values[reading.weight].shape
        groups = reading.groups
        if origin.tag is not None and reading.weight in self.flow.modulated and operand[0] != origin.tag.shape[0]:
            groups //= max(1, operand[0] // origin.tag.shape[0])  # samples that were put side by side are no groups
        maps = math.prod(n for n, a, b in zip(operand, axes, reading.axes, strict=True) if a == "b" != b)
        share = 1.0
        if self.puts_outputs_together(facts.layer, origin):
            assert origin.place is not None
            share = origin.place[2] / operand[origin.place[0]]
        fans = Fans(reading.fan_in, reading.fan_out * share / maps, out_dim, in_dim, groups, batch)
        slices = self._slices(facts, fans, mapped, shape)
        return fans, slices, note

    def _slices(self, facts: LayerFacts, fans: Fans, mapped: AxisMap, shape: tuple[int, ...]) -> tuple[Slice, ...]:
        layer = facts.layer
        gates = gate_names(self.flow.graph.ops[layer.op].name)
        if gates and layer in self.flow.layers_of[layer.op][:2]:
            size = shape[0] // len(gates)
            return tuple(
                Slice(name, 0, ((i * size, (i + 1) * size),), facts.role, fans) for i, name in enumerate(gates)
            )
        whole = mapped.ranges[fans.out_dim] == (0, shape[fans.out_dim]) if shape else False
        if facts.pieces and whole:
            return self._pieces(facts, fans, mapped, shape)
        if facts.pieces or whole:
            return ()
        start, stop = mapped.ranges[fans.out_dim]
        name = facts.role.value if facts.role in (Role.QUERY, Role.KEY, Role.VALUE) else f"part_{start}"
        return (Slice(name, fans.out_dim, ((start, stop),), facts.role, fans),)

    def _pieces(self, facts: LayerFacts, fans: Fans, mapped: AxisMap, shape: tuple[int, ...]) -> tuple[Slice, ...]:
        reading = facts.layer.reading
        operand = self.flow.values[reading.weight].shape
        own = [(a, n) for a, n, letter in zip(mapped.axes, operand, reading.axes, strict=False) if letter == "o"]
        sizes, axes = [n for _, n in own], [a for a, _ in own]
        if not axes or any(a is None for a in axes):
            return ()
        found = []
        for piece in facts.pieces:
            table = piece.mask.view(sizes) if len(sizes) > 1 else piece.mask
            dim, ranges = _separating(table, [int(a) for a in axes if a is not None], shape)
            if dim is None:
                return ()
            count = int(piece.mask.sum())
            part = Fans(
                fans.fan_in,
                fans.fan_out * count / len(piece.mask),
                fans.out_dim,
                fans.in_dim,
                fans.groups,
                fans.batch_dims,
            )
            found.append(Slice(piece.name, dim, ranges, piece.role, part))
        return tuple(found) if len({s.dim for s in found}) == 1 else ()


def _separating(
    table: torch.Tensor, axes: list[int], shape: tuple[int, ...]
) -> tuple[int | None, tuple[tuple[int, int], ...]]:
    """The parameter axis along which a part's features are told apart from the others, and its ranges there."""
    if table.ndim == 1:
        if table.shape[0] == shape[axes[0]]:
            return axes[0], ranges_of(table)
        return None, ()
    if len(set(axes)) == 1 and table.numel() == shape[axes[0]]:
        return axes[0], ranges_of(table.reshape(-1))
    for position, axis in enumerate(axes):
        rest = [d for d in range(table.ndim) if d != position]
        some, every = table.sum(rest) > 0, table.to(torch.int64).sum(rest) == table.numel() // table.shape[position]
        if bool((some == every).all()) and not bool(some.all()) and table.shape[position] == shape[axis]:
            return axis, ranges_of(some)
    return None, ()
