"""What a training computes inside wrappers that spread it over devices or processes."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

SPREADING: tuple[type[nn.Module], ...] = (DistributedDataParallel, DataParallel)
"""Wrappers around ``.module`` that compute what it does, on parts of the batch or with gradients averaged."""


class Unspread(nn.Module):
    """The module inside such a wrapper, by the same names and called the same way.

    The wrapper itself talks to other processes: its passes wait for theirs, and a copy of it in a forked worker waits
    for ever.

    Example:
        >>> model = Unspread(nn.Linear(3, 2))
        >>> [name for name, _ in model.named_parameters()]
        ['module.weight', 'module.bias']
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module inside gives."""
        return self.module(*args, **kwargs)


def unspread(model: nn.Module) -> nn.Module:
    """The model as it is computed in one process: itself, but for wrappers, for which there is an equal view.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> unspread(model) is model, unspread(DataParallel(model)).module is model
        (True, True)
    """
    if not isinstance(model, SPREADING):
        return model
    view = Unspread(inside(model))
    view.training = model.training
    return view


def inside(wrapper: nn.Module) -> nn.Module:
    """What a wrapper is around."""
    found: nn.Module = vars(wrapper)["_modules"]["module"]
    return found


def inner(model: nn.Module) -> nn.Module:
    """The module whose ``forward`` says what a model is called with."""
    while isinstance(model, (*SPREADING, Unspread)):
        model = inside(model)
    return model
