"""Gains and scales that a recipe may name instead of a number, so that one file fits every size of a family."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from initadvisor.graph.spec import ModelSpec, ParamSpec
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


def _layers(spec: ModelSpec) -> int:
    """Transformer layers: two branches each."""
    return max(1, residual_count(spec) // 2)


def _layer(param: ParamSpec) -> int:
    return (param.branch or 0) // 2 + 1


def _fixup(param: ParamSpec, spec: ModelSpec) -> float:
    branch = branch_of(param, spec)
    layers = branch.length if branch is not None else 1
    return 1.0 if layers < 2 else residual_count(spec) ** (-1 / (2 * layers - 2))


SCALES: dict[str, Callable[[ParamSpec, ModelSpec], float]] = {
    "1/sqrt(branches)": lambda p, s: residual_count(s) ** -0.5,
    "1/sqrt(2*layer)": lambda p, s: (2 * _layer(p)) ** -0.5,
    "1/sqrt(width)": lambda p, s: p.shape[-1] ** -0.5,
    "1/sqrt(fan_in)": lambda p, s: default_fans(p, s).fan_in ** -0.5,
    "fixup": _fixup,
    "deepnorm": lambda p, s: (8 * _layers(s)) ** -0.25,
    "t-fixup": lambda p, s: 0.67 * _layers(s) ** -0.25,
    "t-fixup:decoder": lambda p, s: (9 * _layers(s)) ** -0.25,
    "sub-ln": lambda p, s: math.sqrt(math.log(2 * _layers(s))),
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
