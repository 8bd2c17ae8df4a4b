"""What needs a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initadvisor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def _model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 36, 16), nn.Tanh(), nn.Linear(16, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_on_the_gpu_gets_the_numbers_of_one_on_the_cpu(dtype: torch.dtype) -> None:
    batch = torch.randn(16, 3, 6, 6), torch.randint(4, (16,))
    for scheme in initadvisor.propose(_model(), batch):
        if scheme.calibrations:
            continue  # what is measured on data is measured where the model is, to rounding
        here, there = _model().to(dtype), _model().to("cuda", dtype)
        scheme.apply(here, seed=5)
        scheme.apply(there, seed=5)
        for (name, a), b in zip(here.named_parameters(), there.parameters(), strict=True):
            assert b.device.type == "cuda"
            assert torch.equal(a, b.cpu()), f"{scheme.name}: {name}"


def test_the_gpu_is_read_as_the_cpu_is() -> None:
    batch = torch.randn(16, 3, 6, 6), torch.randint(4, (16,))
    here = initadvisor.analyze(_model(), batch)
    there = initadvisor.analyze(_model().cuda(), tuple(t.cuda() for t in batch))
    assert here.params == there.params and here.branches == there.branches
