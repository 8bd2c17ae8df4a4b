"""What a loss that calls the model itself calls it with.

Such a loss may noise, crop or pair the batch before the model sees it, or never call the model as a whole but methods
and parts of it. Analysis has to read the pass that is trained, so the loss is run once and watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.errors import InputError
from initadvisor.guard import preserve_model, preserve_process, run_eagerly
from initadvisor.streams import seed_all
from initadvisor.training.data import Batch, first_batch, map_tensors, own_copy
from initadvisor.training.losses import Loss, LossKind, choose_loss, quoted, told_kind
from initadvisor.twins import Originals
from initadvisor.wrapped import unspread

SEED = 0
"""Of what a loss draws while it is watched: data-driven steps that see the result follow from their own seed alone."""


@dataclass
class _Seen:
    """Calls of the model while a loss ran.

    Attributes:
        first: arguments of the first, None before one.
        inside: modules with parameters of their own that the first one reached.
        reached: those that the whole loss reached.
    """

    first: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    inside: set[int] = field(default_factory=set)
    reached: set[int] = field(default_factory=set)
    within: bool = False


def batch_as_called(model: nn.Module, batch: Batch, loss: Loss) -> Batch:
    """The batch as the training calls the model with it. The caller guards the process's random numbers.

    Args:
        model: a copy that may be called, or one that the caller guards.
        batch: as it was taken apart without knowing of the loss.
        loss: of the training.

    Raises:
        InputError: the loss raises; its own error is quoted.

    Returns:
        The same batch, for losses that take an output. For those that take the model: with the arguments of its first
        call, where that reaches all there is to train; else with the loss itself in the place of a call.

    Example:
        >>> def denoise(model, batch):
        ...     x, noise = batch
        ...     return ((model(x + noise, torch.ones(len(x))) - noise) ** 2).mean()
        >>> class Net(nn.Linear):
        ...     def forward(self, x, level):
        ...         return super().forward(x) * level[:, None]
        >>> batch = Batch((), {}, None, (torch.zeros(5, 3), torch.ones(5, 3)))
        >>> called = batch_as_called(Net(3, 3), batch, Loss(LossKind.MODEL_BATCH, denoise))
        >>> [a.shape for a in called.args], float(called.args[0][0, 0])
        ([torch.Size([5, 3]), torch.Size([5])], 1.0)
    """
    if loss.kind is not LossKind.MODEL_BATCH:
        return batch
    seen = _Seen()
    seed_all(SEED)
    with _watched(model, seen):
        try:
            loss(model, own_copy(batch))
        except Exception as error:
            raise InputError(f"loss(model, batch) fails: {quoted(error)}") from error
    if seen.first is not None and seen.inside == seen.reached:
        args, kwargs = seen.first
        return replace(batch, args=args, kwargs=kwargs)
    return Batch((), {}, batch.target, batch.raw, loss.function)


def read_training(model: nn.Module, sample: Any, loss: Callable[..., Any] | None) -> tuple[Batch, Loss | None]:
    """The first batch, as the training calls the model with it, and the loss with its convention found out.

    Args:
        model: left as it was.
        sample: a batch or an iterable of batches; a :class:`~initadvisor.training.data.Batch` has been read
            and is given back.
        loss: the user's, in either convention, or None.

    Raises:
        InputError: the batch fits neither the model nor the loss, or the loss cannot be called.
    """
    model = unspread(model)
    batch = first_batch(model, sample, whole=loss is not None)
    if loss is None:
        return batch, None
    if isinstance(loss, Loss) and (isinstance(sample, Batch) or loss.kind is not LossKind.MODEL_BATCH):
        return batch, loss
    if told_kind(loss) is LossKind.OUTPUT_TARGET:
        return batch, Loss(LossKind.OUTPUT_TARGET, loss)
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.is_meta for t in tensors):
        return batch, None  # nothing can be tried: the loss would bring tensors of its own
    function = loss.function if isinstance(loss, Loss) else loss
    with preserve_process(), preserve_model(model, function), run_eagerly(), torch.enable_grad():
        # A first call would give lazy parameters their shapes for good.
        whole: dict[str, Any] = {"model": model, "loss": function}
        own = Originals(whole).copy() if any(is_lazy(t) for t in tensors) else whole
        settled = loss if isinstance(loss, Loss) else _settled(own["loss"], own["model"], batch)
        chosen = replace(settled, function=function)
        if isinstance(sample, Batch):
            return batch, chosen
        called = batch_as_called(own["model"], batch, replace(settled, function=own["loss"]))
        return called if called.through is None else replace(called, through=function), chosen


def _settled(loss: Callable[..., Any], model: nn.Module, batch: Batch) -> Loss:
    # Where the names tell, a run is spared; if it cannot be called, watching it shows.
    kind = told_kind(loss)
    return choose_loss(loss, model, batch) if kind is None else Loss(kind, loss)


def trained_batch(model: nn.Module, sample: Any, loss: Callable[..., Any] | None) -> Batch:
    """The first part of :func:`read_training`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        >>> batch = trained_batch(net, torch.zeros(5, 3), lambda model, x: (model(x + 1) - x).square().mean())
        >>> batch.args[0][0]
        tensor([1., 1., 1.])
    """
    return read_training(model, sample, loss)[0]


@contextmanager
def _watched(model: nn.Module, seen: _Seen) -> Iterator[None]:
    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if seen.first is None:
            # As it is now: the model may write to it.
            seen.first, seen.within = map_tensors((args, dict(kwargs)), lambda t: t.detach().clone()), True

    def end(module: nn.Module, args: Any, output: Any) -> None:
        seen.within = False

    def reach(number: int, module: nn.Module, args: Any) -> None:
        seen.reached.add(number)
        if seen.within:
            seen.inside.add(number)

    with ExitStack() as stack:
        for number, module in enumerate(model.modules()):
            if next(module.parameters(recurse=False), None) is not None:
                stack.callback(module.register_forward_pre_hook(partial(reach, number)).remove)
        # First of all hooks of the model itself, so that its own parameters are reached within.
        stack.callback(model.register_forward_pre_hook(begin, prepend=True, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(end, always_call=True).remove)
        yield
