"""Which scheme trains best? Arms run side by side in steps, the better part goes on, fresh seeds judge the leader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from initadvisor.errors import InputError
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.scheme import Scheme
from initadvisor.streams import derive
from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import Status
from initadvisor.trials.decide import Pairing, by_rules, decide, paired, settled
from initadvisor.trials.ledger import Ledger
from initadvisor.trials.odds import Belief, Facts, no_trial, odds
from initadvisor.trials.plan import FIRST_RUNG, Plan, Rung, Terms, describe, next_rung
from initadvisor.trials.rates import choose_rate
from initadvisor.trials.refine import HIGHEST, LOWEST, refinable, refined
from initadvisor.trials.result import Decision, Ground
from initadvisor.trials.standings import Arm, Field, Standing, standing
from initadvisor.trials.view import network_facts
from initadvisor.types import CURRENT

EVALS_IN_A_RUNG = 4
"""Evaluations of a long rung: the best checkpoint is found to a quarter of it, for a few percent of its cost."""

WORTH_EVALUATING = 8
"""Optimizer steps between evaluations at least."""

EVALS_IN_FULL = 12
"""Evaluations of a fresh seed: finds the best checkpoint to a twelfth."""

EXPLODED = 1e6
"""First loss, in multiples of the lowest of all candidates, from which a start is hopeless: an optimizer that moves
weights by a percent a step would need most of a short training to undo it."""

REDRAWN = 4
"""Further seeds of a scheme whose first draw is dead: torch's default can be dead in one draw and train in the next."""

RUNNERS_UP = 2
"""Challengers that run on fresh seeds, where there is money: the order of the two best is often luck."""

MOST_FRESH = 16
"""Fresh seeds at most: sixteen tell effects of a standard deviation apart beyond doubt."""

FEWEST_FRESH = 3
"""Fresh seeds after which a settled decision ends the race."""

WARM, RACE, REFINE, FRESH = "warm", "race", "refine", "fresh"


@dataclass(frozen=True)
class Setting:
    """What a race is given.

    Attributes:
        schemes: candidates, best prior first, the current weights among them.
        spec: the reading of the model; None where gains cannot be refined.
        seed: of everything drawn.
        places: of every scheme in the rules' order.
        belief: says how sure an early view is.
    """

    schemes: tuple[Scheme, ...]
    spec: ModelSpec | None
    seed: int
    belief: Belief = odds

    def seeds(self, phase: str, count: int) -> list[int]:
        """The first so many seeds of a phase; runs of equal seeds see the same data and noise."""
        return [derive(self.seed, phase, i) for i in range(count)]

    @property
    def facts(self) -> Facts:
        """What the network says about how much there is to gain."""
        return network_facts(self.spec)

    def place(self, scheme: str) -> int:
        """Of a scheme in the rules' order, the best challenger is 0; -1 for one that was refined."""
        names = [s.name for s in self.schemes if s.name != CURRENT]
        return names.index(scheme) if scheme in names else -1


