"""Gains and scales that a recipe may name instead of a number, so that one file fits every size of a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules import factors
from initadvisor.schemes.rules.fills import default_fans, short
from initadvisor.schemes.rules.gain import weight_gain
from initadvisor.schemes.rules.reading import branch_of, plain_depth, residual_count
from initadvisor.schemes.rules.rule import Context

GAINS: dict[str, Context] = {
    "activation": Context(gains="recommended"),
    "activation:forward": Context(gains="forward"),
    "activation:backward": Context(gains="backward"),
}
"""Names of gains -> which gain of the activation before the weight is meant."""


def _encoder(spec: ModelSpec) -> int:
    return factors.layer_counts(spec)[0]


def _decoder(spec: ModelSpec) -> int:
    """Layers of the decoder; of a model that has one stack, its layers."""
    layers, decoder = factors.layer_counts(spec)
    return decoder or layers


def _layer(param: ParamSpec) -> int:
    return (param.branch or 0) // 2 + 1


def _fixup(param: ParamSpec, spec: ModelSpec) -> float:
    branch = branch_of(param, spec)
    layers = branch.length if branch is not None else 1
    return factors.fixup(residual_count(spec), layers)


SCALES: dict[str, Callable[[ParamSpec, ModelSpec], float]] = {
    "1/sqrt(branches)": lambda p, s: factors.root_of_branches(residual_count(s)),
    "1/sqrt(2*layer)": lambda p, s: factors.root_of_layer(_layer(p)),
    "1/sqrt(width)": lambda p, s: p.shape[-1] ** -0.5,
    "1/sqrt(fan_in)": lambda p, s: default_fans(p, s).fan_in ** -0.5,
    "fixup": _fixup,
    "deepnorm": lambda p, s: factors.deepnorm(_encoder(s)),
    "t-fixup": lambda p, s: factors.tfixup_encoder(_encoder(s)),
    "t-fixup:decoder": lambda p, s: factors.tfixup_decoder(_decoder(s)),
    "sub-ln": lambda p, s: factors.subln(_encoder(s)),
}
"""Names of factors on the gain -> what they are for one parameter of one model."""

NEED_ANALYSIS = frozenset(SCALES) - {"1/sqrt(width)", "1/sqrt(fan_in)"}
"""Scales that only the executed graph can tell."""


def gain_value(gain: float | str, scale: str | None, param: ParamSpec, spec: ModelSpec) -> float:
    """The number a rule's gain and scale mean for one parameter.

    A gain given as a number is used to the bit; one that is computed is rounded to the digits that matter.
    """
    if isinstance(gain, float) and scale is None:
        return gain
    if isinstance(gain, str):
        value = weight_gain(param, spec, replace(GAINS[gain], plain_depth=plain_depth(spec)))[0]
    else:
        value = gain
    if scale is not None:
        value *= SCALES[scale](param, spec)
    return short(value)
