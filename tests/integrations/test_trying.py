"""`try` end to end: an unedited script, an advice, a recipe that goes back in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from initadvisor.errors import InputError
from initadvisor.integrations.scripts.trying import Plan, try_script
from tests.integrations.test_watching import shell

DEEP = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
layers = [m for _ in range(12) for m in (nn.Linear(16, 16), nn.Tanh())]
net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), *layers, nn.Linear(16, 2))
x = torch.randn(128, 4)
y = (x[:, 0] > 0).long()
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for step in range(60):
    loss = nn.functional.cross_entropy(net(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if len(sys.argv) > 1:
        open(sys.argv[1], "a").write(f"{loss.item()}\\n")
print(f"final {loss.item():.4f}")
"""

GAN = """
import torch
from torch import nn

torch.manual_seed(0)
netG = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))
netD = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
optG = torch.optim.Adam(netG.parameters(), lr=0.001)
optD = torch.optim.Adam(netD.parameters(), lr=0.002)
bce = nn.BCEWithLogitsLoss()
for step in range(400):
    real, ones, zeros = torch.randn(32, 6) + 2, torch.ones(32, 1), torch.zeros(32, 1)
    netD.zero_grad()
    fake = netG(torch.randn(32, 4))
    (bce(netD(real), ones) + bce(netD(fake.detach()), zeros)).backward()
    optD.step()
    netG.zero_grad()
    bce(netD(fake), ones).backward()
    optG.step()
    print(f"distance {float((fake.mean(0) - 2).norm()):.4f}")
"""


def test_a_script_that_does_not_train_is_told_how_to(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(DEEP)
    words = ("--budget", "60", "--candidate", "rules_orthogonal", "-o", "r.yaml", "--json", "--", "python", "train.py")
    done = shell(tmp_path, "-m", "initadvisor", "try", *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["evidence"]["race"]
    assert told["decision"]["verdict"] == "switch"
    assert told["decision"]["scheme"] == "rules_orthogonal"
    assert "run with it: initadvisor run r.yaml -- python train.py" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml", "train.py"]
    plain = shell(tmp_path, "train.py")
    again = shell(tmp_path, "-m", "initadvisor", "run", "r.yaml", "--", "train.py")
    finals = [float(run.stdout.split()[-1]) for run in (plain, again)]
    assert finals[0] > 0.6 > 0.3 > finals[1]


def test_several_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gan.py").write_text(GAN)
    monkeypatch.chdir(tmp_path)
    plans: list[Plan] = []
    arguments: dict[str, Any] = {"budget": 44, "candidates": ["rules_orthogonal"], "progress": False}
    with pytest.raises(InputError, match="has several losses, one for each of optG, optD; say which"):
        try_script(["gan.py"], **arguments)
    tried = try_script(["gan.py"], metric="distance=distance ", tell=plans.append, **arguments)
    assert set(tried.recipes) == {"netG", "netD"}
    assert [n.name for n in plans[0].networks] == ["netG", "netD"]
    scores = {r.scheme: r.score for r in tried.advice.ranking if r.steps}
    assert len(scores) >= 2
    assert all(2 < score < 6 for score in scores.values())


def test_what_runs_share_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(DEEP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "x")

    class StopError(Exception):
        pass

    def stop(plan: Plan) -> None:
        told.append(plan)
        raise StopError

    told: list[Plan] = []
    with pytest.raises(StopError):
        try_script(["train.py", "losses.txt"], scratch=True, tell=stop)
    (tmp_path / "losses.txt").touch()
    assert not (tmp_path / "losses.txt").read_text()  # not even the first look wrote there
    assert told[0].shared == ("losses.txt", "WANDB_RUN_ID of wandb")
    assert "losses.txt" in told[0].text


def test_a_script_that_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("import torch\nraise SystemExit('no data here')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no torch optimizer .* \(exit code 1\); its last words: no data here"):
        try_script(["train.py"])
