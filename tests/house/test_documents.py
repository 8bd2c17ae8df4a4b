"""What the documents say is true: code blocks run, commands exist, links and citations lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from initadvisor.checks.registry import checks

ROOT = Path(__file__).parents[2]
DOCUMENTS = [p for p in sorted(ROOT.rglob("*.md")) if not {".venv", "node_modules"} & set(p.parts)]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [code for tag, code in FENCE.findall(path.read_text()) if tag == language]


PAGES = [p for p in DOCUMENTS if (ROOT / "initadvisor") in p.parents]
"""Pages beside the code: there, what is typed into a shell runs too."""


def script(path: Path) -> str:
    """The page as one shell script: its blocks in order, those of python as one process started where the last stands.

    The README's own shell blocks set up an environment; they are the two commands that continuous integration types.
    """
    parts = [(tag, code) for tag, code in FENCE.findall(path.read_text()) if tag in ("python", "bash")]
    python = "\n".join(code for tag, code in parts if tag == "python")
    lines = [code for tag, code in parts if tag == "bash" and path in PAGES]
    return "\n".join(["set -eu", *lines, f"python - <<'END_OF_PYTHON'\n{python}\nEND_OF_PYTHON"])


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p, "python")], ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_run_in_order(path: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after another in one folder, as a reader would paste them."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script(path)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]


def test_the_pages_are_there_and_say_where_they_end() -> None:
    assert {str(p.parent.relative_to(ROOT / "initadvisor")) for p in PAGES} >= {
        ".",
        "graph",
        "trials",
        "report",
        "checks",
    }
    for path in PAGES:
        assert blocks(path, "python"), path
    for room in ("graph", "trials", "report", "checks"):
        assert re.search(r"^## (Limits|What it does not see|What the report does not say)", _text(room), re.MULTILINE)


def test_the_table_of_checks_is_the_registry() -> None:
    """Code, severity, name and what is looked for (and when it is worse or milder) of every check, in order."""
    rows = re.findall(r"^\| (INI\d+) \| (\w+) \| ([\w-]+) \| (.*) \|$", _text("checks"), re.MULTILINE)
    assert rows == [(c.code, c.severity.value, c.name, c.told) for c in checks()]


def _text(room: str) -> str:
    return (ROOT / "initadvisor" / room / "README.md").read_text()


def test_the_readme_sets_up_with_two_commands() -> None:
    """The first two bash blocks are the two commands `.ci/run` executes: install and advise, install and test."""
    first, second = blocks(ROOT / "README.md", "bash")[:2]
    assert "-c constraints.txt" in first
    assert "initadvisor advise examples/digits_mlp.py" in first
    assert "-c constraints.txt" in second
    assert "pytest" in second
    screen = (ROOT / "README.md").read_text().split("## ")[0]
    assert first in screen
    assert second in screen


def test_documents_name_files_that_exist() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
        for target in re.findall(r"`((?:examples|tests|benchmarks|recipes|initadvisor)/[\w./-]+)`", path.read_text()):
            assert (ROOT / target).exists(), f"{path.name} names {target}"


def test_constraints_pin_every_dependency_within_the_ranges() -> None:
    """`constraints.txt` names an exact version of each declared dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    pinned = dict(
        line.lower().replace("-", "_").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    for requirement in declared:
        name = re.match(r"[\w-]+", requirement)
        assert name is not None
        assert name.group().lower().replace("-", "_") in pinned, requirement


def test_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tree = ast.parse((ROOT / "initadvisor" / "__init__.py").read_text())
    said = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__"
    ]
    assert said == [project["version"]]
    assert f"version: {project['version']}" in (ROOT / "CITATION.cff").read_text()
