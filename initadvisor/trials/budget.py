"""How long is tried: a budget becomes a plan of rungs and a confirmation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from initadvisor.errors import InputError

ASSUMED_LENGTH = 400
"""Steps taken for the full length where it is unknown: small nets show by then whether they train."""

MIN_RUNG_STEPS = 8
"""Shortest first rung: nearly as long as the memory of momentum .9. Everything takes part in it, so twice as many steps
would cost much where a training has 150."""

RUNG_GROWTH = 1.5
"""Least growth from rung to rung: less would rank the same trainings twice. It shows in short trainings only, where
:data:`MIN_RUNG_STEPS` is more than the first share."""

SMALLEST_SCALE = 0.05
"""Smallest scale a plan of rungs is tried at; below it every horizon is :data:`SHORTEST_RUNG` anyway."""

SHORTEST_RUNG = 4
"""First rung under the smallest budgets; fewer steps rank noise."""

MIN_CANDIDATES = 3
"""Candidates that always enter beside the current weights; a small budget drops others by prior."""

RACE_RATES = 2
"""Learning rates of each scheme that go on after the first rung: its best two, since the best rate may shift."""

CONFIRM_EVALS = 12
"""Evaluations of a confirming training: finds the best checkpoint to a twelfth, for a few percent."""

SWEEP_SEEDS = 4
"""Seeds of the full sweep that a cost is a share of: what a careful grid search would use."""

PLAY_OFF = 3
"""Who meets on further draws after a refinement: the scheme that led, and at most two variants that look better."""

PATIENCE = {"fast": 15.0, "standard": 45.0, "thorough": 300.0}
"""Seconds of trials that a budget in words may take; a plan that would take longer is halved until it fits."""

SEARCH_ROUNDS = 40
"""Bisections when a plan is fitted to a number of steps: the scale is then exact to any integer."""

MAX_SCALE = 64.0
"""Largest scale tried: every horizon has long met the full length."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of the race.

    Attributes:
        steps: horizon, counted from the start of a training.
        keep: challengers that go on after it.
        rates: learning rates of each challenger that go on.
        draws: seeds of each member; those that join late train up to here from the start.
        control_rates: learning rates of the current weights that go on.
    """

    steps: int
    keep: int
    rates: int
    draws: int
    control_rates: int

    @property
    def going(self) -> int:
        """Schemes and rates that go on at most."""
        return self.keep * self.rates + self.control_rates


@dataclass(frozen=True, slots=True)
class Plan:
    """What a race will run.

    Attributes:
        candidates: challengers that enter, best prior first; the current weights come on top.
        rates: learning rates each enters with.
        draws: seeds of the last rung.
        rungs: in order.
        refine: refined schemes, each trained to the last rung's horizon.
        play_off: further draws, to the same horizon, of those refined schemes that look best and of the one that led.
        confirm_steps: length of the confirming trainings.
        confirm_seeds: fresh seeds of the confirmation at most.
        first_look: seeds after which a clear case is settled.
        length: full length, or the one assumed.
        control_rates: rates of the current weights that are confirmed at most, the others than the best on
            ``rate_seeds`` only.
        rate_seeds: fresh seeds on which the current weights run at other rates than the compared one, should they be
            kept.
    """

    candidates: int
    rates: int
    draws: int
    rungs: tuple[Rung, ...]
    refine: int
    confirm_steps: int
    confirm_seeds: int
    first_look: int
    length: int
    control_rates: int = 1
    rate_seeds: int = 1
    play_off: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps it takes if nothing dies and nothing is clear early, summed over all members."""
        horizon = self.rungs[-1].steps if self.rungs else 0
        refine = (self.refine * self.draws + PLAY_OFF * self.play_off) * horizon
        return self.steps_to(len(self.rungs)) + refine + self.confirm_members * self.confirm_steps

    @property
    def side_by_side(self) -> int:
        """Members that are trained at the same time, at most."""
        return max(self.rung_members, self.confirm_members)

    @property
    def rung_members(self) -> int:
        """Trainings that the rungs start."""
        total, draws, members = 0, 0, (self.candidates + 1) * self.rates
        for rung in self.rungs:
            total += members * max(0, rung.draws - draws)
            draws, members = rung.draws, rung.going
        return total

    @property
    def confirm_members(self) -> int:
        """Confirming trainings at most."""
        return 2 * self.confirm_seeds + (self.control_rates - 1) * self.rate_seeds

    def steps_to(self, count: int) -> int:
        """Optimizer steps of the first ``count`` rungs."""
        total, before, draws, members = 0, 0, 0, (self.candidates + 1) * self.rates
        for rung in self.rungs[:count]:
            late = max(0, rung.draws - draws)  # start from the beginning
            total += members * (rung.draws * (rung.steps - before) + late * before)
            before, draws, members = rung.steps, rung.draws, rung.going
        return total

    @property
    def sweep(self) -> int:
        """Steps of training every candidate in full at every rate and :data:`SWEEP_SEEDS` seeds."""
        return (self.candidates + 1) * self.rates * SWEEP_SEEDS * self.length


