"""What can be done before a long training, replayed on the pool's curves; each spends at most its budget of steps.

A short training is the beginning of a long one, so searches are replayed on the first seed's curves at their true cost
in optimizer steps. Each gives what it would pick, several times where it draws lots.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache, partial

from benchmarks.horizon.pool import SCREENING_STEPS
from benchmarks.horizon.store import Row
from benchmarks.horizon.table import Arm, View

FIRST_RUNG = 20
"""Steps after which the order of the arms begins to say something of the end."""

PRIOR = 0.5
"""Weight of the rules' order beside what was seen; the report shows others."""

ONE_RUNG_PRIOR = 1.0
"""The same where there is one rung only."""

DRAWS, TPE_DRAWS = 20, 5
"""Repetitions of methods that draw lots; Optuna's take seconds each."""

MOST = 3
"""Full trainings that searches are followed for."""

ASHA_REDUCTION = 4
"""One in so many goes on, as in the paper (Li et al. 2020) and in Optuna."""

HYPERBAND_REDUCTION = 3
"""As in the paper (Li et al. 2018) and in Optuna."""

HYPERBAND_TRIALS = 6
"""Trials of full length that a budget pays: one that pays a single one would compare nothing."""

WORST = 1e9
"""What a search is told of a training without a finite loss."""

Method = Callable[[View, int], list[Arm]]


def default(view: View, budget: int) -> list[Arm]:
    """The model as it comes at the rate a user would try first."""
    return [next(a for a in view.arms if a.is_default and a.lr == _middle(view))]


def rules(view: View, budget: int) -> list[Arm]:
    """The rules' first scheme at the rate a user would try first."""
    return [view.rules_first(_middle(view))]


def _middle(view: View) -> float:
    return view.task.rate if view.task.rate in view.rates else view.rates[0]


