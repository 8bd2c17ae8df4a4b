"""The trainings the engine is timed on: one per way a model can behave on a processor.

What a stack saves is what the plain loop pays beside its arithmetic: calls, allocations, small products. So kinds of
model are there twice: with batches of 64, where arithmetic is much of a step, and smaller, where it is little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

BATCH, SMALL_BATCH = 64, 16
BATCHES = 12


@dataclass(frozen=True)
class Case:
    """One model with its data and optimizer.

    Attributes:
        name: for the table.
        build: makes the model.
        data: batches as a loader would yield them.
        optimizer: as the user gives it.
        steps: trained per member; as short as trials are, and long enough for 20 s of the plain loop.
        target: ratio the engine should reach over the plain loop.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], list[Any]]
    optimizer: Callable[..., torch.optim.Optimizer]
    steps: int
    target: float


def digits(shape: tuple[int, ...], batch: int = BATCH) -> list[Any]:
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, *shape)
    x, y = (x - x.mean()) / x.std(), torch.tensor(labels, dtype=torch.long)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: batch * BATCHES].view(BATCHES, batch)
    return [(x[r], y[r]) for r in rows]


def deep_mlp(depth: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for index in range(depth - 1):
        layers += [nn.Linear(64 if index == 0 else width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def plain_cnn(width: int = 16) -> nn.Module:
    layers: list[nn.Module] = []
    for index in range(15):
        layers += [nn.Conv2d(width if index else 1, width, 3, stride=2 if index == 7 else 1, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x))


def resnet() -> nn.Module:
    blocks = (Residual(16) for _ in range(4))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Rows(nn.Module):
    """A small pre-norm transformer over the eight rows of a digit."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.place)).mean(1))


class Reader(nn.Module):
    """An LSTM over the eight rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


SGD = partial(torch.optim.SGD, momentum=0.9)

CASES = (
    Case("deep MLP, 30 × 64", lambda: deep_mlp(30, 64), partial(digits, (64,)), SGD, 200, 10.0),
    Case("deep MLP, 30 × 32", lambda: deep_mlp(30, 32), partial(digits, (64,)), SGD, 200, 10.0),
    Case("deep MLP, 30 × 32, batch 16", lambda: deep_mlp(30, 32), partial(digits, (64,), SMALL_BATCH), SGD, 200, 10.0),
    Case("transformer, 4 blocks of 32", Rows, partial(digits, (8, 8)), torch.optim.AdamW, 100, 3.0),
    Case(
        "transformer, 4 blocks of 32, batch 16", Rows, partial(digits, (8, 8), SMALL_BATCH), torch.optim.AdamW, 100, 3.0
    ),
    Case("plain CNN, 15 × 16 channels", plain_cnn, partial(digits, (1, 8, 8)), SGD, 100, 2.5),
    Case("plain CNN, 15 × 8, batch 16", partial(plain_cnn, 8), partial(digits, (1, 8, 8), SMALL_BATCH), SGD, 100, 2.5),
    Case("ResNet with BatchNorm, 9 × 16", resnet, partial(digits, (1, 8, 8)), SGD, 100, 1.0),
    Case("LSTM, 32 units over 8 steps", Reader, partial(digits, (8, 8)), torch.optim.Adam, 400, 1.8),
)
