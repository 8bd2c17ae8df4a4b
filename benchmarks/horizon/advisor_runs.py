"""Ask the advisor itself at small costs, and read what its pick is worth from the pool.

python -m benchmarks.horizon.advisor_runs --label 0.3 --shares .05 .1 .3
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.horizon import store
from benchmarks.horizon.pool import SEEDS, proposed
from benchmarks.horizon.store import RESULTS
from benchmarks.horizon.table import Arm, Table, View
from benchmarks.horizon.task import LongTask
from benchmarks.horizon.tasks import TASKS
from benchmarks.horizon.train import fresh_model
from benchmarks.regret.store import append_line, digest, read_lines
from benchmarks.regret.task import Tensors
from initadvisor.types import CURRENT, TORCH_DEFAULT

ADVICE = "advice.jsonl"

SHARES = (0.05, 0.1, 0.3)
"""Of one full training that the advisor may spend."""

ONE_RATE, ALL_RATES = "one rate", "three rates"
"""What the user gives: the rate that would be tried first, or the grid."""

STREAM_BATCHES = 400
"""Batches that are shown to the advisor; it reads fewer."""


class Stream:
    """Batches that do not run out, as a loader."""

    def __init__(self, task: LongTask, seed: int) -> None:
        self.task, self.seed = task, seed

    def __len__(self) -> int:
        return STREAM_BATCHES

    def __iter__(self) -> Iterator[Tensors]:
        for _, batch in zip(range(STREAM_BATCHES), self.task.batches(self.seed), strict=False):
            yield batch


def ask(task: LongTask, mode: str, share: float, trained: Collection[str]) -> dict[str, Any]:
    """One piece of advice, as a row for the record.

    Args:
        task: the training; the weights as they came are those of the pool's first seed.
        mode: what the user gives.
        share: of one full training that may be spent.
        trained: names of the schemes whose ends are known; those of them that are proposed are the candidates.
    """
    from initadvisor.advisor import advise

    candidates = [s.name for s in proposed(task.name) if s.name in trained and s.name != CURRENT]
    model, budget = fresh_model(task, None, SEEDS[0]), round(share * task.steps)
    began = time.monotonic()
    advice = advise(
        model,
        Stream(task, SEEDS[0]),
        loss=task.loss,
        optimizer=task.optimizer,
        lr=task.rate if mode == ONE_RATE else task.lrs,
        scheduler=None if str(task.schedule) == "constant" else task.scheduler,
        clip_norm=task.clip_norm,
        steps=task.steps,
        budget=budget,
        candidates=candidates,
        progress=False,
    )
    decision = advice.decision
    return {
        "task": task.name,
        "version": task.version,
        "mode": mode,
        "share": share,
        "scheme": decision.scheme,
        "digest": digest(advice.scheme),
        "lr": decision.lr,
        "verdict": decision.verdict.value,
        "p_better": _finite(getattr(decision, "p_better", None)),
        "p_worse": _finite(getattr(decision, "p_worse", None)),
        "budget": budget,
        "model_steps": advice.cost.model_steps,
        "seconds": round(time.monotonic() - began, 2),
    }


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None


def run(tasks: Iterable[LongTask], label: str, shares: Sequence[float], folder: Path, *, minutes: float) -> int:
    """Ask what is not on record under this label; how often was asked."""
    torch.set_num_threads(1)
    deadline, count, listed = time.monotonic() + 60 * minutes, 0, list(tasks)
    known = {(r["label"], r["task"], r["version"], r["mode"], r["share"]) for r in read_lines(folder / ADVICE)}
    for share in shares:
        for mode in (ONE_RATE, ALL_RATES):
            for task in listed:
                if (label, task.name, task.version, mode, share) in known:
                    continue
                if time.monotonic() > deadline:
                    return count
                mark = "trained" if mode == ONE_RATE else "rated"
                trained = {p["name"] for p in store.proposals(folder)[task.name] if p[mark]}
                row = {"label": label, **ask(task, mode, share, trained)}
                append_line(folder / ADVICE, row)
                count += 1
                print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
    return count


def picks(tables: Iterable[Table], label: str, mode: str, share: float, folder: Path) -> list[tuple[View, list[Arm]]]:
    """What was advised, as arms of the pool; advice that is not in it is left out."""
    rows, found = _rows(label, mode, share, folder), []
    for table in tables:
        view = table.one_rate if mode == ONE_RATE else table.all_rates
        row = rows.get(table.task.name)
        if view is None or row is None:
            continue
        arm = arm_of(view, row)
        if arm is not None:
            found.append((view, [arm]))
    return found


def _rows(label: str, mode: str, share: float, folder: Path) -> dict[str, dict[str, Any]]:
    return {
        r["task"]: r
        for r in read_lines(folder / ADVICE)
        if (r["label"], r["mode"], r["share"]) == (label, mode, share) and r["version"] == TASKS[r["task"]].version
    }


def odds(view: View, folder: Path, label: str, mode: str, share: float) -> tuple[float | None, float | None]:
    """What advice said of ending better than the weights as they came, and worse by over 2%."""
    row = _rows(label, mode, share, folder)[view.task.name]
    return row["p_better"], row["p_worse"]


def arm_of(view: View, row: dict[str, Any]) -> Arm | None:
    """The arm that a piece of advice names; torch's default is a further draw of the weights as they came."""
    at_rate = [a for a in view.arms if math.isclose(a.lr, row["lr"])]
    if row["scheme"] == TORCH_DEFAULT:
        return next((a for a in at_rate if a.is_default), None)
    same = [a for a in at_rate if a.digest == row["digest"]] or [a for a in at_rate if a.scheme == row["scheme"]]
    return same[0] if same else None


def asked(folder: Path = RESULTS) -> dict[str, dict[str, list[float]]]:
    """Labels on record, and for each way of asking the shares."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in read_lines(folder / ADVICE):
        shares = found.setdefault(row["label"], {}).setdefault(row["mode"], [])
        if row["share"] not in shares:
            shares.append(row["share"])
    return found


def main() -> None:
    """Command line of this part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(TASKS), metavar="TASK", help="these tasks alone")
    parser.add_argument("--label", required=True, help="what the report calls this version of the advisor")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of one full training")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no new advice after so long")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of models that look trained: a transfer's body is meant to
    tasks = [TASKS[name] for name in options.only or store.proposals(options.folder) or TASKS]
    count = run(tasks, options.label, options.shares, options.folder, minutes=options.minutes)
    print(f"asked {count} times")


if __name__ == "__main__":
    main()
