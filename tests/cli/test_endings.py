"""However a run ends: one line, the exit code that shells expect, no traceback; and what a stranger types first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initadvisor.cli import main
from initadvisor.cli.beginning import kinds
from initadvisor.cli.signals import Signals, Terminated

SLOW = """
import time, sys
print("loading", file=sys.stderr, flush=True)
time.sleep(60)
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    def as_from_a_shell() -> None:
        # Under a shell's ``&`` this process ignores the signal, and a child would too.
        for number in CODES:
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "initadvisor", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=as_from_a_shell,
    )


@pytest.mark.parametrize("number", CODES, ids=lambda n: n.name)
def test_a_signal_while_the_users_code_loads(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = start(tmp_path, "check", "slow.py")
    assert process.stderr is not None
    while "loading" not in process.stderr.readline():
        pass
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number], err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize("delay", [0.15, 0.4, 1.0])
def test_ctrl_c_while_libraries_are_imported(delay: float, tmp_path: Path) -> None:
    """Wherever it falls: no traceback of ours (before our first line the interpreter is on its own)."""
    (tmp_path / "slow.py").write_text(SLOW)
    process = start(tmp_path, "advise", "slow.py")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), err
    assert "initadvisor/" not in err or "Traceback" not in err, err


@pytest.mark.parametrize("swallow", [True, False])
@pytest.mark.parametrize("number", CODES, ids=lambda n: n.name)
def test_a_signal_counts_whatever_a_library_makes_of_it(
    number: signal.Signals, swallow: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(signals: Signals) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except (KeyboardInterrupt, Terminated) as error:
            if not swallow:
                raise ImportError("numpy failed to import") from error
        return 0

    before = {n: signal.getsignal(n) for n in CODES}
    if signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):
        pytest.skip("the signal is ignored here")
    with Signals(last=False) as signals:
        assert signals.guard(run) == CODES[number]
    assert {n: signal.getsignal(n) for n in CODES} == before
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with Signals(last=False):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


STREAMS = {
    "| head -1": ("list --json", "--help", ""),
    ">/dev/full": ("list", "explain orthogonal", "--help"),
    ">&-": ("list", ""),
    "2>&-": ("list", "nonsense"),
    "2>/dev/full": ("nonsense",),
    ">&- 2>&- <&-": ("list",),
}


@pytest.mark.parametrize(("how", "words"), [(how, words) for how, each in STREAMS.items() for words in each])
def test_streams_that_take_nothing(how: str, words: str, tmp_path: Path) -> None:
    shell = f'set -o pipefail; "{sys.executable}" -m initadvisor {words} {how}'
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    lost = how in (">/dev/full", ">&-", ">&- 2>&- <&-") or words == "nonsense"
    assert done.returncode == (2 if lost else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr


def test_the_first_thing_a_stranger_types(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for said in ("initadvisor new", "initadvisor check", "initadvisor advise", "initadvisor.advise(", "--help"):
        assert said in out
    assert max(map(len, out.splitlines())) <= 80


MISTYPED = {
    ("advise",): "initadvisor new train_target.py",
    ("advice", "x.py"): "advise",
    ("check", "x.py", "--fxi", "a"): "--fix",
    ("advise", "x.py", "--steps", "many"): "advise --help",
    ("new", "x"): "initadvisor new x.py",
    ("new", "json.py"): "initadvisor new train_target.py",
    ("new", "x.py", "--kind", "clasifier"): "classifier",
}


@pytest.mark.parametrize("words", MISTYPED, ids=" ".join)
def test_an_error_ends_in_what_mends_it(
    words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    err = capfd.readouterr().err
    assert MISTYPED[words] in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("kind", kinds())
def test_a_new_target_runs_as_it_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine.py", "--kind", kind]) == 0
    assert "initadvisor check mine.py" in capfd.readouterr().out
    assert "initadvisor check mine.py" in (tmp_path / "mine.py").read_text()
    assert main(["check", "mine.py", "--fail-on", "error"]) == 0
    assert main(["advise", "mine.py", "--budget", "40", "-q"]) in (0, 4)
    written = (tmp_path / "mine.py").read_bytes()
    assert main(["new", "mine.py"]) == 2
    assert (tmp_path / "mine.py").read_bytes() == written
