"""The user's training as a value: everything a trial needs to run exactly what they would run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from initadvisor.errors import InputError, worked_around
from initadvisor.guard import preserve_process, preserving
from initadvisor.private import version_of
from initadvisor.reach import WRITTEN, Node, reach, roots_of
from initadvisor.snapshot import Snapshot
from initadvisor.streams import check_seed, derive
from initadvisor.training.batches import Data, Split, read_data, unsplit
from initadvisor.training.copies import chosen_loss, copied, materialised, move_batch, moved_to, sample_as_called
from initadvisor.training.data import Batch, first_batch, own_copy, tensors_in
from initadvisor.training.losses import Loss, first_line, quoted
from initadvisor.training.optimizers import OptimizerPlan, choose_rates, normalise_optimizer
from initadvisor.training.schedule import Schedule, read_schedule
from initadvisor.twins import Originals

SchedulerFactory = Callable[[Optimizer], Any]

WITHOUT_WARMUP = frozenset({"race", "refine"})
"""Phases whose runs leave the user's warm-up out: at the small rates of its first steps all starts look alike. On
three transformers that warm up for 100 steps, the order after 40 steps of such a warm-up correlates with the final one
by -.14, .60 and .76, without it by .71, .83 and .74."""


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
        schedule: what was read of it: its warm-up, and where it ends.
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
        carries: a step changes more than parameters and buffers: attributes, or what the loss holds.
        counts: that is more than tensors of the last pass, which modules keep.
        trains: a tensor beside the model that a step writes to, which members side by side cannot share; or nothing.
        writes: a step writes to its batch, of which it is given a copy then.
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
    schedule: Schedule = field(default_factory=Schedule)
    separate: bool = True
    random: bool = False
    eval_needs_grad: bool = False
    notes: tuple[str, ...] = ()
    fold_of: Mapping[int, int] = field(default_factory=dict)
    carries: bool = False
    counts: bool = False
    trains: str = ""
    writes: bool = False

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

    @cached_property
    def originals(self) -> Originals:
        """The model and what else a training runs, to be copied together for each run."""
        roots = {"loss": self.loss.function, "optimizer": self.optimizer.factory, "scheduler": self.scheduler}
        return Originals({"model": self.model, **roots})

    def __getstate__(self) -> dict[str, Any]:
        """Without the originals, which whoever needs them finds again."""
        return {name: value for name, value in vars(self).items() if name != "originals"}

    def member(self) -> nn.Module:
        """A fresh copy of the model on the training device, in training mode.

        With copies of its own of whatever the loss, the factory of optimizers and the schedule can change: an EMA
        teacher or a discriminator in the loss's closure belongs to one run. :meth:`of` gives the training with those.
        """
        made = copied(self.originals, self.device)
        twin: nn.Module = made["model"]
        if any(self.originals.has_state(name) for name in ("loss", "optimizer", "scheduler")):
            own = _Own(
                replace(self.loss, function=made["loss"]),
                replace(self.optimizer, factory=made["optimizer"]),
                made["scheduler"],
            )
            vars(twin)[_OWN] = own
        return twin

    def of(self, model: nn.Module) -> TrainingTask:
        """The training of one run, by its model."""
        own = vars(model).get(_OWN)
        return self if own is None else replace(self, loss=own.loss, optimizer=own.optimizer, scheduler=own.scheduler)

    def roots_of(self, model: nn.Module) -> dict[str, Any]:
        """All that one run can change, by name, found from its model."""
        own = self.of(model)
        other = {"loss": own.loss.function, "optimizer": own.optimizer.factory, "scheduler": own.scheduler}
        return {**other, "model": model}  # the model last, as it leads to all the others

    def loss_of(self, model: nn.Module) -> Loss:
        """The loss of one run, by its model."""
        own = vars(model).get(_OWN)
        return self.loss if own is None else own.loss

    def build_scheduler(self, optimizer: Optimizer) -> Any:
        """The user's scheduler over ``optimizer``, or None."""
        return None if self.scheduler is None else self.scheduler(optimizer)

    def held_rates(self, phase: str, step: int, lr: float) -> tuple[float, ...] | None:
        """Rates of all groups where a run of a phase leaves out the user's warm-up; None where theirs hold."""
        return self.schedule.held(step, lr) if phase in WITHOUT_WARMUP else None

    def compute_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of one batch, under the user's autocast."""
        loss = self.loss_of(model)
        batch = own_copy(batch) if self.writes else batch
        if self.autocast is None:
            return loss(model, batch)
        with torch.autocast(self.device.type, dtype=self.autocast):
            return loss(model, batch)

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


