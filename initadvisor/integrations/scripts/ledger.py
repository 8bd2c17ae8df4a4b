"""Which losses a step is taken on: several `backward`s may be summed, and several optimizers may take turns."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import torch

LONGEST_MEMORY = 256
"""Losses that are remembered; what no step has asked for by then was not meant to be stepped on."""


@dataclass(eq=False)
class Backward:
    """One backward pass.

    Attributes:
        value: sum of what it began from.
        reached: identities of the parameters it reached.
        number: it was the n-th.
        stepped_on: some optimizer has stepped on it.
    """

    value: torch.Tensor
    reached: Set[int]
    number: int
    stepped_on: bool = False


@dataclass
class Ledger:
    """Backward passes in order, and the optimizers that step on them.

    A pass belongs to the first optimizer with a parameter in its reach that steps after it. So the two passes of a
    discriminator are its own, and the generator's, which runs through the discriminator, is not. Where an optimizer
    steps and nothing new is its own, it shares what it can reach with the one that stepped before: two optimizers of
    one loss.

    Example:
        >>> ledger = Ledger()
        >>> for value, reached in ((0.5, {1}), (0.25, {1})):
        ...     ledger.add(torch.tensor(value), reached)
        >>> ledger.step(0, {1}), ledger.step(1, {2}), ledger.step(2, {1})
        (0.75, None, 0.75)
    """

    _passes: list[Backward] = field(default_factory=list)
    _last: dict[int, int] = field(default_factory=dict)
    _count: int = 0

    def add(self, value: torch.Tensor, reached: Set[int]) -> None:
        """A backward pass has begun."""
        self._count += 1
        self._passes.append(Backward(value, reached, self._count))
        del self._passes[:-LONGEST_MEMORY]

    def step(self, optimizer: int, held: Set[int]) -> float | None:
        """The loss that an optimizer has just stepped on; None where no pass reached what it holds."""
        mine = self._of(optimizer, held)
        self._last[optimizer] = self._count
        for each in mine:
            each.stepped_on = True
        return sum(float(b.value) for b in mine) if mine else None

    def ahead(self, optimizer: int, held: Set[int]) -> float | None:
        """The same before the step, and without counting it as one."""
        mine = self._of(optimizer, held)
        return sum(float(b.value) for b in mine) if mine else None

    def _of(self, optimizer: int, held: Set[int]) -> list[Backward]:
        before = self._last.get(optimizer, 0)
        new = [b for b in self._passes if not b.stepped_on and b.reached & held]
        return new or [b for b in self._passes if b.number > before and b.reached & held]
