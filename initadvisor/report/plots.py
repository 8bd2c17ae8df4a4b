"""The figures as matplotlib axes: loss curves, signal flow, ranking and weights, for `advice.plot()` and the HTML page.

Only ``Figure`` objects are made: no pyplot, no global figure, no backend chosen, so that nothing of the user's own
plotting is touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from initadvisor.plaintext import plain
from initadvisor.report.contrast import contrast, curve_of, finite_range, flow_of, trainings, was_tried
from initadvisor.report.evidence import Evidence, WeightSample
from initadvisor.report.numbers import number
from initadvisor.report.termplot import log_axis
from initadvisor.types import CURRENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FROM = 20.0
"""Losses that span more than this factor are drawn logarithmically."""

SHOWN_CANDIDATES = 16
"""Candidates in the ranking figure, best first; the table beside it has all."""

SHOWN_MARKERS = 24
"""Markers on a line through many layers."""

NOTEBOOK_DPI = 72
"""Of the picture in a notebook: fits a page's column and stays small in the file."""

MARGIN = 0.05
"""Share of a logarithmic axis left empty above and below, so that no marker is cut at the edge."""

ZERO_BELOW = 10.0
"""An exact zero is drawn this factor below the smallest value above it, since a logarithmic axis has no zero."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure, one per meaning. Before and after differ in line style and marker too.

    Attributes:
        ink: text and axes.
        faint: grid and what is beside the point.
        before: the weights as they came.
        after: what stands against them.
        surface: behind the figure; ``"none"`` is transparent.
    """

    ink: str = "#1b1f24"
    faint: str = "#8a9099"
    before: str = "#b3541e"
    after: str = "#1f5fbf"
    surface: str = "none"


LEGEND_ROW = 13.0
"""Points a row of a legend takes, which stands between axes and title."""

LEGEND_CHARACTERS = 48
"""Of all labels together, up to which they fit into one row."""

LIGHT = Theme(surface="#ffffff")
"""For paper and notebooks."""


def dress(ax: Axes, theme: Theme) -> None:
    """Colours and a quiet frame."""
    ax.set_facecolor("none")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    ax.tick_params(which="both", colors=theme.ink, labelsize=8, length=3, width=0.6)
    ax.xaxis.label.set_color(theme.ink)
    ax.yaxis.label.set_color(theme.ink)
    ax.title.set_color(theme.ink)
    ax.grid(visible=True, color=theme.faint, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)


def literal(text: str) -> str:
    r"""A name as matplotlib shows it letter by letter: between dollars it would read mathematics.

    Example:
        >>> print(literal("a$b$c"))
        a\$b\$c
    """
    return " ".join(plain(text).split()).replace("$", r"\$")


