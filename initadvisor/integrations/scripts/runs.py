"""Trials whose runs are the script itself: a process each, which waits in its step between rungs."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue

from initadvisor.errors import InputError
from initadvisor.integrations.scripts.launch import Script
from initadvisor.integrations.scripts.messages import Filled, Filling, Job, Stepped, Task
from initadvisor.integrations.scripts.networks import NetworkKey
from initadvisor.integrations.scripts.scoring import Metric, window_mean
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import Status
from initadvisor.types import CURRENT

SILENCE_SECONDS = 3600.0
"""A script that takes no step for so long is given up."""

MOST_AHEAD = 50
"""Steps, as a multiple of those asked for, after which a script that has not reported its metric is given up."""

MEMORY_SHARE = 0.5
"""Share of the free memory that waiting processes may hold; those beyond begin anew when they are needed again."""

FASTEST_STEP = 1e-4
"""Seconds of a step where none has been timed: no script's is shorter."""

QUOTED = 300
"""Characters of a script's last words that are quoted."""


@dataclass(frozen=True)
class Entry:
    """A script to be tried.

    Attributes:
        command: as it is started.
        keys: networks that are filled.
        packed: name of a scheme -> network -> the scheme, pickled.
        counted: number of the optimizer whose steps count.
        metric: what is scored.
        seed: for scripts that set none.
        own: seed of the race under which the script's own seeds are left as they are.
        scratch: folder that every run gets a copy of to work in; None works where we are.
        folder: where the script is run.
    """

    command: tuple[str, ...]
    keys: tuple[NetworkKey, ...]
    packed: Mapping[str, Mapping[NetworkKey, bytes]]
    counted: int
    metric: Metric
    seed: int
    own: int
    scratch: bool = False
    folder: Path = field(default_factory=Path.cwd)


@dataclass(eq=False)
class _Live:
    """A process that waits, and all it has told."""

    script: Script
    output: Path
    place: Path | None
    losses: list[float] = field(default_factory=list)
    values: list[tuple[int, float]] = field(default_factory=list)
    read: int = 0
    asked: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.losses)

    def last_words(self) -> str:
        lines = self.output.read_text(errors="replace").strip().splitlines()
        return " ".join((lines[-1] if lines else "it printed nothing").split())[:QUOTED]

    def memory(self) -> int:
        """Bytes, 0 where the system does not tell."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path(f"/proc/{self.script.process.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        return 0


class _EndedError(Exception):
    """A run can go no further; ``status`` says how it ended, None for the script's own end."""

    def __init__(self, status: Status | None, message: str = "") -> None:
        super().__init__(message)
        self.status = status


