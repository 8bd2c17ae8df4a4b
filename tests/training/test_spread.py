"""Models inside DistributedDataParallel are read and tried as they are computed in one process: nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from trainings import SCHEMES, members, task_of

import initadvisor
import initadvisor.training.engine.engine as engine_module
from initadvisor.graph.spec import Coverage, ModelSpec
from initadvisor.training.engine.engine import Engine
from initadvisor.wrapped import Unspread


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs gloo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


class Inside(nn.Module):
    """Wrapped in part."""

    def __init__(self) -> None:
        super().__init__()
        self.body = DistributedDataParallel(net())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.mark.parametrize("wrap", [lambda: DistributedDataParallel(net()), Inside, lambda: DataParallel(net())])
def test_wrapped_models_train_in_forked_workers(alone: None, wrap: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "WORTH_A_POOL", 0.0)
    model = wrap()  # type: ignore[operator]
    task = task_of(model)
    twin = task.member()
    assert not any(isinstance(m, DistributedDataParallel) for m in twin.modules())
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in model.named_parameters()]
    spec = ModelSpec((), (), 2, Coverage(0, 0), "")
    with Engine(task, tuple(SCHEMES.values()), spec, workers=2) as engine:
        engine.step_seconds = 1.0
        done = [s for group in engine.advance(members(task), 3, (3,)) for s in group]
        assert engine.notes == []
    assert not any(s.message for s in done)
    assert all(p.grad is None for p in model.parameters())


def test_every_entry_takes_a_wrapped_model(alone: None) -> None:
    model = DistributedDataParallel(net())
    batch = {"input": torch.randn(64, 4), "labels": torch.randint(3, (64,))}
    plain = initadvisor.analyze(net(), batch)
    spec = initadvisor.analyze(model, batch)
    assert [(p.path, p.role) for p in spec.params] == [(f"module.{p.path}", p.role) for p in plain.params]
    initadvisor.check(model, batch)
    initadvisor.check(model, batch, loss=lambda model, batch: model(batch["input"]).square().mean())
    schemes = {s.name: s for s in initadvisor.propose(model, batch)}
    schemes["rules_orthogonal"].apply(model)
    if "lsuv" in schemes:
        schemes["lsuv"].apply(model, batch=batch)
    assert isinstance(model, DistributedDataParallel)
    out = model(batch["input"])
    out.sum().backward()
    assert model.module[0].weight.grad is not None


def test_the_view_follows_the_mode() -> None:
    model = DataParallel(net()).eval()
    view = Unspread(model.module)
    assert not view.training
    view.train()
    assert model.module[1].training
