"""Roles of parameters that no op contracts: scales, shifts, places, tokens, arrays that are a signal themselves.

:data:`READERS` are asked in order; the first that has something to say decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from initadvisor.graph import kinds
from initadvisor.graph.activations import Bends
from initadvisor.graph.attention import Attentions
from initadvisor.graph.axes import Origin, Part
from initadvisor.graph.branches import Branches, after_norm, scale_of
from initadvisor.graph.flow import Flow, Layer, read_by
from initadvisor.graph.kinds import Kind
from initadvisor.graph.neighbours import Neighbours
from initadvisor.graph.opgraph import Op
from initadvisor.graph.residual import Ancestors
from initadvisor.graph.spec import Confidence
from initadvisor.types import Fans, Role

_SURE, _LIKELY, _GUESS = Confidence.CERTAIN, Confidence.INFERRED, Confidence.WEAK

_NORM_SLOTS = {"layer_norm": 2, "batch_norm": 3, "group_norm": 2, "instance_norm": 3, "rms_norm": 2}
"""Position of the scale among a norm call's arguments; the shift follows."""

_TO_SUM = 6
"""Ops between a factor and the sum it goes to: a shift, a cast, a change of layout."""

_SHIFTS = 8
"""Ops between a parameter and its use as a scale; ``(1 + w)`` with casts takes up to four."""

_TO_LAYER = 12
"""Casts, shifts and reshapes between a concatenation and the map that reads it."""

_POSITIVE = frozenset({"exp", "softplus"})
"""What a parameter passes before it may count as dynamics: rates are kept positive by these."""

_MULTIPLIES = kinds.PRODUCTS | {"einsum", "outer", "ger", "kron"}
"""Products without a sum: an einsum gets here only where no axis is summed."""

_KEEPS_UNITY = frozenset({"clamp", "clamp_min", "clamp_max", "abs", "maximum", "minimum", "square", "pow", "sqrt"})
"""Functions of which one is the neutral scale as without them."""

_COMPARES = frozenset({"cdist", "pairwise_distance", "cosine_similarity", "dist"})
"""Distances between what was given and rows that were learned."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a parameter does where it is used; ``fans`` where that is a sum after all."""

    role: Role
    confidence: Confidence = _SURE
    note: str = ""
    fans: Fans | None = None


@dataclass(frozen=True, slots=True)
class Meeting:
    """One parameter at one op that does not contract it.

    Attributes:
        op: where.
        operand: the value made of the parameter that the op reads.
        origin: how the operand comes from the parameter.
        shape: of the parameter.
    """

    op: Op
    operand: int
    origin: Origin
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements of the parameter."""
        return math.prod(self.shape)

    @property
    def bent(self) -> bool:
        """The parameter's entries pass a function of their own before they meet anything (kept as logarithms)."""
        return bool(self.origin.ops & kinds.BENDS)

    @property
    def computed(self) -> bool:
        """More than moving, scaling and adding lies between the parameter and the operand."""
        return self.bent or bool(self.origin.ops & (kinds.CONTRACTIONS | frozenset(kinds.NORMS) | kinds.SOFTMAXES))


