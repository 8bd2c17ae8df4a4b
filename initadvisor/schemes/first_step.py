"""Does a fill make the first step worse than it was? Loss and gradient before any step, as they came and as filled.

A scheme that starts at twice the loss, or with ten times the gradient, than the weights it replaces has misread
something more often than it knows better: a factor in the forward pass, a prior, a scale. Such a start has to be
explained, or is not worth a trial.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from initadvisor.errors import InputError
from initadvisor.guard import preserve_process, run_eagerly
from initadvisor.schemes.apply import apply_scheme
from initadvisor.schemes.values import SchemeKind, SchemeValues
from initadvisor.training.calls import trained_batch
from initadvisor.training.data import Batch
from initadvisor.training.losses import Loss, choose_loss, scores_of
from initadvisor.twins import Originals

WORSE_LOSS = 2.0
"""Times the first loss. Any sensible start of one model lies closer to another: cross-entropies around ln C, squared
errors around the targets' variance and that plus the outputs'."""

LARGER_GRADIENT = 10.0
"""Times the norm of the whole gradient. The gradient of a net grows with its outputs and depth; good starts of one net
differ by factors of two to five, an explosion by powers."""

VANISHED = 1e-4
"""Share of its first gradient that is left of a tensor whose signal dies out: small heads and gates leave a tenth or a
hundredth, and what starts at zero on purpose has none at all at first."""

LEVEL = 0.05
"""Losses that lie within this of each other are level, whatever their ratio: a nat or a squared unit is what a first
loss is made of."""

UNIT_OUTPUTS = 2.0
"""RMS of the outputs up to which they count as of unit size. To bring them there is what most rules are for, and what
torch's default does not do: it explains a loss (of unit targets, twice) and a gradient that are larger than before."""