def affordable(view: View, count: int) -> list[Arm]:
    """So many arms at most, in the order they are believed in: fewer rates first, then fewer schemes."""
    rates = sorted(view.rates, key=lambda lr: (lr != _middle(view), lr))
    kept = rates[: max(1, min(len(rates), count // view.schemes))]
    ordered = sorted((a for a in view.arms if a.lr in kept), key=lambda a: (a.lr != _middle(view), a.rank, a.lr))
    return ordered[:count]


def screening_row(arm: Arm, step: int, *, warm: bool) -> Row:
    """The training that a rung looks at: unless ``warm`` without the warm-up, where the rung is shorter than that."""
    followed = arm.constant is not None and step <= min(SCREENING_STEPS, arm.rise)
    return arm.constant if arm.constant is not None and followed and not warm else arm.first


def halving(
    view: View,
    budget: int,
    *,
    first: int = FIRST_RUNG,
    growth: int = 2,
    keep: float = 0.5,
    warm: bool = False,
    prior: float = 0.0,
) -> list[Arm]:
    """Successive halving from ``first`` steps on; the two that are left run on until the money is spent.

    Args:
        view: the arms.
        budget: optimizer steps in all.
        first: steps of the first rung.
        growth: how much farther each rung goes than the one before.
        keep: share of the arms that goes on.
        warm: every rung trains as the user does; else rungs leave the warm-up out while that is on record, and what
            goes on afterwards starts again from its first step.
        prior: weight of the rules' order beside the order of what was seen (see :func:`ordered`).
    """
    alive = affordable(view, budget // first)
    if len(alive) < 2:
        return rules(view, budget)
    left, before, step, leaders = budget, 0, first, alive[:1]
    while True:
        again = screening_row(alive[0], step, warm=warm) is not screening_row(alive[0], before, warm=warm)
        each = step if again else step - before
        alive = alive[: left // each]
        if len(alive) < 2:
            return leaders
        left -= each * len(alive)
        alive = ordered(alive, [screening_row(arm, step, warm=warm).until(step) for arm in alive], prior)
        leaders = alive[:1]
        if step == view.task.steps:
            return leaders
        alive = alive[: max(2, math.ceil(keep * len(alive)))]
        before, step = step, min(growth * step, view.task.steps)


def ordered(arms: Sequence[Arm], losses: Sequence[float], prior: float) -> list[Arm]:
    """Arms by their place in the losses plus ``prior`` times their place in the rules' order.

    The default is last there. Arms of one scheme share its place; among equals the lower loss is first.
    """
    seen = {loss: place for place, loss in enumerate(sorted(set(losses)))}
    ranks = {rank: place for place, rank in enumerate(sorted({a.rank or math.inf for a in arms}))}
    scale = max(1, len(seen) - 1) / max(1, len(ranks) - 1)
    score = {
        arm: (seen[loss] + prior * scale * ranks[arm.rank or math.inf], loss)
        for arm, loss in zip(arms, losses, strict=True)
    }
    return sorted(arms, key=score.__getitem__)


def long_halving(view: View, budget: int, *, warm: bool = False) -> list[Arm]:
    """Halving whose first rung is as long as the budget allows if it is to reach its last."""
    arms = len(affordable(view, budget // FIRST_RUNG))
    rounds = max(1.0, 1 + math.log2(max(1, arms)) / 2)
    first = max(FIRST_RUNG, int(budget / (max(1, arms) * rounds)))
    doublings = int(math.log2(first / FIRST_RUNG))
    return halving(view, budget, first=min(FIRST_RUNG * 2**doublings, view.task.steps), warm=warm)


def one_rung(view: View, budget: int, *, warm: bool = True, prior: float = 0.0) -> list[Arm]:
    """All arms for equally many steps, the lowest held-out loss wins; fewer arms where that is under twenty steps."""
    arms = affordable(view, budget // FIRST_RUNG)
    if len(arms) < 2:
        return rules(view, budget)
    step = min(view.task.steps, budget // len(arms))
    return ordered(arms, [screening_row(arm, step, warm=warm).until(step) for arm in arms], prior)[:1]


def asha(view: View, budget: int) -> list[Arm]:
    """Asynchronous successive halving (Li et al. 2020) by one worker over the same arms in random order."""
    return [_until(_asha(view, seed), view, budget) for seed in range(DRAWS)]


Trace = list[tuple[int, Arm]]
"""What a search that knows no budget holds for best, from so many steps spent on."""


def _until(trace: Trace, view: View, budget: int) -> Arm:
    held = [arm for spent, arm in trace if spent <= budget]
    return held[-1] if held else default(view, budget)[0]


@cache
def _asha(view: View, seed: int) -> Trace:
    waiting = random.Random(seed).sample(list(view.arms), len(view.arms))
    rungs = _rungs(view.task.steps)
    reached: list[list[Arm]] = [[] for _ in rungs]
    promoted: list[set[Arm]] = [set() for _ in rungs]
    best, spent, trace = math.inf, 0, []
    while spent < MOST * view.task.steps:
        arm, rung = _next_job(reached, promoted, rungs, waiting)
        if arm is None:
            break
        spent += rungs[rung] - (rungs[rung - 1] if rung else 0)
        if rung:
            promoted[rung - 1].add(arm)
        else:
            waiting.remove(arm)
        reached[rung].append(arm)
        if (loss := arm.first.until(rungs[rung])) < best:
            best = loss
            trace.append((spent, arm))
    return trace


def _rungs(steps: int) -> list[int]:
    rungs = [FIRST_RUNG]
    while rungs[-1] * ASHA_REDUCTION < steps:
        rungs.append(rungs[-1] * ASHA_REDUCTION)
    return [*rungs, steps]


def _next_job(
    reached: Sequence[Sequence[Arm]], promoted: Sequence[set[Arm]], rungs: Sequence[int], waiting: Sequence[Arm]
) -> tuple[Arm | None, int]:
    """What may be promoted, the highest rung first; else a new arm."""
    for rung in range(len(rungs) - 2, -1, -1):
        ordered = sorted(reached[rung], key=lambda arm: arm.first.until(rungs[rung]))
        for arm in ordered[: len(ordered) // ASHA_REDUCTION]:
            if arm not in promoted[rung]:
                return arm, rung + 1
    return (waiting[0], 0) if waiting else (None, 0)


def tpe_hyperband(view: View, budget: int) -> list[Arm]:
    """Optuna's TPE over scheme and rate with Hyperband pruning; its longest trials are as long as the budget allows."""
    if budget < HYPERBAND_TRIALS * FIRST_RUNG:
        return default(view, budget)
    return [_until(_tpe(view, budget, seed), view, budget) for seed in range(TPE_DRAWS)]


@cache
def _tpe(view: View, budget: int, seed: int) -> Trace:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    arms = {(a.scheme, a.lr): a for a in view.arms}
    names = list(dict.fromkeys(a.scheme for a in view.arms))
    longest = min(view.task.steps, budget // HYPERBAND_TRIALS)
    shortest = max(FIRST_RUNG, longest // HYPERBAND_REDUCTION**3)
    pruner = optuna.pruners.HyperbandPruner(
        min_resource=shortest, max_resource=longest, reduction_factor=HYPERBAND_REDUCTION
    )
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner, study_name="replay")
    best, spent, trace = math.inf, 0, []
    while spent < budget:
        trial = study.ask()
        arm = arms[trial.suggest_categorical("scheme", names), trial.suggest_categorical("lr", list(view.rates))]
        state, value, step = optuna.trial.TrialState.COMPLETE, WORST, 0
        for step in (s for s in arm.first.curve.steps[1:] if s <= longest):
            value = min(arm.first.until(step), WORST)
            if value < best:
                best = value
                trace.append((spent + step, arm))
            trial.report(value, step)
            if trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        spent += max(1, step)
        study.tell(trial, None if state == optuna.trial.TrialState.PRUNED else value, state=state)
    return trace


def oracle(view: View, budget: int) -> list[Arm]:
    """The best of the pool, known only afterwards."""
    return [view.best]


HALVING = "halving from 20 steps, no warm-up"
HALVING_BY_RULES = "halving from 20 steps, the rules' order as a prior"
ONE_RUNG_BY_RULES = "one rung, no warm-up, the rules' order as a prior"
FREE: dict[str, Method] = {"torch default": default, "rules' first": rules}
"""What costs nothing."""

SEARCHES: dict[str, Method] = {
    HALVING: halving,
    "the same under the user's warm-up": partial(halving, warm=True),
    HALVING_BY_RULES: partial(halving, prior=PRIOR),
    "halving, first rung as long as can be": long_halving,
    "one rung": one_rung,
    "one rung, no warm-up": partial(one_rung, warm=False),
    ONE_RUNG_BY_RULES: partial(one_rung, warm=False, prior=ONE_RUNG_PRIOR),
    "ASHA": asha,
    "TPE + Hyperband": tpe_hyperband,
}
"""By the names of the report."""

SHAPES: dict[str, Method] = {
    f"from {first} steps, 1 in {round(1 / keep)} goes on, {growth} times as far": partial(
        halving, first=first, growth=growth, keep=keep
    )
    for first in (10, 20, 40, 80)
    for growth, keep in ((2, 1 / 2), (2, 1 / 3), (4, 1 / 2), (4, 1 / 4))
}
"""Other shapes of halving without the warm-up."""

PRIORS: dict[str, Method] = {
    f"one rung, weight {prior:g}": partial(one_rung, warm=False, prior=prior) for prior in (0, 0.25, 0.5, 1, 2)
} | {
    f"halving from {first} steps, weight {prior:g}": partial(halving, first=first, prior=prior)
    for first in (20, 40, 80)
    for prior in (0, 0.25, 0.5, 1, 2)
}
"""What the rules' order is worth beside what was seen."""
