"""The seeds of a script: whether it sets one, one set where it may set none, and fresh ones on request."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import torch

from initadvisor.streams import derive


class Seeds:
    """What is done to the seeds of one process.

    Only fresh draws replace anything: whether a script sets a seed is told by torch itself.

    Args:
        seed: set at the start, so that a script that sets none draws the same in every trial; None leaves it alone.
        offset: which fresh draw: mixed into every seed that the script sets. 0 leaves them.

    Example:
        >>> seeds = Seeds(None, 0)
        >>> seeds.begin(); _ = torch.manual_seed(3); seeds.end()
        >>> seeds.set_by_script
        True
    """

    def __init__(self, seed: int | None, offset: int) -> None:
        self._first = torch.initial_seed()
        self._seed, self._offset = seed, offset
        self._patches: list[tuple[Any, str, Any, Any]] = []

    @property
    def set_by_script(self) -> bool:
        """Whether the script has set torch's seed."""
        return torch.initial_seed() != self._first

    def begin(self) -> None:
        """Set the seed, and mix into those that the script sets."""
        if self._seed is not None:
            self._set(derive(self._seed, "script", self._offset))
        self._first = torch.initial_seed()
        if self._offset:
            # Generators of their own are left alone: they split data, which is no draw of the training.
            self._see(torch, "manual_seed")
            self._see(random, "seed")
            numpy = sys.modules.get("numpy")
            if numpy is not None:
                self._see(numpy.random, "seed")

    def end(self) -> None:
        """Put everything back."""
        for owner, name, original, replacement in reversed(self._patches):
            if getattr(owner, name) is replacement:
                setattr(owner, name, original)
        self._patches = []

    def _set(self, seed: int) -> None:
        random.seed(seed)
        torch.manual_seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed)

    def _see(self, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def seed(value: Any = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(value, int):
                value = derive(value, "fresh", self._offset)
            return original(value, *args, **kwargs)

        functools.update_wrapper(seed, original)
        self._patches.append((owner, name, original, seed))
        setattr(owner, name, seed)
