"""What a scheme is made of: for every parameter of one model, how it is filled and why. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from initadvisor.types import Fans, Slice


class SchemeKind(StrEnum):
    """Where a scheme comes from."""

    CURRENT = "current"  # the weights as given, untouched
    DEFAULT = "default"  # torch's own reset_parameters
    TEXTBOOK = "textbook"  # one classic everywhere, as people try by hand
    RULES = "rules"  # proposed by role-, activation- and depth-aware rules
    DATA_DRIVEN = "data_driven"  # measured on the batch (LSUV, analytic propagation, …)
    REFINED = "refined"  # multipliers found by the sampler around another scheme
    RECIPE = "recipe"  # read from a file


@dataclass(frozen=True, slots=True)
class Fill:
    """One call of an initializer: its registered name, gain and further arguments."""

    initializer: str
    gain: float = 1.0
    args: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One region of a tensor and its fill: a packed slice, or the whole (``slice`` None)."""

    fill: Fill
    fans: Fans
    slice: Slice | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """How one parameter is filled and why.

    Attributes:
        path: canonical dotted name.
        shape: checked against the model when applied.
        parts: regions that together cover the tensor exactly once; empty means "leave as it is, on purpose".
        rule: name of the rule that proposed it.
        reason: one sentence that says why this fits this layer.
        references: keys of :mod:`initadvisor.references`.
    """

    path: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    rule: str
    reason: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """A data-driven step after the fills: its registered name and arguments (``lsuv``, ``{"target": 1.0}``)."""

    method: str
    args: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True)
class SchemeValues:
    """Which initializer goes where in one model.

    Attributes:
        name: short and unique among the candidates of a model.
        kind: where it comes from.
        summary: one line for the ranking table.
        assignments: one per fillable parameter, in model order; empty for ``current``.
        calibrations: data-driven steps, run in order after the fills.
        prior: belief before any trial, higher is better; orders candidates.
        fingerprint: of the spec it was made for; checked when applied.
        batch: the sample batch that calibrations use where ``apply`` is given none.
    """

    name: str
    kind: SchemeKind
    summary: str
    assignments: tuple[Assignment, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    prior: float = 0.0
    fingerprint: str = ""
    batch: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class FilledTensor:
    """What one filled tensor declared and what was read back."""

    path: str
    initializer: str
    declared_mean: float | None
    declared_std: float | None
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What ``apply`` did.

    Attributes:
        filled: every tensor written, with declared and observed statistics.
        left: paths left alone and why (``"frozen"``, ``"user"``, ``"kept by the scheme"``).
        seed: the seed used.
        notes: remarks of data-driven steps.
    """

    filled: tuple[FilledTensor, ...]
    left: Mapping[str, str]
    seed: int
    notes: tuple[str, ...] = ()
