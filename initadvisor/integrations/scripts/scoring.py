"""What a trial is scored by: the loss that is stepped on, or a figure that the script reports or prints."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from initadvisor.errors import InputError

NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"

WINDOW_SHARE = 0.25
"""Share of the steps so far over which the stepped-on loss is averaged: one batch alone says little."""

LEAST_WINDOW = 5
"""Steps of that window at least."""


@dataclass(frozen=True)
class Metric:
    """What is scored.

    Attributes:
        name: of the figure that a script reports; ``""`` is the loss that is stepped on.
        pattern: found in what the script prints; its group is the number.
        maximize: more is better.
    """

    name: str = ""
    pattern: re.Pattern[str] | None = None
    maximize: bool = False

    @property
    def is_loss(self) -> bool:
        """The loss that is stepped on."""
        return not self.name

    def text(self, optimizer: str) -> str:
        """In words, for the report."""
        if self.is_loss:
            whose = f"that {optimizer} steps on" if optimizer else "that is stepped on"
            return f"{whose}, over the last quarter of the steps"
        how = "printed" if self.pattern is not None else "reported"
        return f"{self.name}, as the script {how} it" + (", negated: more is better" if self.maximize else "")

    def printed(self, text: str) -> list[float]:
        """The figures in what a script has printed."""
        return [] if self.pattern is None else [float(m) for m in self.pattern.findall(text)]

    def score(self, value: float) -> float:
        """A figure as something of which less is better."""
        return -value if self.maximize else value


def read_metric(text: str | None, *, maximize: bool = False) -> Metric:
    """A metric as it is typed: the name of a reported figure, or ``name=pattern`` with one group.

    Raises:
        InputError: no pattern, or not one group.

    Example:
        >>> read_metric(r"val_loss=loss: ([0-9.]+)").printed("step 3, loss: 0.25")
        [0.25]
        >>> read_metric("return").name
        'return'
    """
    if not text:
        if maximize:
            raise InputError("--maximize is about a --metric; the loss that is stepped on is always lowered")
        return Metric()
    name, equals, pattern = text.partition("=")
    if not equals:
        return Metric(name, None, maximize)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--metric {text!r}: {error}; give name=pattern, as in: 'val_loss=loss ([0-9.]+)'") from error
    if compiled.groups != 1:
        compiled = re.compile(f"{pattern}{NUMBER}") if not compiled.groups else compiled
    if compiled.groups != 1:
        raise InputError(f"--metric {text!r}: the pattern must have one group, the number: 'val_loss=loss ([0-9.]+)'")
    return Metric(name, compiled, maximize)


def window_mean(losses: Sequence[float], step: int) -> float:
    """Mean of the losses that lead up to a step; infinite where one of them is no number.

    Example:
        >>> window_mean([4.0] * 10 + [1.0] * 10, 20)
        1.0
    """
    width = max(LEAST_WINDOW, round(WINDOW_SHARE * step))
    window = losses[max(0, step - width) : step]
    if not window or not all(map(math.isfinite, window)):
        return math.inf
    return math.fsum(window) / len(window)
