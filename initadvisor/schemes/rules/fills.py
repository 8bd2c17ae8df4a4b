"""The few fills that rules are made of, so that names and arguments of initializers stand in one place."""

from __future__ import annotations

import math
from dataclasses import replace

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules.rule import Context
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Fans, Slice

_DIGITS = 6
"""Significant digits of a gain: far below any effect on training, and short enough to be read in a recipe."""


def short(value: float) -> float:
    """``value`` to the digits that matter.

    Example:
        >>> short(1.5927812698663606)
        1.59278
    """
    return float(f"{value:.{_DIGITS}g}")


def shape_fans(shape: tuple[int, ...]) -> Fans:
    """Fans of a tensor laid out as torch's linear and convolution layers are.

    Example:
        >>> shape_fans((16, 8, 3)).fan_in
        24.0
    """
    if len(shape) < 2:
        size = float(shape[0]) if shape else 1.0
        return Fans(size, size, in_dim=0)
    receptive = math.prod(shape[2:])
    return Fans(float(shape[1] * receptive), float(shape[0] * receptive))


def fans_of(param: ParamSpec) -> Fans:
    """The parameter's fans; from its shape as torch's own layers lay it out where the analysis gives none."""
    if param.fans is not None:
        return param.fans
    if param.fan_in and param.fan_out:
        return Fans(param.fan_in, param.fan_out)
    return shape_fans(param.shape)


def default_fans(param: ParamSpec, spec: ModelSpec) -> Fans:
    """The fans a fill of the whole tensor is given: its own, of a bias those of its weight."""
    if param.fans is None and len(param.shape) < 2 and param.bias_of is not None and param.bias_of in spec:
        return fans_of(spec[param.bias_of])
    return fans_of(param)


def sliced_fans(fans: Fans, shape: tuple[int, ...], dim: int, size: int) -> Fans:
    """Fans of a packed part that takes ``size`` of the indices along ``dim``.

    Example:
        >>> sliced_fans(Fans(8, 24), (24, 8), 0, 8)
        Fans(fan_in=8, fan_out=8.0, out_dim=0, in_dim=1, groups=1, batch_dims=())
    """
    share = size / shape[dim] if shape else 1.0
    if dim == fans.out_dim:
        return replace(fans, fan_out=fans.fan_out * share)
    if dim == fans.in_dim:
        return replace(fans, fan_in=fans.fan_in * share)
    return fans


FAN_FREE = frozenset(
    {
        *("zeros", "ones", "constant", "vector", "normal", "uniform", "trunc_normal"),
        *("mamba_a_log", "mamba2_a_log", "mamba_dt_bias"),
    }
)
"""Initializers that do not look at fans."""

ONE_VALUE = frozenset({"zeros", "ones", "constant"})
"""Initializers for which it makes no difference whether a packed tensor is filled whole or part by part."""


def whole(param: ParamSpec, fill: Fill) -> tuple[Part, ...]:
    """One fill for the whole tensor."""
    return (Part(fill, fans_of(param)),)


def zeros(param: ParamSpec) -> tuple[Part, ...]:
    """All zeros."""
    return whole(param, Fill("zeros"))


def constant(param: ParamSpec, value: float) -> tuple[Part, ...]:
    """One value everywhere; zeros and ones under their own names."""
    named = {0.0: Fill("zeros"), 1.0: Fill("ones")}
    return whole(param, named.get(float(value), Fill("constant", args=(("value", float(value)),))))


def normal(param: ParamSpec, std: float) -> tuple[Part, ...]:
    """Gaussian of a fixed standard deviation."""
    return whole(param, Fill("normal", args=(("std", short(std)),)))


def trunc_normal(param: ParamSpec, std: float) -> tuple[Part, ...]:
    """Gaussian cut at two of its standard deviations, widened so that ``std`` is what remains after the cut."""
    return whole(param, Fill("trunc_normal", args=(("std", short(std)),)))


def matrix_fill(context: Context, fans: Fans, gain: float) -> Fill:
    """A fill of the context's family whose elements have the standard deviation ``gain/√fan``.

    Of the orthogonal family that holds with ``scaling="fan_in"``; with ``"norm"`` a map that widens keeps the length of
    the vector instead, and its single outputs are smaller by √(fan_in/fan_out).
    """
    gain = short(gain)
    if context.family == "orthogonal":
        return Fill("orthogonal", gain=gain, args=(("scale", context.scaling),))
    if context.family == "delta_orthogonal":
        return Fill("delta_orthogonal", gain=gain)
    if context.mode == "fan_in" and context.family in ("normal", "uniform"):
        return Fill(f"lecun_{context.family}", gain=gain)
    args = (("mode", context.mode), ("law", context.family))
    return Fill("variance_scaling", gain=gain, args=args)


def keeping_length(context: Context) -> Context:
    """The context for maps from a few numbers to many whose results add up with others: vectors keep their length.

    At the fan-in scale a map from 2 numbers to 48 writes a vector √24 times as long as the one it read, and drowns
    whatever it is added to. Independent draws take the classic compromise, the mean of both fans.
    """
    return replace(context, scaling="norm", mode="fan_avg")


def fitting(param: ParamSpec, context: Context) -> Context:
    """The context with a family this shape allows: a delta-orthogonal kernel has taps and may not narrow."""
    if context.family != "delta_orthogonal":
        return context
    fans = fans_of(param)
    isometric = len(param.shape) > 2 and fans.groups == 1 and fans.out_dim == 0 and param.shape[0] >= param.shape[1]
    return context if isometric else replace(context, family="orthogonal")


def matrix_parts(param: ParamSpec, context: Context, gain: float) -> tuple[Part, ...]:
    """The family's fill for every slice of a packed weight, or for the whole of a plain one."""
    context = fitting(param, context)
    pieces: tuple[Slice | None, ...] = param.slices or (None,)
    parts = []
    for piece in pieces:
        fans = piece.fans if piece is not None else fans_of(param)
        parts.append(Part(matrix_fill(context, fans, gain), fans, piece))
    return tuple(parts)


def scaled(parts: tuple[Part, ...], factor: float) -> tuple[Part, ...]:
    """The same fills with every gain multiplied."""
    return tuple(replace(p, fill=replace(p.fill, gain=short(p.fill.gain * factor))) for p in parts)