@dataclass(frozen=True, slots=True)
class Start:
    """One first pass.

    Attributes:
        loss: of the batch; not finite where it overflowed.
        gradient: norm over all trained tensors.
        outputs: RMS of what the model returned, NaN where that is no tensor.
        gradients: path -> norm of each tensor's.
    """

    loss: float
    gradient: float
    outputs: float = math.nan
    gradients: Mapping[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Neither overflowed."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient)


@dataclass(frozen=True, slots=True)
class FirstStep:
    """The comparison of a scheme's start with that of the weights as they came.

    Attributes:
        scheme: its name.
        before: with the weights as they came.
        after: as the scheme fills them.
    """

    scheme: str
    before: Start
    after: Start

    @property
    def fault(self) -> str:
        """What is worse than it was, in a sentence; empty where nothing is."""
        before, after = self.before, self.after
        if not before.finite:
            return "" if after.finite else f'"{self.scheme}" does not mend a first pass that is not finite'
        if not after.finite:
            return (
                f'"{self.scheme}" makes the first pass overflow, where the weights as they came have {before.loss:.4g}'
            )
        rise = after.loss - before.loss
        if rise > max((WORSE_LOSS - 1) * abs(before.loss), LEVEL):
            return (
                f'"{self.scheme}" starts at a loss of {after.loss:.4g}, the weights as they came at {before.loss:.4g}'
            )
        if after.gradient > LARGER_GRADIENT * before.gradient > 0:
            ratio = after.gradient / before.gradient
            return f'the first gradient of "{self.scheme}" is {ratio:.3g} times that of the weights as they came'
        left = {p: g / before.gradients[p] for p, g in after.gradients.items() if g > 0 < before.gradients.get(p, 0.0)}
        least = min(left, key=lambda p: left[p], default="")
        if least and left[least] < VANISHED:
            return f'with "{self.scheme}", {least} has {left[least]:.2g} of the gradient it has as the weights came'
        return ""

    @property
    def explained(self) -> str:
        """Why a worse start is meant, in a clause; empty where nothing explains it.

        Outputs that grew to unit size do. Where they were larger before (a prior on the output bias), or are far larger
        now, something else went wrong.
        """
        before, after = self.before.outputs, self.after.outputs
        if not before < after <= UNIT_OUTPUTS or not self.after.finite:
            return ""
        return f"its outputs start at about unit size (RMS {after:.2g}); as the weights came they have {before:.2g}"

    @property
    def holds(self) -> bool:
        """The first step is no worse than it was, or there is an explanation."""
        return not self.fault or bool(self.explained)


def measure_start(model: nn.Module, batch: Batch, loss: Loss, seed: int = 0) -> Start:
    """Loss and gradient norm of one pass; gradients of ``model`` are left filled, so give a copy."""
    torch.manual_seed(seed)  # the same dropout masks for every scheme
    for parameter in model.parameters():
        parameter.grad = None
    outputs: list[float] = []

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        with contextlib.suppress(InputError):
            scores = scores_of(output).detach()
            outputs.append(float(scores.abs().double().square().mean().sqrt()) if scores.numel() else math.nan)

    with torch.enable_grad(), _hooked(model, watch):
        value = loss(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = {n: _norm(g.coalesce().values() if g.is_sparse else g) for n, g in grads.items()}
    whole = math.sqrt(sum(norm**2 for norm in norms.values()))
    return Start(float(value.detach()), whole, outputs[0] if outputs else math.nan, norms)


def _norm(gradient: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient.abs().double()))


@contextmanager
def _hooked(model: nn.Module, hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def first_steps(
    model: nn.Module,
    sample_batch: Any,
    schemes: Mapping[str, SchemeValues],
    *,
    loss: Callable[..., Any] | None = None,
    seed: int = 0,
) -> dict[str, FirstStep]:
    """The first step of several schemes beside that of the weights as they came.

    Args:
        model: with the weights as they came; only copies of it (and of what the loss reaches) are run.
        sample_batch: as ``analyze`` takes it.
        schemes: by any name.
        loss: ``(output, target)`` or ``(model, batch)`` -> scalar; None infers it.
        seed: of the draw, and of whatever the model draws in the pass.

    Raises:
        InputError: no loss fits the batch.
        SchemeError: a scheme does not fit the model.

    Example:
        >>> from initadvisor.schemes.propose import propose
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = (torch.randn(32, 4), torch.randint(3, (32,)))
        >>> found = first_steps(net, batch, {s.name: s for s in propose(net, batch)[:3]})
        >>> all(step.holds for step in found.values())
        True
    """
    batch = trained_batch(model, sample_batch, loss)
    originals = Originals({"model": model, "loss": loss, "batch": batch})

    def start(scheme: SchemeValues | None) -> Start:
        copied = originals.copy()
        net, given = copied["model"], copied["loss"]
        if scheme is not None and scheme.kind is not SchemeKind.CURRENT:
            apply_scheme(scheme, net, seed=seed, batch=copied["batch"], loss=given, undo=False)
        chosen = given if isinstance(given, Loss) else choose_loss(given, net, copied["batch"])
        try:
            return measure_start(net, copied["batch"], chosen, seed)
        except (ArithmeticError, RuntimeError):
            if scheme is None:
                raise
            return Start(math.inf, math.inf)  # a decomposition or solver of the model's own broke down on these weights

    with preserve_process(), run_eagerly():
        before = start(None)
        return {name: FirstStep(scheme.name, before, start(scheme)) for name, scheme in schemes.items()}


def first_step(
    model: nn.Module,
    sample_batch: Any,
    scheme: SchemeValues,
    *,
    loss: Callable[..., Any] | None = None,
    seed: int = 0,
) -> FirstStep:
    """The first step of one scheme; see :func:`first_steps`."""
    return first_steps(model, sample_batch, {scheme.name: scheme}, loss=loss, seed=seed)[scheme.name]


def first_step_of_each(
    model: nn.Module,
    sample_batch: Any,
    scheme: SchemeValues,
    *,
    loss: Callable[..., Any] | None = None,
    seed: int = 0,
) -> dict[str, FirstStep]:
    """The same for every tensor that a scheme fills, each filled alone among the weights as they came.

    It takes two passes for each tensor: for benchmarks, and to find which tensor's fill is at fault.

    Args:
        model: as in :func:`first_steps`.
        sample_batch: as there.
        scheme: whose fills are tried one by one; its data-driven steps are left out.
        loss: as there.
        seed: as there.

    Returns:
        Path -> the comparison.
    """
    alone = {
        a.path: replace(
            scheme,
            calibrations=(),
            assignments=tuple(
                other if other.path == a.path else replace(other, parts=()) for other in scheme.assignments
            ),
        )
        for a in scheme.assignments
        if a.parts
    }
    return first_steps(model, sample_batch, alone, loss=loss, seed=seed)
