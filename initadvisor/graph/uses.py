"""Every use of every parameter: as a weight, a bias, part of a norm, a factor, a table, a token, a constant."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from initadvisor.graph import kinds
from initadvisor.graph.activations import Bends
from initadvisor.graph.attention import Attentions
from initadvisor.graph.axes import AxisMap, Origin, Part, Tracer, axis_map
from initadvisor.graph.branches import Branches, after_norm, scale_of
from initadvisor.graph.flow import Flow, Layer, read_by
from initadvisor.graph.kinds import Kind
from initadvisor.graph.layer_roles import LayerFacts, LayerReader
from initadvisor.graph.layers import GATES
from initadvisor.graph.neighbours import Neighbours
from initadvisor.graph.opgraph import Op
from initadvisor.graph.packing import ranges_of
from initadvisor.graph.residual import Ancestors
from initadvisor.graph.spec import Confidence
from initadvisor.types import Fans, Role, Slice

_NORM_SLOTS = {"layer_norm": 2, "batch_norm": 3, "group_norm": 2, "instance_norm": 3, "rms_norm": 2}
"""Position of the scale among a norm call's arguments; the shift follows."""

GATE_NAMES = {f"{kind}_layer": names for kind, names in GATES.items()}
_ELEMENTWISE = Fans(1.0, 1.0, 0, 0)
"""Fans of a weight that multiplies every feature by itself."""

_WEIGHTLESS = 6
"""Ops between a factor and the sum it goes to: a shift, a cast, a change of layout."""

_STATEFUL = frozenset({"exp", "softplus"})
"""What a parameter passes before it may count as dynamics: rates are kept positive by these."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of one parameter.

    Attributes:
        parameter: its value.
        op: index of the op.
        role, confidence, note: what it does there.
        fans: where it is a linear map.
        slices: its parts.
        facts: of the weight use, where it is one.
        weight: of a bias or norm parameter: the use of the weight before it.
        signal: the value it acts on, None where it is itself the source of a signal.
        result: the value it makes.
        offset: constant added to a scale before it is used.
        owner: of a bias: value of the weight it belongs to, where the map's weight is concatenated from several.
    """

    parameter: int
    op: int
    role: Role
    confidence: Confidence = Confidence.CERTAIN
    note: str = ""
    fans: Fans | None = None
    slices: tuple[Slice, ...] = ()
    facts: LayerFacts | None = None
    weight: Layer | None = None
    signal: int | None = None
    result: int | None = None
    offset: float = 0.0
    owner: int | None = None


