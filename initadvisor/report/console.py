"""The report in a terminal: what to do first, then why, how sure, what else was tried, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import initadvisor.report.sentences as sentences
from initadvisor.errors import RegistryError
from initadvisor.references import cite
from initadvisor.report.contrast import (
    Contrast,
    contrast,
    curve_of,
    finite_range,
    flow_of,
    on_steps,
    other_scheme,
    was_tried,
)
from initadvisor.report.evidence import Evidence
from initadvisor.report.numbers import number, plural, rate, size
from initadvisor.report.page import Page
from initadvisor.report.termplot import Axis, beside, linear_axis, log_axis, panel
from initadvisor.training.engine.result import Status
from initadvisor.trials.result import RankingEntry, Verdict
from initadvisor.types import CURRENT

if TYPE_CHECKING:
    from rich.table import Table

PLOT_HEIGHT = 5
"""Lines of one terminal plot: enough to see a slope, small enough for three of them on a screen."""

PANEL_GAP = 2
WIDEST_PANEL = 60
"""A panel wider than this stretches a few layers into a wall."""

LOG_FROM = 20.0
"""Loss curves whose values span more than this factor are drawn logarithmically."""

CURVE_POINTS = 24
"""Columns of a loss curve where it has so many steps; a divisor of most panel widths."""

SHOWN_REASONS = 6
"""Reasons told in the terminal; the HTML report has all."""


def render(
    evidence: Evidence, *, width: int | None = None, color: bool | None = None, unicode: bool | None = None
) -> str:
    """The whole report as text.

    Args:
        evidence: what was measured and decided.
        width: columns; None takes the terminal's. Reads well from 60 to 160.
        color: ANSI colours; None decides by where standard output goes, and ``NO_COLOR``.
        unicode: False replaces everything that is not ASCII; None decides by standard output's encoding.
    """
    page = Page(width=width, color=color, unicode=unicode)
    _advice(page, evidence)
    _findings(page, evidence)
    _gaps(page, evidence)
    _why(page, evidence)
    _effect(page, evidence)
    _ranking(page, evidence)
    shown = contrast(evidence)
    _flow(page, evidence, shown)
    _curves(page, evidence, shown)
    _cost_and_scope(page, evidence)
    return page.done()


def _advice(page: Page, evidence: Evidence) -> None:
    page.text(sentences.headline(evidence), strong=True)
    page.text(sentences.interruption(evidence))
    told = sentences.diagnosis(evidence)
    if told:
        page.bullets(told)


def _findings(page: Page, evidence: Evidence) -> None:
    found = sentences.findings(evidence)
    if found:
        page.heading("Found wrong as it came", alarm=True)
        page.bullets(found)


def _gaps(page: Page, evidence: Evidence) -> None:
    gaps = sentences.coverage_gaps(evidence.spec.coverage)
    if gaps:
        page.heading("Not understood", alarm=True)
        page.bullets(gaps)


def _why(page: Page, evidence: Evidence) -> None:
    decision = evidence.race.decision
    told = sentences.flow_in_words(evidence)
    if not told:
        return
    page.heading("Why")
    page.bullets(told)
    name = other_scheme(evidence)
    try:
        scheme = evidence.scheme(name)
    except KeyError:
        return
    found = sentences.reasons(scheme)
    if not found or name == CURRENT:
        return
    page.gap()
    what = "It fills" if decision.verdict is Verdict.SWITCH else f'The best alternative, "{name}", would fill'
    page.text(f"{what} ({scheme.summary}):" if scheme.summary else f"{what}:")
    for reason in found[:SHOWN_REASONS]:
        page.text(f"{reason.paths}: {reason.fill}", indent=2)
        page.text(f"{reason.text} [{reason.rule}{_cited(reason.references)}]", quiet=True, indent=4)
    if len(found) > SHOWN_REASONS:
        page.text(f"and {plural(len(found) - SHOWN_REASONS, 'more reason')} in the HTML report", quiet=True, indent=2)


def _cited(keys: tuple[str, ...]) -> str:
    names = []
    for key in keys:
        try:
            names.append(cite(key).short)
        except RegistryError:  # a saved advice may cite what this version no longer lists
            names.append(key)
    return f"; {', '.join(names)}" if names else ""


def _effect(page: Page, evidence: Evidence) -> None:
    page.heading("How sure")
    page.bullets(sentences.how_sure(evidence))


def _ranking(page: Page, evidence: Evidence) -> None:
    tried = [entry for entry in evidence.race.ranking if was_tried(entry)]
    if not evidence.race.ranking:
        return
    page.heading("What the alternatives scored")
    if tried:
        page.put(ranking_table(evidence, tried, width=page.width))
    told: dict[str, list[str]] = {}
    for entry in tried:
        sentence = sentences.standing(entry)
        cut = page.width < ROOM_FOR_REASONS or sentence != sentences.standing_briefly(entry)
        if cut and (entry.status is not Status.COMPLETED or entry.why):
            told.setdefault(sentence, []).append(entry.scheme)
    page.bullets((f"{', '.join(names)}: {why}" for why, names in told.items()), quiet=True)
    page.bullets(sentences.left_out(evidence), quiet=True)


ROOM_FOR_INTERVALS = 76
"""Columns from which the ranking has room for intervals beside names of usual length."""

ROOM_FOR_REASONS = 100
"""Columns from which the ranking has room for a sentence in each line."""


def ranking_table(evidence: Evidence, entries: Sequence[RankingEntry], *, width: int) -> Table:
    """Candidates by held-out loss, as a rich table.

    Args:
        evidence: which of them is recommended.
        entries: best first.
        width: of the page.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("scheme", overflow="fold", min_width=12)
    table.add_column("held-out", justify="right", no_wrap=True)
    if width >= ROOM_FOR_INTERVALS:
        table.add_column("interval", justify="right", no_wrap=True)
        table.add_column("expected", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    if width >= ROOM_FOR_REASONS:
        table.add_column("status", overflow="fold", ratio=1)
    chosen = evidence.race.decision.scheme
    for place, entry in enumerate(entries, start=1):
        row = [str(place), entry.scheme + (" ◂" if entry.scheme == chosen else ""), number(entry.score)]
        if width >= ROOM_FOR_INTERVALS:
            row += [interval(entry), expected(entry)]
        row += [rate(entry.lr), str(entry.steps), str(entry.seeds)]
        if width >= ROOM_FOR_REASONS:
            row.append(sentences.standing_briefly(entry))
        style = "bold" if entry.scheme == chosen else ""
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


NO_INTERVAL = "–"
"""Stands where one draw gives no interval."""


def expected(entry: RankingEntry) -> str:
    """What is expected of the final loss, against that of the current weights: -20% is a fifth lower."""
    return f"{-100 * entry.gain:+.0f}%" if math.isfinite(entry.gain) else NO_INTERVAL


def interval(entry: RankingEntry) -> str:
    """The interval of a ranking entry, a dash where one draw gives none."""
    if not math.isfinite(entry.low) or (entry.seeds < 2 and entry.low == entry.high):
        return NO_INTERVAL
    return f"{number(entry.low)} to {number(entry.high)}"


def _pair(
    page: Page,
    title: str,
    shown: Contrast,
    before: tuple[float | None, ...],
    after: tuple[float | None, ...],
    axis: Axis,
    feet: tuple[tuple[str, str], tuple[str, str]],
) -> None:
    page.heading(f"{title} (log)" if axis.log else title)
    two = bool(after)
    room = (page.width - PANEL_GAP) // 2 if two else page.width
    width = min(room, WIDEST_PANEL)
    drawn = panel(before, axis, title=shown.before_label, foot=feet[0], width=width, height=PLOT_HEIGHT)
    if two:
        right = panel(after, axis, title=shown.after_label, foot=feet[1], width=width, height=PLOT_HEIGHT)
        drawn = beside(drawn, right, PANEL_GAP)
    page.lines(drawn)


def _flow(page: Page, evidence: Evidence, shown: Contrast) -> None:
    before, after = flow_of(evidence, shown.before), flow_of(evidence, shown.after)
    for title, field in (
        ("Signal through depth: RMS of layer outputs", "forward_rms"),
        ("Gradient through depth: RMS at layer outputs", "backward_norm"),
    ):
        left, right = (tuple(v for _, v in flow.course(field)) if flow else () for flow in (before, after))
        if left or right:
            feet = (("first layer", "last") if left else ("", ""), ("first layer", "last") if right else ("", ""))
            _pair(page, title, shown, left, right, log_axis([*left, *right]), feet)


def _curves(page: Page, evidence: Evidence, shown: Contrast) -> None:
    left, right = curve_of(shown.before), curve_of(shown.after)
    if not left and not right:
        return
    losses = [loss for _, loss in (*left, *right)]
    span = finite_range(losses)
    log = span is not None and span[0] > 0 and span[1] / span[0] > LOG_FROM
    axis = log_axis(losses) if log else linear_axis(losses)
    last = max(curve[-1][0] for curve in (left, right) if curve)
    foot = ("step 0", str(last))
    rates = [rate(t.lr) for t in (shown.before, shown.after) if t is not None]
    title = f"Held-out loss while training, at rate {' and '.join(rates)}"
    points = min(CURVE_POINTS, last + 1)
    before, after = (on_steps(t, last, points) for t in (shown.before, shown.after))
    _pair(page, title, shown, before, after, axis, (foot, foot))


def _cost_and_scope(page: Page, evidence: Evidence) -> None:
    page.heading("What it cost")
    page.text(sentences.cost(evidence))
    remarks = sentences.remarks(evidence)
    if remarks:
        page.heading("Remarks")
        page.bullets(remarks)
    page.heading("Where this comes from")
    page.text(
        f"{evidence.model_name}, {size(evidence.parameter_count)} trainable parameters; loss {evidence.loss_name}; "
        f"optimizer {evidence.optimizer_name}.",
        quiet=True,
    )
    page.text(sentences.provenance(evidence), quiet=True)
