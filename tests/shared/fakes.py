"""Hand-made schemes and small trainings for the tests of the trial room."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from initadvisor.graph.spec import Coverage, ModelSpec

SPEC = ModelSpec((), (), 1, Coverage(0, 0), "fingerprint")


class Fill:
    """A scheme that fills every matrix by one function of (tensor, generator) and zeroes the rest."""

    def __init__(self, name: str, fn: Callable[[torch.Tensor, torch.Generator], Any] | None = None) -> None:
        self.name, self.fn = name, fn

    def apply(self, model: nn.Module, *, seed: int = 0, batch: Any = None, loss: Any = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        assert self.fn is not None, "the current weights are never filled"
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    self.fn(p, generator)
                else:
                    p.zero_()


def xavier(name: str, gain: float = 1.0) -> Fill:
    return Fill(name, lambda p, g: nn.init.xavier_normal_(p, gain, generator=g))


def current() -> Fill:
    return Fill("current")


def tanh_mlp(
    depth: int = 3, width: int = 16, inputs: int = 4, outputs: int = 3, scale: float | None = None
) -> nn.Module:
    torch.manual_seed(0)
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    if scale is not None:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(scale)
    return model


def blobs(
    batches: int = 8, size: int = 32, inputs: int = 4, classes: int = 3, seed: int = 0
) -> list[Sequence[torch.Tensor]]:
    """Batches of a task a small net can learn: labels by the nearest of a few centres."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, inputs, generator=g) * 2
    found = []
    for _ in range(batches):
        y = torch.randint(classes, (size,), generator=g)
        x = centres[y] + torch.randn(size, inputs, generator=g)
        found.append((x, y))
    return found
