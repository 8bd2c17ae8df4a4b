"""Ask the advisor on every task, then train what it picked in full on seeds it has never seen."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

from benchmarks.regret.pool import SEEDS, arguments, prepare_process
from benchmarks.regret.store import Key, Store, append_line, digest, read_lines
from benchmarks.regret.task import Task
from benchmarks.regret.tasks import TASKS
from benchmarks.regret.train import fresh_model, train
from initadvisor.schemes.scheme import Scheme
from initadvisor.trials.plan import WORDS, Word

ADVISOR_SEEDS = (0, 1, 2)
"""Advice is asked for this often, each time with other weights, batch order and draws."""

BUDGET, REFINING = "standard", "thorough"
"""What most users ask, and what refines the leader besides."""

UNHURRIED = {name: Word(word.share, math.inf, word.trainings) for name, word in WORDS.items()}
"""The plans of the budgets without their limits in seconds: what is asked must not depend on what else the machine
does. The limit halves a plan on slow machines; the cost is told in steps, and in seconds as they were."""


def asked(store: Store) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Advice on record, by task, seed and budget; of several the last counts."""
    found = {}
    for row in read_lines(store.folder / "advice.jsonl"):
        if row["task"] in TASKS and row["version"] == TASKS[row["task"]].version:
            found[row["task"], row["seed"], row["budget"]] = row
    return found


def ask(task: Task, seed: int, budget: str) -> tuple[dict[str, Any], Scheme]:
    """One piece of advice as a row for the record, and the scheme it picked."""
    from initadvisor.advisor import advise

    model = fresh_model(task, None, seed)
    began = time.monotonic()
    with mock.patch.dict(WORDS, UNHURRIED):
        advice = advise(model, task.loader(seed), budget=budget, progress=False, **task.advise_arguments(seed))
    seconds = time.monotonic() - began
    decision, cost = advice.decision, advice.cost
    row = {
        "task": task.name,
        "version": task.version,
        "seed": seed,
        "budget": budget,
        "verdict": decision.verdict.value,
        "scheme": decision.scheme,
        "kind": advice.scheme.kind.value,
        "digest": digest(advice.scheme),
        "lr": decision.lr,
        "challenger": decision.challenger,
        "effect": _finite(decision.effect),
        "interval": [_finite(x) for x in decision.interval],
        "p_better": decision.p_better,
        "p_worse": decision.p_worse,
        "gain": [decision.gain, decision.gain_low, decision.gain_high],
        "control_lr": _finite(decision.control_lr),
        "fresh_seeds": decision.fresh,
        "horizon": decision.horizon,
        "model_steps": cost.model_steps,
        "share_of_full": cost.share_of_full,
        "seconds": round(seconds, 2),
        "candidates": len(advice.evidence.schemes),
        "diagnosis": list(decision.diagnosis),
    }
    return row, advice.scheme


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def score(task: Task, scheme: Scheme, lr: float, store: Store) -> int:
    """Train a pick in full at its advised rate where that is not on record; how many trainings that took."""
    known = store.curves(task)
    keys = [key for seed in SEEDS if (key := Key(digest(scheme), lr, seed)) not in known]
    for key in keys:
        store.add(task, scheme.name, key, train(task, scheme, key.lr, key.seed))
    return len(keys)


def run(tasks: Iterable[Task], store: Store, *, seeds: Sequence[int], budget: str, minutes: float, again: bool) -> int:
    """Ask and score until all is on record or the time is up; how often the advisor was asked."""
    prepare_process()
    deadline = time.monotonic() + 60 * minutes
    count = 0
    for task, seed in _missing(list(tasks), store, seeds, budget, again):
        if time.monotonic() >= deadline:
            break
        row, scheme = ask(task, seed, budget)
        score(task, scheme, row["lr"], store)
        append_line(store.folder / "advice.jsonl", row)
        count += 1
        print(
            f"{task.name:20} seed {seed}: {row['verdict']:9} {row['scheme']:28} lr {row['lr']:<8g}"
            f"{row['model_steps'] / task.steps:6.1f} full trainings, {row['seconds']:.1f} s",
            flush=True,
        )
    return count


def _missing(
    tasks: Sequence[Task], store: Store, seeds: Sequence[int], budget: str, again: bool
) -> Iterator[tuple[Task, int]]:
    known = {} if again else asked(store)
    for seed in seeds:
        for task in tasks:
            if (task.name, seed, budget) not in known:
                yield task, seed


def main() -> None:
    """Command line of this part."""
    parser = argparse.ArgumentParser(description=__doc__)
    arguments(parser)
    parser.add_argument("--again", action="store_true", help="ask again where advice is on record")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(ADVISOR_SEEDS), help="seeds of the advisor")
    parser.add_argument(
        "--budget", default=BUDGET, choices=(BUDGET, REFINING), help=f"of each advice (default {BUDGET})"
    )
    options = parser.parse_args()
    tasks = [TASKS[name] for name in options.only or TASKS]
    count = run(
        tasks, Store(), seeds=options.seeds, budget=options.budget, minutes=options.minutes, again=options.again
    )
    print(f"asked {count} times")


if __name__ == "__main__":
    main()
