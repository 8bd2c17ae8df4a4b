"""The user's training as a value: everything a trial needs to run exactly what they would run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from initadvisor.errors import InputError
from initadvisor.guard import preserve_model, preserve_process
from initadvisor.streams import derive
from initadvisor.training.batches import Data, Split, read_data, unsplit
from initadvisor.training.calls import batch_as_called
from initadvisor.training.data import Batch, first_batch, map_tensors
from initadvisor.training.losses import Loss, choose_loss, first_line, quoted
from initadvisor.training.optimizers import OptimizerPlan, choose_rates, normalise_optimizer

SchedulerFactory = Callable[[Optimizer], Any]


@dataclass(frozen=True)
class TrainingTask:
    """One training as its owner wrote it, ready to be repeated on copies of the model.

    Attributes:
        model: the model as it came (a materialised copy of a lazy one); never modified.
        choosing: what all members train on and what scores them while schemes are chosen.
        folds: the same for confirming members, in turn; empty where ``choosing`` has to serve them too.
        sample: the batch that analysis and data-driven schemes see, as the loss calls the model with it.
        loss: called with a model and a batch.
        optimizer: builds the user's optimizer over a member's parameters.
        rates: learning rates to try, ascending.
        lr_locked: there is only the user's own rate.
        scheduler: as given, or None.
        clip_norm: bound of the gradient norm, or None.
        autocast: dtype of the autocast region ``advise`` was called in, or None.
        device: where members train.
        full_steps: length of the full training, or None.
        seed: the user's.
        separate: scores are of data never trained on.
        random: the training draws random numbers (dropout, augmentation within the model).
        eval_needs_grad: the loss differentiates by itself (physics-informed losses), also when only scoring.
        notes: remarks for the report.
        fold_of: which of ``folds`` the members of a seed use; those of other seeds use ``choosing``.
    """

    model: nn.Module
    choosing: Split
    folds: tuple[Split, ...]
    sample: Batch
    loss: Loss
    optimizer: OptimizerPlan
    rates: tuple[float, ...]
    lr_locked: bool
    scheduler: SchedulerFactory | None
    clip_norm: float | None
    autocast: torch.dtype | None
    device: torch.device
    full_steps: int | None
    seed: int
    separate: bool = True
    random: bool = False
    eval_needs_grad: bool = False
    notes: tuple[str, ...] = ()
    fold_of: Mapping[int, int] = field(default_factory=dict)

    @property
    def loss_name(self) -> str:
        """The loss in words, and whether it was inferred."""
        return self.loss.text

    @property
    def optimizer_name(self) -> str:
        """The optimizer, scheduler and clipping in words."""
        parts = [self.optimizer.name]
        if self.scheduler is not None:
            parts.append(f"scheduled by {getattr(self.scheduler, '__name__', type(self.scheduler).__name__)}")
        if self.clip_norm is not None:
            parts.append(f"gradient norm clipped at {self.clip_norm:g}")
        if self.autocast is not None:
            parts.append(f"autocast to {str(self.autocast).removeprefix('torch.')}")
        return ", ".join(parts)

    def member(self) -> nn.Module:
        """A fresh copy of the model on the training device, in training mode."""
        return training_copy(self.model, self.device)

    def build_scheduler(self, optimizer: Optimizer) -> Any:
        """The user's scheduler over ``optimizer``, or None."""
        return None if self.scheduler is None else self.scheduler(optimizer)

    def compute_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of one batch, under the user's autocast."""
        if self.autocast is None:
            return self.loss(model, batch)
        with torch.autocast(self.device.type, dtype=self.autocast):
            return self.loss(model, batch)

    def turned(self, seeds: Sequence[int]) -> TrainingTask:
        """The same training where the members of these seeds use the folds in turn."""
        return replace(self, fold_of={seed: i % len(self.folds) for i, seed in enumerate(seeds) if self.folds})

    def split_of(self, seed: int) -> Split:
        """What the members of ``seed`` train on and what scores them."""
        fold = self.fold_of.get(seed)
        return self.choosing if fold is None else self.folds[fold]

    def batch_at(self, seed: int, step: int) -> Batch:
        """The batch every member of ``seed`` trains on at ``step`` (0-based); every pass has a new order."""
        train = self.split_of(seed).train
        count = len(train)
        if count == 1:
            return train[0]
        epoch, place = divmod(step, count)
        return train[_order(derive(seed, "order", epoch), count)[place]]