@dataclass(frozen=True, slots=True)
class Level:
    """Shape of a plan at scale one.

    Attributes:
        shares: horizons of the rungs as shares of the full length.
        draws: seeds of the rungs after the first.
        first_draws: seeds of the first rung, which everything takes part in.
        last: challengers that enter the last rung at most.
        race_rates: learning rates of the current weights that race to the end.
        refine: refined schemes.
        play_off: further draws of the best of them and of the one that led.
        confirm_share: length of the confirming trainings as a share of the full length.
        confirm_seeds: fresh seeds at most. Five are the fewest with which an exact binomial test reaches 4%.
        first_look: seeds after which a clear case is settled.
        control_rates: rates of the current weights that are confirmed at most, where the case is not clear.
        rate_seeds: fresh seeds of each but the first; none above ``first_look``.
    """

    shares: tuple[float, ...]
    draws: int
    first_draws: int
    last: int
    race_rates: int
    refine: int
    play_off: int
    confirm_share: float
    confirm_seeds: int
    first_look: int
    control_rates: int
    rate_seeds: int


LEVELS = {
    "fast": Level(
        shares=(0.05, 0.10, 0.20), draws=1, first_draws=1, last=6, race_rates=2, refine=0, play_off=0,
        confirm_share=0.5, confirm_seeds=5, first_look=3, control_rates=1, rate_seeds=1,
    ),
    "standard": Level(
        shares=(0.05, 0.10, 0.20, 0.50), draws=2, first_draws=1, last=2, race_rates=2, refine=0, play_off=0,
        confirm_share=1.0, confirm_seeds=7, first_look=3, control_rates=2, rate_seeds=2,
    ),
    "thorough": Level(
        shares=(0.10, 0.20, 0.40, 0.80), draws=3, first_draws=3, last=3, race_rates=3, refine=9, play_off=3,
        confirm_share=1.0, confirm_seeds=7, first_look=4, control_rates=3, rate_seeds=4,
    ),
}  # fmt: skip
"""Horizons follow the measurements of how far ahead a short training sees: a pick at 5, 10, 20% of training has a
median regret of .23, .10, .02. Everything starts at 5%, a quarter is seen at 20%, two challengers at half (where the
best rate of the end shows), and the last two run in full. Replayed on the benchmark's full trainings, one draw at the
first rung instead of two leaves the leader's mean regret as it was (.11 against .12), and so do two challengers at half
instead of three; what that saves pays for more seeds where a case is not clear. A thorough race keeps three rates of
the current weights: one that spikes early may end best, and replayed on 1,296 full trainings of defaults, kept weights
are at a rate that is worse than their best in 13% of draws instead of 16%, for four trainings of seventy. In a standard
race the same brings nothing."""


def build_plan(level: Level, scale: float, *, candidates: int, rates: int, length: int) -> Plan:
    """The plan of a level with all horizons multiplied by ``scale`` and held below the full length."""
    floor = max(SHORTEST_RUNG, round(MIN_RUNG_STEPS * min(1.0, scale)))
    rungs: list[Rung] = []
    alive = candidates
    for index, share in enumerate(level.shares):
        steps = min(length, max(round(share * length * scale), round(floor * RUNG_GROWTH**index)))
        alive = max(1, math.ceil(alive / 2))
        if index >= len(level.shares) - 2:
            alive = min(alive, level.last)
        if rungs and steps <= rungs[-1].steps:
            rungs[-1] = replace(rungs[-1], keep=alive)
        else:
            draws = level.draws if rungs else level.first_draws
            rungs.append(Rung(steps, alive, min(rates, RACE_RATES), draws, min(rates, level.race_rates)))
    confirm = min(length, max(round(level.confirm_share * length * scale), rungs[-1].steps))
    return Plan(
        candidates,
        rates,
        level.draws,
        tuple(rungs),
        level.refine,
        confirm,
        level.confirm_seeds,
        level.first_look,
        length,
        min(rates, level.control_rates),
        level.rate_seeds,
        level.play_off,
    )


def plan_for_steps(limit: int, *, candidates: int, rates: int, length: int) -> Plan:
    """The best plan that takes at most ``limit`` model-steps: the richest level that fits, scaled up to the limit.

    Under the smallest budgets fewer candidates enter, those of lowest prior being left out; only what no plan can do
    without, a step of one candidate at every rate and two of its confirmation, may exceed the limit.
    """
    if limit < 1:
        raise InputError(f"budget={limit}; give a positive number of seconds (a float) or of model-steps (an int)")

    def within(plan: Plan) -> bool:
        return plan.steps <= limit

    def make(level: Level, count: int) -> Callable[[float], Plan]:
        return lambda scale: build_plan(level, scale, candidates=count, rates=rates, length=length)

    for level in reversed(LEVELS.values()):
        if make(level, candidates)(1.0).steps <= limit:
            return _largest(make(level, candidates), 1.0, MAX_SCALE, within)
    level = LEVELS["fast"]
    for count in range(candidates, min(candidates, MIN_CANDIDATES) - 1, -1):
        smallest = make(level, count)(SMALLEST_SCALE)
        if smallest.steps <= limit:
            return _largest(make(level, count), SMALLEST_SCALE, 1.0, within)
    return _smallest(limit, candidates, rates, length)


