"""Plain draws and constants: the same law for every element, whatever the connections."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from initadvisor.initializers.card import Card, Declared, Hyperparameter, Into, register
from initadvisor.initializers.maps import working_dtype
from initadvisor.types import Fans

Values = Mapping[str, float | str]


def draw_with(into: Into, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """A new tensor filled by ``into``, in float32 at least, and cast."""
    value = torch.empty(shape, dtype=working_dtype(dtype))
    into(value, generator)
    return value.to(dtype)


def normals(mean: float, std: float) -> Into:
    """Writes independent normals."""
    return lambda run, generator: run.normal_(mean, std, generator=generator)


def uniforms(low: float, high: float) -> Into:
    """Writes independent uniforms."""
    return lambda run, generator: run.uniform_(low, high, generator=generator)


def draw_uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Independent uniforms, drawn in float32 at least."""
    return draw_with(uniforms(low, high), shape, generator, dtype)


def truncation_correction(cut: float) -> float:
    """Standard deviation of a standard normal cut at ±``cut``: what a drawn std must be divided by.

    Example:
        >>> round(truncation_correction(2.0), 4), round(truncation_correction(3.0), 4)
        (0.8796, 0.9866)
    """
    inside = math.erf(cut / math.sqrt(2))
    return math.sqrt(1 - 2 * cut * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi) / inside)


def normal(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    mean: float = 0.0,
    std: float = 0.02,
) -> torch.Tensor:
    """Draw N(mean, (gain·std)²).

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> normal((2, 3), Fans(3, 2), gain=1.0, generator=g, dtype=torch.float32).shape
        torch.Size([2, 3])
    """
    return draw_with(normals(mean, gain * std), shape, generator, dtype)


def uniform(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    bound: float = 0.05,
    mean: float = 0.0,
) -> torch.Tensor:
    """Draw U(mean - gain·bound, mean + gain·bound)."""
    return draw_uniform(shape, mean - gain * bound, mean + gain * bound, generator, dtype)


def trunc_normal(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    mean: float = 0.0,
    std: float = 0.02,
    cut: float = 2.0,
) -> torch.Tensor:
    """Draw a normal cut at ±``cut`` standard deviations of the uncut law, whose final std is gain·std.

    The cut is relative and the std corrected for it. ``nn.init.trunc_normal_`` cuts at absolute ±2, which at std .02 is
    a hundred standard deviations and does nothing, and does not correct.
    """
    return draw_with(truncated(mean, gain * std, cut), shape, generator, dtype)


def truncated(mean: float, std: float, cut: float) -> Into:
    """Writes a cut normal by its inverse distribution function, so that one uniform makes one value."""
    wide = std / truncation_correction(cut)
    edge = math.erf(cut / math.sqrt(2))

    def into(run: torch.Tensor, generator: torch.Generator) -> None:
        run.uniform_(-edge, edge, generator=generator).erfinv_()
        # Rounding of erf and erfinv may step over the cut by one unit in the last place.
        run.mul_(wide * math.sqrt(2)).clamp_(-cut * wide, cut * wide).add_(mean)

    return into


def constant(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    value: float = 0.0,
) -> torch.Tensor:
    """Fill with gain·value."""
    return torch.full(shape, gain * value, dtype=dtype)


