"""One architecture of the zoo: how to build it and what to feed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

Attempt = tuple[str, Callable[[], nn.Module], Callable[[nn.Module], Iterator[Any]]]
"""Where it runs (``"meta"`` or ``"cpu"``), how it is built, and which batches to try on it."""


@dataclass(frozen=True)
class Entry:
    """A name such as ``transformers/gpt2`` and ways to get it running, the most faithful first."""

    name: str
    attempts: tuple[Attempt, ...]
