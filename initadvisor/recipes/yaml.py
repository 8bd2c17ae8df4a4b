"""Recipe files as text: safe reading that remembers lines, and writing as a person would write."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from initadvisor.errors import RecipeError

_WIDTH = 110
"""Columns of a written recipe before text is folded."""

_PLAIN = re.compile(r"[A-Za-z_][\w ./√σ·+\-−×^()']*")
"""Text that YAML reads as text without quotes."""

_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"})

_LARGEST_FILE = 8 * 2**20
"""Bytes; a recipe of every tensor of a large model is a hundredth of this."""

Lines = dict[tuple[str | int, ...], int]


def _construct(node: yaml.Node, where: tuple[str | int, ...], lines: Lines, source: str) -> Any:
    """Plain Python values of a composed node; notes the line of each and refuses duplicate keys."""
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{source}:{key_node.start_mark.line + 1}: a key must be plain text")
            key = str(key_node.value)
            if key in table:
                raise RecipeError(f'{source}:{key_node.start_mark.line + 1}: "{key}" is given twice')
            table[key] = _construct(value_node, (*where, key), lines, source)
            lines[(*where, key)] = key_node.start_mark.line + 1
        return table
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*where, i), lines, source) for i, item in enumerate(node.value)]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}:{node.start_mark.line + 1}: {_one_line(error)}") from error


def _at(mark: Any) -> str:
    return f":{mark.line + 1}" if mark is not None else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


def parse(text: str, source: str) -> tuple[dict[str, Any], Lines]:
    r"""Values of a recipe's text and the line of every field.

    Only plain data is read: tags that would build Python objects, anchors and duplicate keys are refused.

    Args:
        text: YAML.
        source: name of the file, for messages.

    Raises:
        RecipeError: not YAML, or more than plain data.

    Example:
        >>> parse("name: a\nrules:\n  - init: zeros", "r.yaml")[1][("rules", 0, "init")]
        3
    """
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise RecipeError(f"{source}{_at(event.start_mark)}: anchors and aliases are not part of a recipe")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{source}{_at(getattr(error, 'problem_mark', None))}: not valid YAML: {_one_line(error)}"
        ) from error
    except RecursionError as error:
        raise RecipeError(f"{source}: nested too deeply") from error
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f'{source}: a recipe is a mapping with "format", "name" and "rules"')
    lines: Lines = {}
    return _construct(node, (), lines, source), lines


def read_text(path: str | Path) -> str:
    """Text of a recipe file.

    Raises:
        RecipeError: missing, unreadable, too large or not UTF-8.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise RecipeError(f"{file}: larger than {_LARGEST_FILE >> 20} MiB; this is not a recipe")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not UTF-8 text (byte {error.start})") from error


def number(value: float) -> str:
    """Shortest text that YAML reads back as the same number, to the bit.

    Example:
        >>> number(0.02), number(1e-06), number(2.0), yaml.safe_load(number(1e-06)) == 1e-06
        ('0.02', '1.0e-06', '2.0', True)
    """
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if math.isnan(value) or math.isinf(value):
        return ".nan" if math.isnan(value) else ("-.inf" if value < 0 else ".inf")
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
        # YAML 1.1 wants a sign in the exponent.
        exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
        text = f"{mantissa}e{exponent}"
    return text


def scalar(value: Any) -> str:
    """One value on one line, quoted only where it must be.

    Example:
        >>> scalar("blocks.*.weight"), scalar("plain text"), scalar("0:64")
        ('blocks.*.weight', 'plain text', '"0:64"')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number(value)
    text = str(value)
    plain = _PLAIN.fullmatch(text.replace("*", "a").replace(",", "a").replace("→", "a").replace("σ", "s"))
    safe = plain and not text.startswith("*") and text == text.strip() and ", " not in text
    if safe and text.lower() not in _RESERVED:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def flow(value: Any) -> str:
    """Nested lists and mappings on one line.

    Example:
        >>> flow({"std": 0.02, "cut": [1, 2]})
        '{std: 0.02, cut: [1, 2]}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    if isinstance(value, str) and any(c in value for c in ",[]{}*"):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return scalar(value)


def text_field(key: str, value: str, indent: str) -> list[str]:
    """A sentence as a field: on its line where it fits, folded where it does not."""
    line = f"{indent}{key}: {scalar(value)}"
    if len(line) <= _WIDTH or "\n" in value or "  " in value:
        return [line]
    lines, current = [f"{indent}{key}: >-"], ""
    for word in value.split(" "):
        if current and len(indent) + 2 + len(current) + 1 + len(word) > _WIDTH:
            lines.append(f"{indent}  {current}")
            current = word
        else:
            current = f"{current} {word}" if current else word
    return [*lines, f"{indent}  {current}"]


def block(
    key: str, value: Mapping[str, Any], indent: str, one_line: Callable[[str], bool] = lambda s: len(s) <= _WIDTH
) -> list[str]:
    """A mapping: on one line where it fits, else one line per key."""
    short = f"{indent}{key}: {flow(value)}"
    if one_line(short):
        return [short]
    return [f"{indent}{key}:", *(f"{indent}  {scalar(k)}: {flow(v)}" for k, v in value.items())]
