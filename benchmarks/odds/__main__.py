"""``python -m benchmarks.odds``: fits the odds to the recorded trainings, writes artefact and page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from benchmarks.horizon import store as horizon
from benchmarks.odds import rates, report
from benchmarks.odds.calibrate import left_out
from benchmarks.odds.fit import END_UNIT, GAP_UNIT, coefficients, columns, regress, untried
from benchmarks.odds.pairs import Pair, pairs, weights
from benchmarks.odds.records import Record, digest, inputs, long_records, short_records
from initadvisor.trials.odds import ARTEFACT

MOST_WORSE = 0.3
"""Largest chance of ending worse by 2% at which a change is advised. Of the bounds that the page compares, lower ones
cost long tasks more regret than they save harm; higher ones change nothing there and harm short tasks."""

LEAST_BETTER = 0.6
"""Least chance of ending better at which a change is advised. Against an even chance it costs no regret on short and
long tasks together, spares a tenth of the harm on short tasks and a quarter on long ones, and fewer changes follow from
two seeds of one scheme; a higher one costs long tasks more than that."""


def artefact(records: list[Record], found: list[Pair], folder: Path) -> dict[str, Any]:
    """All fitted figures, with where they come from."""
    ends, weight = np.array([p.end for p in found]), weights(found)
    given = columns(found)
    fixed = np.flatnonzero([p.design == "fixed" for p in found])
    before = untried([found[i] for i in fixed])
    return {
        "unit": {"gap": GAP_UNIT, "end": END_UNIT},
        **coefficients(regress(given, ends, weight), given),
        "untried": coefficients(regress(before, ends[fixed], weight[fixed]), before),
        "action": {"most_worse": MOST_WORSE, "least_better": LEAST_BETTER},
        "rates": rates.fitted(list(rates.cases(r for r in records if not r.trial))),
        "provenance": {
            "made": date.today().isoformat(),
            "by": "python -m benchmarks.odds",
            "inputs": {name: digest(lines) for name, lines in inputs(folder).items()},
            "trainings": {name: sum(map(len, lines.values())) for name, lines in inputs(folder).items()},
            "tasks": {"short": sum(not r.long for r in records), "long": len({r.task for r in records if r.long})},
            "families": len({r.family for r in records}),
            "pairs": len(found),
            "scikit-learn": sklearn.__version__,
        },
    }


def judge(records: Sequence[Record], found: Sequence[Pair], made: dict[str, Any]) -> str:
    """The page: every family by fits without it."""
    weight, given = weights(found), columns(found)
    judged = left_out(found, given, weight)
    before = left_out(found, untried(found), weight)
    short = np.array([not p.record.long for p in found])
    across = left_out(found, given, weight, short).where(~short) if not short.all() else None
    chosen = list(rates.cases(r for r in records if not r.trial))
    taken = {"the leader so far": [rates.leading(c) for c in chosen], "after": rates.left_out(chosen)}
    return report.page(made, judged, before, across, {name: rates.costs(chosen, some) for name, some in taken.items()})


def main() -> None:
    """Make artefact and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", type=Path, default=horizon.RESULTS, help="results of benchmarks/horizon")
    options = parser.parse_args()
    records = [*short_records(), *long_records(options.long)]
    found = list(pairs(records))
    made = artefact(records, found, options.long)
    ARTEFACT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} pairs of {len(records)} records: {ARTEFACT.name}", flush=True)
    report.PAGE.parent.mkdir(exist_ok=True)
    report.PAGE.write_text(judge(records, found, made), encoding="utf-8")
    print(f"said and true: {report.PAGE}")


if __name__ == "__main__":
    main()