def zeros(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Fill with 0."""
    return torch.zeros(shape, dtype=dtype)


def ones(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Fill with gain (1 unless a gain is given)."""
    return torch.full(shape, gain, dtype=dtype)


def _number(args: Values, name: str, default: float) -> float:
    return float(args.get(name, default))


def _normal_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    return Declared(_number(args, "mean", 0.0), abs(gain) * _number(args, "std", 0.02))


def _uniform_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    bound, mean = abs(gain) * _number(args, "bound", 0.05), _number(args, "mean", 0.0)
    return Declared(mean, bound / math.sqrt(3), mean - bound, mean + bound)


def _truncated_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    mean, std, cut = _number(args, "mean", 0.0), abs(gain) * _number(args, "std", 0.02), _number(args, "cut", 2.0)
    edge = cut * std / truncation_correction(cut)
    return Declared(mean, std, mean - edge, mean + edge)


def _normal_sampler(fans: Fans, gain: float, args: Values) -> Into:
    return normals(_number(args, "mean", 0.0), gain * _number(args, "std", 0.02))


def _uniform_sampler(fans: Fans, gain: float, args: Values) -> Into:
    bound, mean = gain * _number(args, "bound", 0.05), _number(args, "mean", 0.0)
    return uniforms(mean - bound, mean + bound)


def _truncated_sampler(fans: Fans, gain: float, args: Values) -> Into:
    return truncated(_number(args, "mean", 0.0), gain * _number(args, "std", 0.02), _number(args, "cut", 2.0))


def _constant_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    value = gain * _number(args, "value", 0.0)
    return Declared(value, 0.0, value, value, exact=True)


MEAN = Hyperparameter(0.0, meaning="mean of the law")

register(
    Card(
        name="normal",
        fn=normal,
        declare=_normal_declared,
        sampler=_normal_sampler,
        summary="Normal draw with a fixed standard deviation.",
        formula="w ~ N(mean, (gain·std)²)",
        right_when="A convention fixes the scale: GPT-2's and BERT's .02, DCGAN's .02, embeddings of pre-norm models.",
        wrong_when="Depth without normalisation: a std that ignores fan-in lets signals grow or vanish with width.",
        args={"std": Hyperparameter(0.02, low=1e-6, high=10.0, log=True, meaning="standard deviation"), "mean": MEAN},
        references=("radford2019",),
        aliases=("random_normal",),
    )
)
register(
    Card(
        name="uniform",
        fn=uniform,
        declare=_uniform_declared,
        sampler=_uniform_sampler,
        summary="Uniform draw between fixed bounds.",
        formula="w ~ U(mean - gain·bound, mean + gain·bound), std = gain·bound/√3",
        right_when="A convention fixes the bound.",
        wrong_when="Deep nets: like any fixed scale it ignores fan-in.",
        args={"bound": Hyperparameter(0.05, low=1e-6, high=10.0, log=True, meaning="half the width"), "mean": MEAN},
        aliases=("random_uniform",),
    )
)
register(
    Card(
        name="trunc_normal",
        fn=trunc_normal,
        declare=_truncated_declared,
        sampler=_truncated_sampler,
        summary="Normal draw without tails, its std corrected for the cut.",
        formula="w ~ N(mean, σ²) cut at ±cut·σ, σ chosen so that the final std is gain·std",
        right_when="Transformers and heads, where a single outlier weight can dominate early training.",
        wrong_when="Deep nets without normalisation, unless std follows fan-in.",
        args={
            "std": Hyperparameter(0.02, low=1e-6, high=10.0, log=True, meaning="final standard deviation"),
            "cut": Hyperparameter(2.0, low=0.5, high=6.0, meaning="cut, in standard deviations of the uncut law"),
            "mean": MEAN,
        },
        references=("dosovitskiy2021",),
        deviation="nn.init.trunc_normal_ cuts at absolute bounds and leaves the std uncorrected; we do neither.",
        aliases=("truncated_normal",),
    )
)
register(
    Card(
        name="constant",
        fn=constant,
        declare=_constant_declared,
        summary="One value everywhere.",
        formula="w = gain·value",
        right_when="Biases with a meaning: a forget gate's 1, a rare class' log-odds, a LayerScale's 1e-5.",
        wrong_when="Weight matrices: identical units get identical gradients and stay identical.",
        args={"value": Hyperparameter(0.0, meaning="the value")},
    )
)
register(
    Card(
        name="zeros",
        fn=zeros,
        declare=lambda shape, fans, gain, args: Declared(0.0, 0.0, 0.0, 0.0, exact=True),
        summary="All zero.",
        formula="w = 0",
        right_when="Biases, norm shifts, the last weight of a residual branch, a readout over many features.",
        wrong_when="Any weight that has another zero in front of or behind it: no gradient ever reaches either.",
        references=("zhang2019fixup", "goyal2017"),
    )
)
register(
    Card(
        name="ones",
        fn=ones,
        declare=lambda shape, fans, gain, args: Declared(gain, 0.0, gain, gain, exact=True),
        summary="All one (times the gain).",
        formula="w = gain",
        right_when="Norm scales.",
        wrong_when="Weight matrices: identical units stay identical.",
    )
)
