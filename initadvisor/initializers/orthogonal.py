"""Orthogonal draws: every singular value equal, so that depth multiplies nothing but the gain."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from initadvisor.errors import SchemeError, nearest
from initadvisor.initializers.card import Card, Declared, Hyperparameter, register
from initadvisor.initializers.maps import centre_tap, draw_maps, working_dtype
from initadvisor.types import Fans

SCALES = ("norm", "fan_in")


def haar(count: int, rows: int, columns: int, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """``count`` matrices with orthonormal columns (rows ≥ columns) or rows, uniform under the Haar measure.

    The reflectors of a Gaussian matrix' QR factorisation are those of independent Gaussian columns of shrinking length
    (Stewart, SIAM J. Numer. Anal. 17, 1980, section 3), so they are formed at once and multiplied out; the
    factorisation itself, half of the work, is never done.

    Returns:
        Shape (count, rows, columns), in float32 or float64.

    Example:
        >>> q = haar(1, 5, 3, torch.Generator().manual_seed(0), torch.float64)[0]
        >>> bool(torch.allclose(q.T @ q, torch.eye(3, dtype=torch.float64)))
        True
    """
    if rows < columns:
        return haar(count, columns, rows, generator, dtype).mT
    draws = torch.empty(count, rows, columns, dtype=dtype).normal_(generator=generator)
    below = draws.tril()
    first = draws.diagonal(dim1=-2, dim2=-1)
    length = torch.linalg.vector_norm(below, dim=-2)
    sign = torch.where(first < 0, -1.0, 1.0).to(dtype)
    # v = x + sign(x₁)·|x|·e₁ scaled so that v₁ = 1, and H = 1 - τ·v·vᵀ with τ = (|x₁| + |x|)/|x|.
    head = first + sign * length
    reflectors = below.div_(head.unsqueeze(-2))
    factors = head.abs() / length
    product: torch.Tensor = torch.linalg.householder_product(reflectors, factors)
    # Columns take the sign that makes R's diagonal positive; without it the law is not uniform.
    return product.mul_(-sign.unsqueeze(-2))


def orthogonal(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    scale: str = "norm",
) -> torch.Tensor:
    """Draw a (semi-)orthogonal matrix times gain for every map, the kernel flattened beside the input features.

    Args:
        shape: at least two map axes.
        fans: says which axes are outputs and inputs; groups and experts are drawn one by one.
        gain: the singular values.
        generator: source of randomness.
        dtype: of the result; the work is done in float32 at least, since QR has no half-precision kernel.
        scale: ``"norm"`` keeps the length of the vector, as torch does; ``"fan_in"`` keeps the size of single features
            also where outputs outnumber inputs, by a further √(outputs/inputs).

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> w = orthogonal((3, 5), Fans(5, 3), gain=2.0, generator=g, dtype=torch.float32)
        >>> bool(torch.allclose(w @ w.T, 4 * torch.eye(3), atol=1e-5))
        True
    """
    if scale not in SCALES:
        raise SchemeError(f'unknown scale "{scale}"; {nearest(scale, SCALES)}')
    working = working_dtype(dtype)

    def draw(maps: int, out: int, inputs: int, kernel: tuple[int, ...]) -> torch.Tensor:
        columns = inputs * math.prod(kernel)
        factor = gain * (math.sqrt(max(1.0, out / columns)) if scale == "fan_in" else 1.0)
        return haar(maps, out, columns, generator, working).mul(factor).reshape(maps, out, inputs, *kernel)

    return draw_maps(shape, fans, draw).to(dtype)


def delta_orthogonal(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Draw an orthogonal matrix at the kernel's centre, zeros elsewhere (Xiao et al. 2018, algorithm 2).

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> w = delta_orthogonal((4, 4, 3, 3), Fans(36, 36), gain=1.0, generator=g, dtype=torch.float32)
        >>> round(float(w[:, :, 1, 1].square().sum()), 4), float(w[:, :, 0, 0].abs().sum())
        (4.0, 0.0)
    """
    working = working_dtype(dtype)

    def draw(maps: int, out: int, inputs: int, kernel: tuple[int, ...]) -> torch.Tensor:
        if not kernel:
            raise SchemeError(f"delta_orthogonal needs a convolution kernel; shape {shape} has none, use orthogonal")
        value = torch.zeros(maps, out, inputs, *kernel, dtype=working)
        centre_tap(value, kernel).copy_(gain * haar(maps, out, inputs, generator, working))
        return value

    return draw_maps(shape, fans, draw).to(dtype)


def _map_sizes(shape: tuple[int, ...], fans: Fans) -> tuple[int, int, int]:
    """Outputs, inputs and kernel taps of one independent map."""
    out, inputs = shape[fans.out_dim], shape[fans.in_dim]
    if fans.out_dim < fans.in_dim:
        out //= fans.groups
    else:
        inputs //= fans.groups
    taps = math.prod(shape) // math.prod(shape[d] for d in (*fans.batch_dims, fans.out_dim, fans.in_dim))
    return out, inputs, taps


def _orthogonal_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Mapping[str, float | str]) -> Declared:
    out, inputs, taps = _map_sizes(shape, fans)
    columns = inputs * taps
    factor = math.sqrt(max(1.0, out / columns)) if args.get("scale", "norm") == "fan_in" else 1.0
    std = abs(gain) * factor / math.sqrt(max(out, columns))
    return Declared(0.0, std, -abs(gain) * factor, abs(gain) * factor)


def _delta_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Mapping[str, float | str]) -> Declared:
    out, inputs, taps = _map_sizes(shape, fans)
    return Declared(0.0, abs(gain) / math.sqrt(max(out, inputs) * taps), -abs(gain), abs(gain))


register(
    Card(
        name="orthogonal",
        fn=orthogonal,
        declare=_orthogonal_declared,
        summary="Random orthogonal matrix: all singular values equal the gain.",
        formula="W·Wᵀ = gain²·I (or Wᵀ·W where outputs outnumber inputs), Haar-uniform",
        right_when="Depth without normalisation, and recurrence: signals and gradients keep more than their mean size.",
        wrong_when="A wide expansion read as a norm: single features shrink by √(out/in) unless scale is fan_in.",
        args={"scale": Hyperparameter("norm", choices=SCALES, meaning="what keeps its size: the vector or a feature")},
        references=("saxe2014", "stewart1980"),
        deviation="Convolutions are flattened to (out, in·kernel) per group, as torch does without groups.",
        min_dims=2,
    )
)
register(
    Card(
        name="delta_orthogonal",
        fn=delta_orthogonal,
        declare=_delta_declared,
        summary="Orthogonal at the kernel's centre, zero around it.",
        formula="W[:, :, centre] = gain·Q, 0 elsewhere",
        right_when="Very deep plain convolutional nets: the layer as a whole is an isometry at every pixel.",
        wrong_when="Shallow or normalised CNNs, where spatial taps that start at zero only cost time.",
        references=("xiao2018",),
        deviation="Where inputs outnumber outputs rows are orthonormal; the paper asks for outputs ≥ inputs.",
        min_dims=3,
    )
)