@dataclass(frozen=True)
class _Own:
    """What one run has to itself beside its model."""

    loss: Loss
    optimizer: OptimizerPlan
    scheduler: SchedulerFactory | None


_OWN = "_initadvisor_own"
"""Attribute of a copied model under which its run's own loss is kept: they refer to each other, and end together."""


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
    check_seed(seed)
    factory = None if isinstance(optimizer, Optimizer) else optimizer
    everything = {type(model).__name__: model, **roots_of(loss, factory, scheduler)}
    with preserve_process():
        with preserving(everything):
            place = _device_of(model, device)
            data = read_data(model, sample_batch, seed=seed, full_steps=steps, whole=loss is not None)
            model, loss, lazy_note = materialised(model, data.choosing.train[0], place, loss)
            if not any(p.requires_grad for p in model.parameters()):
                raise InputError(f"{type(model).__name__} has no trainable parameter; nothing to initialise")
            data, chosen = _try_loss(model, sample_batch, moved_to(data, place), loss, place)
            plan = normalise_optimizer(optimizer, model)
            rates, locked = choose_rates(lr, plan)
            task = TrainingTask(
                model=model,
                choosing=data.choosing,
                folds=data.folds,
                sample=sample_as_called(model, data.choosing.train[0], chosen, place),
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
        with preserving({**everything, type(model).__name__: model}) as snapshot:
            task = _rehearse(task)
            return replace(task, notes=(*task.notes, *_shared_notes(task, snapshot)))


def _shared_notes(task: TrainingTask, snapshot: Snapshot) -> list[str]:
    """What of the user's own a step on a copy has changed, and hence all runs would share.

    Raises:
        InputError: it is a tensor: the copy computes with weights, or moves statistics, of the original.
    """
    changed = list(snapshot.changed())
    tensors = [n for n in changed if n.kind in WRITTEN]
    if tensors:
        made = task.originals.copy()
        routes = {id(n.value): n.path for n in reach(made).nodes}
        told = [n for n in tensors if id(n.value) in routes] or tensors
        route = routes.get(id(told[0].value), told[0].path)
        raise InputError(
            f"a copy of {type(task.model).__name__} is no copy of all that is trained: one step on it changes "
            f"{told[0].path} of the original, which it reaches as {route}; keep that in an attribute of the module or "
            "a variable of the loss, not in a cache or on a class"
        )
    return [f"{n.path} changes while a model is trained, and is shared by all runs" for n in changed]


def _check_numbers(clip_norm: float | None, steps: int | None) -> None:
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm={clip_norm!r}; give a positive bound, or None for no clipping")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"steps={steps!r}; give the number of optimizer steps of the full training, or None")


def _device_of(model: nn.Module, device: str | torch.device | None) -> torch.device:
    if device is not None:
        try:
            asked = torch.device(device)
            usable = (torch.ones(1, device=asked) + 1).device.type != "meta"
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            # Torch built without CUDA says so by an assertion.
            raise InputError(f"device={str(device)!r} cannot be used here: {first_line(error)}; try cpu") from error
        if not usable:
            raise InputError("nothing can be trained on the meta device; analyze() and propose() take such a model")
        return asked
    place = next((p.device for p in model.parameters()), torch.device("cpu"))
    if place.type == "meta":
        raise InputError("the model is on the meta device and has no weights to train; analyze() and propose() take it")
    return place


def _ambient_autocast(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _try_loss(
    model: nn.Module, sample: Any, data: Data, loss: Callable[..., Any] | None, device: torch.device
) -> tuple[Data, Loss]:
    """Settle the loss; where a model takes the whole batch but no part of it, train and score on the whole."""
    try:
        return data, chosen_loss(model, loss, data.choosing.train[0], device)
    except InputError:
        several = len(data.choosing.train) + len(data.choosing.heldout) > 2
        if several or not data.separate or not isinstance(sample, (tuple, dict, list)):
            raise
        batch = first_batch(model, sample, whole=loss is not None)
        whole = unsplit(move_batch(batch, device), "the model takes no part of it")
        return whole, chosen_loss(model, loss, whole.choosing.train[0], device)


def _rehearse(task: TrainingTask) -> TrainingTask:
    """Run one step and one scoring on a copy; find out what the training needs."""
    twin = task.member()
    before, own = torch.get_rng_state(), Snapshot(reach(task.roots_of(twin)))
    sample = own_copy(task.sample)
    versions = [version_of(t) for t in tensors_in((sample.inputs, sample.target, sample.raw))]
    value = _quoted("the training", lambda: task.compute_loss(twin, sample))
    writes = versions != [version_of(t) for t in tensors_in((sample.inputs, sample.target, sample.raw))]
    task = replace(task, writes=writes)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"the loss returns {shape}, not one number; reduce it with .mean()")
    if not value.requires_grad:
        raise InputError("the loss does not depend on any trainable parameter; is the model under no_grad or detached?")
    random = not torch.equal(before, torch.get_rng_state())
    _quoted("the backward pass", value.backward)
    moved = _moved_beside(twin, own)
    notes = list(task.notes)
    if hasattr(task.model, "_orig_mod"):
        notes.append("the model is compiled; trials run it uncompiled, which gives the same but for rounding")
    rates, locked = task.rates, task.lr_locked
    schedule = Schedule()
    if task.scheduler is not None:
        schedule = _quoted("the scheduler", lambda: _schedule_of(task.of(twin), twin))
        if schedule.ends is not None and schedule.ends < (task.full_steps or schedule.ends):
            notes.append(
                f"the schedule ends after {schedule.ends} of {task.full_steps} steps, so trials end there, too; "
                "give it the length of the training"
            )
    if task.scheduler is not None and not _rate_survives(task.of(twin), twin):
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
    return replace(
        task,
        rates=rates,
        lr_locked=locked,
        random=random,
        eval_needs_grad=needs_grad,
        schedule=schedule,
        notes=tuple(notes),
        carries=bool(moved),
        counts=not all(map(own.only_tensors, moved)),
        trains=next((node.path for node in moved if node.kind in WRITTEN), ""),
    )


def _moved_beside(twin: nn.Module, own: Snapshot) -> list[Node]:
    """What a pass has changed beside parameters and buffers."""
    named = {id(t) for t in (*twin.parameters(), *twin.buffers())}
    tables = {id(m._buffers) for m in twin.modules()}
    return [node for node in own.changed() if id(node.value) not in named | tables]


def _schedule_of(task: TrainingTask, twin: nn.Module) -> Schedule:
    def build(lr: float) -> tuple[Optimizer, Any]:
        optimizer = task.optimizer.build(twin, lr)
        optimizer.zero_grad(set_to_none=True)
        return optimizer, task.build_scheduler(optimizer)

    return read_schedule(build, task.rates[0], task.full_steps)


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
    except Exception as error:  # noqa: BLE001 - tried again with gradients, and quoted if that fails too
        worked_around("scoring without gradients", error, (Exception,))
        _quoted("the loss in evaluation mode", lambda: task.compute_loss(twin, batch))
        return True
    return False
