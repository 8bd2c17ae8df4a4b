"""What is known about an initializer or a rule: formula, when it is right, its picture and its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from initadvisor.errors import RegistryError, nearest
from initadvisor.initializers.registry import Card, cards, get
from initadvisor.references import bibtex, cite
from initadvisor.report.codec import encode
from initadvisor.report.jsonout import envelope
from initadvisor.report.numbers import number
from initadvisor.report.page import Page
from initadvisor.report.termplot import LABEL_WIDTH, bars, fit, linear_axis
from initadvisor.schemes.rules.registry import rules
from initadvisor.schemes.rules.rule import Rule
from initadvisor.types import Fans

EXPLAIN_FORMAT = "initadvisor.explain"
LIST_FORMAT = "initadvisor.list"

SAMPLE_WIDTH = 64
"""Units of the layer that is filled for the picture: its 4,096 weights show any shape, and every structure fits."""

PICTURE_HEIGHT = 6
PICTURE_BINS = 41
"""Odd, so that a bin is centred on zero."""

INITIALIZERS, RULES = "initializers", "rules"


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


def find(name: str) -> Card | Rule:
    """The initializer or rule of that name or alias.

    Raises:
        RegistryError: there is none; the nearest is named.
    """
    try:
        return get(name)
    except RegistryError:
        known = {rule.name: rule for rule in rules()}
        if name in known:
            return known[name]
        names = [n for card in cards() for n in (card.name, *card.aliases)]
        hint = nearest(name, [*names, *known])
        raise RegistryError(f'no initializer or rule is called "{name}"; {hint}') from None


def picture(card: Card) -> Picture:
    """Fill a square layer with an initializer, at gain 1 and its default arguments, and count."""
    extra = max(0, card.min_dims - 2)
    shape = (SAMPLE_WIDTH, SAMPLE_WIDTH, *[3] * extra)
    fan = float(SAMPLE_WIDTH * 3**extra)
    arguments = {name: h.default for name, h in card.args.items()}
    generator = torch.Generator().manual_seed(0)
    filled = card.fn(shape, Fans(fan, fan), gain=1.0, generator=generator, dtype=torch.float32, **arguments)
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


def render_explanation(
    subject: Card | Rule, *, width: int | None = None, color: bool | None = None, unicode: bool | None = None
) -> str:
    """Everything about one initializer or rule, for the terminal."""
    page = Page(width=width, color=color, unicode=unicode)
    kind = "initializer" if isinstance(subject, Card) else "rule"
    aliases = f", also {', '.join(subject.aliases)}" if isinstance(subject, Card) and subject.aliases else ""
    page.text(f"{subject.name} ({kind}{aliases})", strong=True)
    page.text(subject.summary)
    if isinstance(subject, Card):
        _tell_card(page, subject)
    if subject.references:
        page.heading("Source")
        for key in subject.references:
            reference = cite(key)
            page.text(f"{reference.short}: {reference.title}. {reference.venue}. {reference.url}".rstrip())
        page.gap()
        page.text(bibtex(subject.references), quiet=True)
    return page.done()


def _tell_card(page: Page, card: Card) -> None:
    page.heading("Formula")
    page.text(card.formula)
    page.heading("When")
    page.bullets([f"right: {card.right_when}", f"wrong: {card.wrong_when}"])
    if card.args:
        page.heading("Arguments")
        page.bullets([argument_in_words(name, card) for name in card.args])
    shown = picture(card)
    page.heading(f"A {SAMPLE_WIDTH}×{SAMPLE_WIDTH} layer at gain 1: σ = {number(shown.std)}")
    if shown.distinct == 1:
        page.text("Every element has the same value.")
    else:
        page.lines(picture_lines(shown, page.width))
    if card.deviation:
        page.heading("Where we deviate from the source")
        page.text(card.deviation)


def argument_in_words(name: str, card: Card) -> str:
    """An argument, its default, what it may be and what it means."""
    argument = card.args[name]
    allowed = ""
    if argument.choices:
        allowed = f", one of {', '.join(argument.choices)}"
    elif argument.low is not None or argument.high is not None:
        low = number(argument.low) if argument.low is not None else "−∞"
        high = number(argument.high) if argument.high is not None else "∞"
        allowed = f", from {low} to {high}"
    default = argument.default if isinstance(argument.default, str) else f"{argument.default:g}"
    return f"{name} = {default}{allowed}" + (f": {argument.meaning}" if argument.meaning else "")


def explain_to_json(subject: Card | Rule) -> dict[str, Any]:
    """The same as plain data."""
    content: dict[str, Any] = {
        "kind": "initializer" if isinstance(subject, Card) else "rule",
        "name": subject.name,
        "references": list(subject.references),
        "bibtex": bibtex(subject.references),
    }
    if isinstance(subject, Card):
        shown = picture(subject)
        content |= {
            "aliases": list(subject.aliases),
            "formula": subject.formula,
            "right_when": subject.right_when,
            "wrong_when": subject.wrong_when,
            "deviation": subject.deviation,
            "arguments": {name: encode(h) for name, h in subject.args.items()},
            "picture": {"edges": list(shown.edges), "counts": list(shown.counts), "std": encode(shown.std)},
        }
    return envelope(EXPLAIN_FORMAT, subject.summary, content)


def catalogue(kinds: Sequence[str] = (INITIALIZERS, RULES)) -> dict[str, dict[str, str]]:
    """Names and summaries, by kind."""
    known: dict[str, dict[str, str]] = {
        INITIALIZERS: {card.name: card.summary for card in cards()},
        RULES: {rule.name: rule.summary for rule in rules()},
    }
    return {kind: known[kind] for kind in kinds}


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
