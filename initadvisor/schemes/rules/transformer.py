"""Transformers as their authors ship them: GPT-2, Llama, BERT, muP's zero query."""

from __future__ import annotations

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules import factors
from initadvisor.schemes.rules.fills import fans_of, normal, trunc_normal, whole
from initadvisor.schemes.rules.reading import ends_branch, is_weight, residual_count, sure
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.rules.weights import base_weight
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Role

_GPT_STD = 0.02
"""Standard deviation of GPT-2's weights: 1/√d at about 2,500 features, used at every width since."""

_HEAD_CUT = 3.0
"""Llama's head is cut at this many standard deviations."""


def _small_gaussian(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(normal(param, _GPT_STD), "GPT-2's N(0, .02), whatever the width; early updates are large beside it")


def _small_truncated(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        trunc_normal(param, _GPT_STD), "ViT's and Llama's truncated N(0, .02), cut at two standard deviations"
    )


def _gpt2_residual(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    count = residual_count(spec)
    return Proposal(
        normal(param, _GPT_STD * factors.root_of_branches(count)),
        f"it writes to the residual stream, as {count} do: N(0, .02/√{count})",
    )


def _llama_residual(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    layer = (param.branch or 0) // 2 + 1
    return Proposal(
        trunc_normal(param, _GPT_STD * factors.root_of_layer(layer)),
        f"it writes to the residual stream from layer {layer}: truncated N(0, .02/√(2·{layer}))",
    )


def _llama_head(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    fans = fans_of(param)
    std = float(f"{fans.fan_in**-0.5:.6g}")
    return Proposal(
        whole(param, Fill("trunc_normal", args=(("std", std), ("cut", _HEAD_CUT)))),
        f"logits of unit size from {fans.fan_in:g} normalised features: 1/√{fans.fan_in:g}, cut at 3σ",
    )


def _zero_query(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    """Queries at zero: every attention starts as a plain average, whatever the width."""
    if param.role is Role.QUERY:
        return Proposal(whole(param, Fill("zeros")), "queries at zero: attention starts even at any width (muP)")
    base = base_weight(param, spec, context)
    parts = tuple(
        Part(Fill("zeros"), p.fans, p.slice) if p.slice is not None and p.slice.role is Role.QUERY else p
        for p in base.parts
    )
    return Proposal(parts, "its query part at zero: attention starts even at any width (muP)")


RULES = (
    Rule(
        "gpt2_weight",
        lambda p, s: is_weight(p),
        _small_gaussian,
        "every weight N(0, .02), whatever its fans",
        ("radford2019",),
    ),
    Rule(
        "gpt2_residual",
        lambda p, s: ends_branch(p, s),
        _gpt2_residual,
        "weights that write to the residual stream: N(0, .02/√(number of branches))",
        ("radford2019",),
    ),
    Rule(
        "vit_weight",
        lambda p, s: is_weight(p),
        _small_truncated,
        "every weight truncated N(0, .02)",
        ("dosovitskiy2021",),
    ),
    Rule(
        "llama_residual",
        lambda p, s: ends_branch(p, s),
        _llama_residual,
        "weights that write to the residual stream: .02/√(2·layer), smaller with depth",
        ("liang2024",),
    ),
    Rule(
        "llama_head",
        lambda p, s: is_weight(p) and p.role is Role.OUTPUT and p.tied_to is None,
        _llama_head,
        "the output layer: truncated N(0, 1/√d) at 3σ",
        ("liang2024",),
    ),
    Rule(
        "zero_query",
        lambda p, s: (
            sure(p)
            and is_weight(p)
            and (p.role is Role.QUERY or (p.role is Role.QKV and any(x.role is Role.QUERY for x in p.slices)))
        ),
        _zero_query,
        "queries at zero",
        ("yang2022",),
    ),
)
