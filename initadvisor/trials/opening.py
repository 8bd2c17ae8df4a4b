"""What happens before the first rung? The study is opened, a step is timed, the race is planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from initadvisor.streams import derive
from initadvisor.training.engine.member import MemberKey
from initadvisor.trials.ledger import Ledger
from initadvisor.trials.plan import FIRST_RUNG, Budget, Plan, Prices, make_plan
from initadvisor.trials.race import RACE, Setting
from initadvisor.types import CURRENT

PILOT = 3
"""Optimizer steps by which a step is timed: the first pays for warming up, and all of them are the race's own."""

PROBE_SHARE = 0.03
"""Share of the steps of a race that a probe may take."""

WORTH_A_PROBE = 1000
"""Steps of a race from which a probe is made: its check alone, ensemble against loop, takes thirty."""

NOTE_MONEY = "money"
NOTE_WEIGHTS = "weights"


def open_study(ledger: Ledger, setting: Setting, digests: Sequence[tuple[str, str]], notes: list[str]) -> None:
    """Open the record, take over what it holds, and tell where it is of other weights.

    Args:
        ledger: of the race.
        setting: of the race.
        digests: what every scheme fills, by name.
        notes: for the report.

    Raises:
        StorageError: the study holds a race about something else, or the storage fails.
    """
    about = ledger.about
    identity = {
        **about.identity,
        "schemes": dict(digests),
        "optimizer": about.optimizer_name,
        "loss": about.loss_name,
        "rates": list(about.rates),
        "full_steps": about.full_steps,
        "seed": setting.seed,
    }
    ledger.known = ledger.log.open(identity)
    before = ledger.log.noted(NOTE_WEIGHTS)
    if before is not None and before != about.weights:
        ledger.known = {k: s for k, s in ledger.known.items() if k.scheme != CURRENT}
        notes.append("the model's weights differ from those of the stored race, so these were trained again")
    ledger.log.note(NOTE_WEIGHTS, about.weights)


def plan_race(ledger: Ledger, setting: Setting, budget: Budget) -> Plan:
    """Time a few steps where seconds matter, then plan what the budget buys.

    The steps that are timed are the first ones of the current weights' own run, so nothing is taken twice.
    """
    about, runs = ledger.about, ledger.runs
    limit = about.limit if about.limit is not None else math.inf
    per_second: float | None = None
    if budget.steps is None or budget.steps >= 2 * FIRST_RUNG:
        pilot(ledger, setting)
        per_second = runs.per_second()
        length = budget.length(about.full_steps, per_second)
        expected = _in_steps(budget, about.full_steps, per_second)
        rough = make_plan(expected, schemes=len(setting.schemes), rates=len(about.rates), length=length)
        _probe(ledger, setting, expected, max((r.runs for r in rough.rungs), default=1))
        per_second = runs.per_second()
    length = int(min(limit, budget.length(about.full_steps, per_second)))
    stored = ledger.log.noted(NOTE_MONEY)
    if budget.clock is not None:
        ledger.money, ledger.in_seconds = budget.clock, True
        ledger.prices = Prices(runs.step_cost, *_overheads(ledger))
        money: float = max(0.0, ledger.left)
    else:
        money = budget.in_steps(about.full_steps, per_second)
        if stored is not None and stored.get("budget") == budget.text:
            money = int(stored["steps"])  # a race that goes on keeps to what it began with
        ledger.log.note(NOTE_MONEY, {"budget": budget.text, "steps": int(money)})
        ledger.money = money
        money = max(0.0, money - ledger.reserve)

    def plan(rates: int) -> Plan:
        return make_plan(
            money,
            schemes=len(setting.schemes),
            rates=rates,
            length=length,
            prices=ledger.prices,
            in_seconds=ledger.in_seconds,
        )

    found = plan(len(about.rates))
    # Of six long trainings with three rates, races that saw less of them than a third had a mean regret of .77 at a
    # cost of .3 where all rates entered, and of .29 where those above the middle one did not.
    return found if found.sees_rates else replace(plan(len(about.low_rates)), low_rates=True)


def _probe(ledger: Ledger, setting: Setting, ahead: int, side_by_side: int) -> None:
    """Let whatever runs trainings try how they run fastest, out of a fixed share of the money.

    The share is kept back whether a probe is made or not: what a race costs must not depend on the machine.
    """
    ledger.reserve = round(PROBE_SHARE * ahead) if ahead >= WORTH_A_PROBE else 0
    if not ledger.reserve:
        return
    before = ledger.runs.steps
    ledger.runs.choose(derive(setting.seed, "probe"), ahead, side_by_side)
    ledger.probed = ledger.runs.steps - before


def _in_steps(budget: Budget, full_steps: int | None, per_second: float | None) -> int:
    if budget.clock is not None:
        return max(1, int(budget.clock * (per_second or 1.0)))
    return budget.in_steps(full_steps, per_second)


def pilot(ledger: Ledger, setting: Setting) -> None:
    """The first steps of the current weights, which tell what a step takes."""
    rate = ledger.about.chosen_rates[0]
    key = MemberKey(RACE, CURRENT, setting.seeds(RACE, 1)[0], rate)
    steps = min(PILOT, ledger.about.limit or PILOT, FIRST_RUNG)
    ledger.advance([key], steps, (), "timing the first steps of the current weights")


def _overheads(ledger: Ledger) -> tuple[float, float]:
    """Seconds of beginning a run and of having one go on, from the first one that ran; a plan corrects them later."""
    seconds = max((s.seconds for s in ledger.states.values()), default=0.0)
    step = ledger.runs.step_cost(1)
    return max(0.0, seconds - PILOT * step) / 2, step
