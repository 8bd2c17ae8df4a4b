"""When are two trainings the same? A digest of everything that decides what a run computes."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from initadvisor.training.data import tensors_in
from initadvisor.training.task import TrainingTask

MOST_BYTES = 1 << 24
"""Bytes of each tensor that are read; other data differ long before."""

DEEPEST = 6
"""Containers and functions within each other that are followed."""


def task_identity(task: TrainingTask) -> dict[str, Any]:
    """What a stored study is recognised by, in parts that an error message can name.

    The data, the code of the loss, of the schedule and of the optimizer's factory with what they close over, the
    model's settings (dropout rates and the like, as its ``repr`` shows them), clipping and precision. Not the weights:
    those are compared by themselves.
    """
    return {
        "data": data_digest(task),
        "loss body": code_digest(task.loss.function, task.model),
        "schedule": code_digest(task.scheduler, task.model),
        "optimizer body": code_digest(task.optimizer.factory, task.model),
        "model settings": _hash(repr(task.model)),
        "clip_norm": task.clip_norm,
        "autocast": str(task.autocast) if task.autocast is not None else None,
    }


def data_digest(task: TrainingTask) -> str:
    """Of all batches that are trained on and that score."""
    sink = hashlib.sha256()
    for batch in (*task.choosing.train, *task.choosing.heldout):
        for tensor in tensors_in((batch.args, dict(batch.kwargs), batch.target, batch.raw)):
            _update(sink, tensor)
    return sink.hexdigest()[:12]


def code_digest(value: Any, apart: nn.Module | None = None) -> str:
    """Of a callable's code and of the plain values and tensors it holds: closures, defaults, partials, attributes.

    Args:
        value: the callable, or anything it holds.
        apart: a model whose weights are compared elsewhere; it counts by its type.

    Example:
        >>> def scaled(k):
        ...     return lambda x: k * x
        >>> code_digest(scaled(2)) == code_digest(scaled(2)), code_digest(scaled(2)) == code_digest(scaled(3))
        (True, False)
    """
    sink = hashlib.sha256()
    _walk(sink, value, DEEPEST, {id(m) for m in apart.modules()} if apart is not None else set())
    return sink.hexdigest()[:12]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _update(sink: Any, tensor: torch.Tensor) -> None:
    sink.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    if tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type != "meta":
        flat = tensor.detach().reshape(-1).contiguous()
        most = max(1, MOST_BYTES // max(1, flat.element_size()))
        sink.update(flat[:most].cpu().view(torch.uint8).numpy().tobytes() if flat.numel() else b"")


def _walk(sink: Any, value: Any, depth: int, seen: set[int]) -> None:
    """Feed what a value is to a hash; what cannot be told apart by value counts by its type."""
    if isinstance(value, torch.Tensor):
        _update(sink, value)
        return
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        sink.update(repr(value).encode())
        return
    if depth == 0 or id(value) in seen:
        sink.update(type(value).__qualname__.encode())
        return
    seen = seen | {id(value)}
    for part in _parts(sink, value):
        _walk(sink, part, depth - 1, seen)


def _parts(sink: Any, value: Any) -> Sequence[Any]:
    """What a value consists of; its own name and code go to the hash at once."""
    if isinstance(value, types.CodeType):
        sink.update(value.co_code)
        sink.update(" ".join(value.co_names).encode())
        return value.co_consts
    if isinstance(value, types.MethodType):
        return (value.__func__, value.__self__)
    if isinstance(value, types.FunctionType):
        cells = [c.cell_contents for c in value.__closure__ or () if _is_filled(c)]
        named = {n: value.__globals__[n] for n in value.__code__.co_names if n in value.__globals__}
        plain = [v for v in named.values() if isinstance(v, (int, float, str, torch.Tensor))]
        return (value.__code__, value.__defaults__ or (), sorted((value.__kwdefaults__ or {}).items()), cells, plain)
    sink.update(f"{type(value).__module__}.{type(value).__qualname__}".encode())
    if isinstance(value, type):
        sink.update(f"{value.__module__}.{value.__qualname__}".encode())
        return ()
    if isinstance(value, nn.Module):
        sink.update(repr(value).encode())
        return [*value.parameters(), *value.buffers(), type(value).forward]
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if hasattr(value, "func") and hasattr(value, "keywords"):
        return (value.func, value.args, sorted(value.keywords.items()))
    call = next((vars(c)["__call__"] for c in type(value).__mro__ if "__call__" in vars(c)), None)
    own = vars(value) if hasattr(value, "__dict__") else {}
    return (call if isinstance(call, types.FunctionType) else None, own)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - empty cells raise
    except ValueError:
        return False
    return True
