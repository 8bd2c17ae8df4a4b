"""Loop or batch? Decided by a few timed steps on this machine, after both have been shown to agree."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from initadvisor.errors import worked_around
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.batched import NOT_BATCHED, batching_of, is_out_of_memory, time_steps
from initadvisor.training.engine.loop import Draw, Training, make_draw
from initadvisor.training.engine.member import MemberKey, MemberState, load_tensors
from initadvisor.training.engine.stack import Batching, Stack
from initadvisor.training.engine.weights import NotBatchableError
from initadvisor.training.losses import quoted
from initadvisor.training.task import TrainingTask
from initadvisor.types import CURRENT

PROBED = (4, 16, 32)
"""Members per stack that are timed: below 4 a stack has nothing to share, beyond 32 the gain has flattened out and
caches overflow."""

PROBE_STEPS = 2
"""Steps timed of each, after one that warms up: the first records the step, the second replays it."""

PROBE_SHARE = 0.03
"""Part of the steps ahead that probing may cost. With .02, 32 trainings of 100 steps try no stack beyond 4 members, and
the engine's gain over a plain loop on a small CNN falls from 6.1 to 3.7."""

AGREEMENT = 1e-3
"""Largest relative difference of losses between loop and stack over the first steps. Sums in another order differ by
1e-6; a training at the edge of chaos multiplies that about tenfold a step."""

HOPELESS = 1.5
"""Time per member of a stack, in multiples of the loop's, from which larger stacks are not tried."""

WORTH_STACKING = 0.9
"""Time per member of the best stack, as a share of the loop's, up to which it is taken: two timings differ by a few
percent by chance, and members that loop spread more evenly over processes."""

FREE_SHARE = 0.5
"""Part of the free memory that stacks may take, all processes together."""


