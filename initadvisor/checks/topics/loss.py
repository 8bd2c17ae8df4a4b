"""INI50x: the loss before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initadvisor.checks.context import CheckContext
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.types import Role

EXCESS = 1.0
"""Nats above ln C that are told: scores of spread √2, sure of things nobody has learned. torch's default head costs
about 0.2."""

FAR = 5.0
"""Nats above ln C from which the first hundred steps only undo the start."""

CHANCE = 3.0
"""Standard errors of the mean loss that are allowed for."""

OFFSET = 3.0
"""Mean of the targets in units of their spread from which the loss is nearly all offset (90% of it)."""

TOO_LARGE = 10.0
"""Output over target in size from which the first steps only shrink the output."""


def _heads(context: CheckContext) -> tuple[str, ...]:
    return tuple(p.path for p in context.spec.params if p.role is Role.OUTPUT)


def _classifier(context: CheckContext) -> Iterator[Hit]:
    loss = context.figures.loss
    if loss is None or loss.cross_entropy is None or loss.classes < 2 or not math.isfinite(loss.cross_entropy):
        return
    excess = loss.cross_entropy - math.log(loss.classes)
    if excess > EXCESS + CHANCE * loss.entropy_error:
        yield Hit(
            _heads(context),
            f"cross-entropy starts at {loss.cross_entropy:.4g}, ln {loss.classes} is {math.log(loss.classes):.3g}: "
            f"the scores spread by {loss.score_rms:.3g} over the classes",
            severity=Severity.ERROR if excess > FAR else None,
        )


def _not_finite(context: CheckContext) -> Iterator[Hit]:
    loss = context.figures.loss
    if loss is not None and not math.isfinite(loss.value):
        yield Hit((), f"the loss is {loss.value} before the first step")


def _regression(context: CheckContext) -> Iterator[Hit]:
    loss = context.figures.loss
    if loss is None or loss.target_mean is None or loss.target_std is None or not math.isfinite(loss.target_std):
        return
    mean, std = loss.target_mean, loss.target_std
    size = math.hypot(mean, std)
    if size > 0 and loss.output_rms > TOO_LARGE * size:
        yield Hit(
            _heads(context),
            f"outputs have RMS {loss.output_rms:.3g}, targets {size:.3g}",
            severity=Severity.WARNING,
            remedy="Scale the output layer down to the size of the targets.",
        )
    elif std > 0 and abs(mean) > OFFSET * std and loss.value > 0.5 * mean**2:
        yield Hit(
            _heads(context),
            f"targets average {mean:.3g} with a spread of {std:.3g}; the loss starts at {loss.value:.3g}",
        )


CHECKS = (
    Check(
        "INI501",
        "loss-above-chance",
        Severity.WARNING,
        "a classifier whose first loss is far above ln C",
        "Scale the output layer down (or start it at zero) so that the first scores are nearly equal.",
        _classifier,
        ("karpathy2019",),
        mends=True,
    ),
    Check(
        "INI502",
        "output-off-target",
        Severity.INFO,
        "a regression whose outputs start far from the targets in mean or size",
        "Set the output bias to the mean of the targets, or standardise them.",
        _regression,
        ("karpathy2019",),
    ),
    Check(
        "INI503",
        "loss-not-finite",
        Severity.ERROR,
        "a loss that is NaN or infinite before the first step",
        "Look at the first layer that another finding names, and at the data.",
        _not_finite,
    ),
)
