"""Raw results on disk: one JSON line per training, one file per task, appended as they come and never rewritten."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.regret.task import Task
from benchmarks.regret.train import Curve, evaluation_steps
from initadvisor.schemes.scheme import Scheme

RESULTS = Path(__file__).parent / "results"
CURRENT_DIGEST = "current"


class Key(NamedTuple):
    """Which training: what was filled how, at which rate, from which seed."""

    digest: str
    lr: float
    seed: int


def digest(scheme: Scheme | None) -> str:
    """Short hash of what a scheme does: its fills and calibrations, not its name or reasons."""
    if scheme is None or not (scheme.assignments or scheme.calibrations):
        return CURRENT_DIGEST
    does = [(a.path, a.shape, a.parts) for a in scheme.assignments]
    return hashlib.sha256(repr((does, scheme.calibrations)).encode()).hexdigest()[:12]


def _known(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _number(x: float | None) -> float:
    return math.nan if x is None else x


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line in a single write, so that several processes may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(row, separators=(",", ":")) + "\n").encode())
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line cut short by a kill is skipped. Nothing where there is no file."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


class Store:
    """Curves by task and key.

    Args:
        folder: where the files are; the repository's own results unless told otherwise.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder

    def curves_file(self, task: Task) -> Path:
        """The file of one task."""
        return self.folder / "curves" / f"{task.name}.jsonl"

    def curves(self, task: Task) -> dict[Key, Curve]:
        """Everything trained of this version of the task."""
        found: dict[Key, Curve] = {}
        steps = evaluation_steps(task.steps)
        for row in read_lines(self.curves_file(task)):
            if row["version"] != task.version:
                continue
            heldout = tuple(_number(x) for x in row["heldout"])
            train = tuple(_number(x) for x in row["train"])
            curve = Curve(steps[: len(heldout)], heldout, train, row["diverged"], row["seconds"], row["fill_seconds"])
            found[Key(row["digest"], row["lr"], row["seed"])] = curve
        return found

    def add(self, task: Task, name: str, key: Key, curve: Curve) -> None:
        """Keep one training."""
        row = {
            "scheme": name,
            "digest": key.digest,
            "lr": key.lr,
            "seed": key.seed,
            "heldout": [_known(x) for x in curve.heldout],
            "train": [_known(x) for x in curve.train],
            "diverged": curve.diverged,
            "seconds": curve.seconds,
            "fill_seconds": curve.fill_seconds,
            "version": task.version,
        }
        append_line(self.curves_file(task), row)

    def forget(self, task: Task, names: Iterable[str]) -> int:
        """Drop all trainings of these schemes, for when the code behind a scheme has changed; how many were dropped."""
        path = self.curves_file(task)
        rows = list(read_lines(path))
        kept = [row for row in rows if row["scheme"] not in set(names)]
        if len(kept) < len(rows):
            path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in kept))
        return len(rows) - len(kept)

    def proposals(self) -> dict[str, list[dict[str, Any]]]:
        """Per task: the pool as it was last proposed (name, kind, digest, prior, calibrations, fault)."""
        path = self.folder / "proposals.json"
        found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def set_proposals(self, task: Task, rows: list[dict[str, Any]]) -> None:
        """Keep the pool of one task."""
        merged = {**self.proposals(), task.name: rows}
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(merged[name])}" for name in sorted(merged))
        (self.folder / "proposals.json").write_text(f"{{\n{lines}\n}}\n")

    def set_fault(self, task: Task, name: str, fault: str) -> None:
        """Mark a scheme of the pool as one that cannot be filled; the table does without it until it can."""
        rows = [row | {"fault": fault} if row["name"] == name else row for row in self.proposals()[task.name]]
        self.set_proposals(task, rows)
