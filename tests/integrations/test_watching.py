"""A watched training is the training: to the bit, and without a trace afterwards; and it is seen as what it is."""

from __future__ import annotations

import atexit
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

import initadvisor
from initadvisor.errors import InputError
from initadvisor.integrations.scripts.agent import ScriptEnd
from initadvisor.integrations.scripts.launch import python_command
from initadvisor.integrations.scripts.messages import Job, Task
from initadvisor.integrations.scripts.telling import tell_training, training_json
from tests.integrations import scripted
from tests.integrations.scripted import InProcess, watched


def places() -> list[Any]:
    """Every object that is replaced while a training is watched."""
    return [
        nn.Module.__dict__["__call__"],
        torch.autograd.backward,
        Optimizer.__dict__["__init__"],
        torch.manual_seed,
        random.seed,
        np.random.seed,
        dict(torch_optimizer._global_optimizer_pre_hooks),
        dict(torch_optimizer._global_optimizer_post_hooks),
    ]


@pytest.mark.parametrize("name", scripted.TRAININGS)
def test_same_losses_to_the_bit_and_no_hook_left(name: str) -> None:
    train = scripted.TRAININGS[name]
    plain = train(6)
    before = places()  # the first optimizer of a process has torch replace some of them itself
    state = torch.get_rng_state()
    losses, seen = watched(train, propose=True)
    assert losses == plain
    assert torch.equal(torch.get_rng_state(), state)
    assert places() == before
    assert [n.fault for n in seen.networks if n.fault] == []
    assert "NEXT" in tell_training(seen, command=["train.py"])
    assert training_json(seen)["networks"]


def test_hooks_are_gone_while_the_script_goes_on() -> None:
    before = places()
    after: list[list[Any]] = []

    def train(steps: int) -> list[float]:
        losses = scripted.plain(steps)
        after.append(places())
        return losses

    watched(train, steps=4)
    assert after == [before]


def test_gan_is_a_pair() -> None:
    losses, seen = watched(scripted.gan)
    assert [n.name for n in seen.networks] == ["netG", "netD"]
    assert [[seen.optimizers[i].name for i in n.optimizers] for n in seen.networks] == [["optG"], ["optD"]]
    generator, discriminator = (seen.optimizers[n.optimizers[0]] for n in seen.networks)
    assert list(generator.losses) == pytest.approx(losses[:3])
    # Two backward passes, on real and on fake ones, are one loss of the discriminator.
    assert discriminator.losses[0] == pytest.approx(2 * np.log(2), rel=0.2)


def test_two_optimizers_of_one_network() -> None:
    losses, seen = watched(scripted.split)
    assert [n.optimizers for n in seen.networks] == [(0, 1)]
    assert all(list(o.losses) == pytest.approx(losses[:3]) for o in seen.optimizers)


def test_parts_are_one_network() -> None:
    _, seen = watched(scripted.in_parts)
    (network,) = seen.networks
    assert (network.kind.rpartition(".")[2], network.parts) == ("Both", ("encoder", "decoder"))
    assert [w.path for w in network.weights if w.update] == [
        "encoder.0.weight", "encoder.2.weight", "decoder.0.weight", "decoder.2.weight",
    ]  # fmt: skip
    assert all(w.grad_rms and w.output_rms > 0 for w in network.weights)
    # What is audited as data is data: no gradient that was kept beside it.
    assert not [f for f in network.findings if f.code == "INI602"]


def test_copies_are_named() -> None:
    _, seen = watched(scripted.averaged)
    (network,) = seen.networks
    assert (network.name, network.copies) == ("student", ("teacher",))
    assert seen.others == ("teacher (Sequential)",)


def test_schedule_and_accumulated_loss() -> None:
    _, seen = watched(scripted.noisy)
    (optimizer,) = seen.optimizers
    assert [r[0] for r in optimizer.rates] == pytest.approx([0.0025, 0.005, 0.0075])
    assert optimizer.losses[0] == pytest.approx(np.log(3), rel=0.2)  # halves of two batches make one
    assert optimizer.text == "AdamW()"


def test_gradients_are_the_trainings_own() -> None:
    def train(steps: int) -> list[float]:
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 4)
        opt = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(steps):
            opt.zero_grad()
            (7 * model(x).square().mean()).backward()
            grads.append([p.grad.square().mean().sqrt().item() for p in model.parameters() if p.ndim == 2])
            weights.append([p.detach().norm().item() for p in model.parameters() if p.ndim == 2])
            opt.step()
        return []

    grads: list[list[float]] = []
    weights: list[list[float]] = []
    _, seen = watched(train, steps=3)
    figures = seen.networks[0].weights
    assert [w.grad_rms for w in figures] == pytest.approx(grads[0], rel=1e-5)
    sizes = [8 * 4, 2 * 8]
    steps = [0.5 * g * n**0.5 / w for g, n, w in zip(grads[0], sizes, weights[0], strict=True)]
    assert [w.update for w in figures] == pytest.approx(steps, rel=1e-4)