def _smallest(limit: int, candidates: int, rates: int, length: int) -> Plan:
    """Under limits that leave room for no race: one rung of a few steps, then a short confirmation, whatever fits."""
    for seeds in (LEVELS["fast"].confirm_seeds, 3, 2):
        # Where the gate let nobody pass, the current weights still run.
        for count in range(min(candidates, MIN_CANDIDATES), 0, -1) or (0,):
            for steps in range(min(SHORTEST_RUNG, length), 0, -1):
                rung = Rung(steps, 1, 1, 1, 1)
                plan = Plan(count, rates, 1, (rung,), 0, steps, seeds, min(3, seeds), length)
                if plan.steps <= limit:
                    return plan
    return plan


def _largest(make: Callable[[float], Plan], low: float, high: float, fits: Callable[[Plan], bool]) -> Plan:
    """The plan of the largest scale that fits; what plans take grows with the scale."""
    if fits(make(high)):
        return make(high)
    for _ in range(SEARCH_ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(make(middle)) else (low, middle)
    return make(low)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the user allows.

    Attributes:
        text: as the user gave it, for the report.
        level: name of a level, or None.
        seconds: limit of wall time, or None.
        steps: limit of model-steps, or None.
    """

    text: str
    level: str | None = None
    seconds: float | None = None
    steps: int | None = None

    @property
    def clock(self) -> float | None:
        """Seconds the whole race is held to; None where steps or a word limit it."""
        return None if self.level is not None else self.seconds

    def plan(self, *, candidates: int, rates: int, full_steps: int | None, rate: float | None) -> Plan:
        """The plan for so many challengers and learning rates.

        Args:
            candidates: challengers that passed the gate.
            rates: learning rates.
            full_steps: full length, None where unknown.
            rate: optimizer steps per second to be expected; needed where a limit is in seconds.
        """
        length = full_steps or ASSUMED_LENGTH
        if self.steps is not None:
            return plan_for_steps(self.steps, candidates=candidates, rates=rates, length=length)
        if self.level is None:
            assert self.seconds is not None
            limit = max(1, int(self.seconds * (rate or 1.0)))
            return plan_for_steps(limit, candidates=candidates, rates=rates, length=length)
        plan = build_plan(LEVELS[self.level], 1.0, candidates=candidates, rates=rates, length=length)
        if rate is None or self.seconds is None:
            return plan
        # Halving keeps the plan, and with it the advice, the same on machines of about the same speed.
        limit = plan.steps
        while limit > self.seconds * rate and limit > 1:
            limit //= 2
        return plan if limit == plan.steps else plan_for_steps(limit, candidates=candidates, rates=rates, length=length)


def read_budget(given: str | float | int) -> Budget:
    """Read ``budget=``: a word, seconds as a float, or model-steps as an int.

    Raises:
        InputError: neither.

    Example:
        >>> read_budget(2000).steps, read_budget(30.0).seconds, read_budget("fast").level
        (2000, 30.0, 'fast')
    """
    if isinstance(given, str) and given in LEVELS:
        return Budget(given, level=given, seconds=PATIENCE[given])
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return Budget(f"{given} model-steps", steps=given)
    if isinstance(given, float) and math.isfinite(given) and given > 0:
        return Budget(f"{given:g} s", seconds=given)
    raise InputError(
        f"budget={given!r}; give {', '.join(map(repr, LEVELS))}, seconds as a float, or model-steps as a positive int"
    )


def refit(plan: Plan, done: int, fits: Callable[[Plan], bool]) -> Plan:
    """Stretch or shrink what is left of a plan as far as it fits.

    Args:
        plan: the plan so far.
        done: rungs already run.
        fits: whether a plan can be afforded; one with longer trainings takes more.
    """
    reached = plan.rungs[done - 1].steps if done else 0

    def scaled(factor: float) -> Plan:
        rungs = list(plan.rungs[:done])
        before = reached
        for rung in plan.rungs[done:]:
            steps = min(plan.length, max(before + 1, reached + round((rung.steps - reached) * factor)))
            if steps > before:
                rungs.append(replace(rung, steps=steps))
                before = steps
        # A confirmation shorter than what the rungs saw would judge by less than is known.
        confirm = min(plan.length, max(round(plan.confirm_steps * factor), before))
        return replace(plan, rungs=tuple(rungs), confirm_steps=confirm)

    return _largest(scaled, 1e-3, MAX_SCALE, fits)
