"""Who is ahead: scores at a horizon, who goes on, and how each candidate left the race."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.member import MemberState
from initadvisor.training.engine.result import Status
from initadvisor.trials.budget import Rung
from initadvisor.trials.gate import Passed
from initadvisor.trials.result import RankingEntry
from initadvisor.types import CURRENT

MEAN_WEIGHT = ((0.05, 0.5), (0.10, 0.35), (0.20, 0.15), (1.0, 0.0))
"""Weight of the mean training loss so far beside the held-out loss, by share of the full length (linear between).
At 5% of a training the mean so far foresees its end better (median regret .14 against .23), at 20% the held-out loss
does (.02 against .10); at the end there is nothing left to foresee."""

WORST_WEIGHT = 0.25
"""Weight of the worst draw beside the mean of draws: a scheme that trains from one seed and not from another is worth
less than its average says."""

Runner = tuple[str, float]
"""A scheme at a learning rate."""


def mean_weight(share: float) -> float:
    """Weight of the mean loss so far at a share of the full length.

    Example:
        >>> mean_weight(0.01), mean_weight(0.1), mean_weight(1.0)
        (0.5, 0.35, 0.0)
    """
    (low, value), *rest = MEAN_WEIGHT
    if share <= low:
        return value
    for high, after in rest:
        if share <= high:
            return value + (after - value) * (share - low) / (high - low)
        low, value = high, after
    return value


@dataclass(frozen=True, slots=True)
class Standing:
    """One scheme at one rate, at one horizon.

    Attributes:
        scheme, lr: who.
        score: what ranks; inf where a draw broke down.
        heldout: mean over draws of the best held-out loss.
        error: standard error of that mean; 0 for a single draw.
        horizon: steps.
        draws: seeds.
        status: how it left, or how it stands.
        why: in a sentence.
    """

    scheme: str
    lr: float
    score: float
    heldout: float
    error: float
    horizon: int
    draws: int
    status: Status = Status.COMPLETED
    why: str = ""


def standing(scheme: str, lr: float, draws: Sequence[MemberState], horizon: int, length: int) -> Standing:
    """Score one scheme at one rate from its draws.

    Args:
        scheme: its name.
        lr: its rate.
        draws: its members, one per seed.
        horizon: steps they have all done (or died before).
        length: full length, for the weight of the mean so far.
    """
    best = [d.best(horizon) for d in draws]
    heldout = math.fsum(best) / len(best)
    error = 0.0
    if len(best) > 1 and math.isfinite(heldout):
        error = math.sqrt(math.fsum((b - heldout) ** 2 for b in best) / (len(best) - 1) / len(best))
    dead = next((d for d in draws if d.dead), None)
    if dead is not None:
        assert dead.status is not None
        count = sum(d.dead for d in draws)
        why = f"{dead.message} ({count} of {len(draws)} draws)" if dead.status is Status.FAILED else (
            f"diverged {dead.message} ({count} of {len(draws)} draws)"
        )  # fmt: skip
        return Standing(scheme, lr, math.inf, heldout, error, horizon, len(draws), dead.status, why)
    weight = mean_weight(horizon / length)
    each = [(1 - weight) * b + weight * d.mean_so_far(horizon) for b, d in zip(best, draws, strict=True)]
    mean = math.fsum(each) / len(each)
    score = mean + WORST_WEIGHT * (max(each) - mean) if math.isfinite(mean) else math.inf
    return Standing(scheme, lr, score, heldout, error, horizon, len(draws))


@dataclass
class Contest:
    """Who is in the race and how the others left it.

    Attributes:
        alive: schemes and rates that go on, in the order they entered.
        left: last standing of each that does not.
        latest: last standing of each that does.
        out: schemes that never entered, best prior first.
    """

    alive: list[Runner] = field(default_factory=list)
    left: dict[Runner, Standing] = field(default_factory=dict)
    latest: dict[Runner, Standing] = field(default_factory=dict)
    out: tuple[str, ...] = ()

    def enter(self, schemes: Sequence[str], rates: Sequence[float], left_out: Sequence[str]) -> None:
        """Begin."""
        self.alive = [(s, r) for s in schemes for r in rates]
        self.out = tuple(left_out)

    def close_rung(self, scores: Sequence[Standing], rung: Rung, index: int, count: int) -> list[Standing]:
        """Keep the current weights and the best challengers, each at its best rates; gives back who leaves, and why."""
        by_scheme: dict[str, list[Standing]] = {}
        for s in sorted(scores, key=lambda s: (s.score, s.heldout)):
            by_scheme.setdefault(s.scheme, []).append(s)
        challengers = [s for s in by_scheme if s != CURRENT and math.isfinite(by_scheme[s][0].score)]
        kept = challengers[: rung.keep]
        going: set[Runner] = set()
        for name in (CURRENT, *kept):
            fit = [s for s in by_scheme.get(name, []) if math.isfinite(s.score)] or by_scheme.get(name, [])[:1]
            going |= {(s.scheme, s.lr) for s in fit[: rung.control_rates if name == CURRENT else rung.rates]}
        place = {name: i + 1 for i, name in enumerate(challengers)}
        dropped = []
        for s in scores:
            runner = (s.scheme, s.lr)
            if runner in going:
                self.latest[runner] = s
                continue
            if s.status is Status.COMPLETED:
                if s.scheme in kept or s.scheme == CURRENT:
                    why = f"other rates of it were better at rung {index + 1} of {count}"
                else:
                    why = f"{_ordinal(place[s.scheme])} of {len(challengers)} at rung {index + 1} of {count}"
                s = replace(s, status=Status.PRUNED, why=why)
            self.left[runner] = s
            self.latest.pop(runner, None)
            dropped.append(s)
        self.alive = [r for r in self.alive if r in going]
        return dropped

    def finish(self) -> list[Standing]:
        """Standings of those that are left after the last rung."""
        for runner in self.alive:
            s = self.latest[runner]
            if s.status is Status.COMPLETED:
                self.latest[runner] = replace(s, why="among the last")
        return [self.latest[r] for r in self.alive]

    def add(self, found: Standing) -> None:
        """Take in a refined scheme that has been trained as long as those that are left."""
        if math.isfinite(found.score):
            self.alive.append((found.scheme, found.lr))
            self.latest[found.scheme, found.lr] = replace(found, why="refined from the leader")
        else:
            self.left[found.scheme, found.lr] = found

    def contenders(self, refined: Container[str], most: int) -> list[Standing]:
        """The best challenger that is not refined and the refined ones ahead of it, so many in all, best first.

        Empty where none is ahead, or no other is left.
        """
        ranked = self.challengers()
        place = next((i for i, s in enumerate(ranked) if s.scheme not in refined), 0)
        return [*ranked[: min(place, most - 1)], ranked[place]] if place else []

    def update(self, found: Standing) -> None:
        """What further draws showed of one that is left; it leaves if one of them died."""
        runner = (found.scheme, found.lr)
        before = self.latest.pop(runner)
        if math.isfinite(found.score):
            self.latest[runner] = replace(found, why=before.why)
        else:
            self.alive.remove(runner)
            self.left[runner] = found

    def best_of(self, scheme: str) -> Standing | None:
        """The best standing of a scheme at its longest horizon."""
        found = [s for s in (*self.latest.values(), *self.left.values()) if s.scheme == scheme]
        return min(found, key=_place, default=None)

    def finalists(self) -> tuple[Standing, Standing] | None:
        """The current weights and the best challenger, each at its best rate; None where no challenger is left."""
        controls, challengers = self.controls(), self.challengers()
        return (controls[0], challengers[0]) if controls and challengers else None

    def controls(self) -> list[Standing]:
        """The current weights at every rate they were tried at, best first."""
        found = [s for s in (*self.latest.values(), *self.left.values()) if s.scheme == CURRENT]
        return sorted(found, key=_place)

    def challengers(self) -> list[Standing]:
        """Challengers that took part in the last rung so far and came through, at every rate, best first.

        Those with more draws come before those with fewer: they were the best of them when the draws were added, and
        their scores have lost the luck that the others' still have.
        """
        everything = (*self.latest.values(), *self.left.values())
        last = max((s.horizon for s in everything), default=0)
        found = [s for s in everything if s.scheme != CURRENT and s.horizon == last and math.isfinite(s.score)]
        return sorted(found, key=_place)

    def fate(self, scheme: str, lr: float, *, interrupted: bool) -> Status:
        """How a runner that did not die left."""
        if (scheme, lr) in self.left:
            return Status.PRUNED
        return Status.INTERRUPTED if interrupted and (scheme, lr) not in self.latest else Status.COMPLETED


def _place(s: Standing) -> tuple[float, ...]:
    """Key that sorts by how far one went, then by draws, then by score."""
    return (-s.horizon, -s.draws, s.score, s.heldout)


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def ranking(
    contest: Contest, schemes: Sequence[Scheme], passed: Iterable[Passed], *, interrupted: bool
) -> tuple[RankingEntry, ...]:
    """Every candidate's standing: who went furthest first, then by score, then those that never trained."""
    faults = {p.scheme: p.fault for p in passed if p.fault}
    entries: list[tuple[tuple[float, ...], RankingEntry]] = []
    for order, scheme in enumerate(schemes):
        best = contest.best_of(scheme.name)
        if best is None:
            status, why = Status.INTERRUPTED, "the race was stopped before its first rung"
            if scheme.name in faults:
                status, why = Status.GATED, faults[scheme.name]
            elif scheme.name in contest.out:
                status, why = Status.PRUNED, "not tried: the budget had room for candidates of higher prior only"
            entry = RankingEntry(scheme.name, math.nan, math.inf, math.inf, math.inf, 0, 0, status, why)
            entries.append(((1.0, 0.0, float(order)), entry))
            continue
        score = best.heldout if math.isfinite(best.score) else math.inf
        entry = RankingEntry(
            scheme.name, best.lr, score, score - best.error, score + best.error, best.horizon, best.draws, best.status,
            best.why,
        )  # fmt: skip
        entries.append(((0.0, *_place(best)), entry))
    return tuple(entry for _, entry in sorted(entries, key=lambda pair: pair[0]))
