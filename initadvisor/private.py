"""Names of torch and of Python that begin with an underscore, on which this package relies.

Each is here because there is no public way to what it gives; the tables of modules and what makes a vmapped ensemble
are where they are used. A test looks each of them up in :data:`NAMES` and says which is gone; what stands in for it
then is said there, too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

NAMES: Mapping[str, str] = {
    "torch.Tensor._version": "count of writes to a tensor's memory; without it every tensor would have to be compared",
    "torch.Tensor._base": "the tensor that a view is of; without it a write through a view is not seen in its owner",
    "torch.Tensor._backward_hooks": "hooks on a tensor; without it those that a pass adds would stay",
    "torch._C.ScriptFunction.__call__": "scripted functions are called past every mode of torch; without it they are "
    "read as constants",
    "sys._current_frames": "what other threads are at; without it no worker is forked while there are any",
    "concurrent.futures.ThreadPoolExecutor._max_workers": "how many jobs an executor runs at once (an attribute of its "
    "instances); without it as many as there are processors",
}
"""Each name, what it gives, and what would do without."""


def version_of(tensor: torch.Tensor) -> int:
    """Count of writes to a tensor's memory, -1 where torch keeps none (inference mode).

    Example:
        >>> t = torch.zeros(2)
        >>> before = version_of(t)
        >>> version_of(t.add_(1)) > before
        True
    """
    try:
        return int(tensor._version)
    except RuntimeError:
        return -1


def owner_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that a view is of; itself where it is none."""
    base = tensor._base
    return tensor if base is None else base


def hooks_of(tensor: torch.Tensor) -> Any:
    """The table of hooks on a tensor's gradient, None before the first."""
    return tensor._backward_hooks


def executor_workers(executor: Executor) -> int | None:
    """How many jobs an executor runs at once, None where it does not tell.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> executor_workers(ThreadPoolExecutor(3))
        3
    """
    found = getattr(executor, "_max_workers", None)
    return found if isinstance(found, int) and found > 0 else None


def frames_of_other_threads() -> dict[int, FrameType]:
    """Where each other thread that runs Python is, by its number."""
    me = threading.get_ident()
    return {number: frame for number, frame in sys._current_frames().items() if number != me}


@contextmanager
def scripted_functions_seen(
    called: Callable[[tuple[Any, ...], dict[str, Any], Any], None],
) -> Iterator[None]:
    """In this thread, run scripted functions as the Python they were made of.

    Args:
        called: told arguments, keyword arguments and output of each that has kept none.
    """
    kind, me = torch._C.ScriptFunction, threading.get_ident()
    original = kind.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != me:
            return original(self, *args, **kwargs)
        source = getattr(self, "_torchdynamo_inline", None)
        if source is not None:
            return source(*args, **kwargs)
        out = original(self, *args, **kwargs)
        called(args, kwargs, out)
        return out

    kind.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.__call__ = original  # type: ignore[method-assign]


@contextmanager
def custom_functions_seen(
    called: Callable[[str, tuple[Any, ...], dict[str, Any], Any], None],
) -> Iterator[None]:
    """In this thread, tell of functions with a gradient of their own (``torch.autograd.Function``) after each ran.

    ``Function.apply`` is public, but these functions are called past every mode of torch, so that it has to be replaced
    for the time of a pass; without it a spike's comparison would end the signal.

    Args:
        called: told the function's name, arguments, keyword arguments and output.
    """
    kind, me = torch.autograd.Function, threading.get_ident()
    original = vars(kind)["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        out = original.__func__(cls, *args, **kwargs)
        if threading.get_ident() == me:
            called(cls.__name__, args, kwargs, out)
        return out

    kind.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        kind.apply = original  # type: ignore[method-assign]
