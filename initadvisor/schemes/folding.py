"""Repeated blocks told once: parameters that differ only in an index become one line with a count."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from initadvisor.schemes.paths import fold as fold_exactly
from initadvisor.schemes.paths import matches, skeleton

Item = TypeVar("Item")


@dataclass(frozen=True)
class Folded(Generic[Item]):
    """Items that are told as one.

    Attributes:
        label: the common path, indices that vary as a pattern that recipes take (``blocks.{0..31}.mlp.up.weight``).
        items: what was folded, in order.
    """

    label: str
    items: tuple[Item, ...]


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
    """One pattern, as recipes take it, that fits paths which share a template.

    It may fit others as well: of a range only the ends need be there.

    Example:
        >>> label_of(["h.0.w", "h.1.w", "h.2.w"]), label_of(["h.0.w", "h.9.w"])
        ('h.{0..2}.w', 'h.{0,9}.w')
    """
    columns = zip(*(path.split(".") for path in paths), strict=True)
    shown = []
    for column in columns:
        known = sorted({int(part) for part in column}) if len(set(column)) > 1 else []
        if not known:
            shown.append(column[0])
        elif len(known) == 2:
            shown.append("{" + ",".join(map(str, known)) + "}")
        else:
            shown.append(f"{{{known[0]}..{known[-1]}}}")
    return ".".join(shown)


def patterns_of(paths: Iterable[str], others: Iterable[str]) -> list[tuple[str, int]]:
    """Few patterns that fit exactly these paths, and how many each fits: what can be pasted into a recipe.

    Args:
        paths: dotted names.
        others: names that must not fit.

    Example:
        >>> patterns_of(["0.w", "2.w", "4.w", "head.w"], ["6.w"])
        [('{0..4}.w', 3), ('head.w', 1)]
        >>> patterns_of(["h.0.w", "h.2.w", "h.4.w"], ["h.1.w"])
        [('h.{0,2,4}.w', 3)]
    """
    rest = set(others).difference(paths)
    found: list[tuple[str, int]] = []
    for group in fold(paths, lambda p: p, lambda _: None):
        fits = [p for p in (*group.items, *rest) if matches(group.label, p)] if len(group.items) > 1 else group.items
        exact = sorted(fits) == sorted(group.items)
        labels = (group.label,) if exact else fold_exactly(group.items, rest)
        found += [(label, sum(matches(label, p) for p in group.items)) for label in labels]
    return found


def fold(items: Iterable[Item], path: Callable[[Item], str], alike: Callable[[Item], Hashable]) -> list[Folded[Item]]:
    """Group items whose paths differ in numbers alone and that are alike otherwise, in order of first appearance.

    Args:
        items: what to fold.
        path: the dotted name of an item.
        alike: what must be equal for two items to be told as one.

    Example:
        >>> [f.label for f in fold(["a.0.w", "a.1.w", "b.w"], lambda p: p, lambda p: None)]
        ['a.{0,1}.w', 'b.w']
    """
    groups: dict[tuple[str, Hashable], list[Item]] = {}
    for item in items:
        groups.setdefault((skeleton(path(item)), alike(item)), []).append(item)
    return [Folded(label_of([path(i) for i in group]), tuple(group)) for group in groups.values()]


def fold_paths(paths: Iterable[str]) -> list[str]:
    """Paths with repeated blocks folded, counts appended.

    Example:
        >>> fold_paths(["h.0.w", "h.1.w", "head.w"])
        ['h.{0,1}.w (×2)', 'head.w']
    """
    folded = fold(paths, lambda p: p, lambda _: None)
    return [f.label + (f" (×{len(f.items)})" if len(f.items) > 1 else "") for f in folded]
