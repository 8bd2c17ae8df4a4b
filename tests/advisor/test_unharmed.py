"""After `advise`, `analyze`, `propose` and `check` the user's model and process are what they were.

Also when the loss raises in the middle, when the user presses Ctrl-C, and when the model itself meddles with globals.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import initadvisor
from initadvisor.guard import run_eagerly
from initadvisor.training.engine.jobs import Job, work
from initadvisor.training.engine.member import MemberKey, MemberState, pack, unpack
from initadvisor.training.task import make_task


class Net(nn.Module):
    """Something of everything that a forward or backward pass may change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        random.random(), np.random.rand(), torch.rand(1)
        states, _ = self.rnn(self.body(x).unsqueeze(1))
        return self.head(states[:, -1])


def make() -> tuple[Net, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    model = Net()
    model.body[3].eval()
    model.body[0].bias.requires_grad_(False)
    x, y = torch.randn(48, 6), torch.randint(3, (48,))
    nn.functional.cross_entropy(model(x), y).backward()
    model.head.register_forward_hook(lambda *_: None)
    model.head.weight.register_hook(lambda g: g)
    return model, (x, y)


def is_flushing() -> bool:
    return bool((torch.tensor([1e-30]) * 1e-10 == 0).item())


def world(model: nn.Module, data: Any) -> dict[str, Any]:
    """Everything that must be the same afterwards, by value and where it matters by identity."""
    return {
        "state": {k: (id(v), v.tolist()) for k, v in model.state_dict(keep_vars=True).items()},
        "versions": [p.grad_fn for p in model.parameters()],
        "flags": [m.training for m in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        "hooks": [[k, list(v)] for m in model.modules() for k, v in sorted(vars(m).items()) if "hook" in k and v],
        "tensor hooks": len(model.head.weight._backward_hooks or ()),
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "data": [t.tolist() for t in data],
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "flushing": is_flushing(),
        "grad mode": torch.is_grad_enabled(),
    }


class BoomError(Exception):
    pass


def raising_after(count: int, error: type[BaseException]) -> Callable[..., torch.Tensor]:
    calls = [0]

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > count:
            raise error
        return nn.functional.cross_entropy(output, target)

    return loss


def quick(model: nn.Module, data: Any, **more: Any) -> Any:
    return initadvisor.advise(model, data, optimizer=torch.optim.SGD, lr=0.05, budget=120, progress=False, **more)


CALLS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "analyze": lambda m, d: initadvisor.analyze(m, d),
    "propose": lambda m, d: initadvisor.propose(m, d),
    "check": lambda m, d: initadvisor.check(m, d),
    "advise": quick,
}


@pytest.mark.parametrize("name", CALLS)
def test_everything_is_as_it_was(name: str) -> None:
    model, data = make()
    before = world(model, data)
    CALLS[name](model, data)
    after = world(model, data)
    for what, value in before.items():
        assert after[what] == value, f"{name} changed {what}"


@pytest.mark.parametrize("count", [0, 1, 7, 40])
@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
def test_everything_is_as_it_was_after_an_error(count: int, error: type[BaseException]) -> None:
    model, data = make()
    before = world(model, data)
    with contextlib.suppress(initadvisor.InitAdvisorError, BoomError, KeyboardInterrupt):
        quick(model, data, loss=raising_after(count, error))
    after = world(model, data)
    for what, value in before.items():
        assert after[what] == value, f"changed {what}"


def test_analysis_restores_after_the_model_raises() -> None:
    model, (x, y) = make()
    before = world(model, (x, y))
    with pytest.raises(initadvisor.InitAdvisorError, match="mat1"):
        initadvisor.analyze(model, (x[:, :5], y))
    assert world(model, (x, y)) == before


def test_applying_advice_changes_only_what_it_may() -> None:
    model, data = make()
    advice = quick(model, data)
    frozen = model.body[0].bias.detach().clone()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    advice.apply(model)
    assert torch.equal(model.body[0].bias, frozen)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    trainable = {k for k, p in model.named_parameters() if p.requires_grad}
    assert changed <= trainable


COMPILED: list[int] = []


def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    """A compiler that tells when it is asked."""
    COMPILED.append(len(inputs))
    return graph.forward


def test_a_compiled_model_is_compiled_by_nobody_but_its_owner() -> None:
    """Forked while the compiler's threads run, workers once waited for them forever."""
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    model, batch = torch.compile(net, backend=backend), (torch.randn(64, 6), torch.randint(3, (64,)))
    with ThreadPoolExecutor(1) as executor:
        for where in (None, executor):
            advice = initadvisor.advise(model, batch, lr=0.1, budget=400, progress=False, executor=where)
    assert any("uncompiled" in note for note in advice.evidence.notes)
    lsuv = next(s for s in initadvisor.propose(model, batch, loss=nn.CrossEntropyLoss()) if s.name == "lsuv")
    lsuv.apply(model, batch=batch)
    initadvisor.check(model, batch, loss=lambda model, batch: model(batch[0]).square().mean())
    assert not COMPILED
    model(batch[0])
    assert COMPILED  # it still is for its owner


def test_an_executor_elsewhere_does_not_compile_either() -> None:
    model, batch = torch.compile(nn.Linear(6, 3), backend=backend), (torch.randn(64, 6), torch.randint(3, (64,)))
    with run_eagerly():
        task = make_task(model, batch, lr=0.1)
        spec, schemes = initadvisor.analyze(model, batch), {s.name: s for s in initadvisor.propose(model, batch)}
    torch.compiler.reset()  # what was compiled before serves other models, too
    COMPILED.clear()
    states = tuple(MemberState(MemberKey("rung", name, 0, 0.1)) for name in ("current", "torch_default"))
    done = unpack(work(0, pack((task, spec, {})), pack(Job(states, 3, (3,), schemes))))
    assert [s.steps for s in done] == [3, 3]
    assert not COMPILED
