"""Who is ahead? Scores of arms at a horizon, who goes on, and how each candidate left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.member import MemberState
from initadvisor.training.engine.result import Status
from initadvisor.trials.result import RankingEntry
from initadvisor.types import CURRENT

LEVEL = 0.01
"""Relative difference of held-out losses below which two rates of one scheme are level. Of level rates the lower goes
on: early views prefer rates that are too high in one case of three."""

Arm = tuple[str, float]
"""A scheme at a learning rate."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One scheme at one rate, at one horizon.

    Attributes:
        scheme, lr: who.
        heldout: mean over seeds of the best held-out loss; a run that broke down counts with the loss it
            began with. inf where every run broke down.
        error: standard error of that mean; 0 for a single seed.
        horizon: optimizer steps of each run.
        seeds: that it is a mean of.
        dead: of them, whose training broke down.
        gain: share by which its final loss is expected to be lower than that of the current weights (see
            :mod:`initadvisor.trials.odds`), which is what ranks; nan where it cannot be told.
        status: how it left, or how it stands.
        why: a quoted error, or nothing.
    """

    scheme: str
    lr: float
    heldout: float
    error: float
    horizon: int
    seeds: int
    dead: int = 0
    status: Status = Status.COMPLETED
    why: str = ""
    gain: float = math.nan

    @property
    def worth(self) -> tuple[float, float]:
        """Key that sorts the best first: by what is expected at the end, then by what was seen."""
        return (-self.gain if math.isfinite(self.gain) else 0.0, self.heldout)

    @property
    def arm(self) -> Arm:
        """Who it is."""
        return self.scheme, self.lr

    @property
    def alive(self) -> bool:
        """At least one of its runs can go on."""
        return self.dead < self.seeds


def standing(scheme: str, lr: float, runs: Sequence[MemberState], horizon: int, first_loss: float) -> Standing:
    """Score one scheme at one rate.

    Args:
        scheme: its name.
        lr: its rate.
        runs: one per seed.
        horizon: steps they have all done, or died before.
        first_loss: held-out loss before any step, that a run which broke down is worth.
    """
    dead = [r for r in runs if r.dead]
    if len(dead) == len(runs):
        status = dead[0].status or Status.FAILED
        why = f"diverged {dead[0].message}" if status is Status.DIVERGED else dead[0].message
        return Standing(scheme, lr, math.inf, 0.0, horizon, len(runs), len(dead), status, why)
    best = [first_loss if r.dead else r.best(horizon) for r in runs]
    mean = math.fsum(best) / len(best)
    error = 0.0
    if len(best) > 1 and math.isfinite(mean):
        error = math.sqrt(math.fsum((b - mean) ** 2 for b in best) / (len(best) - 1) / len(best))
    return Standing(scheme, lr, mean, error, horizon, len(runs), len(dead))


def ahead(standings: Iterable[Standing]) -> list[Standing]:
    """Best first; of rates of one scheme that are level, the lower first."""
    ranked = sorted(standings, key=lambda s: (*s.worth, s.scheme, s.lr))
    for i in range(len(ranked)):
        for j in range(i + 1, len(ranked)):
            a, b = ranked[i], ranked[j]
            if a.scheme == b.scheme and b.lr < a.lr and _level(a, b):
                ranked[i], ranked[j] = b, a
    return ranked


def _level(a: Standing, b: Standing) -> bool:
    gap = abs(a.heldout - b.heldout)
    return math.isfinite(gap) and gap <= max(LEVEL * abs(a.heldout), math.hypot(a.error, b.error))


@dataclass
class Field:
    """Who is in the race, and where everybody stands.

    Attributes:
        alive: arms that can go on, best first once a rung is done.
        latest: last standing of every arm that ran.
        broken: schemes none of whose first passes was sound, and why.
        out: schemes that the budget had no room for.
    """

    alive: list[Arm] = field(default_factory=list)
    latest: dict[Arm, Standing] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    out: tuple[str, ...] = ()

    @property
    def horizon(self) -> int:
        """The longest horizon that any arm has reached."""
        return max((s.horizon for s in self.latest.values()), default=0)

    def going(self, count: int) -> list[Arm]:
        """The best so many arms that can go on; the current weights, at their best rate, are always among them."""
        ranked = [s.arm for s in ahead(self.latest[a] for a in self.alive)] if self.latest else list(self.alive)
        control = next((a for a in ranked if a[0] == CURRENT), None)
        rest = [a for a in ranked if a != control]
        kept = ([control] if control is not None else []) + rest[: count - (control is not None)]
        return sorted(kept, key=ranked.index)

    def close(self, standings: Sequence[Standing]) -> list[Standing]:
        """Take in what a rung showed; gives back the arms that leave, each with how."""
        went = {s.arm for s in standings}
        left = []
        for arm in self.alive:
            if arm not in went:
                self.latest[arm] = replace(self.latest[arm], status=Status.PRUNED)
                left.append(self.latest[arm])
        for s in standings:
            self.latest[s.arm] = s
            if not s.alive:
                left.append(s)
        self.alive = [s.arm for s in ahead(s for s in standings if s.alive)]
        return left

    def controls(self) -> list[Standing]:
        """The current weights at every rate they were tried at, who went furthest first, then by score."""
        return self._of(lambda s: s.scheme == CURRENT)

    def challengers(self) -> list[Standing]:
        """Everybody else that reached the last horizon and did not break down, best first."""
        last = self.horizon
        return self._of(lambda s: s.scheme != CURRENT and s.horizon == last and s.alive)

    def best_of(self, scheme: str) -> Standing | None:
        """The best standing of a scheme at the longest horizon it reached."""
        return next(iter(self._of(lambda s: s.scheme == scheme)), None)

    def _of(self, wanted: object) -> list[Standing]:
        assert callable(wanted)
        found = [s for s in self.latest.values() if wanted(s)]
        by_horizon: dict[int, list[Standing]] = {}
        for s in found:
            by_horizon.setdefault(s.horizon, []).append(s)
        return [s for horizon in sorted(by_horizon, reverse=True) for s in ahead(by_horizon[horizon])]


def ranking(field_: Field, schemes: Sequence[Scheme], final: Mapping[Arm, Standing]) -> tuple[RankingEntry, ...]:
    """Every candidate's standing: who went furthest first, then by score, then those that never trained.

    Args:
        field_: of the race.
        schemes: all, best prior first.
        final: standings over all seeds, fresh ones included, of those that had some.
    """
    known = dict(field_.latest) | dict(final)
    entries: list[tuple[tuple[float, ...], RankingEntry]] = []
    for order, scheme in enumerate(schemes):
        own = [s for s in known.values() if s.scheme == scheme.name]
        best = min(own, key=lambda s: (-s.horizon, *s.worth, s.lr), default=None)
        if best is None:
            broken = field_.broken.get(scheme.name)
            status = Status.GATED if broken is not None else Status.NOT_TRIED
            entry = RankingEntry.untrained(scheme.name, status, broken or "")
            entries.append(((1.0, 0.0, 0.0, 0.0, 0.0, float(order)), entry))
            continue
        entry = RankingEntry(
            scheme.name, best.lr, best.heldout, best.heldout - best.error, best.heldout + best.error, best.horizon,
            best.seeds, best.status, best.why, best.dead, best.gain,
        )  # fmt: skip
        # Those on fresh seeds were the best before, and have lost the luck that the others still have.
        place = (0.0, float(-best.horizon), 0.0 if best.arm in final else 1.0, *best.worth, float(order))
        entries.append((place, entry))
    return tuple(entry for _, entry in sorted(entries, key=lambda pair: pair[0]))
