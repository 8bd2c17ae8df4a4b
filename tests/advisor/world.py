"""A record of everything that must be the same afterwards, made without the package's own walk."""

from __future__ import annotations

import collections
import copy
import functools
import gc
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import types
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy


def record(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Bits, identities, classes and shapes of all that a value holds, as plain values that can be compared."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return ("seen", seen[id(value)])
    if isinstance(value, (int, float, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)):
        return repr(value)
    seen[id(value)] = len(seen)
    head = (type(value).__qualname__, id(value))
    if isinstance(value, torch.Tensor):
        return (*head, *of_tensor(value, seen))
    if isinstance(value, np.ndarray):
        return (*head, value.tobytes())
    if isinstance(value, torch.Generator):
        return (*head, value.get_state().tolist())
    if isinstance(value, np.random.Generator):
        return (*head, repr(value.bit_generator.state))
    if isinstance(value, np.random.RandomState):
        return (*head, repr(value.get_state(legacy=False)["state"]["key"].tolist()))
    if isinstance(value, random.Random):
        return (*head, hash(value.getstate()))
    if isinstance(value, dict):
        return (*head, [(repr(k) if isinstance(k, str | int) else id(k), record(v, seen)) for k, v in value.items()])
    if isinstance(value, (list, tuple, collections.deque)):
        return (*head, [record(v, seen) for v in value])
    if isinstance(value, (set, frozenset)):
        return (*head, sorted(map(repr, value)))
    if isinstance(value, types.FunctionType):
        return (*head, *of_function(value, seen))
    if isinstance(value, types.MethodType):
        return (type(value).__qualname__, record(value.__self__, seen))
    if isinstance(value, functools.partial):
        held = (value.func, *value.args, *value.keywords.values())
        return (*head, [record(item, seen) for item in held])
    if isinstance(value, weakref.ref):
        return (*head, id(value()))
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        return head
    slots = {n: getattr(value, n) for n in getattr(type(value), "__slots__", ()) if hasattr(value, n)}
    # Nothing made here is recorded as such: its place may become another object's.
    return (*head, record(getattr(value, "__dict__", None), seen), [(n, record(v, seen)) for n, v in slots.items()])


def of_tensor(tensor: torch.Tensor, seen: dict[int, int]) -> tuple[Any, ...]:
    if is_lazy(tensor):
        return ("lazy",)
    bits = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    place = (tensor.data_ptr() if tensor.numel() else 0, tuple(tensor.shape), tensor.stride(), tensor.dtype)
    grad = record(tensor.grad, seen) if tensor.is_leaf else None
    hooks = len(tensor._backward_hooks or ())
    return (bits, place, tensor.requires_grad, tensor.is_leaf, grad, hooks, record(vars(tensor), seen))


def of_function(function: types.FunctionType, seen: dict[int, int]) -> list[Any]:
    cells = [c.cell_contents for c in function.__closure__ or () if _is_filled(c)]
    named = [function.__globals__[n] for n in function.__code__.co_names if n in function.__globals__ and "GLOBAL" in n]
    held = (*cells, *(function.__defaults__ or ()), *vars(function).values(), *named)
    return [record(item, seen) for item in held]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def process() -> dict[str, Any]:
    """State of the process."""
    gc.collect()
    fds = Path("/proc/self/fd")
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads of torch": torch.get_num_threads(),
        "subnormals": bool((torch.tensor([1e-30]) * 1e-10 == 0).item()),
        "grad mode": torch.is_grad_enabled(),
        "filters": list(warnings.filters),
        "numpy errors": np.geterr(),
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "open files": sorted(p.name for p in fds.iterdir()) if fds.exists() else [],
        "temporary files": _temporary(),
        "children": [p.pid for p in multiprocessing.active_children()],
        "threads": sorted(t.name for t in threading.enumerate()),
    }


def _temporary() -> list[str]:
    """Temporary files, but for the folder that torch makes for its compiler when an optimizer is first built."""
    names = (p.name for p in Path(tempfile.gettempdir()).iterdir())
    return sorted(name for name in names if not name.startswith("torchinductor"))


def can_be_copied(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever it raises
        return False
    return True
