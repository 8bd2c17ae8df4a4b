"""A finding: one thing that is wrong with the weights as they are now, with the figure that proves it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"  # training cannot work as meant: no gradient, no symmetry breaking, numbers that are not numbers
    WARNING = "warning"  # training works, but worse than it would with the remedy
    INFO = "info"  # worth knowing; often on purpose

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return (Severity.ERROR, Severity.WARNING, Severity.INFO).index(self)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a finding can be mended.

    Attributes:
        file: path of the source file, relative to the working directory where it lies below it.
        line: 1-based.
        symbol: class or function there (``"Block"``).
    """

    file: str
    line: int
    symbol: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" ({self.symbol})" if self.symbol else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the audit.

    Attributes:
        code: stable code of the check (``"INI101"``).
        severity: how bad it is.
        path: first parameter or buffer concerned; ``""`` where it concerns the whole model.
        paths: all of them, in model order.
        message: what was seen, with the figure that proves it.
        remedy: what to do, in one sentence.
        where: source of the class that owns it, None where no source but torch's own is known.
        references: keys of :mod:`initadvisor.references`.
        name: slug of the check (``"non-finite-weights"``).
        patterns: the paths as few patterns that recipes take, each with the number of paths it fits.
    """

    code: str
    severity: Severity
    path: str
    paths: tuple[str, ...]
    message: str
    remedy: str
    where: Location | None = None
    references: tuple[str, ...] = ()
    name: str = ""
    patterns: tuple[tuple[str, int], ...] = ()
