"""Raw results: one JSON line per training, appended as they come; packed into one small file for the repository.

python -m benchmarks.horizon.store      # pack what was trained into results/curves.jsonl.gz
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.horizon.train import Curve
from benchmarks.regret.store import append_line, read_lines

RESULTS = Path(__file__).parent / "results"

PACKED = "curves.jsonl.gz"
LOOSE = "curves.jsonl"
"""Rows that are not packed yet; not part of the repository."""

FULL = "full"
CONSTANT = "constant"
SHORT = "short"
"""Variants: as the user trains; at the full rate from the first step on, as far as screening goes; the whole decay in a
tenth of the steps, without the warm-up."""


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        task, version: which task.
        scheme: name under which it was proposed.
        digest: what it fills; equal digests are equal schemes.
        lr, seed: rate and seed.
        variant: "full", "constant" or "short".
        curve: what was seen.
    """

    task: str
    version: int
    scheme: str
    digest: str
    lr: float
    seed: int
    variant: str
    curve: Curve

    @property
    def key(self) -> tuple[str, str, float, int, str]:
        """Which training it is."""
        return self.task, self.digest, self.lr, self.seed, self.variant

    @property
    def best(self) -> float:
        """Held-out loss of the best checkpoint; inf where none was finite."""
        return min((x for x in self.curve.heldout if math.isfinite(x)), default=math.inf)

    @property
    def last(self) -> float:
        """Held-out loss at the end; inf where the training broke."""
        return math.inf if self.curve.diverged is not None else self.curve.heldout[-1]

    def until(self, step: float) -> float:
        """Held-out loss of the best checkpoint up to a step; inf where none was finite."""
        seen = zip(self.curve.steps, self.curve.heldout, strict=True)
        return min((x for s, x in seen if s <= step and math.isfinite(x)), default=math.inf)

    def at(self, step: float) -> float:
        """Held-out loss at the last evaluation up to a step; inf where the training broke before."""
        if self.curve.diverged is not None and step >= self.curve.diverged:
            return math.inf
        return [x for s, x in zip(self.curve.steps, self.curve.heldout, strict=True) if s <= step][-1]


def _known(values: Iterable[float]) -> list[float | None]:
    return [x if math.isfinite(x) else None for x in values]


def _numbers(values: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if x is None else x for x in values)


def _written(row: Row) -> dict[str, Any]:
    c = row.curve
    return {
        "task": row.task, "version": row.version, "scheme": row.scheme, "digest": row.digest, "lr": row.lr,
        "seed": row.seed, "variant": row.variant, "steps": c.steps, "heldout": _known(c.heldout),
        "train": _known(c.train), "best": _known([row.best])[0], "last": _known([row.last])[0],
        "diverged": c.diverged, "seconds": c.seconds, "fill_seconds": c.fill_seconds,
    }  # fmt: skip


def _read(raw: dict[str, Any]) -> Row:
    curve = Curve(
        tuple(raw["steps"]), _numbers(raw["heldout"]), _numbers(raw["train"]), raw["diverged"], raw["seconds"],
        raw["fill_seconds"],
    )  # fmt: skip
    names = ("task", "version", "scheme", "digest", "lr", "seed", "variant")
    return Row(**{name: raw[name] for name in names}, curve=curve)


def load(folder: Path = RESULTS) -> list[Row]:
    """All trainings on record, each once, in the order they were done.

    Example:
        >>> rows = load()
        >>> all(row.curve.steps[0] == 0 for row in rows)
        True
    """
    found: dict[tuple[Any, ...], Row] = {}
    packed = folder / PACKED
    if packed.exists():
        for line in gzip.decompress(packed.read_bytes()).decode().splitlines():
            row = _read(json.loads(line))
            found[(*row.key, row.version)] = row
    for raw in read_lines(folder / LOOSE):
        row = _read(raw)
        found[(*row.key, row.version)] = row
    return list(found.values())


def add(rows: Sequence[Row], folder: Path = RESULTS) -> None:
    """Keep trainings: a line each."""
    for row in rows:
        append_line(folder / LOOSE, _written(row))


def pack(folder: Path = RESULTS) -> int:
    """Write all rows into the packed file, the same bytes for the same rows; the number of them."""
    rows = sorted(load(folder), key=lambda row: (*row.key, row.version))
    lines = "".join(json.dumps(_written(row), separators=(",", ":")) + "\n" for row in rows)
    (folder / PACKED).write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    (folder / LOOSE).unlink(missing_ok=True)
    return len(rows)


def proposals(folder: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """Per task the schemes in the order they were proposed: name, kind, prior, digest, and whether they are
    trained at all and at other rates than the middle one."""
    path = folder / "proposals.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def set_proposals(task: str, rows: list[dict[str, Any]], folder: Path = RESULTS) -> None:
    """Keep what was proposed for one task."""
    merged = {**proposals(folder), task: rows}
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(merged[name])}" for name in sorted(merged))
    (folder / "proposals.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    print(f"{pack()} trainings packed")
