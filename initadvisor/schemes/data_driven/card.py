"""The plug point of data-driven steps: what one is given, what it returns, and the card that describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from initadvisor.initializers.card import Hyperparameter
from initadvisor.registry import Registry
from initadvisor.schemes.slots import Slot, SlotKind, is_weight_norm, slots_of
from initadvisor.training.data import Batch

ModelLoss = Callable[[nn.Module, Batch], torch.Tensor]
"""``(model, batch) -> scalar``."""

RESCALABLE = frozenset({SlotKind.PLAIN, SlotKind.WEIGHT_NORM_HOOK, SlotKind.PARAMETRIZED})
"""Ways of writing through which a factor on the value reaches the forward pass. A spectral norm divides it out again,
and a companion follows its weight."""


@dataclass(frozen=True)
class Site:
    """What a data-driven step works on.

    Attributes:
        model: already filled; the step changes it in place, and only the tensors of ``slots``.
        slots: path -> tensor that may be rescaled, in model order.
        batch: what the model is called with.
        loss: the training's loss where it is known; None lets the batch say (see ``objective``).
        seed: of every random choice the step makes.
    """

    model: nn.Module
    slots: Mapping[str, Slot]
    batch: Batch
    loss: ModelLoss | None
    seed: int


@dataclass(frozen=True)
class CalibrationCard:
    """Everything there is to know about one data-driven step.

    Attributes:
        name: as in ``Calibration.method``.
        summary: one line.
        fn: ``(site, **args) -> notes``.
        references: keys of :mod:`initadvisor.references`.
        args: hyperparameters.
        right_when, wrong_when: one sentence each.
        deviation: where we deviate from the source, empty where we do not.
        descends: whether it needs the training's loss, and not only the batch's inputs.
    """

    name: str
    summary: str
    fn: Callable[..., tuple[str, ...]]
    references: tuple[str, ...]
    args: Mapping[str, Hyperparameter] = field(default_factory=dict)
    right_when: str = ""
    wrong_when: str = ""
    deviation: str = ""
    descends: bool = False


_CARDS: Registry[CalibrationCard] = Registry("data-driven step", lambda card: (card.name,))

register = _CARDS.add
get = _CARDS.get


def cards() -> Iterator[CalibrationCard]:
    """All cards, by name."""
    return iter(_CARDS)


def rescalable(model: nn.Module, paths: set[str]) -> tuple[dict[str, Slot], tuple[str, ...]]:
    """Slots of ``paths`` that a factor can be applied to, and the paths where it cannot."""
    slots = slots_of(model)
    chosen = {path: slot for path, slot in slots.items() if path in paths}
    usable = {path: slot for path, slot in chosen.items() if _can_be_scaled(slot)}
    return usable, tuple(path for path in chosen if path not in usable)


def _can_be_scaled(slot: Slot) -> bool:
    if slot.kind not in RESCALABLE or not slot.param.is_floating_point() or slot.param.is_meta:
        return False
    # Of the parametrizations only weight norm carries a factor through; an orthogonal one would be undone by it.
    return slot.kind is not SlotKind.PARAMETRIZED or is_weight_norm(slot)


_SHOWN = 3
"""Names that a note spells out."""


def few(names: Iterable[str]) -> str:
    """The first names, and how many more there are.

    Example:
        >>> few(["d", "a", "c", "b"])
        'a, b, c and 1 more'
    """
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
