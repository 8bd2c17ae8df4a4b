"""Constants that a class writes to its own tensors when it is made, read from its syntax tree; nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from initadvisor.checks.finding import Location
from initadvisor.checks.source import ClassSource

CONSTRUCTORS = ("__init__", "reset_parameters", "_reset_parameters")
"""Methods whose statements run when an instance is made."""

GENERIC = ("weight", "bias")
"""Names that a general initialisation fills wherever it finds them."""

_MADE = {"zeros": 0.0, "ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0}
_FILLED = {"zeros_": 0.0, "ones_": 1.0, "zero_": 0.0}


@dataclass(frozen=True, slots=True)
class ConstantWrite:
    """One tensor that is set to one number.

    Attributes:
        target: path below the instance (``"proj.weight"``).
        value: the number.
        where: the line.
    """

    target: str
    value: float
    where: Location


def constant_writes(source: ClassSource) -> dict[str, ConstantWrite]:
    """Target -> the last constant it is set to without condition; targets that are filled otherwise, too, are left out.

    Args:
        source: of a class.
    """
    found: dict[str, ConstantWrite] = {}
    for method in source.node.body:
        if isinstance(method, ast.FunctionDef) and method.name in CONSTRUCTORS:
            for statement in _unconditional(method.body):
                for target, value in _writes(statement):
                    if value is None:
                        found.pop(target, None)
                    else:
                        found[target] = ConstantWrite(target, value, source.at(statement))
    return found


def filled_names(sources: Iterable[ClassSource]) -> frozenset[str]:
    """Last names of tensors that any of the classes fills in place, as ``_init_weights`` does; no general names."""
    names = set()
    for source in sources:
        for node in ast.walk(source.node):
            if isinstance(node, ast.Call):
                names |= {path.rpartition(".")[2] for path, _ in _filled(node, any_owner=True)}
    return frozenset(names.difference(GENERIC))


def _unconditional(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.With):
            yield from _unconditional(statement.body)
        elif not isinstance(statement, (ast.If, ast.For, ast.While, ast.Try, ast.FunctionDef, ast.ClassDef)):
            yield statement


def _writes(statement: ast.stmt) -> Iterator[tuple[str, float | None]]:
    """Targets of one statement and the constant each is set to, None where it is another value."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        path = _path(statement.targets[0])
        if path:
            yield path, _parameter(statement.value)
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            yield from _filled(node)


def _filled(call: ast.Call, *, any_owner: bool = False) -> Iterator[tuple[str, float | None]]:
    if not isinstance(call.func, ast.Attribute) or not call.func.attr.endswith("_") or call.func.attr.endswith("__"):
        return
    name = call.func.attr
    first = _path(call.args[0], any_owner=any_owner) if call.args else None
    owner = _path(call.func.value, any_owner=any_owner)
    if first:  # nn.init.constant_(self.x.weight, 0.1)
        yield first, _FILLED.get(name, _number(call.args[1]) if name == "constant_" and len(call.args) > 1 else None)
    elif owner and name != "requires_grad_":  # self.x.weight.data.fill_(0.1)
        yield owner, _FILLED.get(name, _number(call.args[0]) if name == "fill_" and call.args else None)


def _path(node: ast.expr, *, any_owner: bool = False) -> str | None:
    """``self.a.b.data`` as ``"a.b"``; None where it does not start at the instance."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or (node.id != "self" and not any_owner):
        return None
    return ".".join(n for n in reversed(names) if n != "data") or None


def _parameter(node: ast.expr) -> float | None:
    """The number a parameter is made of: ``nn.Parameter(1e-4 * torch.ones(d))``."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "Parameter"
        and node.args
    ):
        return _constant(node.args[0])
    return None


def _constant(node: ast.expr) -> float | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = (n if (n := _number(side)) is not None else _constant(side) for side in (node.left, node.right))
        return None if left is None or right is None else left * right
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    if node.func.attr == "full" and len(node.args) > 1:
        return _number(node.args[1])
    return _MADE.get(node.func.attr)


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    is_number = isinstance(node, ast.Constant) and isinstance(node.value, (int, float))
    return float(node.value) if is_number else None  # type: ignore[attr-defined]
