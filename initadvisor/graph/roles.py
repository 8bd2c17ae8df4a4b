"""Op graph to model spec: no list of architectures, no class names, only what the executed ops do with each tensor."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from initadvisor.graph import kinds
from initadvisor.graph.activations import find_bends
from initadvisor.graph.attention import find_attentions
from initadvisor.graph.axes import Tracer
from initadvisor.graph.branches import Branches, after_norm
from initadvisor.graph.dynamics import mark_dynamics
from initadvisor.graph.elementwise import ElementwiseReader
from initadvisor.graph.flow import Layer
from initadvisor.graph.kinds import Kind
from initadvisor.graph.layer_roles import LayerReader
from initadvisor.graph.lower import lower
from initadvisor.graph.neighbours import Neighbours, Side
from initadvisor.graph.norms import read_flow
from initadvisor.graph.opgraph import OpGraph
from initadvisor.graph.packing import Follower
from initadvisor.graph.residual import Ancestors, Residuals, find_residuals
from initadvisor.graph.spec import (
    Acting,
    Branch,
    Confidence,
    Coverage,
    CoverageGap,
    Layout,
    ModelSpec,
    ParamSpec,
    Place,
    Sides,
)
from initadvisor.graph.uses import Use, UseReader
from initadvisor.types import WEIGHT_ROLES, Role, Slice


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a parameter besides the ops.

    Attributes:
        shape, dtype: of the tensor.
        requires_grad: whether it is trained.
        quantized: it holds codes, not numbers.
        module_type: class name of its owner.
        torch_layer: the same where that class is torch's own, else empty.
        module_class: the same with the package it comes from.
        layout: what the type of that layer tells.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    quantized: bool
    module_type: str
    torch_layer: str = ""
    module_class: str = ""
    layout: Layout | None = None


_RANK = {
    Role.UNKNOWN: 0, Role.BIAS: 1, Role.TOKEN: 2, Role.SCALAR: 2, Role.ELEMENTWISE: 2, Role.NORM_SCALE: 3,
    Role.NORM_SHIFT: 3,
}  # fmt: skip
"""Of several uses the most telling decides; whatever is not listed tells most."""

_RANK_OF_A_CODEBOOK = 5
"""A table that is also compared with is no map, however often it is."""

_MOST_TELLING = 4

_OF_WEIGHTS = (Role.BIAS, Role.NORM_SCALE, Role.NORM_SHIFT, Role.STATE)
"""Roles of parameters that belong to a weight."""


def protection(facts: Facts) -> str | None:
    """Why a parameter must not be filled, None where it may be."""
    if facts.quantized:
        return "quantized"
    if not (facts.dtype.is_floating_point or facts.dtype.is_complex):
        return "integer"
    return None if facts.requires_grad else "frozen"


def fingerprint_of(params: tuple[ParamSpec, ...]) -> str:
    """Hash of paths, shapes and roles."""
    lines = "\n".join(f"{p.path} {tuple(p.shape)} {p.role.value}" for p in params)
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_roles(graph: OpGraph, facts: Mapping[str, Facts], mean: Callable[[str], float | None]) -> ModelSpec:
    """The whole reading of a recorded forward pass.

    Args:
        graph: as :func:`initadvisor.graph.capture.capture` gives it.
        facts: of every parameter, tied names included, in the model's order.
        mean: mean value of a parameter by path, None where it cannot be read.
    """
    return _Reader(lower(graph), facts, mean).spec()


class _Reader:
    """All the readings of one graph, in the order they build on each other."""

    def __init__(self, graph: OpGraph, facts: Mapping[str, Facts], mean: Callable[[str], float | None]) -> None:
        self.facts = facts
        self.graph = graph
        self.flow = flow = read_flow(graph)
        self.bends = find_bends(flow, mean)
        self.residuals: Residuals = find_residuals(flow, self.bends)
        attentions = find_attentions(flow, self.residuals)
        self.neighbours = Neighbours(flow, self.bends, self.residuals)
        self.branches = Branches(flow, self.bends, self.residuals)
        follower = Follower(flow, self.bends, self.residuals, attentions)
        self.layers = LayerReader(flow, self.residuals, self.branches, attentions, follower)
        tracer = Tracer(flow)
        others = ElementwiseReader(flow, self.bends, self.branches, attentions, self.neighbours)
        self.uses = UseReader(flow, self.layers, others, tracer).read()
        mark_dynamics(flow, self.bends, self.uses)
        self.first_path: dict[int, str] = {}
        for path, value in graph.parameters.items():
            self.first_path.setdefault(value, path)
        self._names = Counter(graph.parameters.values())
        weights = {
            layer.index: origins[0].parameter
            for layer in flow.layers
            if (origins := tracer.origins(layer.reading.weight))
        }
        self._weight_paths = {index: self.first_path[value] for index, value in weights.items()}
        own = self._own_names()
        self._own_paths = {
            index: own.get((value, graph.ops[flow.layers[index].op].module), self.first_path[value])
            for index, value in weights.items()
        }

    def _own_names(self) -> dict[tuple[int, str], str]:
        """Names of tied parameters by their value and the module that holds them under that name."""
        tied = ((path, value) for path, value in self.graph.parameters.items() if self._names[value] > 1)
        return {(value, path.rpartition(".")[0]): path for path, value in tied}

    def spec(self) -> ModelSpec:
        params = tuple(self._param(path) for path in self.facts)
        branches = self._branches({p.path: p for p in params})
        ends = [self.flow.depth[v] for v in self.graph.outputs]
        return ModelSpec(
            params=params,
            branches=branches,
            depth=max(ends, default=0),
            coverage=self._coverage(params),
            fingerprint=fingerprint_of(params),
            residual_depth=self._residual_depth(),
            output_classes=self._classes(),
            custom_activations=dict(self.bends.custom),
        )

    # ---- parameters

    def _param(self, path: str) -> ParamSpec:
        value, facts = self.graph.parameters[path], self.facts[path]
        uses = self.uses.get(value, [])
        first = self.first_path[value]
        base = ParamSpec(
            path,
            facts.shape,
            facts.dtype,
            Role.UNUSED,
            tied_to=None if first == path else first,
            protected=protection(facts),
            uses=len({u.op for u in uses}),
            module_type=facts.module_type,
            torch_layer=facts.torch_layer,
            module_class=facts.module_class,
            layout=facts.layout,
        )
        if not uses:
            return base
        return self._described(base, self._telling(path, uses), uses)

    def _telling(self, path: str, uses: list[Use]) -> Use:
        """Of several uses: the one by the path's own module, then the most telling, the most frequent, the first."""
        owner = path.rpartition(".")[0]
        often = Counter(u.role for u in uses)
        tied = self._names[uses[0].parameter] > 1

        def rank(use: Use) -> tuple[bool, int, int, int]:
            own = tied and use.op >= 0 and self.graph.ops[use.op].module == owner
            rank_of_role = _RANK.get(use.role, _MOST_TELLING)
            if use.role is Role.LATENT and use.facts is not None:
                rank_of_role = _RANK_OF_A_CODEBOOK
            return own, rank_of_role, often[use.role], -use.op

        return max(uses, key=rank)

    def _described(self, base: ParamSpec, use: Use, uses: list[Use]) -> ParamSpec:
        layer = use.facts.layer if use.facts is not None else use.weight
        role, slices = self._merged(use, uses)
        fans = use.fans if use.fans is None or not slices else replace(use.fans, fan_out=slices[0].fans.fan_out)
        op_name = self.graph.ops[use.op].name if use.op >= 0 else "return"
        return base.told(
            self._place(use, layer),
            self._sides(use, role),
            Acting(use.factor, use.acts_through, use.offset),
            role=role,
            fan_in=fans.fan_in if fans is not None else 0.0,
            fan_out=fans.fan_out if fans is not None else 0.0,
            fans=fans,
            slices=slices,
            confidence=use.confidence,
            op=op_name.removesuffix("_layer") if op_name in kinds.RECURRENT_LAYERS else op_name,
            note=use.note,
            heads=use.facts.heads if use.facts is not None and use.weight is None else None,
        )

    def _place(self, use: Use, layer: Layer | None) -> Place:
        flow = self.flow
        depth = 0 if use.signal is None else flow.depth[use.signal]
        if layer is not None:
            depth = flow.depth[layer.output]
        branch = self.branches.path_of(use.op) if use.op >= 0 else None
        last, scale = self._ending(use, layer, branch)
        return Place(depth, branch.index if branch is not None else None, last, scale)

    def _sides(self, use: Use, role: Role) -> Sides:
        ahead = self.neighbours.ahead(use.result) if use.result is not None else Side()
        behind = self.neighbours.behind[use.signal] if use.signal is not None else Side()
        is_weight = use.facts is not None and use.weight is None
        partner = use.facts.partner if use.facts is not None else None
        acts = use.role in WEIGHT_ROLES or use.role in _OF_WEIGHTS
        if not is_weight:
            behind, ahead = Side(), replace(ahead, norm=None) if acts else Side()
        return Sides(
            activation=ahead.activation,
            activation_args=ahead.args,
            norm_after=ahead.norm,
            input_activation=behind.activation,
            input_activation_args=behind.args,
            norm_before=behind.norm,
            gate_partner=self._weight_paths.get(partner.index) if partner is not None else None,
            bias_of=self._owner(use) if role in _OF_WEIGHTS else None,
        )

    def _owner(self, use: Use) -> str | None:
        """Path of the weight a bias or a norm belongs to."""
        if use.owner is not None:
            return self.first_path[use.owner]
        return None if use.weight is None else self._own_paths.get(use.weight.index)

    def _ending(self, use: Use, layer: Layer | None, branch: object) -> tuple[bool, str | None]:
        """Whether a parameter's result is what its branch adds, and the factor that multiplies the branch."""
        if branch is None:
            return False, None
        path = self.branches.path_of(use.op)
        assert path is not None
        end = self.branches.ends[path.index]
        scale = self._path_of_operand(end.scales[0]) if end.scales else None
        if use.role in (Role.NORM_SCALE, Role.NORM_SHIFT):
            return end.norm is not None and self._normed_by(use) == end.norm, None
        if use.role is Role.BRANCH_SCALE:
            return use.op in self.branches.ending_scales, None
        is_last = layer is not None and any(last.index == layer.index for last in end.last)
        return is_last, scale if is_last or use.facts is not None else None

    def _normed_by(self, use: Use) -> int | None:
        """The norm a scale or shift belongs to."""
        if use.op in self.flow.norms:
            return use.op
        return after_norm(self.flow, self.graph.ops[use.op])

    def _path_of_operand(self, op: int) -> str | None:
        pure = self.flow.pure_operand(self.graph.ops[op])
        if pure is None:
            return None
        origins = sorted(self.flow.origins[pure])
        return self.first_path[origins[0]] if origins else None

    def _merged(self, use: Use, uses: list[Use]) -> tuple[Role, tuple[Slice, ...]]:
        """Role and parts of a tensor whose rows are used in several places (packed projections of cross-attention)."""
        found: dict[tuple[tuple[int, int], ...], Slice] = {}
        for other in uses:
            for part in other.slices:
                if use.slices and part.dim == use.slices[0].dim:
                    found.setdefault(part.ranges, part)
        parts = tuple(sorted(found.values(), key=lambda s: s.ranges))
        names = {p.name for p in parts}
        if parts == use.slices or len(names) < len(parts):
            return use.role, use.slices
        attention = {"query", "key", "value"}
        return (Role.QKV if len(names & attention) > 1 and use.facts is not None else use.role), parts

    # ---- the model

    def _branches(self, params: dict[str, ParamSpec]) -> tuple[Branch, ...]:
        found = []
        for path in self.residuals.paths:
            end = self.branches.ends[path.index]
            layers = sorted((*path.layers, *path.side_layers), key=lambda x: x.index)
            weights = [self._weight_paths.get(x.index) for x in layers]
            last = [self._weight_paths.get(x.index) for x in end.last]
            found.append(
                Branch(
                    index=path.index,
                    params=tuple(dict.fromkeys(w for w in weights if w is not None)),
                    length=self.branches.lengths[path.index],
                    last=tuple(dict.fromkeys(w for w in last if w is not None)),
                    last_norm=self._last_norm(end.norm),
                    scale=self._path_of_operand(end.scales[0]) if end.scales else None,
                    constant=end.constant,
                    style=self.branches.style(path),
                    parallel=self._parallel(path.index),
                )
            )
        return tuple(found)

    def _last_norm(self, norm: int | None) -> str | None:
        """Path of the scale that belongs to a norm."""
        if norm is None:
            return None
        for uses in self.uses.values():
            for use in uses:
                if use.role is Role.NORM_SCALE and use.op >= 0 and self._normed_by(use) == norm:
                    return self.first_path[use.parameter]
        return None

    def _parallel(self, index: int) -> tuple[int, ...]:
        """Branches from the same fork that are added to one stream and do not contain each other."""
        own = self.residuals.paths[index]
        return tuple(
            other.index
            for other in self.residuals.paths
            if other.index != index
            and other.fork == own.fork
            and other.join not in own.ops
            and own.join not in other.ops
            and self._one_stream(own.join, other.join)
        )

    def _one_stream(self, join: int, other: int) -> bool:
        """Whether two sums are one, or one goes on to the other with no weight between: not those of two towers."""
        earlier, later = (self.graph.ops[i].outputs[0] for i in sorted((join, other)))
        return Ancestors(self.flow, later).has(earlier) is False

    def _residual_depth(self) -> int:
        flow = self.flow
        count = [0] * len(flow.values)
        for op in self.graph.ops:
            if flow.kind_of(op) is Kind.PURE:
                continue
            level = max((count[s] for s in flow.signals(op)), default=0)
            paths = self.residuals.joins.get(op.index)
            if paths and not any(self.residuals.paths[i].join < op.index for i in self._parallel(paths[0].index)):
                level += 1  # of branches side by side that are added one by one, the first counts
            for out in op.outputs:
                count[out] = level
        return max((count[v] for v in self.graph.outputs), default=0)

    def _classes(self) -> int | None:
        heads = [f.layer for f in self.layers.facts if f.role is Role.OUTPUT]
        for value in self.graph.outputs:
            made = [h for h in heads if self.flow.depth[h.output] == self.flow.depth[value] and h.reading.out_axes]
            if made:
                return int(self.graph.values[made[-1].output].shape[made[-1].reading.out_axes[0]])
        return None

    def _coverage(self, params: tuple[ParamSpec, ...]) -> Coverage:
        own = [p for p in params if self.facts[p.path].requires_grad and p.tied_to is None]
        unknown = tuple(CoverageGap(p.path, p.op, p.note) for p in own if p.role is Role.UNKNOWN)
        unused = tuple(p.path for p in own if p.role is Role.UNUSED)
        opaque = {
            op.name
            for op in self.graph.ops
            if self.flow.kind_of(op) is Kind.OTHER
            and op.name not in kinds.KNOWN
            and any(self.flow.depth[s] for s in self.flow.signals(op))
            and any(self.flow.is_live(o) for o in op.outputs)
        }
        return Coverage(
            total=len(own),
            understood=len(own) - len(unknown) - len(unused),
            unknown=unknown,
            unused=unused,
            weak=tuple(p.path for p in own if p.confidence is Confidence.WEAK and p.role is not Role.UNKNOWN),
            opaque_ops=tuple(sorted(opaque)),
        )
