"""``python -m benchmarks.odds``: fits the odds to the recorded trainings, writes artefact and page."""

from __future__ import annotations

import json
from datetime import date

import sklearn

from benchmarks.odds.base import base_rates
from benchmarks.odds.fit import artefact_of
from benchmarks.odds.pairs import pairs, weights
from benchmarks.odds.records import digest, inputs, short_records
from initadvisor.trials.odds import ARTEFACT


def main() -> None:
    """Make the artefact."""
    records = list(short_records())
    found = [p for p in pairs(records) if not (p.view.candidate_dead or p.view.current_dead)]
    made = artefact_of(found, weights(found))
    made["action"] = {"most_worse": 0.35}
    made["base_rates"] = base_rates(records)
    made["rates"] = {"level": 0.02, "until_share": 0.5}
    made["provenance"] = {
        "made": date.today().isoformat(),
        "by": "python -m benchmarks.odds",
        "inputs": digest(inputs()),
        "tasks": len(records),
        "families": len({r.family for r in records}),
        "pairs": len(found),
        "scikit-learn": sklearn.__version__,
    }
    ARTEFACT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} pairs of {len(records)} tasks: {ARTEFACT.name}")


if __name__ == "__main__":
    main()
