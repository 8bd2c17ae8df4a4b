"""When two schemes are one: by what they would draw, not by what they are called."""

from __future__ import annotations

import math
from collections.abc import Iterable

from initadvisor.initializers.registry import get as card_of
from initadvisor.schemes.regions import slice_shape
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Part, SchemeKind

_SAME_SIZE = 0.03
"""Standard deviations closer than this share are one: no training tells them apart, as draws differ by more."""

_SMALL = 1e-12

_GAUSSIAN = frozenset({"normal", "variance_scaling", "xavier_normal", "kaiming_normal", "lecun_normal"})
"""Initializers that draw independent normals: with equal moments they are one. (Orthogonal draws are not.)"""

Figure = tuple[str, str, float, float]
"""Slice, kind of distribution, mean, standard deviation."""


def _figure(assignment: Assignment, part: Part) -> Figure:
    """What a part would draw: the kind of its distribution and its first two moments."""
    card = card_of(part.fill.initializer)
    shape = slice_shape(assignment.shape, part.slice)
    declared = card.declare(shape, part.fans, part.fill.gain, dict(part.fill.args))
    mean, std = declared.mean or 0.0, declared.std
    name = part.slice.name if part.slice is not None else ""
    if std is not None and std < _SMALL:
        return name, "constant", mean, 0.0
    kind = card.name
    if std is not None and not declared.exact:
        if declared.low is None and declared.high is None and card.name in _GAUSSIAN:
            kind = "gaussian"
        elif declared.low is not None and declared.high is not None:
            flat = (declared.high - declared.low) / math.sqrt(12)
            kind = "uniform" if abs(flat - std) < _SAME_SIZE * std else card.name
    # Where nothing is declared, equal gains and arguments are all there is to compare.
    size = std if std is not None else part.fill.gain
    extra = "" if std is not None else repr(part.fill.args)
    return name, kind + extra, mean, size


def _figures(scheme: Scheme) -> tuple[tuple[str, tuple[Figure, ...]], ...]:
    return tuple((a.path, tuple(_figure(a, part) for part in a.parts)) for a in scheme.assignments)


def _close(a: Figure, b: Figure) -> bool:
    if a[:2] != b[:2]:
        return False
    size = max(abs(a[3]), abs(b[3]), _SMALL)
    return abs(a[3] - b[3]) <= _SAME_SIZE * size and abs(a[2] - b[2]) <= _SAME_SIZE * max(size, abs(a[2]), abs(b[2]))


def _same(
    a: Scheme,
    figures_a: tuple[tuple[str, tuple[Figure, ...]], ...],
    b: Scheme,
    figures_b: tuple[tuple[str, tuple[Figure, ...]], ...],
) -> bool:
    """Whether two schemes would fill a model with draws nothing could tell apart."""
    if a.calibrations != b.calibrations or len(figures_a) != len(figures_b):
        return False
    for (path_a, parts_a), (path_b, parts_b) in zip(figures_a, figures_b, strict=True):
        if path_a != path_b or len(parts_a) != len(parts_b):
            return False
        if not all(_close(x, y) for x, y in zip(parts_a, parts_b, strict=True)):
            return False
    return True


def distinct(schemes: Iterable[Scheme]) -> tuple[Scheme, ...]:
    """Drop every scheme whose effect an earlier one has; the weights as they came equal nothing."""
    kept: list[tuple[Scheme, tuple[tuple[str, tuple[Figure, ...]], ...]]] = []
    for scheme in schemes:
        figures = _figures(scheme)
        if scheme.kind is not SchemeKind.CURRENT and any(
            other.kind is not SchemeKind.CURRENT and _same(scheme, figures, other, known) for other, known in kept
        ):
            continue
        kept.append((scheme, figures))
    return tuple(scheme for scheme, _ in kept)
