"""The report as markdown: the README's table first, then what stands behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.regret.bootstrap import Interval
from benchmarks.regret.pool import SEEDS
from benchmarks.regret.store import Store
from benchmarks.regret.summary import (
    ADVISED,
    Results,
    beyond_pool,
    beyond_sweep,
    calibration,
    false_switches,
    spent,
    suite,
)

TARGETS = {"median": 0.05, "p90": 0.20, "worse": 0.03, "false": 0.10, "sweep": 0.10, "beyond": 0.25}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _share(x: Interval) -> str:
    return "–" if math.isnan(x.value) else f"{x.value:.0%} [{x.low:.0%}, {x.high:.0%}]"


def _figure(x: Interval | None) -> str:
    return "–" if x is None or math.isnan(x.value) else str(x)


def methods_table(results: Results) -> str:
    """One line per method, the best mean regret first."""
    head = (
        "method",
        "tasks",
        "mean regret",
        "median",
        "p90",
        "worse than default",
        "changed where nothing helps",
        "harm there, s.e.",
        "cost, full trainings",
        "lost to advice",
    )
    rows = [
        (
            f"**{line.method}**" if line.method == ADVISED else line.method,
            str(line.tasks),
            _figure(line.mean),
            _figure(line.median),
            _figure(line.p90),
            _share(line.worse),
            _share(line.changed),
            _figure(line.null_excess),
            f"{line.cost:.1f}",
            _figure(line.lost),
        )
        for line in sorted(results.lines, key=lambda x: (math.isnan(x.mean.value), x.mean.value))
    ]
    return _table(head, rows)


def targets_table(results: Results) -> str:
    """Target, measured, met or not."""
    line = next((x for x in results.lines if x.method == ADVISED), None)
    cost = spent(results)
    if line is None or cost is None:
        return "The advisor has not been asked yet.\n"
    false, beyond = false_switches(results), beyond_pool(results)

    def met(value: float, target: float, *, least: bool = False) -> str:
        return "–" if math.isnan(value) else "yes" if (value >= target if least else value <= target) else "no"

    rows = [
        ("median regret", "≤ 0.05", _figure(line.median), met(line.median.value, TARGETS["median"])),
        ("p90 regret", "≤ 0.20", _figure(line.p90), met(line.p90.value, TARGETS["p90"])),
        ("worse than the default", "≤ 3%", _share(line.worse), met(line.worse.value, TARGETS["worse"])),
        ("switched where nothing helps", "≤ 10%", _share(false), met(false.value, TARGETS["false"])),
        (
            f"cost, share of the sweep on {len(SEEDS)} seeds: mean (median)",
            "≤ 10%",
            f"{cost.mean_of_sweep:.1%} ({cost.of_sweep:.1%})",
            met(cost.mean_of_sweep, TARGETS["sweep"]),
        ),
        ("cost, share of the sweep on one seed", "", f"{cost.of_one_seed:.1%}", ""),
        ("cost, full trainings", "", f"{cost.full_trainings:.1f}", ""),
        ("wall time, s (median)", "", f"{cost.seconds:.1f}", ""),
        (
            "better than the pool's best, with refinement",
            "≥ 25%",
            _share(beyond),
            met(beyond.value, TARGETS["beyond"], least=True),
        ),
        ("— than the best a sweep would choose, on other seeds", "", _share(beyond_sweep(results)), ""),
    ]
    return _table(("target", "asked for", "measured", "met"), rows)


def limits_table(results: Results) -> str:
    """By the number of seeds."""
    rows = [
        (str(x.seeds), _figure(x.mean), _figure(x.median), _figure(x.p90), f"{x.cost:.0f}", f"{x.of_sweep:.0%}")
        for x in results.limits
    ]
    return _table(("seeds", "mean regret", "median", "p90", "cost, full trainings", "share of the sweep"), rows)


def calibration_table(results: Results) -> str:
    """By verdict."""
    rows = [
        (
            c.verdict,
            str(c.count),
            f"{c.stated:.2f}",
            _share(c.better),
            f"{c.confidence:.0%}",
            _share(c.covered),
            _share(c.agreeing),
        )
        for c in calibration(results)
    ]
    head = (
        "verdict",
        "times",
        "stated chance that the challenger is better",
        "better after full training",
        "stated level",
        "interval held the full effect",
        "the same, given the error of the effect itself",
    )
    return _table(head, rows)


def tasks_table(results: Results) -> str:
    """One line per task: what the default and the best reach, and what was advised."""
    rows = []
    for name, table in results.tables.items():
        advice = [row for row in results.advice if row["task"] == name]
        told = ", ".join(f"{row['verdict']} → {row['scheme']}" for row in advice) or "–"
        regret = results.regrets[ADVISED].get(name)
        kind = "null" if name in results.null else ""
        rows.append(
            (
                name,
                table.task.family,
                kind + (" (expected)" if table.task.expected_null else ""),
                f"{table.default.mean():.4g}",
                f"{table.best.losses.mean():.4g}",
                table.best.name,
                told,
                "–" if regret is None else f"{regret:.2f}",
            )
        )
    return _table(("task", "family", "null", "default", "best", "best scheme", "advice", "regret"), rows)


def introduction(results: Results, store: Store, *, unseen: bool) -> str:
    """What was trained, what was asked, and what the figures mean."""
    trainings, hours, tasks = 0, 0.0, suite(unseen=unseen)
    for task in tasks.values():
        curves = store.curves(task)
        trainings += len(curves)
        hours += sum(c.seconds + c.fill_seconds for c in curves.values()) / 3600
    return (
        f"{len(results.tables)} of {len(tasks)} tasks have their whole pool trained ({trainings} full trainings, "
        f"{hours:.2f} processor hours); on those the advisor was asked {len(results.advice)} times. Regret: 0 is the "
        f"best of the pool, 1 is torch's default; over the {len(results.tables) - len(results.null)} tasks that are "
        "not null. Brackets: 95% intervals over tasks and seeds. *Lost to advice*: a method's mean regret less the "
        "advisor's on the same tasks."
    )


def render(results: Results, unseen: Results, store: Store) -> str:
    """The whole report: the suite, then the unseen tasks by the same figures."""
    parts = [
        "# Is the advice true after full training?",
        introduction(results, store, unseen=False),
        methods_table(results) if results.tables else "Nothing is complete yet.",
        "## Targets",
        targets_table(results),
        "## How well can be chosen at all?",
        "Every scheme trained in full: at every rate on one seed, then at its best rate on so many of the four seeds; "
        "the best of them, judged on the seeds that are left. Trainings differ by chance, so even a sweep that costs "
        "many times the advice picks schemes that do not stay the best.",
        limits_table(results),
        "## Is the stated confidence right?",
        "Stated chance and interval are about the trials' horizon; the measured difference is that of full training, a "
        "mean over four seeds. The last column allows for that mean's own error: its interval of the same level and "
        "the stated one, added as independent errors are.",
        calibration_table(results),
        "## Tasks",
        tasks_table(results),
    ]
    if unseen.tables:
        parts += [
            "# On tasks made afterwards",
            "Other architectures than those above, made after the advisor: nothing of it was chosen by their results. "
            + introduction(unseen, store, unseen=True),
            methods_table(unseen),
            "## Targets there",
            targets_table(unseen),
            "## How well can be chosen there at all?",
            limits_table(unseen),
            "## Is the stated confidence right there?",
            calibration_table(unseen),
            "## These tasks",
            tasks_table(unseen),
        ]
    return "\n\n".join(parts) + "\n"
