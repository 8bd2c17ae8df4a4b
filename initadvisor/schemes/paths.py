"""Path patterns: which parameters a recipe or a protection speaks for, and the way back to patterns.

A pattern is a dotted path in which ``*`` stands for one name (or part of it), ``**`` for any number of names,
``{0..5}`` for a range of numbers and ``{a,b}`` for a choice. Matching takes time in proportion to the pattern times the
path whatever the pattern is: patterns come from files of strangers, and a backtracking matcher can be hung by thirty
characters. These functions are also copied into generated code, so they need the standard library alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

_TOKEN = re.compile(r"(\*\*|\*|\?|\{[^{}]*\})")
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}", re.ASCII)

_LONGEST_PATTERN = 1000
"""Characters: several times the longest path of any model, and a bound on what an untrusted file can ask for."""

_MOST_CHOICES = 4
"""Layers listed one by one in a pattern (``{0,3,7}``) before every path gets a line of its own."""


@functools.lru_cache(maxsize=4096)
def pattern_tokens(pattern: str) -> tuple[tuple[str, Any], ...]:
    """A pattern's pieces, each with its kind: text, one, name, any, range or choice.

    Raises:
        ValueError: a range that runs backwards, or a pattern longer than any path.

    Example:
        >>> pattern_tokens("net.{0..2}.*")
        (('text', 'net.'), ('range', (0, 2)), ('text', '.'), ('name', None))
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters; no path is longer than {_LONGEST_PATTERN}")
    wild = {"**": "any", "*": "name", "?": "one"}
    found: list[tuple[str, Any]] = []
    for token in filter(None, _TOKEN.split(pattern)):
        span = _RANGE.fullmatch(token)
        if token in wild:
            found.append((wild[token], None))
        elif span is not None:
            if int(span[1]) > int(span[2]):
                raise ValueError(f"the range {token} runs backwards")
            found.append(("range", (int(span[1]), int(span[2]))))
        elif token.startswith("{") and token.endswith("}"):
            found.append(("choice", tuple(item.strip() for item in token[1:-1].split(","))))
        else:
            found.append(("text", token))
    return tuple(found)


def matches(pattern: str, path: str) -> bool:
    """Whether a path fits a pattern as a whole.

    All places of the path that the pattern can have reached are followed at once, so nothing is tried twice.

    Example:
        >>> matches("**.bias", "a.b.bias"), matches("**", "anything.at.all"), matches("*.weight", "a.b.weight")
        (True, True, False)
        >>> matches("net.{0..2}.bias", "net.3.bias"), matches("blocks.*.fc.weight", "blocks.3.fc.weight")
        (False, True)
    """
    reached = {0}
    for kind, value in pattern_tokens(pattern):
        reached = _advance(kind, value, path, reached)
        if not reached:
            return False
    return len(path) in reached


def _advance(kind: str, value: Any, path: str, reached: set[int]) -> set[int]:
    """Places of ``path`` where one piece of a pattern can end that begins at one of ``reached``."""
    if kind == "text":
        return {at + len(value) for at in reached if path.startswith(value, at)}
    if kind == "any":
        return set(range(min(reached), len(path) + 1))
    if kind == "one":
        return {at + 1 for at in reached if path[at : at + 1] not in ("", ".")}
    if kind == "choice":
        return {at + len(item) for item in value for at in reached if path.startswith(item, at)}
    ends: set[int] = set()
    for at in sorted(reached):
        if kind == "range":
            ends.update(_number_ends(path, at, *value))
        elif at not in ends:  # else an earlier start has covered this name already
            stop = path.find(".", at)
            ends.update(range(at, (stop if stop >= 0 else len(path)) + 1))
    return ends


def _number_ends(path: str, at: int, low: int, high: int) -> list[int]:
    """Where a whole number of ``low`` to ``high``, written without leading zeros, can end that begins at ``at``."""
    ends = []
    for end in range(at + 1, min(at + len(str(high)), len(path)) + 1):
        digits = path[at:end]
        if not (digits.isascii() and digits.isdigit()) or (digits[0] == "0" and end > at + 1):
            break
        if low <= int(digits) <= high:
            ends.append(end)
    return ends


def _numbers(path: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    parts = tuple(path.split("."))
    return parts, tuple(i for i, name in enumerate(parts) if name.isdigit())


def skeleton(path: str) -> str:
    """The path with every number replaced by ``*``: what paths of repeated blocks share.

    Example:
        >>> skeleton("blocks.3.fc.weight")
        'blocks.*.fc.weight'
    """
    return ".".join("*" if name.isdigit() else name for name in path.split("."))


def fold(paths: Sequence[str], others: Iterable[str]) -> tuple[str, ...]:
    """Few patterns that fit exactly ``paths`` and none of ``others``, as a person would write them.

    Args:
        paths: of one skeleton.
        others: paths that must not be matched.

    Example:
        >>> fold(["net.0.weight", "net.2.weight"], ["net.4.weight"])
        ('net.{0..2}.weight',)
        >>> fold(["net.0.weight", "net.2.weight"], [])
        ('net.*.weight',)
    """
    if len(paths) == 1:
        return (paths[0],)
    rest = list(others)
    parts, positions = _numbers(paths[0])
    split = [_numbers(p)[0] for p in paths]
    varying = [i for i in positions if len({s[i] for s in split}) > 1]
    for candidate in _candidates(parts, varying, split):
        fits = [p for p in paths if matches(candidate, p)]
        if len(fits) == len(paths) and not any(matches(candidate, p) for p in rest):
            return (candidate,)
    if len(varying) > 1:
        # Several numbers vary and no single pattern fits: one pattern per value of the first.
        groups: dict[str, list[str]] = {}
        for path, names in zip(paths, split, strict=True):
            groups.setdefault(names[varying[0]], []).append(path)
        if len(groups) < len(paths):
            return tuple(
                pattern for group in groups.values() for pattern in fold(group, [*rest, *(set(paths) - set(group))])
            )
    return tuple(paths)


def _candidates(parts: tuple[str, ...], varying: list[int], split: list[tuple[str, ...]]) -> Iterable[str]:
    starred = [("*" if i in varying else name) for i, name in enumerate(parts)]
    yield ".".join(starred)
    ranged = list(starred)
    for i in varying:
        values = sorted({int(s[i]) for s in split})
        ranged[i] = f"{{{values[0]}..{values[-1]}}}"
    yield ".".join(ranged)
    if len(varying) == 1:
        values = sorted({int(s[varying[0]]) for s in split})
        if len(values) <= _MOST_CHOICES:
            listed = list(starred)
            listed[varying[0]] = "{" + ",".join(map(str, values)) + "}"
            yield ".".join(listed)
