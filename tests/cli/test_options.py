"""No word on the command line ends in a traceback: every option of every command, with values nobody should give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from initadvisor.cli import main
from initadvisor.cli.app import app

TARGET = """
import torch
from torch import nn

def target():
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    return {"model": nn.Linear(4, 2), "sample_batch": (x, (x[:, 0] > 0).long()), "lr": 0.1, "budget": 8}
"""
RECIPE = "format: 1\nname: x\nrules:\n  - {match: '**', init: normal, reason: r}\n"

GROUP: Any = typer.main.get_command(app)
OURS = ("new", "advise", "analyze", "check", "diff", "apply", "report", "explain", "list", "schema")

NUMBERS = [
    "0",
    "1",
    "-1",
    "3",
    "1e-3",
    "1e400",
    "nan",
    "-inf",
    "0x10",
    "9" * 30,
    "9" * 5000,
    "99999999999999999999",
    "1_0",
]
WORDS = [
    "",
    " ",
    "x",
    "\x1b[2J",
    "\u202e",
    "\udcff",
    "--",
    "-",
    "*",
    "{9..0}",
    "{0..99999}" * 200,
    "**a" * 400,
    "[" * 50,
    "a" * 5000,
]
FILES = [
    "train.py",
    "r.yaml",
    "new.yaml",
    "new.html",
    "w.pt",
    "w.safetensors",
    ".",
    "/",
    "/dev/null",
    "/proc/x.pt",
    "no/such/x.yaml",
]
NAMES = [
    "orthogonal",
    "INI2",
    "zeros",
    "classifier",
    "error",
    "never",
    "json",
    "sarif",
    "advise",
    "recipe",
    "rules",
    "cpu",
    "cuda",
]
TARGETS = [
    "train.py",
    "train.py:target",
    "train:target",
    "train.py:x",
    "json",
    "json:dumps",
    "train.py:",
    ":",
    "a.b.c:d",
    "train.py:__name__",
]
VALUES = st.one_of(*(st.sampled_from(pool) for pool in (NUMBERS, WORDS, FILES, NAMES, TARGETS)), st.text(max_size=8))
BUDGETS = ["1", "8", "0", "-1", "0s", "0.0001s", "1e400", "9" * 400 + "s", "", "slow", "5 m", "fast\x00", "٣"]
SAFE = {"--budget": st.sampled_from(BUDGETS), "--steps": st.sampled_from(["0", "1", "40", "-3", "9" * 25, "x"])}
STORAGE = [
    "sqlite:///s.db",
    "sqlite:///train.py",
    "sqlite:////no/such/s.db",
    "sqlite://",
    "mysql://",
    "x",
    "",
    "sqlite:///\x00",
]
SAFE["--storage"] = st.sampled_from(STORAGE)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(OURS))
    command = GROUP.commands[name]
    words = [name]
    for param in command.params:
        if param.param_type_name == "argument":
            likely = {"target": TARGETS, "recipe": FILES, "file": FILES, "old": FILES, "new": FILES}.get(
                param.name, NAMES
            )
            words.append(draw(st.one_of(st.sampled_from(likely), st.sampled_from(likely[:2]), VALUES)))
    options = [p for p in command.params if p.param_type_name == "option" and p.opts[0] != "--help"]
    for param in draw(st.lists(st.sampled_from(options), max_size=4)) if options else []:
        words.append(param.opts[0])
        if not param.is_flag:
            words.append(draw(SAFE.get(param.opts[0], VALUES)))
    return words


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@given(lines())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore")
def test_no_line_ends_in_a_traceback(folder: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    ended_in_a_line(folder, capfd, words)


@pytest.mark.slow
@given(lines())
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore")
def test_no_line_of_many_ends_in_a_traceback(folder: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    ended_in_a_line(folder, capfd, words)


def ended_in_a_line(folder: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    (folder / "train.py").write_text(TARGET)
    (folder / "r.yaml").write_text(RECIPE)
    capfd.readouterr()
    code = main(words)
    out, err = capfd.readouterr()
    assert code in (0, 1, 2, 4), (words, err)
    assert "Traceback" not in err, (words, err)
    complaints = [line for line in err.splitlines() if line.startswith("initadvisor: error:")]
    assert len(complaints) == (1 if code in (2, 4) else 0), (words, code, err)
    assert "\x1b" not in out + err, words
    assert (folder / "train.py").read_text() == TARGET
    assert not [p for p in os.listdir(folder) if p.endswith(".part")]  # noqa: PTH208
