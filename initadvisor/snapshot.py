"""What everything within reach holds at a moment: to tell what has changed since, and to put it back to the bit."""

from __future__ import annotations

import collections
import random
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from initadvisor.private import hooks_of, version_of
from initadvisor.reach import (
    EMPTY,
    Kind,
    Node,
    Reach,
    assigned_globals,
    class_state,
    contents,
    is_empty_table,
    slots_of,
)

_ABSENT = object()
_AS_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of an element's size: bits are compared, since NaN is no equal of itself and -0 is one of 0."""


class Snapshot:
    """The state of what was found, held until it goes out of use.

    Args:
        found: what to look after.
        changing: tensors whose values are meant to change; all else about them is looked after.
    """

    def __init__(self, found: Reach, changing: Iterable[torch.Tensor] = ()) -> None:
        skipped = {id(t) for t in changing}
        self._saved = [(node, _read(node, values=id(node.value) not in skipped)) for node in found.nodes]

    def changed(self) -> Iterator[Node]:
        """What no longer holds what it held."""
        for node, state in self._saved:
            if state is not None and not state.holds():
                yield node

    def only_tensors(self, node: Node) -> bool:
        """Whether all that has changed in a table is which tensors it holds: what a pass leaves behind of itself.

        Recurrent layers keep lists of their weights so.
        """
        state = next(s for n, s in self._saved if n is node)
        if not isinstance(state, _Table):
            return False
        keys = state.table.keys() | state.items.keys()
        pairs = [(state.table.get(key), state.items.get(key)) for key in keys]
        return all(_same(now, then) or _holds_tensors(now) for now, then in pairs)

    def restore(self) -> None:
        """Put back what has changed; what has not is not written to: it may lie in memory that cannot be."""
        with torch.no_grad():
            for node, state in self._saved:
                if state is not None and node.kind is not Kind.TENSOR and not state.holds():
                    state.write()
            # Last, as they may have been replaced in the tables above.
            for node, state in self._saved:
                if state is not None and node.kind is Kind.TENSOR and not state.holds():
                    state.write()


def read_contents(node: Node) -> Any:
    """What an object holds, to be given to another one in its place by :func:`write_contents`."""
    value: Any = node.value
    match node.kind:
        case Kind.TENSOR:
            return value.detach().clone()
        case Kind.ARRAY:
            return value.copy()
        case Kind.GENERATOR:
            return _generator_state(value)
        case Kind.MAPPING:
            return list(value.items())
        case Kind.SEQUENCE | Kind.SET:
            return list(value)
        case Kind.CELL:
            content = contents(value)
            return () if content is EMPTY else (content,)
        case Kind.FUNCTION:
            table = value.__globals__
            return {n: table[n] for n in assigned_globals(value.__code__) if n in table}, dict(vars(value))
        case Kind.OBJECT:
            return slots_of(value)
        case _:
            return None


def write_contents(node: Node, held: Any) -> None:
    """Have an object hold what another one in its place held."""
    state = _read(node, values=False)
    if isinstance(state, _Tensor):
        with torch.no_grad():
            if node.value.shape != held.shape:
                node.value.data = held.clone()
            node.value.data.copy_(held)
    elif isinstance(state, _Function):
        state.names, state.attributes = held
        state.write()
    elif isinstance(state, _Cell):
        state.content = held[0] if held else EMPTY
        state.write()
    elif isinstance(state, _Generator | _Array):
        state.value = held
        state.write()
    elif isinstance(state, _Set):
        state.items = set(held)
        state.write()
    elif isinstance(state, _Table | _Attributes):
        state.items = dict(held)
        state.write()
    elif isinstance(state, _List):
        state.items = held
        state.write()


class _State:
    """What one object holds."""

    def holds(self) -> bool:
        raise NotImplementedError

    def write(self) -> None:
        raise NotImplementedError


