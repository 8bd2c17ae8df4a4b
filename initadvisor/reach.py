"""All state that a model, a loss or a step can reach, found by one bounded walk over what Python lets one see.

A forward pass or a loss may read and write far more than the parameters of its model: networks and counters in its
closure, globals that its code names, attributes, default arguments, what a bound method belongs to. Who wants to put
everything back (:mod:`initadvisor.guard`) or to copy it (:mod:`initadvisor.copies`) has to find it first.
"""

from __future__ import annotations

import collections
import dis
import enum
import functools
import io
import random
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

MOST_NODES = 400_000
"""Objects that are looked at, at most: a model of ten thousand layers has about half as many. Bounds the walk where an
attribute leads into the objects of a whole program."""

_PLAIN = (
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.Size,
    torch.layout,
    slice,
    range,
)
"""Values that cannot change."""

_STATEFUL_STDLIB = frozenset({"builtins", "collections", "functools", "types", "random", "dataclasses", "argparse"})
"""Modules of the standard library whose objects are plain holders of state; all others are locks, files, threads,
loggers…, which are shared, never copied."""

_MODULE_TABLES = ("._parameters", "._buffers", "._modules")


class Kind(enum.Enum):
    """How the state of an object is read, written and copied."""

    TENSOR = enum.auto()
    ARRAY = enum.auto()
    GENERATOR = enum.auto()
    MAPPING = enum.auto()
    SEQUENCE = enum.auto()
    SET = enum.auto()
    TUPLE = enum.auto()
    FUNCTION = enum.auto()
    METHOD = enum.auto()
    PARTIAL = enum.auto()
    CELL = enum.auto()
    WEAKREF = enum.auto()
    OBJECT = enum.auto()
    CLASS = enum.auto()
    SHARED = enum.auto()


MUTABLE = frozenset(
    {Kind.TENSOR, Kind.ARRAY, Kind.GENERATOR, Kind.MAPPING, Kind.SEQUENCE, Kind.SET, Kind.CELL, Kind.OBJECT}
)
"""Kinds with state of their own that a copy must not share. The state of a class is shared by nature."""


WRITTEN = (Kind.TENSOR, Kind.ARRAY, Kind.GENERATOR)
"""Kinds that are written to, where the others hold other objects."""


@dataclass(frozen=True, slots=True)
class Node:
    """One object with state.

    Attributes:
        value: the object.
        kind: of its state.
        path: how it is reached, for messages: ``loss.critic.0.weight``.
    """

    value: Any
    kind: Kind
    path: str


@dataclass
class Reach:
    """What was found.

    Attributes:
        nodes: in an order that follows from the roots alone: the same for a copy of them.
        holders: by id of an object, the ids of those that lead to it.
        complete: nothing was left out by the bound.
    """

    nodes: list[Node] = field(default_factory=list)
    holders: dict[int, list[int]] = field(default_factory=dict)
    complete: bool = True

    def leading_to(self, ids: set[int]) -> set[int]:
        """Ids of these objects and of all that lead to them."""
        found, todo = set(ids), list(ids)
        while todo:
            for holder in self.holders.get(todo.pop(), ()):
                if holder not in found:
                    found.add(holder)
                    todo.append(holder)
        return found


def reach(roots: Mapping[str, Any]) -> Reach:
    """Walk from named roots to all state they lead to.

    Example:
        >>> critic = nn.Linear(2, 1)
        >>> def loss(model, batch):
        ...     return critic(model(batch)).mean()
        >>> [n.path for n in reach({"loss": loss}).nodes if n.kind is Kind.TENSOR]
        ['loss.critic.weight', 'loss.critic.bias']
    """
    found = Reach()
    seen: set[int] = set()
    # A stack, so that deep nestings are no recursion; reversed, so that the order is that of reading.
    todo = [(name, value, 0) for name, value in reversed(list(roots.items()))]
    while todo:
        path, value, holder = todo.pop()
        kind = kind_of(value)
        if kind is None:
            continue
        key = id(value)
        if holder:
            found.holders.setdefault(key, []).append(holder)
        if key in seen:
            continue
        if len(seen) >= MOST_NODES:
            found.complete = False
            break
        seen.add(key)
        found.nodes.append(Node(value, kind, path))
        todo += reversed([(_joined(path, label), child, key) for label, child in children(value, kind)])
    return found


def roots_of(*values: Any) -> dict[str, Any]:
    """Names for what a walk starts from; those that are None are left out.

    Example:
        >>> list(roots_of(torch.relu, None, nn.MSELoss(), nn.MSELoss()))
        ['relu', 'MSELoss', 'MSELoss 2']
    """
    roots: dict[str, Any] = {}
    for value in values:
        if value is None:
            continue
        name = str(getattr(value, "__name__", type(value).__name__))
        count = sum(known.partition(" ")[0] == name for known in roots)
        roots[f"{name} {count + 1}" if count else name] = value
    return roots


