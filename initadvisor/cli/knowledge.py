"""`explain` and `list`: what this program knows."""

from __future__ import annotations

from initadvisor.cli.outcome import tell, tell_json
from initadvisor.errors import InputError, nearest
from initadvisor.report.explaining import (
    catalogue,
    catalogue_to_json,
    explain_to_json,
    find,
    render_catalogue,
    render_explanation,
)


def run_explain(name: str, *, as_json: bool, quiet: bool, no_color: bool) -> None:
    """Tell all about one initializer or rule."""
    subject = find(name)
    if as_json:
        tell_json(explain_to_json(subject))
    elif quiet:
        tell(subject.summary)
    else:
        tell(render_explanation(subject, color=False if no_color else None))


def run_list(kind: str | None, *, as_json: bool, quiet: bool, no_color: bool) -> None:
    """Tell the names of everything, or of one kind.

    Raises:
        InputError: no such kind.
    """
    found = catalogue()
    if kind is not None:
        if kind not in found:
            raise InputError(f'"{kind}" cannot be listed; {nearest(kind, found)}')
        found = {kind: found[kind]}
    if as_json:
        tell_json(catalogue_to_json(found))
    elif quiet:
        tell("\n".join(name for entries in found.values() for name in entries))
    else:
        tell(render_catalogue(found, color=False if no_color else None))
