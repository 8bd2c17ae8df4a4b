"""Run members: in this process or over several, looped or batched, whichever a short probe finds faster."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from initadvisor.graph.spec import ModelSpec
from initadvisor.private import executor_workers
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.choice import Choice
from initadvisor.training.engine.jobs import (
    INHERITED,
    Job,
    Probe,
    Probed,
    run_job,
    run_probe,
    work,
    work_probe,
)
from initadvisor.training.engine.loop import trial_process
from initadvisor.training.engine.member import MemberState, pack, unpack
from initadvisor.training.engine.stack import Batching
from initadvisor.training.engine.workers import StandstillError, Workers, threads_at_work, why_not_fork
from initadvisor.training.task import TrainingTask

MAX_WORKERS = 8
"""Processes at most: each holds a copy of the working model, and a race has only so many members at a time."""

WORTH_A_POOL = 1.0
"""Seconds of looped training from which starting processes (about 0.1 s) pays."""

CHUNKS_PER_WORKER = 3
"""Jobs per worker and call: enough for an even load, few enough that members of a draw stay together."""

WEAR = 1.2
"""What a step costs in a race, as a multiple of the fastest of a few timed by themselves."""

SLOW_STEP = 0.05
"""Seconds of a looped step from which no probe is made: what an ensemble saves is Python and dispatch, and in a step of
that length arithmetic is nearly all."""

WORTH_PROBING = 2.0
"""Seconds of looped training ahead from which it pays to probe whether batching is faster."""

STOOD_STILL = (
    "the worker processes stood still, as where a lock is held when they are forked; trainings ran one after another"
)

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where containers state how much processor they really have."""