class Race:
    """Runs a plan; what is decided follows from what is done, at any moment.

    Attributes:
        field: who stands where.
        horizons: of the rungs so far.
        refined_schemes: found during the race.
    """

    def __init__(self, ledger: Ledger, setting: Setting, plan: Plan, rates: Sequence[float]) -> None:
        """A race among the first so many schemes of the plan, at the first so many rates.

        Args:
            ledger: trains and keeps books.
            setting: what the race is given.
            plan: who enters and how far they go.
            rates: all rates, the one to fall back on first.
        """
        self.ledger, self.setting, self.plan = ledger, setting, plan
        entering, out = setting.schemes[: plan.schemes], setting.schemes[plan.schemes :]
        lrs = sorted(rates[: plan.rates])
        self.field = Field([(s.name, lr) for s in entering for lr in lrs], out=tuple(s.name for s in out))
        self.terms = Terms(plan.length, plan.keep, ledger.prices, plan.reaches)
        self.horizons: list[int] = []
        self.refined_schemes: list[Scheme] = []
        self._phase: dict[Arm, str] = {}
        self._seeds, self._gone = 1, 0
        self._fresh: list[int] = []
        self._evals: set[int] = set()
        self._redrawn: dict[Arm, list[int]] = {}
        self._dead_draws: dict[str, tuple[int, int]] = {}

    # -- the course of a race ------------------------------------------------------------------------------------

    def run(self) -> None:
        """First rung, the rungs that the money buys, refinement, fresh seeds."""
        if not self.plan.rungs:
            return
        rung: Rung | None = self.plan.rungs[0]
        self._first(self.plan.rungs[0])
        while not self.field.challengers() and self._let_in():
            self._first(self.plan.rungs[0])
        while True:
            # Current weights that have broken down take no more steps, but the others still run against them.
            self._gone = 0 if any(scheme == CURRENT for scheme, _ in self.field.alive) else 1
            reached = Rung(self.horizons[-1], len(self.field.alive) + self._gone, self._seeds)
            rung = next_rung(reached, self._race_money(), self.terms)
            if rung is None:
                break
            self._rung(rung)
        self._refine()
        self._judge()
        self._finish()

    def _finish(self) -> None:
        """Close the records of those that were not dropped."""
        for arm in self.field.alive:
            s = self.field.latest[arm]
            self.ledger.finish(self._keys([arm], RACE, [0])[0], s.status, s.heldout, s.why)
        for (scheme, lr), s in self.final.items():
            self.ledger.finish(MemberKey(FRESH, scheme, 0, lr), s.status, s.heldout, s.why)

    def _let_in(self) -> bool:
        """Where training broke down with everybody, the next ones that the budget had no room for; whether any."""
        out, runs = self.field.out, self.plan.rungs[0].runs
        room = self.ledger.prices.affordable(self.ledger.left, max(2, runs), max(2, runs))
        if not out or room < self.plan.rungs[0].steps:
            return False
        lrs = sorted({lr for _, lr in self.field.latest})
        count = max(1, runs // max(1, len(lrs) * self.plan.seeds))
        current = [a for a in self.field.alive if a[0] == CURRENT]
        self.field.alive = current + [(name, lr) for name in out[:count] for lr in lrs]
        self.field.out = out[count:]
        return True

    def _race_money(self) -> float:
        """What rungs may still take: all that is left, but for what the plan keeps for refinement and fresh seeds."""
        ledger = self.ledger
        planned = [r.cost(ledger.prices, b) for r, b in zip(self.plan.rungs, (None, *self.plan.rungs), strict=False)]
        kept = 0.0 if not self.plan.reaches else max(0.0, self.plan.money - math.fsum(planned))
        return max(0.0, ledger.left - kept)

    def _keys(self, arms: Sequence[Arm], phase: str, seeds: Sequence[int]) -> list[MemberKey]:
        return [MemberKey(self._phase.get(a, phase), a[0], seed, a[1]) for a in arms for seed in seeds]

    def _runs_of(self, arm: Arm) -> list[MemberState]:
        """Runs of an arm that chose it: those of the race, with or without the warm-up, and of refinement."""
        phase = self._phase.get(arm, RACE)
        states = self.ledger.states
        seeds = [*self.setting.seeds(RACE, self._seeds), *self._redrawn.get(arm, ())]
        keys = (MemberKey(phase, arm[0], seed, arm[1]) for seed in seeds)
        return [states[k] for k in keys if k in states]

    def _first(self, rung: Rung) -> None:
        """Everything takes its first steps; what is dead in one draw is looked at in others."""
        self._seeds = rung.seeds
        keys = self._keys(self.field.alive, RACE, self.setting.seeds(RACE, rung.seeds))
        self.ledger.advance(keys, rung.steps, (rung.steps,), f"{len(keys)} trainings to step {rung.steps}")
        self._drop_broken_starts()
        self._try_with_warmup(rung.steps)
        self._close(rung.steps)

    def _rung(self, rung: Rung) -> None:
        going = self.field.going(rung.arms - self._gone)
        for arm in set(self.field.alive) - set(going):
            s = self.field.latest[arm]
            self.ledger.finish(self._keys([arm], RACE, [0])[0], Status.PRUNED, s.heldout, s.why)
        self._seeds = max(self._seeds, rung.seeds)
        keys = self._keys(going, RACE, self.setting.seeds(RACE, self._seeds))
        keys += [k for a in going for k in self._keys([a], RACE, self._redrawn.get(a, ()))]
        # With the earlier ones: a run whose weights were lost with a killed process starts over.
        self._evals |= {*self.horizons, *_evaluations(self.horizons[-1], rung.steps, EVALS_IN_A_RUNG)}
        message = f"{len(keys)} trainings to step {rung.steps}"
        self.ledger.advance(keys, rung.steps, tuple(sorted(self._evals)), message)
        self._close(rung.steps, going)

    def _close(self, steps: int, arms: Sequence[Arm] | None = None) -> None:
        new = steps not in self.horizons
        if new:
            self.horizons.append(steps)
        ran = self.field.alive if arms is None else arms
        scores = self._expecting([self._standing(arm, steps) for arm in ran])
        for s in scores if new else ():
            self.ledger.report(self._keys([s.arm], RACE, self.setting.seeds(RACE, 1))[0], steps, s.heldout)
        for s in self.field.close(scores):
            self.ledger.finish(self._keys([s.arm], RACE, [0])[0], s.status, s.heldout, s.why)
        alive = set(self.field.alive)
        self.ledger.drop_checkpoints(lambda key: (key.scheme, key.lr) in alive)

    def _standing(self, arm: Arm, steps: int) -> Standing:
        return standing(*arm, self._runs_of(arm), steps, self.initial)

    def _expecting(self, standings: list[Standing]) -> list[Standing]:
        """The same with what is to be expected of each at the end, beside the best of the current weights."""
        controls = [s for s in standings if s.scheme == CURRENT and s.alive]
        if not controls:
            return standings
        control = min(controls, key=lambda s: s.heldout)
        found = []
        for s in standings:
            if s.scheme == CURRENT:
                behind = s.heldout - control.heldout
                gain = -behind / max(abs(control.heldout), behind) if behind > 0 else 0.0
            else:
                gain = self._decision_between(s.arm, control.arm).gain if s.alive else math.nan
            found.append(replace(s, gain=gain))
        return found

    @property
    def initial(self) -> float:
        """Held-out loss of the current weights before any step; infinite where it is not known."""
        found = (s.heldout[0][1] for s in self.ledger.states.values() if s.key.scheme == CURRENT and s.heldout)
        return next(found, math.inf)

    # -- starts that are broken ----------------------------------------------------------------------------------

    def _drop_broken_starts(self) -> None:
        """Gate by what the first step showed: no gradient, no finite loss, a loss out of all proportion."""
        first = {s.key: s.train[0] for s in self.ledger.states.values() if s.train and s.key.phase == RACE}
        lowest = min((v for v in first.values() if math.isfinite(v)), default=math.inf)
        for name in dict.fromkeys(scheme for scheme, _ in self.field.alive):
            arms = [a for a in self.field.alive if a[0] == name]
            runs = [run for a in arms for run in self._runs_of(a)]
            why = _broken_start(runs, lowest)
            if not why or name == CURRENT or self._redraw(arms[0], len(runs)):
                continue
            self.field.broken[name] = why
            for arm in arms:
                self.ledger.finish(self._keys([arm], RACE, [0])[0], Status.GATED, math.inf, why)
            self.field.alive = [a for a in self.field.alive if a[0] != name]
        self._drop_duplicates()

    def _drop_duplicates(self) -> None:
        """Schemes whose runs are another's to the last digit fill the same weights; one of them is enough."""
        first: dict[object, str] = {}
        for name in dict.fromkeys(scheme for scheme, _ in self.field.alive):
            arms = [a for a in self.field.alive if a[0] == name]
            curves = tuple((a[1], run.train) for a in arms for run in self._runs_of(a))
            twin = first.setdefault(curves, name)
            if twin == name or not any(train for _, train in curves):
                continue
            self.field.broken[name] = f'fills exactly the weights of "{twin}"'
            for arm in arms:
                self.ledger.finish(self._keys([arm], RACE, [0])[0], Status.GATED, math.inf, self.field.broken[name])
            self.field.alive = [a for a in self.field.alive if a[0] != name]

    def _redraw(self, arm: Arm, dead: int) -> bool:
        """Look at other draws of a scheme that is dead in one; a living one takes its place. Says whether there is one.

        Dead first steps cost one step each; how many of the draws were dead goes into the odds.
        """
        ledger, horizon = self.ledger, self.plan.rungs[0].steps
        seeds = self.setting.seeds("redraw", REDRAWN)
        if ledger.prices.cost(REDRAWN, REDRAWN + horizon, REDRAWN) > ledger.left:
            return False
        keys = self._keys([arm], RACE, seeds)
        ledger.advance(keys, 1, (), f"{arm[0]} drawn again: its first draw trains nothing")
        living = [k for k in keys if not ledger.states[k].dead]
        if not living:
            return False
        self._dead_draws[arm[0]] = (REDRAWN - len(living) + 1, REDRAWN + 1)
        self._redrawn[arm] = [living[0].seed]
        ledger.advance(living[:1], horizon, (horizon,), f"{arm[0]} from a draw that trains")
        return True

    def _try_with_warmup(self, steps: int) -> None:
        """A scheme that breaks down at the full rate from the first step on is tried again as the user trains."""
        if not self.ledger.about.warmup:
            return
        broken = [a for a in self.field.alive if all(run.dead for run in self._runs_of(a))]
        whole = {a[0] for a in broken} - {a[0] for a in self.field.alive if a not in broken}
        again = [a for a in broken if a[0] in whole]
        if not again:
            return
        for arm in again:
            self._phase[arm] = WARM
        keys = self._keys(again, WARM, self.setting.seeds(RACE, self._seeds))
        if self.ledger.prices.cost(len(keys), len(keys) * steps, len(keys)) > self.ledger.left:
            self._phase.clear()
            return
        self.ledger.advance(keys, steps, (steps,), f"{len(keys)} trainings again, with the warm-up")

    # -- refinement and fresh seeds ------------------------------------------------------------------------------

    def _refine(self) -> None:
        """Search multipliers per group of roles around the leader, at its rate, each variant as long as the leader."""
        spec, count = self.setting.spec, self.plan.refined
        if not count or spec is None:
            return
        known = {s.name: s for s in self.setting.schemes}
        leader = next((s for s in self.field.challengers() if refinable(known[s.scheme], spec)), None)
        if leader is None:
            return
        scheme, horizon = known[leader.scheme], leader.horizon
        groups = refinable(scheme, spec)
        seeds = self.setting.seeds(RACE, self._seeds)
        for number in range(1, count + 1):
            name, seed = f"{leader.scheme}×{number}", derive(self.setting.seed, "refine", number)
            factors = self.ledger.log.suggest(groups, name, leader.lr, low=LOWEST, high=HIGHEST, seed=seed)
            variant = refined(scheme, spec, factors, number)
            self.ledger.runs.add(variant)
            self.refined_schemes.append(variant)
            arm = (name, leader.lr)
            self._phase[arm] = REFINE
            keys = self._keys([arm], REFINE, seeds)
            self.ledger.advance(
                keys, horizon, tuple(sorted(self._evals)), f"refining {leader.scheme}: {number} of {count}"
            )
            control = self.field.controls()[0]
            found = self._expecting([control, self._standing(arm, horizon)])[1]
            self.field.latest[arm] = found
            self.ledger.finish(keys[0], found.status, found.heldout, found.why)
            self.ledger.drop_checkpoints(lambda key: key.phase != REFINE)

    def _judge(self) -> None:
        """Fresh seeds of the current weights and of the best, as the user trains, until it is settled or paid up."""
        control = next(iter(self.field.controls()), None)
        challengers = [s.arm for s in self.field.challengers()][:RUNNERS_UP]
        if control is None or not challengers or self.horizons[-1] < self.plan.length:
            return
        while len(self._fresh) < MOST_FRESH:
            runners = [*challengers, control.arm]
            horizon, count = self._wave(len(runners))
            if count == 0 and len(challengers) > 1:
                challengers = challengers[:1]
                continue
            if count == 0:
                return
            new = self.setting.seeds(FRESH, len(self._fresh) + count)[len(self._fresh) :]
            keys = [MemberKey(FRESH, a[0], seed, a[1]) for seed in new for a in runners]
            message = f"{count} fresh seeds of {len(runners)}, {horizon} steps each"
            self.ledger.advance(keys, horizon, _evaluations(0, horizon, EVALS_IN_FULL), message)
            self._fresh += new
            challengers = self._still_close(challengers, control.arm)
            if len(self._fresh) >= FEWEST_FRESH and settled(self._decision_between(challengers[0], control.arm)):
                return
            if horizon < self.plan.length:
                return

    def _wave(self, runners: int) -> tuple[int, int]:
        """Length and number of the next fresh seeds; a last one may be shorter than the full training."""
        prices, length = self.ledger.prices, self.plan.length
        each = prices.cost(runners, runners * length, runners)
        affordable = int(self.ledger.left // each) if each > 0 else MOST_FRESH
        if affordable:
            # Three show clear cases, and what is not clear is looked at again after each.
            wanted = FEWEST_FRESH if not self._fresh else 2
            return length, min(wanted, affordable, MOST_FRESH - len(self._fresh))
        if self._fresh:
            return length, 0
        reach = prices.affordable(self.ledger.left, runners, runners)
        return (reach, 1) if reach >= max(FIRST_RUNG, length // 4) else (length, 0)

    def _still_close(self, challengers: list[Arm], control: Arm) -> list[Arm]:
        """The challengers in order of what all seeds say; the second one only while the first is not clearly better."""
        if len(challengers) < RUNNERS_UP:
            return challengers
        by_score = sorted(challengers, key=lambda a: self._mean_over_all(a).heldout)
        first, second = (self._mean_over_all(a) for a in by_score)
        apart = second.heldout - first.heldout > 2 * math.hypot(first.error, second.error)
        return by_score[:1] if apart and len(self._fresh) >= FEWEST_FRESH else by_score

    def _mean_over_all(self, arm: Arm) -> Standing:
        """Standing on fresh seeds, where a runner has any: they were not chosen by."""
        states = self.ledger.states
        fresh = [states[k] for s in self._fresh if (k := MemberKey(FRESH, arm[0], s, arm[1])) in states]
        horizon = max((step for run in fresh for step, _ in run.heldout), default=0)
        if not fresh or not horizon:
            return self.field.latest[arm]
        return standing(*arm, fresh, horizon, self.initial)

    @property
    def seeds(self) -> int:
        """Seeds of the arms that went furthest."""
        return self._seeds if self.horizons else 0

    @property
    def planned(self) -> str:
        """The plan in words, for people who want to know before it starts."""
        return describe(self.plan)

    def fate(self, key: MemberKey, *, interrupted: bool) -> Status:
        """How a run that did not break down ended."""
        found = self.field.latest.get((key.scheme, key.lr))
        if key.scheme in self.field.broken:
            return Status.GATED
        if found is not None and found.status is Status.PRUNED and key.phase != FRESH:
            return Status.PRUNED
        reached = self.ledger.states[key].steps >= (self.horizons[-1] if self.horizons else 0)
        return Status.INTERRUPTED if interrupted and not reached and key.phase != FRESH else Status.COMPLETED

    # -- what follows --------------------------------------------------------------------------------------------

    @property
    def final(self) -> dict[Arm, Standing]:
        """Standings on fresh seeds of those that had some."""
        states = self.ledger.states
        ran = dict.fromkeys((k.scheme, k.lr) for k in states if k.phase == FRESH)
        found = {arm: self._mean_over_all(arm) for arm in ran}
        kept = [s for s in found.values() if s.horizon]
        return {s.arm: s for s in self._expecting(kept)}

    def decision(self, *, interrupted: bool = False) -> Decision:
        """What is known now says what to do."""
        full, lr = self.ledger.about.full_steps, self.ledger.about.chosen_rates[0]
        control = next(iter(self.field.controls()), None)
        if control is None or not self.horizons:
            if interrupted or self.plan.rungs:
                return Decision.unconfirmed(Ground.STOPPED, lr, full_steps=full, interrupted=interrupted)
            return self._by_rules(lr, full)
        challengers = [self._arm_to_advise(a) for a in self._leaders()]
        if not challengers:
            ground = Ground.CANDIDATES_BREAK if len(self.setting.schemes) > 1 else Ground.NO_CANDIDATE
            if not control.alive:
                ground = Ground.ALL_BREAK
            return Decision.unconfirmed(ground, control.lr, full_steps=full, interrupted=interrupted)
        found = self._decision_between(challengers[0], control.arm)
        return replace(
            found,
            interrupted=interrupted,
            out_of_money=not settled(found) and len(self._fresh) < MOST_FRESH,
            more_steps=self._more(found),
        )

    def _by_rules(self, lr: float, full: int | None) -> Decision:
        """Nothing can be trained: what the rules propose first, by how that ended in recorded trainings."""
        first = next((s.name for s in self.setting.schemes if s.name != CURRENT), None)
        if first is None:
            return Decision.unconfirmed(Ground.NO_CANDIDATE, lr, full_steps=full)
        return by_rules(first, lr, no_trial(0, self.setting.facts), full_steps=full, more_steps=2 * FIRST_RUNG)

    def _leaders(self) -> list[Arm]:
        """Challengers, best first: by fresh seeds where there are some, else by the last rung."""
        final = {a: s for a, s in self.final.items() if a[0] != CURRENT and s.alive}
        if final:
            return sorted(final, key=lambda a: final[a].worth)
        return [s.arm for s in self.field.challengers()]

    def _arm_to_advise(self, arm: Arm) -> Arm:
        """The leader at the rate that follows the end: of rates that ran as far, the lowest of those that are level."""
        rivals = {s.lr: s for s in self.field.latest.values() if s.scheme == arm[0] and s.alive}
        horizon = self.field.latest[arm].horizon
        scores = {lr: s.heldout for lr, s in rivals.items() if s.horizon == horizon}
        if arm in self.final or len(scores) < 2:
            return arm
        noise = max(s.error for s in rivals.values())
        return arm[0], choose_rate(scores, steps=horizon, full_steps=self.ledger.about.full_steps, noise=noise)

    def _decision_between(self, challenger: Arm, control: Arm) -> Decision:
        pairing = self._pairing(challenger, control)
        return decide(
            pairing,
            initial=self.initial,
            full_steps=self.ledger.about.full_steps,
            place=self.setting.place(challenger[0]),
            facts=self.setting.facts,
            dead_draws=self._dead_draws.get(challenger[0]),
            belief=self.setting.belief,
        )

    def _pairing(self, challenger: Arm, control: Arm) -> Pairing:
        """On fresh seeds where there are some; else on the seeds of the race."""
        states = self.ledger.states
        fresh = paired(challenger, control, states, (FRESH,), FRESH)
        if fresh.seeds:
            return fresh
        phases = (RACE, self._phase.get(challenger, RACE), self._phase.get(control, RACE))
        return paired(challenger, control, states, phases, FRESH)

    def _more(self, decision: Decision) -> int:
        """Steps that would tell clearly more: both twice as far, or three fresh seeds of the full training."""
        if settled(decision) or len(self._fresh) >= MOST_FRESH:
            return 0
        if decision.horizon < self.plan.length:
            return 2 * min(decision.horizon, self.plan.length - decision.horizon)
        return 2 * FEWEST_FRESH * self.plan.length


def _broken_start(runs: Sequence[MemberState], lowest: float) -> str:
    """What is wrong with a scheme's first step, on every seed it was drawn from; empty where nothing is."""
    if not runs:
        return ""
    if all(r.status is Status.NO_GRADIENT for r in runs):
        return "no weight gets any gradient"
    if all(r.status is Status.DIVERGED and r.steps == 0 for r in runs):
        return "its first loss is not finite"
    first = [r.train[0] for r in runs if r.train]
    if first and lowest > 0 and min(first) > EXPLODED * lowest:
        return f"its first loss is {min(first):.1e}, where another candidate starts at {lowest:.2g}"
    failed = [r for r in runs if r.status is Status.FAILED and r.steps == 0]
    return failed[0].message if len(failed) == len(runs) else ""


def _evaluations(before: int, until: int, most: int) -> tuple[int, ...]:
    """Steps at which a training is scored between two horizons, the later one included.

    Example:
        >>> _evaluations(40, 80, 4), _evaluations(40, 45, 4)
        ((50, 60, 70, 80), (45,))
    """
    count = max(1, min(most, (until - before) // WORTH_EVALUATING))
    return tuple(sorted({before + round((until - before) * (i + 1) / count) for i in range(count)}))


def check_candidates(schemes: Sequence[Scheme]) -> None:
    """Refuse candidates that a race cannot be run among.

    Raises:
        InputError: names are not distinct, or the current weights are missing.
    """
    names = [s.name for s in schemes]
    if CURRENT not in names or len(set(names)) != len(names):
        raise InputError(f'candidates must have distinct names and one must be "{CURRENT}"; got {", ".join(names)}')
