"""What the analysis says about a model: frozen values, read by rules, reports and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import torch

from initadvisor.types import Fans, Role, Slice


class Confidence(StrEnum):
    """How sure the analysis is of a role. Rules treat anything but ``CERTAIN`` conservatively, never with zeros."""

    CERTAIN = "certain"  # the executed ops allow no other reading
    INFERRED = "inferred"  # follows from the surroundings by a rule that has exceptions
    WEAK = "weak"  # a guess, and said so


NORMALISED = "norm"
"""``ParamSpec.acts_through`` of a weight whose size plays no part: it is divided by what grows with it."""


class NormStyle(StrEnum):
    """Where normalisation sits relative to a residual branch."""

    PRE_NORM = "pre_norm"
    POST_NORM = "post_norm"
    INNER_NORM = "inner_norm"  # inside the branch, as in a BatchNorm ResNet
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the type of torch's own layer tells of a parameter without running anything.

    Attributes:
        fans: connection counts; of a packed tensor those of one part, of a bias those of its weight.
        slices: the parts of a packed tensor.
    """

    fans: Fans
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the model a parameter acts: attributes of :class:`ParamSpec` of the same names."""

    depth: int = 0
    branch: int | None = None
    branch_last: bool = False
    branch_scale: str | None = None


@dataclass(frozen=True, slots=True)
class Sides:
    """What lies before and behind a parameter: attributes of :class:`ParamSpec` of the same names."""

    activation: str = "none"
    activation_args: tuple[tuple[str, float], ...] = ()
    norm_after: str | None = None
    input_activation: str = "none"
    input_activation_args: tuple[tuple[str, float], ...] = ()
    norm_before: str | None = None
    gate_partner: str | None = None
    bias_of: str | None = None


@dataclass(frozen=True, slots=True)
class Acting:
    """How a parameter enters what it does: attributes of :class:`ParamSpec` of the same names."""

    factor: float = 1.0
    acts_through: str | None = None
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One parameter as the executed ops use it.

    Attributes:
        path: dotted name as in ``model.named_parameters()``; of tied parameters the first.
        shape: sizes of the tensor.
        dtype: its element type.
        role: what it does.
        fan_in, fan_out: connection counts by use; of a packed tensor those of one part; 0 where they mean nothing.
        slices: the parts of a packed tensor, empty otherwise.
        activation: name of the nonlinearity its output meets next, through bias, norm, dropout, pooling and reshape;
            ``"none"`` where there is none.
        norm_before: the normalisation op its input comes from (``"layer_norm"``), or None.
        norm_after: the normalisation op between its output and the next nonlinearity or sum, or None.
        branch: index into ``ModelSpec.branches``, or None for what is not on a residual branch.
        branch_last: its output is what the branch adds to the stream (of a norm scale: the norm ends the branch).
        depth: 1-based count of weight layers on the longest path from the input up to and with this one; biases and
            norm parameters carry that of the weight before them (0 where no weight comes before).
        tied_to: path of the first parameter that shares its storage, or None.
        protected: why it must not be filled (``"frozen"``, ``"integer"``, ``"quantized"``, ``"user"``), or None.
        confidence: how sure the role is.
        op: canonical name of the op that consumes it (``"linear"``, ``"conv2d"``, ``"lstm"``, ``"einsum"``).
        fans: connection counts together with the axes they belong to; None where they mean nothing.
        activation_args: constants of the activation (``(("negative_slope", 0.2),)``, ``(("omega", 30.0),)``).
        input_activation: name of the nonlinearity its input has just been through, or ``"none"``.
        input_activation_args: its constants.
        gate_partner: path of the weight whose output multiplies this one's, or None.
        bias_of: for biases: path of the weight; for norm parameters: the weight whose output is normalised.
        branch_scale: path of the LayerScale or ReZero factor that multiplies this branch, or None.
        uses: how many times the forward pass used it (shared modules).
        module_type: class name of the owning module, for display.
        torch_layer: the same where the class is torch's own (``"Linear"`` of ``torch.nn``), which says what its
            ``reset_parameters`` draws; empty for classes of the user's, whatever they are called. Never for roles.
        module_class: the same class with the package it comes from (``"torch.nn.modules.linear.Linear"``), which tells
            torch's own from a class of the same name.
        layout: what the type of its layer tells, whatever the ops show; None where the layer is not torch's own.
            Recipes go by it, so that they mean the same with a batch and without.
        note: a remark for the report (why the confidence is low, what was assumed).
        heads: attention heads among the features the weight makes (query, key, value; of a packed weight its queries')
            or reads (output projection); None where no attention shows any.
        offset: of a norm scale: the constant added to it before use (1.0 in ``(1 + w)·x``, where zero is neutral).
        factor: constant by which the forward pass multiplies the tensor (or, of a table, the rows it gives): what acts
            is ``factor`` times the tensor (equalised learning rates, Karras et al. 2018; embeddings times √width).
        acts_through: what becomes of the tensor before it acts, None where it acts as it is, but for ``factor``:
            ``"norm"`` where its size plays no part (weight norms, spectral norms, standardised and demodulated weights:
            zeros make NaN), else the name of a function its entries pass (``"softplus"``).
    """

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    role: Role
    fan_in: float = 0.0
    fan_out: float = 0.0
    slices: tuple[Slice, ...] = ()
    activation: str = "none"
    norm_before: str | None = None
    norm_after: str | None = None
    branch: int | None = None
    branch_last: bool = False
    depth: int = 0
    tied_to: str | None = None
    protected: str | None = None
    confidence: Confidence = Confidence.CERTAIN
    op: str = ""
    fans: Fans | None = None
    activation_args: tuple[tuple[str, float], ...] = ()
    input_activation: str = "none"
    input_activation_args: tuple[tuple[str, float], ...] = ()
    gate_partner: str | None = None
    bias_of: str | None = None
    branch_scale: str | None = None
    uses: int = 1
    module_type: str = ""
    torch_layer: str = ""
    note: str = ""
    offset: float = 0.0
    heads: int | None = None
    module_class: str = ""
    layout: Layout | None = field(default=None, compare=False)  # follows from the rest; not saved with it
    factor: float = 1.0
    acts_through: str | None = None

    def told(self, *parts: Place | Sides | Acting, **more: Any) -> ParamSpec:
        """The same parameter with what was found out about it.

        Args:
            parts: attributes that belong together.
            more: single ones.

        Example:
            >>> weight = ParamSpec("0.weight", (4, 3), torch.float32, Role.HIDDEN)
            >>> weight.told(Place(depth=2), Sides(activation="relu"), fan_in=3.0).activation
            'relu'
        """
        found = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}
        return replace(self, **found, **more)

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Branch:
    """One residual branch: what is computed between a fork of the stream and the sum that joins it again.

    Attributes:
        index: position in ``ModelSpec.branches``, in execution order.
        params: paths of the weights on the branch, in execution order.
        length: weight layers along its longest path (Fixup's ``m``).
        last: paths of the weights whose output reaches the sum with no other weight between.
        last_norm: path of the norm scale that ends the branch, or None.
        scale: path of a learned factor on the branch (LayerScale, ReZero), or None.
        constant: fixed factor on the branch, 1.0 where there is none.
        style: where normalisation sits.
        parallel: indices of branches that join the stream from the same fork (attention and MLP side by side).
    """

    index: int
    params: tuple[str, ...]
    length: int
    last: tuple[str, ...]
    last_norm: str | None = None
    scale: str | None = None
    constant: float = 1.0
    style: NormStyle = NormStyle.NONE
    parallel: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CoverageGap:
    """A parameter the analysis did not understand, with the op that used it."""

    path: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was and what was not understood; heads every report.

    Attributes:
        total: trainable parameters (tensors) of the model.
        understood: those with a role other than unknown or unused.
        unknown: the others, each with its op.
        unused: parameters no executed op touched in this forward pass.
        weak: parameters whose role is a weak guess.
        opaque_ops: names of ops on the path of weights whose effect on the signal is not known.
    """

    total: int
    understood: int
    unknown: tuple[CoverageGap, ...] = ()
    unused: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()
    opaque_ops: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True where every trainable parameter has a role."""
        return not self.unknown and not self.unused


