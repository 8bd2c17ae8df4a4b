"""A script says how its training goes: one call that is heard where the script is tried, and does nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable

LISTENERS: list[Callable[[str, float], None]] = []
"""Who hears it."""


def report_metric(name: str, value: float) -> None:
    """Report a figure of a training, as ``initadvisor.report("val_loss", value)``.

    Under ``initadvisor try --metric val_loss`` trials are scored by it; anywhere else nothing happens.

    Args:
        name: of the figure.
        value: a number, or a tensor that holds one.

    Example:
        >>> import initadvisor
        >>> initadvisor.report("val_loss", 0.5)
    """
    for listener in LISTENERS:
        listener(name, float(value))
