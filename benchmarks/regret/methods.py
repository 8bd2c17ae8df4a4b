"""What a user could do instead, replayed on the pool's curves; each gives one pick per draw of its own randomness.

Every method is scored by the same full trainings, at the picked scheme's own best rate. Short trainings are the first
part of a long one, so searches are replayed on the tuning seeds' curves at their true cost in optimizer steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.regret.table import Row, Table
from benchmarks.regret.train import Curve

RUNG = 0.1
"""Share of the full length at which the one-rung replay chooses."""

REPEATS = 10
"""Draws of a sampler's seed in the replayed search."""

ORACLE = "best of the pool, known afterwards"
ONE_RUNG = "one rung, best wins"
ONE_SEED = "every training in full, one seed"
SEARCH = "TPE + Hyperband"

WORST = 1e9
"""What the replayed search is told of a training without a finite loss."""

DEFAULT_SHARE = 0.1
"""Budget of the replayed search where the advisor has not been run, as a share of the sweep: the target's bound."""

Method = Callable[[Table, int], list[Row]]


def _where(choose: Callable[[Row], bool]) -> Method:
    def pick(table: Table, _budget: int) -> list[Row]:
        found = [row for row in table.rows if choose(row)]
        return [max(found, key=lambda row: row.prior)] if found else []

    return pick


def named(name: str) -> Method:
    """Always the scheme of that name, where it is proposed."""
    return _where(lambda row: row.name == name)


def calibrated(method: str) -> Method:
    """The scheme with that data-driven step, the one of highest prior where there are several."""
    return _where(lambda row: method in row.calibrations)


def default(table: Table, _budget: int) -> list[Row]:
    """The model as it comes."""
    return [table.rows[0]]


def rules(table: Table, budget: int) -> list[Row]:
    """The rules' first choice, no trial."""
    return _where(lambda row: row.kind == "rules")(table, budget) or default(table, budget)


def random_choice(table: Table, _budget: int) -> list[Row]:
    """Each scheme of the pool once, equally likely."""
    return list(table.rows)


def oracle(table: Table, _budget: int) -> list[Row]:
    """The best of the pool, known only afterwards."""
    return [table.best]


def _until(curve: Curve, step: float) -> float:
    finite = [x for s, x in zip(curve.steps, curve.heldout, strict=True) if s <= step and np.isfinite(x)]
    return min(finite, default=float("inf"))


def one_rung(table: Table, _budget: int) -> list[Row]:
    """Every scheme at every rate for a tenth of the length on one seed; the lowest held-out loss wins."""
    horizon = RUNG * table.task.steps
    scored = [(_until(curve, horizon), row) for row in table.rows for curve in row.tuning.values()]
    return [min(scored, key=lambda pair: pair[0])[1]]


def one_seed(table: Table, _budget: int) -> list[Row]:
    """Every scheme at every rate in full on one seed; the lowest held-out loss wins."""
    return [min(table.rows, key=lambda row: min(curve.best for curve in row.tuning.values()))]


def tpe_hyperband(table: Table, budget: int) -> list[Row]:
    """Optuna's TPE over scheme and rate with Hyperband pruning, stopped after ``budget`` optimizer steps."""
    return [_search(table, budget, seed) for seed in range(REPEATS)]


def _search(table: Table, budget: int, seed: int) -> Row:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    by_name = {row.name: row for row in table.rows}
    steps = table.task.steps
    pruner = optuna.pruners.HyperbandPruner(min_resource=max(1, steps // 20), max_resource=steps, reduction_factor=3)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner, study_name="replay")
    spent, best = 0, (float("inf"), table.rows[0])
    while True:
        trial = study.ask()
        row = by_name[trial.suggest_categorical("scheme", list(by_name))]
        curve = row.tuning[trial.suggest_categorical("lr", list(table.task.lrs))]
        state, value, step = optuna.trial.TrialState.COMPLETE, WORST, 0
        for step in curve.steps[1:]:
            if spent + step > budget:
                return best[1]
            value = min(_until(curve, step), WORST)
            best = min(best, (value, row), key=lambda pair: pair[0])
            trial.report(value, step)
            if trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        spent += step
        study.tell(trial, None if state == optuna.trial.TrialState.PRUNED else value, state=state)


METHODS: dict[str, Method] = {
    "torch default": default,
    "random choice": random_choice,
    "rules, no trial": rules,
    "LSUV": calibrated("lsuv"),
    "GradInit": calibrated("gradinit"),
    "MetaInit": calibrated("metainit"),
    "analytic propagation": calibrated("analytic"),
    ONE_RUNG: one_rung,
    ONE_SEED: one_seed,
    SEARCH: tpe_hyperband,
    ORACLE: oracle,
}
"""By the name the report gives them; the textbook schemes of the pool are added by their own names."""


def cost(label: str, table: Table, budget: int) -> float:
    """Full trainings a method spends before the user's own; a data-driven scheme's passes are not counted."""
    if label == ONE_RUNG:
        return RUNG * table.sweep_steps / table.task.steps
    if label == ONE_SEED:
        return table.sweep_steps / table.task.steps
    return budget / table.task.steps if label == SEARCH else 0.0
