"""Train the pool: every task, its schemes, three rates, and the leading few on two more seeds.

    python -m benchmarks.horizon.pool --minutes 60

The work is ordered so that every finished part is of use: first all tasks at the rate a user would try first, then
what the schedule hides, then task by task the other rates and two more seeds of the default, the rules' first and the
leaders, each at its best rate. A training on record is never repeated; stop it any time and go on later.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from benchmarks.horizon import store
from benchmarks.horizon.store import CONSTANT, FULL, RESULTS, SHORT, Row
from benchmarks.horizon.task import LongTask, Schedule
from benchmarks.horizon.tasks import TASKS
from benchmarks.horizon.train import fresh_model, train
from benchmarks.regret.store import CURRENT_DIGEST, digest
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import SchemeKind

SEEDS = (930_001, 930_002, 930_003)
"""The first sees every scheme at every rate; the others see the leading few. Advisors are asked with small seeds."""

FIRST_RULES = 5
"""Schemes of the rules that are trained, in the order they are proposed."""

OTHERS = ("rules_zero_head", "lsuv", "he_normal")
"""What is trained beside them where it is proposed: a small start, a data-driven one, a textbook's."""

LEADERS = 2
"""Schemes with the lowest losses on the first seed that go on to the other seeds."""

RATED = (SchemeKind.CURRENT, SchemeKind.RULES)
"""Kinds of schemes that are trained at the other rates, too: the default and the rules'."""

SCREENING_STEPS = 320
"""How far a scheduled task is followed at its full rate from the first step: as far as screening would go."""

SHORT_SHARE = 0.1
"""Length of the trainings that hold the whole schedule."""


@cache
def chosen(task_name: str) -> tuple[Scheme, ...]:
    """The schemes of a task's pool: the model as it comes, the first of the rules, and :data:`OTHERS`."""
    first, *others = proposed(task_name)
    rules = sorted((s for s in others if s.kind is SchemeKind.RULES), key=lambda s: -s.prior)
    names = {s.name for s in rules[:FIRST_RULES]} | set(OTHERS)
    return (first, *sorted((s for s in others if s.name in names), key=lambda s: -s.prior))


@cache
def proposed(task_name: str) -> tuple[Scheme, ...]:
    """All that ``propose`` offers for a task, the model as it comes first."""
    from initadvisor.schemes.propose import propose

    task = TASKS[task_name]
    model = fresh_model(task, None, SEEDS[0])
    return propose(model, next(task.batches(SEEDS[0])), loss=task.loss if task.on_model else None)


def describe(task: LongTask, folder: Path) -> None:
    """Keep the order of what is proposed for a task."""
    trained = {digest(s) for s in chosen(task.name)}
    rows = [
        {
            "name": s.name,
            "kind": s.kind.value,
            "prior": s.prior,
            "digest": digest(s),
            "trained": digest(s) in trained,
            "rated": digest(s) in trained and s.kind in RATED,
        }
        for s in proposed(task.name)
    ]
    store.set_proposals(task.name, rows, folder)


@dataclass(frozen=True)
class Batch:
    """Trainings of one task that are done together.

    Attributes:
        task: which.
        seed: of all of them.
        variant: which schedule.
        steps: how far.
        members: schemes and rates.
    """

    task: LongTask
    seed: int
    variant: str
    steps: int
    members: tuple[tuple[Scheme, float], ...]

    @property
    def schedule(self) -> Schedule:
        """Of the rate."""
        if self.variant == CONSTANT:
            return Schedule("constant", 0, self.task.steps)
        if self.variant == SHORT:
            return Schedule(self.task.schedule.shape, 0, self.steps)
        return self.task.schedule


def plan(tasks: Sequence[LongTask], rows: Sequence[Row]) -> Iterator[Batch]:
    """What is still to be done, most useful first, as far as it can be known from what is on record."""
    done = {row.key for row in rows if row.task in TASKS and row.version == TASKS[row.task].version}
    for batch in _wanted(tasks, rows):
        task, seed, variant = batch.task, batch.seed, batch.variant
        left = tuple(m for m in batch.members if (task.name, digest(m[0]), m[1], seed, variant) not in done)
        if left:
            yield Batch(task, seed, variant, batch.steps, left)


