"""What one op of a pass showed; tensors of one number each, until they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from initadvisor.checks.figures import AttentionFigures, LayerFigures, SumFigures
from initadvisor.checks.lineage import Use

Parts = tuple[tuple[Use | tuple[str, ...] | None, torch.Tensor], ...]
"""Of each summand what made it (a use, the parameters it is made of, or nothing known) and its RMS."""


@dataclass
class Activation:
    """An elementwise nonlinearity: units that stay zero, share of values in its flat parts."""

    name: str
    units: int
    samples: int
    dead: torch.Tensor | None
    flat: torch.Tensor | None


@dataclass
class Sum:
    """Two signals added.

    Attributes:
        norm: length of the sum.
        size: values in it.
        is_stream: both have one shape, as what joins a residual stream has.
        parts: of each summand what made it, and its RMS.
    """

    norm: torch.Tensor
    size: int
    is_stream: bool
    parts: Parts = ()


@dataclass
class Attention:
    """Attention weights: number of keys, mean largest weight, spread of the logits."""

    keys: int
    largest: torch.Tensor
    spread: torch.Tensor


@dataclass
class Step:
    """One op; what it was taken for depends on which of its weights turn out to be layers."""

    use: Use | None = None
    other: Activation | Sum | Attention | None = None


@dataclass
class Layer:
    """What is gathered of one weight."""

    path: str
    uses: list[Use] = field(default_factory=list)
    activation: Activation | None = None

    def figures(self) -> LayerFigures:
        """The numbers, summed over all uses."""
        count = sum(u.size for u in self.uses)
        total = sum(float(u.norm) ** 2 for u in self.uses)
        largest = [float(u.largest) for u in self.uses]
        grads = [float(g) for u in self.uses for g in u.grads]
        variation = next((u.variation for u in self.uses if u.variation is not None), None)
        entered = [float(u.entered) ** 2 for u in self.uses if u.entered is not None]
        act = self.activation
        return LayerFigures(
            self.path,
            entered=math.sqrt(sum(entered) / len(entered)) if entered else math.nan,
            rms=math.sqrt(total / count) if count else 0.0,
            largest=max(largest, default=0.0),
            finite=math.isfinite(total) and all(math.isfinite(v) for v in largest),
            variation=math.nan if variation is None else float(variation),
            grad_norm=math.sqrt(sum(g**2 for g in grads)) if grads else math.nan,
            activation="" if act is None else act.name,
            units=0 if act is None else act.units,
            samples=0 if act is None else act.samples,
            dead=0 if act is None or act.dead is None else int(act.dead),
            saturated_share=0.0 if act is None or act.flat is None else float(act.flat),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a forward and a backward pass showed.

    Attributes:
        layers: per weight, in execution order.
        stream: RMS of the residual stream after each branch was added.
        attentions: per attention.
        sums: sums of two signals of which one, at least, is known to come from a single weight.
    """

    layers: tuple[LayerFigures, ...]
    stream: tuple[float, ...]
    attentions: tuple[AttentionFigures, ...]
    sums: tuple[SumFigures, ...] = ()
