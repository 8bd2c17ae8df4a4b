"""Findings as text, JSON, annotations and SARIF; filters, exit codes and settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.checks.finding import Finding, Location, Severity
from initadvisor.checks.formats import FORMATS, render_findings
from initadvisor.checks.registry import checks
from initadvisor.checks.settings import exit_code, filter_findings
from initadvisor.errors import InputError
from initadvisor.references import cite
from initadvisor.schemes.folding import patterns_of
from initadvisor.schemes.paths import matches

FINDINGS = (
    Finding(
        "INI101",
        Severity.ERROR,
        "h.0.w",
        ("h.0.w", "h.1.w", "h.2.w"),
        "3 NaN: 5% of it,\nand more",
        "Fill it.",
        Location("src/model.py", 12, "Net"),
        (),
        "non-finite-weights",
    ),
    Finding("INI106", Severity.WARNING, "b", ("b",), "2 copies", "Redraw.", None, (), "cloned-layers"),
    Finding("INI303", Severity.INFO, "", (), "half", "Set it.", None, (), "no-forget-bias"),
)


def test_text_folds_blocks_and_counts() -> None:
    text = render_findings(FINDINGS)
    assert "h.{0..2}.w (×3)" in text
    assert "src/model.py:12 (Net)" in text
    assert text.endswith("1 error, 1 warning, 1 remark")
    assert "\x1b[" not in text
    assert "\x1b[31m" in render_findings(FINDINGS, colour=True)


@pytest.mark.parametrize("width", [60, 100])
def test_text_keeps_to_the_width(width: int) -> None:
    long = Finding("INI101", Severity.ERROR, "w", ("w",), "a figure " * 40, "Do this. " * 20, name="non-finite-weights")
    assert all(len(line) <= width for line in render_findings([long], width=width).splitlines())


def test_json_holds_everything() -> None:
    document = json.loads(render_findings(FINDINGS, "json"))
    assert document["version"] == 1
    assert document["counts"] == {"error": 1, "warning": 1, "info": 1}
    assert [f["code"] for f in document["findings"]] == ["INI101", "INI106", "INI303"]
    assert document["findings"][0]["paths"] == ["h.0.w", "h.1.w", "h.2.w"]
    assert document["findings"][0]["where"] == {"file": "src/model.py", "line": 12, "symbol": "Net"}
    assert document["findings"][1]["where"] is None


def test_github_annotations_are_one_line_each_and_escaped() -> None:
    lines = render_findings(FINDINGS, "github", file="train.py").splitlines()
    assert len(lines) == len(FINDINGS)
    assert lines[0].startswith("::error file=src/model.py,line=12,title=INI101 non-finite-weights::")
    assert "5%25 of it" in lines[0]
    assert "%0A" in lines[0]
    assert lines[1].startswith("::warning file=train.py,title=")
    assert lines[2].startswith("::notice ")


def test_sarif_has_what_the_standard_requires() -> None:
    document = json.loads(render_findings(FINDINGS, "sarif", file="train.py"))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == [c.code for c in checks()]
    assert len({r["name"] for r in rules}) == len(rules)
    for result, finding in zip(run["results"], FINDINGS, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.code
        assert result["level"] in {"error", "warning", "note"}
        assert result["message"]["text"]
    first = run["results"][0]["locations"][0]
    assert first["physicalLocation"]["artifactLocation"]["uri"] == "src/model.py"
    assert first["physicalLocation"]["region"]["startLine"] == 12
    assert len(first["logicalLocations"]) == 3
    assert run["results"][1]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "train.py"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_nothing_found(name: str) -> None:
    assert isinstance(render_findings([], name), str)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(InputError, match="sarif"):
        render_findings([], "sarf")


@pytest.mark.parametrize(
    ("select", "ignore", "kept"),
    [
        ((), (), ["INI101", "INI106", "INI303"]),
        (("INI1",), (), ["INI101", "INI106"]),
        (("ini1",), ("INI106",), ["INI101"]),
        ((), ("cloned-layers", "INI3"), ["INI101"]),
        (("INI106,INI303",), (), ["INI106", "INI303"]),
    ],
)
def test_select_and_ignore(select: Any, ignore: Any, kept: list[str]) -> None:
    assert [f.code for f in filter_findings(FINDINGS, select=select, ignore=ignore)] == kept


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="cloned-layers"):
        filter_findings(FINDINGS, ignore=["cloned-layer"])


@pytest.mark.parametrize(
    ("fail_on", "codes"), [("error", (1, 0, 0)), ("warning", (1, 1, 0)), ("info", (1, 1, 1)), ("never", (0, 0, 0))]
)
def test_exit_code(fail_on: str, codes: tuple[int, ...]) -> None:
    assert tuple(exit_code([f], fail_on) for f in FINDINGS) == codes
    assert exit_code(FINDINGS, fail_on) == max(codes)


def test_codes_are_stable_in_form_and_cite_what_exists() -> None:
    names = set()
    for check in checks():
        assert check.code.startswith("INI")
        assert len(check.code) == 6
        assert check.name == check.name.lower()
        assert check.name not in names
        names.add(check.name)
        assert check.remedy.endswith(".")
        for key in check.references:
            assert cite(key).key == key


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_patterns_fit_exactly_what_was_found(data: st.DataObject) -> None:
    """What is told can be pasted: as a pattern of a recipe it names these parameters and no other."""
    every = [f"{a}.{i}.{b}" for a in ("net", "h") for i in range(7) for b in ("weight", "bias")]
    every += [f"h.{i}.mix.{j}.w" for i in range(3) for j in range(3)]
    paths = data.draw(st.lists(st.sampled_from(every), unique=True, min_size=1))
    found = patterns_of(paths, every)
    fitting = [p for pattern, _ in found for p in every if matches(pattern, p)]
    assert sorted(fitting) == sorted(paths)
    assert sum(count for _, count in found) == len(paths)
