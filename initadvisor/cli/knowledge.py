"""`explain`, `list` and `schema`: what this program knows, and the shape of what it writes."""

from __future__ import annotations

from collections.abc import Iterator

from initadvisor.checks.examples import EXAMPLES
from initadvisor.checks.registry import checks
from initadvisor.cli.outcome import tell, tell_json
from initadvisor.errors import InputError, nearest
from initadvisor.report.explaining import by_kind, catalogue_to_json, entries_to_json, render_catalogue, render_entry
from initadvisor.report.lexicon import Entry, lexicon, look_up


def everything() -> Iterator[Entry]:
    """The lexicon, and the audit's checks, each also by its slug."""
    yield from lexicon()
    for check in checks():
        graver = tuple(f"{severity.value} {when}" for severity, when in check.grades.items())
        wrong, right = EXAMPLES[check.code]
        facts = (
            ("Severity", (check.severity.value, *graver)),
            ("Wrong", tuple(wrong.splitlines())),
            ("Right", tuple(right.splitlines())),
            ("Remedy", (check.remedy,)),
        )
        yield Entry("checks", check.code, check.summary, (check.name,), facts, check.references)


def run_explain(name: str, *, as_json: bool, quiet: bool, no_color: bool) -> None:
    """Tell all about one name."""
    found = look_up(name, everything())
    if as_json:
        tell_json(entries_to_json(found))
    elif quiet:
        tell(found[0].summary)
    else:
        tell("\n".join(render_entry(entry, color=False if no_color else None) for entry in found))


def run_list(kind: str | None, *, as_json: bool, quiet: bool, no_color: bool) -> None:
    """Tell the names of everything, or of one kind.

    Raises:
        InputError: no such kind.
    """
    found = by_kind(everything())
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


def run_schema(name: str) -> None:
    """Tell the JSON schema of one kind of document.

    Raises:
        InputError: no such document.
    """
    from initadvisor.cli.schemas import SCHEMAS

    if name not in SCHEMAS:
        raise InputError(f'no document is called "{name}"; {nearest(name, SCHEMAS)}')
    tell_json(SCHEMAS[name]())
