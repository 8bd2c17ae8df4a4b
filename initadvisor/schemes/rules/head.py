"""The output layer: what the model says before it has learned anything."""

from __future__ import annotations

import math

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.beliefs import figure
from initadvisor.schemes.rules.fills import matrix_parts, short, whole, zeros
from initadvisor.schemes.rules.gain import learns_from_zero
from initadvisor.schemes.rules.reading import is_tied, is_weight, sure, weight_of_bias
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Role

_POLICY_HEAD = 0.01
"""Gain of a policy's last layer: actions start nearly uniform (Andrychowicz et al. 2021, section 3.2)."""

_NO_SHARE = 0.5
"""Counts given to a class the batch happens not to hold, so that its logarithm is finite."""


def _is_head(param: ParamSpec, spec: ModelSpec) -> bool:
    return is_weight(param) and param.role is Role.OUTPUT and not is_tied(param, spec)


def _unit(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        matrix_parts(param, context, 1.0),
        "nothing nonlinear follows the output layer: gain 1 keeps its outputs of unit size",
    )


def _small(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        matrix_parts(param, context, figure("small_head")),
        "a small output layer: the first loss is that of no opinion, and gradients still flow",
    )


def _zero(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        zeros(param), "a zero output layer: the first step learns the head alone, from a loss of exactly no opinion"
    )


def _is_value(param: ParamSpec) -> bool:
    return param.shape[0 if param.fans is None else param.fans.out_dim] == 1


def actor_critic(spec: ModelSpec) -> bool:
    """Several output layers, one of them a single number: a policy beside a value."""
    heads = [p for p in spec.params if _is_head(p, spec)]
    values = sum(_is_value(p) for p in heads)
    return len(heads) >= 2 and 0 < values < len(heads)


def _policy(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    if _is_value(param):
        return Proposal(matrix_parts(param, context, 1.0), "the value head: gain 1")
    return Proposal(
        matrix_parts(param, context, _POLICY_HEAD), "the policy head: gain .01, so that actions start nearly uniform"
    )


def _brax(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(whole(param, Fill("lecun_uniform")), "Brax's policies and values: U(±√(3/n)) for n inputs")


def _head_bias(param: ParamSpec, spec: ModelSpec) -> bool:
    weight = weight_of_bias(param, spec)
    return param.role is Role.BIAS and weight is not None and weight.role is Role.OUTPUT and len(param.shape) == 1


def _values(param: ParamSpec, values: tuple[float, ...]) -> tuple[Part, ...]:
    text = " ".join(repr(short(value)) for value in values)
    return whole(param, Fill("vector", args=(("values", text),)))


def log_priors(shares: tuple[float, ...], samples: int) -> tuple[float, ...]:
    """Logarithms of class shares, classes without a sample counted as half a one.

    Example:
        >>> [round(v, 3) for v in log_priors((0.75, 0.25), 100)]
        [-0.288, -1.386]
    """
    floor = _NO_SHARE / max(1, samples)
    return tuple(math.log(max(share, floor)) for share in shares)


def _prior(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    if len(context.output_bias) == param.shape[0]:
        return Proposal(_values(param, context.output_bias), context.output_bias_why)
    return Proposal(zeros(param), "the batch says nothing about the outputs' averages")


RULES = (
    Rule("head_unit", _is_head, _unit, "output layer: gain 1", ("lecun1998",)),
    Rule("head_small", _is_head, _small, "output layer: gain .1", ("karpathy2019",)),
    Rule(
        "head_zero",
        lambda p, s: _is_head(p, s) and sure(p) and learns_from_zero(p, s),
        _zero,
        "output layer: zeros",
        ("yang2022", "zhang2019fixup"),
    ),
    Rule(
        "head_policy",
        lambda p, s: _is_head(p, s) and actor_critic(s),
        _policy,
        "actor-critic: policy head .01, value head 1",
        ("andrychowicz2021",),
    ),
    Rule(
        "brax_weight",
        lambda p, s: is_weight(p) and len(p.shape) == 2 and not p.slices,
        _brax,
        "dense layers of an actor and a critic, heads as well: LeCun uniform",
        ("freeman2021",),
    ),
    Rule(
        "head_bias_prior",
        _head_bias,
        _prior,
        "output bias: log class shares, log odds of a rare positive, or the target's mean",
        ("lin2017focal", "karpathy2019"),
    ),
)