class ScriptRuns:
    """Runs of one script, as a race asks for them.

    Args:
        entry: what is run.
        jobs: processes that compute at a time.
    """

    def __init__(self, entry: Entry, jobs: int = 1) -> None:
        self.steps = 0
        self.started = 0
        self.measured: tuple[int, ...] = ()
        self.notes: list[str] = []
        self._entry, self._jobs = entry, jobs
        self._live: dict[MemberKey, _Live] = {}
        self._ended: dict[MemberKey, _Live] = {}  # scripts that came to their own end before they were asked to
        self._step_seconds: float | None = None
        self._gpus: SimpleQueue[str] = SimpleQueue()
        self._place = Path(tempfile.mkdtemp(prefix="initadvisor-try-"))

    # ---- what a race needs

    @property
    def description(self) -> str:
        """How trainings are run, for the report."""
        side = f", {self._jobs} at a time" if self._jobs > 1 else ""
        return f"the script itself, a process per run{side}"

    def add(self, scheme: Scheme) -> None:
        """Schemes come from the script's own process; none is found later."""

    def per_second(self) -> float | None:
        """Optimizer steps per second of wall time."""
        return None if not self._step_seconds else self._jobs / self._step_seconds

    def step_cost(self, runs: int) -> float:
        """Seconds of wall time of a step of each of so many runs."""
        return (self._step_seconds or FASTEST_STEP) / max(1, min(self._jobs, runs))

    def choose(self, seed: int, ahead: int, members: int | None = None) -> None:
        """A script is run in one way only."""

    def advance(self, states: Sequence[MemberState], until: int, evals: Sequence[int]) -> Iterator[list[MemberState]]:
        """Have runs go on to ``until`` steps; those whose process has gone begin anew."""
        todo = [s for s in states if s.alive and s.steps < until]
        if self._jobs == 1 or self.started == 0:
            for state in todo:
                yield [self._counted(state, self._run(state, until, evals))]
            return
        with ThreadPoolExecutor(self._jobs) as pool:
            futures = {pool.submit(self._run, state, until, evals): state for state in todo}
            try:
                for future in as_completed(futures):
                    yield [self._counted(futures[future], future.result())]
            finally:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """End every process."""
        for key in list(self._live):
            self._drop(key)
        shutil.rmtree(self._place, ignore_errors=True)

    # ---- one run

    def _counted(self, before: MemberState, after: MemberState) -> MemberState:
        if self.started == 1 and after.status is Status.FAILED and after.key.scheme == CURRENT:
            raise InputError(f"the script does not run as a trial with the weights as they are: {after.message}")
        self.steps += after.steps - before.steps
        return after

    def _run(self, state: MemberState, until: int, evals: Sequence[int]) -> MemberState:
        began = time.perf_counter()
        key = state.key
        status: Status | None = None
        message = ""
        live = self._ended.get(key) or self._live.get(key)
        try:
            if live is None:
                live = self._start(key)
            if key not in self._ended:
                for stop in sorted({e for e in evals if live.steps < e < until} | {until}):
                    self._go_on(live, stop)
        except _EndedError as end:
            status, message = end.status, str(end)
            live = live or self._live.get(key)
            self._drop(key)
            if live is not None and status is None:
                self._ended[key] = live
        if live is None:
            return replace(state, status=status, message=message, seconds=state.seconds + time.perf_counter() - began)
        return self._state(state, live, until, evals, status, message, time.perf_counter() - began)

    def _state(
        self,
        state: MemberState,
        live: _Live,
        until: int,
        evals: Sequence[int],
        status: Status | None,
        message: str,
        seconds: float,
    ) -> MemberState:
        ended = state.key in self._ended
        if ended and live.steps < until:
            note = f"the script ends by itself after {live.steps} steps, and so do its trials"
            if note not in self.notes:
                self.notes.append(note)
        steps = until if ended else min(live.steps, until)
        scored = dict(state.heldout)
        if live.losses:
            scored.setdefault(0, self._initial(live))
        for e in evals:
            if e <= until and (e <= live.steps or ended) and e not in scored:
                scored[e] = self._score(live, e)
        train = tuple(live.losses[:until])
        return replace(
            state,
            steps=steps,
            train=train,
            heldout=tuple(sorted(scored.items())),
            status=status,
            message=message,
            seconds=state.seconds + seconds,
        )

    def _initial(self, live: _Live) -> float:
        if self._entry.metric.is_loss:
            return live.losses[0] if math.isfinite(live.losses[0]) else math.inf
        return self._entry.metric.score(live.values[0][1]) if live.values else math.inf

    def _score(self, live: _Live, step: int) -> float:
        if self._entry.metric.is_loss:
            return window_mean(live.losses, step)
        known = [v for at, v in live.values if at <= step] or [v for _, v in live.values[:1]]
        value = self._entry.metric.score(known[-1]) if known else math.inf
        return value if math.isfinite(value) else math.inf

    def _go_on(self, live: _Live, until: int) -> None:
        """Let a process go on to so many steps, and further where it has not reported what is scored.

        Raises:
            _EndedError: it diverged, failed, or came to its own end.
        """
        goal = until
        while live.steps < until or (not self._entry.metric.is_loss and not live.values):
            if live.steps >= until * MOST_AHEAD:
                name = self._entry.metric.name
                raise _EndedError(Status.FAILED, f"{name} was not seen in {live.steps} steps")
            goal = max(goal, live.steps + max(1, until // 2)) if live.steps >= until else until
            before, began = live.steps, time.perf_counter()
            live.script.answer(goal)
            told = live.script.receive(time.monotonic() + SILENCE_SECONDS)
            self._hear(live, told)
            if live.steps > before:
                self._learn((time.perf_counter() - began) / (live.steps - before))
            if not isinstance(told, Stepped) or told.ended:
                raise self._end_of(live, told)
            if not math.isfinite(live.losses[-1]):
                raise _EndedError(Status.DIVERGED, f"the loss was {live.losses[-1]} at step {live.steps}")

    def _hear(self, live: _Live, told: object) -> None:
        if isinstance(told, Stepped):
            live.losses += told.losses
            live.values += [(at, v) for name, at, v in told.reported if name == self._entry.metric.name]
        if self._entry.metric.pattern is not None:
            text = live.output.read_text(errors="replace")
            new, live.read = text[live.read :], len(text)
            live.values += [(live.steps, v) for v in self._entry.metric.printed(new)]

    def _end_of(self, live: _Live, told: object) -> _EndedError:
        code = live.script.wait(10.0)
        if code == 0 and live.losses:
            return _EndedError(None)
        if code is None:
            return _EndedError(Status.FAILED, f"the script took no step for {SILENCE_SECONDS:g} s")
        return _EndedError(Status.FAILED, f"the script ended with exit code {code}: {live.last_words()}")

    def _learn(self, seconds: float) -> None:
        known = self._step_seconds
        self._step_seconds = seconds if known is None else 0.5 * known + 0.5 * seconds

    # ---- processes

    def _start(self, key: MemberKey) -> _Live:
        entry = self._entry
        self._make_room()
        self.started += 1
        output = self._place / f"{self.started}.log"
        place = self._copy(self.started) if entry.scratch else None
        fillings = tuple(
            Filling(network, packed, seed=key.seed) for network, packed in entry.packed.get(key.scheme, {}).items()
        )
        offset = 0 if key.seed == entry.own else key.seed
        job = Job(Task.TRIAL, fillings=fillings, seed=entry.seed, offset=offset, counted=entry.counted)
        with output.open("wb") as sink:
            script = Script(
                entry.command,
                job,
                folder=place or entry.folder,
                output=sink,
                environment=self._environment(self.started),
                own_group=True,
            )
        live = self._live[key] = _Live(script, output, place)
        told = script.receive(time.monotonic() + SILENCE_SECONDS)
        if not isinstance(told, tuple):
            raise self._end_of(live, told)
        filled: tuple[Filled, ...] = told
        fault = next((f.fault for f in filled if f.fault), "")
        if fault and key.scheme != CURRENT:
            raise _EndedError(Status.FAILED, fault)
        return live

    def _environment(self, number: int) -> dict[str, str]:
        found = {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}
        if self._jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            found["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self._jobs))
        gpus = gpus_here()
        if len(gpus) > 1:
            found["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        return found

    def _copy(self, number: int) -> Path:
        place = self._place / f"work-{number}"
        try:
            shutil.copytree(
                self._entry.folder, place, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__")
            )
        except (OSError, shutil.Error) as error:
            raise InputError(f"--scratch: {self._entry.folder} cannot be copied: {error}") from error
        return place

    def _make_room(self) -> None:
        """End the processes that have waited longest where the machine's memory is short."""
        held = sum(live.memory() for live in self._live.values())
        free = _free_memory()
        while self._live and free is not None and held > MEMORY_SHARE * (free + held):
            oldest = next(iter(self._live))
            held -= self._live[oldest].memory()
            self._drop(oldest)

    def _drop(self, key: MemberKey) -> None:
        live = self._live.pop(key, None)
        if live is not None:
            live.script.close()
            if live.place is not None:
                shutil.rmtree(live.place, ignore_errors=True)


def gpus_here() -> tuple[str, ...]:
    """Numbers of the graphics processors, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return tuple(n.strip() for n in named.split(","))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def _free_memory() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return None
