"""Processes that train: when they may be forked, how they end, and how it is seen that they stand still."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from initadvisor.private import frames_of_other_threads
from initadvisor.reach import is_library

STANDSTILL = 30.0
"""Seconds without a result in which no worker has computed anything, after which they are given up: they wait for a
lock that some thread held when they were forked. A loss that waits that long for something else is no short trial."""

STILL = 0.01
"""Share of the time, at most, that a worker which waits takes of a processor."""

MALLOC_OPTIONS = ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20))
"""``mallopt`` of workers: tensors up to 32 MiB, the most glibc takes, come from its heap (``M_MMAP_THRESHOLD``), whose
end is given back from 1 GiB on (``M_TRIM_THRESHOLD``) and grows by 64 MiB (``M_TOP_PAD``)."""

PR_SET_PDEATHSIG = 1
"""Of Linux' ``prctl``: the signal that a process gets when its parent dies."""

ORPHANED_EVERY = 1.0
"""Seconds between looks at whether the parent is still there, where the system does not tell."""


class StandstillError(RuntimeError):
    """No worker computes any more, and none will."""


def why_not_fork(device: torch.device) -> str:
    """Why members cannot be trained in forked processes now; empty where they can.

    A forked process has one thread. A lock that any other thread held at that moment is never released in it, and it
    waits for ever as soon as it needs that lock. Threads that are inside libraries alone (an idle pool, a notebook's
    kernel, a progress bar) do not hold locks of the user's code.
    """
    if sys.platform == "darwin" or "fork" not in multiprocessing.get_all_start_methods():
        return "this system does not fork safely"  # macOS' own libraries start threads of which Python knows nothing
    if device.type != "cpu" or (torch.cuda.is_available() and torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
        return "the accelerator is in use"
    if multiprocessing.current_process().daemon:
        return "this process may have no children"
    at_work = threads_at_work()
    if at_work:
        return f'thread "{at_work[0]}" runs code of yours, whose locks a forked process could wait for without end'
    return ""


def threads_at_work() -> list[str]:
    """Names of other threads that run code of the user's now. The main thread may, if it is waiting."""
    names = {t.ident: t.name for t in threading.enumerate()}
    main = threading.main_thread().ident
    found = []
    for number, frame in frames_of_other_threads().items():
        files = []
        at: Any = frame
        while at is not None:
            files.append(at.f_code.co_filename)
            at = at.f_back
        inside = is_library(files[0]) if number == main else all(map(is_library, files))
        if not inside:
            found.append(names.get(number, str(number)))
    return found


class Workers:
    """A pool of forked processes that end with this one, and that are not waited for without end.

    Args:
        count: of processes.
    """

    def __init__(self, count: int) -> None:
        self._context = _Remembering()
        context: Any = self._context
        self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=start_worker, initargs=(os.getpid(),))

    def submit(self, function: Callable[..., bytes], *args: Any) -> Future[bytes]:
        """Have a worker call a function."""
        with warnings.catch_warnings():
            # Python ≥ 3.12 warns that other threads of this process are not copied; workers use none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._pool.submit(function, *args)

    def completed(self, futures: Sequence[Future[bytes]]) -> Iterator[Future[bytes]]:
        """Results as they come.

        Raises:
            StandstillError: none will come any more.
        """
        pending = set(futures)
        began, computed = time.monotonic(), self._computed()
        while pending:
            done, pending = wait(pending, timeout=STANDSTILL / 4, return_when=FIRST_COMPLETED)
            if done:
                yield from done
                began, computed = time.monotonic(), self._computed()
                continue
            now, spent = time.monotonic(), self._computed()
            if computed is None or spent is None or spent - computed > STILL * (now - began):
                began, computed = now, spent
            elif now - began >= STANDSTILL:
                raise StandstillError

    def _computed(self) -> float | None:
        """Seconds that the workers have computed so far; None where the system does not tell."""
        spent = [_seconds_of(p.pid) for p in self.processes]
        return None if None in spent else sum(s for s in spent if s is not None)

    @property
    def processes(self) -> list[Any]:
        """Those that were started."""
        return self._context.processes

    def close(self) -> None:
        """End all processes, whatever they are at."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(timeout=2)
            if process.is_alive():
                process.kill()
                process.join(timeout=5)


class _Remembering:
    """The context of forked processes, which remembers those it makes: a pool keeps them to itself."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("fork")
        self.processes: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the name a context has
        process = self._context.Process(*args, **kwargs)
        self.processes.append(process)
        return process


def _seconds_of(pid: int | None) -> float | None:
    """Processor time that a process has taken, of all its threads; that of one that has ended counts as none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return 0.0 if Path("/proc/self/stat").exists() else None
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_worker(parent: int) -> None:
    """Prepare a process that was started to train members.

    Args:
        parent: number of the process it must not outlive.
    """
    # What the user's handlers and event loops do on a signal is the parent's business. Ctrl-C reaches the whole group
    # of processes; only the parent decides what it means.
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    keep_freed_memory()


def end_with(parent: int) -> None:
    """Have this process end as soon as its parent has, however that came about."""
    told = False
    with contextlib.suppress(AttributeError, OSError, TypeError):
        told = sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    if os.getppid() != parent:  # it has ended before it could be asked for
        os._exit(1)
    if not told:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="initadvisor-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHANED_EVERY)
    os._exit(1)


def keep_freed_memory() -> None:
    """Have glibc keep what tensors free; for workers only, since a process cannot take it back.

    By default the large tensors of each step are given back to the system and come again as pages that have to be
    zeroed: a quarter of a stacked step of a plain CNN. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in MALLOC_OPTIONS:
        mallopt(option, value)
