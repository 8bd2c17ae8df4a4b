"""Attention heads in the table of a model's weights."""

from __future__ import annotations

import torch
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.report.tables import folded_params, render_spec


class Attending(nn.Module):
    def __init__(self, *heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(8, n, batch_first=True) for n in heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x, x, x, need_weights=False)[0]
        return x


def test_heads_are_told_where_there_are_any() -> None:
    spec = analyze(Attending(2, 2), torch.randn(2, 3, 8))
    (titles,) = [line for line in render_spec(spec, width=120, color=False).splitlines() if "depth " in line]
    assert "heads" in titles
    assert "; 2 heads" in render_spec(spec, width=120, color=False)
    plain = analyze(nn.Linear(3, 2), torch.randn(2, 3))
    assert "heads" not in render_spec(plain, width=120, color=False)


def test_layers_of_different_heads_are_not_folded() -> None:
    counts = [len(folded_params(analyze(Attending(*heads), torch.randn(2, 3, 8)))) for heads in ((2, 2), (2, 4))]
    assert counts == [2, 4]
