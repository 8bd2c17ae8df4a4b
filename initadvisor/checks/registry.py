"""All checks, one line per topic."""

from __future__ import annotations

from collections.abc import Iterator

from initadvisor.checks import plugin
from initadvisor.checks.plugin import Check
from initadvisor.checks.topics import (
    data,
    fans,
    flow,
    intent,
    loss,
    recurrent,
    remarks,
    sizes,
    symmetry,
    tables,
    values,
)

for _topic in (values, symmetry, fans, intent, sizes, recurrent, tables, flow, loss, data, remarks):
    for _check in _topic.CHECKS:
        plugin.register(_check)


def checks() -> Iterator[Check]:
    """Every check, by code.

    Example:
        >>> next(checks()).code
        'INI101'
    """
    return plugin.registered()


def get(code: str) -> Check:
    """The check with this code or name.

    Raises:
        RegistryError: unknown; the nearest is named.

    Example:
        >>> get("INI106").name
        'cloned-layers'
    """
    return plugin.find(code)
