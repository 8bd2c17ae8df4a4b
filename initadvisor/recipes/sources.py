"""Functions of this package as source text, with all of this package that they use, so that they run without it.

They are taken from the package's own source, so that they cannot drift apart; annotations and docstrings are left out
and this package's errors become ``ValueError``.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from initadvisor.errors import InitAdvisorError, RecipeError

_PACKAGE = "initadvisor"


class Sources:
    """Source of functions and of everything of this package that they use, in an order that runs."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self.imports: set[str] = {"import torch"}

    def texts(self) -> Iterable[str]:
        """What was collected, what is used before what uses it."""
        return self._texts.values()

    def add(self, name: str, value: Any, module: ModuleType) -> None:
        """Copy ``value``, which ``module`` calls ``name``, with all it needs."""
        if name in self._texts:
            return
        if isinstance(value, type) and issubclass(value, InitAdvisorError):
            self._texts[name] = f"{name} = ValueError"
            return
        if name == "nearest":
            self._texts[name] = "def nearest(name, known):\n    return 'known: ' + ', '.join(known)"
            return
        value = inspect.unwrap(value) if callable(value) else value  # cached functions
        own_home = isinstance(value, type) or inspect.isfunction(value)
        home = sys.modules[value.__module__] if own_home else module
        text, used = _copied(name, home)
        if isinstance(value, type):
            self.imports.add("from dataclasses import dataclass")
        self._texts[name] = ""  # breaks recursion
        for other in used:
            self._add_used(other, home)
        del self._texts[name]
        self._texts[name] = text

    def _add_used(self, name: str, home: ModuleType) -> None:
        if name not in vars(home) or hasattr(builtins, name):
            return
        value = vars(home)[name]
        if isinstance(value, ModuleType):
            alias = f" as {name}" if name != value.__name__ else ""
            torch_nn = value.__name__ == "torch.nn"
            self.imports.add("from torch import nn" if torch_nn else f"import {value.__name__}{alias}")
            return
        # A constant has no home of its own (a compiled pattern names ``re``): it is ours where it is assigned.
        source = _defining(name, home.__name__)
        own = value.__module__ if callable(value) else source
        if own.startswith(_PACKAGE):
            self.add(name, value, sys.modules[source])


class _Bare(ast.NodeTransformer):
    """Leaves out annotations and docstrings."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs, node.args.kwarg, node.args.vararg):
            if argument is not None:
                argument.annotation = None
        return _without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # Fields are annotations: they stay.
        node.body = [self.visit(child) if isinstance(child, ast.FunctionDef) else child for child in node.body]
        return _without_docstring(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def _without_docstring(node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
    if ast.get_docstring(node) is not None and len(node.body) > 1:
        node.body = node.body[1:]
    return node


@functools.cache
def _statements(module: str) -> tuple[dict[str, str], dict[str, str]]:
    """Source of each statement at a module's top by the name it defines, and the module each name comes from."""
    source = inspect.getsource(sys.modules[module])
    defined: dict[str, str] = {}
    origins: dict[str, str] = {}
    for node in ast.parse(source).body:
        names: list[str] = []
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            origins |= {alias.asname or alias.name: node.module for alias in node.names}
        defined |= dict.fromkeys(names, ast.unparse(node))
    return defined, origins


def _defining(name: str, module: str) -> str:
    """The module from which another has a name; itself where it imports it from nowhere."""
    return _statements(module)[1].get(name, module)


@functools.cache
def _copied(name: str, home: ModuleType) -> tuple[str, tuple[str, ...]]:
    """Source of what a module defines under a name, bare of annotations, and the names it uses.

    Raises:
        RecipeError: it defines nothing of that name.
    """
    text = _statements(home.__name__)[0].get(name)
    if text is None:
        raise RecipeError(f"{home.__name__} has no {name} to copy into the generated code")
    tree = _Bare().visit(ast.parse(textwrap.dedent(text)))
    used = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    return ast.unparse(ast.fix_missing_locations(tree)), tuple(used)
