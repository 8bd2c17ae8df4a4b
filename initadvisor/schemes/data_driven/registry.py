"""All data-driven steps, and the one door through which they are run: guarded, verified, undone where they fail."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

import initadvisor.schemes.data_driven.analytic as analytic
import initadvisor.schemes.data_driven.gradinit as gradinit
import initadvisor.schemes.data_driven.lsuv as lsuv
import initadvisor.schemes.data_driven.metainit as metainit
from initadvisor.errors import InitAdvisorError, SchemeError, nearest
from initadvisor.guard import preserve_model, preserve_process, run_eagerly
from initadvisor.schemes.data_driven.card import CalibrationCard, ModelLoss, Site, cards, few, get, rescalable
from initadvisor.schemes.seeding import stream_seed
from initadvisor.schemes.values import Calibration
from initadvisor.training.data import Batch

FAMILIES = (lsuv, analytic, metainit, gradinit)
"""The modules whose cards are registered."""

_QUOTED = 200
"""Characters of a model's own error that a note quotes."""


def check_calibrations(calibrations: Iterable[Calibration]) -> None:
    """Make sure that every step exists and takes the arguments it is given, before anything is written.

    Raises:
        RegistryError: an unknown step.
        SchemeError: an unknown argument, or one outside its range.

    Example:
        >>> check_calibrations([Calibration("lsuv", (("target", 1.0),))])
    """
    for calibration in calibrations:
        card = get(calibration.method)
        for name, value in calibration.args:
            if name not in card.args:
                raise SchemeError(f'{card.name} takes no argument "{name}"; {nearest(name, card.args)}')
            allowed = card.args[name]
            if allowed.choices:
                if value not in allowed.choices:
                    raise SchemeError(f'{card.name}: {name} is one of {", ".join(allowed.choices)}, not "{value}"')
                continue
            if isinstance(value, str):
                raise SchemeError(f'{card.name}: {name} is a number, not "{value}"')
            below = allowed.low is not None and value < allowed.low
            above = allowed.high is not None and value > allowed.high
            if below or above:
                raise SchemeError(f"{card.name}: {name} lies between {allowed.low} and {allowed.high}, not {value}")


def calibrate(
    calibration: Calibration,
    model: nn.Module,
    *,
    paths: set[str],
    batch: Batch,
    loss: ModelLoss | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Run one data-driven step on a filled model.

    Only tensors of ``paths`` change, and only by a factor each. Buffers, gradients, training flags, hooks, random
    states and everything else are afterwards what they were. Where the step fails (an op without second derivatives,
    a loss that cannot be inferred) or would leave a number that is not finite, the filled weights stay as they were
    and the note says why: a data-driven step is a refinement, never a condition.

    Args:
        calibration: which step, with which arguments.
        model: filled already; changed in place.
        paths: tensors that may change.
        batch: what the model is called with.
        loss: ``(model, batch) -> scalar``; None infers it from the batch where a step needs one.
        seed: of the step's random choices (dropout included).

    Returns:
        What was done, in sentences.

    Raises:
        RegistryError: an unknown step.
        SchemeError: an argument the step does not take.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4))
        >>> batch = Batch((torch.randn(256, 8),))
        >>> notes = calibrate(Calibration("lsuv"), model, paths={"0.weight", "2.weight"}, batch=batch)
        >>> round(float(model(*batch.args).std()), 1)
        1.0
    """
    check_calibrations([calibration])
    card = get(calibration.method)
    slots, skipped = rescalable(model, paths)
    site = Site(model, slots, batch, loss, seed)
    saved = [(tensor, tensor.detach().clone()) for slot in slots.values() for tensor in slot.touched()]
    kept = False
    try:
        function = getattr(loss, "function", loss)
        changing = [tensor for tensor, _ in saved]
        with preserve_process(), preserve_model(model, function, changing=changing), run_eagerly():
            # Dropout masks and whatever else the model draws follow from the seed, as everything here does.
            torch.manual_seed(stream_seed(seed, card.name))
            if not model.training:
                model.train()
            notes = card.fn(site, **dict(calibration.args))
        fault = _fault(saved)
        kept = fault is None
        if fault is not None:
            notes = (f"{card.name} was undone: {fault}",)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, InitAdvisorError) as error:
        text = " ".join(str(error).split())[:_QUOTED]
        notes = (f"{card.name} was undone, the filled weights stay: {type(error).__name__}: {text}",)
    finally:
        if not kept:
            with torch.no_grad():
                for tensor, before in saved:
                    tensor.copy_(before)
    if skipped:
        notes = (*notes, f"{card.name} left tensors that no factor reaches: {few(skipped)}")
    return notes


def _fault(saved: list[tuple[torch.Tensor, torch.Tensor]]) -> str | None:
    """What is wrong with the tensors a step may have changed."""
    bad = sum(not bool(torch.isfinite(tensor).all()) for tensor, _ in saved)
    return f"{bad} tensors would hold numbers that are not finite" if bad else None


__all__ = ["FAMILIES", "CalibrationCard", "ModelLoss", "calibrate", "cards", "check_calibrations", "get"]
