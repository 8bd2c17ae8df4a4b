"""The committed tables: one row per architecture, and a summary with everything that is not fully understood."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLUMNS = (
    "name", "status", "device", "class", "parameters", "unknown", "unused", "weak", "inferred", "depth", "branches",
    "bare_ms", "analyze_ms", "opaque", "reason",
)  # fmt: skip


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = {name: row.get(name, "") for name in _COLUMNS}
    if row["status"] == "analysed":
        cells["unknown"] = len(row["unknown"])
        cells["opaque"] = " ".join(row["opaque"])
        cells["bare_ms"] = f"{1000 * row['bare_seconds']:.1f}"
        cells["analyze_ms"] = f"{1000 * row['analyze_seconds']:.1f}"
    return cells


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.1f} %)" if whole else "0 of 0"


def _summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| source | run by themselves | analysed | no unknown role | every parameter used | analysis / bare forward |",
        "|---|---|---|---|---|---|",
    ]
    sources = sorted({r["name"].split("/")[0] for r in rows})
    for source in [*sources, "all"]:
        own = [r for r in rows if source == "all" or r["name"].startswith(f"{source}/")]
        ran = [r for r in own if r["status"] != "not run"]
        good = [r for r in ran if r["status"] == "analysed"]
        ratios = [r["analyze_seconds"] / r["bare_seconds"] for r in good]
        clean, used = [r for r in good if not r["unknown"]], [r for r in good if not r["unused"]]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "–"
        lines.append(
            f"| {source} | {_share(len(ran), len(own))} | {_share(len(good), len(ran))} "
            f"| {_share(len(clean), len(ran))} | {_share(len(used), len(ran))} | {ratio} |"
        )
    return lines


def write_tables(rows: list[dict[str, Any]], folder: Path) -> str:
    """Write ``coverage.csv`` and ``coverage.md``; give the summary."""
    rows = sorted(rows, key=lambda r: r["name"])
    with (folder / "coverage.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_cells(r) for r in rows)
    summary = _summary(rows)
    lines = [
        "# What the analysis understands",
        "",
        "Made by `python -m benchmarks.coverage`, whose rows may be of several runs;",
        "the last column is a median of ratios, both times of a model taken in one process.",
        "",
        *summary,
    ]
    failed = [r for r in rows if r["status"] == "failed"]
    lines += ["", "## Runs by itself, not analysed", "", *(f"- `{r['name']}`: {r['reason']}" for r in failed)]
    unknown = [r for r in rows if r["status"] == "analysed" and r["unknown"]]
    lines += ["", "## Analysed, with roles not understood", ""]
    for r in unknown:
        shown = ", ".join(f"`{path}` ({op})" for path, op in r["unknown"][:4])
        lines.append(f"- `{r['name']}`: {len(r['unknown'])} of {r['parameters']}: {shown}")
    lines += ["", "## Does not run by itself here", ""]
    lines += [f"- `{r['name']}`: {r['reason'][:160]}" for r in rows if r["status"] == "not run"]
    (folder / "coverage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "\n".join(summary)
