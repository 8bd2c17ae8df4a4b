"""Text of strangers (names of classes, parameters, files, recipes) as text: nothing in it steers what shows it."""

from __future__ import annotations

import re
import unicodedata

_STEERING = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that no name has a use for: controls (a terminal's escape), half characters, line separators."""

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of reading, with which text can be shown in another order than it is stored."""

_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")

_LONGEST_EXCERPT = 200
"""Characters of foreign text that a one-line message quotes."""


def unprintable(text: str) -> str:
    r"""The first character that would steer a terminal, an editor or an encoder; empty where there is none.

    Line feeds and tabs are text.

    Example:
        >>> unprintable("σ = 1/√n\n"), unprintable("a\x1b[2J"), unprintable("a\u202eb") == "\u202e"
        ('', '\x1b', True)
    """
    if text.isprintable():
        # What Python prints as it is holds none of these but the directional marks, which are "Cf" and not printable.
        return ""
    return next((c for c in text if _steers(c)), "")


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _TURNING or unicodedata.category(character) in _STEERING


def plain(text: str, *, colours: bool = False) -> str:
    r"""The text with every steering character replaced by one visible sign of the same width.

    Args:
        text: may hold names that strangers gave.
        colours: let through the sequences that set a colour or weight, which are ours where a terminal shows them.

    Example:
        >>> plain("encoder\x1b[31m.weight")
        'encoder�[31m.weight'
        >>> plain("\x1b[31mred\x1b[0m \x1b[2J", colours=True)
        '\x1b[31mred\x1b[0m �[2J'
    """
    if not unprintable(text):
        return text
    if colours:
        pieces = _COLOUR.split(text)
        return "".join(piece if index % 2 else plain(piece) for index, piece in enumerate(pieces))
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(c) else c for c in text)


def excerpt(text: str) -> str:
    """The beginning of a text, for messages, on one line and without steering characters.

    Example:
        >>> excerpt("x" * 300)[-4:], len(excerpt("x" * 300))
        ('xxx…', 200)
    """
    line = " ".join(plain(text).split())
    return line if len(line) <= _LONGEST_EXCERPT else line[: _LONGEST_EXCERPT - 1] + "…"
