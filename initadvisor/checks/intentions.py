"""What a model's own source says it does with its weights, read from syntax trees; nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from initadvisor.checks.finding import Location
from initadvisor.checks.source import ClassSource

TORCH_CUT = 2.0
"""Where ``trunc_normal_`` cuts by default: absolute, whatever the std."""

_TESTS: dict[str, Callable[[str, str], bool]] = {
    "endswith": str.endswith,
    "startswith": str.startswith,
    "in": str.__contains__,
    "==": str.__eq__,
}


@dataclass(frozen=True, slots=True)
class Truncation:
    """One call of ``trunc_normal_``.

    Attributes:
        source: the class it is in.
        std: its std, None where the source does not tell.
        cut: where it cuts, absolute.
        where: the line.
    """

    source: ClassSource
    std: float | None
    cut: float
    where: Location


@dataclass(frozen=True, slots=True)
class NameRule:
    """A branch of an initialisation that depends on the name of a parameter or module.

    Attributes:
        kind: how the name is compared: ``"endswith"``, ``"startswith"``, ``"in"`` or ``"=="``.
        texts: what it is compared with; any of them will do.
        where: the line.
        action: name of the function that then fills.
    """

    kind: str
    texts: tuple[str, ...]
    where: Location
    action: str

    def meets(self, name: str) -> bool:
        """The rule runs for a tensor of this dotted name, seen from any of the modules above it.

        Example:
            >>> rule = NameRule("endswith", ("c_proj.weight",), Location("f", 1), "normal_")
            >>> rule.meets("h.0.attn.c_proj.weight"), rule.meets("h.0.attn.out.weight")
            (True, False)
        """
        parts = name.split(".")
        seen = [".".join(parts[i:j]) for i in range(len(parts)) for j in (len(parts), len(parts) - 1) if i < j]
        return any(_TESTS[self.kind](s, text) for s in seen for text in self.texts)


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _number(node: ast.expr | None, settings: Mapping[str, float]) -> float | None:
    """Value of a literal or of ``….name`` where the model carries that setting; None where it cannot be told."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand, settings)
        return None if inner is None else -inner
    if isinstance(node, ast.Attribute):
        return settings.get(node.attr)
    return None


def truncations(sources: Iterable[ClassSource], settings: Mapping[str, float]) -> Iterator[Truncation]:
    """Every call of ``trunc_normal_`` whose cut the source tells."""
    for source in sources:
        for node in ast.walk(source.node):
            if not isinstance(node, ast.Call) or _called(node) != "trunc_normal_":
                continue
            words = {k.arg: k.value for k in node.keywords}
            place = dict(enumerate(node.args))
            high = words.get("b", place.get(4))
            cut = TORCH_CUT if high is None else _number(high, settings)
            written = words.get("std", place.get(2))
            std = 1.0 if written is None else _number(written, settings)
            if cut is not None:
                yield Truncation(source, std, cut, source.at(node))


def name_rules(sources: Iterable[ClassSource]) -> Iterator[NameRule]:
    """Every initialisation inside a loop over named parameters or modules that a name decides on."""
    for source in sources:
        for loop in _unconditional_loops(source.node):
            if not isinstance(loop.iter, ast.Call) or _called(loop.iter) not in ("named_parameters", "named_modules"):
                continue
            target = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) and loop.target.elts else None
            if isinstance(target, ast.Name):
                yield from _rules_within(loop, target.id, source)


def _unconditional_loops(node: ast.AST) -> Iterator[ast.For]:
    """Loops that run whatever the model is made of: what stands under a condition may be for other models."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.For):
            yield child
        elif not isinstance(child, (ast.If, ast.Try, ast.Match, ast.ClassDef)):
            yield from _unconditional_loops(child)


def _rules_within(loop: ast.For, name: str, source: ClassSource) -> Iterator[NameRule]:
    for branch in ast.walk(loop):
        if not isinstance(branch, ast.If):
            continue
        action = _filling(branch.body)
        compared = _compared(branch.test, name)
        if action and compared is not None:
            yield NameRule(compared[0], compared[1], source.at(branch), action)


def _filling(body: Iterable[ast.stmt]) -> str:
    """Name of the first in-place call of a body (``normal_``, ``zero_``), empty where there is none."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                called = _called(node)
                if called.endswith("_") and not called.endswith("__") and called != "requires_grad_":
                    return called
            elif isinstance(node, ast.AugAssign) and isinstance(node.op, (ast.Mult, ast.Div)):
                return "*="
    return ""


def _compared(test: ast.expr, name: str) -> tuple[str, tuple[str, ...]] | None:
    """How a test looks at the name; tests that also look at something else are judged by the name's part."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return next((found for value in test.values if (found := _compared(value, name)) is not None), None)
    if isinstance(test, ast.BoolOp):
        parts = [_compared(value, name) for value in test.values]
        # One alternative that cannot be read may be the one that is true.
        if any(p is None for p in parts) or len({p[0] for p in parts if p}) > 1:
            return None
        return parts[0][0], tuple(t for p in parts if p for t in p[1])  # type: ignore[index]
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and len(test.args) == 1:
        is_name = isinstance(test.func.value, ast.Name) and test.func.value.id == name
        texts = _texts(test.args[0])
        if is_name and test.func.attr in ("endswith", "startswith") and texts:
            return test.func.attr, texts
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right = test.left, test.comparators[0]
        if isinstance(test.ops[0], ast.In) and isinstance(right, ast.Name) and right.id == name:
            texts = _texts(left)
            return ("in", texts) if texts else None
        if isinstance(left, ast.Name) and left.id == name and isinstance(test.ops[0], (ast.Eq, ast.In)):
            texts = _texts(right)
            return ("==", texts) if texts else None
    return None


def _texts(node: ast.expr) -> tuple[str, ...]:
    """Literal strings of an expression, alone or in a tuple, list or set."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        texts = [n.value for n in node.elts if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        return tuple(texts) if len(texts) == len(node.elts) else ()
    return ()
