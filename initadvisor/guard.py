"""Leave everything of the user's as it was found, also after an exception and after Ctrl-C, and compile nothing of it.

Two guards: :func:`preserve_process` for the global state (random generators, default dtype, threads, subnormal mode,
grad mode, determinism switches, warning filters, environment, signal handlers) and :func:`preserve_model` for a model
and all that it or a loss can reach. Both restore in ``finally``, so they hold under ``KeyboardInterrupt`` too.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from initadvisor.errors import InputError
from initadvisor.reach import iterators_in, reach, roots_of
from initadvisor.snapshot import Snapshot


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
    intra-op thread count, subnormal flushing, grad mode, cuDNN's benchmark and determinism switches, precision of
    matrix products, warning filters, numpy's handling of floating-point errors, the environment, the working directory
    and, in the main thread, signal handlers.

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
        with _preserve_interpreter():
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
def _preserve_interpreter() -> Iterator[None]:
    """Restore what belongs to Python and the operating system; see :func:`preserve_process`."""
    filters, environment, errors = list(warnings.filters), dict(os.environ), np.geterr()
    precision, folder = torch.get_float32_matmul_precision(), _folder()
    is_main = threading.current_thread() is threading.main_thread()  # others can set no handlers
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if is_main else {}
    try:
        yield
    finally:
        if list(warnings.filters) != filters:
            with warnings.catch_warnings():  # leaving it has Python look at the filters anew
                pass
            warnings.filters[:] = filters  # type: ignore[index]
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({k: v for k, v in environment.items() if os.environ.get(k) != v})
        np.seterr(**errors)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        if folder is not None and _folder() != folder:
            os.chdir(folder)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a working directory that was deleted has no path
    except OSError:
        return None


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


@contextmanager
def preserve_model(model: nn.Module, *others: Any, changing: Iterable[torch.Tensor] = ()) -> Iterator[None]:
    """Restore a model, and all that it and others can reach, on the way out: to the bit, by identity, and by class.

    A forward pass may write to weights, to attributes of modules, and to whatever a closure holds; a loss may train
    other networks. Everything that :func:`initadvisor.reach.reach` finds is held in memory meanwhile, weights included.

    Args:
        model: the user's module.
        others: what else is run: a loss, a step, a factory of optimizers; those that are None are left out.
        changing: tensors whose values are meant to change; they keep what they are given.

    Raises:
        InputError: a function among it reads from an iterator.

    Example:
        >>> critic = nn.Linear(2, 1)
        >>> def loss(model, batch):
        ...     with torch.no_grad():
        ...         critic.weight.zero_()
        ...     return critic(model(batch)).mean()
        >>> model = nn.Linear(3, 2)
        >>> with preserve_model(model, loss):
        ...     _ = loss(model, torch.ones(4, 3))
        >>> bool(critic.weight.any())
        True
    """
    with preserving({type(model).__name__: model}, *others, changing=changing):
        yield


@contextmanager
def preserving(named: Mapping[str, Any], *others: Any, changing: Iterable[torch.Tensor] = ()) -> Iterator[Snapshot]:
    """As :func:`preserve_model`, of whatever is named; gives the snapshot, which tells what has changed so far."""
    found = reach({**named, **roots_of(*others)})
    iterators = iterators_in(found)
    if iterators:
        raise InputError(
            f"{iterators[0]} is an iterator, which is used up by trying: read from the loader itself, or give what it "
            "yields with the batches"
        )
    snapshot = Snapshot(found, changing)
    try:
        yield snapshot
    finally:
        with _uninterrupted():
            snapshot.restore()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C until the block is done: half restored is worse than late."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    pressed: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            before(*pressed[0])
