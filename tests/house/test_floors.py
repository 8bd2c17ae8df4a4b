"""The house has floors: imports go down only, heavy libraries load when used, optuna stays in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "initadvisor"

# From the ground up. A file may import from its own floor or below; rooms on one floor that must not know each other
# are listed in STRANGERS.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("types", "references", "guard", "streams"),
    ("data", "losses", "calls"),
    ("graph", "initializers"),
    ("schemes",),
    ("trials",),
    ("recipe", "evidence"),
    ("report",),
    ("advisor",),
    ("checks", "integrations", "target"),
    ("testing",),
    ("cli", "__main__"),
)
STRANGERS = (("graph", "initializers"), ("initializers", "graph"), ("recipe", "trials"))
OPTIONAL_TOP_LEVEL = {"optuna", "matplotlib", "sklearn", "scipy", "jinja2", "safetensors", "transformers", "diffusers"}
OPTUNA_HOME = "trials/study.py"

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for names in FLOORS:
        for name in names:
            if first == name or first.startswith(f"{name}_"):
                return name
    return first


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
        target = name.split(".")[1]
        theirs = room(PACKAGE / target)
        assert floor(theirs) <= floor(mine), f"{path.relative_to(PACKAGE)} imports upward: {name}"
        assert (mine, theirs) not in STRANGERS, f"{path.relative_to(PACKAGE)} must not know {name}"


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