QUIET_ROLES = frozenset({Role.BIAS, Role.NORM_SCALE, Role.NORM_SHIFT})
"""Roles that are counted instead of listed: there are many and they are nearly always the same."""


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """The whole reading of a model; printed, a line for each weight.

    Attributes:
        params: every parameter, in ``named_parameters(remove_duplicate=False)`` order; of tied parameters the later
            ones have ``tied_to`` set.
        branches: residual branches in execution order.
        depth: weight layers on the longest path from input to output.
        coverage: what was not understood.
        fingerprint: hash of paths, shapes and roles; equal for two instances of one architecture.
        residual_depth: number of branches on the longest path (GPT-2's 2L).
        output_classes: number of features the output layer makes, None where no output layer was found.
        custom_activations: callables for activations that have no standard name, by the name used in ``activation``.
    """

    params: tuple[ParamSpec, ...]
    branches: tuple[Branch, ...]
    depth: int
    coverage: Coverage
    fingerprint: str
    residual_depth: int = 0
    output_classes: int | None = None
    custom_activations: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __repr__(self) -> str:
        """What was read and how far, in one line; the fields themselves would fill a screen many times over."""
        known = f"{self.coverage.understood} of {self.coverage.total} parameters understood"
        return f"<{type(self).__name__} {self.fingerprint}: {known}, {self.depth} deep, {len(self.branches)} branches>"

    def __str__(self) -> str:
        heads = ("parameter", "shape", "role", "fan in", "fan out", "activation", "branch")
        rows: list[tuple[str, ...]] = [heads]
        for p in self.params:
            if p.role not in QUIET_ROLES and p.tied_to is None:
                sure = "" if p.confidence is Confidence.CERTAIN else f" ({p.confidence})"
                fans = (f"{fan:g}" if fan else "" for fan in (p.fan_in, p.fan_out))
                branch = "" if p.branch is None else str(p.branch)
                shape = "×".join(map(str, p.shape)) or "1"
                rows.append((p.path, shape, f"{p.role}{sure}", *fans, p.activation, branch))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join((repr(self), *lines))

    @cached_property
    def _by_path(self) -> dict[str, ParamSpec]:
        return {p.path: p for p in self.params}

    def __getitem__(self, path: str) -> ParamSpec:
        """The parameter at ``path``; KeyError where there is none."""
        return self._by_path[path]

    def __contains__(self, path: object) -> bool:
        return path in self._by_path

    def first_name(self, path: str) -> str:
        """The name under which the tensor at ``path`` comes first in the model: its own, unless it is tied."""
        return self[path].tied_to or path

    @property
    def fillable(self) -> tuple[ParamSpec, ...]:
        """Parameters a scheme may fill: neither protected nor a second name of a tied tensor."""
        return tuple(p for p in self.params if p.protected is None and p.tied_to is None)

    def with_role(self, *roles: Role) -> tuple[ParamSpec, ...]:
        """Parameters that have one of ``roles``, in model order."""
        return tuple(p for p in self.params if p.role in roles)