def _wanted(tasks: Sequence[LongTask], rows: Sequence[Row]) -> Iterator[Batch]:
    first, scheduled = SEEDS[0], [t for t in tasks if t.schedule.warms_up or t.schedule.shape != "constant"]

    def all_at(task: LongTask, lr: float) -> tuple[tuple[Scheme, float], ...]:
        return tuple((s, lr) for s in chosen(task.name))

    for task in tasks:
        yield Batch(task, first, FULL, task.steps, all_at(task, task.rate))
    for task in scheduled:
        yield Batch(task, first, CONSTANT, SCREENING_STEPS, (*all_at(task, task.rate), *at_other_rates(task)))
        yield Batch(task, first, SHORT, round(SHORT_SHARE * task.steps), all_at(task, task.rate))
    for task in cheapest_first(tasks, rows):
        yield Batch(task, first, FULL, task.steps, at_other_rates(task))
        members = leading(task, rows)
        for seed in SEEDS[1:]:
            yield Batch(task, seed, FULL, task.steps, members)
    for task in cheapest_first(tasks, rows):
        for seed in SEEDS[1:]:
            yield Batch(task, seed, FULL, task.steps, all_at(task, task.rate))


def at_other_rates(task: LongTask) -> tuple[tuple[Scheme, float], ...]:
    """The schemes that are trained at more than one rate, at the others than the middle one."""
    return tuple((s, lr) for s in chosen(task.name) if s.kind in RATED for lr in (task.lrs[0], task.lrs[2]))


def cheapest_first(tasks: Sequence[LongTask], rows: Sequence[Row]) -> list[LongTask]:
    """Tasks by what the training of their default took, so that most of them are complete soon."""
    took = {row.task: row.curve.seconds for row in rows if row.digest == CURRENT_DIGEST and row.variant == FULL}
    return sorted(tasks, key=lambda task: took.get(task.name, math.inf))


def leading(task: LongTask, rows: Sequence[Row]) -> tuple[tuple[Scheme, float], ...]:
    """The default, the rules' first and the leaders on the first seed, each at its best rate there."""
    best: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row.task == task.name and row.seed == SEEDS[0] and row.variant == FULL and row.version == task.version:
            best[row.digest] = min(best.get(row.digest, (math.inf, row.lr)), (row.best, row.lr))
    schemes = {digest(s): s for s in chosen(task.name)}
    ordered = sorted((d for d in best if d in schemes), key=lambda d: best[d])
    go_on = dict.fromkeys([CURRENT_DIGEST, *list(schemes)[1:2], *ordered[:LEADERS]])
    return tuple((schemes[d], best[d][1]) for d in go_on if d in best)


def run(tasks: Sequence[LongTask], *, minutes: float, folder: Path = RESULTS) -> int:
    """Train until nothing is missing or the time is up; how many trainings were done."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    deadline, count = time.monotonic() + 60 * minutes, 0
    for task in tasks:
        describe(task, folder)
    while time.monotonic() < deadline:
        batch = next(plan(tasks, store.load(folder)), None)
        if batch is None:
            break
        task, began = batch.task, time.monotonic()
        curves = train(task, batch.members, batch.seed, steps=batch.steps, schedule=batch.schedule)
        rows = [
            Row(task.name, task.version, scheme.name, digest(scheme), lr, batch.seed, batch.variant, curve)
            for (scheme, lr), curve in zip(batch.members, curves, strict=True)
        ]
        store.add(rows, folder)
        count += len(rows)
        ends = " ".join(f"{row.scheme}@{row.lr:g}={row.best:.4g}" for row in rows)
        print(f"{task.name} {batch.variant} seed {batch.seed} {time.monotonic() - began:.0f} s: {ends}", flush=True)
    return count


def main() -> None:
    """Command line of this part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(TASKS), metavar="TASK", help="these tasks alone")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no new work after so long")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are kept")
    options = parser.parse_args()
    tasks = [TASKS[name] for name in options.only or TASKS]
    print(f"{run(tasks, minutes=options.minutes, folder=options.folder)} trainings done")


if __name__ == "__main__":
    main()
