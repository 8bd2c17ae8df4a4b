"""Mimetic attention: pairs of projections whose product looks as it does in trained transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from initadvisor.errors import SchemeError
from initadvisor.initializers.card import Card, Declared, Hyperparameter, register
from initadvisor.initializers.maps import draw_maps
from initadvisor.types import Fans

_SHARES = {"query": 0.7, "key": 0.7, "value": 0.4, "out": 0.4}
"""α = β of the paper's vision transformers: query times key, value times output projection."""


def _factors(
    size: int, rank: int, noise: float, diagonal: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Left and right factor (size × rank each) of the best rank-``rank`` approximation of noise·Z + diagonal·I."""
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64) * noise
    matrix.diagonal().add_(diagonal)
    left, values, right = torch.linalg.svd(matrix)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root


def mimetic(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    part: str = "query",
    pair: float = 0.0,
    heads: float = 1.0,
    alpha: float = -1.0,
    beta: float = -1.0,
) -> torch.Tensor:
    """Draw one half of W_Q·W_Kᵀ ≈ α·Z + β·I (per head) or of W_V·W_O ≈ α·Z − β·I.

    Trockman & Kolter 2023, section 4. Z is d × d with variance 1/d, so that noise and identity weigh alike. The first
    matrix is cut to the rank of a head by its singular value decomposition; one half takes U·√Σ, the other V·√Σ. Both
    halves are filled by calls of their own, so both draw from the stream that ``pair`` names.

    Args:
        shape: of the projection.
        fans: say which axis is which.
        gain: further factor.
        generator: not read, since it is another one for the other half.
        dtype: of the result; computed in float64.
        part: ``"query"``, ``"key"``, ``"value"`` or ``"out"``.
        pair: number of the pair's common stream; every attention layer needs its own.
        heads: number of heads; of no effect on value and output.
        alpha: size of the noise; the paper's (.7 and .4) where it is negative.
        beta: size of the identity, likewise.

    Raises:
        SchemeError: the heads do not divide the projection, or the projection is wider than the model.

    Example:
        >>> def half(part):
        ...     return mimetic((8, 8), Fans(8, 8), gain=1.0, generator=torch.Generator(), dtype=torch.float64,
        ...                    part=part, alpha=0.0, beta=0.5)
        >>> bool(torch.allclose(half("query").T @ half("key"), 0.5 * torch.eye(8, dtype=torch.float64)))
        True
    """
    share = _SHARES[part]
    noise, diagonal = (share if value < 0 else value for value in (alpha, beta))
    count = round(heads) if part in ("query", "key") else 1
    shared = torch.Generator().manual_seed(round(pair))

    def draw(maps: int, out: int, inputs: int, kernel: tuple[int, ...]) -> torch.Tensor:
        width, total = (out, inputs) if part == "out" else (inputs, out)
        rank = total // count
        if kernel or total % count or rank > width:
            raise SchemeError(f"mimetic: {count} heads do not fit a {part} projection of shape {shape}")
        value = torch.empty(maps, out, inputs, dtype=torch.float64)
        for index in range(maps):
            for head in range(count):
                rows = slice(head * rank, (head + 1) * rank)
                if part in ("query", "key"):
                    pair_of = _factors(width, rank, noise / math.sqrt(width), diagonal, shared)
                    value[index, rows] = pair_of[part == "key"].T
                else:
                    left, right = _factors(width, rank, noise / math.sqrt(width), -diagonal, shared)
                    value[index] = left.T if part == "value" else right
        return gain * value

    return draw_maps(shape, fans, draw).to(dtype)


def _declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Mapping[str, float | str]) -> Declared:
    """Only the product of a pair has a law; the singular values of one half have no closed form."""
    return Declared(mean=None)


register(
    Card(
        name="mimetic",
        fn=mimetic,
        declare=_declared,
        summary="Attention whose query·key is near the identity and value·output near its negative, as after training.",
        formula="W_Q·W_Kᵀ = α·Z + β·I per head, cut to the head's rank; W_V·W_O = α·Z − β·I",
        right_when="Vision transformers trained from scratch on little data, with positions added to the tokens.",
        wrong_when="Language models, keys that several query heads share, or only one half of a pair is filled so.",
        args={
            "part": Hyperparameter("query", choices=("query", "key", "value", "out"), meaning="which projection"),
            "pair": Hyperparameter(0.0, low=0.0, high=2.0**53, meaning="number of the stream both halves draw from"),
            "heads": Hyperparameter(1.0, low=1.0, high=1024.0, meaning="number of heads"),
            "alpha": Hyperparameter(-1.0, low=-1.0, high=4.0, meaning="size of the noise; negative: the paper's"),
            "beta": Hyperparameter(-1.0, low=-1.0, high=4.0, meaning="size of the identity; negative: the paper's"),
        },
        references=("trockman2023",),
        deviation="Z follows from the number of the pair and not from the seed: both halves must be cut from one Z.",
        min_dims=2,
    )
)
