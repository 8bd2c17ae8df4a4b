"""Before and after: which two trainings of the evidence are shown beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from initadvisor.report.evidence import Evidence
from initadvisor.training.engine.result import SignalFlow, Status, TrialResult
from initadvisor.trials.result import RankingEntry, Verdict
from initadvisor.types import CURRENT

FRESH = "fresh"
"""Phase of trainings on fresh seeds; they are shown where they exist."""


@dataclass(frozen=True)
class Contrast:
    """The model as it came beside what is recommended (or, where nothing is, the best alternative).

    Attributes:
        other: name of the scheme shown as "after"; ``current`` itself where no other was tried.
        before, after: one training of each, of one draw where possible; None where none was recorded.
        before_label, after_label: headings.
    """

    other: str
    before: TrialResult | None
    after: TrialResult | None
    before_label: str
    after_label: str


def other_scheme(evidence: Evidence) -> str:
    """The scheme that stands against the current weights: the recommended, else the confirmed, else the best ranked."""
    decision = evidence.race.decision
    for name in (decision.scheme, decision.challenger):
        if name and name != CURRENT:
            return name
    return next((e.scheme for e in evidence.race.ranking if e.scheme != CURRENT), CURRENT)


def trainings(evidence: Evidence, scheme: str, *, phase: str | None = None) -> tuple[TrialResult, ...]:
    """Trainings of one scheme, optionally of one phase."""
    return tuple(t for t in evidence.race.trials if t.scheme == scheme and phase in (None, t.phase))


def _preference(trial: TrialResult, lr: float | None) -> tuple[bool, bool, bool, int, int]:
    """Sort key: confirmed first, then at the wanted rate, with figures, long, low seed."""
    return (
        trial.phase != FRESH,
        lr is not None and not math.isclose(trial.lr, lr, rel_tol=1e-6),
        trial.flow is None,
        -trial.steps,
        trial.seed,
    )


def _own_rate(evidence: Evidence, scheme: str) -> float | None:
    """Rate at which a scheme stands in the decision, else its best in the rungs."""
    decision = evidence.race.decision
    if scheme == CURRENT and math.isfinite(decision.control_lr):
        return decision.control_lr
    return next((e.lr for e in evidence.race.ranking if e.scheme == scheme), None)


def _shown(evidence: Evidence, scheme: str, seed: int | None = None) -> TrialResult | None:
    lr = _own_rate(evidence, scheme)
    found = trainings(evidence, scheme)
    ordered = sorted(found, key=lambda t: (seed is not None and t.seed != seed, *_preference(t, lr)))
    return ordered[0] if ordered else None


def contrast(evidence: Evidence) -> Contrast:
    """Choose the two trainings to show."""
    other = other_scheme(evidence)
    before = _shown(evidence, CURRENT)
    after = _shown(evidence, other, before.seed if before else None) if other != CURRENT else None
    told = "after" if evidence.race.decision.verdict is Verdict.SWITCH else "alternative"
    return Contrast(other, before, after, "before: current", f"{told}: {other}")


def flow_of(evidence: Evidence, trial: TrialResult | None) -> SignalFlow | None:
    """Figures at initialisation of a training, or of another one of the same scheme where it has none."""
    if trial is None:
        return None
    if trial.flow is not None:
        return trial.flow
    return next((t.flow for t in trainings(evidence, trial.scheme) if t.flow is not None), None)


def curve_of(trial: TrialResult | None) -> tuple[tuple[int, float], ...]:
    """The held-out curve of a training, or its training loss where none was evaluated."""
    if trial is None:
        return ()
    if len(trial.heldout) > 1:
        return trial.heldout
    return tuple(enumerate(trial.train_loss, start=1))


def on_steps(trial: TrialResult | None, last: int, points: int) -> tuple[float | None, ...]:
    """A training's curve at ``points`` evenly spaced steps from 0 to ``last``: None after it ended.

    A training that diverged goes on as not-a-number, so that a plot marks it to the end.
    """
    curve = curve_of(trial)
    if trial is None or not curve:
        return ()
    ended = math.nan if trial.status is Status.DIVERGED else None
    shown: list[float | None] = []
    for point in range(points):
        step = last * point / max(1, points - 1)
        # A value stands until the next evaluation.
        known = [loss for at, loss in curve if at <= step]
        shown.append(ended if step > curve[-1][0] else known[-1] if known else curve[0][1])
    return tuple(shown)


def was_tried(entry: RankingEntry) -> bool:
    """Whether anything was measured of a candidate: one left out for want of budget has no score to show."""
    return entry.steps > 0 or entry.seeds > 0


def finite_range(values: Sequence[float]) -> tuple[float, float] | None:
    """Lowest and highest finite value, None where there is none."""
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite)) if finite else None
