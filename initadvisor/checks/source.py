"""Evidence from the source: what the code that built the model meant to do with its weights."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import nn

from initadvisor.checks.finding import Location

FOREIGN = ("torch.", "initadvisor.", "builtins")
"""Classes of these packages are not where a user would mend anything."""


@dataclass(frozen=True, slots=True)
class ClassSource:
    """A class of the model and its definition.

    Attributes:
        cls: the class.
        file: where it is defined.
        node: its syntax tree.
    """

    cls: type
    file: str
    node: ast.ClassDef

    def at(self, node: ast.AST) -> Location:
        """Location of something inside the class."""
        return Location(shown(self.file), getattr(node, "lineno", self.node.lineno), self.cls.__name__)


def shown(file: str) -> str:
    """A path as a reader would write it: relative where it lies below the working directory."""
    path = Path(file)
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def is_foreign(cls: type) -> bool:
    """Defined by torch or by us."""
    return f"{cls.__module__}.".startswith(FOREIGN)


@lru_cache(maxsize=256)
def _classes_of(file: str, stamp: float) -> dict[str, ast.ClassDef]:
    """Every class of a file by its qualified name; ``stamp`` makes an edited file be read again."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, ast.ClassDef] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found[prefix + child.name] = child
                walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                walk(child, f"{prefix}{child.name}.<locals>.")
            elif isinstance(child, ast.stmt):
                walk(child, prefix)

    walk(tree, "")
    return found


def source_of(cls: type) -> ClassSource | None:
    """Definition of a class, None where there is no source (built in a notebook cell that is gone, compiled)."""
    try:
        file = inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None
    if file is None or not Path(file).is_file():
        return None
    node = _classes_of(file, Path(file).stat().st_mtime).get(cls.__qualname__)
    return None if node is None else ClassSource(cls, file, node)


def sources_of(model: nn.Module) -> Iterator[ClassSource]:
    """Definitions of every class the model is made of, ancestors included, each once, those of torch left out."""
    seen: set[type] = set()
    for module in model.modules():
        for cls in type(module).__mro__:
            if cls in seen or cls is object or is_foreign(cls):
                continue
            seen.add(cls)
            found = source_of(cls)
            if found is not None:
                yield found


def owners_of(model: nn.Module) -> dict[str, type]:
    """Path of every module -> the innermost class around it that is not torch's own."""
    owners: dict[str, type] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        cls = type(module)
        # Parametrized modules get a class of their own; what it derives from is what was written.
        cls = cls.__mro__[1] if cls.__name__.startswith("Parametrized") else cls
        if not is_foreign(cls):
            owners[name] = cls
        elif name:
            parent = owners.get(name.rpartition(".")[0])
            if parent is not None:
                owners[name] = parent
    return owners
