"""The plug point of initializers: a pure function, what it declares, and a card that says when it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from initadvisor.registry import Registry
from initadvisor.types import Fans

Initializer = Callable[..., torch.Tensor]
"""``(shape, fans, *, gain, generator, dtype, **args) -> Tensor``: makes one new CPU tensor of ``shape`` and ``dtype``.

No module, no global random state, no guessing of fans; drawn in float32 at least and cast. ``args`` are the card's own
hyperparameters, which is why the type cannot spell the signature out; the contract suite calls every card with it.
"""


Into = Callable[[torch.Tensor, torch.Generator], object]
"""``(run, generator)``: writes the next ``run.numel()`` numbers of a stream into a flat contiguous tensor, in place."""

Sampler = Callable[[Fans, float, Mapping[str, float | str]], Into]
"""``(fans, gain, args) -> Into``: what an initializer of independent, equally distributed elements draws from."""

RUN_MULTIPLE = 64
"""A stream may be written in several runs of the working dtype, all but the last a multiple of this and none shorter:
torch makes normals in blocks of 16 uniforms and its loops take up to 32 elements, so the numbers stay the same."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a filled tensor must look like when it is read back.

    Attributes:
        mean: expected mean of the elements; None where it is not fixed.
        std: expected standard deviation; None where it is not fixed.
        low, high: hard bounds of the elements; None where unbounded.
        exact: the whole tensor is determined (constants, identity, Hadamard): read back means equal.
    """

    mean: float | None = 0.0
    std: float | None = None
    low: float | None = None
    high: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """An argument of an initializer: its default and what it may be."""

    default: float | str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    log: bool = False
    meaning: str = ""


@dataclass(frozen=True)
class Card:
    """Everything there is to know about one initializer.

    Attributes:
        name: unique stem, torch's where torch has one (``kaiming_normal``).
        fn: the pure function.
        declare: ``(shape, fans, gain, args) -> Declared``: the statistics to verify after filling.
        summary: one line.
        formula: in plain text.
        right_when, wrong_when: one sentence each.
        args: hyperparameters beyond ``gain``.
        references: keys of :mod:`initadvisor.references`.
        aliases: other names of the field (``he_normal``).
        deviation: where we deviate from the source, empty where we do not.
        min_dims: least number of axes of a tensor it can fill.
        sampler: where all elements are independent draws from one law: writes the numbers that ``fn`` returns into a
            given tensor, in its layout's order; None elsewhere.
    """

    name: str
    fn: Initializer
    declare: Callable[[tuple[int, ...], Fans, float, Mapping[str, float | str]], Declared]
    summary: str
    formula: str
    right_when: str
    wrong_when: str
    args: Mapping[str, Hyperparameter] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    deviation: str = ""
    min_dims: int = 0
    sampler: Sampler | None = None


_CARDS: Registry[Card] = Registry("initializer", lambda card: (card.name, *card.aliases))

register = _CARDS.add
get = _CARDS.get


def cards() -> Iterator[Card]:
    """All cards, by name."""
    return iter(_CARDS)
