from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from fakes import SPEC, blobs, current, tanh_mlp, xavier
from torch import nn

from initadvisor.errors import StorageError
from initadvisor.training.engine.result import SignalFlow, Status
from initadvisor.training.task import TrainingTask, make_task
from initadvisor.trials.progress import Progress
from initadvisor.trials.result import Ground, RaceResult, Verdict
from initadvisor.trials.run import run_race
from initadvisor.trials.study import StudyLog

SCHEMES = [current(), xavier("a"), xavier("b", 1.7)]


class StopError(Exception):
    pass


def task_of(**settings: Any) -> TrainingTask:
    return make_task(tanh_mlp(), blobs(), **{"optimizer": torch.optim.SGD, "lr": (0.05, 0.2), "steps": 60, **settings})


def race(
    url: str | None,
    *,
    stop_at: int | None = None,
    task: TrainingTask | None = None,
    schemes: Sequence[Any] = tuple(SCHEMES),
    **settings: Any,
) -> RaceResult:
    def listen(event: Progress) -> None:
        if stop_at is not None and event.done >= stop_at:
            raise StopError

    log = StudyLog(url, settings.pop("name", None))
    given = {"budget": 500, "on_event": listen, "study": log, **settings}
    return run_race(task or task_of(), schemes, SPEC, **given)


def outcome(result: RaceResult) -> Any:
    """What ran and what was decided; to five digits, since an ensemble adds up in another order than a loop."""
    curves = sorted(
        (t.phase, t.scheme, t.lr, t.seed, t.status, _rounded(t.train_loss), tuple(s for s, _ in t.heldout))
        for t in result.trials
    )
    return curves, result.decision.verdict, result.decision.scheme, result.decision.lr, result.decision.horizon


def _rounded(losses: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{loss:.3g}" for loss in losses[:20])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.mark.parametrize("stop_at", [1, 300])
def test_a_race_that_broke_off_goes_on_to_the_same_end(url: str, stop_at: int) -> None:
    whole = race(None)
    with pytest.raises(StopError):
        race(url, stop_at=stop_at)
    again = race(url)
    assert outcome(again) == outcome(whole)


def test_a_finished_race_is_not_run_again(url: str) -> None:
    first = race(url)
    events: list[Progress] = []
    second = race(url, on_event=events.append)
    assert outcome(second) == outcome(first)
    assert second.cost.members == 0
    assert any("read from the stored study" in note for note in second.notes)


def test_finished_trials_are_not_repeated(url: str) -> None:
    """What was told finished before the break is there afterwards, as it was, and no trial is there twice."""
    with pytest.raises(StopError):
        race(url, stop_at=300)
    (name,) = optuna.get_all_study_names(url)
    before = [t for t in optuna.load_study(study_name=name, storage=url).trials if t.state.is_finished()]
    assert before
    race(url)
    after = optuna.load_study(study_name=name, storage=url).trials
    by_number = {t.number: t for t in after}
    for trial in before:
        assert by_number[trial.number].datetime_complete == trial.datetime_complete
        assert by_number[trial.number].user_attrs == trial.user_attrs
    keys = [(t.user_attrs["phase"], t.params["scheme"], t.params["lr"]) for t in after]
    assert len(keys) == len(set(keys))
    assert all(t.state.is_finished() for t in after)


def test_a_killed_process_loses_no_finished_trial(tmp_path: Path, url: str) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1] / "shared")!r}]
            from test_study import race
            def listen(event):
                print(event.done, flush=True)
            race({url!r}, on_event=listen)
            """
        )
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 300:
                break
        process.send_signal(signal.SIGKILL)
    (name,) = optuna.get_all_study_names(url)
    before = {t.number for t in optuna.load_study(study_name=name, storage=url).trials if t.state.is_finished()}
    assert before
    whole, again = race(None), race(url)
    assert outcome(again) == outcome(whole)
    assert again.cost.members < whole.cost.members


def test_the_study_holds_what_was_measured(url: str) -> None:
    result = race(url)
    (name,) = optuna.get_all_study_names(url)
    trials = optuna.load_study(study_name=name, storage=url).trials
    rungs = [t for t in trials if t.user_attrs["phase"] == "race"]
    assert len(rungs) == len(SCHEMES) * 2
    assert {t.params["scheme"] for t in rungs} == {s.name for s in SCHEMES}
    assert all(t.intermediate_values for t in rungs)
    assert {t.state for t in rungs} == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    draw = next(v for k, v in rungs[0].user_attrs.items() if k.startswith("draw "))
    assert {"train", "heldout", "status", "flow", "flow_after"} <= set(draw)
    read = StudyLog(url, name).open(optuna.load_study(study_name=name, storage=url).user_attrs["initadvisor"])
    ran = {(t.phase, t.scheme, t.lr, t.seed): t for t in result.trials}
    assert len(read) == len(ran)
    for key, state in read.items():
        trial = ran[key.phase, key.scheme, key.lr, key.seed]
        assert state.train == trial.train_loss
        assert state.flow == trial.flow
    assert any(isinstance(s.flow, SignalFlow) and s.flow.forward_rms for s in read.values())


def test_another_race_does_not_fit_a_named_study(url: str) -> None:
    race(url, name="mine")
    with pytest.raises(StorageError, match=r"something else .*seed.* study_name") as caught:
        race(url, name="mine", seed=9)
    assert "\n" not in str(caught.value)
    race(url, seed=9)
    optuna.create_study(storage=url, study_name="theirs").ask()
    with pytest.raises(StorageError, match="not made by initadvisor"):
        race(url, name="theirs")


def test_other_current_weights_are_trained_again_and_the_rest_is_kept(url: str) -> None:
    race(url)
    model = tanh_mlp()
    model[0].weight.data.mul_(1.5)
    other = make_task(model, blobs(), optimizer=torch.optim.SGD, lr=(0.05, 0.2), steps=60)
    result = race(url, task=other)
    fresh = race(None, task=other)
    assert outcome(result) == outcome(fresh)
    assert result.cost.members < fresh.cost.members


@pytest.mark.parametrize("bad", ["sqlite:////nowhere/at/all/study.db", "nonsense", "mysql://no:no@nowhere/x"])
def test_a_storage_that_cannot_be_opened_is_told_in_one_line(bad: str) -> None:
    with pytest.raises(StorageError, match=r"storage .* cannot be") as caught:
        race(bad)
    assert "\n" not in str(caught.value)


def test_optunas_own_logging_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    race(None)
    assert optuna.logging.get_verbosity() == before
    assert "Trial" not in capfd.readouterr().err


def test_a_diverged_trial_is_stored_and_read_as_such(url: str) -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    task = make_task(nn.Linear(4, 1), (x, x[:, :1]), optimizer=torch.optim.SGD, lr=1e6, steps=40)
    first, second = (race(url, task=task, schemes=SCHEMES[:2]) for _ in range(2))
    assert outcome(first) == outcome(second)
    assert {t.status for t in first.trials} == {Status.DIVERGED}
    assert first.decision.verdict is Verdict.UNDECIDED
    assert first.decision.ground is Ground.ALL_BREAK
    assert any("every training diverged" in d for d in first.decision.diagnosis)
