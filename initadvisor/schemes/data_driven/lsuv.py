"""LSUV, layer-sequential unit variance: every weight rescaled so that its output has unit variance on the batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from initadvisor.initializers.card import Hyperparameter
from initadvisor.schemes.data_driven.card import CalibrationCard, Site, few, register
from initadvisor.schemes.data_driven.watch import watching
from initadvisor.schemes.slots import SlotKind

_SILENT = 1e-6
"""Outputs below this standard deviation come from weights that are zero on purpose; no factor mends that."""

_LARGEST_FACTOR = 1e4
"""A factor beyond this means that the signal is gone, not that the weight is small."""


@dataclass
class _Progress:
    """What one pass has done so far."""

    target: float
    tolerance: float
    rounds: int
    factors: dict[str, float] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    unsettled: set[str] = field(default_factory=set)


def _spread(output: torch.Tensor) -> float:
    return float(output.detach().to(torch.float64 if output.dtype == torch.float64 else torch.float32).std())


def lsuv(site: Site, *, target: float = 1.0, tolerance: float = 0.01, rounds: float = 10.0) -> tuple[str, ...]:
    """Rescale weights in the order in which they are used, each until its output has the standard deviation wanted.

    Mishkin & Matas 2016, algorithm 1. One forward pass does it: the kernel that multiplies with a weight is repeated
    with the rescaled weight until its output fits, and the pass goes on with that output. A weight that is used twice
    is set at its first use. Biases take part in what is measured, as they do there.

    Args:
        site: what to work on.
        target: standard deviation wanted.
        tolerance: relative deviation at which a layer is done.
        rounds: most rescalings per layer.

    Returns:
        Notes: how many weights were rescaled, between which factors, and which were left.
    """
    progress = _Progress(target, tolerance, int(rounds))
    regions: dict[tuple[str, int, tuple[int, ...]], None] = {}
    # A part of a packed tensor is known by where it starts and its sizes.

    def use(path: str, weight: torch.Tensor, output: torch.Tensor, again: Any) -> torch.Tensor:
        region = (path, int(weight.storage_offset()), tuple(sorted(weight.shape)))
        if region in regions:
            return output
        regions[region] = None
        return _settle(path, weight, output, again, progress)

    with watching(site.slots, use):
        site.batch.call(site.model)
    with torch.no_grad():
        for path, factor in progress.factors.items():
            slot = site.slots[path]
            if slot.kind is not SlotKind.PLAIN:
                slot.write(slot.read() * factor)
    return _told(progress, [path for path in site.slots if path not in {p for p, *_ in regions}], site)


def _settle(path: str, weight: torch.Tensor, output: torch.Tensor, again: Any, progress: _Progress) -> torch.Tensor:
    """Rescale one weight (or the part of a packed one that this kernel uses) until its output fits."""
    total = 1.0
    for _ in range(progress.rounds):
        spread = _spread(output)
        if not spread > _SILENT or spread == float("inf"):
            break
        if abs(spread / progress.target - 1) <= progress.tolerance:
            progress.factors[path] = total
            return output
        factor = progress.target / spread
        if total * factor > _LARGEST_FACTOR:
            break
        weight.mul_(factor)
        total *= factor
        output = again()
    spread = _spread(output)
    if total == 1.0 or not spread > _SILENT:
        progress.silent.add(path)
        weight.mul_(1 / total)
        return again() if total != 1.0 else output
    progress.factors[path] = total
    if abs(spread / progress.target - 1) > progress.tolerance:
        progress.unsettled.add(path)
    return output


def _told(progress: _Progress, unused: list[str], site: Site) -> tuple[str, ...]:
    notes = []
    if progress.factors:
        low, high = min(progress.factors.values()), max(progress.factors.values())
        notes.append(f"lsuv: {len(progress.factors)} weights rescaled by {low:.3g} to {high:.3g}")
    else:
        notes.append("lsuv: no weight was rescaled")
    if progress.unsettled:
        notes.append(f"lsuv: not within tolerance after {progress.rounds} rounds: {few(progress.unsettled)}")
    if progress.silent:
        notes.append(f"lsuv: outputs without variance, left as filled: {few(progress.silent)}")
    matrices = [path for path in unused if site.slots[path].param.ndim > 1]
    if matrices:
        notes.append(f"lsuv: not seen in a contraction, left as filled: {few(matrices)}")
    return tuple(notes)


register(
    CalibrationCard(
        name="lsuv",
        summary="Every weight rescaled, in execution order, to unit output variance on the batch.",
        fn=lsuv,
        references=("mishkin2016",),
        args={
            "target": Hyperparameter(1.0, low=0.01, high=100.0, log=True, meaning="standard deviation of outputs"),
            "tolerance": Hyperparameter(0.01, low=1e-6, high=0.5, log=True, meaning="relative deviation accepted"),
            "rounds": Hyperparameter(10.0, low=1.0, high=100.0, meaning="most rescalings per layer"),
        },
        right_when="Deep nets without norms, of activations no formula knows.",
        wrong_when="Residual nets whose branch outputs should start small, sine networks, batches of a few samples.",
        deviation="One forward pass that repeats only the kernel at hand; the paper runs the net anew for each layer.",
    )
)
