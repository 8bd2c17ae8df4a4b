"""INI60x: what is wrong with the data, before any weight is."""

from __future__ import annotations

from collections.abc import Iterator

from initadvisor.checks.context import CheckContext
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit


def _infinite(context: CheckContext) -> Iterator[Hit]:
    for data in context.figures.data:
        if data.infinite:
            values = "1 infinite value" if data.infinite == 1 else f"{data.infinite} infinite values"
            yield Hit((), f"{data.what} hold {values}")


def _unscaled(context: CheckContext) -> Iterator[Hit]:
    for data in context.figures.data:
        if data.remark:
            yield Hit((), data.remark)


CHECKS = (
    Check(
        "INI601",
        "infinite-data",
        Severity.ERROR,
        "inputs or targets that hold infinite values",
        "Clean the data, or mask what is missing.",
        _infinite,
        cause=True,
    ),
    Check(
        "INI602",
        "inputs-not-standardised",
        Severity.WARNING,
        "inputs far from the unit scale that initialisers assume, or features of very different scales",
        "Subtract the mean and divide by the standard deviation, feature by feature.",
        _unscaled,
        ("lecun1998",),
        cause=True,
    ),
)
