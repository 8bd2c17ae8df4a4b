"""What a project wants to hear of: codes selected and ignored, and how bad a finding must be to fail."""

from __future__ import annotations

from collections.abc import Iterable

from initadvisor.checks.finding import Finding, Severity
from initadvisor.checks.registry import checks
from initadvisor.errors import InputError, nearest

NEVER = "never"
"""Value of ``fail_on`` that lets every finding pass."""


def filter_findings(
    findings: Iterable[Finding], *, select: Iterable[str] = (), ignore: Iterable[str] = ()
) -> tuple[Finding, ...]:
    """Findings whose code starts with one of ``select`` (all, where it is empty) and with none of ``ignore``.

    Args:
        findings: as :func:`initadvisor.check` gives them.
        select: code prefixes (``"INI1"``), whole codes, or names (``"cloned-layers"``).
        ignore: likewise.

    Raises:
        InputError: a pattern matches no check; the nearest is named.
    """
    wanted, unwanted = _patterns("select", select), _patterns("ignore", ignore)
    return tuple(f for f in findings if (not wanted or _meets(f, wanted)) and not _meets(f, unwanted))


def _patterns(what: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        given = (given,)
    # "INI2,INI301" on a command line is two.
    patterns = tuple(part.strip() for text in given for part in text.split(",") if part.strip())
    for pattern in patterns:
        if not any(c.code.startswith(pattern.upper()) or c.name == pattern for c in checks()):
            known = [text for c in checks() for text in (c.code, c.name)]
            raise InputError(f'{what}: "{pattern}" matches no check; {nearest(pattern, known)}')
    return patterns


def _meets(finding: Finding, patterns: Iterable[str]) -> bool:
    return any(finding.code.startswith(p.upper()) or finding.name == p for p in patterns)


def read_fail_on(text: str) -> str:
    """The value itself where it is a severity or ``"never"``.

    Raises:
        InputError: anything else.
    """
    known = [*(s.value for s in Severity), NEVER]
    if text not in known:
        raise InputError(f'fail-on: "{text}" is no severity; {nearest(text, known)}')
    return text


def exit_code(findings: Iterable[Finding], fail_on: str = Severity.ERROR.value) -> int:
    """1 where a finding is at least as bad as ``fail_on``, else 0.

    Example:
        >>> exit_code([], "info")
        0
    """
    if read_fail_on(fail_on) == NEVER:
        return 0
    return int(any(f.severity.rank <= Severity(fail_on).rank for f in findings))
