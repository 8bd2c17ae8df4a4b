"""Dynamics of state-space layers: decay rates and step sizes that span many time scales."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from initadvisor.errors import SchemeError
from initadvisor.initializers.card import Card, Declared, Hyperparameter, register
from initadvisor.initializers.maps import working_dtype
from initadvisor.initializers.random import draw_uniform
from initadvisor.types import Fans

Values = Mapping[str, float | str]

_STEPS = 2000
"""Panels of the midpoint rule for the moments of dt_bias; its integrand is smooth, the error is below 1e-6."""


def mamba_a_log(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Fill ln(gain·n) along the last axis, n = 1 … N, so that A = -exp(A_log) decays at rates gain·n.

    Mamba's "S4D-Real" start (Gu and Dao 2023, section 3.6). Nothing is random.

    Args:
        shape: (channels, N).
        fans: not read.
        gain: multiplies every rate.
        generator: not read.
        dtype: of the result.

    Example:
        >>> w = mamba_a_log((1, 3), Fans(0, 0), gain=1.0, generator=torch.Generator(), dtype=torch.float32)
        >>> w.exp().tolist()
        [[1.0, 2.0, 3.0]]
    """
    if gain <= 0:
        raise SchemeError(f"mamba_a_log takes a positive gain, not {gain:g}: rates of decay are positive")
    rates = gain * torch.arange(1, shape[-1] + 1, dtype=torch.float64)
    return rates.log().expand(shape).to(dtype).contiguous()


def mamba2_a_log(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    low: float = 1.0,
    high: float = 16.0,
) -> torch.Tensor:
    """Draw ln(gain·U(low, high)): Mamba-2's one rate of decay per head.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> w = mamba2_a_log((64,), Fans(0, 0), gain=1.0, generator=g, dtype=torch.float32)
        >>> 0 <= float(w.min()) and float(w.max()) <= math.log(16)
        True
    """
    if gain <= 0 or not 0 < low < high:
        raise SchemeError(f"mamba2_a_log takes 0 < low < high and a positive gain, not {low:g}, {high:g}, {gain:g}")
    return draw_uniform(shape, gain * low, gain * high, generator, working_dtype(dtype)).log_().to(dtype)


def inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    """The x with softplus(x) = value, without overflow for large and without cancellation for small values.

    Example:
        >>> x = torch.tensor([1e-4, 1.0, 50.0], dtype=torch.float64)
        >>> bool(torch.allclose(torch.nn.functional.softplus(inverse_softplus(x), threshold=100), x, rtol=1e-9))
        True
    """
    return value + torch.log(-torch.expm1(-value))


def mamba_dt_bias(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    low: float = 0.001,
    high: float = 0.1,
    floor: float = 0.0001,
) -> torch.Tensor:
    """Draw softplus⁻¹(gain·Δ) with Δ log-uniform in [low, high]: a step size per channel (Gu and Dao 2023, sec. 3.6).

    Args:
        shape: any.
        fans: not read.
        gain: multiplies every step.
        generator: source of randomness.
        dtype: of the result; drawn in float32 at least.
        low: shortest step before ``gain``.
        high: longest step before ``gain``.
        floor: least step, as in the authors' code.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> w = mamba_dt_bias((1000,), Fans(0, 0), gain=1.0, generator=g, dtype=torch.float64)
        >>> step = torch.nn.functional.softplus(w)
        >>> 0.001 <= float(step.min()) and float(step.max()) <= 0.1
        True
    """
    if gain <= 0 or not 0 < low < high:
        raise SchemeError(f"mamba_dt_bias takes 0 < low < high and a positive gain, not {low:g}, {high:g}, {gain:g}")
    exponent = draw_uniform(shape, math.log(low), math.log(high), generator, working_dtype(dtype))
    # Rounding of exp may step over the ends by one unit in the last place.
    steps = exponent.exp_().clamp_(low, high).mul_(gain).clamp_(min=floor)
    return inverse_softplus(steps).to(dtype)


def _a_log_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    logs = (gain * torch.arange(1, shape[-1] + 1, dtype=torch.float64)).log()
    return Declared(float(logs.mean()), float(logs.std(correction=0)), float(logs.min()), float(logs.max()), exact=True)


def _a2_log_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    low, high = gain * float(args.get("low", 1.0)), gain * float(args.get("high", 16.0))

    def mean_of_log(power: int) -> float:
        """E[(ln U)^power] for U uniform between low and high, from the antiderivatives of ln and ln²."""

        def antiderivative(x: float) -> float:
            log = math.log(x)
            return x * (log - 1) if power == 1 else x * (log**2 - 2 * log + 2)

        return (antiderivative(high) - antiderivative(low)) / (high - low)

    mean = mean_of_log(1)
    return Declared(mean, math.sqrt(mean_of_log(2) - mean**2), math.log(low), math.log(high))


def _dt_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    low, high = float(args.get("low", 0.001)), float(args.get("high", 0.1))
    floor = float(args.get("floor", 0.0001))
    share = (torch.arange(_STEPS, dtype=torch.float64) + 0.5) / _STEPS
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def at(u: torch.Tensor) -> torch.Tensor:
        steps = gain * torch.exp(math.log(low) + u * math.log(high / low))
        return inverse_softplus(steps.clamp(min=floor))

    values, (least, most) = at(share), at(ends).tolist()
    # Drawn in float32 near ln(low): the last digits of the bounds are not kept.
    slack = 1e-5 * abs(least)
    return Declared(float(values.mean()), float(values.std(correction=0)), least - slack, most + slack)


register(
    Card(
        name="mamba_a_log",
        fn=mamba_a_log,
        declare=_a_log_declared,
        summary="Decay rates 1 … N of a Mamba state, as logarithms.",
        formula="A_log[c, n] = ln(gain·n), n = 1 … N; A = -exp(A_log)",
        right_when="The A_log of a Mamba (selective state-space) layer.",
        wrong_when="Anything that is not exponentiated; Mamba-2 has one rate per head (mamba2_a_log).",
        references=("gu2023",),
        min_dims=2,
    )
)
register(
    Card(
        name="mamba2_a_log",
        fn=mamba2_a_log,
        declare=_a2_log_declared,
        summary="One random decay rate per head of a Mamba-2 layer, as a logarithm.",
        formula="A_log = ln(gain·u), u ~ U(low, high)",
        right_when="The A_log vector of a Mamba-2 layer.",
        wrong_when="Mamba's (channels, N) table, which wants the fixed rates of mamba_a_log.",
        args={
            "low": Hyperparameter(1.0, low=1e-3, high=1e3, log=True, meaning="slowest rate"),
            "high": Hyperparameter(16.0, low=1e-3, high=1e4, log=True, meaning="fastest rate"),
        },
        references=("dao2024",),
    )
)
register(
    Card(
        name="mamba_dt_bias",
        fn=mamba_dt_bias,
        declare=_dt_declared,
        summary="Bias behind a softplus whose output is a step size, log-uniform over two decades.",
        formula="b = softplus⁻¹(gain·Δ), ln Δ ~ U(ln low, ln high), Δ ≥ floor",
        right_when="The dt bias of Mamba and Mamba-2 layers.",
        wrong_when="Biases that no softplus follows.",
        args={
            "low": Hyperparameter(0.001, low=1e-6, high=1.0, log=True, meaning="shortest step"),
            "high": Hyperparameter(0.1, low=1e-5, high=10.0, log=True, meaning="longest step"),
            "floor": Hyperparameter(0.0001, low=1e-8, high=1.0, log=True, meaning="least step after the gain"),
        },
        references=("gu2023",),
    )
)
