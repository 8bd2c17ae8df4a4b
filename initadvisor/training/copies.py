"""Copies that a training runs on, and what has to be found out by running a copy once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.errors import InputError
from initadvisor.reach import modules_in, reach
from initadvisor.training.batches import Data, Split
from initadvisor.training.calls import batch_as_called
from initadvisor.training.data import Batch, map_tensors, own_copy
from initadvisor.training.losses import Loss, choose_loss, quoted
from initadvisor.twins import Originals


def copied(originals: Originals, device: torch.device) -> dict[str, Any]:
    """Copies on ``device``, the model in training mode unless it is in use that way already, without gradients.

    Raises:
        InputError: the model cannot be copied.
    """
    model = originals.roots["model"]
    try:
        made = originals.copy()
    except Exception as error:
        raise InputError(f"{type(model).__name__} cannot be copied, which trials need: {quoted(error)}") from error
    if device.type != "cpu":  # where else could the model be
        others = reach({name: value for name, value in made.items() if name != "model"})
        for _, network in modules_in(others):
            network.to(device)
    twin = made["model"] = made["model"].to(device)
    if not model.training:
        twin.train()
    for p in twin.parameters():
        p.grad = None
    return made


def sample_as_called(model: nn.Module, batch: Batch, loss: Loss, device: torch.device) -> Batch:
    """The batch as the training calls the model with it, found out on copies."""
    made = copied(Originals({"model": model, "loss": loss.function}), device)
    called = batch_as_called(made["model"], batch, replace(loss, function=made["loss"]))
    return called if called.through is None else replace(called, through=loss.function)


def materialised(
    model: nn.Module, batch: Batch, device: torch.device, loss: Callable[..., Any] | None
) -> tuple[nn.Module, Callable[..., Any] | None, str]:
    """Model and loss themselves, or where there are lazy parameters copies that have seen a batch."""
    if not any(is_lazy(p) for p in model.parameters()):
        return model, loss, ""
    made = Originals({"model": model, "loss": loss}).copy()
    twin, loss = made["model"].to(device), made["loss"]
    there = own_copy(move_batch(batch, device))
    try:
        with torch.no_grad():
            there.call(twin)
    except Exception as error:
        if loss is None:
            raise InputError(f"the model rejects the batch: {quoted(error)}") from error
        choose_loss(loss, twin, there)  # which may call it otherwise
    return twin, loss, "lazy layers were given their sizes by the first batch, on a copy"


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; objects with a ``to`` of their own (graphs) move themselves."""

    def moved(value: Any) -> Any:
        if hasattr(value, "to") and not isinstance(value, torch.Tensor):
            return value.to(device)
        return map_tensors(value, lambda t: t if t.device == device else t.to(device))

    if device.type == "cpu":
        # Batches live there already, and identities between raw and its parts are kept.
        return batch
    return Batch(
        tuple(moved(a) for a in batch.args),
        {k: moved(v) for k, v in batch.kwargs.items()},
        moved(batch.target),
        moved(batch.raw),
    )


def moved_to(data: Data, device: torch.device) -> Data:
    """All batches on ``device``, those that splits share still shared."""
    there: dict[int, Batch] = {}

    def moved(split: Split) -> Split:
        # Splits share their batches, and so must their copies on a device.
        for batch in (*split.train, *split.heldout):
            if id(batch) not in there:
                there[id(batch)] = move_batch(batch, device)
        return Split(tuple(there[id(b)] for b in split.train), tuple(there[id(b)] for b in split.heldout))

    return replace(data, choosing=moved(data.choosing), folds=tuple(map(moved, data.folds)))


def chosen_loss(model: nn.Module, loss: Callable[..., Any] | None, batch: Batch, device: torch.device) -> Loss:
    """The user's loss with its calling convention, or the inferred one, found out on copies.

    Raises:
        InputError: nothing fits; the message says what was seen and what to give.
    """
    made = copied(Originals({"model": model, "loss": loss}), device)
    return replace(choose_loss(made["loss"], made["model"], batch), function=loss)
