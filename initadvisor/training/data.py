"""What a batch is and how a model is called with it: one reading, shared by analysis, checks and trials."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from initadvisor.errors import InputError
from initadvisor.wrapped import inner

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
"""Keys under which a dict batch may carry its target, tried in this order where the model does not take them itself."""


FEWEST_ALIKE = 3
"""Tensors from which a list of equal ones may be several batches; two are an input and its target."""


@dataclass(frozen=True)
class Batch:
    """One batch, taken apart: what the model is called with and what its output is compared to.

    Attributes:
        args: positional arguments of ``model``.
        kwargs: keyword arguments of ``model``.
        target: what a loss compares the output with, None where the model takes care of it (or there is none).
        raw: the batch as the user gave it, for losses that take ``(model, batch)``.
        through: such a loss, where it does not call the model itself but parts or methods of it; None where it does.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None
    raw: Any = None
    through: Callable[[nn.Module, Any], Any] | None = None

    def call(self, model: nn.Module) -> Any:
        """The model's output on this batch; all that a loss makes of it where only the loss knows how it is called."""
        if self.through is None:
            return model(*self.args, **self.kwargs)
        with torch.enable_grad():  # the loss may differentiate by itself
            return self.through(model, self.raw)

    @property
    def inputs(self) -> Any:
        """What the model is called with; of a batch that is not taken apart, all of it."""
        return (self.args, dict(self.kwargs)) if self.args or self.kwargs else self.raw

    @property
    def size(self) -> int | None:
        """Number of samples: the length of the first tensor's first axis; None where no input is a tensor."""
        for tensor in tensors_in(self.inputs):
            if tensor.ndim:
                return int(tensor.shape[0])
        return None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists, mappings and dataclass-like outputs, in order.

    Example:
        >>> [t.shape[0] for t in tensors_in({"a": torch.zeros(2), "b": [torch.zeros(3)]})]
        [2, 3]
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
        yield from tensors_in(vars(value))


def map_tensors(value: Any, fn: Any) -> Any:
    """``value`` with ``fn`` applied to every tensor in nested tuples, lists and mappings; other objects as they are.

    Objects with a ``to`` method of their own (torch_geometric's ``Data``) are left to the caller.
    """
    if isinstance(value, torch.Tensor):
        return fn(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, fn) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(v, fn) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(v, fn) for k, v in value.items()}
    return value


def own_copy(batch: Batch, device: torch.device | None = None) -> Batch:
    """A batch that a model or a loss may write to; what is one tensor in the original is one in the copy.

    Args:
        batch: left as it is.
        device: where the copy lies; None leaves it where the batch is.
    """
    done: dict[int, torch.Tensor] = {}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in done:
            moved = tensor.detach() if device is None else tensor.detach().to(device)
            own = moved.clone() if moved.layout is torch.strided else moved
            done[id(tensor)] = own.requires_grad_() if tensor.requires_grad else own
        return done[id(tensor)]

    def each(value: Any) -> Any:
        value = map_tensors(value, copied)
        is_foreign = not isinstance(value, (torch.Tensor, tuple, list, dict, str, int, float)) and value is not None
        return value.clone() if is_foreign and callable(getattr(value, "clone", None)) else value

    args, kwargs = tuple(each(a) for a in batch.args), {k: each(v) for k, v in batch.kwargs.items()}
    return Batch(args, kwargs, each(batch.target), each(batch.raw), batch.through)


def _accepts(model: nn.Module, count: int, names: Iterable[str]) -> bool | None:
    """Whether ``model.forward`` binds that many positional and those keyword arguments; None where unknowable."""
    model = inner(model)
    if getattr(model.forward, "__func__", None) is nn.Module.forward:
        return False  # it has none of its own: only a loss knows what to call
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*([None] * count), **dict.fromkeys(names))
    except TypeError:
        return False
    return True


