"""Convolutional networks on 8×8 digits, plain and residual, with and without normalisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.regret import data
from benchmarks.regret.task import Task, adam, sgd

Norm = Callable[[int], nn.Module]


def plain_cnn(*, layers: int, channels: int, norm: Norm | None = None) -> nn.Sequential:
    """``layers`` 3×3 convolutions with ReLU, halved once, and a linear head over the mean of all places."""
    parts: list[nn.Module] = []
    fan_in = 1
    for index in range(layers):
        parts.append(nn.Conv2d(fan_in, channels, 3, stride=2 if index in (1, 3) else 1, padding=1))
        if norm is not None:
            parts.append(norm(channels))
        parts.append(nn.ReLU())
        fan_in = channels
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the identity."""

    def __init__(self, channels: int, norm: Norm | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=norm is None)
        self.norm1 = norm(channels) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=norm is None)
        self.norm2 = norm(channels) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


def residual_cnn(*, blocks: int, channels: int, norm: Norm | None) -> nn.Sequential:
    """A strided stem, ``blocks`` residual blocks and a linear head."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        *(ResidualBlock(channels, norm) for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


TASKS = (
    Task(
        name="cnn_plain_12",
        family="cnn_plain",
        build=partial(plain_cnn, layers=12, channels=16),
        load=data.digit_images,
        optimizer=sgd(),
        lrs=(0.01, 0.03, 0.1),
        steps=200,
        batch_size=32,
    ),
    Task(
        name="cnn_batchnorm",
        family="cnn_plain",
        build=partial(plain_cnn, layers=4, channels=16, norm=nn.BatchNorm2d),
        load=data.digit_images,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=150,
        batch_size=32,
        expected_null=True,
    ),
    Task(
        name="resnet_batchnorm",
        family="cnn_residual",
        build=partial(residual_cnn, blocks=4, channels=12, norm=nn.BatchNorm2d),
        load=data.digit_images,
        optimizer=sgd(),
        lrs=(0.01, 0.03, 0.1),
        steps=150,
        batch_size=32,
    ),
    Task(
        name="resnet_plain",
        family="cnn_residual",
        build=partial(residual_cnn, blocks=8, channels=12, norm=None),
        load=data.digit_images,
        optimizer=sgd(),
        lrs=(0.01, 0.03, 0.1),
        steps=150,
        batch_size=32,
    ),
    Task(
        name="resnet_groupnorm",
        family="cnn_residual",
        build=partial(residual_cnn, blocks=3, channels=12, norm=partial(nn.GroupNorm, 3)),
        load=data.digit_images,
        optimizer=adam(),
        lrs=(0.001, 0.003, 0.01),
        steps=200,
        batch_size=32,
        expected_null=True,
    ),
)
