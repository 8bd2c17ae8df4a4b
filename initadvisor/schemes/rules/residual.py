"""Residual branches: how much of each reaches the stream at the start."""

from __future__ import annotations

import math

from initadvisor.graph.spec import ModelSpec, NormStyle, ParamSpec
from initadvisor.schemes.rules.fills import constant, matrix_parts, zeros
from initadvisor.schemes.rules.gain import learns_from_zero
from initadvisor.schemes.rules.reading import (
    branch_of,
    ends_branch,
    ends_with_norm,
    is_carrier,
    is_weight,
    residual_count,
    sure,
)
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.rules.weights import base_weight, scaled_weight
from initadvisor.types import Role


def _sqrt_branches(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    count = residual_count(spec)
    why = f"{count} branches add up on the stream, so each writes 1/√{count} of its size"
    return scaled_weight(param, spec, context, 1 / math.sqrt(count), why)


def _sqrt_norm(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    count = residual_count(spec)
    return Proposal(
        constant(param, round(1 / math.sqrt(count) - param.offset, 6)),
        f"it ends its branch, so it is what scales it: 1/√{count} for {count} branches (the weight before has no say)",
    )


def _zero_norm(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    parts = constant(param, -param.offset)
    return Proposal(parts, "the last norm scale of its branch at zero makes the block the identity at the start")


def _zero_weight(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(zeros(param), "the last weight of its branch at zero makes the block the identity at the start")


def modulated(spec: ModelSpec) -> bool:
    """Some weight writes scales or gates of the stream: its zero and a branch's would block each other's gradient."""
    return any(p.role is Role.MODULATION for p in spec.params)


def _may_be_a_factor(param: ParamSpec, spec: ModelSpec) -> bool:
    """It ends its branch beside a product of others: what it does to them, multiply or add, is not told."""
    branch = branch_of(param, spec)
    ends = branch.last if branch is not None else ()
    return len(ends) > 2 and param.gate_partner is None and any(spec[p].gate_partner in ends for p in ends if p in spec)


def _may_zero(param: ParamSpec, spec: ModelSpec) -> bool:
    if not ends_branch(param, spec) or not sure(param) or modulated(spec):
        return False
    return is_carrier(param, spec) and not _may_be_a_factor(param, spec) and learns_from_zero(param, spec)


def _norm_free_inner(param: ParamSpec, spec: ModelSpec) -> bool:
    branch = branch_of(param, spec)
    return (
        branch is not None
        and branch.style is NormStyle.NONE
        and is_weight(param)
        and param.role is not Role.SHORTCUT
        and not ends_branch(param, spec)
    )


def _fixup(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    branch = branch_of(param, spec)
    layers = branch.length if branch is not None else 1
    count = residual_count(spec)
    if layers < 2:
        return base_weight(param, spec, context)
    power = -1 / (2 * layers - 2)
    why = f"Fixup: {count} branches of {layers} layers, the non-last ones times {count}^(−1/{2 * layers - 2})"
    return scaled_weight(param, spec, context, count**power, why)


def _rezero(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        zeros(param), "a branch factor of zero makes the block the identity; the weights behind it are not zero"
    )


def _deepnorm(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    layers = max(1, residual_count(spec) // 2)
    factor = (8 * layers) ** -0.25
    parts = matrix_parts(param, Context(family="normal", mode="fan_avg"), factor)
    return Proposal(parts, f"DeepNorm's β for {layers} layers: Xavier times (8·{layers})^(−1/4) = {factor:.3g}")


def _deepnorm_others(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        matrix_parts(param, Context(family="normal", mode="fan_avg"), 1.0),
        "DeepNorm leaves queries and keys at plain Xavier",
    )


_DEEPNORM_ROLES = frozenset({Role.VALUE, Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT})


def _deepnorm_qkv(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    layers = max(1, residual_count(spec) // 2)
    return _by_role(
        param, (8 * layers) ** -0.25, f"DeepNorm for {layers} layers: the value part times (8·{layers})^(−1/4)"
    )


def _by_role(param: ParamSpec, value_gain: float, why: str) -> Proposal:
    """Xavier for every slice, the value slice at a gain of its own."""
    xavier = Context(family="normal", mode="fan_avg")
    plain, small = matrix_parts(param, xavier, 1.0), matrix_parts(param, xavier, value_gain)
    picked = tuple(
        s if s.slice is not None and s.slice.role is Role.VALUE else p for p, s in zip(plain, small, strict=True)
    )
    return Proposal(picked, f"{why}, queries and keys at plain Xavier")


_ATTENTION = frozenset({Role.QUERY, Role.KEY, Role.VALUE, Role.QKV, Role.ATTN_OUT})


def _decoder_layers(spec: ModelSpec) -> tuple[tuple[int, int, int], ...]:
    """Three branches in a row that attend, attend and do not: a decoder's layer, which reads the encoder too."""
    attends = [any(p in spec and spec[p].role in _ATTENTION for p in branch.params) for branch in spec.branches]
    found: list[tuple[int, int, int]] = []
    for i in range(len(attends) - 2):
        before = found[-1][2] if found else -1
        # An attention right before belongs to the same run of attentions, which is no decoder's.
        alone = i == 0 or i - 1 == before or not attends[i - 1]
        if i > before and alone and attends[i : i + 3] == [True, True, False]:
            found.append((i, i + 1, i + 2))
    return tuple(found)


def _tfixup_factor(param: ParamSpec, spec: ModelSpec) -> tuple[float, str]:
    """Huang et al. 2020, section 3.2. Their code's further √2 on values undoes the 1/√2 of its packed projection."""
    decoder = _decoder_layers(spec)
    if any(param.branch in layer for layer in decoder):
        count = len(decoder)
        return (9 * count) ** -0.25, f"T-Fixup for {count} decoder layers: Xavier times (9·{count})^(−1/4)"
    others = len(spec.branches) - 3 * len(decoder) if decoder else residual_count(spec)
    layers = max(1, others // 2)
    return 0.67 * layers**-0.25, f"T-Fixup for {layers} encoder layers: Xavier times .67·{layers}^(−1/4)"


def _tfixup(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    factor, why = _tfixup_factor(param, spec)
    return Proposal(matrix_parts(param, Context(family="normal", mode="fan_avg"), factor), why)


def _tfixup_qkv(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    factor, why = _tfixup_factor(param, spec)
    return _by_role(param, factor, why)


def _subln(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    factor = math.sqrt(math.log(max(2, residual_count(spec))))
    parts = matrix_parts(param, Context(family="normal", mode="fan_avg"), factor)
    return Proposal(
        parts, f"Sub-LN normalises inside the branch, so it may write more: Xavier times √ln(2L) = {factor:.3g}"
    )


def _value_scaled(param: ParamSpec) -> bool:
    return is_weight(param) and param.role in _DEEPNORM_ROLES


RULES = (
    Rule(
        "residual_sqrt",
        lambda p, s: ends_branch(p, s),
        _sqrt_branches,
        "last weight of a residual branch divided by √(number of branches)",
        ("radford2019", "zhang2019fixup"),
    ),
    Rule(
        "residual_norm_sqrt",
        ends_with_norm,
        _sqrt_norm,
        "last norm scale of a residual branch at 1/√(number of branches)",
        ("goyal2017", "de2020"),
    ),
    Rule(
        "zero_last_norm",
        lambda p, s: ends_with_norm(p, s) and sure(p),
        _zero_norm,
        "last norm scale of a residual branch at zero",
        ("goyal2017",),
    ),
    Rule(
        "zero_last_weight",
        _may_zero,
        _zero_weight,
        "last weight of a residual branch at zero",
        ("zhang2019fixup", "bachlechner2021"),
    ),
    Rule(
        "fixup_inner",
        _norm_free_inner,
        _fixup,
        "norm-free residual nets: non-last weights times L^(−1/(2m−2))",
        ("zhang2019fixup",),
    ),
    Rule(
        "rezero",
        lambda p, s: p.role is Role.BRANCH_SCALE and p.numel == 1 and sure(p),
        _rezero,
        "a learned scalar on a branch starts at zero (ReZero, SkipInit)",
        ("bachlechner2021", "de2020"),
        knows_values=True,
    ),
    Rule(
        "deepnorm",
        lambda p, s: _value_scaled(p) and p.branch is not None,
        _deepnorm,
        "post-norm transformers: values, outputs and feed-forward times (8L)^(−1/4)",
        ("wang2022",),
    ),
    Rule(
        "deepnorm_packed",
        lambda p, s: p.role is Role.QKV and bool(p.slices) and p.branch is not None,
        _deepnorm_qkv,
        "the same for a packed projection: only its value part is scaled",
        ("wang2022",),
    ),
    Rule(
        "deepnorm_query_key",
        lambda p, s: is_weight(p) and p.role in (Role.QUERY, Role.KEY) and p.branch is not None,
        _deepnorm_others,
        "queries and keys of a post-norm transformer: Xavier",
        ("wang2022",),
    ),
    Rule(
        "tfixup",
        lambda p, s: _value_scaled(p) and p.branch is not None,
        _tfixup,
        "transformers without norm: values, outputs and feed-forward times .67·N^(−1/4)",
        ("huang2020",),
    ),
    Rule(
        "tfixup_packed",
        lambda p, s: p.role is Role.QKV and bool(p.slices) and p.branch is not None,
        _tfixup_qkv,
        "the same for a packed projection: only its value part is scaled",
        ("huang2020",),
    ),
    Rule(
        "subln",
        lambda p, s: _value_scaled(p) and p.branch is not None,
        _subln,
        "transformers with a norm inside the branch: values, outputs and feed-forward times √ln(2L)",
        ("wang2023",),
    ),
)
