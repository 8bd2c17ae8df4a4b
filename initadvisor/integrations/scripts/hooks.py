"""The places of torch at which a training can be seen, put in and taken out again without a trace.

Three attributes are replaced while a process is watched (the call of a module, `torch.autograd.backward`, which
`Tensor.backward` calls, and the making of an optimizer), and two of torch's own tables get an entry (before and after
the step of any optimizer). Each replacement calls what it replaces with the very arguments it was given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Sink(Protocol):
    """Who is told what happens."""

    def called(self, call: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module is called; gives what ``call(module, *args, **kwargs)`` gives."""

    def differentiating(self, roots: tuple[torch.Tensor, ...]) -> None:
        """``backward`` is about to begin from these."""

    def differentiated(self) -> None:
        """It has ended."""

    def built(self, optimizer: Optimizer) -> None:
        """An optimizer has been made."""

    def stepping(self, optimizer: Optimizer) -> None:
        """Its step is about to begin; what is raised here comes out of ``optimizer.step()``."""

    def stepped(self, optimizer: Optimizer) -> None:
        """Its step has ended."""


@dataclass(frozen=True)
class _Patch:
    owner: Any
    name: str
    original: Any
    replacement: Any


def _roots(tensors: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(tensors, torch.Tensor):
        return (tensors,)
    return tuple(t for t in tensors or () if isinstance(t, torch.Tensor))


class Hooks:
    """All hooks of one process.

    Example:
        >>> before = nn.Module.__call__, torch.autograd.backward
        >>> hooks = Hooks(sink=None)
        >>> hooks.install()
        >>> nn.Module.__call__ is before[0]
        False
        >>> hooks.remove()
        >>> (nn.Module.__call__, torch.autograd.backward) == before
        True
    """

    def __init__(self, sink: Sink | None) -> None:
        self._sink: Sink | None = sink
        self._patches: list[_Patch] = []
        self._handles: list[Any] = []

    def install(self) -> None:
        """Put them in."""
        self._replace(nn.Module, "__call__", self._call)
        self._replace(torch.autograd, "backward", self._backward)
        self._replace(Optimizer, "__init__", self._init)
        # Their own tables are the one place that subclasses, wrappers and closures all pass by.
        self._handles = [
            register_optimizer_step_pre_hook(self._pre_step),
            register_optimizer_step_post_hook(self._post_step),
        ]

    def remove(self) -> None:
        """Take them out: every replaced attribute is the object it was before.

        What a script took by name while they were in (``from torch.autograd import backward``) goes on as a mere
        forwarding.
        """
        self._sink = None
        for handle in self._handles:
            handle.remove()
        for patch in reversed(self._patches):
            # Another tool may have put its own over ours since; it holds ours, which from now on only forwards.
            if vars(patch.owner).get(patch.name) is patch.replacement:
                setattr(patch.owner, patch.name, patch.original)
        self._handles, self._patches = [], []

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = vars(owner)[name]
        replacement = make(original)
        functools.update_wrapper(replacement, original)
        self._patches.append(_Patch(owner, name, original, replacement))
        setattr(owner, name, replacement)

    def _call(self, original: Any) -> Any:
        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - the name is seen in tracebacks
            sink = self._sink
            # A compiler that traces this sees the plain call.
            if sink is None or torch.compiler.is_compiling():
                return original(module, *args, **kwargs)
            return sink.called(original, module, args, kwargs)

        return __call__

    def _backward(self, original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            sink = self._sink
            if sink is None or torch.compiler.is_compiling():
                return original(tensors, *args, **kwargs)
            sink.differentiating(_roots(tensors))
            result = original(tensors, *args, **kwargs)
            sink.differentiated()
            return result

        return backward

    def _init(self, original: Any) -> Any:
        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(optimizer, *args, **kwargs)
            if self._sink is not None:
                self._sink.built(optimizer)

        return __init__

    def _pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._sink is not None:
            self._sink.stepping(optimizer)

    def _post_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._sink is not None:
            self._sink.stepped(optimizer)
