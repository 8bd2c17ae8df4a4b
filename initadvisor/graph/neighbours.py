"""What a value has just been through, and what it meets next: activation and norm on either side of a weight."""

from __future__ import annotations

from dataclasses import dataclass, replace

from initadvisor.graph.activations import Bends
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import Kind
from initadvisor.graph.opgraph import Op
from initadvisor.graph.residual import Residuals
from initadvisor.graph.responses import Args
from initadvisor.types import NO_ACTIVATION

_STATE_ACTIVATION = {"rnn_tanh_layer": "tanh", "rnn_relu_layer": "relu"}
"""Recurrent layers whose output is one activation of their sums."""

_TO_WEIGHT = 24
"""Weightless ops between a weight and what is asked about: a norm written by hand takes 11, an activation 8."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a weight.

    Attributes:
        activation, args: the nonlinearity, ``"none"`` where there is none before the next weight, norm or sum.
        norm: name of the normalisation, None where there is none.
        reduced: a sum over features lies before it, so that it is not the whole signal that goes there.
    """

    activation: str = NO_ACTIVATION
    args: Args = ()
    norm: str | None = None
    reduced: bool = False


_NOTHING = Side()


class Neighbours:
    """Both sides of every value, each computed once."""

    def __init__(self, flow: Flow, bends: Bends, residuals: Residuals) -> None:
        self.flow = flow
        self.bends = bends
        self.residuals = residuals
        self.behind = [_NOTHING] * len(flow.values)
        for op in flow.graph.ops:
            side = self._behind(op.index)
            for out in op.outputs:
                bend = bends.by_exit.get(out)
                if bend is not None:
                    side = replace(side, activation=bend.name, args=bend.args, norm=self.behind[bend.start].norm)
                self.behind[out] = side
        self._ahead: dict[int, Side] = {}
        for value in reversed(range(len(flow.values))):
            if flow.is_live(value):
                self._ahead[value] = self._look(value)

    def ahead(self, value: int) -> Side:
        """What a value meets next: its norm before any activation or sum, and its activation before any weight."""
        return self._ahead.get(value, _NOTHING)

    def _behind(self, index: int) -> Side:
        flow, op = self.flow, self.flow.graph.ops[index]
        kind = flow.kind_of(op)
        if kind is Kind.NORM:
            return Side(norm=flow.norms[index][0])
        if kind is Kind.LAYER:
            return Side(activation=_STATE_ACTIVATION.get(op.name, NO_ACTIVATION))
        if kind in (Kind.CARRY, Kind.BEND, Kind.OTHER):
            sources = flow.signals(op)
            return self.behind[sources[0]] if len(sources) == 1 else _NOTHING
        gated = self.weighed(op)
        if gated is not None:
            return self.behind[gated]
        if kind is Kind.SUM and index not in self.residuals.joins:
            shifted = self._larger(op)  # by the same vector everywhere: what was normalised stays so
            return _NOTHING if shifted is None else Side(norm=self.behind[shifted].norm)
        if kind is Kind.JOIN:
            sides = {self.behind[s] for s in flow.signals(op)}
            return sides.pop() if len(sides) == 1 else _NOTHING
        return _NOTHING

    def _look(self, value: int) -> Side:
        made = self.flow.producer(value)
        if made is not None and made.name in _STATE_ACTIVATION:
            return Side(_STATE_ACTIVATION[made.name])  # the op bends its weights' sums itself
        if value in self.residuals.forks:
            return _NOTHING  # the stream: what reads it next is one reader among many
        bend = self.bends.by_start.get(value)
        if bend is not None:
            return Side(bend.name, bend.args)
        sides = [self._through(op.index, value) for op in self.flow.consumers(value)]
        acting = [s for s in sides if s.activation != NO_ACTIVATION]
        if acting:
            return next((s for s in acting if not s.reduced), acting[0])
        return next((s for s in sides if s.norm is not None), _NOTHING)

    def _through(self, index: int, value: int) -> Side:
        flow, op = self.flow, self.flow.graph.ops[index]
        kind = flow.kind_of(op)
        if index in self.residuals.joins or value not in flow.signals(op) or index in self.bends.inner:
            return _NOTHING
        if kind is Kind.NORM:
            after = self._first(op.outputs)
            return replace(after, norm=flow.norms[index][0])
        if kind is Kind.SUM:
            return replace(self._first(op.outputs), norm=None)
        if kind is Kind.CARRY and op.name == "sum":
            return replace(self._first(op.outputs), reduced=True)
        if kind in (Kind.CARRY, Kind.JOIN, Kind.BEND, Kind.OTHER) or value == self.weighed(op):
            return self._first(op.outputs)
        return _NOTHING

    def weight_before(self, value: int | None, *, bent: bool = False) -> Layer | None:
        """The single weight whose output a value is, behind linear ops, norms, shifts (activations where bent)."""
        for _ in range(_TO_WEIGHT):
            if value is None:
                return None
            op = self.flow.producer(value)
            if op is None:
                return None
            layers = self.flow.layers_of.get(op.index)
            if layers:
                return layers[0]
            bend = self.bends.by_exit.get(value)
            if bend is not None:
                if not bent:
                    return None
                value = bend.start
                continue
            passes = self.flow.kind_of(op) in (Kind.CARRY, Kind.NORM)
            value = self.flow.single_ref(op) if passes else self.weighed(op)
        return None

    def weighed(self, op: Op) -> int | None:
        """The signal that a product with something smaller only weighs (attention over neighbours, excitation)."""
        return self._larger(op) if self.flow.kind_of(op) is Kind.PRODUCT else None

    def _larger(self, op: Op) -> int | None:
        """The only operand as large as the result, None where there are several."""
        shape = self.flow.values[op.outputs[0]].shape
        full = [i for i in op.inputs if self.flow.values[i].shape == shape]
        return full[0] if len(full) == 1 else None

    def _first(self, values: tuple[int, ...]) -> Side:
        sides = [self._ahead[v] for v in values if v in self._ahead]
        return next((s for s in sides if s.activation != NO_ACTIVATION), sides[0] if sides else _NOTHING)
