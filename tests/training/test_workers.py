"""Worker processes: when they are forked, that they end with their parent, and that nobody waits for them for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fakes import tanh_mlp
from trainings import SCHEMES, assert_same, members, task_of

import initadvisor.training.engine.engine as engine_module
import initadvisor.training.engine.workers as workers_module
from initadvisor.graph.spec import Coverage, ModelSpec
from initadvisor.training.engine.engine import Engine
from initadvisor.training.engine.loop import train_members
from initadvisor.training.engine.workers import StandstillError, Workers, end_with, threads_at_work, why_not_fork

CPU = torch.device("cpu")
SPEC = ModelSpec((), (), 2, Coverage(0, 0), "")

PARENT = """
import sys, time
from initadvisor.training.engine.workers import Workers
def forever():
    while True: time.sleep(0.05)
pool = Workers(2)
pool.submit(forever), pool.submit(forever)
while len(pool.processes) < 2: time.sleep(0.01)
print(*(p.pid for p in pool.processes), flush=True)
forever()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_workers_end_with_their_parent(number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(is_running, pids))
    parent.send_signal(number)
    parent.wait(30)
    parent.stdout.close()
    end = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def test_where_the_system_does_not_tell_a_worker_looks_for_its_parent_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of a parent that is gone has another one; it ends, whether that was before or after it looked first."""
    code = (
        "import os, sys, time; import initadvisor.training.engine.workers as w; sys.platform = 'other';"
        "w.ORPHANED_EVERY = 0.01; asked = iter([7, 7, 1]); os.getppid = lambda: next(asked, 1); w.end_with(7);"
        "time.sleep(30); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(sys, "platform", "other")
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    end_with(-1)
    assert left == [1]


def test_no_fork_while_a_thread_runs_the_users_code() -> None:
    """Idle pools, and whatever else is inside libraries alone, hold no lock of the user's."""
    assert why_not_fork(CPU) == ""
    with ThreadPoolExecutor(2) as pool:
        pool.submit(len, "ab").result()
        assert threads_at_work() == []
        stop = threading.Event()

        def prefetch() -> None:
            while not stop.is_set():
                time.sleep(0.005)

        thread = threading.Thread(target=prefetch, name="prefetcher")
        thread.start()
        try:
            assert threads_at_work() == ["prefetcher"]
            assert "prefetcher" in why_not_fork(CPU)
            with Engine(task_of(tanh_mlp()), tuple(SCHEMES.values()), SPEC) as engine:
                assert engine.workers == 1
            with Engine(task_of(tanh_mlp()), tuple(SCHEMES.values()), SPEC, workers=2) as engine:
                engine.step_seconds = 1.0  # worth a pool
                list(engine.advance(members(engine.task), 2, (2,)))
                assert engine.workers == 1
                assert any("prefetcher" in note for note in engine.notes)
        finally:
            stop.set()
            thread.join()
    assert why_not_fork(CPU) == ""


def test_no_fork_on_a_mac_and_beside_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "accelerator" in why_not_fork(torch.device("meta"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "fork" in why_not_fork(CPU)


def test_workers_that_stand_still_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock held at the fork: what is left is trained in this process, to the same results."""
    monkeypatch.setattr(workers_module, "STANDSTILL", 1.0)
    monkeypatch.setattr(engine_module, "WORTH_A_POOL", 0.0)
    lock = threading.Lock()
    home = os.getpid()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if os.getpid() != home:
            lock.acquire()
        return F.cross_entropy(output, target)

    task = task_of(tanh_mlp(), loss=loss)
    states = members(task)
    with Engine(task, tuple(SCHEMES.values()), SPEC, workers=2) as engine:
        engine.step_seconds = 1.0
        with lock:
            done = [s for group in engine.advance(states, 3, (3,)) for s in group]
        assert any("stood still" in note for note in engine.notes)
        assert engine.workers == 1
    assert_same(train_members(task, SCHEMES, states, 3, (3,)), done, rtol=0)


def test_workers_that_compute_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "STANDSTILL", 0.4)
    pool = Workers(1)
    try:
        (done,) = pool.completed([pool.submit(busy, 1.5)])
        assert done.result() == b"done"
        with pytest.raises(StandstillError):
            list(pool.completed([pool.submit(idle, 60.0)]))
    finally:
        pool.close()
    assert not any(p.is_alive() for p in pool.processes)


def busy(seconds: float) -> bytes:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return b"done"


def idle(seconds: float) -> bytes:
    time.sleep(seconds)
    return b""


def test_workers_have_none_of_the_users_signal_handlers(tmp_path: Path) -> None:
    """A handler that saves a checkpoint on SIGTERM is the parent's; in a worker it would keep it from ending."""
    before = signal.signal(signal.SIGTERM, lambda *_: (tmp_path / "called").touch())
    pool = Workers(1)
    try:
        future: Future[bytes] = pool.submit(idle, 60.0)
        while not future.running():
            time.sleep(0.01)
        time.sleep(0.2)
        pool.close()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "called").exists()
    assert pool.processes[0].exitcode == -signal.SIGTERM
