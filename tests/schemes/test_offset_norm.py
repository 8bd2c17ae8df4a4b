"""A norm whose scale is used as (1 + w), as Gemma's: neutral is zero, and every scheme that fills it knows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initadvisor
from initadvisor.schemes.values import SchemeKind
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


class PerClass(nn.Module):
    """A generator whose norm takes scale and shift from a table with a row per class, as (1 + scale) or as it is."""

    def __init__(self, neutral: float, packed: bool) -> None:
        super().__init__()
        self.neutral = neutral
        self.first, self.norm = nn.Linear(8, 4 * 4 * 8), nn.BatchNorm2d(8, affine=False)
        self.rows = nn.ModuleList([nn.Embedding(5, 16)] if packed else [nn.Embedding(5, 8), nn.Embedding(5, 8)])
        self.last = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.first(z).view(-1, 8, 4, 4))
        rows = [table(y) for table in self.rows] if len(self.rows) == 2 else self.rows[0](y).chunk(2, 1)
        scale, shift = (r[:, :, None, None] for r in rows)
        return torch.tanh(self.last(torch.relu(h * (self.neutral + scale if self.neutral else scale) + shift)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("neutral", [0.0, 1.0])
@pytest.mark.filterwarnings("error:the weights do not look freshly drawn")
def test_every_scheme_of_ours_starts_a_class_conditional_norm_neutral(neutral: float, packed: bool) -> None:
    batch = {"z": torch.randn(3, 8), "y": torch.tensor([0, 1, 2])}
    filled = [s for s in initadvisor.propose(PerClass(neutral, packed), batch) if s.kind is not SchemeKind.CURRENT]
    ours = [s for s in filled if s.kind is not SchemeKind.DEFAULT]
    assert any(s.name == "dcgan" for s in ours)
    for scheme in ours:
        model = PerClass(neutral, packed)
        scheme.apply(model, seed=0)
        scale, shift = torch.cat([table.weight.detach() for table in model.rows], 1).chunk(2, 1)
        assert float((neutral + scale - 1).abs().max()) < 0.1, scheme.name  # DCGAN's standard deviation is .02
        assert torch.equal(shift, torch.zeros(5, 8)), scheme.name