class _Tensor(_State):
    def __init__(self, tensor: torch.Tensor, values: bool) -> None:
        self.tensor = tensor
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.hooks = hooks_of(tensor)
        self.hooked = None if self.hooks is None else dict(self.hooks)
        self.attributes = dict(vars(tensor))
        self.lazy = is_lazy(tensor)
        # Another tensor over the same memory: it stays there when this one is given other memory, and writing through
        # it does not count as a change to graphs that have kept this one.
        self.alias: torch.Tensor = tensor.data
        self.kind = type(tensor)
        self.place = None if self.lazy else _place(tensor)
        self.version = version_of(tensor)
        empty = self.lazy or tensor.is_meta or not values
        self.value = None if empty else tensor.detach().clone()

    def holds(self) -> bool:
        tensor = self.tensor
        if self.lazy or type(tensor) is not self.kind:
            return type(tensor) is self.kind
        same = tensor.requires_grad == self.requires_grad and (not tensor.is_leaf or tensor.grad is self.grad)
        hooks = hooks_of(tensor)
        same = same and hooks is self.hooks and (hooks is None or dict(hooks) == self.hooked)
        return (
            same and _same_table(vars(tensor), self.attributes) and _place(tensor) == self.place and self._bits_hold()
        )

    def _bits_hold(self) -> bool:
        if self.value is None:
            return True
        if self.alias.layout is not torch.strided or type(self.alias) not in (torch.Tensor, torch.nn.Parameter):
            return version_of(self.tensor) == self.version
        return same_bits(self.alias, self.value)

    def write(self) -> None:
        tensor = self.tensor
        if self.lazy:  # it has been given its shape, and another class with it
            tensor.__class__ = self.kind
            tensor.data = self.alias
            return
        if _place(tensor) != self.place:
            tensor.data = self.alias
        if not self._bits_hold():
            assert self.value is not None
            self.alias.copy_(self.value)
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
        if self.hooks is not None and self.hooked is not None:
            _put_back(self.hooks, self.hooked)
        elif (hooks := hooks_of(tensor)) is not None:
            hooks.clear()
        _put_back(vars(tensor), self.attributes)


class _Array(_State):
    def __init__(self, array: Any) -> None:
        self.array, self.value = array, array.copy()

    def holds(self) -> bool:
        if self.array.shape != self.value.shape or self.array.dtype != self.value.dtype:
            return False
        if self.array.dtype.hasobject:
            return all(a is b for a, b in zip(self.array.flat, self.value.flat, strict=True))
        return bool(self.array.tobytes() == self.value.tobytes())

    def write(self) -> None:
        if self.array.shape != self.value.shape:
            self.array.resize(self.value.shape, refcheck=False)
        self.array[...] = self.value


class _Generator(_State):
    def __init__(self, generator: Any) -> None:
        self.generator, self.value = generator, _generator_state(generator)

    def holds(self) -> bool:
        now = _generator_state(self.generator)
        if isinstance(now, torch.Tensor):
            return torch.equal(now, self.value)
        return repr(now) == repr(self.value)

    def write(self) -> None:
        generator = self.generator
        if isinstance(generator, torch.Generator):
            generator.set_state(self.value)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = self.value
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(self.value)
        else:
            generator.setstate(self.value)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    assert isinstance(generator, random.Random)
    return generator.getstate()


