"""Stable JSON of an advice and of a model's reading, with a published schema; saved files can be read back.

Every document is an envelope: ``format`` and ``format_version`` say what it is, ``headline`` says it in words. The
version goes up where a field changes its meaning or goes away; new fields may appear without notice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import initadvisor.report.sentences as sentences
from initadvisor.errors import InputError
from initadvisor.graph.spec import ModelSpec
from initadvisor.plaintext import excerpt
from initadvisor.report.codec import NUMBER_SCHEMA, decode, encode, schema
from initadvisor.report.evidence import Evidence
from initadvisor.report.tables import summary

FORMAT_VERSION = 2
"""Of every document. 2: a decision is told by odds and by the ground it rests on, no longer by a p-value."""

ADVICE_FORMAT = "initadvisor.advice"
SPEC_FORMAT = "initadvisor.spec"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class SavedAdvice:
    """What a saved advice holds.

    Attributes:
        evidence: as it was measured; sample batches and callables are not saved.
        recipe: the recommended recipe as YAML text, empty where none was saved.
    """

    evidence: Evidence
    recipe: str = ""


def envelope(kind: str, headline: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What every document starts with, then its content."""
    return {"format": kind, "format_version": FORMAT_VERSION, "headline": headline, **content}


def evidence_to_json(evidence: Evidence, *, recipe: str = "") -> dict[str, Any]:
    """An advice as plain data, ready for ``json.dumps(..., allow_nan=False)``.

    Args:
        evidence: what was measured and decided.
        recipe: the recommended recipe as YAML, to be saved along.
    """
    content = {"recipe": recipe, "evidence": encode(evidence)}
    return envelope(ADVICE_FORMAT, sentences.headline(evidence), content)


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """The reading of a model as plain data."""
    return envelope(SPEC_FORMAT, summary(spec), {"spec": encode(spec)})


def evidence_from_json(document: Any) -> SavedAdvice:
    """Read what :func:`evidence_to_json` gave.

    Raises:
        InputError: another format, a newer version, or a field that is missing or of the wrong type.
    """
    if not isinstance(document, dict) or document.get("format") != ADVICE_FORMAT:
        raise InputError(f'not a saved advice: "format" must be "{ADVICE_FORMAT}" (see initadvisor advise --json)')
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        older = isinstance(version, int) and version < FORMAT_VERSION
        raise InputError(
            f"saved advice has format version {excerpt(str(version)[:20])}, this initadvisor reads {FORMAT_VERSION}; "
            + (
                "ask again with initadvisor advise --json"
                if older
                else "upgrade initadvisor (pip install -U initadvisor)"
            )
        )
    recipe = document.get("recipe", "")
    if not isinstance(recipe, str):
        raise InputError('saved advice: "recipe" must be text')
    return SavedAdvice(decode(Evidence, document.get("evidence"), "evidence"), recipe)


def load_advice(path: str | Path) -> SavedAdvice:
    """Read a saved advice from a file.

    Raises:
        InputError: the file cannot be read, is not JSON, or is no saved advice.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f'"{path}" cannot be read: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise InputError(f'"{path}" is not text: {error.reason}') from error
    except json.JSONDecodeError as error:
        raise InputError(f'"{path}" is not JSON: line {error.lineno}, column {error.colno}: {error.msg}') from error
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f'"{path}" is no saved advice: {excerpt(str(error))}') from error
    except RecursionError as error:
        raise InputError(f'"{path}" is nested too deeply to be a saved advice') from error
    try:
        return evidence_from_json(document)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f'"{path}" is no saved advice: {excerpt(str(error))}') from error


def advice_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a saved advice."""
    definitions: dict[str, Any] = {}
    return enveloped(
        ADVICE_FORMAT, {"recipe": {"type": "string"}, "evidence": schema(Evidence, definitions)}, definitions
    )


def spec_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a model's reading."""
    definitions: dict[str, Any] = {}
    return enveloped(SPEC_FORMAT, {"spec": schema(ModelSpec, definitions)}, definitions)


def enveloped(kind: str, content: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a document.

    Args:
        kind: its ``format``.
        content: schema of each field beside the envelope's.
        definitions: what these refer to.
    """
    properties = {
        "format": {"const": kind},
        "format_version": {"const": FORMAT_VERSION},
        "headline": {"type": "string"},
        **content,
    }
    return {
        "$schema": DIALECT,
        "title": kind,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": {"number": NUMBER_SCHEMA, **definitions},
    }
