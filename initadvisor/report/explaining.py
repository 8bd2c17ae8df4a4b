"""An entry of the lexicon for the terminal and as JSON, with a picture of a filled layer where there is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from initadvisor.errors import InitAdvisorError
from initadvisor.initializers.registry import Card
from initadvisor.references import bibtex, cite
from initadvisor.report.codec import encode
from initadvisor.report.jsonout import envelope
from initadvisor.report.lexicon import Entry
from initadvisor.report.numbers import number
from initadvisor.report.page import Page
from initadvisor.report.termplot import LABEL_WIDTH, bars, fit, linear_axis
from initadvisor.types import Fans

EXPLAIN_FORMAT = "initadvisor.explain"
LIST_FORMAT = "initadvisor.list"

SAMPLE_WIDTH = 64
"""Units of the layer that is filled for the picture: its 4,096 weights show any shape, and every structure fits."""

PICTURE_HEIGHT = 6
PICTURE_BINS = 41
"""Odd, so that a bin is centred on zero."""


@dataclass(frozen=True)
class Picture:
    """How a filled layer looks.

    Attributes:
        edges: of the bins.
        counts: elements in each.
        std: standard deviation of all elements.
        distinct: number of different values.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    std: float
    distinct: int


def picture(card: Card) -> Picture | None:
    """Fill a square layer at gain 1 and default arguments and count; None where it needs arguments of its own."""
    extra = max(0, card.min_dims - 2)
    shape = (SAMPLE_WIDTH, SAMPLE_WIDTH, *[3] * extra)
    fan = float(SAMPLE_WIDTH * 3**extra)
    arguments = {name: h.default for name, h in card.args.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        filled = card.fn(shape, Fans(fan, fan), gain=1.0, generator=generator, dtype=torch.float32, **arguments)
    except InitAdvisorError:
        return None
    values = filled.flatten().double()
    reach = float(values.abs().max()) or 1.0
    counts = torch.histc(values, PICTURE_BINS, -reach, reach)
    edges = tuple(reach * (2 * i / PICTURE_BINS - 1) for i in range(PICTURE_BINS + 1))
    distinct = len(torch.unique(filled))
    return Picture(edges, tuple(int(c) for c in counts), float(values.std()), distinct)


def picture_lines(shown: Picture, width: int) -> list[str]:
    """The histogram in block characters, with the axis below."""
    axis = linear_axis([0.0, *map(float, shown.counts)])
    # Whole columns per bin, so that all bins are equally wide.
    columns = PICTURE_BINS * max(1, (min(width, 2 * PICTURE_BINS + LABEL_WIDTH) - LABEL_WIDTH) // PICTURE_BINS)
    margin = " " * 2
    heights = [None if c == 0 else float(c) for c in shown.counts]
    lines = [margin + row for row in bars(heights, axis, width=columns, height=PICTURE_HEIGHT)]
    low, high = number(shown.edges[0]), number(shown.edges[-1])
    middle = max(1, columns // 2 - len(low))
    rest = max(1, columns - len(low) - middle - 1 - len(high))
    lines.append(margin + "─" * columns)
    lines.append(margin + low + " " * middle + "0" + " " * rest + high)
    return [fit(line, width) for line in lines]


def render_entry(
    entry: Entry, *, width: int | None = None, color: bool | None = None, unicode: bool | None = None
) -> str:
    """Everything about one name, for the terminal."""
    page = Page(width=width, color=color, unicode=unicode)
    aliases = f", also {', '.join(entry.aliases)}" if entry.aliases else ""
    page.text(f"{entry.name} ({entry.kind.removesuffix('s')}{aliases})", strong=True)
    page.text(entry.summary)
    for heading, lines in entry.facts:
        page.heading(heading)
        if len(lines) == 1:
            page.text(lines[0])
        else:
            page.bullets(lines)
    _tell_picture(page, entry)
    if entry.references:
        page.heading("Source")
        for key in entry.references:
            reference = cite(key)
            page.text(f"{reference.short}: {reference.title}. {reference.venue}. {reference.url}".rstrip())
        page.gap()
        page.text(bibtex(entry.references), quiet=True)
    return page.done()


def _tell_picture(page: Page, entry: Entry) -> None:
    shown = picture(entry.card) if entry.card is not None else None
    if shown is None:
        return
    page.heading(f"A {SAMPLE_WIDTH}×{SAMPLE_WIDTH} layer at gain 1: σ = {number(shown.std)}")
    if shown.distinct == 1:
        page.text("Every element has the same value.")
    else:
        page.lines(picture_lines(shown, page.width))


def entries_to_json(entries: Sequence[Entry]) -> dict[str, Any]:
    """All about one name as plain data; several entries where a name is shared."""
    return envelope(EXPLAIN_FORMAT, entries[0].summary, {"entries": [_entry_to_json(e) for e in entries]})


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    shown = picture(entry.card) if entry.card is not None else None
    return {
        "kind": entry.kind.removesuffix("s"),
        "name": entry.name,
        "summary": entry.summary,
        "aliases": list(entry.aliases),
        "facts": {heading: list(lines) for heading, lines in entry.facts},
        "references": list(entry.references),
        "bibtex": bibtex(entry.references),
        "picture": None if shown is None else encode(shown),
    }


def by_kind(entries: Iterable[Entry]) -> dict[str, dict[str, str]]:
    """Names and summaries, by kind."""
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        found.setdefault(entry.kind, {})[entry.name] = entry.summary
    return found


def render_catalogue(
    found: dict[str, dict[str, str]],
    *,
    width: int | None = None,
    color: bool | None = None,
    unicode: bool | None = None,
) -> str:
    """Names and summaries for the terminal."""
    from rich.table import Table
    from rich.text import Text

    page = Page(width=width, color=color, unicode=unicode)
    for kind, entries in found.items():
        page.heading(f"{kind} ({len(entries)})")
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, told in entries.items():
            table.add_row(Text(name), Text(told, style="dim"))
        page.put(table)
    return page.done()


def catalogue_to_json(found: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The same as plain data."""
    total = sum(len(entries) for entries in found.values())
    return envelope(LIST_FORMAT, f"{total} names", {"names": found})