def _split_mapping(model: nn.Module, batch: Mapping[str, Any]) -> Batch:
    keywords = {str(k): v for k, v in batch.items()}
    if _accepts(model, 0, keywords) is not False:
        target = next((keywords[k] for k in TARGET_KEYS if k in keywords), None)
        return Batch((), keywords, target, batch)
    for key in TARGET_KEYS:
        if key in keywords:
            rest = {k: v for k, v in keywords.items() if k != key}
            if _accepts(model, 0, rest) is not False:
                return Batch((), rest, keywords[key], batch)
            if len(rest) == 1 and _accepts(model, 1, ()) is not False:
                return Batch(tuple(rest.values()), {}, keywords[key], batch)
    raise InputError(
        f"the dict batch has keys {sorted(keywords)}, which {type(model).__name__}.forward does not take; "
        f"name the target one of {', '.join(TARGET_KEYS)}, or give the batch as (inputs, target)"
    )


def split_batch(model: nn.Module, batch: Any, *, whole: bool = False) -> Batch:
    """Take one batch apart.

    A tensor is the model's only input. ``(x, y)`` is input and target, unless ``forward`` needs both, in which case
    both are inputs. Of a longer tuple the last item is the target if ``forward`` takes one less. A dict is keyword
    arguments, less its target where ``forward`` does not take that. Anything else (a graph object) is the only input,
    its ``y`` the target.

    Args:
        model: the module that will be called.
        batch: a batch as a loader yields it.
        whole: leave a batch in one piece, for a loss that knows what to do with it, where ``forward`` cannot take it.

    Raises:
        InputError: the model's ``forward`` cannot take it, whichever way it is read.

    Example:
        >>> b = split_batch(nn.Linear(3, 2), (torch.zeros(5, 3), torch.zeros(5, dtype=torch.long)))
        >>> len(b.args), b.target.shape, b.size
        (1, torch.Size([5]), 5)
    """
    if isinstance(batch, Batch):
        return batch
    try:
        found = _taken_apart(model, batch)
        if _holds_numpy((found.args, dict(found.kwargs), found.target)) and not whole:
            raise InputError("the batch holds numpy arrays; give tensors (torch.from_numpy(x).float() for inputs)")
        return found
    except InputError:
        if whole and next(tensors_in(batch), None) is not None:
            return Batch((), {}, None, batch)
        raise


def _holds_numpy(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_numpy, value.values()))
    return any(map(_holds_numpy, value)) if isinstance(value, (tuple, list)) else isinstance(value, np.ndarray)


def _taken_apart(model: nn.Module, batch: Any) -> Batch:
    if isinstance(batch, torch.Tensor):
        return Batch((batch,), {}, None, batch)
    if isinstance(batch, Mapping):
        return _split_mapping(model, batch)
    if isinstance(batch, (tuple, list)):
        items = tuple(batch)
        if not items:
            raise InputError("the batch is empty; give (inputs, target), a dict, or a loader of such batches")
        if len(items) == 1:
            inner = split_batch(model, items[0])
            return Batch(inner.args, inner.kwargs, inner.target, batch)
        *inputs, target = items
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return Batch((), dict(inputs[0]), target, batch)
        if _accepts(model, len(inputs), ()) is not False:
            return Batch(tuple(inputs), {}, target, batch)
        if _accepts(model, len(items), ()):
            return Batch(items, {}, None, batch)
        raise InputError(
            f"the batch has {len(items)} parts, but {type(model).__name__}.forward takes neither "
            f"{len(inputs)} (the last being the target) nor {len(items)}; give (inputs, target) or a dict"
        )
    return Batch((batch,), {}, getattr(batch, "y", None), batch)


def _is_one_batch(model: nn.Module, sample: Any) -> bool:
    if isinstance(sample, (torch.Tensor, Mapping, Batch, tuple)):
        return True
    if isinstance(sample, list):
        # [x, y] as a DataLoader's default collate yields it; a list of tuples or dicts is several batches.
        return bool(sample) and isinstance(sample[0], torch.Tensor) and not _is_list_of_batches(model, sample)
    return not isinstance(sample, Iterable) or hasattr(sample, "to_dict")  # graph objects iterate over their fields


def _is_list_of_batches(model: nn.Module, parts: Sequence[Any]) -> bool:
    """Whether a list of tensors holds one batch each, and not the parts of one.

    It does where three or more are of one kind, and ``forward`` takes neither all of them nor all but the last.
    """
    tensors = [t for t in parts if isinstance(t, torch.Tensor)]
    if len(parts) < FEWEST_ALIKE or len(tensors) < len(parts) or len({(t.ndim, t.dtype) for t in tensors}) > 1:
        return False
    return not any(_names(model, count) is not False for count in (len(parts) - 1, len(parts)))


