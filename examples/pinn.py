"""A physics-informed network: u'' = -16 sin 4x on [-π, π], u = 0 at both ends. The loss differentiates the model.

Ask:  initadvisor advise examples/pinn.py
Prove: python examples/pinn.py     (asks, then trains in full both ways and shows both curves)
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LAYERS, WIDTH, FREQUENCY = 6, 32, 4.0
ENDS = torch.tensor([[-math.pi], [math.pi]])


class Solution(nn.Module):
    """u(x): tanh layers on x, brought to [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [1] + [WIDTH] * (LAYERS - 1)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*layers, nn.Linear(WIDTH, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (points, 1) to the same."""
        return self.net(x / math.pi)


def residual(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """How far the equation and its boundary are from being met, as a mean square."""
    with torch.enable_grad():  # also where the loss is only read
        x = batch[0].detach().requires_grad_(True)
        u = model(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
        inside = (bend + FREQUENCY**2 * torch.sin(FREQUENCY * x)).square().mean() / FREQUENCY**4
        return inside + model(ENDS).square().mean()


def places(count: int, seed: int) -> torch.Tensor:
    """Points between the ends."""
    return (2 * torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) - 1) * math.pi


def target() -> dict[str, object]:
    """The training as its owner wrote it, as arguments of `initadvisor.advise`."""
    torch.manual_seed(0)
    return {
        "model": Solution(),
        "sample_batch": DataLoader(TensorDataset(places(2048, 0)), batch_size=64, shuffle=True),
        "loss": residual,
        "optimizer": torch.optim.Adam,
        "lr": (0.001, 0.003, 0.01),
        "steps": 600,
    }


if __name__ == "__main__":
    from compare import prove

    prove(target(), (places(512, 1),), "pinn.png")
