"""AutoInit: every weight rescaled so that its output has unit variance by calculation, no data needed."""

from __future__ import annotations

import math

import torch

from initadvisor.graph.capture import capture
from initadvisor.initializers.card import Hyperparameter
from initadvisor.schemes.data_driven.card import CalibrationCard, Site, few, register
from initadvisor.schemes.data_driven.moments import Moments
from initadvisor.schemes.data_driven.tracking import Tracker

_SILENT = 1e-12
"""Variances below this come from weights that are zero on purpose."""


def analytic(site: Site, *, target: float = 1.0) -> tuple[str, ...]:
    """Follow mean and variance from standardised data through the graph, and set them at every weight.

    Bingham & Miikkulainen 2023. Linear maps by the sum of independent products, activations by integrals over a
    Gaussian, residual sums by adding, norms, dropout, pooling and attention by what they do. The batch serves only
    for the shapes.

    Args:
        site: what to work on.
        target: standard deviation wanted of every weight's output.

    Returns:
        Notes: how many weights were rescaled, between which factors, and which ops were not understood.
    """
    model = site.model
    factors: dict[str, float] = {}

    def choose(path: str, made: Moments, bias: Moments) -> float:
        wanted = target**2 - bias.variance
        if path not in site.slots or made.variance <= _SILENT or wanted <= 0:
            return 1.0
        factors[path] = math.sqrt(wanted / made.variance)
        return factors[path]

    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    for path, slot in site.slots.items():
        tensors[path] = slot.read()
    tracker = Tracker(capture(model, site.batch), tensors, choose)
    tracker.run()
    with torch.no_grad():
        for path, factor in factors.items():
            slot = site.slots[path]
            slot.write(slot.read() * factor)
    if not factors:
        return ("analytic: no weight was rescaled",)
    notes = [f"analytic: {len(factors)} weights rescaled by {min(factors.values()):.3g} to {max(factors.values()):.3g}"]
    if tracker.unknown:
        notes.append(f"analytic: unit variance assumed behind {few(tracker.unknown)}")
    return tuple(notes)


register(
    CalibrationCard(
        name="analytic",
        summary="Every weight rescaled to unit output variance by calculation through the graph (AutoInit).",
        fn=analytic,
        references=("bingham2023",),
        args={"target": Hyperparameter(1.0, low=0.01, high=100.0, log=True, meaning="standard deviation of outputs")},
        right_when="Nets without norms whose data are standardised, of mixed activations, sums and poolings.",
        wrong_when="Residual nets whose branch outputs should start small, and data far from standardised.",
        deviation=(
            "Pooling takes into account how alike positions are, zero padding that some taps see nothing; an op that "
            "is not understood is taken to give unit variance."
        ),
    )
)
