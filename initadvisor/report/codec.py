"""Frozen values to plain JSON and back, and the JSON schema of them, all derived from the same type hints.

Rules, chosen so that any JSON reader can follow:

- a dataclass is an object with its fields; fields left out of comparisons (callables, sample batches) are left out;
- an enum is its name in lower case, since values may be sentences that a later version words better;
- a number that is not finite is one of the strings ``"inf"``, ``"-inf"``, ``"nan"``;
- a tuple is an array, a torch dtype its short name (``"float32"``).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

import torch

from initadvisor.errors import InputError

NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""How JSON spells the floats it has no number for."""

_LONGEST_SHOWN = 40
"""Characters of a wrong value that a message quotes."""

Value = TypeVar("Value")


def _fields(kind: type) -> list[tuple[str, Any, bool]]:
    """Name, type and whether it must be given, of every field that is written."""
    hints = typing.get_type_hints(kind)
    found = []
    for f in dataclasses.fields(kind):
        if f.compare:
            missing = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            found.append((f.name, hints[f.name], missing))
    return found


def encode(value: Any) -> Any:
    """``value`` as plain data that ``json.dumps(..., allow_nan=False)`` takes.

    Raises:
        TypeError: a type that has no place in JSON.

    Example:
        >>> encode((1.5, math.inf, torch.float16))
        [1.5, 'inf', 'float16']
    """
    if value is None or (isinstance(value, (bool, int)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name, _, _ in _fields(type(value))}
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(v) for v in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")


def decode(kind: type[Value], value: Any, where: str = "$") -> Value:
    """The inverse of :func:`encode` for values of type ``kind``.

    Args:
        kind: a dataclass.
        value: plain data as ``json.loads`` gives it.
        where: path of ``value`` in its document, for messages.

    Raises:
        InputError: the data do not have that shape; the message says where.
    """
    found: Value = _decode(kind, value, where)
    return found


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(args, value, where)
    if origin is tuple:
        _need(isinstance(value, list), "a list", value, where)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        _need(len(value) == len(args), f"{len(args)} values", value, where)
        return tuple(_decode(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        _need(isinstance(value, dict), "an object", value, where)
        return {k: _decode(args[1], v, f"{where}.{k}") for k, v in value.items()}
    return _decode_plain(kind, value, where)


def _decode_plain(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _need(isinstance(value, dict), "an object", value, where)
        given = {}
        for name, hint, required in _fields(kind):
            if name in value:
                given[name] = _decode(hint, value[name], f"{where}.{name}")
            elif required:
                raise InputError(f'saved advice: {where} has no "{name}"')
        return kind(**given)
    if kind is torch.dtype:
        found = getattr(torch, value, None) if isinstance(value, str) else None
        _need(isinstance(found, torch.dtype), "the name of a torch dtype", value, where)
        return found
    if isinstance(kind, type) and issubclass(kind, Enum):
        names = {member.name.lower(): member for member in kind}
        _need(isinstance(value, str) and value in names, f"one of {', '.join(names)}", value, where)
        return names[value]
    if kind is float:
        if isinstance(value, str) and value in NOT_FINITE:
            return NOT_FINITE[value]
        _need(isinstance(value, (int, float)) and not isinstance(value, bool), "a number", value, where)
        try:
            return float(value)
        except OverflowError:
            _need(False, "a number that a double can hold", value, where)
    if kind is Any:
        return value
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _need(right, f"a {kind.__name__}", value, where)
    return value


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _decode(kind, value, where)
        except InputError as error:
            problems.append(error)
    raise problems[-1]


def _need(holds: bool, what: str, value: Any, where: str) -> None:
    if not holds:
        short = isinstance(value, (str, float, bool, type(None))) and len(repr(value)) <= _LONGEST_SHOWN
        shown = repr(value) if short else type(value).__name__
        raise InputError(f"saved advice: {where} must be {what}, not {shown}")


def schema(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of values of type ``kind``; dataclasses go to ``definitions``, by name."""
    return _schema(kind, definitions)


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(a, definitions) for a in args]}
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "items": _schema(args[0], definitions)}
        items = [_schema(a, definitions) for a in args]
        return {"type": "array", "prefixItems": items, "minItems": len(args), "maxItems": len(args)}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1], definitions)}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object_schema(kind, definitions)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.name.lower() for member in kind]}
    if kind is float:
        return {"$ref": "#/$defs/number"}
    names = {int: "integer", str: "string", bool: "boolean", type(None): "null", torch.dtype: "string"}
    if kind not in names:
        raise TypeError(f"no JSON schema for {kind}")
    return {"type": names[kind]}


def _object_schema(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    reference = {"$ref": f"#/$defs/{kind.__name__}"}
    if kind.__name__ not in definitions:
        entry: dict[str, Any] = {"type": "object"}
        definitions[kind.__name__] = entry  # before its fields, which may refer back
        entry["description"] = (kind.__doc__ or "").strip().splitlines()[0]
        entry["properties"] = {name: _schema(hint, definitions) for name, hint, _ in _fields(kind)}
        entry["required"] = [name for name, _, _ in _fields(kind)]
    return reference


NUMBER_SCHEMA = {
    "description": "A number; JSON has no infinity and no not-a-number, so these are strings.",
    "anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}],
}
