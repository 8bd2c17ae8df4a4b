"""Findings for people (text), programs (json), and the places that show them beside the code (github, sarif)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from initadvisor.checks.finding import Finding, Severity
from initadvisor.checks.registry import checks
from initadvisor.errors import InputError, nearest
from initadvisor.references import cite
from initadvisor.schemes.folding import fold_paths

JSON_VERSION = 1
"""Of the JSON document's layout; grows when a field changes its meaning or goes."""

SARIF_VERSION = "2.1.0"
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_LABELS_SHOWN = 6
"""Folded paths told per finding; more would hide the sentence that matters."""

_SARIF_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_GITHUB_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_COLOURS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.INFO: "36"}


def render_findings(
    findings: Sequence[Finding], format: str = "text", *, colour: bool = False, width: int = 100, file: str = ""
) -> str:
    """Findings as text in one of :data:`FORMATS`.

    Args:
        findings: as :func:`initadvisor.check` gives them, filtered or not.
        format: ``"text"``, ``"json"``, ``"github"`` or ``"sarif"``.
        colour: of ``"text"``: use ANSI colours.
        width: of ``"text"``: columns to wrap to.
        file: shown by ``"github"`` and ``"sarif"`` for findings whose source is not known (the target's file).

    Raises:
        InputError: unknown format.

    Example:
        >>> print(render_findings([]))
        No findings.
    """
    if format not in FORMATS:
        raise InputError(f'format: "{format}" is unknown; {nearest(format, FORMATS)}')
    return FORMATS[format](findings, {"colour": colour, "width": width, "file": file})


def labels_of(finding: Finding) -> list[str]:
    """Paths of a finding as patterns that recipes take; the first few, and how many more there are."""
    patterns = [f"{pattern} (×{count})" if count > 1 else pattern for pattern, count in finding.patterns]
    labels = patterns or fold_paths(finding.paths)
    more = len(labels) - _LABELS_SHOWN
    return labels if more <= 0 else [*labels[:_LABELS_SHOWN], f"… and {more} more"]


def counted(findings: Sequence[Finding]) -> str:
    """``"1 error, 2 warnings"``."""
    parts = []
    for severity, one, many in (
        (Severity.ERROR, "error", "errors"),
        (Severity.WARNING, "warning", "warnings"),
        (Severity.INFO, "remark", "remarks"),
    ):
        count = sum(f.severity is severity for f in findings)
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    return ", ".join(parts)


def _text(findings: Sequence[Finding], options: Mapping[str, Any]) -> str:
    import textwrap

    if not findings:
        return "No findings."

    def painted(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if options["colour"] else text

    def wrapped(text: str, lead: str) -> str:
        room = max(40, int(options["width"]))
        return textwrap.fill(
            text, room, initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip

    blocks = []
    for finding in findings:
        head = f"{finding.code} {painted(finding.severity.value, _COLOURS[finding.severity])} {finding.name}"
        lines = [head, *(wrapped(label, "  ") for label in labels_of(finding))]
        lines.append(wrapped(finding.message, "  seen:   "))
        lines.append(wrapped(finding.remedy, "  remedy: "))
        if finding.where is not None:
            lines.append(f"  where:  {finding.where}")
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, counted(findings)])


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings as a JSON document: ``version``, ``counts`` by severity and ``findings``."""
    return {
        "version": JSON_VERSION,
        "counts": {s.value: sum(f.severity is s for f in findings) for s in Severity},
        "findings": [
            {
                "code": f.code,
                "name": f.name,
                "severity": f.severity.value,
                "path": f.path,
                "paths": list(f.paths),
                "patterns": [pattern for pattern, _ in f.patterns],
                "message": f.message,
                "remedy": f.remedy,
                "where": None
                if f.where is None
                else {"file": f.where.file, "line": f.where.line, "symbol": f.where.symbol},
                "references": list(f.references),
            }
            for f in findings
        ],
    }


def _json(findings: Sequence[Finding], options: Mapping[str, Any]) -> str:
    return json.dumps(as_json(findings), indent=2, ensure_ascii=False, allow_nan=False)


def _github(findings: Sequence[Finding], options: Mapping[str, Any]) -> str:
    """Workflow commands, which GitHub shows as annotations on the changed lines."""
    lines = []
    for f in findings:
        place = []
        if f.where is not None:
            place = [f"file={_property(f.where.file)}", f"line={f.where.line}"]
        elif options["file"]:
            place = [f"file={_property(options['file'])}"]
        place.append(f"title={_property(f'{f.code} {f.name}')}")
        told = ", ".join(labels_of(f))
        body = f"{told}: {f.message}. {f.remedy}" if told else f"{f.message}. {f.remedy}"
        lines.append(f"::{_GITHUB_LEVEL[f.severity]} {','.join(place)}::{_escaped(body)}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(findings: Sequence[Finding], options: Mapping[str, Any]) -> str:
    """SARIF 2.1.0, which code scanning services and editors read."""
    from initadvisor import __version__

    every = list(checks())
    index = {c.code: i for i, c in enumerate(every)}
    rules = [
        {
            "id": c.code,
            "name": "".join(part.capitalize() for part in c.name.split("-")),
            "shortDescription": {"text": c.summary},
            "fullDescription": {"text": f"{c.summary}. {c.remedy}"},
            "help": {"text": " ".join([c.remedy, *(cite(key).short for key in c.references)])},
            "defaultConfiguration": {"level": _SARIF_LEVEL[c.severity]},
        }
        for c in every
    ]
    driver = {"name": "initadvisor", "version": __version__, "rules": rules}
    document = {
        "$schema": SARIF_SCHEMA,
        "version": SARIF_VERSION,
        "runs": [{"tool": {"driver": driver}, "results": [_result(f, index, str(options["file"])) for f in findings]}],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _result(finding: Finding, index: Mapping[str, int], file: str) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if finding.where is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": finding.where.file.replace("\\", "/")},
            "region": {"startLine": finding.where.line},
        }
    elif file:
        location["physicalLocation"] = {"artifactLocation": {"uri": file.replace("\\", "/")}}
    if finding.paths:
        location["logicalLocations"] = [{"fullyQualifiedName": p, "kind": "member"} for p in finding.paths]
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": _SARIF_LEVEL[finding.severity],
        "message": {"text": f"{finding.message}. {finding.remedy}"},
        "locations": [location] if location else [],
    }
    if finding.code in index:
        result["ruleIndex"] = index[finding.code]
    return result


FORMATS: dict[str, Callable[[Sequence[Finding], Mapping[str, Any]], str]] = {
    "text": _text,
    "json": _json,
    "github": _github,
    "sarif": _sarif,
}
"""Name of each format -> how it is written."""
