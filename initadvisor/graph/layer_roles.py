"""The role of every use of a weight, from what surrounds it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from initadvisor.graph import kinds
from initadvisor.graph.attention import Attentions
from initadvisor.graph.branches import Branches
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import Kind
from initadvisor.graph.modulation import Modulations
from initadvisor.graph.packing import Follower, Label, Reach
from initadvisor.graph.recurrence import find_recurrences
from initadvisor.graph.residual import Path, Residuals
from initadvisor.graph.spec import Confidence
from initadvisor.types import Role

_ATTENTION_NAMES = ("query", "key", "value")
_ROUTED = (Kind.SOFTMAX, Kind.CARRY, Kind.JOIN, Kind.BEND, Kind.OTHER, Kind.SUM)
_ROUTE = 80
"""Ops between a router and the product with its experts' outputs."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Features of a packed weight that do one thing; ``heads`` attention heads among them."""

    name: str
    role: Role
    mask: torch.Tensor
    heads: int | None = None


@dataclass
class LayerFacts:
    """What one use of a weight is.

    Attributes:
        layer: the use.
        role: what it does.
        confidence: how sure.
        pieces: its packed parts.
        path: the innermost residual branch it lies on.
        last: its output is what the branch adds.
        partner: the use whose output it is multiplied with.
        note: why the confidence is low.
        heads: attention heads among the features it makes (queries' where packed) or reads, None where it has none.
        offset: constant added to the rows of a table that scale a norm's result.
        axes: the weight's axes where later ops tell more than its own (an axis of experts), else empty.
    """

    layer: Layer
    role: Role = Role.HIDDEN
    confidence: Confidence = Confidence.CERTAIN
    pieces: list[Piece] = field(default_factory=list)
    path: Path | None = None
    last: bool = False
    partner: Layer | None = None
    note: str = ""
    heads: int | None = None
    axes: str = ""
    offset: float = 0.0

    def part(self, first: int, size: int) -> LayerFacts:
        """What some of the features do by themselves: of a weight that is concatenated from several, one of those."""
        cut = [replace(p, mask=p.mask[first : first + size]) for p in self.pieces]
        cut = [p for p in cut if bool(p.mask.any())]
        if len(cut) == 1 and bool(cut[0].mask.all()):
            return replace(self, role=cut[0].role, pieces=[], heads=cut[0].heads)
        return replace(self, pieces=cut, heads=None if self.pieces else self.heads)