def processors() -> int:
    """Processors this process may use: its affinity, and the container's quota where there is one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()[:2]
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no container, or one without a limit ("max")
    return max(1, count)


_TOKENS = itertools.count()


class Engine:
    """Trains members of one task; a context manager, since it may hold processes.

    Attributes:
        notes: what happened that a report should tell.
        steps: optimizer steps taken so far, of all members.
        started: members that were started.
        measured: seeds whose members' signal and gradient flow is measured; set by the race.
    """

    def __init__(
        self,
        task: TrainingTask,
        schemes: Sequence[Scheme],
        spec: ModelSpec,
        *,
        executor: Executor | None = None,
        workers: int | None = None,
    ) -> None:
        self.task, self.spec = task, spec
        self.measured: tuple[int, ...] = ()
        self.schemes = {s.name: s for s in schemes}
        self.notes: list[str] = []
        self.steps = 0
        self.started = 0
        self.busy = 0.0
        self._given = executor
        self._pool: Workers | None = None
        self._packed: bytes | None = None
        self._token = next(_TOKENS)
        self._inherited: set[str] = set()
        self.workers = self._possible_workers() if workers is None else max(1, workers)
        self.step_seconds: float | None = None
        self.choice = Choice()
        self.chosen = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes this engine started; a given executor is left alone."""
        INHERITED.pop(self._token, None)
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.close()

    def _possible_workers(self) -> int:
        if self._given is not None:
            return executor_workers(self._given) or processors()
        most = min(MAX_WORKERS, processors())
        if most == 1 or (why := why_not_fork(self.task.device)):
            if most > 1 and threads_at_work():
                self.notes.append(f"trainings ran one after another: {why}")
            return 1
        return most

    @property
    def description(self) -> str:
        """How members are run, for the report."""
        where = f"{self.workers} single-threaded processes" if self._parallel else "this process"
        return f"{self.choice.text}, in {where}"

    @property
    def _parallel(self) -> bool:
        return self._given is not None or self._pool is not None

    def add(self, scheme: Scheme) -> None:
        """Make a scheme known that was found during the race."""
        self.schemes[scheme.name] = scheme

    def per_second(self) -> float | None:
        """Optimizer steps per second of wall time that can be expected; None before anything was timed."""
        if self.step_seconds is None:
            return None
        return self.workers / min(self.step_seconds, self.choice.best_seconds)

    def step_cost(self, runs: int) -> float:
        """Seconds of wall time of an optimizer step of each of so many runs side by side."""
        size = max(1, min(self.choice.best_size, -(-runs // self.workers)))
        looped = self.step_seconds or 0.0
        step = min(looped, self.choice.seconds(size)) if size > 1 else looped
        return WEAR * step / max(1, min(self.workers, runs // size))

    def choose(self, seed: int, ahead: int, members: int | None = None) -> None:
        """Decide by a probe whether members are batched, and how many at a time; the loop is what it is held against.

        Args:
            seed: of the probe.
            ahead: optimizer steps still to take; a probe costs at most :data:`PROBE_SHARE` of them.
            members: that will be trained side by side at most; None where that is not known.
        """
        self.chosen = True
        if self.step_seconds is not None:
            if ahead * self.step_seconds < WORTH_PROBING:
                return
            if self.step_seconds > SLOW_STEP and self.task.device.type == "cpu":
                self.choice = Choice(text=f"one run after another ({1e3 * self.step_seconds:.3g} ms a step)")
                return
        # The loop is timed again even where its pace is known: that one holds drawing, and waiting for other programs.
        probe = Probe(seed, ahead, self.workers, members, self.step_seconds)
        found = self._probe_here(probe) if self._given is not None or self.workers == 1 else self._probe_there(probe)
        self.choice = found.choice
        self.steps += found.steps
        self.step_seconds = found.looped if self.step_seconds is None else self.step_seconds

    def _probe_here(self, probe: Probe) -> Probed:
        with trial_process(threads=self._threads_here()):
            return run_probe(self.task, self.schemes, probe)

    def _probe_there(self, probe: Probe) -> Probed:
        try:
            pool = self._own_pool()
            (done,) = pool.completed([pool.submit(work_probe, self._token, pack(probe))])
            found: Probed = unpack(done.result())
        except BrokenProcessPool:
            self.close()
            self.notes.append("a worker process died while stacks were tried (out of memory?), so members are looped")
            return Probed(Choice(), None, 0)
        except StandstillError:
            self._stay_here(STOOD_STILL)
            return self._probe_here(probe)
        return found

    def _stay_here(self, why: str) -> None:
        """Run what is left one after another in this process."""
        self.close()
        self.workers = 1
        self.notes.append(why)

    def _threads_here(self) -> int | None:
        return 1 if self.workers > 1 or self.task.device.type != "cpu" else None

    def advance(self, states: Sequence[MemberState], until: int, evals: Sequence[int]) -> Iterator[list[MemberState]]:
        """Train members on to ``until`` steps; yields them in groups, as they are done.

        Args:
            states: alive members; those that have the steps already are passed over.
            until: steps at which to stop.
            evals: steps at which to score; ``until`` should be among them.
        """
        todo = [s if s.checkpoint is not None else replace(s, steps=0, train=(), heldout=()) for s in states]
        todo = [s for s in todo if s.alive and s.steps < until]
        self.started += sum(s.steps == 0 for s in todo)
        before = {s.key: s.steps for s in todo}
        for done in self._spread(todo, until, evals):
            yield from self._counted([done], before)

    def _counted(self, groups: Iterable[list[MemberState]], before: Mapping[Any, int]) -> Iterator[list[MemberState]]:
        for done in groups:
            self.steps += sum(s.steps - before[s.key] for s in done)
            yield done

    def _spread(self, todo: Sequence[MemberState], until: int, evals: Sequence[int]) -> Iterator[list[MemberState]]:
        per_step = min(self.step_seconds or 0.0, self.choice.best_seconds)
        ahead = sum(until - s.steps for s in todo) * per_step
        worth = self._pool is not None or ahead > WORTH_A_POOL
        if self._given is None and (self.workers == 1 or len(todo) < 2 or not worth):
            yield from self._here(todo, until, evals)
            return
        if self._given is None and self._pool is None and (why := why_not_fork(self.task.device)):
            self._stay_here(f"trainings ran one after another: {why}")
            yield from self._here(todo, until, evals)
            return
        jobs = self._jobs(todo, until, evals)
        try:
            yield from self._there(jobs)
        except BrokenProcessPool:
            self._stay_here("a worker process died (out of memory?); its trainings were repeated one after another")
        except StandstillError:
            self._stay_here(STOOD_STILL)
        left = [s for job in jobs.values() for s in job.states]
        yield from self._here(left, until, evals)

    def _here(self, todo: Sequence[MemberState], until: int, evals: Sequence[int]) -> Iterator[list[MemberState]]:
        """A stack, or one draw at a time, so that progress shows and an interrupt loses little."""
        for job in self._jobs(todo, until, evals).values():
            draws = itertools.groupby(job.states, key=lambda s: (s.key.scheme, s.key.seed))
            groups = [job.states] if job.batching is not None else [tuple(group) for _, group in draws]
            for group in groups:
                states = tuple(_unpacked(s) for s in group)
                with trial_process(threads=self._threads_here()):
                    done = run_job((self.task, self.spec, self.schemes), replace(job, states=states))
                if job.batching is None:
                    self._learn_speed(done)
                yield done

    def _learn_speed(self, done: Sequence[MemberState]) -> None:
        seen = min((s.fastest for s in done if s.fastest), default=None)
        if seen is not None:
            self.step_seconds = seen if self.step_seconds is None else 0.7 * self.step_seconds + 0.3 * seen

    def _jobs(self, todo: Sequence[MemberState], until: int, evals: Sequence[int]) -> dict[int, Job]:
        jobs: dict[int, Job] = {}
        for chunk, batching in self._chunks(todo):
            schemes = {s.key.scheme: self.schemes[s.key.scheme] for s in chunk}
            jobs[len(jobs)] = Job(tuple(chunk), until, tuple(evals), schemes, self.measured, batching)
        return jobs

    def _chunks(self, todo: Sequence[MemberState]) -> Iterator[tuple[Sequence[MemberState], Batching | None]]:
        """Members that run together: stacks where that is the faster way for so many, else a few to loop."""
        alone: list[MemberState] = []
        for stack in self.choice.stacks(todo, self.workers):
            if len(stack) > 1 and self.choice.seconds(len(stack)) < self.choice.looped:
                yield stack, self.choice.batching
            else:
                alone += stack
        alone.sort(key=lambda s: (s.key.scheme, s.key.seed, s.key.lr))
        size = max(1, len(alone) // (self.workers * CHUNKS_PER_WORKER))
        for i in range(0, len(alone), size):
            yield alone[i : i + size], None

    def _submit(self, job: Job) -> Future[bytes]:
        job = replace(job, states=tuple(replace(s, checkpoint=_packed(s.checkpoint)) for s in job.states))
        if self._given is not None:
            if self._packed is None:
                self._packed = pack((self.task, self.spec, {}))
            return self._given.submit(work, self._token, self._packed, pack(job))
        pool = self._own_pool()
        job = replace(job, schemes={n: s for n, s in job.schemes.items() if n not in self._inherited})
        return pool.submit(work, self._token, None, pack(job))

    def _own_pool(self) -> Workers:
        if self._pool is None:
            INHERITED[self._token] = (self.task, self.spec, dict(self.schemes))
            self._inherited = set(self.schemes)
            self._pool = Workers(self.workers)
        return self._pool

    def _there(self, jobs: dict[int, Job]) -> Iterator[list[MemberState]]:
        """Over workers; jobs are removed as they are done, so that what is left can be repeated."""
        futures: dict[Future[bytes], int] = {}
        try:
            for index, job in jobs.items():
                futures[self._submit(job)] = index
            pool = self._pool
            for future in as_completed(futures) if pool is None else pool.completed(list(futures)):
                done: list[MemberState] = unpack(future.result())
                job = jobs.pop(futures[future])
                if job.batching is None:
                    self._learn_speed(done)
                yield done
        finally:
            for future in futures:
                future.cancel()


def _unpacked(state: MemberState) -> MemberState:
    return replace(state, checkpoint=unpack(state.checkpoint)) if isinstance(state.checkpoint, bytes) else state


def _packed(checkpoint: Any) -> bytes | None:
    return checkpoint if checkpoint is None or isinstance(checkpoint, bytes) else pack(checkpoint)
