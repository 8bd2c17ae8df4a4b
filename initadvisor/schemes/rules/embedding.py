"""Tables: tokens, positions and what is joined to a sequence."""

from __future__ import annotations

import math

from initadvisor.graph.spec import ModelSpec, NormStyle, ParamSpec
from initadvisor.schemes.rules.fills import normal, trunc_normal
from initadvisor.schemes.rules.reading import has_style, is_head_too, is_weight
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.types import Role

_VIT_STD = 0.02
"""Standard deviation of learned positions in ViT and BERT."""

_CLASS_TOKEN_STD = 1e-6
"""Standard deviation of the class token in the widely used ViT code: practically zero, but not symmetric."""


_FACTOR_STD = 0.01
"""Standard deviation of the tables of factor models in He et al. 2017 (section 4.1)."""


def _width(param: ParamSpec) -> int:
    return param.shape[-1] if param.shape else 1


def _untied(param: ParamSpec, spec: ModelSpec) -> bool:
    return param.role is Role.EMBEDDING and not is_head_too(param, spec)


def _unit(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    reader = f"; the {param.norm_after} that follows sees it at full size" if param.norm_after else ""
    return Proposal(
        normal(param, 1.0),
        f"it starts the stream and no head shares it: unit size, beside which what the layers add stays small{reader}",
    )


def _alone(param: ParamSpec, spec: ModelSpec) -> bool:
    """Rows that no linear map reads: what the model says is a sum of their products (factor models)."""
    return _untied(param, spec) and not any(is_weight(p) for p in spec.params)


def _product(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    width = _width(param)
    return Proposal(
        normal(param, (4 * width) ** -0.25),
        f"no layer reads its rows, so products of two come out: with (4·{width})^(−1/4) their sum is half of unit size",
    )


def _tied(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    width = _width(param)
    return Proposal(
        normal(param, width**-0.5),
        f"the output layer uses the same table: N(0, 1) would make logits of size √{width}, so 1/√{width}",
    )


def _small(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        normal(param, 0.02), "GPT-2's and BERT's N(0, .02), small so that early updates are large beside it"
    )


def _factor(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        normal(param, _FACTOR_STD),
        f"what is looked up is a sum of small corrections at first: products of N(0, 1) rows of width {_width(param)} "
        f"would be of size √{_width(param)}",
    )


def _is_offset(param: ParamSpec, spec: ModelSpec) -> bool:
    """One number a row beside wider tables: what a user or an item adds."""
    return (
        param.role is Role.EMBEDDING
        and _width(param) == 1
        and any(_width(p) > 1 and p.role is Role.EMBEDDING for p in spec.params)
    )


def _offset(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    # Not exactly zero: should it be a factor after all, zero beside zero would never train.
    return Proposal(normal(param, _FACTOR_STD), "one number a row, added like a bias: practically zero")


def _position(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    tables = [p for p in spec.params if p.role is Role.EMBEDDING]
    if tables and all(_untied(p, spec) for p in tables):
        return Proposal(normal(param, 1.0), "it is added to token embeddings of unit size, and is given the same say")
    if tables:
        width, times = _width(param), abs(tables[0].factor)
        joined = f"1/√{width}" if times == 1 else f"1/√{width}, times the {times:.3g} of the forward pass"
        return Proposal(
            normal(param, times * width**-0.5), f"it is added to tied embeddings of size {joined}, and is as large"
        )
    return Proposal(trunc_normal(param, _VIT_STD), "it is added to projected patches: small, as in ViT")


def _token(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    if has_style(spec, NormStyle.PRE_NORM) and not any(p.role is Role.POSITION for p in spec.params):
        # Nothing is added to it before a norm, which would multiply gradients by one over its size.
        return Proposal(trunc_normal(param, _VIT_STD), "a token that a norm reads as it is: small, but of some size")
    return Proposal(normal(param, _CLASS_TOKEN_STD), "a token joined to the sequence starts without content")


def _relative(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        trunc_normal(param, _VIT_STD), "added to attention logits: near zero, so that attention starts even"
    )


def _dim_scaled(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    width = _width(param)
    return Proposal(normal(param, 1 / math.sqrt(width)), f"a row of {width} numbers with norm 1")


RULES = (
    Rule(
        "embedding_offset", _is_offset, _offset, "tables of one number a row, beside wider ones: N(0, .01)", ("he2017",)
    ),
    Rule("embedding_product", _alone, _product, "tables that nothing but each other multiplies: N(0, (4d)^(−1/4))"),
    Rule("embedding_unit", _untied, _unit, "token tables with a head of their own: N(0, 1)", ("xiong2020",)),
    Rule(
        "embedding_tied",
        lambda p, s: p.role is Role.EMBEDDING and is_head_too(p, s),
        _tied,
        "token tables that the head shares: N(0, 1/√d)",
        ("press2017", "vaswani2017"),
    ),
    Rule(
        "embedding_small",
        lambda p, s: p.role is Role.EMBEDDING,
        _small,
        "token tables: N(0, .02)",
        ("radford2019", "devlin2019"),
    ),
    Rule(
        "embedding_factor",
        lambda p, s: p.role is Role.EMBEDDING,
        _factor,
        "tables of factor models: N(0, .01)",
        ("he2017",),
    ),
    Rule(
        "embedding_row_norm",
        lambda p, s: p.role is Role.EMBEDDING,
        _dim_scaled,
        "token tables whose rows have norm 1",
        ("huang2020",),
    ),
    Rule(
        "position",
        lambda p, s: p.role is Role.POSITION,
        _position,
        "learned positions: as large as what they join",
        ("dosovitskiy2021",),
    ),
    Rule(
        "gpt2_position",
        lambda p, s: p.role is Role.POSITION,
        _small,
        "learned positions: N(0, .02)",
        ("radford2019",),
    ),
    Rule(
        "token",
        lambda p, s: p.role is Role.TOKEN,
        _token,
        "class and mask tokens: practically zero",
        ("dosovitskiy2021",),
    ),
    Rule(
        "relative_bias",
        lambda p, s: p.role is Role.RELATIVE_BIAS,
        _relative,
        "offsets of attention logits: near zero",
        ("liu2021",),
    ),
)
