"""INI104–108: units that cannot become different, and zeros that no gradient passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from initadvisor.checks.context import CheckContext, rows_of, units_first
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.checks.statistics import statistics_of
from initadvisor.graph.spec import Confidence, ParamSpec
from initadvisor.types import NO_ACTIVATION, WEIGHT_ROLES, Role

FLAT_AT_ZERO = frozenset({"relu", "relu6", "relu_squared", "threshold", "hardshrink", "softshrink", "square"})
"""Activations whose slope at zero is zero: a zero weight in front of them never moves."""

ZERO_ON_PURPOSE = frozenset(
    {Role.OUTPUT, Role.ADAPTER_OUT, Role.MODULATION, Role.ROUTER, Role.QUERY, Role.BIAS, Role.RECURRENT_HIDDEN}
)
"""Roles that published schemes start at zero (heads, LoRA, adaLN, muP), where the first step mends it."""

DISTINCT_SHARE = 0.5
"""Share of distinct values above which a tensor was drawn; identities, Hadamard and sign matrices have few."""

DISTINCT_SAMPLE = 1024
"""Values looked at for that."""

SAME = 1e-4
"""Distance of two projections, relative to their RMS, below which rows are compared element by element."""


def _zero_or_constant(context: CheckContext) -> Iterator[Hit]:
    for param in context.params:
        if param.role not in WEIGHT_ROLES or len(param.shape) < 2 or not context.finite(param.path):
            continue
        s = context.statistics(param.path)
        if not s.constant or param.numel < 2:
            continue
        if not s.zero:
            yield from _constant(context, param)
            continue
        if param.role in ZERO_ON_PURPOSE or _ends_branch(context, param) or param.gate_partner is not None:
            continue
        # What stays without gradient after several steps is stuck; all else is a question of what it was meant for.
        stuck = context.stuck(param.path) and context.figures.gradients.get(param.path) is not None
        slope = param.activation in FLAT_AT_ZERO and param.norm_after is None
        why = f", {param.activation} has no slope at zero" if slope else ""
        told = f"{why}, and no gradient arrives in the steps after: it never moves" if stuck else ""
        # Beside a skip path a zero map is a choice (ControlNet's); on the only path it stops the signal.
        mild = Severity.INFO if context.spec.branches else Severity.WARNING
        certain = stuck and param.confidence is Confidence.CERTAIN
        yield Hit((param.path,), f"all {s.count} weights are zero{told}", severity=Severity.ERROR if certain else mild)


def _constant(context: CheckContext, param: ParamSpec) -> Iterator[Hit]:
    """One repeated value: equal units, unless each of them reads something else or is taught something else."""
    if param.fan_out <= 1 or not _groups_see_the_same(param):
        return
    s = context.statistics(param.path)
    together = context.figures.alike.get(param.path)
    severity = _symmetry(context, param)
    if severity is Severity.INFO:
        yield Hit(
            (param.path,), f"all {s.count} weights are {s.low:.4g}; its units are taught apart", severity=severity
        )
        return
    also = ", and their gradients are equal, too" if together else ""
    yield Hit(
        (param.path,), f"all {s.count} weights are {s.low:.4g}: every unit computes the same{also}", severity=severity
    )


def _symmetry(context: CheckContext, param: ParamSpec) -> Severity:
    """How bad equal units are: they stay equal where their gradients are; else it matters what follows.

    Behind a nonlinearity equal units are one unit, which is never meant. A linear map of equal rows is a mean, which
    may be (1/length for a moving average), and whatever reads it teaches its rows apart.
    """
    if context.figures.alike.get(param.path) is False and param.activation == NO_ACTIVATION:
        return Severity.INFO
    return Severity.ERROR if param.confidence is Confidence.CERTAIN else Severity.WARNING


def _ends_branch(context: CheckContext, param: ParamSpec) -> bool:
    branch = context.branch_of(param)
    return param.branch_last or (branch is not None and param.path in branch.last)


def duplicate_rows(rows: torch.Tensor) -> tuple[int, int]:
    """How many rows repeat an earlier one, and how many rows there are; rows of one repeated value count as different.

    Args:
        rows: ``(units, weights per unit)``.

    Example:
        >>> duplicate_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [0.0, 0.0]]))
        (1, 4)
    """
    matrix = rows if rows.dtype is torch.float64 else rows.float()
    if matrix.shape[0] < 2:
        return 0, matrix.shape[0]
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(matrix.shape[1], 2, generator=generator).to(matrix)
    seen = matrix @ directions
    order = torch.argsort(seen[:, 0])
    near = seen[order].diff(dim=0).abs() <= SAME * seen.square().mean(dim=0).sqrt()
    (candidates,) = torch.nonzero(near.all(dim=1), as_tuple=True)
    these, those = matrix[order[candidates]], matrix[order[candidates + 1]]
    same = (these == those).all(dim=1)
    # Rows of one value are mostly zero on purpose: padding, pruned units, unused classes.
    same &= (these != these[:, :1]).any(dim=1)
    return int(same.sum()), matrix.shape[0]


def _symmetric(context: CheckContext) -> Iterator[Hit]:
    for param in context.params:
        table = param.role is Role.EMBEDDING
        if not (table or param.role in WEIGHT_ROLES) or len(param.shape) < 2 or not context.finite(param.path):
            continue
        if context.statistics(param.path).constant or not _groups_see_the_same(param):
            continue
        tensor = context.tensors[param.path]
        rows = tensor.reshape(tensor.shape[0], -1) if table else units_first(tensor, param)
        if rows.shape[1] < 2:
            continue
        repeated, units = duplicate_rows(rows)
        if not repeated:
            continue
        what = "rows" if table else "units"
        every = repeated == units - 1
        yield Hit(
            (param.path,),
            f"{repeated} of {units} {what} repeat another one exactly",
            severity=_symmetry(context, param) if every and not table else Severity.WARNING,
            weight=repeated / units,
        )


def _groups_see_the_same(param: ParamSpec) -> bool:
    """In a grouped convolution equal filters are no symmetry: each group reads other channels."""
    return param.fans is None or param.fans.groups == 1


def _drawn(tensor: torch.Tensor) -> bool:
    """Random, not a pattern that every layer shares for a reason."""
    sample = tensor.reshape(-1)[:DISTINCT_SAMPLE]
    return len(set(sample.tolist())) > DISTINCT_SHARE * sample.numel()


def _clones(context: CheckContext) -> Iterator[Hit]:
    groups: dict[tuple[object, ...], list[str]] = {}
    for param in context.params:
        if (param.role not in WEIGHT_ROLES and param.role is not Role.EMBEDDING) or param.numel < 16:
            continue
        s = context.statistics(param.path)
        if s.finite and not s.constant:
            groups.setdefault((param.shape, s.mean, s.std, s.low, s.high), []).append(param.path)
    found: list[list[str]] = []
    for paths in groups.values():
        first = context.tensors[paths[0]]
        same = [p for p in paths if p == paths[0] or torch.equal(context.tensors[p], first)]
        if len(same) > 1 and _drawn(first):
            found.append(same)
    if found:
        copies = max(len(same) for same in found)
        yield Hit(
            tuple(path for same in found for path in same),
            f"{len(found)} random tensor{'s' if len(found) > 1 else ''} come in up to {copies} exact copies "
            f"({found[0][0]} = {found[0][1]})",
        )


def _blocked_pairs(context: CheckContext) -> Iterator[tuple[str, str]]:
    """Pairs of zero factors of one product, by the structure."""
    for branch in context.spec.branches:
        gates = [g for g in (branch.scale, _zero_scale(context, branch.last_norm)) if context.is_zero(g)]
        ends = [w for w in branch.last if _silent(context, w)]
        factors = [*gates, *ends[:1]]
        if len(factors) > 1:
            yield factors[0], factors[1]  # type: ignore[misc]
        yield from _pairs_within(context, branch.params)
    for param in context.params:
        partner = param.gate_partner
        if partner is not None and param.path < partner and context.is_zero(param.path) and context.is_zero(partner):
            yield param.path, partner
    for inner in context.with_role(Role.ADAPTER_IN):
        for outer in context.with_role(Role.ADAPTER_OUT):
            if _siblings(inner.path, outer.path) and context.is_zero(inner.path) and context.is_zero(outer.path):
                yield inner.path, outer.path


def _zero_scale(context: CheckContext, path: str | None) -> str | None:
    """A norm scale whose zero is a zero: of ``(1 + w)·x`` it is not."""
    return path if path is not None and path in context.spec and context.spec[path].offset == 0 else None


def _silent(context: CheckContext, path: str) -> bool:
    """A weight and its biases are zero: what it makes is zero."""
    return context.is_zero(path) and all(context.is_zero(b.path) for b in context.biases_of(path))


def _siblings(a: str, b: str) -> bool:
    """Two adapters of one layer: their paths agree up to the names that tell in from out."""
    left, right = a.split("."), b.split(".")
    return len(left) == len(right) and sum(x != y for x, y in zip(left, right, strict=True)) == 1


_PRODUCTS = ((Role.QUERY, Role.KEY), (Role.VALUE, Role.ATTN_OUT), (Role.MLP_IN, Role.MLP_OUT))


def _pairs_within(context: CheckContext, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    zero: dict[Role, str] = {}
    for path in paths:
        param = context.spec[path]
        if path not in context.tensors or not context.finite(path):
            continue
        if param.slices:
            tensor = context.tensors[path]
            for part in param.slices:
                if statistics_of(rows_of(tensor, part)).zero:
                    zero.setdefault(part.role, path)
        elif _silent(context, path):
            zero.setdefault(param.role, path)
    for first, second in _PRODUCTS:
        if first in zero and second in zero:
            yield zero[first], zero[second]


def _two_zeros(context: CheckContext) -> Iterator[Hit]:
    grads = context.figures.gradients
    told: set[tuple[str, str]] = set()
    for pair in _blocked_pairs(context):
        if pair in told or any(p in grads and context.moves(p) for p in pair):
            continue
        told.add(pair)
        measured = ", and both gradients stay exactly zero" if all(p in grads for p in pair) else ""
        counts = " and ".join(f"{context.statistics(p).count:,}" for p in pair)
        yield Hit(pair, f"{pair[0]} and {pair[1]} multiply each other, and all {counts} values are zero{measured}")
    yield from _blocked_modulation(context, told)


def _blocked_modulation(context: CheckContext, told: set[tuple[str, str]]) -> Iterator[Hit]:
    """A zero modulation (adaLN) whose branch ends in a zero weight: only the gradients can tell that they meet."""
    grads = context.figures.gradients
    zero = [p.path for p in context.with_role(Role.MODULATION) if context.is_zero(p.path)]
    stuck = [p for p in zero if p in grads and not context.moves(p)]
    ends = [
        w for b in context.spec.branches for w in b.last if w in grads and _silent(context, w) and not context.moves(w)
    ]
    if stuck and ends and any(g for g in grads.values()):
        yield Hit((*stuck, *ends), f"the modulation {stuck[0]} and {ends[0]} are both zero, and so both gradients stay")


def _passed_by(context: CheckContext, scale: ParamSpec) -> bool:
    """A gradient in front of the scale proves a way around it (ConvNeXt-2 adds the input of its response norm)."""
    branch = context.branch_of(scale)
    paths = [p.path for p in context.params if p.role in WEIGHT_ROLES] if branch is None else branch.params
    before = [p for p in paths if context.spec[p].depth <= scale.depth]
    return any(context.figures.gradients.get(p) for p in before)


def _norm_scales(context: CheckContext) -> Iterator[Hit]:
    scales = [p for p in context.with_role(Role.NORM_SCALE) if context.finite(p.path)]
    zero = [p for p in scales if context.is_zero(p.path) and p.offset == 0 and p.confidence is Confidence.CERTAIN]
    last = {b.last_norm for b in context.spec.branches}
    for param in zero:
        if param.branch_last or param.path in last:
            continue
        if _passed_by(context, param):
            continue
        cut = param.branch is None
        where = "the signal ends here" if cut else f"nothing passes this point of residual branch {param.branch}"
        yield Hit(
            (param.path,),
            f"all {param.numel} norm scales are zero: {where}"
            + (
                ", and no gradient ever moves them" if context.stuck(param.path) else " until the first steps move them"
            ),
            severity=Severity.ERROR if context.stuck(param.path) else Severity.WARNING,
        )


CHECKS = (
    Check(
        "INI104",
        "constant-weight",
        Severity.ERROR,
        "a weight matrix of one repeated value",
        "Draw it at random; only a head, the last weight of a residual branch or an adapter's output may be zero.",
        _zero_or_constant,
        ("saxe2014",),
        mends=True,
        grades={
            Severity.WARNING: "where gradients still tell units apart or the signal passes later",
            Severity.INFO: "beside a skip path, or for a mean",
        },
    ),
    Check(
        "INI105",
        "symmetric-units",
        Severity.ERROR,
        "units with exactly the same weights",
        "Draw every unit on its own; equal units receive equal gradients as long as what follows treats them alike.",
        _symmetric,
        mends=True,
        grades={
            Severity.WARNING: "where only some are, or the role is not certain",
            Severity.INFO: "where they are taught apart",
        },
    ),
    Check(
        "INI106",
        "cloned-layers",
        Severity.WARNING,
        "layers that are exact copies, as copy.deepcopy leaves them",
        "Initialise after copying (nn.TransformerEncoder copies its layer), or tie the weights if they are one.",
        _clones,
        ("paszke2019",),
        mends=True,
    ),
    Check(
        "INI107",
        "two-zero-factors",
        Severity.ERROR,
        "a gate and the weight it multiplies are both zero",
        "Leave exactly one of the two at zero; with both, no gradient ever reaches either.",
        _two_zeros,
        ("zhang2019fixup", "bachlechner2021"),
        mends=True,
    ),
    Check(
        "INI108",
        "zero-norm-scale",
        Severity.ERROR,
        "a norm scale at zero that does not end a residual branch",
        "Start norm scales at one; only the last of a residual branch may be zero.",
        _norm_scales,
        ("goyal2017",),
        mends=True,
        grades={Severity.WARNING: "where the first steps move it"},
    ),
)