def _legend(ax: Axes, theme: Theme) -> None:
    if not ax.has_data():
        ax.annotate("not measured", (0.5, 0.5), xycoords="axes fraction", ha="center", color=theme.ink, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    if ax.get_legend_handles_labels()[0]:
        # Above the axes: within, it lies over the lines of a signal that goes up and down.
        columns = math.ceil(len(ax.get_legend_handles_labels()[1]) / _legend_rows(ax))
        ax.legend(
            fontsize=8, frameon=False, labelcolor=theme.ink, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns,
            borderaxespad=0.2, borderpad=0.2, handlelength=1.8, columnspacing=1.2,
        )  # fmt: skip


def _legend_rows(ax: Axes) -> int:
    """Rows the legend takes: one, where its labels fit beside each other."""
    labels = ax.get_legend_handles_labels()[1]
    return 1 if sum(map(len, labels)) <= LEGEND_CHARACTERS else len(labels)


def _title(ax: Axes, text: str, theme: Theme, size: int = 10) -> None:
    ax.set_title(text, fontsize=size, color=theme.ink, loc="left", pad=3 + LEGEND_ROW * _legend_rows(ax))


def _pairs(evidence: Evidence, theme: Theme) -> list[tuple[str, str, str, str, str]]:
    """Scheme, label, colour, line style and marker of what stands before and after."""
    shown = contrast(evidence)
    pairs = [(CURRENT, shown.before_label, theme.before, "--", "o")]
    if shown.other != CURRENT:
        pairs.append((shown.other, shown.after_label, theme.after, "-", "s"))
    return pairs


def plot_curves(ax: Axes, evidence: Evidence, theme: Theme = LIGHT) -> None:
    """Held-out loss by step: the shown training strong, other draws of the same scheme and rate faint."""
    shown = contrast(evidence)
    losses: list[float] = []
    for scheme, label, color, style, marker in _pairs(evidence, theme):
        chosen = shown.before if scheme == CURRENT else shown.after
        if chosen is None:
            continue
        siblings = [
            t
            for t in trainings(evidence, scheme, phase=chosen.phase)
            if t is not chosen and math.isclose(t.lr, chosen.lr)
        ]
        for sibling in siblings:
            steps, values = _xy(curve_of(sibling))
            ax.plot(steps, values, color=color, alpha=0.3, linewidth=0.8, linestyle=style)
        steps, values = _xy(curve_of(chosen))
        losses += [v for v in values if math.isfinite(v)]
        every = max(1, len(steps) // 8)
        ax.plot(
            steps, values, color=color, linestyle=style, marker=marker, markevery=every, markersize=3.5, linewidth=1.6,
            label=f"{literal(label)}, rate {chosen.lr:.3g}",
        )  # fmt: skip
        if steps and not math.isfinite(values[-1]):
            ends = [s for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
            if ends:
                at = values[steps.index(ends[-1])]
                ax.annotate(
                    "diverges", (ends[-1], at), color=color, fontsize=8, xytext=(4, 4), textcoords="offset points"
                )
    span = finite_range(losses)
    if span and span[0] > 0 and span[1] / span[0] > LOG_FROM:
        ax.set_yscale("log")
    ax.set_xlabel("optimizer steps", fontsize=9)
    ax.set_ylabel("held-out loss", fontsize=9)
    dress(ax, theme)
    _legend(ax, theme)


def _xy(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [loss for _, loss in curve]


def plot_flow(ax: Axes, evidence: Evidence, field: str, name: str, theme: Theme = LIGHT) -> None:
    """One figure of signal or gradient flow through depth, before and after, on a logarithmic axis.

    Args:
        ax: where to draw.
        evidence: what was measured.
        field: of :class:`~initadvisor.trials.result.SignalFlow`: ``"forward_rms"`` or ``"backward_norm"``.
        name: label of the vertical axis.
        theme: colours.
    """
    shown = contrast(evidence)
    every: list[float] = []
    for scheme, label, color, style, marker in _pairs(evidence, theme):
        flow = flow_of(evidence, shown.before if scheme == CURRENT else shown.after)
        if flow is None or not flow.course(field):
            continue
        places, values = zip(*flow.course(field), strict=True)
        floor = min((v for v in values if math.isfinite(v) and v > 0), default=1.0) / ZERO_BELOW
        finite = [(p, max(v, floor)) for p, v in zip(places, values, strict=True) if math.isfinite(v)]
        ax.plot(
            [p for p, _ in finite], [v for _, v in finite], color=color, linestyle=style, marker=marker,
            markevery=max(1, len(finite) // SHOWN_MARKERS), markersize=3.5, linewidth=1.6,
            label=literal(label),
        )  # fmt: skip
        broken = [p for p, v in zip(places, values, strict=True) if not math.isfinite(v)]
        if broken:
            top = max((v for _, v in finite), default=1.0)
            ax.plot(
                broken,
                [top] * len(broken),
                color=color,
                linestyle="none",
                marker="x",
                label=f"{literal(label)}: not finite",
            )
        every += [v for _, v in finite]
    if every:
        axis = log_axis(every)  # at least a decade, so that a steady signal looks steady
        ax.set_yscale("log")
        room = axis.high**MARGIN / axis.low**MARGIN
        ax.set_ylim(axis.low / room, axis.high * room)
    ax.set_xlabel("layer, in order of execution", fontsize=9)
    ax.set_ylabel(name, fontsize=9)
    dress(ax, theme)
    _legend(ax, theme)


def plot_ranking(ax: Axes, evidence: Evidence, theme: Theme = LIGHT) -> None:
    """Candidates by held-out loss with intervals, best at the top; those without a finite score are marked so."""
    entries = [entry for entry in evidence.race.ranking if was_tried(entry)][:SHOWN_CANDIDATES]
    names = [literal(entry.scheme) for entry in entries]
    finite = [e for e in entries if math.isfinite(e.score)]
    edge = max((e.high if math.isfinite(e.high) else e.score for e in finite), default=1.0)
    for place, entry in enumerate(entries):
        chosen = entry.scheme == evidence.race.decision.scheme
        color = theme.before if entry.scheme == CURRENT else theme.after if chosen else theme.ink
        marker = "o" if entry.scheme == CURRENT else "s" if chosen else "D"
        if not math.isfinite(entry.score):
            ax.plot([edge], [place], marker="x", color=color, markersize=6, linestyle="none")
            ax.annotate(
                f"{entry.status.name.lower()} ", (edge, place), color=theme.ink, fontsize=8, ha="right", va="center",
                xytext=(-6, 0), textcoords="offset points",
            )  # fmt: skip
            continue
        low = entry.score - entry.low if math.isfinite(entry.low) else 0.0
        high = entry.high - entry.score if math.isfinite(entry.high) else 0.0
        ax.errorbar(
            [entry.score], [place], xerr=[[max(0.0, low)], [max(0.0, high)]], color=color, marker=marker,
            markersize=5, capsize=3, linewidth=1.4,
        )  # fmt: skip
        ax.annotate(
            number(entry.score), (entry.score, place), color=theme.ink, fontsize=7, ha="center", va="bottom",
            xytext=(0, 4), textcoords="offset points",
        )  # fmt: skip
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.7)
    ax.set_xlabel("held-out loss (lower is better)", fontsize=9)
    dress(ax, theme)
    _legend(ax, theme)


def plot_weights(ax: Axes, sample: WeightSample, theme: Theme = LIGHT) -> None:
    """Histogram of one tensor before and as filled, with the spread its initializer declares."""
    shown = [(sample.before, "as it came", theme.before, "--", 0.15)]
    if sample.counts != sample.before:
        shown.append((sample.counts, sample.initializer, theme.after, "-", 0.3))
    for counts, label, color, style, alpha in shown:
        if counts:
            ax.stairs(counts, sample.edges, color=color, fill=True, alpha=alpha)
            ax.stairs(counts, sample.edges, color=color, linestyle=style, linewidth=1.2, label=literal(label))
    if sample.declared_std:
        for side in (-1, 1):
            ax.axvline(
                side * sample.declared_std, color=theme.ink, linestyle=":", linewidth=1,
                label="declared ±σ" if side > 0 else None,
            )  # fmt: skip
    _title(ax, literal(sample.path), theme, 8)
    ax.set_yticks([])
    dress(ax, theme)
    _legend(ax, theme)


def figure(width: float, height: float, draw: Callable[[Axes], None], theme: Theme = LIGHT) -> Figure:
    """One plot on a figure of its own, sizes in inches."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", facecolor=theme.surface)
    draw(made.add_subplot())
    return made


def plot_evidence(evidence: Evidence, theme: Theme = LIGHT) -> Figure:
    """Everything on one figure: curves, signal and gradient flow, ranking and weight histograms.

    Returns:
        A matplotlib ``Figure``; its axes are in ``figure.axes``, ``figure.savefig("advice.png")`` writes it, and a
        notebook shows it.
    """
    from matplotlib.figure import Figure

    rows = -(-len(evidence.weights) // 2)
    tall = max(3.0, 0.34 * min(len(evidence.race.ranking), SHOWN_CANDIDATES) + 1.0)
    made = Figure(figsize=(10, 3.2 + tall + 1.9 * rows), layout="constrained", facecolor=theme.surface)
    grid = made.add_gridspec(2 + rows, 2, height_ratios=[3.2, tall, *[1.9] * rows])
    first = made.add_subplot(grid[0, 0])
    plot_flow(first, evidence, "forward_rms", "RMS of layer output", theme)
    _title(first, "signal through depth", theme)
    second = made.add_subplot(grid[0, 1])
    plot_flow(second, evidence, "backward_norm", "RMS of gradient at output", theme)
    _title(second, "gradient through depth", theme)
    third = made.add_subplot(grid[1, 0])
    plot_curves(third, evidence, theme)
    _title(third, "loss while training", theme)
    fourth = made.add_subplot(grid[1, 1])
    plot_ranking(fourth, evidence, theme)
    _title(fourth, "candidates", theme)
    for index, sample in enumerate(evidence.weights):
        plot_weights(made.add_subplot(grid[2 + index // 2, index % 2]), sample, theme)
    # A figure made without pyplot has no picture for a notebook; pyplot would choose a backend for the whole process.
    made._repr_png_ = partial(_png, made)  # type: ignore[attr-defined]
    return made


def _png(shown: Figure) -> bytes:
    """The picture a notebook shows."""
    from io import BytesIO

    file = BytesIO()
    shown.savefig(file, format="png", dpi=NOTEBOOK_DPI)
    return file.getvalue()
