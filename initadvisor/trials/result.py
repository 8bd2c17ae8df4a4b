"""What is decided from trials: frozen values that reports and storage share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.result import Status, TrialResult


class Verdict(StrEnum):
    """What to do, in terms of the odds that a decision states.

    ``SWITCH``: something is to be expected of the change, and the odds that it does harm are small enough. ``KEEP``:
    trainings ran, and nothing worth a change is to be expected. ``UNDECIDED``: no trainings could be compared, or what
    they showed leaves both open; the weights stay as they are until more is known.
    """

    SWITCH = "switch"
    KEEP = "keep"
    UNDECIDED = "undecided"


class Ground(StrEnum):
    """What a decision rests on; reports make their sentences from it."""

    COMPARED = "the leader and the current weights were trained side by side"
    CURRENT_BREAKS = "training breaks down with the current weights, and not with the leader"
    ALL_BREAK = "every training broke down, whatever the weights"
    RULES = "nothing was trained: the rules' order alone"
    NO_CANDIDATE = "there is no other candidate"
    CANDIDATES_BREAK = "training broke down with every other candidate"
    STOPPED = "stopped before anything could be compared"


@dataclass(frozen=True, slots=True)
class RankingEntry:
    """One candidate's standing when the trials ended.

    Attributes:
        scheme: its name.
        lr: its own best learning rate.
        score: held-out loss at the last common horizon it reached (best checkpoint), mean over seeds; inf where it
            diverged.
        low, high: interval of that mean.
        steps: horizon of the score.
        seeds: behind it.
        status: how it left the race.
        why: a quoted error, or nothing.
        dead: of the seeds, on which training broke down.
        gain: share by which its final loss is expected to be lower than that of the current weights; of those that got
            equally far this is what ranks. nan where nothing is expected.
    """

    scheme: str
    lr: float
    score: float
    low: float
    high: float
    steps: int
    seeds: int
    status: Status
    why: str = ""
    dead: int = 0
    gain: float = math.nan

    @classmethod
    def untrained(cls, scheme: str, status: Status, why: str = "") -> RankingEntry:
        """A candidate that took no step."""
        return cls(scheme, math.nan, math.inf, math.inf, math.inf, 0, 0, status, why)


@dataclass(frozen=True, slots=True)
class Decision:
    """The statement the whole race was for.

    Attributes:
        verdict: switch, keep or undecided.
        ground: what it rests on.
        scheme: the scheme to use (``"current"`` unless the verdict is switch).
        lr: learning rate to use it at.
        challenger: the scheme that was held against the current weights; ``"current"`` where none was.
        challenger_lr: its rate.
        control_lr: rate of the current weights that it was held against.
        p_better: odds that the challenger ends better than the current weights.
        p_worse: odds that it ends worse by more than 2%.
        gain: expected share by which its final loss is lower (.2: by a fifth; negative: higher).
        gain_low, gain_high: 90% interval of that share.
        effect: held-out loss of the current weights less the challenger's, where both have got to; inf where only the
            current weights broke down.
        interval: 90% interval of the final difference, in units of the loss: the gain's, times the current loss.
        current_loss, challenger_loss: held-out losses where both have got to, mean over ``seeds``.
        seeds: paired seeds behind it.
        fresh: of them, seeds that took no part in choosing the challenger.
        dead, challenger_dead: of the seeds, on which training broke down with the current weights, and the challenger.
        horizon: optimizer steps of each training compared; 0 where none was.
        full_steps: of the full training, None where unknown.
        diagnosis: what the figures point to instead, where initialisation is not the problem.
        interrupted: the user stopped before the plan was done.
        out_of_money: the plan ended since the budget did, not since the answer could not change.
        more_steps: optimizer steps that would tell clearly more; 0 where nothing is left to tell.
    """

    verdict: Verdict
    ground: Ground
    scheme: str
    lr: float
    challenger: str = "current"
    challenger_lr: float = math.nan
    control_lr: float = math.nan
    p_better: float = 0.5
    p_worse: float = 0.0
    gain: float = 0.0
    gain_low: float = 0.0
    gain_high: float = 0.0
    effect: float = 0.0
    interval: tuple[float, float] = (-math.inf, math.inf)
    current_loss: float = math.nan
    challenger_loss: float = math.nan
    seeds: int = 0
    fresh: int = 0
    dead: int = 0
    challenger_dead: int = 0
    horizon: int = 0
    full_steps: int | None = None
    diagnosis: tuple[str, ...] = ()
    interrupted: bool = False
    out_of_money: bool = False
    more_steps: int = 0

    @classmethod
    def unconfirmed(
        cls, ground: Ground, lr: float, *, full_steps: int | None = None, interrupted: bool = False
    ) -> Decision:
        """Nothing was compared: the weights stay as they are, and the ground says why.

        "Keep" is said only where trainings ran and say so.
        """
        ran = ground in (Ground.NO_CANDIDATE, Ground.CANDIDATES_BREAK) and not interrupted
        verdict = Verdict.KEEP if ran else Verdict.UNDECIDED
        return cls(verdict, ground, "current", lr, control_lr=lr, full_steps=full_steps, interrupted=interrupted)

    @property
    def scope(self) -> str:
        """What the comparison reaches over."""
        if self.horizon == 0:
            return "no trainings were compared"
        if self.full_steps is None:
            return f"over the first {self.horizon} steps; the length of the full training is not known"
        if self.horizon >= self.full_steps:
            return f"over the full training of {self.full_steps} steps"
        return f"over the first {self.horizon} of {self.full_steps} steps"


@dataclass(frozen=True, slots=True)
class Cost:
    """What the advice cost.

    Attributes:
        model_steps: optimizer steps summed over all runs.
        seconds: wall time of the trials.
        share_of_full: model_steps in units of ONE full training; None where its length is not known.
        members: trainings started.
        other_seconds: of the wall time, what was not spent in training runs (reading, drawing, probing, starting).
    """

    model_steps: int
    seconds: float
    share_of_full: float | None = None
    members: int = 0
    other_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RaceResult:
    """Everything the trials hand over.

    Attributes:
        decision: the statement.
        ranking: best first; ``current`` is always among them.
        trials: every training, in the order they ended.
        cost: what it took.
        settings: what was run, for provenance and the report (optimizer, loss, rates, seeds, engine, rungs), as text.
        notes: remarks worth a line in the report.
        plan: what was planned, as text for the report.
        refined: schemes the sampler found during the race, which the ranking may name.
    """

    decision: Decision
    ranking: tuple[RankingEntry, ...]
    trials: tuple[TrialResult, ...]
    cost: Cost
    settings: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    refined: tuple[Scheme, ...] = ()
    plan: str = ""
