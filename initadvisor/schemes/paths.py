"""Path patterns: which parameters a recipe or a protection speaks for, and the way back to patterns.

A pattern is a dotted path in which ``*`` stands for one name (or part of it), ``**`` for any number of names,
``{0..5}`` for a range of numbers and ``{a,b}`` for a choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

_TOKEN = re.compile(r"(\*\*|\*|\?|\{[^{}]*\})")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LONGEST_RANGE = 100_000
"""Numbers a ``{a..b}`` may span: more layers than any model has, and a bound on what an untrusted file can ask for."""

_MOST_CHOICES = 4
"""Layers listed one by one in a pattern (``{0,3,7}``) before every path gets a line of its own."""


@lru_cache(maxsize=4096)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """The regular expression of a path pattern.

    Raises:
        ValueError: a range that runs backwards or too far.

    Example:
        >>> bool(compile_glob("blocks.*.fc.weight").fullmatch("blocks.3.fc.weight"))
        True
        >>> bool(compile_glob("*.weight").fullmatch("blocks.3.weight"))
        False
        >>> bool(compile_glob("net.{0..2}.bias").fullmatch("net.3.bias"))
        False
    """
    pieces = []
    for token in _TOKEN.split(pattern):
        if token == "**":
            pieces.append(".*")
        elif token == "*":
            pieces.append("[^.]*")
        elif token == "?":
            pieces.append("[^.]")
        elif token.startswith("{") and token.endswith("}"):
            pieces.append(_choice(token))
        else:
            pieces.append(re.escape(token))
    return re.compile("".join(pieces))


def _choice(token: str) -> str:
    span = _RANGE.fullmatch(token)
    if span is None:
        return "(?:" + "|".join(re.escape(item.strip()) for item in token[1:-1].split(",")) + ")"
    first, last = int(span[1]), int(span[2])
    if not first <= last <= first + _LONGEST_RANGE:
        raise ValueError(f"the range {token} runs backwards or spans more than {_LONGEST_RANGE} numbers")
    return "(?:" + "|".join(str(n) for n in range(first, last + 1)) + ")"


def matches(pattern: str, path: str) -> bool:
    """Whether a path fits a pattern as a whole.

    Example:
        >>> matches("**.bias", "a.b.bias"), matches("**", "anything.at.all")
        (True, True)
    """
    return compile_glob(pattern).fullmatch(path) is not None


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
