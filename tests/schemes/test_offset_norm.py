"""A norm whose scale is used as (1 + w), as Gemma's: neutral is zero, and every scheme that fills it knows."""

from __future__ import annotations

import torch
from torch import nn

import initadvisor
from initadvisor.types import CURRENT


class OffsetNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1.0 + self.weight)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.up, self.head = (
            nn.Linear(8, 16),
            OffsetNorm(16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        return self.head(x + torch.relu(self.up(self.norm(x))))


def test_the_offset_is_read_and_no_scheme_doubles_the_signal() -> None:
    torch.manual_seed(0)
    batch = torch.randn(32, 8), torch.randint(3, (32,))
    assert initadvisor.analyze(Net(), batch)["norm.weight"].offset == 1.0
    filled = [s for s in initadvisor.propose(Net(), batch) if s.name != CURRENT]
    assert filled
    for scheme in filled:
        model = Net()
        scheme.apply(model, seed=0)
        assert torch.equal(model.norm.weight, torch.zeros(16)), scheme.name