def _plain(state: Any) -> Any:
    """A state in values of its own; arrays as lists, since their text is cut."""
    if isinstance(state, dict):
        return {key: _plain(item) for key, item in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


class _Table(_State):
    """A dict, an object's attributes included; its order belongs to it."""

    def __init__(self, table: dict[Any, Any]) -> None:
        self.table, self.items = table, dict(table)
        self.empty = [item for key, item in table.items() if is_empty_table(key, item)]

    def holds(self) -> bool:
        return _same_table(self.table, self.items) and not any(self.empty)

    def write(self) -> None:
        _put_back(self.table, self.items)
        for table in self.empty:
            table.clear()


class _List(_State):
    def __init__(self, value: Any) -> None:
        self.value, self.items = value, list(value)

    def holds(self) -> bool:
        return len(self.value) == len(self.items) and all(map(_same, self.value, self.items))

    def write(self) -> None:
        base: Any = collections.deque if isinstance(self.value, collections.deque) else list
        base.clear(self.value)
        base.extend(self.value, self.items)


class _Set(_State):
    def __init__(self, value: set[Any]) -> None:
        self.value, self.items = value, set(value)

    def holds(self) -> bool:
        return self.value == self.items

    def write(self) -> None:
        set.clear(self.value)
        set.update(self.value, self.items)


class _Cell(_State):
    def __init__(self, cell: types.CellType) -> None:
        self.cell, self.content = cell, contents(cell)

    def holds(self) -> bool:
        return _same(contents(self.cell), self.content)

    def write(self) -> None:
        if self.content is EMPTY:
            del self.cell.cell_contents
        else:
            self.cell.cell_contents = self.content


class _Function(_State):
    """Globals that a function assigns to, and its attributes where it had none."""

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function
        self.names = {n: function.__globals__.get(n, _ABSENT) for n in assigned_globals(function.__code__)}
        self.attributes = dict(vars(function))

    def holds(self) -> bool:
        table = self.function.__globals__
        same = all(_same(table.get(n, _ABSENT), value) for n, value in self.names.items())
        return same and _same_table(vars(self.function), self.attributes)

    def write(self) -> None:
        _put_back(vars(self.function), self.attributes)
        table = self.function.__globals__
        for name, value in self.names.items():
            if value is _ABSENT:
                table.pop(name, None)
            else:
                table[name] = value


class _Attributes(_State):
    """An object's class and what it holds in slots; of a class, the attributes that hold values."""

    def __init__(self, value: Any) -> None:
        self.value, self.kind, self.items = value, type(value), self._now(value)

    @staticmethod
    def _now(value: Any) -> dict[str, Any]:
        return class_state(value) if isinstance(value, type) else slots_of(value)

    def holds(self) -> bool:
        return type(self.value) is self.kind and _same_table(self._now(self.value), self.items)

    def write(self) -> None:
        if type(self.value) is not self.kind:  # lazy modules become others
            object.__setattr__(self.value, "__class__", self.kind)
        base: Any = type if isinstance(self.value, type) else object
        for name in self._now(self.value).keys() - self.items.keys():
            base.__delattr__(self.value, name)
        for name, item in self.items.items():
            base.__setattr__(self.value, name, item)


def _read(node: Node, *, values: bool) -> _State | None:
    value: Any = node.value
    match node.kind:
        case Kind.TENSOR:
            return _Tensor(value, values)
        case Kind.ARRAY:
            return _Array(value)
        case Kind.GENERATOR:
            return _Generator(value)
        case Kind.MAPPING:
            return _Table(value)
        case Kind.SEQUENCE:
            return _List(value)
        case Kind.SET:
            return _Set(value)
        case Kind.CELL:
            return _Cell(value)
        case Kind.FUNCTION:
            return _Function(value)
        case Kind.CLASS | Kind.OBJECT:
            return _Attributes(value)
        case _:
            return None


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_holds_tensors, value))
    return isinstance(value, torch.Tensor | weakref.ReferenceType)


def _same(now: Any, then: Any) -> bool:
    """The same object, or an equal number or text: those have no identity that counts."""
    return now is then or (type(now) is type(then) and isinstance(now, (int, float, str)) and now == then)


def _same_table(now: dict[Any, Any], then: dict[Any, Any]) -> bool:
    return list(now) == list(then) and all(map(_same, now.values(), then.values()))


def _put_back(table: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Make ``table`` hold exactly what ``saved`` holds, in place, since objects hand out references to it.

    By the methods of ``dict`` itself: a subclass may do more when it is written to.
    """
    if _same_table(table, saved):
        return
    base: Any = collections.OrderedDict if isinstance(table, collections.OrderedDict) else dict
    if isinstance(table, collections.Counter):
        base = dict
    base.clear(table)
    for key, value in saved.items():
        base.__setitem__(table, key, value)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits.

    Example:
        >>> nan = torch.tensor([float("nan"), -0.0])
        >>> same_bits(nan, nan.clone()), same_bits(nan, nan.abs())
        (True, False)
    """
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    a, b = a.detach().resolve_conj().resolve_neg(), b.detach().resolve_conj().resolve_neg()
    if a.is_quantized:
        return torch.equal(a, b)
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    kind = _AS_INTEGER.get(a.element_size())
    return torch.equal(a, b) if kind is None else torch.equal(a.view(kind), b.view(kind))


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where a tensor's elements lie."""
    head = (type(tensor), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.layout)
    if tensor.layout is not torch.strided or tensor.is_meta:
        return head
    try:
        return (*head, tensor.data_ptr(), tensor.stride(), tensor.storage_offset())
    except RuntimeError:  # a subclass without memory of its own
        return head
