"""Every script of `examples/scripts` is seen as what it is, and none of them knows of initadvisor."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from initadvisor.integrations.scripts.agent import ScriptEnd
from initadvisor.integrations.scripts.messages import Job, Task
from tests.integrations.scripted import InProcess

SCRIPTS = Path(__file__).parents[2] / "examples" / "scripts"

SEEN = {
    "dcgan": {"netD": "Discriminator", "netG": "Generator"},
    "gcn": {"model": "GCN"},
    "lightning_autoencoder": {"autoencoder": "LitAutoEncoder"},
    "mnist": {"model": "Net"},
    "nanogpt": {"model": "GPT"},
    "pinn": {"dnn": "DNN"},
    "ppo": {"agent": "Agent"},
    "run_glm": {"model": "BertForSequenceClassification"},
    "siren": {"img_siren": "Siren"},
    "word_lm": {"model": "RNNModel"},
}


def test_none_is_left_out() -> None:
    assert sorted(SEEN) == sorted(p.stem for p in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("name", SEEN)
def test_is_seen_as_what_it_is(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    script = SCRIPTS / f"{name}.py"
    assert "initadvisor" not in script.read_text()
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    agent = InProcess(Job(Task.WATCH, watched=1, stop=True, propose=True))
    state = torch.get_rng_state()
    agent.start()
    try:
        with pytest.raises(ScriptEnd):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        agent.release()
        torch.set_rng_state(state)
    (seen,) = agent.told
    assert {n.name: n.kind for n in seen.networks} == SEEN[name]
    for network in seen.networks:
        assert network.fault == ""
        assert network.spec is not None
        assert network.spec.coverage.unknown == ()
        assert len(network.schemes) > 2
        assert all(w.grad_rms is not None for w in network.weights)
