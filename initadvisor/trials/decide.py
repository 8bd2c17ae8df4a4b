"""From what was trained to a statement: what to do, with which odds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.trials.odds import UNKNOWN_FACTS, Belief, Facts, Odds, View, action, odds
from initadvisor.trials.result import Decision, Ground, Verdict
from initadvisor.trials.standings import Arm
from initadvisor.types import CURRENT

SETTLED = 0.98
"""Odds, either way, from which no further training is asked for."""

LEAST_BROKEN = 0.5
"""Share of the seeds on which training must break down with the current weights, beyond the challenger's, for that to
be the ground of a change."""


@dataclass(frozen=True)
class Pairing:
    """A challenger and the current weights on the seeds both have run on.

    Attributes:
        challenger, control: who.
        runs: the pairs, one per seed: current weights first.
        fresh: of them, on seeds that took no part in choosing.
        horizon: steps of each.
    """

    challenger: Arm
    control: Arm
    runs: tuple[tuple[MemberState, MemberState], ...]
    fresh: int
    horizon: int

    @property
    def seeds(self) -> int:
        """Pairs."""
        return len(self.runs)


def paired(
    challenger: Arm, control: Arm, states: Mapping[MemberKey, MemberState], phases: Sequence[str], fresh: str
) -> Pairing:
    """All seeds on which both have run, at the longest horizon that they share.

    Args:
        challenger: scheme and rate.
        control: the current weights and their rate.
        states: all runs.
        phases: of runs that may be compared with each other, the one with the longest horizon counting.
        fresh: the phase whose seeds took no part in choosing.
    """

    def runs(arm: Arm) -> dict[tuple[bool, int], MemberState]:
        # A run that was tried again with the warm-up is compared with one that left it out, on the same seed.
        return {
            (k.phase == fresh, k.seed): s for k, s in states.items() if (k.scheme, k.lr) == arm and k.phase in phases
        }

    mine, theirs = runs(challenger), runs(control)
    common = {key: (theirs[key], mine[key]) for key in mine if key in theirs}
    reach = {key: _common_horizon(*pair) for key, pair in common.items()}
    horizon = max(reach.values(), default=0)
    kept = {k: p for k, p in common.items() if reach[k] == horizon or (p[0].dead and p[1].dead)} if horizon else common
    order = sorted(kept)
    return Pairing(challenger, control, tuple(kept[k] for k in order), sum(k[0] for k in order), horizon)


def _common_horizon(a: MemberState, b: MemberState) -> int:
    """Steps after which both were scored; a run that broke down reaches as far as the other."""
    if a.dead and b.dead:
        return 0
    if a.dead or b.dead:
        alive = b if a.dead else a
        return max((step for step, _ in alive.heldout), default=0)
    return max({step for step, _ in a.heldout} & {step for step, _ in b.heldout}, default=0)


def view_of(
    pairing: Pairing, *, initial: float, full_steps: int | None, place: int, facts: Facts = UNKNOWN_FACTS
) -> View:
    """What was seen, as the odds are asked with it."""
    alive = [(c, m) for c, m in pairing.runs if not c.dead and not m.dead]
    if alive:
        common = _scored([run for pair in alive for run in pair])
        current, candidate = _curve([c for c, _ in alive], common), _curve([m for _, m in alive], common)
    else:
        # Where one side always breaks down, the other's runs say that it does not.
        left = [c for c, _ in pairing.runs if not c.dead]
        right = [m for _, m in pairing.runs if not m.dead]
        current, candidate = _curve(left, _scored(left)), _curve(right, _scored(right))
    gaps = [c.best(pairing.horizon) - m.best(pairing.horizon) for c, m in alive] if pairing.horizon else []
    noise = 0.0
    if len(gaps) > 1:
        mean = math.fsum(gaps) / len(gaps)
        noise = math.sqrt(math.fsum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1) / len(gaps))
    return View(
        candidate=candidate,
        current=current,
        steps=pairing.horizon,
        full_steps=full_steps,
        initial=initial,
        noise=noise,
        seeds=max(1, pairing.seeds),
        place=place,
        candidate_dead=sum(m.dead for _, m in pairing.runs),
        current_dead=sum(c.dead for c, _ in pairing.runs),
        facts=facts,
    )


def _scored(runs: Sequence[MemberState]) -> list[int]:
    """Steps at which all of them were scored, but for the very start."""
    return sorted(set.intersection(*({s for s, _ in r.heldout if s} for r in runs))) if runs else []


def _curve(runs: Sequence[MemberState], steps: Sequence[int]) -> tuple[float, ...]:
    return tuple(_mean([r.best(s) for r in runs]) for s in steps) if runs else ()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def decide(
    pairing: Pairing,
    *,
    initial: float,
    full_steps: int | None,
    place: int,
    facts: Facts = UNKNOWN_FACTS,
    interrupted: bool = False,
    dead_draws: tuple[int, int] | None = None,
    belief: Belief = odds,
) -> Decision:
    """The decision between the current weights and one challenger.

    Args:
        pairing: what both did on the same seeds.
        initial: held-out loss of the current weights before any step.
        full_steps: of the full training, None where unknown.
        place: of the challenger in the rules' order, 0 for the first.
        facts: of the network.
        interrupted: the user stopped before the plan was done.
        dead_draws: of the challenger, and how many were looked at, where its first draw was dead.
        belief: says how sure an early view is.
    """
    dead = sum(c.dead for c, _ in pairing.runs)
    challenger_dead = sum(m.dead for _, m in pairing.runs)
    if pairing.seeds and dead == challenger_dead == pairing.seeds:
        return Decision.unconfirmed(Ground.ALL_BREAK, pairing.control[1], full_steps=full_steps)
    view = view_of(pairing, initial=initial, full_steps=full_steps, place=place, facts=facts)
    if dead_draws is not None:
        challenger_dead, drawn = dead_draws
        view = replace(view, candidate_dead=challenger_dead, seeds=max(view.seeds, drawn))
    found: Odds = belief(view)
    current = view.current[-1] if view.current else math.inf
    challenger = view.candidate[-1] if view.candidate else math.inf
    breaks = dead - challenger_dead >= LEAST_BROKEN * pairing.seeds
    ground = Ground.CURRENT_BREAKS if breaks else Ground.COMPARED
    verdict = Verdict(action(found))
    if verdict is Verdict.SWITCH and not current > challenger:
        verdict = Verdict.UNDECIDED  # what is behind so far is not advised, whatever the rules think of it
    switch = verdict is Verdict.SWITCH
    unit = abs(current) if math.isfinite(current) else math.inf
    effect = current - challenger if math.isfinite(challenger) else -math.inf
    return Decision(
        verdict=verdict,
        ground=ground,
        scheme=pairing.challenger[0] if switch else pairing.control[0],
        lr=pairing.challenger[1] if switch else pairing.control[1],
        challenger=pairing.challenger[0],
        challenger_lr=pairing.challenger[1],
        control_lr=pairing.control[1],
        p_better=found.better,
        p_worse=found.worse,
        gain=found.gain,
        gain_low=found.low,
        gain_high=found.high,
        effect=effect,
        interval=(found.low * unit, found.high * unit) if math.isfinite(unit) else (-math.inf, math.inf),
        current_loss=current,
        challenger_loss=challenger,
        seeds=pairing.seeds,
        fresh=pairing.fresh,
        dead=dead,
        challenger_dead=challenger_dead,
        horizon=pairing.horizon,
        full_steps=full_steps,
        interrupted=interrupted,
    )


def by_rules(scheme: str, lr: float, found: Odds, *, full_steps: int | None, more_steps: int) -> Decision:
    """What to do where nothing could be trained: the rules' first scheme, by how such schemes ended elsewhere."""
    verdict = Verdict(action(found))
    return Decision(
        verdict=verdict,
        ground=Ground.RULES,
        scheme=scheme if verdict is Verdict.SWITCH else CURRENT,
        lr=lr,
        challenger=scheme,
        challenger_lr=lr,
        control_lr=lr,
        p_better=found.better,
        p_worse=found.worse,
        gain=found.gain,
        gain_low=found.low,
        gain_high=found.high,
        full_steps=full_steps,
        out_of_money=True,
        more_steps=more_steps,
    )


def settled(decision: Decision) -> bool:
    """Whether more training could hardly change what is advised."""
    return decision.p_better >= SETTLED or decision.p_better <= 1 - SETTLED
