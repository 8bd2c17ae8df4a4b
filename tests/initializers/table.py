"""One row per initializer: the arguments its contract is tried with. An unlisted card fails the suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from initadvisor.initializers.card import Card
from initadvisor.initializers.registry import get
from initadvisor.types import Fans


@dataclass(frozen=True)
class Row:
    """How a card is tried.

    Attributes:
        shapes: tensors it must fill, with their fans.
        args: further arguments.
        scales: the standard deviation is proportional to the gain.
        random: two generators give two tensors.
    """

    shapes: tuple[tuple[tuple[int, ...], Fans], ...]
    args: dict[str, Any] = field(default_factory=dict)
    scales: bool = True
    random: bool = True


MATRIX = ((96, 64), Fans(64, 96))
WIDE = ((48, 160), Fans(160, 48))
TRANSPOSED = ((64, 96), Fans(64, 96, out_dim=1, in_dim=0))
CONV = ((32, 24, 3, 3), Fans(24 * 9, 32 * 9))
GROUPED = ((32, 6, 3, 3), Fans(6 * 9, 8 * 9, groups=4))
DEPTHWISE = ((32, 1, 3, 3), Fans(9, 9, groups=32))
CONV_T = ((24, 32, 4, 4), Fans(24 * 4, 32 * 4, out_dim=1, in_dim=0))
EXPERTS = ((4, 40, 24), Fans(40, 24, out_dim=2, in_dim=1, batch_dims=(0,)))
VECTOR = ((257,), Fans(64, 1))
MAPS = (MATRIX, WIDE, TRANSPOSED, CONV, GROUPED, DEPTHWISE, CONV_T, EXPERTS)
ANY = (*MAPS, VECTOR)

TABLE: dict[str, Row] = {
    "normal": Row(ANY, {"std": 0.3, "mean": 0.1}),
    "uniform": Row(ANY, {"bound": 0.4, "mean": -0.2}),
    "trunc_normal": Row(ANY, {"std": 0.3, "cut": 1.5}),
    "constant": Row(ANY, {"value": 0.7}, scales=False, random=False),
    "zeros": Row(ANY, scales=False, random=False),
    "ones": Row(ANY, scales=False, random=False),
    "variance_scaling": Row(ANY, {"mode": "fan_avg", "law": "trunc_normal"}),
    "xavier_normal": Row(ANY),
    "xavier_uniform": Row(ANY),
    "kaiming_normal": Row(ANY, {"mode": "fan_out"}),
    "kaiming_uniform": Row(ANY),
    "lecun_normal": Row(ANY),
    "lecun_uniform": Row(ANY),
    "torch_linear": Row(ANY),
    "orthogonal": Row(MAPS, {"scale": "fan_in"}),
    "delta_orthogonal": Row((CONV, GROUPED, CONV_T)),
    "identity": Row((MATRIX, WIDE, TRANSPOSED, EXPERTS), random=False),
    "dirac": Row((CONV, GROUPED, DEPTHWISE, CONV_T), random=False),
    "sparse": Row(MAPS, {"connections": 12.0}),
    "zero_init": Row(MAPS, random=False),
    "siren_first": Row(ANY),
    "siren_hidden": Row(ANY, {"omega": 20.0}),
    "vector": Row((((3,), Fans(1, 1)),), {"values": "0.5 -1.25 2"}, random=False),
    "mamba_a_log": Row((((48, 16), Fans(0, 0)), ((5, 7), Fans(0, 0))), scales=False, random=False),
    "mamba2_a_log": Row((VECTOR,), {"low": 2.0, "high": 9.0}, scales=False),
    "mamba_dt_bias": Row((VECTOR,), {"low": 0.002, "high": 0.3}, scales=False),
    "mimetic": Row(
        (((24, 32), Fans(32, 24)), ((32, 24), Fans(32, 24, out_dim=1, in_dim=0))),
        {"part": "key", "pair": 5.0, "heads": 3.0},
        random=False,
    ),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fill(
    card: Card | str, shape: tuple[int, ...], fans: Fans, *, gain: float = 1.0, seed: int = 0, **more: Any
) -> torch.Tensor:
    card = get(card) if isinstance(card, str) else card
    dtype = more.pop("dtype", torch.float32)
    return card.fn(shape, fans, gain=gain, generator=generator(seed), dtype=dtype, **more)
