"""What a project wants to hear of: codes selected and ignored, and how bad a finding must be to fail."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initadvisor.checks.finding import Finding, Severity
from initadvisor.checks.registry import checks
from initadvisor.errors import InputError, nearest

PREFIX = "INI"
NEVER = "never"
"""Value of ``fail_on`` that lets every finding pass."""

SECTION = "tool.initadvisor"


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Filters of the audit.

    Attributes:
        select: code prefixes (``"INI2"``) or names to keep; empty keeps all.
        ignore: code prefixes or names to leave out; wins over ``select``.
        fail_on: least severity that fails (``"error"``, ``"warning"``, ``"info"``), or ``"never"``.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: str = Severity.ERROR.value


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


def load_settings(start_dir: str | Path = ".") -> CheckSettings:
    """``select``, ``ignore`` and ``fail-on`` of the nearest pyproject.toml at or above a folder.

    They stand in ``[tool.initadvisor.check]``, or in ``[tool.initadvisor]``; the former wins. Other keys are left to
    whom they concern.

    Args:
        start_dir: where to begin looking.

    Raises:
        InputError: not TOML, a value of the wrong type, or a pattern that matches no check.
    """
    start = Path(start_dir).resolve()
    file = next((f for d in (start, *start.parents) if (f := d / "pyproject.toml").is_file()), None)
    if file is None:
        return CheckSettings()
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file}: {error}") from error
    tool = document.get("tool", {})
    section = tool.get("initadvisor", {}) if isinstance(tool, dict) else {}
    if not isinstance(section, dict):
        raise InputError(f"{file}: [{SECTION}] is not a table")
    own = section.get("check", {})
    if not isinstance(own, dict):
        raise InputError(f"{file}: [{SECTION}.check] is not a table")
    merged = {**{k: v for k, v in section.items() if not isinstance(v, dict)}, **own}
    try:
        return CheckSettings(
            select=_list(merged, "select"),
            ignore=_list(merged, "ignore"),
            fail_on=read_fail_on(str(merged.get("fail-on", merged.get("fail_on", Severity.ERROR.value)))),
        )
    except InputError as error:
        raise InputError(f"{file}: [{SECTION}] {error}") from error


def _list(section: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = section.get(key, ())
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise InputError(f"{key} is not a list of codes")
    return _patterns(key, value)
