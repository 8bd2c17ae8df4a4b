"""Every example is a target: it loads, its model trains on its data, and its parts are what the text says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "examples"
NAMES = ("digits_mlp", "digits_cnn", "seq_rnn", "char_lm", "pinn")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_training_and_built_alike_every_time(name: str) -> None:
    target: dict[str, Any] = load(name).target()
    again = load(name).target()["model"].state_dict()
    model, loss = target["model"], target.get("loss", nn.functional.cross_entropy)
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())
    batch = next(iter(target["sample_batch"]))
    optimizer = target["optimizer"](model.parameters(), lr=target["lr"][0])
    value = load("compare").loss_of_batch(loss)(model, batch)
    value.backward()
    optimizer.step()
    assert torch.isfinite(value)


def test_depths_are_what_the_texts_say() -> None:
    mlp = load("digits_mlp").target()["model"]
    assert sum(isinstance(m, nn.Linear) for m in mlp) == 30
    cnn = load("digits_cnn").target()["model"]
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in cnn) == 16


def test_the_proof_trains_both_ways_and_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The comparison at the end of every example, on a training of seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = (x[:, 0] > 0).long()
    training = {
        "model": nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)),
        "sample_batch": list(zip(x.split(32), y.split(32), strict=True)),
        "optimizer": torch.optim.SGD,
        "lr": (0.1,),
        "steps": 40,
        "budget": 200,
        "progress": False,
    }
    compare = importlib.import_module("compare")
    try:
        curves = compare.prove(training, (x, y), "curve.png")
    finally:
        sys.modules.pop("compare", None)
    assert len(curves) == 2
    assert all(c.steps[-1] == 40 for c in curves)
    assert (tmp_path / "out" / "curve.png").stat().st_size > 1000
    assert "held-out loss over the full training" in capsys.readouterr().out
