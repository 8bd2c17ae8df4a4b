"""How is a decision said? Every sentence about it follows from the one decision value, so figures and words agree."""

from __future__ import annotations

import math

from initadvisor.report.numbers import count, number, plural, rate
from initadvisor.trials.result import Decision, Ground, Verdict
from initadvisor.types import CURRENT

RARE = 0.005
"""Odds below which "fewer than 1 in 100" is said."""

SURE = 0.995
"""Odds from which "more than 99 in 100" is said."""

ONE_IN = 0.15
"""Odds below which they are said as one in so many."""

LITTLE = 0.005
"""Expected gain, as a share of the loss, below which it is called nothing."""


def chance(p: float) -> str:
    """Odds as people say them.

    Example:
        >>> [chance(p) for p in (0.001, 0.03, 0.5, 0.72, 0.97, 1.0)]
        ['fewer than 1 in 100', '1 in 33', '5 in 10', '7 in 10', '97 in 100', 'more than 99 in 100']
    """
    if p < RARE:
        return "fewer than 1 in 100"
    if p > SURE:
        return "more than 99 in 100"
    if p < ONE_IN:
        return f"1 in {round(1 / p)}"
    return f"{round(10 * p)} in 10" if p < 1 - ONE_IN / 2 else f"{round(100 * p)} in 100"


def portion(gain: float) -> str:
    """A relative change of the loss in words.

    Example:
        >>> portion(0.2), portion(0.004), portion(-0.1)
        ('about 20% lower', 'about the same', 'about 10% higher')
    """
    if abs(gain) < LITTLE:
        return "about the same"
    return f"about {round(100 * abs(gain)) or 1}% {'lower' if gain > 0 else 'higher'}"


def headline(d: Decision) -> str:
    """What to do, and why, in one or two short sentences."""
    keep = f"Keep the weights as they are, at learning rate {rate(d.lr)}"
    if d.ground is Ground.ALL_BREAK:
        return "No advice on the weights: every training broke down, whatever the weights."
    if d.ground is Ground.STOPPED:
        return "Stopped before two candidates could be compared: keep the weights as they are for now."
    if d.ground is Ground.NO_CANDIDATE:
        return f"{keep}: there is no other candidate to try."
    if d.ground is Ground.CANDIDATES_BREAK:
        return f"{keep}: training breaks down with every other candidate."
    if d.ground is Ground.RULES:
        return _by_rules(d)
    if d.verdict is Verdict.SWITCH:
        return f'Use "{d.scheme}" at learning rate {rate(d.lr)}: {_seen(d)}.'
    if d.verdict is Verdict.KEEP:
        return f"{keep}: nothing that was tried is expected to end better."
    return (
        f'Undecided, so keep the weights for now: "{d.challenger}" may end better, but the odds are '
        f"{chance(d.p_worse)} that it ends worse."
    )


def _by_rules(d: Decision) -> str:
    if d.challenger == CURRENT:
        return "The budget is too small to compare anything: keep the weights as they are for now."
    odds = f"{chance(d.p_better)} that it ends better"
    if d.verdict is Verdict.SWITCH:
        return f'By the rules alone, use "{d.scheme}": {odds}. The budget was too small to try it.'
    return f'The budget was too small to try anything. By the rules alone "{d.challenger}" is next: {odds}.'


def _seen(d: Decision) -> str:
    where = f"after {_of_full(d)}"
    if d.ground is Ground.CURRENT_BREAKS:
        breaks = f"with the current weights training breaks down on {d.dead} of {plural(d.seeds, 'seed')}"
        return f"{breaks}, with it on {d.challenger_dead or 'none'}"
    return f"held-out loss {number(d.challenger_loss)} instead of {number(d.current_loss)} {where}"


def _of_full(d: Decision) -> str:
    if d.full_steps is None or d.horizon >= d.full_steps:
        return plural(d.horizon, "step")
    return f"{count(d.horizon)} of {plural(d.full_steps, 'step')}"


def how_sure(d: Decision) -> tuple[str, ...]:
    """The odds, what they rest on, how far they reach and what would tell more: short sentences."""
    if d.challenger == CURRENT or d.ground in (Ground.ALL_BREAK, Ground.STOPPED):
        return (f"{_first_upper(d.scope)}.",) if d.horizon else ("No trainings were compared.",)
    told = [
        f'Odds that "{d.challenger}" ends better than the current weights: {chance(d.p_better)}.',
        f"Odds that it ends worse by more than 2%: {chance(d.p_worse)}.",
    ]
    if d.ground is not Ground.RULES and math.isfinite(d.current_loss) and math.isfinite(d.challenger_loss):
        told.append(
            f"Seen: held-out loss {number(d.challenger_loss)} against {number(d.current_loss)} after {_of_full(d)}, "
            f"on {_seeds(d)}."
        )
    if d.dead or d.challenger_dead:
        told.append(
            f"Training broke down on {d.dead} of {plural(d.seeds, 'seed')} with the current weights, "
            f"on {d.challenger_dead} with the other."
        )
    interval = f"90% interval: {_signed(d.gain_low)} to {_signed(d.gain_high)}"
    told.append(f"Expected at the end: a loss {portion(d.gain)} ({interval}).")
    if d.more_steps:
        told.append(f"What would tell more: {count(d.more_steps)} more optimizer steps.")
    return tuple(told)


def _seeds(d: Decision) -> str:
    if d.fresh:
        return plural(d.fresh, "fresh seed")
    return f"{plural(d.seeds, 'seed')} that also chose it" if d.seeds > 1 else "the one seed that also chose it"


def _signed(gain: float) -> str:
    return f"{abs(round(100 * gain))}% {'lower' if gain >= 0 else 'higher'}"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def interruption(d: Decision) -> str:
    """A sentence where the user stopped the trials, else empty."""
    return "Stopped early: this is what the finished trials say." if d.interrupted else ""
