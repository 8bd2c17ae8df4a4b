"""Residual branches: how much of each reaches the stream at the start."""

from __future__ import annotations

from collections.abc import Callable

from initadvisor.graph.spec import ModelSpec, NormStyle, ParamSpec
from initadvisor.schemes.rules import factors
from initadvisor.schemes.rules.fills import constant, matrix_parts, normal, zeros
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
    return scaled_weight(param, spec, context, factors.root_of_branches(count), why)


def _sqrt_norm(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    count = residual_count(spec)
    return Proposal(
        constant(param, round(factors.root_of_branches(count) - param.offset, 6)),
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
    why = f"Fixup: {count} branches of {layers} layers, the non-last ones times {count}^(−1/{2 * layers - 2})"
    return scaled_weight(param, spec, context, factors.fixup(count, layers), why)


def _rezero(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        zeros(param), "a branch factor of zero makes the block the identity; the weights behind it are not zero"
    )


_XAVIER = Context(family="normal", mode="fan_avg")
"""The fill that DeepNorm, T-Fixup and Sub-LN multiply."""

Factor = Callable[[ParamSpec, ModelSpec], tuple[float, str]]
"""What a method multiplies Xavier's draw with, and the clause that says why."""


def _deepnorm_factor(param: ParamSpec, spec: ModelSpec) -> tuple[float, str]:
    layers, decoder = factors.layer_counts(spec)
    if decoder and factors.in_decoder(param.branch, spec):
        return factors.deepnorm_decoder(decoder), f"DeepNorm's β for {decoder} decoder layers, (12·{decoder})^(−1/4)"
    if decoder:
        beta = factors.deepnorm_encoder(layers, decoder)
        return beta, f"DeepNorm's β for {layers} encoder layers beside {decoder} of a decoder, {beta:.3g}"
    return factors.deepnorm(layers), f"DeepNorm's β for {layers} layers, (8·{layers})^(−1/4)"


def _tfixup_factor(param: ParamSpec, spec: ModelSpec) -> tuple[float, str]:
    layers, decoder = factors.layer_counts(spec)
    if decoder and factors.in_decoder(param.branch, spec):
        return factors.tfixup_decoder(decoder), f"T-Fixup for {decoder} decoder layers, (9·{decoder})^(−1/4)"
    return factors.tfixup_encoder(layers), f"T-Fixup for {layers} encoder layers, .67·{layers}^(−1/4)"


def _subln_factor(param: ParamSpec, spec: ModelSpec) -> tuple[float, str]:
    layers, decoder = factors.layer_counts(spec)
    why = "Sub-LN normalises inside the branch, so it may write more"
    if decoder and factors.in_decoder(param.branch, spec):
        return factors.subln_decoder(decoder), f"{why}: √ln(3·{decoder}) for {decoder} decoder layers"
    if decoder:
        gamma = factors.subln_encoder(layers, decoder)
        return gamma, f"{why}: {gamma:.3g} for {layers} encoder layers beside {decoder} of a decoder"
    return factors.subln(layers), f"{why}: √ln(2·{layers}) for {layers} layers"


def _times_xavier(factor: Factor) -> Callable[[ParamSpec, ModelSpec, Context], Proposal]:
    def propose(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
        value, why = factor(param, spec)
        return Proposal(matrix_parts(param, _XAVIER, value), f"{why}: Xavier times {value:.3g}")

    return propose


def _value_part(factor: Factor) -> Callable[[ParamSpec, ModelSpec, Context], Proposal]:
    """Xavier for every slice of a packed projection, the value slice times the factor."""

    def propose(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
        value, why = factor(param, spec)
        plain, small = matrix_parts(param, _XAVIER, 1.0), matrix_parts(param, _XAVIER, value)
        picked = tuple(
            s if s.slice is not None and s.slice.role is Role.VALUE else p for p, s in zip(plain, small, strict=True)
        )
        return Proposal(picked, f"{why}: the value part times {value:.3g}, queries and keys at plain Xavier")

    return propose


def _plain_xavier(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(matrix_parts(param, _XAVIER, 1.0), "queries and keys stay at plain Xavier, as in DeepNorm")


def _tfixup_table(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    """Huang et al. 2020, section 3.2: N(0, 1/√d), times the decoder's factor where there is a decoder."""
    _, decoder = factors.layer_counts(spec)
    width = param.shape[-1] if param.shape else 1
    value = factors.tfixup_decoder(decoder) if decoder else 1.0
    scaled_by = f" times (9·{decoder})^(−1/4) for {decoder} decoder layers" if decoder else ""
    return Proposal(normal(param, width**-0.5 * value), f"T-Fixup's table: rows of norm 1{scaled_by}")


_DEEPNORM_ROLES = frozenset({Role.VALUE, Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT})


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
        _times_xavier(_deepnorm_factor),
        "post-norm transformers: values, outputs and feed-forward times (8L)^(−1/4)",
        ("wang2022",),
    ),
    Rule(
        "deepnorm_packed",
        lambda p, s: p.role is Role.QKV and bool(p.slices) and p.branch is not None,
        _value_part(_deepnorm_factor),
        "the same for a packed projection: only its value part is scaled",
        ("wang2022",),
    ),
    Rule(
        "deepnorm_query_key",
        lambda p, s: is_weight(p) and p.role in (Role.QUERY, Role.KEY) and p.branch is not None,
        _plain_xavier,
        "queries and keys of a post-norm transformer: Xavier",
        ("wang2022",),
    ),
    Rule(
        "tfixup",
        lambda p, s: _value_scaled(p) and p.branch is not None,
        _times_xavier(_tfixup_factor),
        "transformers without norm: values, outputs and feed-forward times .67·N^(−1/4)",
        ("huang2020",),
    ),
    Rule(
        "tfixup_packed",
        lambda p, s: p.role is Role.QKV and bool(p.slices) and p.branch is not None,
        _value_part(_tfixup_factor),
        "the same for a packed projection: only its value part is scaled",
        ("huang2020",),
    ),
    Rule(
        "tfixup_table",
        lambda p, s: p.role is Role.EMBEDDING,
        _tfixup_table,
        "tables of a transformer without norm: N(0, 1/√d), times (9N)^(−1/4) of the decoder",
        ("huang2020",),
    ),
    Rule(
        "subln",
        lambda p, s: _value_scaled(p) and p.branch is not None,
        _times_xavier(_subln_factor),
        "transformers with a norm inside the branch: values, outputs and feed-forward times √ln(2L)",
        ("wang2023",),
    ),
)
