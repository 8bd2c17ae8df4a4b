"""The variance correction of any elementwise nonlinearity, by quadrature over a standard normal pre-activation.

Three figures per activation φ, with z ~ N(0, 1):

* forward, 1/√E[φ(z)²]: keeps the second moment of the signal (He et al. 2015, section 2.2, for ReLU; any φ here);
* variance, 1/√Var[φ(z)]: keeps only what varies, which is what carries information where φ has a large mean;
* backward, 1/√E[φ′(z)²]: keeps the second moment of gradients (Poole et al. 2016, χ = 1).

They agree for ReLU and differ for smooth functions. :func:`recommended` picks the one that trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from initadvisor.errors import RegistryError, nearest
from initadvisor.types import NO_ACTIVATION

Args = tuple[tuple[str, float], ...]
Elementwise = Callable[[torch.Tensor], torch.Tensor]

RANGE = 12.0
"""Integration runs over ±12 standard deviations; what lies beyond weighs less than 1e-32."""
PANELS = 96
"""Panels to start with, of width 1/4: every kink of the standard activations lies on an edge."""
NODES = 10
"""Gauss-Lobatto nodes per panel, exact to degree 17."""
TOLERANCE = 1e-10
"""A panel is halved until two halves agree with the whole within this, four digits beyond what is promised."""
MAX_HALVINGS = 36
"""Enough to narrow a jump down to where its panel no longer counts (0.25 / 2^36)."""
LARGE_MEAN_SHARE = 0.5
"""Share of E[φ²] that is the squared mean above which the mean, not the signal, would be what a forward gain keeps.
ReLU has .32 and trains with its forward gain, softplus .70 and sigmoid .86 do not."""
DEPTH_MARGIN = 2.0
"""How far above criticality a deep saturating net starts, see :func:`deep_gain`."""


@dataclass(frozen=True, slots=True)
class Gains:
    """Variance corrections of one activation.

    Attributes:
        forward: 1/√E[φ²].
        variance: 1/√Var[φ].
        backward: 1/√E[φ′²].
        mean: E[φ].
        slope: φ′(0), the derivative where small signals live.
    """

    forward: float
    variance: float
    backward: float
    mean: float
    slope: float


_FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], dict[str, float]]] = {
    # name -> (function of z and constants, defaults of the constants)
    NO_ACTIVATION: (lambda z: z, {}),
    "relu": (F.relu, {}),
    "relu6": (F.relu6, {}),
    "relu_squared": (lambda z: F.relu(z).square(), {}),
    "leaky_relu": (lambda z, negative_slope: F.leaky_relu(z, negative_slope), {"negative_slope": 0.01}),
    "prelu": (lambda z, negative_slope: F.leaky_relu(z, negative_slope), {"negative_slope": 0.25}),
    "rrelu": (lambda z, negative_slope: F.leaky_relu(z, negative_slope), {"negative_slope": 11 / 48}),
    "tanh": (torch.tanh, {}),
    "sigmoid": (torch.sigmoid, {}),
    "gelu": (F.gelu, {}),
    "quick_gelu": (lambda z: z * torch.sigmoid(1.702 * z), {}),
    "silu": (F.silu, {}),
    "mish": (F.mish, {}),
    "elu": (lambda z, alpha: F.elu(z, alpha), {"alpha": 1.0}),
    "celu": (lambda z, alpha: F.celu(z, alpha), {"alpha": 1.0}),
    "selu": (F.selu, {}),
    "softplus": (lambda z, beta: F.softplus(z, beta), {"beta": 1.0}),
    "softsign": (F.softsign, {}),
    "hardswish": (F.hardswish, {}),
    "hardsigmoid": (F.hardsigmoid, {}),
    "hardtanh": (lambda z, min_val, max_val: F.hardtanh(z, min_val, max_val), {"min_val": -1.0, "max_val": 1.0}),
    "logsigmoid": (F.logsigmoid, {}),
    "tanhshrink": (F.tanhshrink, {}),
    "softshrink": (lambda z, lambd: F.softshrink(z, lambd), {"lambd": 0.5}),
    "hardshrink": (lambda z, lambd: F.hardshrink(z, lambd), {"lambd": 0.5}),
    "sin": (lambda z, omega: torch.sin(omega * z), {"omega": 1.0}),
    "cos": (lambda z, omega: torch.cos(omega * z), {"omega": 1.0}),
    "gaussian": (lambda z: torch.exp(-z.square()), {}),
    "square": (torch.square, {}),
    "abs": (torch.abs, {}),
    "exp": (torch.exp, {}),
    "arctan": (torch.atan, {}),
    "asinh": (torch.asinh, {}),
}


def activation_fn(name: str, args: Args = ()) -> Elementwise:
    """The elementwise function called ``name``, its constants bound; unnamed constants take torch's defaults.

    Raises:
        RegistryError: no such activation; the nearest name is in the message.

    Example:
        >>> activation_fn("leaky_relu", (("negative_slope", 0.2),))(torch.tensor([-1.0, 2.0])).tolist()
        [-0.20000000298023224, 2.0]
    """
    if name not in _FUNCTIONS:
        raise RegistryError(f'unknown activation "{name}"; {nearest(name, _FUNCTIONS)}')
    fn, defaults = _FUNCTIONS[name]
    given = dict(args)
    constants = {key: given.get(key, default) for key, default in defaults.items()}
    return lambda z: fn(z, **constants)


def is_known(name: str) -> bool:
    """Whether :func:`activation_fn` has ``name``."""
    return name in _FUNCTIONS


def gains_for(name: str, args: Args = (), fn: Elementwise | None = None) -> Gains:
    """Gains of a named activation, or of ``fn`` where it is given; cached.

    Args:
        name: as in ``ParamSpec.activation``.
        args: constants, as in ``ParamSpec.activation_args``.
        fn: the elementwise function itself, for activations without a standard name; evaluated in float64.

    Example:
        >>> g = gains_for("relu")
        >>> round(g.forward, 6), round(g.backward, 6), round(g.mean, 6)
        (1.414214, 1.414214, 0.398942)
    """
    return _named(name, args) if fn is None else _integrate(fn)


@lru_cache(maxsize=512)
def _named(name: str, args: Args) -> Gains:
    return _integrate(activation_fn(name, args))


def gated_gain(name: str, args: Args = (), fn: Elementwise | None = None) -> float:
    """Gain of a matrix that reads a gated product φ(a)·b with a, b independent standard normals.

    E[(φ(a)·b)²] = E[φ(a)²]·E[b²], so it equals the forward gain of φ; SwiGLU's down-projection gets 1.677.

    Example:
        >>> round(gated_gain("silu"), 3)
        1.677
    """
    return gains_for(name, args, fn).forward


def recommended(name: str, args: Args = (), fn: Elementwise | None = None) -> float:
    """The one gain that trains.

    The forward gain, unless most of E[φ²] is the squared mean (sigmoid, softplus): a mean is the same for every input
    and carries nothing, so there the smaller of variance and backward gain is taken. SELU gets 1, variance 1/fan_in:
    its constants make E[φ²] = 1 (Klambauer et al. 2017); torch's 3/4 for "selu" is not that.

    Example:
        >>> [round(recommended(n), 2) for n in ("relu", "tanh", "selu", "sigmoid")]
        [1.41, 1.59, 1.0, 4.72]
    """
    g = gains_for(name, args, fn)
    share = (g.mean * g.forward) ** 2
    if share > LARGE_MEAN_SHARE:
        return min(g.variance, g.backward)
    return g.forward


def deep_gain(name: str, depth: int, args: Args = (), fn: Elementwise | None = None) -> float:
    """Gain for ``depth`` layers of a saturating activation: just above the edge of chaos, by what the depth allows.

    For odd saturating φ with slope s at 0 (tanh, softsign, arctan) the critical gain is 1/s: below it signals die,
    above it they turn chaotic (Poole et al. 2016; Schoenholz et al. 2017). With g²s² = 1 + ε the signal settles at a
    variance of order ε, where the gradient factor per layer is 1 - O(ε²); over L layers gradients are kept within a
    constant factor for ε = c/√L. That is our derivation, with c = ``DEPTH_MARGIN``, never above the gain for unit
    variance. For activations that do not saturate around 0 it is :func:`recommended`.

    Example:
        >>> [round(deep_gain("tanh", n), 2) for n in (2, 30, 100)]
        [1.55, 1.17, 1.1]
    """
    full = recommended(name, args, fn)
    g = gains_for(name, args, fn)
    phi = activation_fn(name, args) if fn is None else fn
    grid = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    right, left = phi(grid), phi(-grid)
    odd = bool((right + left).abs().max() < TOLERANCE)
    rises_ever_less = bool((right.diff() >= 0).all()) and float(right[1]) < float(grid[1]) * g.slope - TOLERANCE
    if not (odd and rises_ever_less) or depth < 1:
        return full
    return min(full, math.sqrt(1 + DEPTH_MARGIN / math.sqrt(depth)) / g.slope)


def _density(z: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def _with_slope(fn: Elementwise, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        point = z.detach().requires_grad_(True)
        value = fn(point)
        slope = torch.zeros_like(point)
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), slope.detach()


def _moments(fn: Elementwise, low: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Contributions to E[φ], E[φ²] and E[φ′²] of panels starting at ``low``: shape (panels, 3)."""
    nodes, weights = _lobatto()
    z = low[:, None] + width[:, None] * nodes
    value, slope = _with_slope(fn, z.reshape(-1))
    terms = torch.stack([value, value.square(), slope.square()], dim=-1).reshape(*z.shape, 3)
    return (terms * (_density(z) * weights * width[:, None])[..., None]).sum(dim=1)


