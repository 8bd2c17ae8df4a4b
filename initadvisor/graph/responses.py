"""Nonlinearities told by what they do: a response on a grid is compared with that of every known activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Args = tuple[tuple[str, float], ...]
Elementwise = Callable[[torch.Tensor], torch.Tensor]

_SPAN = 10.0
"""The grid runs over ±10 standard deviations of a unit signal: beyond the kink of ReLU6."""
_POINTS = 401
"""One point each .05, so that every kink of a standard activation is hit."""
_TOLERANCE = 2e-4
"""Largest deviation, relative to the response's range: above what constants written to five digits cost, below the
5e-4 between the exact and the tanh form of GELU, which are both listed."""


def grid() -> torch.Tensor:
    """The points at which responses are compared, shape ``(401,)``, float64."""
    return torch.linspace(-_SPAN, _SPAN, _POINTS, dtype=torch.float64)


_FIXED: dict[str, tuple[Elementwise, ...]] = {
    "relu": (F.relu,),
    "tanh": (torch.tanh,),
    "sigmoid": (torch.sigmoid,),
    "gelu": (F.gelu, lambda z: F.gelu(z, approximate="tanh")),
    "quick_gelu": (lambda z: z * torch.sigmoid(1.702 * z),),
    "silu": (F.silu,),
    "mish": (F.mish,),
    "selu": (F.selu,),
    "relu6": (F.relu6,),
    "relu_squared": (lambda z: F.relu(z).square(),),
    "hardswish": (F.hardswish,),
    "hardsigmoid": (F.hardsigmoid,),
    "softsign": (F.softsign,),
    "gaussian": (lambda z: torch.exp(-z.square()),),
    "logsigmoid": (F.logsigmoid,),
    "tanhshrink": (F.tanhshrink,),
    "exp": (torch.exp,),
    "abs": (torch.abs,),
    "square": (torch.square,),
    "arctan": (torch.atan,),
    "asinh": (torch.asinh,),
}


@dataclass(frozen=True, slots=True)
class _Family:
    """An activation with a constant that can be read off its response."""

    constant: str
    read: Callable[[Elementwise], float]
    build: Callable[[torch.Tensor, float], torch.Tensor]


def _at(fn: Elementwise, z: float) -> float:
    return float(fn(torch.tensor([z], dtype=torch.float64))[0])


def _slope(fn: Elementwise) -> float:
    step = 1e-6  # in double precision: the curvature's error and that of rounding are both below 1e-9
    return (_at(fn, step) - _at(fn, -step)) / (2 * step)


def _cosine_rate(fn: Elementwise) -> float:
    step = 1e-3
    return math.acos(min(1.0, max(-1.0, _at(fn, step)))) / step


_FAMILIES: dict[str, _Family] = {
    "leaky_relu": _Family("negative_slope", lambda f: -_at(f, -1.0), lambda z, a: torch.where(z >= 0, z, a * z)),
    "elu": _Family("alpha", lambda f: -_at(f, -40.0), lambda z, a: F.elu(z, a) if a > 0 else z * math.nan),
    "celu": _Family("alpha", lambda f: -_at(f, -400.0), lambda z, a: F.celu(z, a) if a > 0 else z * math.nan),
    "softplus": _Family(
        "beta",
        lambda f: math.log(2) / _at(f, 0.0) if _at(f, 0.0) > 0 else math.nan,
        lambda z, b: torch.logaddexp(b * z, torch.zeros_like(z)) / b,
    ),
    "sin": _Family("omega", _slope, lambda z, w: torch.sin(w * z)),
    "cos": _Family("omega", _cosine_rate, lambda z, w: torch.cos(w * z)),
    "softshrink": _Family("lambd", lambda f: 50.0 - _at(f, 50.0), lambda z, b: z.sign() * F.relu(z.abs() - b)),
}
_DEFAULTS = {"elu": 1.0, "celu": 1.0, "softplus": 1.0}
"""Constants that go without saying."""


def is_affine(response: torch.Tensor, points: torch.Tensor) -> bool:
    """Whether a response is a straight line."""
    slope = (response[-1] - response[0]) / (points[-1] - points[0])
    line = response[0] + slope * (points - points[0])
    return bool((response - line).abs().max() <= _TOLERANCE * (1 + response.abs().max()) * 0.1)


def recognise(fn: Elementwise) -> tuple[str, Args] | None:
    """Name and constants of the known activation that ``fn`` is, None where it is none of them.

    Example:
        >>> recognise(lambda z: 0.5 * z * (1 + torch.erf(z / 2**0.5)))
        ('gelu', ())
        >>> recognise(lambda z: torch.sin(30 * z))
        ('sin', (('omega', 30.0),))
    """
    points = grid()
    response = fn(points)
    if not torch.isfinite(response).all():
        return None

    def same(other: torch.Tensor) -> bool:
        # A NaN in the reference (a constant that makes no sense for its family) compares as different.
        return bool((response - other).abs().max() <= _TOLERANCE * (0.1 + response.abs().max().clamp(max=10.0)))

    for name, forms in _FIXED.items():
        if any(same(form(points)) for form in forms):
            return name, ()
    low, high = float(response[0]), float(response[-1])
    if low < high and same(points.clamp(low, high)):
        # A grid end that was not cut says nothing about the bound, so ask far outside.
        bounds = _at(fn, -1e4), _at(fn, 1e4)
        return "hardtanh", (("min_val", _round(bounds[0])), ("max_val", _round(bounds[1])))
    for name, family in _FAMILIES.items():
        constant = family.read(fn)
        if not math.isfinite(constant) or constant == 0.0:
            continue
        constant = _round(constant)
        if same(family.build(points, constant)):
            args = () if _DEFAULTS.get(name) == constant else ((family.constant, constant),)
            return name, args
    return None


def _round(number: float) -> float:
    """Seven digits: constants are written by people, finite differences are not."""
    return float(f"{number:.7g}")
