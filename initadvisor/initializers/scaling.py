"""Variance-scaling draws: the standard deviation follows the connection counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch

from initadvisor.errors import SchemeError, nearest
from initadvisor.initializers.card import Card, Declared, Hyperparameter, Initializer, Into, Sampler, register
from initadvisor.initializers.random import draw_with, normals, truncated, truncation_correction, uniforms
from initadvisor.types import Fans

MODES: Mapping[str, Callable[[Fans], float]] = {
    "fan_in": lambda fans: fans.fan_in,
    "fan_out": lambda fans: fans.fan_out,
    "fan_avg": lambda fans: fans.fan_avg,
}
LAWS = ("normal", "uniform", "trunc_normal")
CUT = 2.0
"""Where truncated laws are cut, in standard deviations; the convention of JAX and TensorFlow."""


def scaled_std(fans: Fans, gain: float, mode: str) -> float:
    """gain/√fan.

    Raises:
        SchemeError: unknown mode, or a tensor without that count.

    Example:
        >>> scaled_std(Fans(100, 25), 2.0, "fan_in"), scaled_std(Fans(100, 25), 2.0, "fan_out")
        (0.2, 0.4)
    """
    if mode not in MODES:
        raise SchemeError(f'unknown mode "{mode}"; {nearest(mode, MODES)}')
    fan = MODES[mode](fans)
    if fan <= 0:
        raise SchemeError(f"{mode} is {fan:g}: this tensor has no such connection count, choose a fixed scale for it")
    return gain / math.sqrt(fan)


def variance_scaling(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    mode: str = "fan_in",
    law: str = "normal",
) -> torch.Tensor:
    """Draw with mean 0 and std gain/√fan, by a normal, uniform or truncated law.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> w = variance_scaling((256, 64), Fans(64, 256), gain=2**0.5, generator=g, dtype=torch.float32)
        >>> round(float(w.std()), 2)
        0.18
    """
    return draw_with(_into(fans, gain, mode, law), shape, generator, dtype)


def _into(fans: Fans, gain: float, mode: str, law: str) -> Into:
    std = scaled_std(fans, gain, mode)
    if law == "normal":
        return normals(0.0, std)
    if law == "uniform":
        return uniforms(-std * math.sqrt(3), std * math.sqrt(3))
    if law == "trunc_normal":
        return truncated(0.0, std, CUT)
    raise SchemeError(f'unknown law "{law}"; {nearest(law, LAWS)}')


def _sampler(fans: Fans, gain: float, args: Mapping[str, float | str]) -> Into:
    return _into(fans, gain, str(args.get("mode", "fan_in")), str(args.get("law", "normal")))


def _declared(
    shape: tuple[int, ...],
    fans: Fans,
    gain: float,
    args: Mapping[str, float | str],
    mode: str = "fan_in",
    law: str = "normal",
) -> Declared:
    std = abs(scaled_std(fans, gain, str(args.get("mode", mode))))
    law = str(args.get("law", law))
    if law == "uniform":
        return Declared(0.0, std, -std * math.sqrt(3), std * math.sqrt(3))
    if law == "trunc_normal":
        edge = CUT * std / truncation_correction(CUT)
        return Declared(0.0, std, -edge, edge)
    return Declared(0.0, std)


def _fixed(mode: str, law: str, factor: float = 1.0) -> tuple[Initializer, Callable[..., Declared], Sampler]:
    """A member of the family with mode and law bound; ``factor`` multiplies every gain."""

    def fill(
        shape: tuple[int, ...],
        fans: Fans,
        *,
        gain: float,
        generator: torch.Generator,
        dtype: torch.dtype,
        **args: float | str,
    ) -> torch.Tensor:
        chosen = str(args.get("mode", mode))
        return variance_scaling(shape, fans, gain=gain * factor, generator=generator, dtype=dtype, mode=chosen, law=law)

    def declare(shape: tuple[int, ...], fans: Fans, gain: float, args: Mapping[str, float | str]) -> Declared:
        return _declared(shape, fans, gain * factor, args, mode, law)

    def sampler(fans: Fans, gain: float, args: Mapping[str, float | str]) -> Into:
        return _into(fans, gain * factor, str(args.get("mode", mode)), law)

    return fill, declare, sampler


MODE = Hyperparameter("fan_in", choices=tuple(MODES), meaning="which connection count")

register(
    Card(
        name="variance_scaling",
        fn=variance_scaling,
        declare=partial(_declared, mode="fan_in", law="normal"),
        sampler=_sampler,
        summary="The general family: std = gain/√fan by any count and law.",
        formula="std(w) = gain/√fan",
        right_when="You know which of signal (fan_in) and gradient (fan_out) must be kept.",
        wrong_when="Very deep plain nets, where orthogonal draws keep far more than the mean.",
        args={"mode": MODE, "law": Hyperparameter("normal", choices=LAWS, meaning="shape of the draw")},
        references=("glorot2010", "he2015"),
    )
)
for _law in ("normal", "uniform"):
    _fill, _declare, _draws = _fixed("fan_avg", _law)
    register(
        Card(
            name=f"xavier_{_law}",
            fn=_fill,
            declare=_declare,
            sampler=_draws,
            summary=f"Glorot and Bengio's compromise between signal and gradient, {_law} law.",
            formula="std(w) = gain·√(2/(fan_in + fan_out))",
            right_when="tanh, linear and attention projections of moderate depth; graph networks.",
            wrong_when="ReLU nets without a gain: signals halve in variance at every layer.",
            references=("glorot2010",),
            aliases=(f"glorot_{_law}",),
        )
    )
    _fill, _declare, _draws = _fixed("fan_in", _law)
    register(
        Card(
            name=f"kaiming_{_law}",
            fn=_fill,
            declare=_declare,
            sampler=_draws,
            summary=f"He et al.'s scaling by one fan with the activation's gain, {_law} law.",
            formula="std(w) = gain/√fan; gain = √2 for ReLU",
            right_when="ReLU-like activations, with the gain of the very activation; fan_out keeps gradients in CNNs.",
            wrong_when="Saturating activations, and residual nets whose branches should start small.",
            args={"mode": MODE},
            references=("he2015",),
            aliases=(f"he_{_law}",),
        )
    )
    _fill, _declare, _draws = _fixed("fan_in", _law)
    register(
        Card(
            name=f"lecun_{_law}",
            fn=_fill,
            declare=_declare,
            sampler=_draws,
            summary=f"Variance 1/fan_in, {_law} law.",
            formula="std(w) = gain/√fan_in",
            right_when="SELU (its constants assume variance 1/fan_in), linear maps, and tanh near zero.",
            wrong_when="Deep ReLU nets: signals halve in variance at every layer.",
            references=("lecun1998", "klambauer2017"),
        )
    )
_fill, _declare, _draws = _fixed("fan_in", "uniform", 1 / math.sqrt(3))
register(
    Card(
        name="torch_linear",
        fn=_fill,
        declare=_declare,
        sampler=_draws,
        summary="What nn.Linear and nn.Conv draw by themselves: U(±1/√fan_in).",
        formula="w ~ U(-gain/√fan_in, gain/√fan_in), std = gain/√(3·fan_in)",
        right_when="Normalised or shallow nets, where the scale hardly matters.",
        wrong_when="Deep plain nets: its variance is six times below He's and signals die.",
        references=("he2015",),
        aliases=("lora_a",),
        deviation="torch writes it as kaiming_uniform(a=√5), which is this bound and not He's rule.",
    )
)