class LayerReader:
    """Gives every use of a weight its role."""

    def __init__(
        self, flow: Flow, residuals: Residuals, branches: Branches, attentions: Attentions, follower: Follower
    ) -> None:
        self.flow = flow
        self.residuals = residuals
        self.branches = branches
        self.attentions = attentions
        self.reaches = [follower.follow(layer) for layer in flow.layers]
        self.after_attention = self._after_attention()
        self.feeds = self._feeds()
        self.modulations = Modulations(flow, residuals, follower, self.feeds)
        self.lasts = {layer.index for end in branches.ends for layer in end.last}
        self.facts = [self._read(layer) for layer in flow.layers]
        self._gates()
        self._adapters()
        self._experts()
        self._loops()

    # ---- facts about values

    def _after_attention(self) -> dict[int, int | None]:
        """Values an attention's result reaches without a weight or a residual sum -> features of one head."""
        found = {value: self.attentions.result_widths.get(value) for value in self.attentions.results}
        passes = (Kind.CARRY, Kind.NORM, Kind.PRODUCT, Kind.JOIN, Kind.SUM, Kind.BEND, Kind.OTHER)
        for op in self.flow.graph.ops:
            passed = self.flow.kind_of(op) in passes and op.index not in self.residuals.joins
            source = next((s for s in self.flow.signals(op) if s in found), None) if passed else None
            if source is not None:
                for out in op.outputs:
                    found.setdefault(out, found[source])
        return {value: width for value, width in found.items() if value not in self.residuals.forks}

    def _feeds(self) -> list[bool]:
        """Per value: some weight lies downstream."""
        flow = self.flow
        feeds = [False] * len(flow.values)
        for op in reversed(flow.graph.ops):
            if flow.kind_of(op) is Kind.PURE:
                continue
            ahead = op.index in flow.layers_of or any(feeds[o] for o in op.outputs)
            if ahead:
                for source in flow.signals(op):
                    # A row picked by a whole number (the word chosen last) is no signal of what chose it.
                    dtype = flow.values[source].dtype
                    feeds[source] = dtype.is_floating_point or dtype.is_complex
        return feeds

    # ---- one layer

    def _read(self, layer: Layer) -> LayerFacts:
        facts = LayerFacts(layer, path=self.branches.path_of(layer.op))
        facts.last = layer.index in self.lasts
        reach = self.reaches[layer.index]
        op = self.flow.graph.ops[layer.op]
        if op.name in kinds.RECURRENT_LAYERS:
            self._recurrent(facts)
        elif self._is_lookup(layer):
            self._table(facts, reach)
        elif reach.has("score") and self._scores_a_query(layer):
            facts.role, facts.confidence = Role.RELATIVE_BIAS, Confidence.INFERRED
            facts.note = "rows that a query or a key is compared with: places, whose products are added to its scores"
        elif any(reach.has(n) for n in _ATTENTION_NAMES):
            self._attention(facts, reach)
        elif layer.index in self.branches.shortcuts:
            facts.role = Role.SHORTCUT
        elif self._is_router(layer, reach):
            facts.role = Role.ROUTER
        elif self._is_modulation(facts, reach):
            pass
        elif layer.reading.data[0] in self.after_attention:
            facts.role = Role.ATTN_OUT
            facts.heads = _whole_count(layer.reading.fan_in, self.after_attention[layer.reading.data[0]])
        elif facts.path is not None and layer in facts.path.layers:
            self._on_branch(facts)
        else:
            self._plain(facts, reach)
        if not facts.pieces:
            self._mixed_parts(facts, reach)
        return facts

    def _scores_a_query(self, layer: Layer) -> bool:
        """Its data is what attention compares: a query or a key, up to scales and views."""
        asked = self._behind_moves(layer.reading.data[0])
        entering = (v for (_, v), name in self.attentions.operands.items() if name != "value")
        return any(self._behind_moves(value) == asked for value in entering)

    def _behind_moves(self, value: int) -> int:
        """The value behind what only moves and scales."""
        for _ in range(_ROUTE):
            op = self.flow.producer(value)
            if op is None or self.flow.kind_of(op) is not Kind.CARRY or len(self.flow.signals(op)) != 1:
                return value
            value = self.flow.signals(op)[0]
        return value

    def _is_lookup(self, layer: Layer) -> bool:
        index = layer.reading.data[0]
        return not self.flow.values[index].dtype.is_floating_point and not self.flow.values[index].dtype.is_complex

    def _recurrent(self, facts: LayerFacts) -> None:
        position = self.flow.layers_of[facts.layer.op].index(facts.layer)
        facts.role = (Role.RECURRENT_INPUT, Role.RECURRENT_HIDDEN, Role.HIDDEN)[position]

    def _table(self, facts: LayerFacts, reach: Reach) -> None:
        flow, layer = self.flow, facts.layer
        index, rows = layer.reading.data[0], flow.values[layer.reading.weight].shape[0]
        shape = flow.values[index].shape
        if reach.has("score"):
            facts.role = Role.RELATIVE_BIAS
        elif not flow.from_batch[index]:
            # Rows picked by the model's own counting: at least as many as there are places, or it is a type table.
            places = shape[-1] if shape else 1
            facts.role = Role.POSITION if rows >= places and rows > 1 else Role.EMBEDDING
            facts.confidence = Confidence.INFERRED
        elif self._found_by_itself(index, layer.reading.weight):
            facts.role, facts.confidence = Role.LATENT, Confidence.INFERRED
            facts.note = "a codebook: what is looked up is chosen by its distance from the rows"
        elif self._counts_places(index):
            facts.role, facts.confidence = Role.POSITION, Confidence.INFERRED
        elif parts := self.modulations.per_class(reach):
            self._per_class(facts, parts)
        else:
            facts.role = Role.EMBEDDING

    def _per_class(self, facts: LayerFacts, parts: list[tuple[Role, float, torch.Tensor]]) -> None:
        facts.role = parts[0][0] if len(parts) == 1 else Role.NORM_SCALE
        facts.offset = next((offset for role, offset, _ in parts if role is Role.NORM_SCALE), 0.0)
        facts.confidence, facts.note = Confidence.INFERRED, "one row per class: scales or shifts what a norm gives"
        if len(parts) > 1:
            facts.pieces = [Piece(f"{role.value}_{i}", role, mask) for i, (role, _, mask) in enumerate(parts)]

    def _found_by_itself(self, index: int, table: int) -> bool:
        """Whether indices are chosen by comparing a signal with the very rows they point to."""
        own, todo, seen = self.flow.origins[table], [index], {index}
        while todo and len(seen) < _ROUTE:
            op = self.flow.producer(todo.pop())
            layers = self.flow.layers_of.get(op.index, ()) if op is not None else ()
            if op is None or any(self._is_lookup(layer) for layer in layers):
                continue
            if any(self.flow.origins[i] & own for i in op.inputs):
                return True
            fresh = set(op.inputs) - seen
            seen |= fresh
            todo += fresh
        return False

    def _counts_places(self, index: int) -> bool:
        """Whether indices come from a running count over the batch (positions of what is not padding)."""
        for _ in range(12):
            op = self.flow.producer(index)
            if op is None or not op.inputs:
                return False
            if op.name in ("cumsum", "arange"):
                return True
            index = max(op.inputs)
        return False

    def _attention(self, facts: LayerFacts, reach: Reach) -> None:
        masks = {n: reach.ends[(n,)] for n in _ATTENTION_NAMES if (n,) in reach.ends}
        names = list(masks)
        overlap = sum(m.to(torch.int8) for m in masks.values())
        total = len(next(iter(masks.values())))
        # Keys last: part of one may have come from elsewhere (a rotary part shared by all heads).
        telling = next(n for n in ("query", "value", "key") if n in masks)
        facts.heads = _whole_count(int(masks[telling].sum()), reach.widths.get(telling))
        if len(names) == 1:
            facts.role = Role(names[0])
            if not bool(masks[names[0]].all()):
                self._attention_pieces(facts, masks, total, reach)
        elif isinstance(overlap, torch.Tensor) and int(overlap.max()) > 1:
            facts.role = Role(names[-1]) if masks[names[0]].equal(masks[names[-1]]) else Role.QKV
            facts.confidence = Confidence.INFERRED
            facts.note = f"the same features serve as {' and '.join(names)}"
        else:
            facts.role = Role.QKV
            self._attention_pieces(facts, masks, total, reach)

    def _attention_pieces(self, facts: LayerFacts, masks: dict[str, torch.Tensor], total: int, reach: Reach) -> None:
        rest = torch.ones(total, dtype=torch.bool)
        for name, mask in masks.items():
            facts.pieces.append(Piece(name, Role(name), mask, _whole_count(int(mask.sum()), reach.widths.get(name))))
            rest &= ~mask
        if bool(rest.any()):
            facts.pieces.append(Piece("part_0", Role.HIDDEN, rest))
            facts.confidence = Confidence.INFERRED
            facts.note = f"only part of it makes the {' and '.join(masks)}"

    def _on_branch(self, facts: LayerFacts) -> None:
        path, layer = facts.path, facts.layer
        assert path is not None
        if self.branches.feed_forward[path.index]:
            level = self.branches.level_in(path, layer)
            facts.role = Role.MLP_OUT if facts.last else Role.MLP_IN if level == 1 else Role.HIDDEN
        elif facts.last:
            facts.role = Role.RESIDUAL_OUT
        elif self._reads_the_batch(layer):
            facts.role = Role.INPUT  # of a branch around the whole model (a denoiser's)
        else:
            facts.role = Role.HIDDEN

    def _reads_the_batch(self, layer: Layer) -> bool:
        return self.flow.depth[layer.output] == 1 and self.flow.from_batch[layer.reading.data[0]]

    def _plain(self, facts: LayerFacts, reach: Reach) -> None:
        layer = facts.layer
        if reach.has("output") and not self.feeds[layer.output] and not reach.has("join"):
            facts.role = Role.OUTPUT
        elif self._reads_the_batch(layer):
            facts.role = Role.INPUT
        else:
            facts.role = Role.HIDDEN

    # ---- routers, modulation, gates

    def _is_router(self, layer: Layer, reach: Reach) -> bool:
        """Its output is chosen from, and what is chosen multiplies other weights' outputs."""
        flow = self.flow
        todo, chosen = [(layer.output, False)], False
        seen: set[tuple[int, bool]] = set()
        while todo and len(seen) < _ROUTE:
            value, picked = todo.pop()
            if (value, picked) in seen:
                continue
            seen.add((value, picked))
            for op in flow.consumers(value):
                kind = flow.kind_of(op)
                if kind is Kind.CHOOSE or (op.name == "max" and any(flow.graph.consumers[o] for o in op.outputs[1:])):
                    chosen = True
                    todo += [(o, True) for o in op.outputs]
                elif kind is Kind.PRODUCT or (kind is Kind.MIX and (picked or chosen)):
                    others = [i for i in op.inputs if i != value and flow.depth[i] > flow.depth[layer.output]]
                    if (picked or chosen) and others:
                        return True
                    if not others:
                        todo += [(o, picked) for o in op.outputs]
                elif kind in _ROUTED and op.index not in self.residuals.joins:
                    todo += [(o, picked) for o in op.outputs]
        return False

    def _is_modulation(self, facts: LayerFacts, reach: Reach) -> bool:
        """It scales or shifts a stream it does not come from, the same for all places of the stream."""
        labels = self.modulations.by(facts.layer, reach)
        if not labels:
            return False
        facts.role = Role.MODULATION
        if not any(x[0] == "product" for x in labels):
            facts.confidence = Confidence.INFERRED
            facts.note = "adds the same vector to every place of a stream"
        parts = reach.parts()
        if len(parts) > 1:
            facts.pieces = [Piece(f"part_{i}", Role.MODULATION, mask) for i, (_, mask) in enumerate(parts)]
        return True

    def _gates(self) -> None:
        """Products of two maps of one input, one of them activated."""
        meets: dict[int, list[tuple[LayerFacts, Label, torch.Tensor]]] = {}
        for facts, reach in zip(self.facts, self.reaches, strict=True):
            for label in reach.labels("product"):
                meets.setdefault(label[1], []).append((facts, label, reach.ends[label]))
        for sides in meets.values():
            if len(sides) != 2 or sides[0][1][3] == sides[1][1][3]:
                continue
            (one, first, mask_one), (two, second, mask_two) = sides
            if first[2] == second[2]:
                if one is not two and self._one_input(one.layer, two.layer):
                    one.partner, two.partner = two.layer, one.layer
                continue
            gate, up = ((one, mask_one), (two, mask_two)) if first[2] else ((two, mask_two), (one, mask_one))
            if gate[0] is up[0]:
                self._fused_gate(gate[0], gate[1], up[1])
            elif self._one_input(one.layer, two.layer):
                gate[0].partner, up[0].partner = up[0].layer, gate[0].layer
                plain = (Role.HIDDEN, Role.MLP_IN, Role.INPUT)
                if gate[0].role in plain and up[0].role in plain:
                    gate[0].role, up[0].role = Role.MLP_GATE, Role.MLP_IN

    def _one_input(self, one: Layer, two: Layer) -> bool:
        a, b = (self.flow.root(x.reading.data[0]) for x in (one, two))
        shapes = [self.flow.values[x.output].shape for x in (one, two)]
        return a == b and shapes[0] == shapes[1]

    def _fused_gate(self, facts: LayerFacts, gate: torch.Tensor, up: torch.Tensor) -> None:
        if bool((gate & up).any()) or facts.role not in (Role.HIDDEN, Role.MLP_IN, Role.INPUT):
            return
        facts.role = Role.MLP_IN
        facts.pieces = [Piece("gate", Role.MLP_GATE, gate), Piece("up", Role.MLP_IN, up)]
        facts.pieces.sort(key=lambda p: int(p.mask.nonzero()[0]))
        rest = ~(gate | up)
        if bool(rest.any()):
            facts.pieces.append(Piece("part_0", Role.HIDDEN, rest))

    def _adapters(self) -> None:
        for first, second, beside in self.residuals.adapters:
            for layer, role in ((first, Role.ADAPTER_IN), (second, Role.ADAPTER_OUT)):
                facts = self.facts[layer.index]
                facts.role, facts.confidence = role, Confidence.CERTAIN
                facts.pieces = []
                facts.note = f"low-rank update beside {self.flow.graph.ops[beside.op].module}"

    def _experts(self) -> None:
        """An axis that a later weight keeps apart enumerates maps here too: every expert reads the same input."""
        for facts, reach in zip(self.facts, self.reaches, strict=True):
            own = facts.layer.reading
            if own.axes.count("o") < 2:
                continue
            shape = self.flow.values[own.weight].shape
            for label in reach.labels("layer"):
                for later in self.flow.layers_of[label[1]]:
                    kept = self.flow.values[later.reading.weight].shape
                    counts = {n for n, a in zip(kept, later.reading.axes, strict=True) if a == "b"}
                    first = own.axes.index("o")
                    if shape[first] in counts:
                        facts.axes = own.axes[:first] + "b" + own.axes[first + 1 :]

    def _loops(self) -> None:
        """Recurrences that are written out step by step."""
        inputs, states = find_recurrences(self.flow, self.residuals)
        for facts in self.facts:
            weight = facts.layer.reading.weight
            if facts.role not in (Role.HIDDEN, Role.INPUT) or weight not in inputs | states:
                continue
            facts.role = Role.RECURRENT_HIDDEN if weight in states else Role.RECURRENT_INPUT
            facts.confidence, facts.note = Confidence.INFERRED, "a step of a loop over the input"

    def _mixed_parts(self, facts: LayerFacts, reach: Reach) -> None:
        """Linear maps whose features go to different kinds of places (a state-space layer's x, z, dt, B, C)."""
        if not reach.split or "k" in facts.layer.reading.axes or self._is_lookup(facts.layer):
            return
        parts = reach.parts()
        kinds_of = [frozenset(label[0] for label in ends) for ends, _ in parts]
        if len(parts) < 2 or len(set(kinds_of)) < 2 or len(parts) > _MOST_PARTS:
            return
        facts.pieces = [Piece(f"part_{i}", facts.role, mask) for i, (_, mask) in enumerate(parts)]


def _whole_count(features: float, width: int | None) -> int | None:
    """Heads of ``width`` features each, None where they do not come out even."""
    return int(features // width) if width and features >= width and features % width == 0 else None


_MOST_PARTS = 16
"""More parts than this are heads or channels handled one by one, not maps of different purpose."""
