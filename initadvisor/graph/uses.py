"""Every use of every parameter: as a weight, a bias, or elementwise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from initadvisor.graph.acting import ActingReader
from initadvisor.graph.axes import Origin, Part, Tracer
from initadvisor.graph.elementwise import ElementwiseReader, unread_operands
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.layer_roles import LayerFacts, LayerReader
from initadvisor.graph.maps import MapReader
from initadvisor.graph.opgraph import Op
from initadvisor.graph.spec import NORMALISED, Confidence
from initadvisor.types import WEIGHT_ROLES, Fans, Role, Slice


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
        factor, acts_through: as in :class:`~initadvisor.graph.spec.ParamSpec`.
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
    factor: float = 1.0
    acts_through: str | None = None


@dataclass
class UseReader:
    """Collects the uses of one graph."""

    flow: Flow
    layers: LayerReader
    others: ElementwiseReader
    tracer: Tracer
    uses: dict[int, list[Use]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.maps = MapReader(self.flow)
        self.acting = ActingReader(self.flow)

    def read(self) -> dict[int, list[Use]]:
        """Uses by parameter value, in execution order."""
        for value, first in self.flow.starts.items():
            self._add(self._start(value, first))
        for op in self.flow.graph.ops:
            taken: set[int] = set()
            for layer in self.flow.layers_of.get(op.index, ()):
                taken |= self._layer(op, layer)
            for operand in unread_operands(self.flow, op, taken):
                self._other(op, operand)
        for value in self.flow.graph.outputs:
            if self.flow.is_pure(value):
                self._returned(value)
        return self.uses

    def _add(self, use: Use) -> None:
        self.uses.setdefault(use.parameter, []).append(use)

    def _start(self, value: int, first: int) -> Use:
        """A parameter that is a signal from the first: the stream itself, or a token that is joined to one."""
        if value in self.flow.joined:
            note = "a learned vector that starts a signal of its own"
            return Use(value, first, Role.TOKEN, Confidence.INFERRED, note, result=value)
        return Use(value, first, Role.LATENT, Confidence.INFERRED, "a learned array that is the stream", result=value)

    # ---- weights and their biases

    def _layer(self, op: Op, layer: Layer) -> set[int]:
        facts, reading = self.layers.facts[layer.index], layer.reading
        origins = self.tracer.origins(reading.weight)
        has_main = any(o.part is Part.MAIN for o in origins)
        for origin in origins:
            noise = _spread_by_noise(origin, origins, op, layer)
            self._add(noise or self._acting(self._weight_use(op, facts, origin, has_main), facts, origin))
        if reading.bias is not None and self.flow.is_pure(reading.bias):
            shifts = self.tracer.origins(reading.bias)
            for origin in shifts:
                noise = _spread_by_noise(origin, shifts, op, layer)
                self._add(noise or replace(self._bias_use(op, facts, origin), factor=origin.factor))
        taken = {reading.weight}
        return taken if reading.bias is None else taken | {reading.bias}

    def _weight_use(self, op: Op, facts: LayerFacts, origin: Origin, has_main: bool) -> Use:
        layer, flow = facts.layer, self.flow
        if self.maps.puts_outputs_together(layer, origin):
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
        compared = facts.role is Role.RELATIVE_BIAS and origin.parameter != layer.reading.weight
        if compared or facts.role is Role.LATENT:
            return Use(origin.parameter, op.index, facts.role, facts.confidence, facts.note, **base)  # type: ignore[arg-type]
        fans, slices, note = self.maps.fans(facts, origin)
        confidence = facts.confidence
        if note and confidence is Confidence.CERTAIN:
            confidence = Confidence.INFERRED
        return Use(origin.parameter, op.index, facts.role, confidence, note or facts.note, fans, slices, **base)  # type: ignore[arg-type]

    def _acting(self, use: Use, facts: LayerFacts, origin: Origin) -> Use:
        """The use of a weight with what becomes of the tensor before it acts."""
        if (use.role not in WEIGHT_ROLES and use.role is not Role.EMBEDDING) or use.weight is not None:
            return use
        reading = facts.layer.reading
        times = self.acting.of_table(facts.layer) if use.role is Role.EMBEDDING else self.acting.of_input(facts.layer)
        through = self.acting.through(reading.weight, origin)
        notes = []
        if reading.weight in self.flow.modulated:
            notes.append("the signal scales it before use")
        if through is not None and through != NORMALISED:
            notes.append(f"acts behind {through}")
        sure = Confidence.INFERRED if notes and use.confidence is Confidence.CERTAIN else use.confidence
        factor = origin.factor * times
        return replace(
            use, factor=factor, acts_through=through, note="; ".join(filter(None, (use.note, *notes))), confidence=sure
        )

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
        signal = next((s for s in self.flow.signals(op) if s != operand), None)
        before = self.others.neighbours.weight_before(signal) if signal is not None else None
        for origin in self.tracer.origins(operand):
            found = self.others.read(op, operand, origin)
            self._add(
                Use(
                    origin.parameter,
                    op.index,
                    found.role,
                    found.confidence,
                    found.note,
                    fans=found.fans,
                    weight=before,
                    signal=signal,
                    result=op.outputs[0] if op.outputs else None,
                    offset=self.others.offset(operand) if found.role is Role.NORM_SCALE else 0.0,
                )
            )

    def _returned(self, value: int) -> None:
        for origin in self.tracer.origins(value):
            if origin.parameter in self.uses:
                continue
            single = all(n == 1 for n in self.flow.values[origin.parameter].shape)
            role = Role.SCALAR if single else Role.BIAS
            note = "returned as it is: an output that depends on no input"
            self._add(Use(origin.parameter, -1, role, Confidence.INFERRED, note, result=value))


def _spread_by_noise(origin: Origin, beside: tuple[Origin, ...], op: Op, layer: Layer) -> Use | None:
    """Of a weight that is one parameter plus another times noise (Fortunato et al. 2017): the use of the other."""
    plain = any(o.parameter != origin.parameter and not o.masked and o.part is Part.MAIN for o in beside)
    if not (origin.masked and plain):
        return None
    note = "the size of the noise on a weight"
    return Use(
        origin.parameter, op.index, Role.ELEMENTWISE, Confidence.INFERRED, note, weight=layer,
        signal=layer.reading.data[0], result=layer.output,
    )  # fmt: skip