def _names(model: nn.Module, count: int) -> bool | None:
    """As :func:`_accepts` for positional arguments, but ``*args`` says nothing of how many a batch has."""
    taken = _accepts(model, count, ())
    if not taken:
        return taken
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    named = sum(k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds)
    return named >= count or (named == 0 and inspect.Parameter.VAR_POSITIONAL in kinds)


def first_batch(model: nn.Module, sample: Any, *, whole: bool = False) -> Batch:
    """The batch to look at: ``sample`` itself, or the first of an iterable of batches (which is read only that far)."""
    return next(iter(batches_of(model, sample, limit=1, whole=whole)))


def batches_of(model: nn.Module, sample: Any, *, limit: int, whole: bool = False) -> list[Batch]:
    """Up to ``limit`` batches of one batch, a sequence of batches or a loader, each taken apart.

    Args:
        model: says how a batch is taken apart; never called.
        sample: what the user gave.
        limit: batches to read at most.
        whole: see :func:`split_batch`.

    Raises:
        InputError: the iterable is empty, or an iterator that is already used up.

    Example:
        >>> net, pixels = nn.Linear(3, 2), [torch.rand(8, 3) for _ in range(5)]
        >>> len(batches_of(net, pixels, limit=9)), len(batches_of(net, pixels[:2], limit=9))  # two: input and target
        (5, 1)
    """
    if sample is None:
        raise InputError("there is no batch; give (inputs, target), a dict, or a loader of such batches")
    if isinstance(sample, Dataset) and not isinstance(sample, IterableDataset):
        raise InputError(
            f"{type(sample).__name__} is a dataset of single samples; give a loader of your batches: "
            "DataLoader(dataset, batch_size=…, shuffle=True)"
        )
    if _is_one_batch(model, sample):
        found = [split_batch(model, sample, whole=whole)]
    else:
        found = [split_batch(model, b, whole=whole) for b in islice(iter(sample), limit)]
    if not found:
        raise InputError("the loader yielded no batch; give at least one (an iterator can be read only once)")
    for batch in found:
        _check_readable(batch)
    return found


def _check_readable(batch: Batch) -> None:
    """Raise where there is nothing to read: no sample, or tensors whose sizes torch does not tell."""
    tensors = list(tensors_in(batch.inputs))
    if any(t.is_nested for t in tensors):
        raise InputError(
            "the batch holds a nested tensor, whose rows have no common length; pad it "
            "(torch.nested.to_padded_tensor) and give the lengths or a mask beside it"
        )
    with_rows = [t for t in tensors if t.ndim]
    if with_rows and all(t.shape[0] == 0 for t in with_rows):
        raise InputError(
            f"the batch has no samples: its first input has shape {tuple(with_rows[0].shape)}; give one with data"
        )


def check_finite(batch: Batch, *, infinite: bool = True) -> None:
    """Raise where floating-point data hold NaN or infinity, naming which part and how many.

    Args:
        batch: what was given.
        infinite: infinities are refused, too, those of masks left out.

    Raises:
        InputError: with the count of bad values.
    """
    for what, part in (("inputs", batch.inputs), ("target", batch.target)):
        for index, tensor in enumerate(tensors_in(part)):
            if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            nans = int(torch.isnan(tensor).sum())
            bad = nans or (infinities(tensor) if infinite else 0)
            if bad:
                kind = "NaN" if nans else "infinite"
                raise InputError(
                    f"the batch's {what} (tensor {index}, shape {tuple(tensor.shape)}) hold {bad} {kind} "
                    f"value{'s' if bad > 1 else ''}; clean or mask the data first"
                )


def infinities(value: torch.Tensor) -> int:
    """How many values are infinite; 0 of a mask, which holds minus infinity beside a single other number.

    Example:
        >>> infinities(torch.tensor([0.0, -torch.inf])), infinities(torch.tensor([0.0, 1.0, torch.inf]))
        (0, 1)
    """
    bad = torch.isinf(value)
    count = int(bad.sum())
    if not count or value.is_complex():
        return count
    rest = value[~bad]
    is_mask = bool((value[bad] < 0).all()) and (not rest.numel() or bool((rest == rest.flatten()[0]).all()))
    return 0 if is_mask else count
