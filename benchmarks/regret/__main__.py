"""``python -m benchmarks.regret``: pool, advice, report, each going on where it was stopped."""

from __future__ import annotations

import argparse
import time

from benchmarks.regret import advisor_runs, pool, report
from benchmarks.regret.store import Store
from benchmarks.regret.tasks import TASKS


def main() -> None:
    """All parts in order; a part whose time is up leaves the rest to the next call."""
    parser = argparse.ArgumentParser(description=__doc__)
    pool.arguments(parser)
    options = parser.parse_args()
    tasks = [TASKS[name] for name in options.only or TASKS]
    store, began = Store(), time.monotonic()
    pool.run(tasks, store, processes=options.processes, minutes=options.minutes)
    left = options.minutes - (time.monotonic() - began) / 60
    advisor_runs.run(
        tasks, store, seeds=advisor_runs.ADVISOR_SEEDS, budget=advisor_runs.BUDGET, minutes=left, again=False
    )
    report.main()


if __name__ == "__main__":
    main()
