"""Analyse every architecture of the zoo and write the table: ``python -m benchmarks.coverage``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import torch

from benchmarks.coverage import from_diffusers, from_geometric, from_transformers, plain
from benchmarks.coverage.entry import Entry
from benchmarks.coverage.table import write_tables
from benchmarks.coverage.worker import in_child

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STORE = RESULTS / "results.jsonl"

SOURCES = {
    "plain": plain.entries,
    "geometric": from_geometric.entries,
    "diffusers": from_diffusers.entries,
    "transformers": from_transformers.entries,
}


def _chosen(sources: list[str], only: str | None) -> list[Entry]:
    found = [entry for source in sources for entry in SOURCES[source]()]
    return [e for e in found if only is None or only in e.name]


def _stored() -> dict[str, dict[str, object]]:
    if not STORE.exists():
        return {}
    rows = [json.loads(line) for line in STORE.read_text(encoding="utf-8").splitlines() if line]
    return {row["name"]: row for row in rows}


def main(argv: list[str] | None = None) -> int:
    """Run what has no result yet; with ``--again``, everything chosen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--source", action="append", choices=sorted(SOURCES), help="only these (default: all)")
    parser.add_argument("--only", help="only names that contain this")
    parser.add_argument("--again", action="store_true", help="run again what has a result")
    parser.add_argument("--retry", action="store_true", help="run again what did not run or was not fully understood")
    parser.add_argument("--shard", default="0/1", help="part K (from 0) of N, for several processes side by side")
    parser.add_argument("--seconds", type=int, default=90, help="limit per architecture")
    parser.add_argument("--gigabytes", type=float, default=6.0, help="limit of address space per architecture")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    rows = _stored()
    part, parts = (int(n) for n in options.shard.split("/"))
    if not 0 <= part < parts:
        parser.error(f"--shard {options.shard}: K of K/N runs from 0 to N-1, so the last is {parts - 1}/{parts}")
    for entry in _chosen(options.source or list(SOURCES), options.only)[part::parts]:
        if entry.name in rows and not (options.again or (options.retry and not _complete(rows[entry.name]))):
            continue
        row = in_child(entry, seconds=options.seconds, gigabytes=options.gigabytes)
        with STORE.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        sys.stdout.write(f"{row['name']:45s} {row['status']:9s} {_told(row)}\n")
        sys.stdout.flush()
    sys.stdout.write(write_tables(list(_stored().values()), RESULTS) + "\n")
    return 0


def _complete(row: dict[str, object]) -> bool:
    return row["status"] == "analysed" and not row["unknown"]


def _told(row: dict[str, object]) -> str:
    if row["status"] != "analysed":
        return str(row.get("reason", ""))[:150]
    ratio = float(row["analyze_seconds"]) / float(row["bare_seconds"])  # type: ignore[arg-type]
    return (
        f"{row['parameters']:>5} params {len(row['unknown']):>3} unknown {row['unused']:>4} unused "  # type: ignore[arg-type]
        f"{row['branches']:>4} branches {ratio:5.2f}x {' '.join(row['opaque'])[:60]}"  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    sys.exit(main())
