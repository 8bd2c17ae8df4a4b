"""Trainings on fresh seeds, as far as they are needed: the challenger against the current weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.trials.decide import FIRST_ALPHA, LAST_ALPHA, Finding, Pair, decide, smallest_effect
from initadvisor.trials.result import Verdict
from initadvisor.trials.standings import Standing

CLOSE_SHARE = 0.2
"""A rate of the current weights that is behind their best by less than this share of its held-out loss is not behind
for sure. In 1,296 full trainings of the defaults of 36 tasks (12 seeds, 3 rates), drawn anew as trials 1,440 times,
a share of .2 with two seeds and :data:`RUNG_WEIGHT` kept weights at a rate that is worse than their best by
more than a standard error in 13% of draws, for 1.5 trainings; a share of .5, three seeds and no weight in 15%, for
2.5."""

RUNG_WEIGHT = 0.5
"""Weight of the mean held-out loss of the last rung beside that of fresh seeds, when the rate to keep is chosen: other
trainings, but shorter ones, and the order they start from was made by them."""

CLOSE_ERRORS = 2.0
"""The same in standard errors of the difference."""


def close(first: Standing, second: Standing) -> bool:
    """Whether what the rungs saw does not tell two standings apart.

    Example:
        >>> a = Standing("a", 0.1, 0.50, 0.50, 0.01, 200, 2)
        >>> close(a, Standing("a", 0.3, 0.55, 0.55, 0.01, 200, 2)), close(a, Standing("a", 1.0, 2.3, 2.3, 0.01, 200, 2))
        (True, False)
    """
    if second.horizon < first.horizon or not (math.isfinite(first.score) and math.isfinite(second.score)):
        return False
    error = math.hypot(first.error, second.error)
    return second.heldout - first.heldout <= max(CLOSE_ERRORS * error, CLOSE_SHARE * abs(first.heldout))


def rates_to_confirm(controls: Sequence[Standing], most: int) -> tuple[Standing, ...]:
    """The current weights at their best rate, and at those the rungs could not tell from it.

    Args:
        controls: the current weights at every rate they were tried at, best first.
        most: rates at most.
    """
    first, *others = controls
    return (first, *[s for s in others if close(first, s)][: most - 1])


@dataclass(frozen=True, slots=True)
class Wave:
    """Trainings that run side by side: each runner on each seed."""

    runners: tuple[Standing, ...]
    seeds: tuple[int, ...]


@dataclass
class Confirmation:
    """The challenger against the current weights on seeds that chose neither.

    A few seeds settle the clear cases; where the challenger is ahead and it is not clear, both train on all. Both run
    at the rate the rungs found best: to let one of them choose again on the seeds that judge would favour it. Only when
    the current weights are to be kept do they run at their other rates, on ``rate_seeds`` of them, since what is kept
    is kept at a rate, too.

    Attributes:
        controls: the current weights, best rate first.
        challenger: who is confirmed, at its best rate.
        seeds: all that may be used.
        first: seeds of the first look.
        rate_seeds: seeds of it on which rates of the current weights are compared, should they be kept.
        horizon: steps of each training.
        initial: held-out loss of the current weights before training.
        fold_of: which rows a seed is scored on.
        states: what is trained so far; the race's own, filled while waves run.
        kept: the current weights at the rate to keep them at.
        finding: what the trainings so far say.
    """

    controls: tuple[Standing, ...]
    challenger: Standing
    seeds: tuple[int, ...]
    first: int
    rate_seeds: int
    horizon: int
    initial: float
    fold_of: Mapping[int, int]
    states: Mapping[MemberKey, MemberState]
    kept: Standing = field(init=False)
    finding: Finding = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self.control
        self._judge(FIRST_ALPHA)

    @property
    def control(self) -> Standing:
        """The current weights at the rate the challenger is held against."""
        return self.controls[0]

    def run(self, train: Callable[[Wave], None], may: Callable[[Wave], bool] = lambda wave: True) -> None:
        """Train until it is settled.

        Args:
            train: brings the runners of a wave to the horizon on its seeds, as members of phase ``"confirm"``.
            may: whether one more wave fits into what the user allows.
        """
        early, late = self.seeds[: self.first], self.seeds[self.first :]
        train(Wave((self.control, self.challenger), early))
        verdict = self._judge(FIRST_ALPHA if late else LAST_ALPHA)
        more = Wave((self.control, self.challenger), late)
        if late and verdict is Verdict.UNDECIDED and may(more):
            train(more)
            verdict = self._judge(LAST_ALPHA)
        others = Wave(self.controls[1:], self._rate_seeds)
        if verdict is Verdict.SWITCH or not others.runners or not may(others):
            return
        train(others)
        self.kept = min(self.controls, key=self._as_kept)
        if verdict is Verdict.UNDECIDED and self._on_rate_seeds(self.kept) <= self._on_rate_seeds(self.challenger):
            why = f"{self.finding.why}; at learning rate {self.kept.lr:g} the current weights do as well"
            self.finding = replace(self.finding, verdict=Verdict.KEEP, why=why)

    def review(self) -> None:
        """Judge what there is after a stop in the middle of :meth:`run`."""
        self._judge(LAST_ALPHA if len(self.pairs()) == len(self.seeds) else FIRST_ALPHA)

    def pairs(self) -> list[Pair]:
        """Seeds on which both are done."""
        found = []
        for seed in self.seeds:
            a, b = self._state(self.control, seed), self._state(self.challenger, seed)
            if a is not None and b is not None:
                fold = self.fold_of.get(seed)
                found.append(Pair(seed, a.best(self.horizon), b.best(self.horizon), a.dead, b.dead, fold))
        return found

    @property
    def about_rate(self) -> tuple[str, ...]:
        """A sentence where the current weights are to be kept at another rate than the compared one."""
        if self.kept is self.control:
            return ()
        rates = f"at learning rate {self.kept.lr:g} than at {self.control.lr:g}"
        seen = f"in the last rung and on {len(self._rate_seeds)} fresh seeds together"
        return (f"{seen} the current weights did better {rates}",)

    @property
    def trained(self) -> tuple[Standing, ...]:
        """Those that have been trained on at least one fresh seed."""
        return tuple(s for s in (*self.controls, self.challenger) if any(self._state(s, seed) for seed in self.seeds))

    def mean(self, runner: Standing) -> float:
        """Mean best held-out loss over the fresh seeds a runner has done; inf where it has done none."""
        states = [s for seed in self.seeds if (s := self._state(runner, seed)) is not None]
        return math.fsum(s.best(self.horizon) for s in states) / len(states) if states else math.inf

    def _state(self, runner: Standing, seed: int) -> MemberState | None:
        state = self.states.get(MemberKey("confirm", runner.scheme, seed, runner.lr))
        return state if state is not None and state.reached(self.horizon) else None

    @property
    def _rate_seeds(self) -> tuple[int, ...]:
        return self.seeds[: self.rate_seeds]

    def _on_rate_seeds(self, runner: Standing) -> tuple[int, float]:
        """How often a runner died on the seeds that rates are compared on, and its mean loss there."""
        states = [s for seed in self._rate_seeds if (s := self._state(runner, seed)) is not None]
        return sum(s.dead for s in states), math.fsum(s.best(self.horizon) for s in states) / max(1, len(states))

    def _as_kept(self, control: Standing) -> tuple[int, float]:
        """The same with what the last rung saw of the current weights at this rate."""
        deaths, fresh = self._on_rate_seeds(control)
        return deaths, fresh + RUNG_WEIGHT * control.heldout

    def _judge(self, alpha: float) -> Verdict:
        pairs = self.pairs()
        final = math.fsum(p.current for p in pairs) / len(pairs) if pairs else self.control.heldout
        self.finding = decide(pairs, smallest_effect(final, self.initial), alpha)
        return self.finding.verdict
