"""JSON and HTML: valid by their own rules, complete, self-contained, readable by everyone."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evidences import ALL, infinite, keep, switch, untried
from validator import problems, validate

from initadvisor.errors import InitAdvisorError
from initadvisor.report.console import render
from initadvisor.report.html import render_fragment, render_page, write_html
from initadvisor.report.jsonout import (
    advice_schema,
    evidence_from_json,
    evidence_to_json,
    load_advice,
    spec_schema,
    spec_to_json,
)
from initadvisor.report.plots import plot_evidence


@pytest.mark.parametrize("name", ALL)
def test_json_is_strict_and_fits_its_schema(name: str) -> None:
    evidence = ALL[name]()
    for document, schema in (
        (evidence_to_json(evidence, recipe="format: 1"), advice_schema()),
        (spec_to_json(evidence.spec), spec_schema()),
    ):
        validate(json.loads(json.dumps(document, allow_nan=False)), schema)


def test_the_schema_rejects_what_is_wrong() -> None:
    """The validator is not asleep: each planted fault is found where it is."""
    for path, wrong in (
        (("headline",), 3),
        (("format_version",), 99),
        (("evidence", "race", "decision", "verdict"), "perhaps"),
        (("evidence", "race", "decision", "effect"), "infinite"),
        (("evidence", "race", "decision", "interval"), [1.0]),
        (("evidence", "race", "ranking"), [{}]),
        (("evidence", "spec", "params"), [3]),
    ):
        document = json.loads(json.dumps(evidence_to_json(switch())))
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        assert problems(document, advice_schema(), advice_schema()), path
        if path != ("headline",):
            with pytest.raises(InitAdvisorError):
                evidence_from_json(document)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_advice_is_told_the_same_again(name: str, tmp_path: Path) -> None:
    evidence = ALL[name]()
    file = tmp_path / "advice.json"
    file.write_text(json.dumps(evidence_to_json(evidence, recipe="format: 1")))
    saved = load_advice(file)
    assert saved.recipe == "format: 1"
    assert render(saved.evidence, width=90, color=False) == render(evidence, width=90, color=False)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"format": "something else"}', "not json"])
def test_a_file_that_is_no_advice_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "advice.json"
    file.write_text(text)
    with pytest.raises(InitAdvisorError) as caught:
        load_advice(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(InitAdvisorError):
        evidence_from_json({"kind": "nothing"})


class Page(HTMLParser):
    """Collects what the rules below are about."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input", "path", "rect", "line", "use", "circle", "stop"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.outside: list[str] = []
        self.nameless: list[str] = []
        self.language = ""
        self.viewport = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = given.get(name) or ""
            is_link = tag == "a" and name == "href"
            if value and not value.startswith(("#", "data:")) and not is_link:
                self.outside.append(f"{tag} {name}={value}")
        if tag == "img" and not given.get("alt"):
            self.nameless.append(tag)
        if (
            tag == "svg"
            and given.get("aria-hidden") != "true"
            and not (given.get("aria-label") or given.get("aria-labelledby"))
        ):
            self.nameless.append(tag)
        if tag == "html":
            self.language = given.get("lang") or ""
        if tag == "meta" and given.get("name") == "viewport":
            self.viewport = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.mark.parametrize("name", ALL)
def test_html_is_well_formed_self_contained_and_accessible(name: str) -> None:
    text = render_page(ALL[name](), recipe="format: 1\nname: <b>&")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert page.nameless == []
    assert page.language == "en"
    assert page.viewport
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:], strict=False)), page.headings
    assert "prefers-color-scheme: dark" in text
    assert "@import" not in text
    assert "url(http" not in text
    assert "<b>&" not in text, "the recipe must be escaped"
    assert len(text) < 3_000_000


def test_html_tells_everything(tmp_path: Path) -> None:
    path = write_html(switch(), tmp_path / "report.html", recipe="format: 1")
    text = path.read_text()
    for part in (
        "orthogonal_tanh",
        "kaiming_normal",
        "more than 99 in 100",
        "format: 1",
        "@misc{glorot2010",
        "layers.0.weight",
    ):
        assert part in text
    assert "strange.kernel_with_a_very_long_name" in render_page(infinite())


@pytest.mark.parametrize("name", ALL)
def test_fragments_and_figures_are_made_of_any_evidence(name: str) -> None:
    fragment = render_fragment(ALL[name]())
    assert "<html" not in fragment
    figure = plot_evidence(ALL[name]())
    figure.canvas.draw()


def test_html_shows_one_histogram_where_nothing_was_filled() -> None:
    evidence = keep()
    kept = tuple(replace(w, counts=w.before, initializer="as it came") for w in evidence.weights)
    assert "filled by" not in render_page(replace(evidence, weights=kept))
    assert "filled by orthogonal" in render_page(evidence)


def test_html_lists_what_was_not_trained_apart() -> None:
    text = render_page(untried())
    assert "<h3>Not trained</h3>" in text
    assert text.index("the budget had room") > text.index("<h3>Not trained</h3>")
    assert ">nan<" not in text
    assert "Not trained" not in render_page(switch())


def test_figures_leave_no_trace_of_matplotlib_settings() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    render_page(switch())
    plot_evidence(switch())
    assert dict(mpl.rcParams) == before
    # No figure is registered with pyplot, so nothing is held or shown behind the user's back.
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_what_it_takes_to_repeat_it_is_said_once() -> None:
    evidence = switch()
    race = replace(evidence.race, settings=(("optimizer", evidence.optimizer_name), ("loss", "again"), ("rungs", "2")))
    names = re.findall(r"<dt>(.*?)</dt>", render_page(replace(evidence, race=race)))
    assert "rungs" in names
    assert len(names) == len(set(names))


def test_intervals_have_a_column_where_there_are_any() -> None:
    evidence = switch()
    one_draw = tuple(replace(e, seeds=1, low=e.score, high=e.score) for e in evidence.race.ranking)
    page = render_page(replace(evidence, race=replace(evidence.race, ranking=one_draw)))
    assert ">interval</th>" in render_page(evidence)
    assert ">interval</th>" not in page
    assert "one seed each" in page