def _joined(path: str, label: str) -> str:
    if not label:
        return path
    for table in _MODULE_TABLES:
        if path.endswith(table) and label.startswith("['"):
            return f"{path.removesuffix(table)}.{label[2:-2]}"
    if label.startswith("['") and path.endswith(".__dict__"):
        return f"{path.removesuffix('.__dict__')}.{label[2:-2]}"
    return f"{path}{label}" if label.startswith(("[", ".")) or not path else f"{path}.{label}"


def kind_of(value: Any) -> Kind | None:
    """How the state of an object is handled; None where it has none."""
    if isinstance(value, type):
        return Kind.CLASS if is_own_code(value.__module__) else None
    kind: Any = type(value)
    return _kind_of_instances(kind)


@functools.lru_cache(maxsize=4096)
def _kind_of_instances(kind: Any) -> Kind | None:
    if kind in _PLAIN_TYPES or issubclass(kind, (enum.Enum, *_CODE)):
        return None
    for base, found in _KINDS:
        if issubclass(kind, base):
            return found
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names and kind.__module__ not in _STATEFUL_STDLIB:
        return Kind.SHARED
    has_table = any("__dict__" in vars(base) for base in kind.__mro__)
    return Kind.OBJECT if has_table or _slots_of(kind) else Kind.SHARED


