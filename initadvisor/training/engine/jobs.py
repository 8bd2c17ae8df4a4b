"""What runs where members train, in this process or in a worker: jobs of members, and the probe that times them."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from initadvisor.errors import worked_around
from initadvisor.graph.spec import ModelSpec
from initadvisor.guard import run_eagerly
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.batched import train_batched
from initadvisor.training.engine.choice import Choice, choose_batching
from initadvisor.training.engine.loop import Training, step_clock, train_members, trial_process
from initadvisor.training.engine.member import MemberKey, MemberState, pack, unpack
from initadvisor.training.engine.stack import Batching
from initadvisor.training.task import TrainingTask
from initadvisor.types import CURRENT

PROBE_STEPS = 5
"""Looped steps that are timed; corrected by what the race itself measures."""


@dataclass(frozen=True)
class Job:
    """A chunk of members to train on; what travels to a worker.

    Attributes:
        states: the members.
        until: steps at which to stop.
        evals: steps at which to score.
        schemes: those the worker may not know.
        measured: seeds whose members' signal and gradient flow is measured.
        batching: train them as one stack; None loops.
    """

    states: tuple[MemberState, ...]
    until: int
    evals: tuple[int, ...]
    schemes: Mapping[str, Scheme]
    measured: tuple[int, ...] = ()
    batching: Batching | None = None


Context = tuple[TrainingTask, ModelSpec, dict[str, Scheme]]
INHERITED: dict[int, Context] = {}
"""What forked workers find in memory, so that neither models nor losses defined in a script need to be pickled."""


def run_job(context: Context, job: Job) -> list[MemberState]:
    """Train the members of a job, those whose flow is measured by themselves."""
    task, spec, known = context
    done = []
    for is_measured, group in itertools.groupby(job.states, key=lambda s: s.key.seed in job.measured):
        look = spec if is_measured else None
        schemes = {**known, **job.schemes}
        if job.batching is None:
            done += train_members(task, schemes, tuple(group), job.until, job.evals, look)
        else:
            done += train_batched(task, schemes, tuple(group), job.until, job.evals, look, job.batching)
    return done


_COMPUTING = threading.Lock()
"""Held by the thread that trains: torch's random generators and settings are the process's, so that members in threads
side by side would draw from each other's streams."""


def _release() -> None:
    global _COMPUTING
    _COMPUTING = threading.Lock()


if hasattr(os, "register_at_fork"):
    # A process that is forked while another thread trains finds the lock held, and nobody there to release it.
    os.register_at_fork(after_in_child=_release)


@dataclass(frozen=True)
class Probe:
    """What a probe is asked, and what travels to the worker that runs it.

    Attributes:
        seed: of the draws.
        ahead: optimizer steps still to take; a probe may cost a small part of them.
        workers: processes that will run at once.
        members: that will be trained side by side at most; None where that is not known.
        known: seconds of a looped step by an earlier measurement, for weights that break before one is timed.
    """

    seed: int
    ahead: int
    workers: int
    members: int | None
    known: float | None


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        choice: how members are run.
        looped: seconds of a looped step, None where nothing is known of it.
        steps: optimizer steps it took.
    """

    choice: Choice
    looped: float | None
    steps: int


def run_probe(task: TrainingTask, schemes: Mapping[str, Scheme], probe: Probe) -> Probed:
    """Time the loop, then stacks against it."""
    looped, steps = time_loop(task, probe.seed)
    looped = probe.known if looped is None else looped
    if looped is None:
        return Probed(Choice(), None, steps)
    choice = choose_batching(task, schemes, probe.seed, looped, probe.ahead, probe.workers, probe.members)
    return Probed(choice, looped, steps + choice.steps)


def time_loop(task: TrainingTask, seed: int) -> tuple[float | None, int]:
    """Seconds of the fastest of a few looped steps of the weights as they came, and the steps that took."""
    training = Training(task, task.member(), MemberState(MemberKey("probe", CURRENT, seed, task.rates[0])))
    clock, best, steps = step_clock(task.device), math.inf, 0
    try:
        # The first one pays for warming up; the fastest of the others counts, as for stacks.
        for index in range(PROBE_STEPS + 1):
            began = clock()
            training.step(index)
            steps += 1
            best = best if index == 0 else min(best, clock() - began)
    except Exception as error:  # noqa: BLE001 - weights that break at once leave the gate's estimate
        worked_around("timing the loop", error)
        return (best if math.isfinite(best) else None), steps
    return best, steps


def work(token: int, packed: bytes | None, job_bytes: bytes) -> bytes:
    """In a worker: take a job out of bytes, run it single-threaded, put its result into bytes."""
    job: Job = unpack(job_bytes)
    with _COMPUTING, trial_process(threads=1):
        context: Context = INHERITED[token] if packed is None else unpack(packed)
        states = [
            replace(s, checkpoint=unpack(s.checkpoint)) if isinstance(s.checkpoint, bytes) else s for s in job.states
        ]
        with run_eagerly():  # what has just been unpacked may have brought the compiler along
            done = run_job(context, replace(job, states=tuple(states)))
    return pack([replace(s, checkpoint=None if s.checkpoint is None else pack(s.checkpoint)) for s in done])


def work_probe(token: int, probe_bytes: bytes) -> bytes:
    """In a worker: run a probe where members will be trained, so that it times what they will take."""
    with _COMPUTING, trial_process(threads=1):
        task, _, schemes = INHERITED[token]
        return pack(run_probe(task, schemes, unpack(probe_bytes)))
