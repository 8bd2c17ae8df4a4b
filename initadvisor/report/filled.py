"""What filling a model did: every tensor with declared and observed spread, repeated blocks folded."""

from __future__ import annotations

from typing import Any

from initadvisor.report.codec import encode
from initadvisor.report.jsonout import envelope
from initadvisor.report.numbers import number, plural
from initadvisor.report.page import Page
from initadvisor.report.sentences import listing
from initadvisor.schemes.folding import Folded, fold
from initadvisor.schemes.values import ApplyResult, FilledTensor

APPLY_FORMAT = "initadvisor.apply"


def applied_in_words(result: ApplyResult) -> str:
    """One sentence."""
    return f"Filled {plural(len(result.filled), 'tensor')} with seed {result.seed}, left {len(result.left)} alone."


def apply_to_json(result: ApplyResult) -> dict[str, Any]:
    """The result as plain data."""
    return envelope(APPLY_FORMAT, applied_in_words(result), {"result": encode(result)})


def _spread(group: Folded[FilledTensor]) -> str:
    """Observed spread of folded tensors, as a range where it varies."""
    spreads = sorted(t.std for t in group.items)
    low, high = number(spreads[0]), number(spreads[-1])
    return low if low == high else f"{low} to {high}"


def render_applied(
    result: ApplyResult,
    *,
    width: int | None = None,
    color: bool | None = None,
    unicode: bool | None = None,
    brief: bool = False,
) -> str:
    """The result for the terminal.

    Args:
        result: of ``apply``.
        width: columns; None takes the terminal's.
        color: ANSI colours; None decides by standard output and ``NO_COLOR``.
        unicode: None decides by standard output's encoding.
        brief: the sentence alone.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    page = Page(width=width, color=color, unicode=unicode)
    page.text(applied_in_words(result), strong=True)
    if brief:
        return page.done()
    groups = fold(result.filled, lambda t: t.path, lambda t: (t.initializer, t.declared_std))
    if groups:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("parameter", overflow="fold", ratio=1)
        table.add_column("initializer", overflow="fold")
        table.add_column("declared σ", justify="right", no_wrap=True)
        table.add_column("observed σ", justify="right", no_wrap=True)
        for group in groups:
            first, many = group.items[0], len(group.items)
            label = group.label + (f" ×{many}" if many > 1 else "")
            table.add_row(Text(label), Text(first.initializer), number(first.declared_std), _spread(group))
        page.put(table)
    reasons: dict[str, list[str]] = {}
    for path, why in result.left.items():
        reasons.setdefault(why, []).append(path)
    page.bullets([f"left alone ({why}): {listing(paths)}" for why, paths in reasons.items()])
    page.bullets(result.notes)
    return page.done()
