"""Trials that are the script itself: what is asked of them, how they end, and what they leave behind."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from initadvisor.errors import InputError
from initadvisor.integrations.scripts.runs import Entry, ScriptRuns
from initadvisor.integrations.scripts.scoring import Metric, read_metric, window_mean
from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import Status

SCRIPT = """
import sys, time
import torch
from torch import nn
import initadvisor
SEEDING
if __name__ == "__main__":
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randint(3, (64,)))
    loader = torch.utils.data.DataLoader(data, 16, shuffle=True, num_workers=WORKERS, persistent_workers=WORKERS > 0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    step = 0
    try:
        for epoch in range(EPOCHS):
            for x, y in loader:
                loss = nn.functional.cross_entropy(net(x), y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                step += 1
                BODY
            initadvisor.report("val", 10.0 * (epoch + 1))
            print(f"epoch {epoch} accuracy: {0.1 * (epoch + 1):.1f}")
    finally:
        open("closed.txt", "a").write("closed\\n")
"""


@pytest.fixture
def entry(tmp_path: Path) -> Any:
    def make(metric: Metric | None = None, *, scratch: bool = False, **parts: Any) -> Entry:
        known = {"SEEDING": "", "WORKERS": "0", "EPOCHS": "30", "BODY": "pass", **parts}
        text = SCRIPT
        for name, value in known.items():
            text = text.replace(name, str(value))
        (tmp_path / "train.py").write_text(text)
        command = (sys.executable, "train.py")
        return Entry(command, (), {}, 0, metric or Metric(), seed=0, own=7, scratch=scratch, folder=tmp_path)

    return make


@pytest.fixture
def runs() -> Iterator[Any]:
    made: list[ScriptRuns] = []

    def make(entry: Entry, jobs: int = 1) -> ScriptRuns:
        made.append(ScriptRuns(entry, jobs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def key(seed: int = 7, scheme: str = "current") -> MemberKey:
    return MemberKey("race", scheme, seed, 0.1)


def one(runs: ScriptRuns, state: MemberState, until: int, evals: tuple[int, ...] = ()) -> MemberState:
    ((done,),) = runs.advance([state], until, evals or (until,))
    return done


def test_a_waiting_run_goes_on_where_it_stopped(entry: Any, runs: Any) -> None:
    script = entry()
    in_parts, at_once = runs(script), runs(script)
    first = one(in_parts, MemberState(key()), 6)
    again = one(in_parts, first, 12)
    whole = one(at_once, MemberState(key()), 12, (6, 12))
    assert in_parts.started == 1
    assert (first.steps, again.steps, in_parts.steps) == (6, 12, 12)
    assert again.train == whole.train  # a script that sets no seed is given one
    assert again.heldout == whole.heldout
    assert [step for step, _ in again.heldout] == [0, 6, 12]
    assert dict(again.heldout)[12] == pytest.approx(window_mean(again.train, 12))


@pytest.mark.parametrize("seeding", ["", "torch.manual_seed(3)"])
def test_fresh_seeds_draw_afresh(entry: Any, runs: Any, seeding: str) -> None:
    trial = runs(entry(SEEDING=seeding))
    own, fresh, again = (one(trial, MemberState(key(seed)), 4) for seed in (7, 8, 8))
    assert own.train != fresh.train
    assert fresh.train == again.train


def test_nothing_is_left_behind(entry: Any, runs: Any, tmp_path: Path) -> None:
    trial = runs(entry(WORKERS="1"))
    one(trial, MemberState(key()), 5)
    (live,) = trial._live.values()
    group = live.script.process.pid
    session, logs = live.script.session, trial._place
    began = time.monotonic()
    trial.close()
    assert time.monotonic() - began < 9  # it ended by itself
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert not session.exists()
    assert not logs.exists()
    assert (tmp_path / "closed.txt").read_text() == "closed\n"


def test_a_script_that_swallows_its_end_is_ended(entry: Any, runs: Any, monkeypatch: Any) -> None:
    trial = runs(entry(SEEDING="import signal\nsignal.signal(15, lambda *a: None)", EPOCHS="10**9"))
    one(trial, MemberState(key()), 2)
    (live,) = trial._live.values()
    live.script._line.close()
    live.script._line = None
    live.script.close(grace=0.2)
    assert live.script.process.poll() is not None


def test_scratch_keeps_runs_apart(entry: Any, runs: Any, tmp_path: Path) -> None:
    trial = runs(entry(scratch=True))
    one(trial, MemberState(key()), 2)
    trial.close()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["train.py"]


def test_its_own_end_is_the_end(entry: Any, runs: Any) -> None:
    trial = runs(entry(EPOCHS="2"))
    first = one(trial, MemberState(key()), 6)
    done = one(trial, first, 20, (12, 20))
    more = one(trial, done, 40)
    assert [s.status for s in (first, done, more)] == [None, None, None]
    assert (done.steps, len(done.train), [s for s, _ in more.heldout]) == (20, 8, [0, 6, 12, 20, 40])
    assert trial.started == 1
    assert trial.notes == ["the script ends by itself after 8 steps, and so do its trials"]


def test_how_a_run_fails(entry: Any, runs: Any) -> None:
    with pytest.raises(InputError, match="exit code 1: ZeroDivisionError"):
        one(runs(entry(BODY="1 / 0")), MemberState(key()), 5)
    diverged = one(runs(entry(BODY="net[0].weight.data.mul_(float('inf'))")), MemberState(key()), 5)
    assert diverged.status is Status.DIVERGED
    assert dict(diverged.heldout)[5] == math.inf


@pytest.mark.parametrize(
    ("metric", "told"),
    [(read_metric("val"), [10.0, 10.0, 20.0]), (read_metric("acc=accuracy: ", maximize=True), [-0.1, -0.1, -0.2])],
)
def test_reported_and_printed_figures(entry: Any, runs: Any, metric: Metric, told: list[float]) -> None:
    trial = runs(entry(metric))
    first = one(trial, MemberState(key()), 2)  # goes on to the first report, which comes after the fourth step
    done = one(trial, first, 9)
    assert [round(v, 6) for _, v in done.heldout] == told


def test_side_by_side(entry: Any, runs: Any) -> None:
    script = entry()
    alone = [one(runs(script), MemberState(key(seed)), 3) for seed in (7, 8)]
    groups = list(runs(script, jobs=2).advance([MemberState(key(seed)) for seed in (7, 8)], 3, (3,)))
    found = {s.key.seed: s.train for group in groups for s in group}
    assert found == {s.key.seed: s.train for s in alone}
