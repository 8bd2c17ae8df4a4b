"""The advice in plain words: every sentence that the terminal and the HTML report share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from initadvisor.checks.finding import Severity
from initadvisor.graph.spec import Coverage
from initadvisor.report import verdict
from initadvisor.report.contrast import contrast, curve_of, flow_of, was_tried
from initadvisor.report.evidence import Evidence
from initadvisor.report.numbers import duration, number, plural, rate, share
from initadvisor.schemes.folding import fold_paths
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.result import SignalFlow, Status
from initadvisor.trials.result import RankingEntry, Verdict
from initadvisor.types import CURRENT, TORCH_DEFAULT

STEADY = 10.0
"""Signal that changes by less than this factor over the whole depth is called steady: one decade is what float32
training tolerates without a second thought (normalised networks drift that much)."""

MANY_DEAD = 0.5
"""Share of dead or saturated units from which a layer is worth a sentence."""

SHORTEST_HORIZON = 20
"""Steps below which a training says nothing: momentum and Adam's averages have not warmed up."""

EARLY_SHARE = 0.05
"""Part of the full training below which "initialisation does not matter" is not said: picks after 5% of training were
right in the median and far off in a tenth of the tasks, and plateaus end later still."""

FINDING_PATHS = 3
"""Patterns of parameters named with a finding; `initadvisor check` names all."""

SHOWN_PATHS = 3
"""Folded paths named in one line before the rest are counted."""


def headline(evidence: Evidence) -> str:
    """What to do, in one sentence."""
    return verdict.headline(evidence.race.decision)


def interruption(evidence: Evidence) -> str:
    """A sentence where the user stopped the trials, else empty."""
    return verdict.interruption(evidence.race.decision)


def how_sure(evidence: Evidence) -> tuple[str, ...]:
    """The odds and what they rest on, short sentences."""
    return verdict.how_sure(evidence.race.decision)


def coverage_gaps(found: Coverage) -> tuple[str, ...]:
    """What was not understood, a line each; empty where nothing is missing."""
    lines = []
    if not found.complete:
        missing = found.total - found.understood
        told = plural(found.total, "trainable tensor")
        lines.append(f"{missing} of {told} not understood; they are left as they came.")
    by_reason: dict[tuple[str, str], list[str]] = {}
    for gap in found.unknown:
        by_reason.setdefault((gap.op, gap.reason), []).append(gap.path)
    lines += [f"{listing(paths)}: {reason} (op {op})" for (op, reason), paths in by_reason.items()]
    if found.unused:
        lines.append(f"{listing(found.unused)}: not used in this forward pass")
    return tuple(lines)


def assumptions(found: Coverage) -> tuple[str, ...]:
    """What was guessed or passed through, a line each."""
    lines = []
    if found.weak:
        lines.append(f"role guessed, treated with care: {listing(found.weak)}")
    if found.opaque_ops:
        lines.append(f"effect on the signal not known: {', '.join(found.opaque_ops)}")
    return tuple(lines)


