"""A pass recorded on behalf of someone else, with gradients and from below a mode, is read like the analyzer's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from describe import facts
from families import FAMILIES
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from initadvisor.graph.analyze import analyze, read
from initadvisor.graph.capture import has_lazy, recording
from initadvisor.guard import preserve_model, preserve_process
from initadvisor.training.data import first_batch


class Meddling(TorchFunctionMode):
    """Lies below the recording and does sums of its own on all it sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and out.requires_grad:
            (out.detach() * 2).sum()
            out.register_hook(lambda grad: None)
        return out


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.c = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(checkpoint(self.b, self.a(x), use_reentrant=True))


class Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class OwnGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(Clamp.apply(self.a(x)))


BUILT = {
    **FAMILIES,
    "checkpointed": lambda: (Checkpointed(), torch.randn(4, 8)),
    "own gradient": lambda: (OwnGradient(), torch.randn(4, 8)),
}


@pytest.mark.parametrize("name", BUILT)
def test_the_reading_does_not_depend_on_who_records(name: str) -> None:
    torch.manual_seed(0)
    model, raw = BUILT[name]()
    model.train()
    if has_lazy(model):
        pytest.skip("shapes come with the first call")
    batch = first_batch(model, raw)
    told = facts(analyze(model, batch))
    with preserve_process(), preserve_model(model), torch.enable_grad(), recording(model, batch) as record:
        with Meddling():
            output = record.run()
        seen = facts(read(model, record.graph(output)))
    assert seen == told
