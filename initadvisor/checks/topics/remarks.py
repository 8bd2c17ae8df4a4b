"""INI90x: what the audit could not look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from initadvisor.checks.context import CheckContext
from initadvisor.checks.finding import Finding, Severity
from initadvisor.checks.plugin import Check, Hit


def _unmeasured(context: CheckContext) -> Iterator[Hit]:
    for note in context.figures.notes:
        yield Hit((), note)


def _unread(context: CheckContext) -> Iterator[Hit]:
    gaps = context.spec.coverage.unknown
    if gaps:
        ops = ", ".join(sorted({gap.op or "no op" for gap in gaps}))
        yield Hit(tuple(gap.path for gap in gaps), f"{len(gaps)} parameters were not understood (used by {ops})")


FAILED = "INI903"


def failed(message: str, context: CheckContext) -> list[Finding]:
    """The remark that a check itself failed."""
    check = next(c for c in CHECKS if c.code == FAILED)
    return replace(check, run=lambda _: [Hit((), message)]).findings(context)


def _never(context: CheckContext) -> tuple[Hit, ...]:
    return ()  # the runner tells it


CHECKS = (
    Check(
        "INI901",
        "not-measured",
        Severity.INFO,
        "a part of the audit that could not run",
        "Give loss=(output, target) -> scalar, or (model, batch) -> scalar.",
        _unmeasured,
    ),
    Check(
        "INI902",
        "not-understood",
        Severity.INFO,
        "parameters whose role the analysis could not tell",
        "Check these by hand, and report the model so that its ops can be added.",
        _unread,
    ),
    Check(
        FAILED,
        "check-failed",
        Severity.INFO,
        "a check that failed itself",
        "Report the model; INITADVISOR_STRICT=1 shows where it failed.",
        _never,
    ),
)
