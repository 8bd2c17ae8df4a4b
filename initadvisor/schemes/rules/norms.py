"""Norms, biases and learned constants: what is neutral at the start, and what the author chose."""

from __future__ import annotations

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules.fills import constant, fans_of, whole, zeros
from initadvisor.schemes.rules.reading import weight_of_bias
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Role

_FEW_INPUTS = 8
"""At most this many inputs per unit: zero biases would put every kink of the layer on lines through the origin."""

_PIECEWISE = frozenset(
    {"relu", "leaky_relu", "prelu", "elu", "celu", "selu", "relu6", "hardtanh", "tanh", "gelu", "silu"}
)


def scales(param: ParamSpec, fill: Fill) -> tuple[Part, ...]:
    """One fill for a norm's scales; where a table holds a class's shifts beside them, zeros for those."""
    if not param.slices:
        return whole(param, fill)
    shift = Fill("zeros")
    return tuple(Part(shift if x.role is Role.NORM_SHIFT else fill, x.fans, x) for x in param.slices)


def _ones(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    fill = constant(param, 1.0 - param.offset)[0].fill
    why = "a normalised signal passes at its own size"
    if param.offset:
        why = f"used as {param.offset:g} + w, so this value lets a normalised signal pass at its own size"
    return Proposal(scales(param, fill), why)


def _zeros(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(zeros(param), "no offset before anything was learned")


def _bias(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(zeros(param), "an offset would only shift the signal that the gains were computed for")


def _low_dimensional(param: ParamSpec, spec: ModelSpec) -> bool:
    weight = weight_of_bias(param, spec)
    return (
        param.role is Role.BIAS
        and weight is not None
        and weight.role is Role.INPUT
        and 0 < weight.fan_in <= _FEW_INPUTS
        and weight.activation in _PIECEWISE
        and weight.norm_after is None
    )


def _spread_bias(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    weight = weight_of_bias(param, spec)
    fans = fans_of(weight) if weight is not None else fans_of(param)
    return Proposal(
        (Part(Fill("torch_linear"), fans),),
        f"with {fans.fan_in:g} inputs and zero biases all units would bend on lines through the origin",
    )


_AS_FOUND = frozenset({Role.ACTIVATION, Role.SCALAR, Role.BRANCH_SCALE, Role.ELEMENTWISE, Role.LATENT})
"""Roles of which only the author knows what the values mean."""


def _as_found(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    value = context.constants.get(param.path)
    if value is None:
        return Proposal((), "its author's values carry meaning a redraw would lose")
    return Proposal(constant(param, value), f"its author chose {value:g}")


RULES = (
    Rule(
        "norm_scale",
        lambda p, s: p.role is Role.NORM_SCALE,
        _ones,
        "norm scales start at one",
        ("ioffe2015", "ba2016"),
    ),
    Rule("norm_shift", lambda p, s: p.role is Role.NORM_SHIFT, _zeros, "norm shifts start at zero", ("ioffe2015",)),
    Rule(
        "input_bias_spread",
        _low_dimensional,
        _spread_bias,
        "biases behind a handful of inputs: uniform, so that the units bend in different places",
        ("steinwart2019",),
    ),
    Rule("bias", lambda p, s: p.role is Role.BIAS, _bias, "biases start at zero", ("glorot2010",)),
    Rule(
        "constant_as_found",
        lambda p, s: p.role in _AS_FOUND,
        _as_found,
        "learned constants (slopes, temperatures, branch scales) keep their author's value",
        ("touvron2021",),
        knows_values=True,
    ),
)
