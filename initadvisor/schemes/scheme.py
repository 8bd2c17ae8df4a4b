"""A scheme: which initializer goes where in one model and why, and the two things it does: tell, and fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from initadvisor.schemes.apply import apply_scheme
from initadvisor.schemes.data_driven.card import CalibrationCard
from initadvisor.schemes.data_driven.registry import cards
from initadvisor.schemes.values import ApplyResult, SchemeValues


@dataclass(frozen=True)
class Scheme(SchemeValues):
    """Which initializer goes where in one model; its attributes are those of :class:`SchemeValues`."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Distinct reasons, in model order, each prefixed with the rule that gave it; then the data-driven steps."""
        seen: dict[str, None] = {}
        for a in self.assignments:
            seen.setdefault(f"{a.rule}: {a.reason}")
        for card in self._steps():
            seen.setdefault(f"{card.name}: {card.summary.rstrip('.')}")
        return tuple(seen)

    @property
    def references(self) -> tuple[str, ...]:
        """Keys of everything cited by its assignments and data-driven steps, sorted."""
        cited = {key for a in self.assignments for key in a.references}
        return tuple(sorted(cited.union(*(card.references for card in self._steps()))))

    def _steps(self) -> tuple[CalibrationCard, ...]:
        """Cards of its data-driven steps; an unknown one is told when the scheme is applied."""
        known = {card.name: card for card in cards()}
        return tuple(known[c.method] for c in self.calibrations if c.method in known)

    def apply(
        self,
        model: torch.nn.Module,
        *,
        seed: int = 0,
        batch: Any = None,
        loss: Callable[..., Any] | None = None,
        undo: bool = True,
    ) -> ApplyResult:
        """Fill ``model`` in place; see :func:`initadvisor.schemes.apply.apply_scheme`, which this calls."""
        return apply_scheme(self, model, seed=seed, batch=batch, loss=loss, undo=undo)