def test_a_parameter_that_no_optimizer_holds_is_named() -> None:
    def train(steps: int) -> list[float]:
        model, (x, y) = scripted.mlp(), scripted.data()
        opt = torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.1)
        for _ in range(steps):
            nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
        return []

    _, seen = watched(train, propose=True)
    (network,) = seen.networks
    assert network.left == ("4.weight", "4.bias")
    filled = {a.path for s in network.schemes for a in s.assignments if a.parts}
    assert filled == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_script_is_ended_by_what_except_exception_does_not_catch() -> None:
    agent = InProcess(Job(Task.WATCH, watched=1, stop=True))
    agent.start()
    try:
        with pytest.raises(ScriptEnd):
            scripted.plain(5)
        with pytest.raises(ScriptEnd):  # a script that goes on all the same is ended at its next step
            torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1).step()
    finally:
        agent.release()
    assert agent.observer.steps == {0: 1}


def test_our_own_fault_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from initadvisor.integrations.scripts import watching

    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(watching, "read_network", broken)
    plain, before = scripted.plain(4), places()
    agent = InProcess(Job(Task.WATCH))
    agent.start()
    try:
        assert scripted.plain(4) == plain
        assert places() == before
    finally:
        agent.release()
        atexit.unregister(agent._at_exit)
    assert "stopped watching: KeyError" in capsys.readouterr().err


SCRIPT = """
import sys
import torch
from torch import nn
from helper import SIZE
torch.manual_seed(0)
if __name__ == "__main__":
    print(__file__, sys.argv, __spec__ is None, [p for p in sys.path if "bootstrap" in p])
    data = torch.utils.data.TensorDataset(torch.randn(64, SIZE), torch.randint(3, (64,)))
    loader = torch.utils.data.DataLoader(data, 16, shuffle=True, num_workers=WORKERS)
    net = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, 3))
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    try:
        for epoch in range(2):
            for x, y in loader:
                loss = nn.functional.cross_entropy(net(x), y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                print(repr(loss.item()))
    finally:
        print("closed")
"""


def script_in(folder: Path, workers: int = 0) -> Path:
    (folder / "helper.py").write_text("SIZE = 4\n")
    (folder / "train.py").write_text(SCRIPT.replace("WORKERS", str(workers)))
    return folder


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(initadvisor.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_command_line_runs_the_script_as_it_is(tmp_path: Path) -> None:
    folder = script_in(tmp_path, workers=1)
    plain = shell(folder, "train.py", "--some", "args")
    seen = shell(folder, "-m", "initadvisor", "watch", "--", "train.py", "--some", "args")
    assert (plain.returncode, seen.returncode) == (0, 0), seen.stderr
    assert seen.stdout == plain.stdout
    assert "net: Sequential" in seen.stderr
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == ["helper.py", "train.py"]


def test_command_line_ends_the_script(tmp_path: Path) -> None:
    folder = script_in(tmp_path)
    done = shell(folder, "-m", "initadvisor", "watch", "--steps", "1", "-o", "seen.json", "--", "-m", "train", "--x")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["closed"]
    seen = json.loads((folder / "seen.json").read_text())
    assert [n["name"] for n in seen["networks"]] == ["net"]
    assert seen["seeded"] is True


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name it after --"),
        (("trian.py",), 'script "trian.py" does not exist; did you mean "train.py"?'),
        (("python", "-I", "train.py"), "ignores PYTHONPATH"),
        (("no-such-command",), '"no-such-command" is no command'),
    ],
)
def test_commands_that_cannot_be_watched(tmp_path: Path, monkeypatch: Any, words: tuple[str, ...], told: str) -> None:
    monkeypatch.chdir(script_in(tmp_path))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    with pytest.raises(InputError, match=re.escape(told)):
        python_command(words)


def test_command_line_puts_a_recipe_in(tmp_path: Path) -> None:
    folder = script_in(tmp_path)
    (folder / "r.yaml").write_text(
        "format: 1\nname: zero\nrules: [{match: '**', init: zeros, reason: every class is as likely at first}]\n"
    )
    done = shell(folder, "-m", "initadvisor", "run", "r.yaml", "--", "python", "train.py", "--x")
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.splitlines()[1:-1]]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(np.log(3))
    assert "net: 4 tensors filled" in done.stderr
    wrong = shell(folder, "-m", "initadvisor", "run", "r.yaml", "--network", "nett", "--", "python", "train.py")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].endswith('error: the script trains no network called "nett"; it trains net')


def test_reporting_is_nothing_outside_a_trial() -> None:
    import initadvisor.report.console  # the package of that name is there, too

    assert initadvisor.report("val_loss", torch.tensor(0.5)) is None
    assert initadvisor.report.console is not None