_CODE = (types.BuiltinFunctionType, types.MethodWrapperType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_PLAIN_TYPES = frozenset((*_PLAIN, bool, type(Ellipsis), type(NotImplemented), torch.memory_format, np.dtype))
_KINDS: tuple[tuple[Any, Kind], ...] = (
    (torch.Tensor, Kind.TENSOR),
    (np.ndarray, Kind.ARRAY),
    ((torch.Generator, np.random.Generator, np.random.RandomState, random.Random), Kind.GENERATOR),
    ((Dataset, DataLoader, Sampler, types.ModuleType), Kind.SHARED),  # data is read, not state
    (types.FunctionType, Kind.FUNCTION),
    (types.MethodType, Kind.METHOD),
    (functools.partial, Kind.PARTIAL),
    (types.CellType, Kind.CELL),
    (weakref.ReferenceType, Kind.WEAKREF),
    (dict, Kind.MAPPING),
    ((list, collections.deque), Kind.SEQUENCE),
    ((set,), Kind.SET),
    (tuple, Kind.TUPLE),
    ((frozenset, np.generic), Kind.SHARED),
)


def children(value: Any, kind: Kind) -> Iterator[tuple[str, Any]]:
    """What an object leads to, with the step that leads there."""
    match kind:
        case Kind.TENSOR:
            # Asking a tensor that is no leaf for its gradient warns.
            if value.is_leaf and value.grad is not None:
                yield "grad", value.grad
            yield from ((name, item) for name, item in list(vars(value).items()) if name != "grad")
        case Kind.MAPPING:
            yield from ((f"['{key}']", item) for key, item in list(value.items()) if not is_empty_table(key, item))
        case Kind.SEQUENCE | Kind.TUPLE:
            yield from ((f"[{i}]", item) for i, item in enumerate(list(value)))
            yield from _attributes(value)
        case Kind.FUNCTION:
            yield from _of_function(value)
        case Kind.METHOD:
            yield "", value.__self__
            yield "", value.__func__
        case Kind.PARTIAL:
            yield "", value.func
            yield from ((f"[{i}]", item) for i, item in enumerate(value.args))
            yield from value.keywords.items()
        case Kind.CELL:
            if (content := contents(value)) is not EMPTY:
                yield "", content
        case Kind.WEAKREF:
            yield "", value()
        case Kind.CLASS:
            yield from _of_class(value)
        case Kind.OBJECT:
            yield from _attributes(value)
            yield from (("", base) for base in type(value).__mro__ if is_own_code(base.__module__))
        case _:
            pass


def is_empty_table(key: Any, value: Any) -> bool:
    """Whether this is one of the many tables of a module, for hooks mostly, and nothing is in it.

    They would be two thirds of all that is found; who holds them looks after them.
    """
    return key in EMPTY_TABLES and isinstance(value, dict | set) and not value


EMPTY_TABLES = frozenset(name for name, item in vars(nn.Module()).items() if isinstance(item, dict | set) and not item)
"""Attributes of a module that are tables without entries when it is made."""


EMPTY = object()
"""Stands for the content of a cell that has none."""


def contents(cell: types.CellType) -> Any:
    """What a variable of an enclosing function holds; :data:`EMPTY` before it is assigned."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    table = getattr(value, "__dict__", None)
    if isinstance(table, dict):
        yield ".__dict__", table
    yield from slots_of(value).items()


def slots_of(value: Any) -> dict[str, Any]:
    """Attributes of an object that lie in slots instead of a table."""
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _slots_of(kind) if hasattr(value, name)}


@functools.lru_cache(maxsize=4096)
def _slots_of(kind: Any) -> tuple[str, ...]:
    return tuple(
        name
        for base in kind.__mro__
        for name, item in vars(base).items()
        if isinstance(item, types.MemberDescriptorType) and not name.startswith("__")
    )


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    if not _is_seen_into(function):
        return
    yield from zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    yield from ((f"[default {i}]", item) for i, item in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    if vars(function):
        yield ".__dict__", vars(function)
    yield from global_values(function).items()


def _is_seen_into(function: types.FunctionType) -> bool:
    """Whether what a function holds is part of a training: not that of compilers and of the standard library."""
    return not function.__code__.co_filename.startswith(_MACHINERY)


def global_values(function: types.FunctionType) -> dict[str, Any]:
    """Globals that the code of a user's function names, functions defined inside it included.

    Of a module of the user's own, what the code names of it: ``nets.critic``.
    """
    if is_library(function.__code__.co_filename):
        return {}
    found: dict[str, Any] = {}
    for name in named_globals(function.__code__):
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if not isinstance(value, types.ModuleType):
            found[name] = value
        elif is_own_code(value.__name__):
            found |= {f"{name}.{n}": vars(value)[n] for n in _all_names(function.__code__) if n in vars(value)}
    return found


@functools.lru_cache(maxsize=4096)
def named_globals(code: types.CodeType) -> tuple[str, ...]:
    """Globals that the code reads or assigns to; names of attributes are none."""
    return _argued(code, ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"))


@functools.lru_cache(maxsize=4096)
def assigned_globals(code: types.CodeType) -> tuple[str, ...]:
    """Globals that the code assigns to."""
    return _argued(code, ("STORE_GLOBAL", "DELETE_GLOBAL"))


@functools.lru_cache(maxsize=4096)
def _all_names(code: types.CodeType) -> tuple[str, ...]:
    """Names of attributes as well."""
    return tuple(dict.fromkeys(name for part in _codes(code) for name in part.co_names))


def _argued(code: types.CodeType, instructions: tuple[str, ...]) -> tuple[str, ...]:
    found = (i.argval for part in _codes(code) for i in dis.get_instructions(part) if i.opname in instructions)
    return tuple(dict.fromkeys(found))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and that of functions defined inside it."""
    yield code
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _codes(item)


def _of_class(cls: type) -> Iterator[tuple[str, Any]]:
    for name, item in list(vars(cls).items()):
        if isinstance(item, property):
            yield from ((name, part) for part in (item.fget, item.fset) if part is not None)
        elif isinstance(item, staticmethod | classmethod):
            yield name, item.__func__
        elif isinstance(item, types.FunctionType) or name in class_state(cls):
            yield name, item


def class_state(cls: type) -> dict[str, Any]:
    """Attributes of a class that hold values, not behaviour."""
    return {
        name: item
        for name, item in vars(cls).items()
        if not (name.startswith("__") and name.endswith("__"))
        and not isinstance(
            item, property | staticmethod | classmethod | types.FunctionType | types.MemberDescriptorType
        )
        and not hasattr(type(item), "__get__")
    }


@functools.lru_cache(maxsize=4096)
def is_own_code(module: str) -> bool:
    """Whether a module is the user's own: not of the standard library, this package or an installed one."""
    if module.partition(".")[0] in sys.stdlib_module_names and module != "__main__":
        return False
    return not is_library(getattr(sys.modules.get(module), "__file__", None) or "")


_HERE, _TORCH, _STDLIB = (f"{Path(file).parent}/" for file in (__file__, torch.__file__, dis.__file__))
_INSTALLED = ("site-packages", "dist-packages")
_MACHINERY = ("<frozen", _HERE, *(f"{_TORCH}{part}" for part in ("_", "fx/", "jit/")))
"""Files of functions whose closures hold a compiler's caches, or this package's own values."""


def is_library(file: str) -> bool:
    """Whether a file of code is one of Python's, torch's, this package's or an installed package's."""
    return file.startswith(("<frozen", _HERE, _TORCH, _STDLIB)) or any(part in Path(file).parts for part in _INSTALLED)


def iterators_in(found: Reach) -> list[str]:
    """Paths of iterators that functions hold as variables: reading from one uses it up, and nothing brings it back.

    Example:
        >>> batches = iter([1, 2])
        >>> def loss(output, target):
        ...     return output - next(batches)
        >>> iterators_in(reach({"loss": loss}))
        ['loss.batches']
    """
    kinds = {id(n.value): n.kind for n in found.nodes}
    holding = (Kind.CELL, Kind.FUNCTION, Kind.PARTIAL)
    return [
        node.path
        for node in found.nodes
        if isinstance(node.value, Iterator)
        and not isinstance(node.value, io.IOBase)
        and any(kinds[holder] in holding for holder in found.holders.get(id(node.value), ()))
    ]


def modules_in(found: Reach) -> list[tuple[str, nn.Module]]:
    """Networks among what was found, each with its path, those inside others left out."""
    networks = [(n.path, n.value) for n in found.nodes if isinstance(n.value, nn.Module)]
    inside = {id(child) for _, m in networks for child in m.modules() if child is not m}
    return [(path, m) for path, m in networks if id(m) not in inside]
