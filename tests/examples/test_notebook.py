"""The notebook was run from top to bottom, and it still runs: each cell shows today what it shows in the file."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "examples" / "advice.ipynb"
LARGEST = 1_000_000
"""Bytes of the file: more is slow to show on a page and heavy in a history."""

BUDGET = "budget=2000"
FASTER = "budget=300"
"""Of the run below: the way is the same, the answer need not be."""


def cells() -> list[dict[str, Any]]:
    return [c for c in json.loads(FILE.read_text())["cells"] if c["cell_type"] == "code"]


def shown(cell: dict[str, Any]) -> set[str]:
    """Kinds of what a cell displays, text aside."""
    return {kind for out in cell["outputs"] for kind in out.get("data", {})} - {"text/plain"}


def test_it_is_a_notebook_run_once_in_order() -> None:
    document = json.loads(FILE.read_text())
    assert document["nbformat"] == 4
    assert document["nbformat_minor"] >= 5
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    ids = [c["id"] for c in document["cells"]]
    assert len(ids) == len(set(ids))
    for cell in document["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        assert isinstance("".join(cell["source"]), str)
    assert [c["execution_count"] for c in cells()] == list(range(1, len(cells()) + 1))
    kinds = {out["output_type"] for c in cells() for out in c["outputs"]}
    assert kinds == {"stream", "execute_result"}  # no error
    assert not any(out.get("name") == "stderr" for c in cells() for out in c["outputs"])
    assert {"text/html", "image/png"} <= set().union(*map(shown, cells()))
    assert FILE.stat().st_size < LARGEST


def test_its_cells_run_and_show_what_they_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    sources = ["".join(c["source"]) for c in cells()]
    assert sum(BUDGET in s for s in sources) == 1
    for cell, source in zip(cells(), sources, strict=True):
        tree = ast.parse(source.replace(BUDGET, FASTER).replace("torch.set_num_threads(2)", ""))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last is not None else None
        if "text/html" in shown(cell):
            assert "<section" in value._repr_html_()
        if "image/png" in shown(cell):
            assert value._repr_png_().startswith(b"\x89PNG")
    assert len(repr(names["advice"])) < 300