@lru_cache(maxsize=1)
def _lobatto() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes in [0, 1], ends included, and weights that sum to 1.

    The ends matter: a kink between an end and the first inner node of a Gauss rule would never be noticed.
    """
    from numpy.polynomial import Legendre

    top = Legendre.basis(NODES - 1)
    inner = top.deriv().roots().real
    nodes = torch.tensor([-1.0, *inner, 1.0], dtype=torch.float64)
    weights = torch.tensor([2 / (NODES * (NODES - 1) * float(top(float(x))) ** 2) for x in nodes], dtype=torch.float64)
    return (nodes + 1) / 2, weights / 2


def _integrate(fn: Elementwise) -> Gains:
    """Adaptive composite Gauss-Lobatto; panels where the halves disagree with the whole are halved."""
    edges = torch.linspace(-RANGE, RANGE, PANELS + 1, dtype=torch.float64)
    low, width = edges[:-1], edges.diff()
    total = torch.zeros(3, dtype=torch.float64)
    for _ in range(MAX_HALVINGS):
        whole = _moments(fn, low, width)
        half = width / 2
        left, right = _moments(fn, low, half), _moments(fn, low + half, half)
        settled = ((left + right - whole).abs() <= TOLERANCE).all(dim=1)
        total += (left + right)[settled].sum(dim=0)
        low, width = low[~settled], half[~settled]
        if not len(low):
            break
        low, width = torch.cat([low, low + width]), torch.cat([width, width])
    else:
        total += _moments(fn, low, width).sum(dim=0)
    mean, second, slope_second = (float(v) for v in total)
    _, at_zero = _with_slope(fn, torch.zeros(1, dtype=torch.float64))
    return Gains(
        forward=_inverse_root(second),
        variance=_inverse_root(second - mean**2),
        backward=_inverse_root(slope_second),
        mean=mean,
        slope=float(at_zero),
    )


def _inverse_root(moment: float) -> float:
    """1/√moment; 1 where the activation passes nothing (a constant), since no gain can mend that."""
    return 1 / math.sqrt(moment) if moment > TOLERANCE else 1.0