_ORDERS: dict[tuple[int, int], tuple[int, ...]] = {}


def _order(seed: int, count: int) -> tuple[int, ...]:
    """A permutation; the last few are remembered since every member of a seed asks for the same."""
    found = _ORDERS.get((seed, count))
    if found is None:
        if len(_ORDERS) > 64:
            _ORDERS.clear()
        generator = torch.Generator().manual_seed(seed)
        found = _ORDERS[seed, count] = tuple(torch.randperm(count, generator=generator).tolist())
    return found


def training_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """A deep copy on ``device``, in training mode unless the model is in use that way already.

    Tensors a module keeps outside its parameters and that carry a graph (as old weight norm does) cannot be deep-copied
    by torch; their values are.

    Raises:
        InputError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise InputError(f"{type(model).__name__} cannot be copied, which trials need: {quoted(error)}") from error
    twin = twin.to(device)
    if not model.training:
        twin.train()
    for p in twin.parameters():
        p.grad = None
    return twin


def make_task(
    model: nn.Module,
    sample_batch: Any,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    lr: Any = None,
    scheduler: SchedulerFactory | None = None,
    clip_norm: float | None = None,
    steps: int | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> TrainingTask:
    """Understand a training and prove on a copy of the model that one step of it runs.

    The arguments are those of :func:`initadvisor.advise`.

    Raises:
        InputError: something cannot be used; the message says what and how to mend it.

    Example:
        >>> task = make_task(nn.Linear(4, 3), (torch.randn(40, 4), torch.randint(3, (40,))), lr=0.1)
        >>> task.loss_name, task.rates, len(task.folds)
        ('cross-entropy over the last axis (integer targets), inferred', (0.1,), 7)
    """
    _check_numbers(clip_norm, steps)
    with preserve_process(), preserve_model(model):
        place = _device_of(model, device)
        data = read_data(model, sample_batch, seed=seed, full_steps=steps, whole=loss is not None)
        model, lazy_note = _materialised(model, data.choosing.train[0], place, loss)
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError(f"{type(model).__name__} has no trainable parameter; nothing to initialise")
        data, chosen = _try_loss(model, sample_batch, _moved(data, place), loss, place)
        plan = normalise_optimizer(optimizer, model)
        rates, locked = choose_rates(lr, plan)
        task = TrainingTask(
            model=model,
            choosing=data.choosing,
            folds=data.folds,
            sample=batch_as_called(training_copy(model, place), data.choosing.train[0], chosen),
            loss=chosen,
            optimizer=plan,
            rates=rates,
            lr_locked=locked,
            scheduler=scheduler,
            clip_norm=clip_norm,
            autocast=_ambient_autocast(place),
            device=place,
            full_steps=steps,
            seed=seed,
            separate=data.separate,
            notes=tuple(n for n in (data.note, lazy_note) if n),
        )
        return _rehearse(task)


def _check_numbers(clip_norm: float | None, steps: int | None) -> None:
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm={clip_norm!r}; give a positive bound, or None for no clipping")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"steps={steps!r}; give the number of optimizer steps of the full training, or None")


def _device_of(model: nn.Module, device: str | torch.device | None) -> torch.device:
    if device is not None:
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device={device!r}: {first_line(error)}") from error
    place = next((p.device for p in model.parameters()), torch.device("cpu"))
    if place.type == "meta":
        raise InputError("the model is on the meta device and has no weights to train; analyze() and propose() take it")
    return place


def _ambient_autocast(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _materialised(
    model: nn.Module, batch: Batch, device: torch.device, loss: Callable[..., Any] | None
) -> tuple[nn.Module, str]:
    """The model itself, or where it has lazy parameters a copy that has seen a batch."""
    if not any(is_lazy(p) for p in model.parameters()):
        return model, ""
    twin = copy.deepcopy(model).to(device)
    there = move_batch(batch, device)
    try:
        with torch.no_grad():
            there.call(twin)
    except Exception as error:
        if loss is None:
            raise InputError(f"the model rejects the batch: {quoted(error)}") from error
        choose_loss(loss, twin, there)  # which may call it otherwise
    return twin, "lazy layers were given their sizes by the first batch, on a copy"


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


def _moved(data: Data, device: torch.device) -> Data:
    there: dict[int, Batch] = {}

    def moved(split: Split) -> Split:
        # Splits share their batches, and so must their copies on a device.
        for batch in (*split.train, *split.heldout):
            if id(batch) not in there:
                there[id(batch)] = move_batch(batch, device)
        return Split(tuple(there[id(b)] for b in split.train), tuple(there[id(b)] for b in split.heldout))

    return replace(data, choosing=moved(data.choosing), folds=tuple(map(moved, data.folds)))


def _try_loss(
    model: nn.Module, sample: Any, data: Data, loss: Callable[..., Any] | None, device: torch.device
) -> tuple[Data, Loss]:
    """Settle the loss; where a model takes the whole batch but no part of it, train and score on the whole."""
    try:
        return data, choose_loss(loss, training_copy(model, device), data.choosing.train[0])
    except InputError:
        several = len(data.choosing.train) + len(data.choosing.heldout) > 2
        if several or not data.separate or not isinstance(sample, (tuple, dict, list)):
            raise
        batch = first_batch(model, sample, whole=loss is not None)
        whole = unsplit(move_batch(batch, device), "the model takes no part of it")
        return whole, choose_loss(loss, training_copy(model, device), whole.choosing.train[0])


def _rehearse(task: TrainingTask) -> TrainingTask:
    """Run one step and one scoring on a copy; find out what the training needs."""
    twin = task.member()
    before = torch.get_rng_state()
    value = _quoted("the training", lambda: task.compute_loss(twin, task.sample))
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"the loss returns {shape}, not one number; reduce it with .mean()")
    if not value.requires_grad:
        raise InputError("the loss does not depend on any trainable parameter; is the model under no_grad or detached?")
    random = not torch.equal(before, torch.get_rng_state())
    _quoted("the backward pass", value.backward)
    notes = list(task.notes)
    if hasattr(task.model, "_orig_mod"):
        notes.append("the model is compiled; trials run it uncompiled, which gives the same but for rounding")
    rates, locked = task.rates, task.lr_locked
    if task.scheduler is not None and not _rate_survives(task, twin):
        rates, locked = rates[:1], True
        notes.append("the scheduler sets the learning rate by itself, so it was not searched")
    if task.optimizer.groups:
        named = {n for g in task.optimizer.groups for n in g.names}
        left = [n for n, p in task.model.named_parameters() if p.requires_grad and n not in named]
        if left:
            notes.append(
                f"{len(left)} trainable parameters are in no group of the optimizer and stay as drawn: {left[0]}"
            )
    if not task.model.training:
        notes.append("the model came in evaluation mode; trials train it in training mode")
    needs_grad = _scoring_needs_grad(task, twin)
    return replace(task, rates=rates, lr_locked=locked, random=random, eval_needs_grad=needs_grad, notes=tuple(notes))


def _quoted(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} raises {quoted(error)}") from error


def _rate_survives(task: TrainingTask, twin: nn.Module) -> bool:
    """Whether the rate of a scheduled optimizer still follows from the one it was built with."""
    seen = []
    for rate in (task.rates[0], task.rates[0] * 2):
        optimizer = task.optimizer.build(twin, rate)
        _quoted("the scheduler", partial(task.build_scheduler, optimizer))
        seen.append([float(g.get("lr", 1.0)) for g in optimizer.param_groups])
    # A warm-up may start at zero at any rate; only equal positive rates are telling.
    return seen[0] != seen[1] or not any(seen[0])


def _scoring_needs_grad(task: TrainingTask, twin: nn.Module) -> bool:
    batch = task.choosing.heldout[0]
    twin.eval()
    try:
        with torch.no_grad():
            task.compute_loss(twin, batch)
    except Exception:  # noqa: BLE001 - tried again below with gradients, and quoted if that fails too
        _quoted("the loss in evaluation mode", lambda: task.compute_loss(twin, batch))
        return True
    return False
