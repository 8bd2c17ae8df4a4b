"""What scales or shifts a stream that it does not come from: conditions, and a norm's values kept per class."""

from __future__ import annotations

import torch

from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import Kind
from initadvisor.graph.opgraph import Op
from initadvisor.graph.packing import Follower, Label, Reach
from initadvisor.graph.residual import Ancestors, Residuals
from initadvisor.types import Role

_MEETINGS = ("product", "sum")
_BACK = 12
"""Views and added constants between a table's rows and the stream they meet."""


class Modulations:
    """Finds what a weight's output does to the streams it meets in products and sums."""

    def __init__(self, flow: Flow, residuals: Residuals, follower: Follower, feeds: list[bool]) -> None:
        self.flow = flow
        self.residuals = residuals
        self.follower = follower
        self.feeds = feeds

    def by(self, layer: Layer, reach: Reach) -> list[Label]:
        """Where it scales or shifts a stream it does not come from; empty where it does anything else as well."""
        labels = [x for x in reach.ends if x[0] in _MEETINGS]
        others = [x for x in reach.ends if x[0] not in (*_MEETINGS, "output", "join")]
        return labels if not others and all(self._modulates(x, layer) for x in labels) else []

    def per_class(self, reach: Reach) -> list[tuple[Role, float, torch.Tensor]]:
        """Role, added constant and features of each part of a table whose rows scale or shift what a norm gives.

        As in conditional batch norms, whose rows hold scales, shifts, or both; empty where a part does anything else.
        """
        found = []
        for ends, mask in reach.parts():
            part = self._of_a_norm(list(ends))
            if part is None:
                return []
            found.append((*part, mask))
        return found

    def _of_a_norm(self, labels: list[Label]) -> tuple[Role, float] | None:
        kinds = {x[0] for x in labels}
        if len(kinds) != 1 or not kinds <= set(_MEETINGS):
            return None
        meets = [m for x in labels if (m := self._meets(x)) is not None]
        if len(meets) < len(labels):
            return None
        if kinds == {"product"} and all(self._normed(stream) for _, stream in meets):
            return Role.NORM_SCALE, self._constant(meets[0][0])
        if kinds == {"sum"} and all(self._scaled_norm(stream) for _, stream in meets):
            return Role.NORM_SHIFT, 0.0
        return None

    def _meets(self, label: Label) -> tuple[int, int] | None:
        """The value that comes to a product or sum, and the stream it meets there."""
        op = self.flow.graph.ops[label[1]]
        sides = [i for i in op.inputs if self.flow.is_live(i)]
        own = op.inputs[label[-1]]
        return (own, sides[0] if sides[1] == own else sides[1]) if len(sides) == 2 else None

    def _modulates(self, label: Label, layer: Layer) -> bool:
        flow, op, meets = self.flow, self.flow.graph.ops[label[1]], self._meets(label)
        if meets is None or op.index in self.residuals.scores or (label[0] == "sum" and self._ends(op)):
            return False
        own, other = meets
        small, large = flow.values[own].shape, flow.values[other].shape
        padded = (1,) * (len(large) - len(small)) + small
        broadcast = len(padded) == len(large) and any(a == 1 and b > 1 for a, b in zip(padded, large, strict=True))
        crossed = len(padded) == len(large) and any(a > 1 and b == 1 for a, b in zip(padded, large, strict=True))
        if crossed or (label[0] == "product" and self._summed(op, own)):
            return False  # an outer or an inner product, as of a state-space layer's B and C
        if not self._normed(other) and (not broadcast or flow.depth[other] == 0):
            return False
        return Ancestors(flow, own).has(other) is None and not self._same_source(layer, other)

    def _summed(self, op: Op, own: int) -> bool:
        """What it is multiplied into is summed at once over an axis (the batch's apart) along which it varies."""
        shape = self.flow.values[own].shape
        varies = {i - len(shape) for i, n in enumerate(shape) if n > 1} - {-len(self.flow.values[op.outputs[0]].shape)}
        for reader in self.flow.consumers(op.outputs[0]):
            dims = reader.args[1] if len(reader.args) > 1 else reader.kwargs.get("dim")
            dims = (dims,) if isinstance(dims, int) else dims if isinstance(dims, tuple) else ()
            rank = len(self.flow.values[op.outputs[0]].shape)
            if reader.name == "sum" and varies & {d if d < 0 else d - rank for d in dims if isinstance(d, int)}:
                return True
        return False

    def _normed(self, value: int) -> bool:
        made = self.flow.producer(self.flow.root(value))
        return made is not None and made.index in self.flow.norms

    def _scaled_norm(self, value: int) -> bool:
        """A norm's result, or that times something."""
        made = self.flow.producer(self.flow.root(value))
        if made is not None and self.flow.kind_of(made) is Kind.PRODUCT:
            return any(self._normed(i) for i in made.inputs)
        return self._normed(value)

    def _constant(self, value: int) -> float:
        """The number in ``(1 + rows)``, 0 where the rows are used as they are."""
        for _ in range(_BACK):
            op = self.flow.producer(value)
            if op is None or self.flow.kind_of(op) is not Kind.CARRY:
                return 0.0
            numbers = [a for a in op.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
            if op.name == "add" and numbers:
                return float(numbers[0])
            value = self.flow.signals(op)[0]
        return 0.0

    def _ends(self, op: Op) -> bool:
        """What it gives leaves the model with no weight after it: a term of an output (a value beside advantages)."""
        return bool(op.outputs) and not self.feeds[op.outputs[0]] and self.follower.ends_the_model(op)

    def _same_source(self, layer: Layer, other: int) -> bool:
        """Whether the stream and the modulation are computed from one value, as in squeeze-and-excitation."""
        return Ancestors(self.flow, layer.output).has(other) is not None