@dataclass(frozen=True)
class Choice:
    """How members are run.

    Attributes:
        batching: what a stack needs to know; None loops.
        timed: ``(members, seconds per stacked step)`` of every stack that was timed, ascending.
        limit: members per stack that fit into memory.
        text: for the report.
        steps: optimizer steps the probe took.
        looped: seconds of a looped step, timed beside the stacks.
    """

    batching: Batching | None = None
    timed: tuple[tuple[int, float], ...] = ()
    limit: int = 1
    text: str = "one member after another"
    steps: int = 0
    looped: float = math.inf

    def seconds(self, members: int) -> float:
        """Seconds per member and step of a stack of so many: between timed sizes by line, inf where none was timed."""
        if self.batching is None or not self.timed:
            return math.inf
        below = max((t for t in self.timed if t[0] <= members), default=self.timed[0])
        above = min((t for t in self.timed if t[0] >= members), default=self.timed[-1])
        if below[0] == above[0]:
            # Below the smallest timed stack the step costs about the same; above the largest it grows in proportion.
            return below[1] / min(members, below[0]) if members < below[0] else below[1] / below[0]
        share = (members - below[0]) / (above[0] - below[0])
        return (below[1] + share * (above[1] - below[1])) / members

    @property
    def best_seconds(self) -> float:
        """Seconds per member and step of the best stack; inf without one."""
        return min((seconds / members for members, seconds in self.timed), default=math.inf)

    @property
    def best_size(self) -> int:
        """Members of the best stack that fits."""
        sizes = [t for t in self.timed if t[0] <= self.limit]
        return min(sizes, key=lambda t: t[1] / t[0])[0] if sizes else 1

    def stacks(self, states: Sequence[MemberState], workers: int) -> Iterator[list[MemberState]]:
        """Members that could share a stack, in even parts no larger than the best size, enough for all workers."""
        if self.batching is None:
            yield from ([s] for s in states)
            return
        groups: dict[object, list[MemberState]] = {}
        for s in states:
            # Only members at the same step share a stack; of different seeds only where nothing but weights differs.
            groups.setdefault((s.steps, None if self.batching.mixed else s.key.seed), []).append(s)
        for group in groups.values():
            group.sort(key=lambda s: (s.key.seed, s.key.scheme, s.key.lr))
            parts = math.ceil(len(group) / self.best_size)
            if len(groups) < workers:
                # A part per worker, but none so small that a stack is no gain.
                parts = max(parts, min(workers, len(group) // 2))
            for i in range(parts):
                yield group[len(group) * i // parts : len(group) * (i + 1) // parts]


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated where members train."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return _half_of_memory()


def _half_of_memory() -> int:
    """Where nothing says what is free; 4 GB where nothing even says what there is, as on Windows."""
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 2
    except (AttributeError, OSError, ValueError):
        return 4 << 30


def choose_batching(
    task: TrainingTask,
    schemes: Mapping[str, Scheme],
    seed: int,
    loop_seconds: float,
    ahead: int,
    workers: int,
    members: int | None = None,
) -> Choice:
    """Check that stacks agree with the loop, time a few sizes, and say what is fastest.

    Args:
        task: the training.
        schemes: the candidates; a few of them are what is probed.
        seed: of the draws.
        loop_seconds: of one looped step.
        ahead: steps the race will take.
        workers: processes that will run at once, each with stacks of its own.
        members: that will be trained side by side at most; no larger stack is tried than a worker's share of them
            needs. None: not known.
    """
    loop_text = f"one member after another ({1e3 * loop_seconds:.3g} ms a step)"
    try:
        batching = batching_of(task)
        names = [CURRENT, *(n for n in schemes if n != CURRENT)][: PROBED[0]]
        states, draws = _members(task, schemes, names, seed)
        seconds, spent = _check(task, batching, states, draws)
    except Exception as error:  # noqa: BLE001 - whatever stands in the way of batching is the reason to loop
        worked_around("batching members", error, NOT_BATCHED)
        reason = str(error) if isinstance(error, NotBatchableError) else quoted(error)
        return Choice(text=f"{loop_text}; not batched: {reason[:160]}")
    limit = int(FREE_SHARE * free_memory(task.device) / max(1, batching.member_bytes) / max(1, workers))
    timed = [(PROBED[0], seconds)] if PROBED[0] <= limit else []
    for size in PROBED[1:]:
        cost = size * (PROBE_STEPS + 1)
        hopeless = not timed or timed[-1][1] / timed[-1][0] > HOPELESS * loop_seconds
        enough = members is not None and timed and timed[-1][0] * workers >= members
        if hopeless or enough or size > limit or spent + cost > PROBE_SHARE * ahead:
            break
        many = sorted(
            ((states[i % len(states)], draws[i % len(states)]) for i in range(size)), key=lambda m: m[0].key.lr
        )
        try:
            stack = Stack(task, batching, [s for s, _ in many], [d.tensors for _, d in many])
            seconds, _ = time_steps(stack, PROBE_STEPS)
        except Exception as error:
            if is_out_of_memory(error):
                break
            raise
        spent += cost
        timed.append((size, seconds))
    if not timed or min(s / n for n, s in timed) > WORTH_STACKING * loop_seconds:
        tried = f", stacks take {1e3 * min(s / n for n, s in timed):.3g} ms" if timed else ""
        return replace(Choice(text=loop_text + tried), steps=spent)
    choice = Choice(batching, tuple(timed), limit, "", spent, loop_seconds)
    each, looped = 1e3 * choice.best_seconds, 1e3 * loop_seconds
    text = f"stacks of up to {choice.best_size} members ({each:.3g} ms a member and step, looped {looped:.3g} ms)"
    return replace(choice, text=text)


def _members(
    task: TrainingTask, schemes: Mapping[str, Scheme], names: Sequence[str], seed: int
) -> tuple[list[MemberState], list[Draw]]:
    """The smallest stack: a few schemes at different rates; fewer schemes are repeated."""
    draws = [make_draw(task, schemes[n], seed, None, score=False) for n in names]
    chosen = [draws[i % len(draws)] for i in range(PROBED[0])]
    rates = task.rates
    states = [MemberState(MemberKey("probe", d.scheme, seed, rates[i % len(rates)])) for i, d in enumerate(chosen)]
    return states, chosen


def _check(
    task: TrainingTask, batching: Batching, states: Sequence[MemberState], draws: Sequence[Draw]
) -> tuple[float, int]:
    """Compare losses and buffers of loop and stack over the first steps.

    Returns:
        Seconds of the fastest stacked step, and steps taken.

    Raises:
        NotBatchableError: they differ.
    """
    stack = Stack(task, batching, states, [d.tensors for d in draws])
    seconds, stacked = time_steps(stack, PROBE_STEPS)
    stack.require_apart()
    taken = len(states) * len(stacked)
    for member, (state, draw) in enumerate(zip(states, draws, strict=True)):
        model = task.member()
        load_tensors(model, draw.tensors)
        training = Training(task, model, state)
        try:
            for index, row in enumerate(stacked):
                looped = training.step(index)
                taken += 1
                if not abs(looped - row[member]) <= AGREEMENT * max(abs(looped), abs(stacked[0][member])):
                    raise NotBatchableError(
                        f"losses differ at step {index + 1}: {looped:.6g} looped, {row[member]:.6g} stacked"
                    )
        except ArithmeticError:
            continue  # diverged
        for name, buffer in model.named_buffers():
            own = stack.carried[name][member]
            # Running statistics move with every step of the weights and are compared over all their entries together.
            apart = (own.double() - buffer.double()).norm() if not buffer.is_complex() else (own - buffer).abs().norm()
            if not apart <= AGREEMENT * max(float(buffer.abs().double().norm()), 1.0):
                raise NotBatchableError(f"buffer {name} differs")
    return seconds, taken
