"""Repeated blocks told once: parameters that differ only in an index become one line with a count."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Folded(Generic[Item]):
    """Items that are told as one.

    Attributes:
        label: the common path, indices that vary shown as a range (``blocks.{0–31}.mlp.up.weight``).
        items: what was folded, in order.
    """

    label: str
    items: tuple[Item, ...]


def template(path: str) -> str:
    """A path with every numeric component replaced by ``*``.

    Example:
        >>> template("layers.3.heads.0.weight")
        'layers.*.heads.*.weight'
    """
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


def span(numbers: Iterable[int]) -> str:
    """Numbers as a short range.

    Example:
        >>> span([4, 2, 3]), span([7]), span([0, 9])
        ('2–4', '7', '0, 9')
    """
    known = sorted(set(numbers))
    if not known:
        return ""
    low, high = known[0], known[-1]
    if low == high:
        return str(low)
    return f"{low}, {high}" if len(known) == 2 and high - low > 1 else f"{low}–{high}"


def label_of(paths: Sequence[str]) -> str:
    """One label for paths that share a template.

    Example:
        >>> label_of(["h.0.w", "h.1.w", "h.2.w"])
        'h.{0–2}.w'
    """
    columns = zip(*(path.split(".") for path in paths), strict=True)
    shown = []
    for column in columns:
        distinct = set(column)
        if len(distinct) == 1:
            shown.append(column[0])
        else:
            shown.append("{" + span(int(part) for part in column) + "}")
    return ".".join(shown)


def fold(items: Iterable[Item], path: Callable[[Item], str], alike: Callable[[Item], Hashable]) -> list[Folded[Item]]:
    """Group items whose paths differ in numbers alone and that are alike otherwise, in order of first appearance.

    Args:
        items: what to fold.
        path: the dotted name of an item.
        alike: what must be equal for two items to be told as one.

    Example:
        >>> [f.label for f in fold(["a.0.w", "a.1.w", "b.w"], lambda p: p, lambda p: None)]
        ['a.{0–1}.w', 'b.w']
    """
    groups: dict[tuple[str, Hashable], list[Item]] = {}
    for item in items:
        groups.setdefault((template(path(item)), alike(item)), []).append(item)
    return [Folded(label_of([path(i) for i in group]), tuple(group)) for group in groups.values()]


def fold_paths(paths: Iterable[str]) -> list[str]:
    """Paths with repeated blocks folded, counts appended.

    Example:
        >>> fold_paths(["h.0.w", "h.1.w", "head.w"])
        ['h.{0–1}.w (×2)', 'head.w']
    """
    folded = fold(paths, lambda p: p, lambda _: None)
    return [f.label + (f" (×{len(f.items)})" if len(f.items) > 1 else "") for f in folded]
