"""``python -m benchmarks.checks [PREFIX]``: what fires on freshly built models, as a table.

Every error and warning was looked into by hand; what was found stands in ``reviewed.py``. A finding without a review is
marked, so that a new false alarm is seen when the table changes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

import initadvisor
from benchmarks.checks.reviewed import REVIEWED
from benchmarks.checks.zoo import Entry, accepts, entries, quietly
from initadvisor.checks.finding import Finding, Severity
from initadvisor.errors import InitAdvisorError

TABLE = Path(__file__).parent / "results" / "table.md"

Row = tuple[str, int, tuple[Finding, ...]]


def audit(entry: Entry) -> Row | str:
    """Name, number of parameters and findings, or why there are none."""
    try:
        model, batch = quietly(entry.make)
    except Exception as error:  # noqa: BLE001 - a configuration that does not build is told in the table
        return f"not built: {' '.join(str(error).split())[:90]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = initadvisor.check(model, accepts(model, batch))
    except InitAdvisorError as error:
        return f"does not run on the batch: {str(error)[:90]}"
    return entry.name, sum(p.numel() for p in model.parameters()), found


def table(rows: list[Row], left_out: list[tuple[str, str]]) -> str:
    """The page: what fired, its review, and what was silent."""
    serious = [(name, f) for name, _, found in rows for f in found if f.severity is not Severity.INFO]
    silent = [name for name, _, found in rows if all(f.severity is Severity.INFO for f in found)]
    lines = [
        "# What fires on freshly built models",
        "",
        f"torch {torch.__version__.split('+')[0]}; made by `python -m benchmarks.checks`. {len(rows)} models, "
        f"{len(silent)} without error or warning.",
        "",
        "| model | finding | seen | looked into by hand |",
        "| --- | --- | --- | --- |",
    ]
    told: set[tuple[str, str]] = set()
    for name, f in serious:
        if (name, f.code) in told:
            continue
        told.add((name, f.code))
        review = REVIEWED.get((name, f.code), "**not reviewed**")
        where = f.paths[0] if f.paths else "the model"
        lines.append(f"| {name} | {f.code} {f.severity.value} | `{where}`: {f.message} | {review} |")
    remarks: dict[str, list[str]] = {}
    for name, _, found in rows:
        for code in sorted({f.code for f in found if f.severity is Severity.INFO and not f.code.startswith("INI9")}):
            remarks.setdefault(code, []).append(name)
    lines += ["", "## Remarks (severity info)", ""]
    lines += [f"- {code} on {len(names)}: {', '.join(names)}" for code, names in sorted(remarks.items())]
    lines += ["", "## Neither error nor warning", "", ", ".join(silent)]
    lines += ["", "## Left out", "", *(f"- {name}: {why}" for name, why in left_out)]
    return "\n".join(lines) + "\n"


def main(prefix: str = "") -> int:
    """Audit the zoo; without a prefix the committed table is written anew."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    left_out: list[tuple[str, str]] = []
    for entry in entries():
        if not entry.name.startswith(prefix):
            continue
        done = audit(entry)
        if isinstance(done, str):
            left_out.append((entry.name, done))
        else:
            rows.append(done)
        shown = done if isinstance(done, str) else " ".join(f.code for f in done[2]) or "silent"
        print(f"{entry.name}: {shown}", file=sys.stderr, flush=True)
    page = table(rows, left_out)
    if prefix:
        print(page)
    else:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(page, encoding="utf-8")
    return int("**not reviewed**" in page)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