@dataclass
class UseReader:
    """Collects the uses of one graph."""

    flow: Flow
    bends: Bends
    branches: Branches
    attentions: Attentions
    layers: LayerReader
    neighbours: Neighbours
    tracer: Tracer
    uses: dict[int, list[Use]] = field(default_factory=dict)
    state_ops: set[int] = field(default_factory=set)

    def read(self) -> dict[int, list[Use]]:
        """Uses by parameter value, in execution order."""
        for value, first in self.flow.starts.items():
            note = "a learned vector that starts a signal of its own"
            self._add(Use(value, first, Role.TOKEN, Confidence.INFERRED, note, result=value))
        for op in self.flow.graph.ops:
            taken: set[int] = set()
            for layer in self.flow.layers_of.get(op.index, ()):
                taken |= self._layer(op, layer)
            if self.flow.kind_of(op) is not Kind.PURE or op.index in self.flow.layers_of:
                for operand in dict.fromkeys(read_by(op)):
                    if self.flow.is_pure(operand) and operand not in taken:
                        self._other(op, operand)
        for value in self.flow.graph.outputs:
            if self.flow.is_pure(value):
                self._returned(value)
        self._state_neighbours()
        return self.uses

    def _add(self, use: Use) -> None:
        self.uses.setdefault(use.parameter, []).append(use)

    # ---- weights and their biases

    def _layer(self, op: Op, layer: Layer) -> set[int]:
        facts, reading = self.layers.facts[layer.index], layer.reading
        origins = self.tracer.origins(reading.weight)
        has_main = any(o.part is Part.MAIN for o in origins)
        for origin in origins:
            self._add(self._weight_use(op, facts, origin, has_main))
        if reading.bias is not None and self.flow.is_pure(reading.bias):
            for origin in self.tracer.origins(reading.bias):
                self._add(self._bias_use(op, facts, origin))
        taken = {reading.weight}
        return taken if reading.bias is None else taken | {reading.bias}

    def _weight_use(self, op: Op, facts: LayerFacts, origin: Origin, has_main: bool) -> Use:
        layer, flow = facts.layer, self.flow
        if self._puts_outputs_together(layer, origin):
            assert origin.place is not None
            facts = facts.part(*origin.place[1:])
        base = {"facts": facts, "signal": layer.reading.data[0], "result": layer.output, "offset": facts.offset}
        info = flow.values[origin.parameter]
        if origin.part is Part.FACTOR:
            single = len([n for n in info.shape if n > 1]) == 0
            return Use(
                origin.parameter, op.index, Role.SCALAR if single else Role.NORM_SCALE, Confidence.INFERRED,
                "multiplies the weight it belongs to (the magnitude of a weight norm)",
                weight=layer, signal=layer.reading.data[0], result=layer.output,
            )  # fmt: skip
        if origin.part in (Part.LOW_RANK_IN, Part.LOW_RANK_OUT):
            return self._low_rank(op, facts, origin, has_main)
        fans, slices, note = self._fans(facts, origin)
        confidence = facts.confidence
        if note and confidence is Confidence.CERTAIN:
            confidence = Confidence.INFERRED
        return Use(origin.parameter, op.index, facts.role, confidence, note or facts.note, fans, slices, **base)  # type: ignore[arg-type]

    def _puts_outputs_together(self, layer: Layer, origin: Origin) -> bool:
        """Whether a parameter makes some of the features of a weight that is concatenated from several."""
        axes = layer.reading.axes
        return origin.place is not None and axes.count("o") == 1 and axes[origin.place[0]] == "o"

    def _low_rank(self, op: Op, facts: LayerFacts, origin: Origin, has_main: bool) -> Use:
        """One of two parameters whose product is (added to) the weight: W + B·A, or a factorised weight."""
        shape = self.flow.values[origin.parameter].shape
        rows, columns = float(shape[-2] if len(shape) > 1 else 1), float(shape[-1])
        out_first = facts.layer.reading.axes.find("o") <= facts.layer.reading.axes.find("i")
        fans = Fans(columns, rows, 0, 1) if out_first else Fans(rows, columns, 1, 0)
        is_out = (origin.part is Part.LOW_RANK_OUT) == out_first
        role = facts.role if not has_main else Role.ADAPTER_OUT if is_out else Role.ADAPTER_IN
        confidence = Confidence.CERTAIN if has_main else Confidence.INFERRED
        note = "one of two factors of a weight"
        return Use(
            origin.parameter, op.index, role, confidence, note, fans, facts=facts, signal=facts.layer.reading.data[0],
            result=facts.layer.output,
        )  # fmt: skip

    def _fans(self, facts: LayerFacts, origin: Origin) -> tuple[Fans, tuple[Slice, ...], str]:
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
        maps = math.prod(n for n, a, b in zip(operand, axes, reading.axes, strict=True) if a == "b" != b)
        share = 1.0
        if self._puts_outputs_together(facts.layer, origin):
            assert origin.place is not None
            share = origin.place[2] / operand[origin.place[0]]
        fans = Fans(reading.fan_in, reading.fan_out * share / maps, out_dim, in_dim, reading.groups, batch)
        slices = self._slices(facts, fans, mapped, shape)
        return fans, slices, note

    def _slices(self, facts: LayerFacts, fans: Fans, mapped: AxisMap, shape: tuple[int, ...]) -> tuple[Slice, ...]:
        layer = facts.layer
        op = self.flow.graph.ops[layer.op]
        gates = GATE_NAMES.get(op.name)
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

    def _bias_use(self, op: Op, facts: LayerFacts, origin: Origin) -> Use:
        """A bias takes its weight's parts; its own axis is the output's."""
        layer = facts.layer
        slices: tuple[Slice, ...] = ()
        shape = self.flow.values[origin.parameter].shape
        behind = self.tracer.origins(layer.reading.weight)
        beside = (o for o in behind if o.place is not None and origin.place is not None)
        owner = next((o for o in beside if o.place[1:] == origin.place[1:]), None)  # type: ignore[index]
        weights = self.uses.get(next((o.parameter for o in ((owner,) if owner else behind)), -1), [])
        made = next((u for u in reversed(weights) if u.facts is not None and u.facts.layer is layer), None)
        if made is not None and made.fans is not None and len(shape) == 1:
            outs = made.fans.out_dim
            rows = self.flow.values[made.parameter].shape
            if made.slices and all(s.dim == outs for s in made.slices) and rows[outs] == shape[0]:
                slices = tuple(Slice(s.name, 0, s.ranges, Role.BIAS, s.fans) for s in made.slices)
        return Use(
            origin.parameter, op.index, Role.BIAS, facts.confidence if origin.part is Part.MAIN else Confidence.WEAK,
            slices=slices, weight=layer, signal=layer.reading.data[0], result=layer.output,
            owner=None if owner is None else owner.parameter,
        )  # fmt: skip

    # ---- everything else

    def _other(self, op: Op, operand: int) -> None:
        for origin in self.tracer.origins(operand):
            role, confidence, note = self._role(op, operand, origin)
            fans = self._functional(op, operand, origin) if role in (Role.HIDDEN, Role.NORM_SCALE) else None
            if fans is not None:
                role, note = Role.HIDDEN, "multiplied with the signal and summed: a linear functional"
            signal = next((s for s in self.flow.signals(op) if s != operand), None)
            result = op.outputs[0] if op.outputs else None
            before = self._weight_before(signal) if signal is not None else None
            self._add(
                Use(
                    origin.parameter,
                    op.index,
                    role,
                    confidence,
                    note,
                    fans=(fans or _ELEMENTWISE) if role is Role.HIDDEN else None,
                    weight=before,
                    signal=signal,
                    result=result,
                    offset=self._offset(operand) if role is Role.NORM_SCALE else 0.0,
                )
            )
            if role is Role.STATE:
                self.state_ops.add(op.index)

    def _role(self, op: Op, operand: int, origin: Origin) -> tuple[Role, Confidence, str]:
        flow = self.flow
        sure, likely = Confidence.CERTAIN, Confidence.INFERRED
        info = flow.values[origin.parameter]
        numel = 1
        for n in info.shape:
            numel *= n
        kind = flow.kind_of(op)
        bend = self.bends.inner.get(op.index)
        if bend is not None and origin.parameter in bend.learned:
            return (Role.ACTIVATION, sure, "") if numel > 1 or op.name == "prelu" else (Role.ACTIVATION, likely, "")
        slot = self._norm_slot(op, operand)
        if slot is not None:
            return slot, sure, ""
        if (op.index, operand) in self.attentions.operands or kind is Kind.LAYER:
            return Role.TOKEN, likely, "a learned vector that starts a signal of its own"
        if operand in self.attentions.scores:
            return Role.RELATIVE_BIAS, sure, ""
        if origin.ops & _STATEFUL and numel > 1 and self._decays(op):
            return Role.STATE, likely, "made positive, then multiplied with the signal"
        if op.name in kinds.PRODUCTS or op.name == "einsum":
            return self._scale_role(op, operand, numel)
        if op.name in kinds.SUMS:
            return self._shift_role(op, operand, numel)
        if kind is Kind.JOIN or op.name in kinds.GATHERING or op.name in kinds.JOINING:
            return Role.TOKEN, sure if op.name in kinds.JOINING else likely, ""
        if kind in (Kind.MIX, Kind.ATTENTION):
            return Role.TOKEN, likely, "a learned vector that meets the signal in a contraction"
        if numel == 1:
            return Role.SCALAR, likely, ""
        return Role.UNKNOWN, Confidence.WEAK, f"used by {op.name}, whose effect on it is not understood"

    def _decays(self, op: Op) -> bool:
        """The product goes into an exponential: a rate of decay over a step."""
        return any(self.neighbours.ahead(o).activation == "exp" for o in op.outputs)

    def _functional(self, op: Op, operand: int, origin: Origin) -> Fans | None:
        """Fans of a vector that is multiplied with the signal before a sum over it (attention over neighbours)."""
        readers = list(self.flow.consumers(op.outputs[0]))
        if len(readers) != 1 or readers[0].name != "sum" or origin.tag is None:
            return None
        rank = len(self.flow.values[op.outputs[0]].shape)
        dims = readers[0].arg(1, "dim")
        summed = {d % rank - rank for d in ((dims,) if isinstance(dims, int) else dims or ()) if isinstance(d, int)}
        shape = self.flow.values[origin.parameter].shape
        ins = [k for k, n in enumerate(shape) if n > 1 and k - len(shape) in summed]
        if not ins or self.flow.values[operand].shape != shape:
            return None
        batch = tuple(k for k, n in enumerate(shape) if n > 1 and k not in ins)
        out = next((k for k, n in enumerate(shape) if n == 1), 0)
        return Fans(float(math.prod(shape[k] for k in ins)), 1.0, out, ins[0], 1, batch)

    def _norm_slot(self, op: Op, operand: int) -> Role | None:
        position = _NORM_SLOTS.get(op.name)
        if position is None:
            return None
        if op.ref(position, "weight") == operand:
            return Role.NORM_SCALE
        return Role.NORM_SHIFT if op.ref(position + 1, "bias") == operand else None

    def _spread(self, operand: int) -> list[int]:
        """Axes, counted from the right, along which an operand varies."""
        shape = self.flow.values[operand].shape
        return [i - len(shape) for i, n in enumerate(shape) if n > 1]

    def _scale_role(self, op: Op, operand: int, numel: int) -> tuple[Role, Confidence, str]:
        if op.index in self.branches.ending_scales:
            return Role.BRANCH_SCALE, Confidence.CERTAIN, ""
        if numel == 1 or any(o in self.attentions.scores for o in op.outputs):
            return Role.SCALAR, Confidence.CERTAIN, ""
        if scale_of(self.flow, op) is not None:
            return Role.NORM_SCALE, Confidence.CERTAIN, ""
        if self._joins_its_source(op):
            return Role.BRANCH_SCALE, Confidence.INFERRED, "multiplies what is added to the signal it is computed from"
        if len(self._spread(operand)) == 1:
            return Role.NORM_SCALE, Confidence.INFERRED, "scales channels, with no normalisation before it"
        return Role.HIDDEN, Confidence.INFERRED, "multiplies the signal elementwise"

    def _joins_its_source(self, op: Op) -> bool:
        """The product is added to a signal it was computed from, without a weight on the way."""
        todo = list(op.outputs)
        for _ in range(_WEIGHTLESS):
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

    def _compared(self, op: Op, operand: int) -> bool:
        """A difference that gives the signal an axis it did not have: one place for each row of the operand."""
        signal = self.flow.single_ref(op)
        if signal is None:
            return False
        small, large = self.flow.values[signal].shape, self.flow.values[op.outputs[0]].shape
        rows = self.flow.values[operand].shape
        wide = [i for i in range(1, len(large) + 1) if i > len(small) or small[-i] < large[-i]]
        return bool(wide) and all(i <= len(rows) and rows[-i] > 1 for i in wide)

    def _shift_role(self, op: Op, operand: int, numel: int) -> tuple[Role, Confidence, str]:
        if any(o in self.attentions.scores for o in op.outputs):
            return Role.RELATIVE_BIAS, Confidence.CERTAIN, ""
        spread = self._spread(operand)
        if numel == 1:
            return Role.BIAS, Confidence.INFERRED, ""
        if op.name in ("sub", "rsub") and self._compared(op, operand):
            return Role.UNKNOWN, Confidence.WEAK, "each signal is compared with every row of it (centres, prototypes)"
        made = self.flow.maker(operand)
        if made is not None and len(made.inputs) == 2 and self.flow.is_bias_of_maps(made, made.inputs[0]):
            return Role.BIAS, Confidence.CERTAIN, ""  # picked, like the maps it is added to the result of
        own = [a for a in spread if self.flow.values[operand].shape[a] == numel]
        if len(spread) > 1 and own and made is None:
            spread = own[-1:]  # expanded by hand
        elif len(spread) > 1 and own:
            return Role.SCALAR, Confidence.INFERRED, "the size of what is added: spread over the signal by noise"
        if len(spread) > 1:
            return Role.POSITION, Confidence.CERTAIN, ""
        if after_norm(self.flow, op) is not None:
            return Role.NORM_SHIFT, Confidence.CERTAIN, ""
        signal = self.flow.single_ref(op)
        before = self._weight_before(signal) if signal is not None else None
        if before is not None and spread and self._feature_axis(before, signal) in (None, spread[0]):
            return Role.BIAS, Confidence.CERTAIN, ""
        if len(self.flow.values[operand].shape) == 1 or self._along_features(operand, spread, signal):
            return Role.BIAS, Confidence.INFERRED, "shifts channels"
        return Role.POSITION, Confidence.INFERRED, "added along one axis that is not the features'"

    def _along_features(self, operand: int, spread: list[int], signal: int | None) -> bool:
        """Whether an operand varies along what a weight makes, activations and factors since notwithstanding."""
        behind = self._weight_before(signal, bent=True) if signal is not None and spread else None
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

    def _weight_before(self, value: int | None, *, bent: bool = False) -> Layer | None:
        """The single weight whose output a value is, behind linear ops, norms, shifts (activations where bent)."""
        for _ in range(24):
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
            if self.flow.kind_of(op) in (Kind.CARRY, Kind.NORM):
                value = self.flow.single_ref(op)
            else:
                value = self.neighbours.weighed(op)
        return None

    def _offset(self, operand: int) -> float:
        """The constant in ``(1 + w)``, 0 where the parameter is used as it is."""
        total = 0.0
        for _ in range(8):
            op = self.flow.producer(operand)
            if op is None or not op.inputs:
                return total
            if op.name == "add":
                numbers = [a for a in op.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
                total += float(numbers[0]) if numbers else 0.0
            operand = next((i for i in op.inputs if self.flow.is_pure(i)), op.inputs[0])
        return total

    def _returned(self, value: int) -> None:
        for origin in self.tracer.origins(value):
            if origin.parameter in self.uses:
                continue
            single = all(n == 1 for n in self.flow.values[origin.parameter].shape)
            role = Role.SCALAR if single else Role.BIAS
            note = "returned as it is: an output that depends on no input"
            self._add(Use(origin.parameter, -1, role, Confidence.INFERRED, note, result=value))

    # ---- state-space layers

    def _state_neighbours(self) -> None:
        """The skip factor and the step-size bias around a parameter that acts as dynamics."""
        if not self.state_ops:
            return
        flow = self.flow
        made = {o for i in self.state_ops for o in flow.graph.ops[i].outputs}
        sources = {s for i in self.state_ops for s in flow.signals(flow.graph.ops[i])}
        for uses in self.uses.values():
            for i, use in enumerate(uses):
                if use.result is None or use.op < 0:
                    continue
                skips = use.role is Role.NORM_SCALE and use.confidence is Confidence.INFERRED and self._skips(use, made)
                if skips or (use.role is Role.BIAS and self._steps(use.result, sources)):
                    uses[i] = Use(
                        use.parameter, use.op, Role.STATE, Confidence.INFERRED, "part of a state-space layer",
                        weight=use.weight, signal=use.signal, result=use.result,
                    )  # fmt: skip

    def _skips(self, use: Use, made: set[int]) -> bool:
        flow = self.flow
        assert use.result is not None
        todo = [use.result]
        for _ in range(6):
            following = [op for v in todo for op in flow.consumers(v)]
            for op in following:
                if flow.kind_of(op) is Kind.SUM:
                    others = [i for i in op.inputs if i not in todo and flow.is_live(i)]
                    return any(self._comes_from(o, made) for o in others)
            todo = [o for op in following if flow.kind_of(op) is Kind.CARRY for o in op.outputs]
        return False

    def _comes_from(self, value: int, made: set[int]) -> bool:
        ancestors = Ancestors(self.flow, value)
        return ancestors.has(min(made)) is not None or bool(made & ancestors.layered.keys())

    def _steps(self, result: int, sources: set[int]) -> bool:
        """A softplus of the sum goes into the dynamics."""
        todo, seen = [result], set[int]()
        while todo and len(seen) < 24:
            value = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            bend = self.bends.by_start.get(value)
            if bend is not None:
                if bend.name == "softplus" and self._carried(bend.exit, sources):
                    return True
                continue
            todo += [o for op in self.flow.consumers(value) if self.flow.kind_of(op) is Kind.CARRY for o in op.outputs]
        return False

    def _carried(self, value: int, targets: set[int]) -> bool:
        todo, seen = [value], set[int]()
        while todo and len(seen) < 24:
            current = todo.pop()
            if current in targets:
                return True
            seen.add(current)
            for op in self.flow.consumers(current):
                if self.flow.kind_of(op) in (Kind.CARRY, Kind.BEND):
                    todo += [o for o in op.outputs if o not in seen]
        return False


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
