"""Results go where they are wanted: never over what is read, never lost, and an earlier recipe stays until a better."""

from __future__ import annotations

import inspect
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from evidences import switch

from initadvisor.cli import main

TARGET = """
import torch
from torch import nn
import helper

def target():
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    y = (x[:, 0] > 0).long()
    net = nn.Sequential(nn.Linear(6, helper.WIDTH), nn.ReLU(), nn.Linear(helper.WIDTH, 2))
    return {"model": net, "sample_batch": list(zip(x.split(16), y.split(16))), "lr": 0.1, "budget": 60}

def planted():
    given = target()
    nn.init.zeros_(given["model"][0].weight)
    return given["model"], given["sample_batch"]
"""
KEEPS = "format: 1\nname: current\nrules:\n  - {match: '**', init: keep, reason: as they came}\n"
RECIPE = "format: 1\nname: yesterday\nrules:\n  - {match: '**', init: normal, args: {std: 0.1}, reason: yesterday}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text(TARGET)
    (tmp_path / "helper.py").write_text("WIDTH = 5\n")
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "pyproject.toml").write_text("[tool.initadvisor.advise]\nquiet = true\n")
    (tmp_path / "link.yaml").symlink_to("train.py")
    (tmp_path / "hard.yaml").hardlink_to(tmp_path / "helper.py")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    kept = (p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


REFUSED = [
    *(
        ("check", "train.py:planted", "--fix", f)
        for f in ("train.py", "helper.py", "sub/../train.py", "link.yaml", "sub")
    ),
    *(("check", "train:planted", "--fix", f) for f in ("train.py", "hard.yaml", "pyproject.toml")),
    *(("advise", "train.py", "-o", f) for f in ("train.py", "helper.py", "hard.yaml", "./link.yaml", "pyproject.toml")),
    *(("advise", "train.py", "--html", f) for f in ("train.py", "link.yaml", "no/such/folder/a.html", "/proc/a.html")),
    ("advise", "train.py", "-o", "a.yaml", "--html", "a.yaml"),
    ("advise", "train.py", "-o", "a.yaml", "--html", "sub/../a.yaml"),
    ("advise", "train.py", "-o", "s.db", "--storage", "sqlite:///s.db"),
    ("apply", "r.yaml", "train.py", "-o", "train.py"),
    ("apply", "w.pt", "train.py", "-o", "w.pt"),
    ("report", "r.yaml", "--html", "r.yaml"),
    ("new", "train.py"),
    ("new", "link.yaml"),
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_is_read_is_never_written(words: tuple[str, ...], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "w.pt").write_text(RECIPE)
    before = content(folder)
    assert main(list(words)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert content(folder) == before


def test_outputs_are_tried_before_the_trials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import initadvisor.advisor as advisor

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trials were begun")

    never.__signature__ = None  # type: ignore[attr-defined]
    monkeypatch.setattr(advisor, "run_race", never)
    for words in (["-o", "train.py"], ["--html", "helper.py"], ["-o", "/proc/r.yaml"], ["-o", "sub"]):
        assert main(["advise", "train.py", *words]) == 2


def test_an_advice_is_printed_then_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "train.py", "-o", "new.yaml", "--html", "new.html"]) == 0
    out, _ = capfd.readouterr()
    assert out.strip()
    assert (folder / "new.yaml").read_text().startswith("#")
    assert "</html>" in (folder / "new.html").read_text()
    assert main(["apply", "new.yaml", "train.py", "-o", "w.safetensors"]) == 0
    assert main(["apply", "new.yaml", "train.py", "-o", "w.pt"]) == 0
    assert not [p for p in folder.iterdir() if p.name.endswith(".part")]


def test_the_answer_is_not_lost_to_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import initadvisor.files as files

    def full(file: Path, data: bytes) -> None:
        file.write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_bytes", full)
    before = content(folder)
    assert main(["advise", "train.py", "-o", "r.yaml", "--html", "new.html"]) == 2
    out, err = capfd.readouterr()
    assert out.strip()
    assert err.count("No space left on device") == 2
    assert "Traceback" not in err
    assert content(folder) == before


def started(folder: Path, words: list[str], **more: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "initadvisor", *words],
        cwd=folder, text=True, timeout=300, env=environment, stderr=subprocess.PIPE, **more,  # type: ignore[call-overload]
    )  # fmt: skip


def test_weights_on_a_full_disk_leave_the_earlier_ones(folder: Path) -> None:
    """The file size limit of the system stands for the full disk, as the libraries write these files themselves."""
    for name in ("w.safetensors", "w.pt"):
        (folder / name).write_text("yesterday")
        before = content(folder)
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))  # noqa: E731
        done = started(folder, ["apply", "r.yaml", "train.py", "-o", name], stdout=subprocess.PIPE, preexec_fn=limit)
        assert done.returncode == 2, done.stderr
        assert "Filled" in done.stdout
        assert "Traceback" not in done.stderr
        assert content(folder) == before


def test_the_files_are_not_lost_to_a_closed_pipe(folder: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = started(folder, ["advise", "train.py", "-o", "new.yaml"], stdout=full)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert (folder / "new.yaml").exists()
    read, write = os.pipe()
    os.close(read)
    done = started(folder, ["check", "train.py:planted", "--fix", "mend.yaml"], stdout=write)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert (folder / "mend.yaml").exists()


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("tried", [True, False])
@pytest.mark.parametrize("fills", [True, False])
def test_a_run_that_found_nothing_out_leaves_the_earlier_recipe(
    stopped: bool, tried: bool, fills: bool, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Stopped by the user, or no time for a single training: the recipe of yesterday is worth more than none."""
    import initadvisor.advisor as advisor
    from initadvisor.recipes.recipe import loads_recipe

    evidence = switch()
    decision = replace(evidence.race.decision, interrupted=stopped)
    ranking = tuple(replace(e, steps=e.steps if tried else 0) for e in evidence.race.ranking)
    evidence = replace(evidence, race=replace(evidence.race, decision=decision, ranking=ranking))
    recipe = loads_recipe(RECIPE.replace("yesterday", "today") if fills else KEEPS)
    asked = inspect.signature(advisor.advise)
    found = advisor.Advice(evidence, recipe)

    def advise(**_: object) -> advisor.Advice:
        return found

    advise.__signature__ = asked  # type: ignore[attr-defined]
    monkeypatch.setattr(advisor, "advise", advise)
    before = content(folder)
    nothing = not fills and (stopped or not tried)
    assert main(["advise", "train.py", "-o", "r.yaml"]) == (4 if nothing else 0)
    out, err = capfd.readouterr()
    assert out.strip()
    if nothing:
        assert content(folder) == before
        assert "r.yaml was left as it is" in err
    else:
        assert (folder / "r.yaml").read_text() == recipe.to_yaml()
    assert main(["advise", "train.py", "-o", "fresh.yaml"]) == (4 if nothing else 0)
    assert (folder / "fresh.yaml").read_text() == recipe.to_yaml()
