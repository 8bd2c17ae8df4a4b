"""Leave everything of the user's as it was found, also after an exception and after Ctrl-C, and compile nothing of it.

Two guards: :func:`preserve_process` for the global state (random generators, default dtype, threads, subnormal mode,
grad mode, determinism switches) and :func:`preserve_model` for a model (weights, gradients, buffers, training flags,
``requires_grad``, hooks). Both restore in ``finally``, so they hold under ``KeyboardInterrupt`` too.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

_HOOK_TABLES = tuple(
    name for name in vars(nn.Module()) if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
)
"""Every hook table of ``nn.Module`` in this torch version, read from an instance so that new ones are covered."""


def _subnormals_are_flushed() -> bool:
    """Whether this thread flushes subnormals to zero now; torch has a setter but no getter, so multiply and look.

    The factor makes a product far below the smallest normal float32 from two normal ones.
    """
    tiny = torch.tensor([1e-30], dtype=torch.float32)
    return bool((tiny * 1e-10 == 0).item())


@contextmanager
def preserve_process() -> Iterator[None]:
    """Restore process-wide state on the way out.

    Covers the random states of torch (CPU and every initialised CUDA device), numpy and python, the default dtype,
    intra-op thread count, subnormal flushing, grad mode, and cuDNN's benchmark and determinism switches.

    Example:
        >>> before = torch.get_rng_state()
        >>> with preserve_process():
        ...     _ = torch.manual_seed(1), torch.rand(3), torch.set_default_dtype(torch.float64)
        >>> bool((torch.get_rng_state() == before).all()), torch.get_default_dtype()
        (True, torch.float32)
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_in_use = torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if cuda_in_use else None
    dtype, threads, grad = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    flushed = _subnormals_are_flushed()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
        torch.set_grad_enabled(grad)
        if (deterministic, warn_only) != (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ):
            # Setting it imports torch's compiler: seconds, so only where it has changed.
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn


@contextmanager
def run_eagerly() -> Iterator[None]:
    """Run what was compiled as it was written.

    A compiled model computes the same. Compiling every copy of it again takes longer than the trials do, and a process
    that is forked while compiler threads run waits for them forever. Where nothing can have been compiled yet, the
    compiler's long import is spared.

    Example:
        >>> with run_eagerly():
        ...     out = torch.nn.Linear(3, 2)(torch.zeros(1, 3))
    """
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is None or "torch._dynamo" not in sys.modules:
        yield
        return
    with warnings.catch_warnings(), stance("force_eager"):
        # Hooks that follow the modules are taken off again before anything is compiled.
        warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there are global hooks")
        yield


def _copy_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


@contextmanager
def preserve_model(model: nn.Module, *, weights: bool = False) -> Iterator[None]:
    """Restore a model on the way out: same tensors, same values, same flags, same hooks.

    Buffers are always copied (a forward pass in training mode changes BatchNorm's); weights only where ``weights`` is
    true, since a forward pass does not change them and a copy may be large. Buffers and parameters that were replaced
    or added under the guard are put back or removed.

    Args:
        model: the user's module.
        weights: also copy and restore the values of parameters and their gradients.
    """
    modules = list(model.modules())
    # A model kept in an `nn.Module` subclass may share children; `modules()` lists each once.
    flags = [m.training for m in modules]
    tables = [{name: OrderedDict(vars(m)[name]) for name in _HOOK_TABLES if name in vars(m)} for m in modules]
    parameters = [dict(m._parameters) for m in modules]
    buffers = [dict(m._buffers) for m in modules]
    children = [dict(m._modules) for m in modules]
    tensors = {id(p): p for group in parameters for p in group.values() if p is not None}
    requires = {key: p.requires_grad for key, p in tensors.items()}
    grads = {key: p.grad for key, p in tensors.items()}
    values = {k: _copy_of(p) for k, p in tensors.items() if weights and not is_lazy(p)}
    grad_values = {k: _copy_of(g) for k, g in grads.items() if weights and g is not None}
    held = {id(b): b for group in buffers for b in group.values() if b is not None and not is_lazy(b)}
    buffer_values = {k: _copy_of(b) for k, b in held.items() if not b.is_meta}
    try:
        yield
    finally:
        with torch.no_grad():
            for m, flag, saved, params, bufs, kids in zip(
                modules, flags, tables, parameters, buffers, children, strict=True
            ):
                _put_back(m._parameters, params)
                _put_back(m._buffers, bufs)
                _put_back(m._modules, kids)
                for name, table in saved.items():
                    _put_back(vars(m)[name], table)
                m.training = flag
            for key, p in tensors.items():
                if key in values:
                    p.data.copy_(values[key])
                if p.requires_grad != requires[key]:
                    p.requires_grad_(requires[key])
                p.grad = grads[key]
                kept = grads[key]
                if kept is not None and key in grad_values:
                    kept.copy_(grad_values[key])
            for key, value in buffer_values.items():
                held[key].copy_(value)


def _put_back(table: dict[str, Any], saved: dict[str, Any]) -> None:
    """Make ``table`` hold exactly what ``saved`` holds, in place, since modules hand out references to it."""
    same = list(table) == list(saved) and all(table[key] is value for key, value in saved.items())
    if not same:
        table.clear()
        table.update(saved)
