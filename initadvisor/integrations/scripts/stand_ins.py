"""A module of a running training is read in place, and the training does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def stand_ins(module: nn.Module) -> Iterator[None]:
    """Put other tensors in the places of a module's parameters and buffers, and everything back afterwards.

    Parameters are stood in for by leaves over the same memory, so that a backward pass meets no hooks of the user's (an
    optimizer that steps in the backward pass, data-parallel reductions) and adds to no gradient of theirs. Buffers are
    stood in for by copies, since a forward pass writes to them. Other attributes, and what their lists and dicts hold,
    are put back by identity.

    Example:
        >>> norm = nn.BatchNorm1d(3)
        >>> with stand_ins(norm):
        ...     norm(torch.randn(8, 3)).sum().backward()
        >>> norm.weight.grad, norm.num_batches_tracked.item()
        (None, 0)
    """
    modules = list(module.modules())
    attributes = [dict(vars(m)) for m in modules]
    contents = [{k: _content(v) for k, v in saved.items() if isinstance(v, list | dict | set)} for saved in attributes]
    places = [(m, dict(m._parameters), dict(m._buffers)) for m in modules]
    twins: dict[int, torch.Tensor] = {}
    for m, parameters, buffers in places:
        for name, p in parameters.items():
            if p is not None and not is_lazy(p):
                # The setter of a module may keep more than the table (flattened weights of recurrent layers).
                setattr(m, name, twins.setdefault(id(p), nn.Parameter(p.detach(), requires_grad=p.requires_grad)))
        for name, b in buffers.items():
            if b is not None and not is_lazy(b):
                m._buffers[name] = twins.setdefault(id(b), b.detach().clone())
    try:
        yield
    finally:
        for m, saved, content in zip(modules, attributes, contents, strict=True):
            now = vars(m)
            for name in [n for n in now if n not in saved]:
                del now[name]
            now.update(saved)
            for name, items in content.items():
                _refill(saved[name], items)


def _content(value: Any) -> Any:
    return value.copy()


def _refill(container: Any, items: Any) -> None:
    """Make a container hold what it held, in place, where it does not."""
    if isinstance(container, list):
        if len(container) != len(items) or any(a is not b for a, b in zip(container, items, strict=True)):
            container[:] = items
    elif isinstance(container, dict):
        same = list(container) == list(items) and all(container[k] is v for k, v in items.items())
        if not same:
            container.clear()
            container.update(items)
    elif container != items:
        container.clear()
        container.update(items)
