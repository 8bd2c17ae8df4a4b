"""The reading of a model as a table: one line per kind of parameter, repeated blocks folded."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import TYPE_CHECKING

from initadvisor.graph.spec import QUIET_ROLES, Confidence, ModelSpec, ParamSpec
from initadvisor.report.numbers import dims, plural, size
from initadvisor.report.sentences import assumptions, coverage_gaps
from initadvisor.schemes.folding import Folded, fold, span
from initadvisor.types import NO_ACTIVATION, Role

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    # heading, least width of the page at which it is shown
    ("depth", 0),
    ("parameter", 0),
    ("role", 0),
    ("fans", 0),
    ("next", 0),
    ("shape", 80),
    ("branch", 96),
    ("heads", 108),
    ("norm", 120),
)
"""Columns of the table, most needed first; a narrow page shows fewer."""


COLUMN_GAP = 3
"""Columns between two columns of the table."""

LEAST_PATH = 20
"""Columns a path is given in any case."""


def break_path(path: str, width: int) -> str:
    """A path on as many lines as it needs, broken after dots, the later ones indented.

    Example:
        >>> print(break_path("encoder.layers.0.weight", 16))
        encoder.layers.
          0.weight
    """
    lines = [""]
    for piece in re.findall(r"[^. ]*[. ]?", path):
        if lines[-1].strip() and len(lines[-1].rstrip()) + len(piece.rstrip()) > width:
            lines.append("  ")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _alike(p: ParamSpec) -> Hashable:
    # Depth and branch differ from block to block and are told as a range; everything else must agree.
    return (
        p.shape, p.role, p.fan_in, p.fan_out, p.activation, p.norm_before, p.norm_after, p.branch is None,
        p.branch_last, p.protected, p.confidence, p.tied_to, len(p.slices), p.note, p.heads,
    )  # fmt: skip


def folded_params(spec: ModelSpec, *, full: bool = False) -> list[Folded[ParamSpec]]:
    """Parameters by depth with repeated blocks folded.

    Args:
        spec: the reading.
        full: biases and norm parameters too.
    """
    shown = [p for p in spec.params if full or p.role not in QUIET_ROLES or p.protected or p.tied_to]
    return sorted(fold(shown, lambda p: p.path, _alike), key=lambda f: min(p.depth for p in f.items))


def remarks(p: ParamSpec) -> tuple[str, ...]:
    """What is special about a parameter, a phrase each."""
    found = []
    if p.protected:
        found.append(f"protected ({p.protected}): never filled")
    if p.tied_to:
        found.append(f"tied to {p.tied_to}")
    if p.slices:
        names = [s.name for s in p.slices]
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        found.append(f"{len(names)} parts: {shown}" + (f"; {plural(p.heads, 'head')}" if p.heads else ""))
    if p.branch_scale:
        found.append(f"branch scaled by {p.branch_scale}")
    if p.uses > 1:
        found.append(f"used {p.uses} times")
    if p.confidence is not Confidence.CERTAIN:
        found.append("role inferred" if p.confidence is Confidence.INFERRED else "role guessed")
    if p.note:
        found.append(p.note)
    return tuple(found)


def fans_of(p: ParamSpec) -> str:
    """Connection counts, ``in → out``; a dash where they mean nothing."""
    return f"{p.fan_in:g} → {p.fan_out:g}" if p.fan_in or p.fan_out else "–"


def branch_of(folded: Folded[ParamSpec]) -> str:
    """Residual branches of folded parameters, and whether these weights end them."""
    indices = [p.branch for p in folded.items if p.branch is not None]
    if not indices:
        return "–"
    return span(indices) + (" last" if folded.items[0].branch_last else "")


def norms_of(p: ParamSpec) -> str:
    """Normalisations around a weight, ``before ▸ after``."""
    if not p.norm_before and not p.norm_after:
        return "–"
    return f"{p.norm_before or '–'} → {p.norm_after or '–'}"


def cells(folded: Folded[ParamSpec]) -> dict[str, str]:
    """All columns of one line of the table, by heading."""
    first = folded.items[0]
    many = len(folded.items)
    return {
        "depth": span(p.depth for p in folded.items),
        "parameter": folded.label + (f" ×{many}" if many > 1 else ""),
        "role": first.role.value,
        "heads": "–" if first.heads is None else str(first.heads),
        "fans": fans_of(first),
        "next": first.activation if first.activation != NO_ACTIVATION else "–",
        "shape": dims(first.shape),
        "branch": branch_of(folded),
        "norm": norms_of(first),
    }


def summary(spec: ModelSpec) -> str:
    """The model in one sentence."""
    elements = sum(p.numel for p in spec.params if p.tied_to is None)
    tensors, layers = plural(len(spec.params), "tensor"), plural(spec.depth, "weight layer")
    text = f"{size(elements)} parameters in {tensors}, {layers} deep"
    if spec.branches:
        text += f", {plural(len(spec.branches), 'residual branch', 'residual branches')}"
        styles = sorted({b.style.value.replace("_", "-") for b in spec.branches if b.style.value != "none"})
        if styles:
            text += f" ({', '.join(styles)})"
    return text + "."


def uncounted(spec: ModelSpec) -> str:
    """What the table does not list, counted."""
    quiet = [p for p in spec.params if p.role in QUIET_ROLES and not p.protected and not p.tied_to]
    names = {Role.BIAS: ("bias", "biases"), Role.NORM_SCALE: ("norm scale", ""), Role.NORM_SHIFT: ("norm shift", "")}
    told = [plural(n, *names[role]) for role in names if (n := sum(1 for p in quiet if p.role is role))]
    return f"Not listed: {', '.join(told)}." if told else ""


def spec_table(spec: ModelSpec, *, width: int, full: bool = False) -> Table:
    """The table itself, as a rich renderable with the columns that ``width`` has room for."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    attends = any(p.heads for p in spec.params)
    headings = [name for name, least in COLUMNS if width >= least and (name != "heads" or attends)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), width=None)
    for name in headings:
        table.add_column(
            name,
            justify="right" if name == "depth" else "left",
            overflow="fold",
            no_wrap=name == "depth",
            style="dim" if name == "depth" else "",
        )
    params = folded_params(spec, full=full)
    rows = [cells(folded) for folded in params]
    others = sum(max([len(n), *(len(r[n]) for r in rows)]) + COLUMN_GAP for n in headings if n != "parameter")
    room = max(LEAST_PATH, width - others - COLUMN_GAP)
    for folded, row in zip(params, rows, strict=True):
        named = Text(break_path(row["parameter"], room))
        for remark in remarks(folded.items[0]):
            named.append(f"\n  {remark}", style="dim")
        table.add_row(*(named if name == "parameter" else Text(row[name]) for name in headings))
    return table


def render_spec(
    spec: ModelSpec,
    *,
    width: int | None = None,
    color: bool | None = None,
    unicode: bool | None = None,
    full: bool = False,
) -> str:
    """The reading of a model for the terminal: what was not understood first, then a line per kind of parameter.

    Args:
        spec: from ``initadvisor.analyze``.
        width: columns; None takes the terminal's.
        color: ANSI colours; None decides by where standard output goes, and ``NO_COLOR``.
        unicode: False replaces everything that is not ASCII; None decides by standard output's encoding.
        full: list biases and norm parameters too.
    """
    from initadvisor.report.page import Page

    page = Page(width=width, color=color, unicode=unicode)
    gaps = coverage_gaps(spec.coverage)
    if gaps:
        page.heading("Not understood", alarm=True)
        page.bullets(gaps)
    else:
        page.text(f"All {plural(spec.coverage.total, 'trainable tensor')} understood.")
    page.text(summary(spec))
    page.bullets(assumptions(spec.coverage))
    page.put(spec_table(spec, width=page.width, full=full))
    if not full:
        page.text(uncounted(spec), quiet=True)
    page.text(f"fingerprint {spec.fingerprint}", quiet=True)
    return page.done()
