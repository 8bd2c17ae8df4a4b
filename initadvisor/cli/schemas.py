"""JSON schemas of everything ``--json`` writes, and of recipes, for editors and for programs that read our output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from initadvisor.checks.finding import Severity
from initadvisor.checks.formats import JSON_VERSION
from initadvisor.cli.recipes import DIFF_FORMAT
from initadvisor.recipes.recipe import recipe_schema
from initadvisor.report.codec import schema
from initadvisor.report.explaining import EXPLAIN_FORMAT, LIST_FORMAT, Picture
from initadvisor.report.filled import APPLY_FORMAT
from initadvisor.report.jsonout import DIALECT, advice_schema, enveloped, spec_schema
from initadvisor.schemes.values import ApplyResult

TEXT: Mapping[str, Any] = {"type": "string"}
TEXTS: Mapping[str, Any] = {"type": "array", "items": TEXT}


def _object(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties), **more}


def _map_of(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value}


def apply_schema() -> dict[str, Any]:
    """Of ``apply --json``."""
    definitions: dict[str, Any] = {}
    return enveloped(APPLY_FORMAT, {"result": schema(ApplyResult, definitions)}, definitions)


def diff_schema() -> dict[str, Any]:
    """Of ``diff --json``: rules by their selector."""
    rule = {"type": "object"}
    change = _object({"from": rule, "to": rule})
    content = {"removed": _map_of(rule), "added": _map_of(rule), "changed": _map_of(change)}
    return enveloped(DIFF_FORMAT, content, {})


def explain_schema() -> dict[str, Any]:
    """Of ``explain --json``."""
    definitions: dict[str, Any] = {}
    entry = _object(
        {
            "kind": TEXT,
            "name": TEXT,
            "summary": TEXT,
            "aliases": TEXTS,
            "facts": _map_of(TEXTS),
            "references": TEXTS,
            "bibtex": TEXT,
            "picture": {"anyOf": [schema(Picture, definitions), {"type": "null"}]},
        }
    )
    return enveloped(EXPLAIN_FORMAT, {"entries": {"type": "array", "items": entry}}, definitions)


def list_schema() -> dict[str, Any]:
    """Of ``list --json``: kind, then name, then summary."""
    return enveloped(LIST_FORMAT, {"names": _map_of(_map_of(TEXT))}, {})


def check_schema() -> dict[str, Any]:
    """Of ``check --json``."""
    place = _object({"file": TEXT, "line": {"type": "integer"}, "symbol": TEXT})
    severity = {"enum": [s.value for s in Severity]}
    finding = _object(
        {
            "code": TEXT,
            "name": TEXT,
            "severity": severity,
            "path": TEXT,
            "paths": TEXTS,
            "patterns": TEXTS,
            "message": TEXT,
            "remedy": TEXT,
            "where": {"anyOf": [place, {"type": "null"}]},
            "references": TEXTS,
        }
    )
    content = {
        "version": {"const": JSON_VERSION},
        "counts": _object({s.value: {"type": "integer"} for s in Severity}),
        "findings": {"type": "array", "items": finding},
    }
    return {"$schema": DIALECT, "title": "initadvisor.check", **_object(content)}


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "advise": advice_schema,
    "analyze": spec_schema,
    "apply": apply_schema,
    "check": check_schema,
    "diff": diff_schema,
    "explain": explain_schema,
    "list": list_schema,
    "recipe": recipe_schema,
    "report": advice_schema,
}
"""By the command that writes the document; a recipe is the YAML file."""
