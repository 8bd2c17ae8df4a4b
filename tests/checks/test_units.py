"""Race and audit count the same dead units, whatever the layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.checks.runner import check
from initadvisor.graph.analyze import analyze
from initadvisor.training.engine.metrics import measure_flow
from initadvisor.training.task import make_task

UNITS = 20


class Moved(nn.Module):
    """A convolution over time whose channels are taken to the end before the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(3, UNITS, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).transpose(1, 2).relu().transpose(1, 2)


class Net(nn.Module):
    def __init__(self, layout: str) -> None:
        super().__init__()
        layers = {"N,C": nn.Linear(3, UNITS), "N,T,C": nn.Linear(3, UNITS), "N,C,L": nn.Conv1d(3, UNITS, 3, padding=1)}
        layers |= {"N,C,H,W": nn.Conv2d(3, UNITS, 3, padding=1), "N,C,D,H,W": nn.Conv3d(3, UNITS, 1)}
        self.moved = layout == "moved"
        self.first = Moved() if self.moved else layers[layout]
        self.channels = 1 if layout != "N,T,C" else -1
        self.head = nn.Linear(UNITS, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x) if self.moved else self.first(x).relu()
        h = h.movedim(self.channels, -1)
        return self.head(h.reshape(len(x), -1, UNITS).mean(1))


SHAPES = {
    "N,C": (3,),
    "N,T,C": (7, 3),
    "N,C,L": (3, 9),
    "N,C,H,W": (3, 5, 4),
    "N,C,D,H,W": (3, 2, 3, 4),
    "moved": (3, 9),
}


@settings(deadline=None, max_examples=24)
@given(layout=st.sampled_from(sorted(SHAPES)), dead=st.integers(0, UNITS - 1), seed=st.integers(0, 99))
def test_dead_units_are_counted_along_the_features(layout: str, dead: int, seed: int) -> None:
    torch.manual_seed(seed)
    net = Net(layout)
    layer = net.first.layer if isinstance(net.first, Moved) else net.first
    nn.init.constant_(layer.bias, 5.0)  # type: ignore[union-attr,arg-type]
    layer.bias.data[:dead] = -50.0  # type: ignore[union-attr,index]
    batch = (torch.rand(16, *SHAPES[layout]), torch.randint(2, (16,)))
    found = [f for f in check(net, batch) if f.code == "INI401"]
    assert bool(found) == (dead / UNITS > 0.5 + 4 * 0.5 / UNITS**0.5)
    if found:
        assert found[0].message.startswith(f"{dead} of {UNITS} ")
    task = make_task(net, batch, lr=0.1)
    flow = measure_flow(task, task.member(), analyze(net, batch), 0, 0)
    assert flow is not None
    assert flow.dead_share[0] == pytest.approx(dead / UNITS)
