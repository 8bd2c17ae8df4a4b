"""From raw results to figures: regret, false switches, cost and calibration, each with its interval."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.regret.advisor_runs import BUDGET, REFINING, asked
from benchmarks.regret.bootstrap import Bootstrap, Interval, mean, quantile
from benchmarks.regret.limits import Limit, limits
from benchmarks.regret.methods import DEFAULT_SHARE, METHODS, Method, cost, named
from benchmarks.regret.pool import SEEDS
from benchmarks.regret.store import CURRENT_DIGEST, Key, Store
from benchmarks.regret.table import Losses, Table, best_elsewhere, build, excess, is_null, standard_error, usable
from benchmarks.regret.task import Task
from benchmarks.regret.tasks import TASKS

ADVISED = "initadvisor"
OWN_RATE = "initadvisor, own best rate"
REFINED = "initadvisor, thorough"
RIGHTLY = "initadvisor, had it decided rightly"
"""The better of its challenger and the default, known afterwards: what caution costs is the advisor's distance to it,
what the choice of the challenger costs is its own regret."""
DEFAULT = "torch default"
WIDESPREAD = 0.5
"""A textbook scheme has a line of its own where it is in the pool of at least this share of the tasks."""
BEYOND = 1.0
"""Standard errors beyond which a pick counts as worse than the default."""
ROUNDING = 1e-12
"""Regret this little below zero is arithmetic, not a scheme better than the pool's best."""


class Pick(NamedTuple):
    """One choice of a method on one task: what it fills, and its losses after full training."""

    digest: str
    losses: Losses


@dataclass(frozen=True)
class Line:
    """One method's figures: regret over tasks that are not null, the rest over all or over the null ones.

    Attributes:
        method: its name.
        tasks: how many it was measured on.
        mean, median, p90: of normalised regret.
        worse: share of picks worse than the default beyond a standard error, all tasks.
        null_excess: how much worse than the default on null tasks, in standard errors, on average.
        changed: share of picks on null tasks that are not the default.
        cost: full trainings spent on choosing, mean over tasks.
        lost: mean regret less the advisor's on the tasks both have; None for the advisor.
    """

    method: str
    tasks: int
    mean: Interval
    median: Interval
    p90: Interval
    worse: Interval
    null_excess: Interval
    changed: Interval
    cost: float
    lost: Interval | None


@dataclass(frozen=True)
class Results:
    """All that the report tells.

    Attributes:
        tables: complete tables by task.
        null: tasks on which the default is within two standard errors of the best.
        advice: the advisor's answers on those tasks.
        lines: the methods' figures, the advisor first.
        regrets: normalised regret per method and task (mean over draws), tasks that are not null.
        picks: each method's picks by task.
        limits: what choosing by full trainings of everything reaches.
    """

    tables: dict[str, Table]
    null: frozenset[str]
    advice: list[dict[str, Any]]
    lines: list[Line]
    regrets: dict[str, dict[str, float]]
    picks: dict[str, dict[str, list[Pick]]]
    limits: list[Limit]


def suite(*, unseen: bool = False) -> dict[str, Task]:
    """The tasks of the suite, or those made after the advisor."""
    return {name: task for name, task in TASKS.items() if task.unseen == unseen}


def complete_tables(store: Store, *, unseen: bool = False) -> dict[str, Table]:
    """All tasks of the suite, or of the unseen ones, whose pool is complete."""
    built = {name: build(task, store) for name, task in suite(unseen=unseen).items()}
    return {name: table for name, table in built.items() if table is not None}


def advised_losses(row: Mapping[str, Any], table: Table, store: Store, *, own_rate: bool) -> Losses | None:
    """Losses of one piece of advice after full training; None where they are not on record."""
    pooled = next((r for r in table.rows if r.digest == row["digest"]), None)
    if own_rate and pooled is not None:
        return pooled.losses
    curves = store.curves(table.task)
    found = [curves.get(Key(row["digest"], row["lr"], seed)) for seed in SEEDS]
    untrained = next(iter(table.rows[0].tuning.values())).heldout[0]
    return None if any(c is None for c in found) else np.array([usable(c, untrained) for c in found if c is not None])


