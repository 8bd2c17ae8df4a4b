"""What is decided from trials: frozen values that reports and storage share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.result import Status, TrialResult


class Verdict(StrEnum):
    """What to do."""

    SWITCH = "switch"
    KEEP = "keep"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class RankingEntry:
    """One candidate's standing when the trials ended.

    Attributes:
        scheme: its name.
        lr: its own best learning rate.
        score: held-out loss at the last common horizon it reached (best checkpoint), mean over draws; inf where it
            diverged.
        low, high: interval of that mean.
        steps: horizon of the score.
        draws: number of seeds behind it.
        status: how it left the race.
        why: one sentence: dropped at which rung, and why.
    """

    scheme: str
    lr: float
    score: float
    low: float
    high: float
    steps: int
    draws: int
    status: Status
    why: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The statement the whole race was for.

    Attributes:
        verdict: switch, keep or undecided.
        scheme: the scheme to use (``"current"`` unless the verdict is switch).
        lr: learning rate it was confirmed at.
        challenger: the scheme that was confirmed against the current weights.
        effect: mean paired difference of held-out loss, current minus challenger, each at its own best rate (positive:
            the challenger is better); inf where the current weights die on every fresh seed and the challenger on none.
        interval: two-sided interval of the effect at ``confidence``.
        confidence: level of the interval.
        p: one-sided p-value that the effect is not above ``smallest_effect``.
        smallest_effect: the least improvement worth a change, in units of the loss.
        seeds: fresh draws behind it.
        horizon: optimizer steps of each confirmation training.
        scope: honest limits in a sentence (``"over the first 400 steps"``).
        why: the reasons in sentences, most important first.
        diagnosis: what the figures point to instead, where initialisation is not the problem.
        interrupted: the user stopped before all trials were done.
        control_lr: rate of the current weights that the challenger was held against; None where none was.
    """

    verdict: Verdict
    scheme: str
    lr: float
    challenger: str
    effect: float
    interval: tuple[float, float]
    confidence: float
    p: float
    smallest_effect: float
    seeds: int
    horizon: int
    scope: str
    why: tuple[str, ...] = ()
    diagnosis: tuple[str, ...] = ()
    interrupted: bool = False
    control_lr: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What the advice cost.

    Attributes:
        model_steps: optimizer steps summed over all members.
        seconds: wall time of the trials.
        share_of_full: model_steps divided by what training every candidate in full at every rate and seed would take;
            None where the full length is not known.
        full_trainings: model_steps in units of one full training; None where that is not known.
        members: trainings started.
    """

    model_steps: int
    seconds: float
    share_of_full: float | None = None
    full_trainings: float | None = None
    members: int = 0


@dataclass(frozen=True, slots=True)
class RaceResult:
    """Everything the trial room hands over.

    Attributes:
        decision: the statement.
        ranking: best first; ``current`` is always among them.
        trials: every training, in the order they ended.
        cost: what it took.
        settings: what was run, for provenance and the report (optimizer, loss, rates, seeds, engine, rungs), as text.
        notes: remarks worth a line in the report.
        refined: schemes the sampler found during the race, which the ranking may name.
    """

    decision: Decision
    ranking: tuple[RankingEntry, ...]
    trials: tuple[TrialResult, ...]
    cost: Cost
    settings: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    refined: tuple[Scheme, ...] = ()
