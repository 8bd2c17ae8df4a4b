"""INI31x: embeddings and positions."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initadvisor.checks.context import CheckContext
from initadvisor.checks.figures import SumFigures
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.types import Role

LARGE_SCORES = 3.0
"""Spread of the scores over classes from which the first loss is far from ln C: the excess is about half its square,
4.5 nats."""

POSITION_RATIO = 5.0
"""RMS of positions over that of tokens beyond which what a token says is drowned by where it stands: 96% of the energy
of the sum is then position."""


SINUSOID = 0.02
"""Distance of a table's RMS from √½ within which numbers of at most one are sines and cosines, made and not drawn."""


def _padding(context: CheckContext) -> Iterator[Hit]:
    for path, row in context.padding.items():
        tensor = context.tensors.get(path)
        if tensor is None or not -len(tensor) <= row < len(tensor):
            continue
        size = float(tensor[row].abs().max())
        if size > 0 or not math.isfinite(size):
            yield Hit(
                (path,), f"row {row} is the padding row, receives no gradient and holds values up to {size:.3g}",
                weight=size,
            )  # fmt: skip


def _tied_table(context: CheckContext) -> Iterator[Hit]:
    loss = None if context.figures.loss is None else context.figures.loss.classifying
    scores = context.figures.output_rms if loss is None else loss.score_rms
    for param in context.params:
        others = [p for p in context.spec.params if p.tied_to == param.path]
        roles = {param.role, *(p.role for p in others)}
        if not (others or param.uses > 1) or not {Role.EMBEDDING, Role.OUTPUT} <= roles or len(param.shape) != 2:
            continue
        s = context.statistics(param.path)
        gain = s.std * math.sqrt(param.shape[1])
        if gain > LARGE_SCORES and scores > LARGE_SCORES:
            started = ""
            if loss is not None and loss.cross_entropy is not None:
                chance = math.log(loss.classes)
                started = f", loss {loss.cross_entropy:.4g} instead of ln {loss.classes} = {chance:.3g}"
            yield Hit(
                (param.path, *(p.path for p in others)),
                f"the table is also the head: std {s.std:.3g} over {param.shape[1]} features makes scores of size "
                f"{scores:.3g}{started}",
            )


def _positions(context: CheckContext) -> Iterator[Hit]:
    """Positions against what they are added to, as it was measured in that very sum."""
    told: set[str] = set()
    for found in context.figures.sums:
        for (path, size), (other, rest) in (_pairs(found), _pairs(found)[::-1]):
            if path not in context.spec or context.spec[path].role is not Role.POSITION or path in told:
                continue
            if not context.finite(path) or rest <= 0 or size <= POSITION_RATIO * rest:
                continue
            s = context.statistics(path)
            if s.largest <= 1.0 and abs(s.rms - math.sqrt(0.5)) < SINUSOID:
                continue
            told.add(path)
            yield Hit(
                (path, other) if other in context.spec else (path,),
                f"positions of RMS {size:.3g} are added to a signal of {rest:.3g}: {size / rest:.3g} times as much",
                weight=size / rest,
            )


def _pairs(found: SumFigures) -> tuple[tuple[str, float], tuple[str, float]]:
    return (found.paths[0], found.rms[0]), (found.paths[1], found.rms[1])


def _equal_columns(context: CheckContext) -> Iterator[Hit]:
    for param in context.with_role(Role.EMBEDDING, Role.POSITION, Role.TOKEN):
        # Zeros are told by their gradient, and columns that are taught apart come apart.
        if param.path not in context.figures.alike or context.is_zero(param.path) or not context.finite(param.path):
            continue
        if context.figures.alike[param.path] and param.shape[-1] > 1:
            yield Hit(
                (param.path,),
                f"all {param.shape[-1]} features of every row are equal, and so are their gradients: they stay equal",
            )


CHECKS = (
    Check(
        "INI311",
        "padding-row",
        Severity.INFO,
        "an embedding whose padding row is not zero",
        "Zero the padding row after filling the table; torch does so only in its own reset.",
        _padding,
        mends=True,
    ),
    Check(
        "INI312",
        "tied-table-too-large",
        Severity.ERROR,
        "an embedding that is also the output layer and has the spread of torch's N(0, 1)",
        "Use a std of about 1/√width (GPT-2: .02) for a tied table.",
        _tied_table,
        ("press2017", "radford2019"),
        mends=True,
    ),
    Check(
        "INI313",
        "positions-drown-tokens",
        Severity.WARNING,
        "a learned position table far larger than the token table it is added to",
        "Give both the same scale (.02 in GPT-2 and ViT).",
        _positions,
        ("radford2019", "dosovitskiy2021"),
        mends=True,
    ),
    Check(
        "INI314",
        "equal-columns",
        Severity.ERROR,
        "a table whose features are equal and are taught alike",
        "Draw every element of the table on its own.",
        _equal_columns,
        mends=True,
    ),
)
