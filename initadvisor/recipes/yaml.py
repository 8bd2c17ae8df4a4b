"""Recipe files as text: safe reading that remembers lines, and writing as a person would write."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from initadvisor.errors import RecipeError
from initadvisor.plaintext import excerpt, unprintable

_WIDTH = 110
"""Columns of a written recipe before text is folded."""

_PLAIN = re.compile(r"[A-Za-z_][\w ./√σ·+\-−×^()']*")
"""Text that YAML reads as text without quotes."""

_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"})

_LARGEST_FILE = 2 * 2**20
"""Bytes; a recipe of every tensor of a large model is a twentieth of this."""

_DEEPEST = 12
"""Levels of nesting; a recipe has seven (rules, rule, slices, slice, fans, batch_dims, number)."""

_LONGEST_NUMBER = 40
"""Characters of a number; seventeen digits tell a double, and longer integers are quadratic work to read."""

_MEANINGS = ("null", "bool", "int", "float")
"""Readings of an unquoted word other than text. YAML's dates, sets and base-60 numbers (``1:30``) stay text."""

Lines = dict[tuple[str | int, ...], int]


class _Loader(yaml.SafeLoader):
    """Composes plain data, and refuses what costs more than the file is long, while it is being scanned."""

    source = ""

    def _refuse(self, mark: Any, why: str) -> NoReturn:
        raise RecipeError(f"{self.source}:{mark.line + 1}: {why}")

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 - the library's name
        """Count what ``[`` and ``{`` nest."""
        if self.flow_level >= _DEEPEST:
            self._refuse(self.get_mark(), f"nested more than {_DEEPEST} levels deep; a recipe needs no such nesting")
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        """Count what indentation nests."""
        if len(self.indents) > _DEEPEST:
            self._refuse(self.get_mark(), f"nested more than {_DEEPEST} levels deep; a recipe needs no such nesting")
        return bool(super().add_indent(column))

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what is not plain data."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self._refuse(event.start_mark, "anchors and aliases are not part of a recipe")
        if getattr(event, "tag", None) is not None:
            self._refuse(event.start_mark, f"tags ({excerpt(event.tag)}) are not part of a recipe")
        return super().compose_node(parent, index)


def _construct(node: yaml.Node, where: tuple[str | int, ...], lines: Lines, source: str) -> Any:
    """Plain Python values of a composed node; notes the line of each and refuses duplicate keys."""
    line = node.start_mark.line + 1
    lines[where] = line
    if isinstance(node, yaml.MappingNode):
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{source}:{key_line}: a key must be plain text")
            key = _text(str(key_node.value), f"{source}:{key_line}")
            if key in table:
                raise RecipeError(f'{source}:{key_line}: "{excerpt(key)}" is given twice')
            table[key] = _construct(value_node, (*where, key), lines, source)
            lines[(*where, key)] = key_line
        return table
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*where, i), lines, source) for i, item in enumerate(node.value)]
    return _scalar(node, f"{source}:{line}")


def _scalar(node: yaml.Node, where: str) -> Any:
    """The value of one word: a number, true or false, nothing, or text."""
    text = _text(str(node.value), where)
    meaning = str(node.tag).rpartition(":")[2]
    if meaning not in _MEANINGS or ":" in text:
        return text
    if len(text) > _LONGEST_NUMBER:
        raise RecipeError(f"{where}: a number of {len(text)} characters; at most {_LONGEST_NUMBER} are read")
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # 0b_, 1e999999
        raise RecipeError(f"{where}: {excerpt(text)} is not a number: {_one_line(error)}") from error


def _text(text: str, where: str) -> str:
    """Text that can be shown anywhere as it is: no terminal commands, no hidden direction changes, no half characters.

    Raises:
        RecipeError: it holds such a character.
    """
    bad = unprintable(text)
    if bad:
        raise RecipeError(f"{where}: holds the control character U+{ord(bad):04X}; write plain text")
    return text


def _at(mark: Any) -> str:
    return f":{mark.line + 1}" if mark is not None else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


def parse(text: str, source: str) -> tuple[dict[str, Any], Lines]:
    r"""Values of a recipe's text and the line of every field, in time that grows with the text and nothing else.

    Only plain data is read: tags, anchors, duplicate keys, deep nesting, endless numbers and control characters are
    refused.

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
        loader = _Loader(text)
        loader.source = source
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{source}{_at(getattr(error, 'problem_mark', None))}: not valid YAML: {excerpt(_one_line(error))}"
        ) from error
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
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, (int, float)):
        return number(value)
    text = str(value)
    plain = _PLAIN.fullmatch(text.replace("*", "a").replace(",", "a").replace("→", "a").replace("σ", "s"))
    safe = plain and not text.startswith("*") and text == text.strip() and ", " not in text
    if safe and text.lower() not in _RESERVED:
        return text
    return _quoted(text)


def _quoted(text: str) -> str:
    """Text in double quotes; what is not printable is escaped, so that it reads back as the same characters."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in text) + '"'


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
        return _quoted(value)
    return scalar(value)


def text_field(key: str, value: str, indent: str) -> list[str]:
    """A sentence as a field: on its line where it fits, folded where it does not."""
    line = f"{indent}{key}: {scalar(value)}"
    if len(line) <= _WIDTH or not value.isprintable() or "  " in value or value != value.strip():
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
