"""The weight that acts is what counts: what the forward pass does to a tensor between its memory and the signal."""

from __future__ import annotations

import math

from initadvisor.graph import kinds
from initadvisor.graph.axes import Origin
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.growth import growth
from initadvisor.graph.kinds import Kind
from initadvisor.graph.opgraph import Op
from initadvisor.graph.spec import NORMALISED

_KEEPS_SIGN_AND_SIZE = frozenset({"clamp", "clamp_min", "clamp_max", "maximum", "minimum"})
"""Functions that leave alone what a fill draws: bounds."""

_TO_SUM = 6
"""Casts, dropout and factors between a table's rows and what they are added to."""

_EQUALISED = 2.0
"""Within this factor of 1/√fan_in, a constant before a map is its equalised learning rate (Karras et al. 2018; the
gain √2 and gains of 1 are in use), not a scale of the data."""


class ActingReader:
    """Reads factors and functions between parameters and what they act on."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def through(self, operand: int, origin: Origin) -> str | None:
        """As :attr:`~initadvisor.graph.spec.ParamSpec.acts_through`."""
        if operand == origin.parameter:
            return None
        power = growth(self.flow, operand, {origin.parameter})
        if power is not None and abs(power) < 1e-9:
            return NORMALISED
        return next(iter(sorted(origin.bends - _KEEPS_SIGN_AND_SIZE)), None)

    def of_input(self, layer: Layer) -> float:
        """The constant on a map's input that stands for an equalised learning rate of its weight; else 1.

        Spelt so by those who keep torch's own layer: ``conv(x · √(2 / fan_in))``.
        """
        value = layer.reading.data[0]
        for _ in range(_TO_SUM):
            op = self.flow.producer(value)
            if op is None or self.flow.kind_of(op) is not Kind.CARRY or len(self.flow.signals(op)) != 1:
                return 1.0
            number = self._number(op)
            if number is not None:
                relative = number * math.sqrt(max(1.0, layer.reading.fan_in))
                wide = layer.reading.fan_in > _EQUALISED**2  # of fewer inputs the root tells nothing
                return number if wide and 1 / _EQUALISED <= relative <= _EQUALISED else 1.0
            if op.name not in kinds.LAYOUT:
                return 1.0
            value = self.flow.signals(op)[0]
        return 1.0

    def of_table(self, layer: Layer) -> float:
        """Product of the constants by which a table's rows are multiplied before they meet anything."""
        value, factor = layer.output, 1.0
        for _ in range(_TO_SUM):
            readers = list(self.flow.consumers(value))
            if len(readers) != 1 or self.flow.kind_of(readers[0]) is not Kind.CARRY:
                return factor
            factor *= self._number(readers[0]) or 1.0
            value = readers[0].outputs[0]
        return factor

    def _number(self, op: Op) -> float | None:
        """The one number by which an op multiplies its signal."""
        if op.name not in ("mul", "div") or self.flow.pure_operand(op) is not None:
            return None
        given = [a for a in (*op.args, *op.kwargs.values()) if isinstance(a, (int, float)) and not isinstance(a, bool)]
        constants = [n for i in op.inputs if not self.flow.is_live(i) and (n := self.flow.values[i].number) is not None]
        found = [float(n) for n in (*given, *constants)]
        if len(found) != 1 or not found[0] or len(op.inputs) - len(constants) != 1:
            return None
        return 1 / found[0] if op.name == "div" else found[0]