class ElementwiseReader:
    """Reads what parameters do that no op contracts."""

    def __init__(
        self, flow: Flow, bends: Bends, branches: Branches, attentions: Attentions, neighbours: Neighbours
    ) -> None:
        self.flow = flow
        self.bends = bends
        self.branches = branches
        self.attentions = attentions
        self.neighbours = neighbours

    def read(self, op: Op, operand: int, origin: Origin) -> Verdict:
        """The role of one parameter behind one operand."""
        met = Meeting(op, operand, origin, self.flow.values[origin.parameter].shape)
        found = (reader(self, met) for reader in READERS)
        unread = Verdict(Role.UNKNOWN, _GUESS, f"used by {op.name}, whose effect on it is not understood")
        return next((verdict for verdict in found if verdict is not None), unread)

    # ---- readers, in the order of READERS

    def of_an_activation(self, met: Meeting) -> Verdict | None:
        """A slope or a frequency inside an activation."""
        bend = self.bends.inner.get(met.op.index)
        if bend is None or met.origin.parameter not in bend.learned:
            return None
        return Verdict(Role.ACTIVATION, _SURE if met.numel > 1 or met.op.name == "prelu" else _LIKELY)

    def of_a_norm(self, met: Meeting) -> Verdict | None:
        """An argument of a norm's call."""
        position = _NORM_SLOTS.get(met.op.name)
        if position is None:
            return None
        if met.op.ref(position, "weight") == met.operand:
            return _behind(met, Role.NORM_SCALE, _SURE)
        return Verdict(Role.NORM_SHIFT) if met.op.ref(position + 1, "bias") == met.operand else None

    def is_a_signal(self, met: Meeting) -> Verdict | None:
        """What a map or an attention reads as data."""
        entered = (met.op.index, met.operand) in self.attentions.operands
        if not entered and self.flow.kind_of(met.op) is not Kind.LAYER:
            return None
        return Verdict(Role.LATENT, _LIKELY, "a learned array that is itself a signal")

    def of_scores(self, met: Meeting) -> Verdict | None:
        """Attention's scores before their softmax."""
        return Verdict(Role.RELATIVE_BIAS) if met.operand in self.attentions.scores else None

    def of_dynamics(self, met: Meeting) -> Verdict | None:
        """A rate of decay: kept positive, multiplied with a step, then in an exponential."""
        if not (met.origin.ops & _POSITIVE and met.numel > 1):
            return None
        if not any(self.neighbours.ahead(o).activation == "exp" for o in met.op.outputs):
            return None
        return Verdict(Role.STATE, _LIKELY, "made positive, then multiplied with the signal")

    def as_factor(self, met: Meeting) -> Verdict | None:
        """A product with the signal."""
        if met.op.name not in _MULTIPLIES:
            return None
        verdict = self._scale(met)
        fans = self._functional(met) if verdict.role in (Role.ELEMENTWISE, Role.NORM_SCALE) else None
        if fans is None:
            return verdict
        return Verdict(Role.HIDDEN, verdict.confidence, "multiplied with the signal and summed: a functional", fans)

    def as_summand(self, met: Meeting) -> Verdict | None:
        """A sum with the signal."""
        return self._shift(met) if met.op.name in kinds.SUMS else None

    def joined(self, met: Meeting) -> Verdict | None:
        """Put beside, or in the place of, parts of the signal."""
        gathers = met.op.name in kinds.GATHERING
        if met.op.name not in kinds.JOINING and not gathers and self.flow.kind_of(met.op) is not Kind.JOIN:
            return None
        if self._beside_features(met):
            return Verdict(Role.LATENT, _LIKELY, "features that do not depend on the input (a state to start from)")
        return Verdict(Role.TOKEN, _SURE if met.op.name in kinds.JOINING else _LIKELY)

    def compared(self, met: Meeting) -> Verdict | None:
        """Distances from its rows."""
        return _CENTRES if met.op.name in _COMPARES else None

    def contracted(self, met: Meeting) -> Verdict | None:
        """A contraction of two signals."""
        if self.flow.kind_of(met.op) not in (Kind.MIX, Kind.ATTENTION):
            return None
        return Verdict(Role.LATENT, _LIKELY, "a learned array that meets the signal in a contraction")

    def single(self, met: Meeting) -> Verdict | None:
        """Any other use of one number."""
        return Verdict(Role.SCALAR, _LIKELY) if met.numel == 1 else None

    # ---- factors

    def _scale(self, met: Meeting) -> Verdict:
        op = met.op
        if op.index in self.branches.ending_scales:
            return Verdict(Role.BRANCH_SCALE)
        if met.numel == 1 or any(o in self.attentions.scores for o in op.outputs):
            return Verdict(Role.SCALAR)
        if scale_of(self.flow, op) is not None:
            return _behind(met, Role.NORM_SCALE, _SURE)
        if self._joins_its_source(op):
            return Verdict(Role.BRANCH_SCALE, _LIKELY, "multiplies what is added to the signal it is computed from")
        spread = self._spread(met)
        if len(spread) == 1 and self._lacks(op, met.operand, spread[0]):
            return Verdict(Role.ELEMENTWISE, _LIKELY, "gives the signal an axis that it does not have")
        if len(spread) == 1:
            return _behind(met, Role.NORM_SCALE, _LIKELY, "scales channels, with no normalisation before it")
        if met.computed:
            return Verdict(Role.ELEMENTWISE, _LIKELY, "what a function of it makes multiplies the signal")
        return Verdict(Role.ELEMENTWISE, _LIKELY, "multiplies the signal entry by entry: nothing is summed")

    def _lacks(self, op: Op, operand: int, axis: int) -> bool:
        """The other factors have one entry along an axis of the operand: an outer product."""
        shapes = [self.flow.values[i].shape for i in op.inputs if i != operand]
        return op.name in kinds.PRODUCTS and all(-axis > len(s) or s[axis] == 1 for s in shapes if s)

    def _spread(self, met: Meeting) -> list[int]:
        """Axes, counted from the right, along which an operand varies as the parameter does."""
        shape = self.flow.values[met.operand].shape
        tag = met.origin.tag
        if tag is not None and tuple(tag.shape) == shape:
            return [i - len(shape) for i, n in enumerate(shape) if n > 1 and tag.stride(i) != 0]
        return [i - len(shape) for i, n in enumerate(shape) if n > 1]

    def _joins_its_source(self, op: Op) -> bool:
        """The product is added to a signal it was computed from, without a weight on the way."""
        todo = list(op.outputs)
        for _ in range(_TO_SUM):
            if not todo:
                return False
            value = todo.pop()
            for reader in self.flow.consumers(value):
                kind = self.flow.kind_of(reader)
                if kind is Kind.SUM:
                    others = [i for i in reader.inputs if i != value and self.flow.is_live(i)]
                    return any(Ancestors(self.flow, value).has(i) is False for i in others)
                if kind is Kind.CARRY:
                    todo += reader.outputs
        return False

    def _functional(self, met: Meeting) -> Fans | None:
        """Fans of a vector that is multiplied with the signal before a sum over it (attention over neighbours)."""
        readers = list(self.flow.consumers(met.op.outputs[0]))
        if len(readers) != 1 or readers[0].name != "sum" or met.origin.tag is None:
            return None
        rank = len(self.flow.values[met.op.outputs[0]].shape)
        dims = readers[0].arg(1, "dim")
        summed = {d % rank - rank for d in ((dims,) if isinstance(dims, int) else dims or ()) if isinstance(d, int)}
        ins = [k for k, n in enumerate(met.shape) if n > 1 and k - len(met.shape) in summed]
        if not ins or self.flow.values[met.operand].shape != met.shape:
            return None
        batch = tuple(k for k, n in enumerate(met.shape) if n > 1 and k not in ins)
        out = next((k for k, n in enumerate(met.shape) if n == 1), 0)
        return Fans(float(math.prod(met.shape[k] for k in ins)), 1.0, out, ins[0], 1, batch)

    # ---- summands

    def _shift(self, met: Meeting) -> Verdict:
        op, operand, flow = met.op, met.operand, self.flow
        if any(o in self.attentions.scores for o in op.outputs):
            return Verdict(Role.RELATIVE_BIAS)
        if met.numel == 1:
            return Verdict(Role.BIAS, _LIKELY)
        if op.name in ("sub", "rsub") and self._is_compared(op, operand):
            return _CENTRES
        made = flow.maker(operand)
        if made is not None and len(made.inputs) == 2 and flow.is_bias_of_maps(made, made.inputs[0]):
            return Verdict(Role.BIAS)  # picked, like the maps it is added to the result of
        spread = [a - len(flow.values[operand].shape) for a, n in enumerate(flow.values[operand].shape) if n > 1]
        own = [a for a in spread if flow.values[operand].shape[a] == met.numel]
        if len(spread) > 1 and own and made is None:
            spread = own[-1:]  # expanded by hand
        elif len(spread) > 1 and own:
            return Verdict(Role.SCALAR, _LIKELY, "the size of what is added: spread over the signal by noise")
        if len(spread) > 1:
            return self._array(met, spread)
        if after_norm(flow, op) is not None:
            return Verdict(Role.NORM_SHIFT)
        signal = flow.single_ref(op)
        before = self.neighbours.weight_before(signal) if signal is not None else None
        if before is not None and spread and self._feature_axis(before, signal) in (None, spread[0]):
            return Verdict(Role.BIAS)
        if len(flow.values[operand].shape) == 1 or self._along_features(operand, spread, signal):
            return Verdict(Role.BIAS, _LIKELY, "shifts channels")
        return Verdict(Role.POSITION, _LIKELY, "added along one axis that is not the features'")

    def _array(self, met: Meeting, spread: list[int]) -> Verdict:
        """An array of several axes that is added: places, or the stream itself."""
        if met.computed:
            return Verdict(Role.ELEMENTWISE, _LIKELY, "what a function of it makes is added to the signal")
        signal = self.flow.single_ref(met.op)
        if signal is None:
            return Verdict(Role.POSITION)
        shape = self.flow.values[signal].shape
        if any(-a > len(shape) or shape[a] == 1 for a in spread):
            return Verdict(Role.LATENT, _LIKELY, "an array of its own that the signal is added to")
        made = self.flow.maker(signal)
        scaled = made is not None and made.name in _MULTIPLIES and self.flow.kind_of(made) is Kind.CARRY
        if scaled and any(self._alike(i, met.operand) for i in made.inputs if self.flow.is_pure(i)):  # type: ignore[union-attr]
            return Verdict(Role.ELEMENTWISE, _LIKELY, "shifts what an array of its shape has multiplied")
        return Verdict(Role.POSITION)

    def _alike(self, one: int, two: int) -> bool:
        """Whether two operands have the same axes, those of size one apart."""
        shapes = ([n for n in self.flow.values[v].shape if n > 1] for v in (one, two))
        first, second = shapes
        return first == second

    def _is_compared(self, op: Op, operand: int) -> bool:
        """A difference that gives the signal an axis it did not have: one place for each row of the operand."""
        signal = self.flow.single_ref(op)
        if signal is None:
            return False
        small, large = self.flow.values[signal].shape, self.flow.values[op.outputs[0]].shape
        rows = self.flow.values[operand].shape
        wide = [i for i in range(1, len(large) + 1) if i > len(small) or small[-i] < large[-i]]
        return bool(wide) and all(i <= len(rows) and rows[-i] > 1 for i in wide)

    def _along_features(self, operand: int, spread: list[int], signal: int | None) -> bool:
        """Whether an operand varies along what a weight makes, activations and factors since notwithstanding."""
        behind = self.neighbours.weight_before(signal, bent=True) if signal is not None and spread else None
        if behind is None or len(behind.reading.out_axes) != 1:
            return False
        features = self.flow.values[behind.output].shape[behind.reading.out_axes[0]]
        axis = self._feature_axis(behind, signal)
        return self.flow.values[operand].shape[spread[0]] == features and axis in (None, spread[0])

    def _feature_axis(self, layer: Layer, signal: int | None) -> int | None:
        """Axis of a weight's output that holds its features, where nothing was moved since; else None."""
        if signal is None or self.flow.root(signal) != layer.output or not layer.reading.out_axes:
            return None
        return layer.reading.out_axes[0]

    def offset(self, operand: int) -> float:
        """The constant in ``(1 + w)``, 0 where the parameter is used as it is."""
        total = 0.0
        for _ in range(_SHIFTS):
            op = self.flow.producer(operand)
            if op is None or not op.inputs:
                return total
            if op.name == "add":
                numbers = [a for a in op.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
                total += float(numbers[0]) if numbers else 0.0
            operand = next((i for i in op.inputs if self.flow.is_pure(i)), op.inputs[0])
        return total

    # ---- what is joined

    def _beside_features(self, met: Meeting) -> bool:
        """Concatenated along the axis that the next map sums over."""
        if met.op.name != "cat":
            return False
        rank = len(self.flow.values[met.op.outputs[0]].shape)
        dim = met.op.arg(1, "dim", 0)
        axis = dim % rank - rank if isinstance(dim, int) and rank else 0
        value = met.op.outputs[0]
        for _ in range(_TO_LAYER):
            readers = list(self.flow.consumers(value))
            if not readers:
                return False
            layers = self.flow.layers_of.get(readers[0].index)
            if layers:
                own = layers[0].reading.axes
                taps = own.count("k") if "k" in own else 0
                same = len(self.flow.values[value].shape) == rank
                return same and axis == -1 - taps and "i" in own
            if self.flow.kind_of(readers[0]) not in (Kind.CARRY, Kind.NORM, Kind.BEND):
                return False
            value = readers[0].outputs[0]
        return False


_CENTRES = Verdict(Role.LATENT, _LIKELY, "each signal is compared with every row of it (centres, prototypes)")


def _behind(met: Meeting, role: Role, confidence: Confidence, note: str = "") -> Verdict:
    """A role whose neutral value is known only where the parameter's entries arrive as they are."""
    through = ", ".join(sorted(met.origin.ops & (kinds.BENDS - _KEEPS_UNITY)))
    if met.origin.part is Part.MAIN and through:
        return Verdict(Role.ELEMENTWISE, _LIKELY, f"a scale that is kept behind {through}")
    return Verdict(role, confidence, note)


READERS: tuple[Callable[[ElementwiseReader, Meeting], Verdict | None], ...] = (
    ElementwiseReader.of_an_activation,
    ElementwiseReader.of_a_norm,
    ElementwiseReader.is_a_signal,
    ElementwiseReader.of_scores,
    ElementwiseReader.of_dynamics,
    ElementwiseReader.as_factor,
    ElementwiseReader.as_summand,
    ElementwiseReader.joined,
    ElementwiseReader.compared,
    ElementwiseReader.contracted,
    ElementwiseReader.single,
)
"""Asked in this order: what an op's own arguments say before what lies around it, sure before likely."""


def unread_operands(flow: Flow, op: Op, taken: set[int]) -> list[int]:
    """Operands made of parameters that an op reads elementwise: all but the weights and biases it contracts."""
    if flow.kind_of(op) is Kind.PURE and op.index not in flow.layers_of:
        return []
    return [v for v in dict.fromkeys(read_by(op)) if flow.is_pure(v) and v not in taken]
