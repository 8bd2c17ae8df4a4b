"""Train every scheme of the pool on every task in full.

Each scheme's rate is chosen on tuning seeds and its loss read on other seeds, so that neither is flattered by the
choice. A training already in the results is never repeated; stop it any time and go on later.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from typing import Any

import torch

from benchmarks.regret.store import Key, Store, digest
from benchmarks.regret.task import Task
from benchmarks.regret.tasks import TASKS
from benchmarks.regret.train import Curve, fresh_model, train
from initadvisor.errors import InitAdvisorError
from initadvisor.schemes.scheme import Scheme
from initadvisor.types import CURRENT

TUNING_SEEDS = (910_001,)
"""Seeds on which a scheme's rate is chosen; the replayed alternatives see no others."""

SEEDS = (920_001, 920_002, 920_003, 920_004)
"""Seeds on which losses are compared. The advisor is run with small seeds, so none of its draws is among them."""

PROPOSAL_SEED = 900_001


@cache
def proposed(task_name: str) -> tuple[Scheme, ...]:
    """The pool of a task: the model as it comes, then everything ``propose`` offers without a trial."""
    from initadvisor.schemes.propose import propose

    task = TASKS[task_name]
    model = fresh_model(task, None, PROPOSAL_SEED)
    batch = next(task.batches(PROPOSAL_SEED))
    found: dict[str, Scheme] = {}
    for scheme in propose(model, batch, loss=task.loss if task.on_model else None):
        found.setdefault(digest(scheme), scheme)
    return tuple(sorted(found.values(), key=lambda s: s.name != CURRENT))


def describe(scheme: Scheme) -> dict[str, Any]:
    """What the report needs to know of a scheme."""
    return {
        "name": scheme.name,
        "kind": scheme.kind.value,
        "digest": digest(scheme),
        "prior": scheme.prior,
        "calibrations": [c.method for c in scheme.calibrations],
        "fault": None,
    }


def best_rate(lrs: Sequence[float], curves: dict[Key, Curve], scheme_digest: str) -> float | None:
    """The rate with the lowest mean loss over the tuning seeds; None while any of them is missing."""
    means = []
    for lr in lrs:
        got = [curves.get(Key(scheme_digest, lr, seed)) for seed in TUNING_SEEDS]
        if any(c is None for c in got):
            return None
        means.append(sum(c.best for c in got if c is not None) / len(got))
    return lrs[min(range(len(lrs)), key=lambda i: means[i] if math.isfinite(means[i]) else math.inf)]


def prepare_process() -> None:
    """One thread, and no subnormal numbers: vanishing schemes would cost ten times as much."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def wanted(task: Task, curves: dict[Key, Curve], scheme_digest: str) -> list[Key]:
    """What is still to be trained of one scheme: the tuning grid, then its own best rate on the other seeds."""
    keys = [Key(scheme_digest, lr, seed) for lr in task.lrs for seed in TUNING_SEEDS]
    lr = best_rate(task.lrs, curves, scheme_digest)
    if lr is not None:
        keys += [Key(scheme_digest, lr, seed) for seed in SEEDS]
    return [key for key in keys if key not in curves]


def complete(task: Task, scheme: Scheme, curves: dict[Key, Curve]) -> list[tuple[Key, Curve]]:
    """Train what is missing of one scheme on one task."""
    known, new = dict(curves), []
    while keys := wanted(task, known, digest(scheme)):
        for key in keys:
            known[key] = train(task, scheme, key.lr, key.seed)
            new.append((key, known[key]))
    return new


def _work(task_name: str, index: int, curves: dict[Key, Curve]) -> list[tuple[Key, Curve]] | InitAdvisorError:
    try:
        return complete(TASKS[task_name], proposed(task_name)[index], curves)
    except InitAdvisorError as error:
        return error


def _items(tasks: Iterable[Task], store: Store) -> Iterator[tuple[Task, int, Scheme, dict[Key, Curve]]]:
    for task in tasks:
        schemes = proposed(task.name)
        store.set_proposals(task, [describe(s) for s in schemes])
        curves = store.curves(task)
        for index, scheme in enumerate(schemes):
            mine = {k: c for k, c in curves.items() if k.digest == digest(scheme)}
            if wanted(task, mine, digest(scheme)):
                yield task, index, scheme, mine


def run(tasks: Sequence[Task], store: Store, *, processes: int, minutes: float) -> int:
    """Train until nothing is missing or the time is up; how many trainings were done."""
    deadline = time.monotonic() + 60 * minutes
    prepare_process()
    trained = 0
    running: dict[Future[list[tuple[Key, Curve]] | InitAdvisorError], tuple[Task, Scheme]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=prepare_process) as workers:
        items = _items(tasks, store)
        while True:
            while len(running) < processes and time.monotonic() < deadline:
                item = next(items, None)
                if item is None:
                    break
                task, index, scheme, curves = item
                running[workers.submit(_work, task.name, index, curves)] = (task, scheme)
            if not running:
                return trained
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, scheme = running.pop(future)
                rows = future.result()
                if isinstance(rows, InitAdvisorError):
                    store.set_fault(task, scheme.name, str(rows))
                    print(f"{task.name:20} {scheme.name:28} cannot be filled: {rows}", flush=True)
                    continue
                for key, curve in rows:
                    store.add(task, scheme.name, key, curve)
                trained += len(rows)
                best = min((c.best for _, c in rows), default=math.nan)
                print(f"{task.name:20} {scheme.name:28} {len(rows)} trainings, best {best:.4g}", flush=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options that all parts of the benchmark share."""
    parser.add_argument("--only", nargs="+", choices=sorted(TASKS), metavar="TASK", help="these tasks alone")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop starting new work after so long")
    parser.add_argument("--processes", type=int, default=2, help="single-threaded processes (default 2)")


def main() -> None:
    """Command line of this part."""
    parser = argparse.ArgumentParser(description=__doc__)
    arguments(parser)
    parser.add_argument("--forget", nargs="+", metavar="SCHEME", help="drop the results of these schemes first")
    options = parser.parse_args()
    tasks = [TASKS[name] for name in options.only or TASKS]
    store = Store()
    if options.forget:
        print(f"dropped {sum(store.forget(task, options.forget) for task in tasks)} trainings")
    print(f"{run(tasks, store, processes=options.processes, minutes=options.minutes)} trainings done")


if __name__ == "__main__":
    main()
