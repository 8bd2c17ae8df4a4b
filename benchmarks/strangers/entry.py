"""What a stranger is: a model, a batch, a loss, and the facts about it that were checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

KEPT = "kept"
"""A fact: the tensor is no map, and no proposal changes it."""


@dataclass(frozen=True)
class Stranger:
    """One model.

    Attributes:
        model: with the weights its author gives it.
        batch: as its training takes it.
        facts: path -> ``"role"`` (``"map"`` is any that has fans) or ``"role fan_in>fan_out"``; behind either
            :data:`KEPT`, where no proposal may change it, or ``"× factor"`` of the forward pass; :data:`KEPT` alone for
            what is no map.
        loss: of its training, None where it can be inferred.
        branches: residual branches on the longest path, None where that is not asked.
    """

    model: nn.Module
    batch: Any
    facts: Mapping[str, str]
    loss: Callable[..., Any] | None = None
    branches: int | None = None


STRANGERS: dict[str, Callable[[], Stranger]] = {}
"""By name, in the order of the table."""


def stranger(make: Callable[[], Stranger]) -> Callable[[], Stranger]:
    """Enter a model under its function's name.

    Raises:
        ValueError: the name is taken.
    """
    name = make.__name__
    if name in STRANGERS:
        raise ValueError(f"two strangers are called {name}")
    STRANGERS[name] = make
    return make