def _budgets(tables: Mapping[str, Table], advice: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Optimizer steps the advisor spent on each task, for searches at equal cost."""
    spent: dict[str, list[int]] = {}
    for row in advice:
        spent.setdefault(row["task"], []).append(row["model_steps"])
    return {
        name: int(statistics.median(spent[name])) if name in spent else int(DEFAULT_SHARE * table.sweep_steps)
        for name, table in tables.items()
    }


def _methods(tables: Mapping[str, Table]) -> dict[str, Method]:
    textbook: dict[str, int] = {}
    for table in tables.values():
        for row in table.rows:
            if row.kind == "textbook":
                textbook[row.name] = textbook.get(row.name, 0) + 1
    common = sorted(name for name, count in textbook.items() if count >= WIDESPREAD * len(tables))
    return METHODS | {f"{name} everywhere": named(name) for name in common}


def gather(store: Store, *, unseen: bool = False, resamples: int | None = None) -> Results:
    """Everything measured so far on the suite, or on the unseen tasks, compared."""
    tables = complete_tables(store, unseen=unseen)
    null = frozenset(name for name, table in tables.items() if is_null(table))
    scored = [
        row
        for (name, _, _), row in sorted(asked(store).items())
        if name in tables and advised_losses(row, tables[name], store, own_rate=False) is not None
    ]
    advice, refined = ([row for row in scored if row["budget"] == budget] for budget in (BUDGET, REFINING))
    picks: dict[str, dict[str, list[Pick]]] = {ADVISED: {}, OWN_RATE: {}, REFINED: {}, RIGHTLY: {}}
    for label, rows, own in ((ADVISED, advice, False), (OWN_RATE, advice, True), (REFINED, refined, False)):
        for row in rows:
            losses = advised_losses(row, tables[row["task"]], store, own_rate=own)
            if losses is not None:
                picks[label].setdefault(row["task"], []).append(Pick(row["digest"], losses))
    for row in advice:
        default, *others = tables[row["task"]].rows
        challenger = next((r for r in others if r.name == row["challenger"]), default)
        better = min(default, challenger, key=lambda r: float(r.losses.mean()))
        picks[RIGHTLY].setdefault(row["task"], []).append(Pick(better.digest, better.losses))
    budgets = _budgets(tables, advice)
    for label, method in _methods(tables).items():
        chosen = {name: method(table, budgets[name]) for name, table in tables.items()}
        picks[label] = {name: [Pick(row.digest, row.losses) for row in rows] for name, rows in chosen.items() if rows}
    bootstrap = Bootstrap(tables, **({} if resamples is None else {"resamples": resamples}))
    regrets = {
        label: {
            name: bootstrap.regrets(name, [p.losses for p in ps]) for name, ps in by_task.items() if name not in null
        }
        for label, by_task in picks.items()
    }
    costs = {label: {name: cost(label, table, budgets[name]) for name, table in tables.items()} for label in picks}
    for label, rows in ((ADVISED, advice), (OWN_RATE, advice), (RIGHTLY, advice), (REFINED, refined)):
        steps = _budgets(tables, rows)
        costs[label] = {name: steps[name] / table.task.steps for name, table in tables.items()}
    lines = [
        _line(label, by_task, regrets, tables, null, bootstrap, costs[label])
        for label, by_task in picks.items()
        if by_task
    ]
    means = {label: {name: float(r[:, 0].mean()) for name, r in by_task.items()} for label, by_task in regrets.items()}
    reached = limits({name: table for name, table in tables.items() if name not in null}, bootstrap)
    return Results(tables, null, advice, lines, means, picks, reached)


def _line(
    label: str,
    picks: Mapping[str, list[Pick]],
    regrets: Mapping[str, Mapping[str, Losses]],
    tables: Mapping[str, Table],
    null: frozenset[str],
    bootstrap: Bootstrap,
    costs: Mapping[str, float],
) -> Line:
    mine, advisors = regrets[label], regrets[ADVISED]
    beyond = {name: np.array([excess(tables[name], p.losses) for p in ps]) for name, ps in picks.items()}
    lost = {name: mine[name].mean(0, keepdims=True) - advisors[name].mean(0) for name in mine if name in advisors}
    worse = {name: bootstrap.constant((e > BEYOND).astype(float)) for name, e in beyond.items()}
    on_null = {name: bootstrap.constant(e) for name, e in beyond.items() if name in null}
    other = {
        name: bootstrap.constant(np.array([float(p.digest != CURRENT_DIGEST) for p in picks[name]])) for name in on_null
    }
    return Line(
        method=label,
        tasks=len(picks),
        mean=bootstrap.interval(mine, mean),
        median=bootstrap.interval(mine, quantile(0.5)),
        p90=bootstrap.interval(mine, quantile(0.9)),
        worse=bootstrap.interval(worse, mean),
        null_excess=bootstrap.interval(on_null, quantile(0.5)),
        changed=bootstrap.interval(other, mean),
        cost=float(np.mean([costs[name] for name in picks])),
        lost=bootstrap.interval(lost, mean) if lost and label != ADVISED else None,
    )


def share_interval(hits: int, count: int) -> Interval:
    """A share with its exact (Clopper-Pearson) interval; NaN of nothing."""
    from scipy.stats import binomtest

    if not count:
        return Interval(np.nan, np.nan, np.nan)
    exact = binomtest(hits, count).proportion_ci(0.95)
    return Interval(hits / count, float(exact.low), float(exact.high))


def false_switches(results: Results) -> Interval:
    """Share of advice to switch where nothing beats the default."""
    on_null = [row for row in results.advice if row["task"] in results.null]
    return share_interval(sum(row["verdict"] == "switch" for row in on_null), len(on_null))


def beyond_pool(results: Results) -> Interval:
    """Share of tasks (null ones left out) on which advice beat the best of the pool: with refinement, where asked."""
    means = list((results.regrets[REFINED] or results.regrets[ADVISED]).values())
    return share_interval(sum(m < -ROUNDING for m in means), len(means))


def beyond_sweep(results: Results) -> Interval:
    """Share of those tasks on which it beat what a sweep would have found: the pool's best as chosen on other seeds.

    The least of twenty noisy means is lower than its scheme is; chosen on three seeds and read on the fourth, in turn,
    it is as good as it can be known to be.
    """
    better = []
    for name, picks in (results.picks[REFINED] or results.picks[ADVISED]).items():
        if name not in results.null:
            pick = np.mean([p.losses.mean() for p in picks])
            better.append(pick < best_elsewhere(results.tables[name]).mean() - ROUNDING)
    return share_interval(sum(better), len(better))


@dataclass(frozen=True)
class Calibration:
    """What was stated about one kind of verdict, and what full training showed.

    Attributes:
        verdict: switch, keep or undecided.
        count: pieces of advice.
        stated: mean stated probability that the challenger is better, 1 - p.
        better: share whose picked or challenging scheme truly has the lower mean loss (only where it was trained).
        covered: share whose stated interval holds the difference measured after full training.
        agreeing: the same, allowing for the error of what was measured on a few seeds.
        confidence: the level those intervals were stated at.
    """

    verdict: str
    count: int
    stated: float
    better: Interval
    covered: Interval
    agreeing: Interval
    confidence: float


def calibration(results: Results) -> list[Calibration]:
    """Stated confidence against what full training showed, by verdict."""
    found = []
    for verdict in ("switch", "keep", "undecided"):
        rows = [row for row in results.advice if row["verdict"] == verdict]
        gains = []
        for row in rows:
            table = results.tables[row["task"]]
            challenger = next((r for r in table.rows if r.name == row["challenger"]), None)
            if challenger is not None:
                gains.append((row, table.default - challenger.losses))
        if not rows:
            continue
        bounded = [(row, gain) for row, gain in gains if all(x is not None for x in row["interval"])]
        found.append(
            Calibration(
                verdict=verdict,
                count=len(rows),
                stated=float(np.mean([1 - row["p"] for row in rows if row["p"] is not None] or [np.nan])),
                better=share_interval(sum(gain.mean() > 0 for _, gain in gains), len(gains)),
                covered=share_interval(sum(_holds(row, gain, slack=0) for row, gain in bounded), len(bounded)),
                agreeing=share_interval(sum(_holds(row, gain, slack=1) for row, gain in bounded), len(bounded)),
                confidence=float(np.mean([row["confidence"] for row in rows])),
            )
        )
    return found


def _holds(row: Mapping[str, Any], gain: Losses, *, slack: float) -> bool:
    """Whether a stated interval holds a mean gain; with slack, widened by the gain's own interval of that level.

    Both are of means over a few seeds, and their errors are independent, so they add like errors.
    """
    from scipy.stats import t as student

    low, high = row["interval"]
    own = slack * float(student.ppf((1 + row["confidence"]) / 2, len(gain) - 1)) * standard_error(gain)
    return abs(float(gain.mean()) - (low + high) / 2) <= np.hypot((high - low) / 2, own)


@dataclass(frozen=True)
class Spent:
    """What the advice cost, medians over all of it.

    Attributes:
        of_sweep: share of training every scheme of the pool at every rate on as many seeds as the pool's losses have.
        mean_of_sweep: the same, its mean.
        of_one_seed: share of the same on a single seed.
        full_trainings: in full trainings.
        seconds: wall time.
    """

    of_sweep: float
    mean_of_sweep: float
    of_one_seed: float
    full_trainings: float
    seconds: float


def spent(results: Results) -> Spent | None:
    """Cost of the advice; None before any."""
    if not results.advice:
        return None
    tables = results.tables
    shares = [row["model_steps"] / tables[row["task"]].sweep_steps for row in results.advice]
    return Spent(
        statistics.median(shares) / len(SEEDS),
        statistics.mean(shares) / len(SEEDS),
        statistics.median(shares),
        statistics.median(row["model_steps"] / TASKS[row["task"]].steps for row in results.advice),
        statistics.median(row["seconds"] for row in results.advice),
    )