def listing(paths: tuple[str, ...] | list[str]) -> str:
    """A few folded paths, the rest counted."""
    folded = fold_paths(paths)
    more = len(folded) - SHOWN_PATHS
    return ", ".join(folded[:SHOWN_PATHS]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Reason:
    """One reason of a scheme and what it applies to.

    Attributes:
        rule: name of the rule.
        text: why it fits.
        fill: what it fills with, in words.
        paths: of the parameters, folded.
        count: how many parameters.
        references: keys of what is cited.
    """

    rule: str
    text: str
    fill: str
    paths: str
    count: int
    references: tuple[str, ...]


def reasons(scheme: Scheme) -> tuple[Reason, ...]:
    """Distinct reasons of a scheme, those that concern most weights first."""
    groups: dict[tuple[str, str, str], list[tuple[str, tuple[str, ...]]]] = {}
    for a in scheme.assignments:
        fills = dict.fromkeys(_fill_words(p.fill.initializer, p.fill.gain) for p in a.parts)
        told = ", ".join(fills) if fills else "left as it is"
        groups.setdefault((a.rule, a.reason, told), []).append((a.path, a.references))
    found = [
        Reason(
            rule,
            text,
            fill,
            listing([p for p, _ in members]),
            len(members),
            tuple(dict.fromkeys(k for _, keys in members for k in keys)),
        )
        for (rule, text, fill), members in groups.items()
    ]
    return tuple(sorted(found, key=lambda r: -r.count))


def _fill_words(initializer: str, gain: float) -> str:
    return initializer if gain == 1.0 else f"{initializer} × {number(gain)}"


def left_out(evidence: Evidence) -> tuple[str, ...]:
    """Candidates that were never trained, by reason, a line each."""
    reasons: dict[str, list[str]] = {}
    for entry in evidence.race.ranking:
        if not was_tried(entry):
            reasons.setdefault(standing(entry), []).append(entry.scheme)
    return tuple(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def standing(entry: RankingEntry) -> str:
    """How a candidate left the race, in a sentence: its own reason, or that of its status."""
    return entry.why or entry.status.value


def standing_briefly(entry: RankingEntry) -> str:
    """How a candidate left the race, for a table: its own reason, or its status without the remedy."""
    return entry.why or entry.status.value.partition(":")[0]


def starts_from_zero(scheme: Scheme) -> bool:
    """Whether a scheme fills some weight matrix with zeros on purpose (residual outputs, heads)."""
    return any(part.fill.initializer == "zeros" for a in scheme.assignments if len(a.shape) > 1 for part in a.parts)


def figures_in_words(
    before: SignalFlow | None, after: SignalFlow | None, other: str, *, zeros_meant: bool = False
) -> tuple[str, ...]:
    """The signal and gradient figures in words, a line per kind.

    Args:
        before: of the current weights.
        after: of the scheme beside them.
        other: its name.
        zeros_meant: the scheme starts some weights at zero, so that exact zeros are no sign of a dying signal.
    """
    flows = (("with the current weights", before), (f'with "{other}"', after))
    meant = {id(after)} if zeros_meant else set()
    lines = []
    for what, field, ends in (
        ("Signal", "forward_rms", ("first", "last")),
        ("Gradient", "backward_norm", ("last", "first")),  # it travels back
    ):
        told = [
            f"{label} it {_course([v for _, v in flow.course(field)], ends, zeros_meant=id(flow) in meant)}"
            for label, flow in flows
            if flow is not None
        ]
        if told:
            lines.append(f"{what}: {'; '.join(told)}.")
    for what, field in (("dead", "dead_share"), ("saturated", "saturated_share")):
        worst: list[tuple[str, float]] = []
        for label, flow in flows:
            shares = [s for s in getattr(flow, field, ()) if math.isfinite(s)]
            if shares:
                worst.append((label, max(shares)))
        if any(figure >= MANY_DEAD for _, figure in worst):
            lines.append(f"Units {what} in the worst layer: {', '.join(f'{share(w)} {label}' for label, w in worst)}.")
    return tuple(lines)


def _course(values: Sequence[float], ends: tuple[str, str], *, zeros_meant: bool = False) -> str:
    """How a figure goes through depth, on its way from one end to the other."""
    if zeros_meant and min(values, default=1.0) == 0 < max(values):
        elsewhere = _course([v for v in values if v != 0], ends)
        return f"is zero where the scheme starts from zeros on purpose, and elsewhere {elsewhere}"
    if not values:
        return "was not measured"
    if not all(math.isfinite(v) for v in values):
        return "becomes infinite or not a number"
    first, last = (values[0], values[-1]) if ends[0] == "first" else (values[-1], values[0])
    low, high = min(values), max(values)
    if high == 0:
        return "is zero throughout"
    if low == 0 and last > 0:  # something passes by what is zero, on purpose (the last scale of a branch) or not
        count = sum(v == 0 for v in values)
        rest = _course([v for v in values if v != 0], ends)
        return f"is zero in {count} of {plural(len(values), 'layer')}, which it passes by, and elsewhere {rest}"
    if low == 0:
        return "dies (exactly zero in some layer, and in all behind it)"
    if number(low) == number(high):
        return f"stays at {number(low)}"
    if high / low < STEADY:
        return f"stays between {number(low)} and {number(high)}"
    verb = "falls" if last < first else "rises"
    return f"{verb} from {number(first)} in the {ends[0]} layer to {number(last)} in the {ends[1]}"


def cost(evidence: Evidence) -> str:
    """What the advice took."""
    spent = evidence.race.cost
    text = f"{plural(spent.model_steps, 'optimizer step')} in {duration(spent.seconds)}"
    if spent.members:
        text += f", {plural(spent.members, 'short training')}"
    if spent.share_of_full is not None and spent.share_of_full < 1:
        text += f"; {share(spent.share_of_full)} of one full training"
    elif spent.share_of_full is not None:
        text += f"; as much as {spent.share_of_full:.3g} full trainings"
    return text + "."


def diagnosis(evidence: Evidence) -> tuple[str, ...]:
    """Where initialisation is not the problem: that, and what the figures point to instead."""
    decision = evidence.race.decision
    errors = _errors_first(evidence)
    if decision.verdict is Verdict.SWITCH:
        return errors
    if decision.verdict is Verdict.UNDECIDED or errors:
        return (*errors, *decision.diagnosis)
    return (_not_the_problem(evidence), *decision.diagnosis)


def _not_the_problem(evidence: Evidence) -> str:
    """The diagnosis of a "keep", as far as the trials reach: too short or too few of them settle nothing."""
    others = [e for e in evidence.race.ranking if e.scheme not in (CURRENT, TORCH_DEFAULT) and was_tried(e)]
    if not others:
        return "Whether initialisation matters here is not settled: no proposed scheme was trained."
    return "Initialisation is not your problem here."


def flow_in_words(evidence: Evidence) -> tuple[str, ...]:
    """Signal and gradient figures of the current weights and of the scheme beside them, a line per kind."""
    shown = contrast(evidence)
    meant = any(s.name == shown.other and starts_from_zero(s) for s in evidence.schemes)
    before, after = flow_of(evidence, shown.before), flow_of(evidence, shown.after)
    return figures_in_words(before, after, shown.other, zeros_meant=meant)


def findings(evidence: Evidence) -> tuple[str, ...]:
    """What the audit found wrong as things are: errors and warnings, a line each, with the remedy."""
    told = []
    for f in evidence.findings:
        if f.severity is not Severity.INFO:
            where = f" ({', '.join(pattern for pattern, _ in f.patterns[:FINDING_PATHS])})" if f.patterns else ""
            told.append(f"{f.code} {f.severity.value}{where}: {f.message}. {f.remedy}")
    return tuple(told)


def _errors_first(evidence: Evidence) -> tuple[str, ...]:
    """That the weights, data or loss as they came have an error, which comes before any other cause."""
    codes = dict.fromkeys(f.code for f in evidence.findings if f.severity is Severity.ERROR)
    if not codes:
        return ()
    return (
        f"As it came, this training has {plural(len(codes), 'error')} ({', '.join(codes)}, below): mend that first.",
    )


def remarks(evidence: Evidence) -> tuple[str, ...]:
    """What else is worth knowing: what the figures hint at beside a switch, assumptions, notes of the rooms."""
    decision = evidence.race.decision
    beside = decision.diagnosis if decision.verdict is Verdict.SWITCH else ()
    told = (*beside, *assumptions(evidence.spec.coverage), *evidence.notes, *evidence.race.notes)
    return tuple(dict.fromkeys(told))


def provenance(evidence: Evidence) -> str:
    """One line that lets someone else repeat it."""
    versions = [f"{name} {version}" for name, version in evidence.versions.items()]
    return " · ".join([*versions, f"seed {evidence.seed}", f"model {evidence.spec.fingerprint[:12]}"])


def curves_in_words(evidence: Evidence) -> str:
    """What the two shown trainings did, in a sentence each."""
    shown = contrast(evidence)
    told = []
    for name, trial in ((CURRENT, shown.before), (shown.other, shown.after)):
        if trial is None:
            continue
        start = f'"{name}" at rate {rate(trial.lr)}'
        if trial.status is Status.DIVERGED:
            told.append(f"{start} diverges after {plural(trial.steps, 'step')}.")
            continue
        curve = curve_of(trial)
        if curve:
            first, last = number(curve[0][1]), number(curve[-1][1])
            told.append(f"{start} goes from {first} to {last} in {plural(trial.steps, 'step')}.")
    return " ".join(told)
