"""The files for continuous integration are what their readers expect, and every command in them runs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "ci"

HEALTHY = """
import torch
from torch import nn

def target():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)), (torch.randn(32, 8), torch.randint(3, (32,)))
"""
BROKEN = HEALTHY + "\nhealthy = target\n\ndef target():\n    model, batch = healthy()\n" + (
    "    nn.init.constant_(model[0].weight, 0.1)\n    return model, batch\n"
)  # fmt: skip


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def workflow_commands() -> list[str]:
    steps = read(FOLDER / "github-actions.yml")["jobs"]["check"]["steps"]
    return [s["run"] for s in steps if s.get("run", "").startswith("initadvisor ")]


def hook_commands() -> list[str]:
    """As pre-commit calls them: entry, then args, no file names."""
    (local,) = read(FOLDER / "pre-commit-config.yaml")["repos"]
    shipped = read(ROOT / ".pre-commit-hooks.yaml")
    hooks = [*local["hooks"], *({**h, "args": ["train.py", "--fail-on", "warning"]} for h in shipped)]
    assert not any(h["pass_filenames"] for h in hooks)
    return [" ".join([h["entry"], *h.get("args", ())]) for h in hooks]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        shlex.split(command), cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
    )


def test_the_workflow_is_one_that_github_takes() -> None:
    workflow = read(FOLDER / "github-actions.yml")
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads the key `on` as true
    assert set(workflow[True]) == {"push", "pull_request"}
    job = workflow["jobs"]["check"]
    assert job["runs-on"].startswith("ubuntu-")
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    assert all("@v" in step["uses"] for step in job["steps"] if "uses" in step)
    assert len(workflow_commands()) == 2
    python = next(s["with"]["python-version"] for s in job["steps"] if "setup-python" in s.get("uses", ""))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert needed == f">={python}"


def test_hooks_have_what_pre_commit_asks_for() -> None:
    for repo in read(FOLDER / "pre-commit-config.yaml")["repos"]:
        for hook in (*repo["hooks"], *read(ROOT / ".pre-commit-hooks.yaml")):
            assert {"id", "name", "entry", "language"} <= set(hook)


@pytest.mark.parametrize("command", [*workflow_commands(), *hook_commands()])
def test_a_healthy_model_passes_and_a_broken_one_does_not(command: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((FOLDER / "pyproject.toml").read_text())
    (tmp_path / "train.py").write_text(HEALTHY)
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "train.py").write_text(BROKEN)
    done = run(command, tmp_path)
    assert done.returncode == (0 if "--fail-on never" in command else 1), done.stdout + done.stderr
    assert "INI104" in done.stdout
    if "--format github" in command:
        assert done.stdout.startswith("::error ")
    if "--fix" in command:
        assert (tmp_path / "mended.yaml").is_file()


def test_the_shared_settings_are_read(tmp_path: Path) -> None:
    """Without options, `fail-on` and `ignore` come from the pyproject.toml shown."""
    settings = (FOLDER / "pyproject.toml").read_text()
    (tmp_path / "train.py").write_text(BROKEN)
    (tmp_path / "pyproject.toml").write_text(settings)
    assert run("initadvisor check train.py", tmp_path).returncode == 1
    (tmp_path / "pyproject.toml").write_text(settings.replace("INI303", "INI1"))
    assert run("initadvisor check train.py", tmp_path).returncode == 0
