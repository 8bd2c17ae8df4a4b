"""Copies of a model together with all that its training reaches, which share with the original nothing that changes.

``copy.deepcopy`` takes functions over as they are. A lambda over a module's own parts then computes with the parts of
the original, and a network that a loss closes over is one and the same for all copies. Here functions are made anew
around copies of what they hold, closures and globals included, and everything is copied with one memo, so that what
was shared within the original is shared within the copy.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Mapping
from typing import Any

import torch

from initadvisor.errors import worked_around
from initadvisor.reach import (
    EMPTY,
    MUTABLE,
    Kind,
    Node,
    Reach,
    assigned_globals,
    contents,
    global_values,
    named_globals,
    reach,
)
from initadvisor.wrapped import SPREADING, Unspread, inside

DATA_BYTES = 1 << 24
"""Bytes from which an array that belongs to no network is taken for data, which copies share: 16 MB are more than a
counter, a running mean or a buffer of replayed states that a loss keeps."""


class Originals:
    """Named values that are copied together, any number of times.

    Args:
        roots: what to copy, by name. None of it may change while copies are made.

    Example:
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = head = nn.Linear(2, 1)
        ...         self.call = lambda x: head(x)
        ...     def forward(self, x):
        ...         return self.call(x)
        >>> net = Net()
        >>> twin = Originals({"model": net}).copy()["model"]
        >>> _ = nn.init.zeros_(twin.head.weight), nn.init.zeros_(twin.head.bias)
        >>> float(twin(torch.ones(1, 2))), bool(net.head.weight.any())
        (0.0, True)
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self.roots = dict(roots)
        self.found = reach(self.roots)
        inside = _in_networks(self.found)
        self._shared = [n.value for n in self.found.nodes if n.kind is Kind.SHARED or _is_data(n, inside)]
        apart = {id(v) for v in self._shared}
        self._classes = {id(n.value) for n in self.found.nodes if n.kind is Kind.CLASS}
        self._stateful = self.found.leading_to(_with_state(self.found) - apart)
        self._functions = [n.value for n in self.found.nodes if n.kind is Kind.FUNCTION and self._is_made_anew(n)]
        self._holders = [n.value for n in self.found.nodes if n.kind is Kind.OBJECT and _weak_attributes(n.value)]
        # The innermost first: what is inside others is then done when those are.
        self._wrappers = [n.value for n in reversed(self.found.nodes) if isinstance(n.value, SPREADING)]
        self._optimizers = [n.value for n in self.found.nodes if isinstance(n.value, torch.optim.Optimizer)]
        self._tensors = [n.value for n in self.found.nodes if n.kind is Kind.TENSOR and id(n.value) not in apart]

    def has_state(self, name: str) -> bool:
        """Whether a root leads to anything that copies must not share."""
        return id(self.roots[name]) in self._stateful

    def _is_made_anew(self, node: Node) -> bool:
        """Holds state and lies elsewhere than on a class: classes, and with them their methods, are never copied."""
        if id(node.value) not in self._stateful:
            return False
        holders = self.found.holders.get(id(node.value))
        return holders is None or not all(holder in self._classes for holder in holders)

    def copy(self) -> dict[str, Any]:
        """A copy of everything, by name.

        Raises:
            Exception: whatever an object raises that cannot be copied; those that only a function holds are shared.
        """
        return _Copying(self).run()

    # Read by the one copying; no business of anybody else.

    def memo(self) -> dict[int, Any]:
        """What ``deepcopy`` finds done already: what is shared, and tensors torch cannot copy (a graph, sparse)."""
        memo = {id(value): value for value in self._shared}
        memo |= {id(t): t.detach().clone() for t in self._tensors if not t.is_leaf or t.layout is not torch.strided}
        return memo


