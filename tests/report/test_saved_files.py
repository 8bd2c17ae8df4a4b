"""Saved advice from elsewhere: what is cut, edited or older is refused in one line, never with a traceback."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from evidences import ALL

from initadvisor.cli import main
from initadvisor.report.jsonout import FORMAT_VERSION, evidence_to_json

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 3, 1e308, -1e308, 10**40, "inf", "nan", "", "x", "current", "\x1b[2J", [], {}, [1], {"a": 1}),
    *("switch", "keep", "diverged", "unused", "float32", "nonsense"),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def mutated(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 5))):
        *way, last = rng.choice(places(changed))
        inner: Any = changed
        for key in way:
            inner = inner[key]
        if rng.random() < 0.3:
            del inner[last]
        else:
            inner[last] = rng.choice(ODD)
    return changed


def one_line(capfd: pytest.CaptureFixture[str], file: Path, *words: str) -> int:
    code = main(["report", str(file), *words])
    err = capfd.readouterr().err
    assert code in (0, 2), err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if "error:" in line]) == (code == 2)
    return code


@pytest.mark.parametrize("name", ["switch", "hasty"])
def test_edited_files_are_told_or_refused(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng, document, file = random.Random(name), evidence_to_json(ALL[name](), recipe="x"), tmp_path / "a.json"
    codes = []
    for _ in range(40):
        file.write_text(json.dumps(mutated(rng, document)))
        codes.append(one_line(capfd, file))
    assert {0, 2} <= set(codes)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "9" * 5000, '{"format": ' + "9" * 5000 + "}", "nul", '"\\ud800"']
)
def test_what_is_no_advice_is_refused(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    assert one_line(capfd, file) == 2


@pytest.mark.parametrize(
    ("version", "says"), [(1, "ask again"), (FORMAT_VERSION + 1, "upgrade"), ("x" * 999, "upgrade")]
)
def test_other_versions_say_what_to_do(
    version: Any, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({**evidence_to_json(ALL["switch"]()), "format_version": version}))
    assert main(["report", str(file)]) == 2
    err = capfd.readouterr().err
    assert says in err
    assert len(err) < 300
