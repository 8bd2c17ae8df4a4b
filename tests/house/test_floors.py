"""The house has floors: imports go down only, heavy libraries load when used, optuna stays in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "initadvisor"

# From the ground up. A file may import from its own layer or below; packages on one layer that must not know each other
# are listed in STRANGERS. `training` says what a training is, below the graph, since reading a model needs to know how
# the loss calls it; `training/engine` runs trainings of schemes, so it stands above them. Advice rests on the audit
# (what has an error is not proposed, and a report carries the findings), so `checks` lies below `report` and `advisor`.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "private"),
    ("types", "references", "registry", "reach", "streams", "plaintext", "files"),
    ("snapshot", "guard", "wrapped", "twins"),
    ("training",),
    ("graph", "initializers"),
    ("schemes",),
    ("training/engine",),
    ("trials",),
    ("recipes",),
    ("checks",),
    ("report",),
    ("advisor",),
    ("integrations",),
    ("testing",),
    ("cli", "__main__"),
)
STRANGERS = (
    ("graph", "initializers"),
    ("initializers", "graph"),
    ("recipes", "trials"),
    ("recipes", "training/engine"),
)
OPTIONAL_TOP_LEVEL = {"optuna", "matplotlib", "sklearn", "scipy", "jinja2", "safetensors", "transformers", "diffusers"}
OPTUNA_HOME = "trials/study.py"

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    names = [name for names in FLOORS for name in names]
    nested = "/".join(parts[:2]).removesuffix(".py")
    return nested if nested in names else parts[0].removesuffix(".py")


def floor(name: str) -> int:
    for level, names in enumerate(FLOORS):
        if name in names:
            return level
    raise AssertionError(f'"{name}" is on no floor; add it to FLOORS where it belongs')


def imports(tree: ast.AST) -> list[str]:
    """Dotted names of the modules a file imports; ``from package import submodule`` names the submodule."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            folder = PACKAGE.parent.joinpath(*module.split("."))
            for alias in node.names:
                is_module = (folder / f"{alias.name}.py").exists() or (folder / alias.name / "__init__.py").exists()
                found.append(f"{module}.{alias.name}" if is_module else module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    tree = ast.parse(path.read_text())
    mine = room(path)
    if path == PACKAGE / "__init__.py":
        return
    package = ".".join(("initadvisor", *path.relative_to(PACKAGE).parts[:-1]))
    for name in imports(tree):
        if name == package and path.name != "__init__.py":
            raise AssertionError(f"{path.name} imports its own package's __init__")
        if not name.startswith("initadvisor."):
            continue
        theirs = room(PACKAGE.joinpath(*name.split(".")[1:]))
        assert floor(theirs) <= floor(mine), f"{path.relative_to(PACKAGE)} imports upward: {name}"
        assert (mine, theirs) not in STRANGERS, f"{path.relative_to(PACKAGE)} must not know {name}"


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files that import each other, directly or through others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return found


def arrows_of(root: Path) -> dict[str, set[str]]:
    """Module -> modules of the same tree it imports, wherever in the file; the top `__init__` only forwards names."""
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in root.rglob("*.py")
    }
    arrows = {}
    for name, path in modules.items():
        given = set(imports(ast.parse(path.read_text())))
        known = {n if n in modules else n.rpartition(".")[0] for n in given}
        arrows[name] = {n for n in known if n in modules and n not in (name, "initadvisor")}
    return arrows


@pytest.mark.parametrize("tree", ["initadvisor", "benchmarks"])
def test_no_circle_of_files(tree: str) -> None:
    """Also by imports inside functions and for type checkers: a file can be understood after those it imports."""
    assert circles(arrows_of(ROOT / tree)) == []


def test_circles_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == []


def test_every_package_says_its_question() -> None:
    """The first line of a package is the question it answers, and of every file what it holds."""
    for path in FILES:
        first = ast.get_docstring(ast.parse(path.read_text()))
        assert first, path
        if path.name == "__init__.py" and path.parent != PACKAGE:
            assert "?" in first.splitlines()[0], path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_optuna_lives_in_one_file(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) == OPTUNA_HOME:
        return
    assert not [n for n in imports(ast.parse(path.read_text())) if n.split(".")[0] == "optuna"]


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "initializers").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_initializers_know_no_modules(path: Path) -> None:
    names = imports(ast.parse(path.read_text()))
    assert not [n for n in names if n.startswith("torch.nn") and n != "torch.nn.functional"]


def printed_by(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    """Importing the package loads none of the heavy optional libraries, not even torch."""
    code = "import initadvisor, sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "initadvisor" in loaded
    assert not loaded & (OPTIONAL_TOP_LEVEL | {"torch", "rich", "typer", "pydantic"})


def test_public_names_resolve() -> None:
    """Every name the package promises is there, and its home is the room that defines it."""
    import initadvisor

    for name in initadvisor.__all__:
        assert getattr(initadvisor, name) is not None, name


def test_public_functions_load_no_heavy_library() -> None:
    """Reaching for `advise` and `analyze` loads the code, but plotting, optuna and scikit-learn wait until used."""
    code = (
        "import torch, sys; before = set(sys.modules); import initadvisor; initadvisor.advise; initadvisor.analyze;"
        "print(' '.join({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & OPTIONAL_TOP_LEVEL