class _Copying:
    """One copy in the making."""

    def __init__(self, originals: Originals) -> None:
        self.of, self.memo = originals, originals.memo()
        self._cells: dict[int, types.CellType] = {}
        self._globals: dict[int, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        functions = self.of._functions
        for function in functions:
            self.memo[id(function)] = self._shell(function)
        for wrapper in self.of._wrappers:
            self.memo[id(wrapper)] = Unspread(copy.deepcopy(inside(wrapper), self.memo))
        made = {name: copy.deepcopy(value, self.memo) for name, value in self.of.roots.items()}
        for function in functions:
            self._fill(function, self.memo[id(function)])
        for tensor in self.of._tensors:
            self._give_attributes(tensor)
        for value in self.of._holders:
            self._renew_weak(value)
        for optimizer in self.of._optimizers:
            self._wrap_step(optimizer)
        return made

    def _shell(self, function: types.FunctionType) -> types.FunctionType:
        """The function around cells and globals of its own, which are yet to be filled."""
        cells = tuple(self._cells.setdefault(id(c), types.CellType()) for c in function.__closure__ or ())
        code, name = function.__code__, function.__name__
        twin = types.FunctionType(code, self._globals_of(function), name, None, cells or None)
        twin.__qualname__, twin.__module__, twin.__doc__ = function.__qualname__, function.__module__, function.__doc__
        twin.__annotations__ = function.__annotations__
        return twin

    def _globals_of(self, function: types.FunctionType) -> dict[str, Any]:
        """The module's globals, or for functions that find state there a table of their own, one for each module."""
        table = function.__globals__
        stateful = any(id(value) in self.of._stateful for value in global_values(function).values())
        if not stateful and not assigned_globals(function.__code__) and id(table) not in self._globals:
            return table
        return self._globals.setdefault(id(table), dict(table))

    def _fill(self, function: types.FunctionType, twin: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            content, own = contents(cell), self._cells[id(cell)]
            if content is not EMPTY and contents(own) is EMPTY:
                own.cell_contents = self._copied(content)
        twin.__defaults__ = self._copied(function.__defaults__)
        twin.__kwdefaults__ = self._copied(function.__kwdefaults__)
        vars(twin).update({name: self._copied(value) for name, value in vars(function).items()})
        table = self._globals.get(id(function.__globals__))
        if table is None:
            return
        for name, value in global_values(function).items():
            if id(value) in self.of._stateful and name in table and table[name] is value:
                table[name] = self._copied(value)

    def _copied(self, value: Any) -> Any:
        if isinstance(value, weakref.ReferenceType):
            referent = value()
            return value if referent is None else weakref.ref(self._copied(referent))
        try:
            return copy.deepcopy(value, self.memo)
        except Exception as error:  # noqa: BLE001 - an object's own __deepcopy__ or __reduce__ may raise anything
            worked_around(f"copying a {type(value).__name__}, which copies share now", error, (Exception,))
            self.memo[id(value)] = value
            return value

    def _give_attributes(self, tensor: torch.Tensor) -> None:
        """Attributes that somebody put on a parameter, which torch's own copying drops."""
        twin = self.memo.get(id(tensor))
        if isinstance(twin, torch.Tensor):
            for name, value in vars(tensor).items():
                if name not in vars(twin):
                    setattr(twin, name, self._copied(value))

    def _wrap_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Schedulers wrap an optimizer's step to see that it is called; its copy comes without, and they warn."""
        twin = self.memo.get(id(optimizer))
        if twin is not None and twin is not optimizer and "step" in vars(optimizer):
            vars(twin)["step"] = self._copied(vars(optimizer)["step"])

    def _renew_weak(self, value: Any) -> None:
        """Point weak references of a copy at copies: ``deepcopy`` has left them at the original's."""
        twin = self.memo.get(id(value))
        if twin is None or twin is value:
            return
        for name, referent in _weak_attributes(value).items():
            if (other := self.memo.get(id(referent))) is not None:
                vars(twin)[name] = weakref.ref(other)


def _with_state(found: Reach) -> set[int]:
    """Ids of objects that can change, among them functions that assign to globals or read such."""
    assigned = {
        (id(n.value.__globals__), name)
        for n in found.nodes
        if n.kind is Kind.FUNCTION
        for name in assigned_globals(n.value.__code__)
    }
    return {
        id(n.value) for n in found.nodes if n.kind in MUTABLE or (n.kind is Kind.FUNCTION and _touches(n, assigned))
    }


def _touches(node: Node, assigned: set[tuple[int, str]]) -> bool:
    function = node.value
    names = named_globals(function.__code__)
    return any(home == id(function.__globals__) and name in names for home, name in assigned)


def _in_networks(found: Reach) -> set[int]:
    """Ids of tensors that are parameters or buffers of a network, or that are trained."""
    networks = [n.value for n in found.nodes if isinstance(n.value, torch.nn.Module)]
    inside = {id(t) for m in networks for t in (*m._parameters.values(), *m._buffers.values()) if t is not None}
    return inside | {id(n.value) for n in found.nodes if n.kind is Kind.TENSOR and n.value.requires_grad}


def _is_data(node: Node, inside: set[int]) -> bool:
    if node.kind is Kind.ARRAY:
        return bool(node.value.nbytes >= DATA_BYTES)
    if node.kind is not Kind.TENSOR or id(node.value) in inside or node.value.layout is not torch.strided:
        return False
    return bool(node.value.numel() * node.value.element_size() >= DATA_BYTES)


def _weak_attributes(value: Any) -> dict[str, Any]:
    """Attributes that are weak references, with what they refer to."""
    table = getattr(value, "__dict__", {})
    found = {name: item() for name, item in table.items() if isinstance(item, weakref.ReferenceType)}
    return {name: referent for name, referent in found.items() if referent is not None}
