"""Class, parameter, scheme and file names are text: in HTML, in figures, on a terminal, in JSON and in CI's formats."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from evidences import ALL
from torch import nn

from initadvisor.checks.formats import FORMATS, render_findings
from initadvisor.checks.runner import check
from initadvisor.cli.outcome import tell, tell_json
from initadvisor.graph.analyze import analyze
from initadvisor.plaintext import unprintable
from initadvisor.report.console import render
from initadvisor.report.evidence import Evidence
from initadvisor.report.html import render_fragment, render_page
from initadvisor.report.jsonout import evidence_from_json, evidence_to_json, spec_to_json
from initadvisor.report.tables import render_spec

EVIL = (
    "</svg></td><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>&amp;",
    "$\\evil_{$ $x",
    "\x1b[2J\x1b]0;title\x07\x9b31m\x00",
    "[bold red]x[/] [/nothing] :smile:",
    "{{7*7}}{% raw %}%(x)s{0}",
    "a\nb\rc\u2028d",
    "\u202egnp.exe",
    "\udcff\ud800",
)


def renamed(evidence: Evidence, evil: str) -> Evidence:
    """The same with every name of the user's own made strange, everywhere it stands."""
    names = {p.path for p in evidence.spec.params} | {s.name for s in evidence.schemes} | {evidence.model_name}
    names |= {entry.scheme for entry in evidence.race.ranking} - {"current", "torch_default"}
    names -= {"current", "torch_default"}

    def strange(value: Any) -> Any:
        if isinstance(value, dict):
            return {strange(k) if k in names else k: strange(v) for k, v in value.items()}
        if isinstance(value, list):
            return [strange(v) for v in value]
        return value + evil if isinstance(value, str) and value in names else value

    return evidence_from_json(strange(evidence_to_json(evidence))).evidence


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        for name, _ in attrs:
            assert not name.startswith("on"), (tag, attrs)


def tags(page: str) -> Counter[str]:
    parser = Tags()
    parser.feed(page)
    parser.close()
    return parser.seen


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", ["switch", "untried"])
def test_reports_show_names_letter_by_letter(name: str) -> None:
    evil = " ".join(EVIL)
    plain, strange = ALL[name](), renamed(ALL[name](), evil)
    assert not (set(tags(render_page(strange))) - set(tags(render_page(plain)))) & {"script", "img", "iframe", "b", "x"}
    assert tags(render_fragment(strange))["script"] == 0
    for color in (False, True):
        told = render(strange, width=90, color=color)
        bare = re.sub(r"\x1b\[[\d;]*m", "", told) if color else told
        assert not unprintable(bare)
    assert "[boldred]" in "".join(render(strange, width=160, color=False).split())


class Plain(nn.Module):
    def __init__(self, evil: str) -> None:
        super().__init__()
        self.add_module(f"layer{evil}".replace(".", "_"), nn.Linear(4, 4))
        self.register_parameter(f"free{evil}".replace(".", "_"), nn.Parameter(torch.zeros(4, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.children():
            x = module(x)
        return x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_what_is_read_of_a_model_is_told_letter_by_letter(evil: str, capfd: pytest.CaptureFixture[str]) -> None:
    title = f"Net{evil}".replace("\0", "").encode("utf-8", "ignore").decode()
    model = type(title, (Plain,), {})(evil)
    batch = (torch.randn(8, 4), torch.randn(8, 4))
    spec, findings = analyze(model, batch), check(model, batch)
    assert findings
    assert not unprintable(render_spec(spec, width=80, color=False, full=True))
    for form in FORMATS:
        tell(render_findings(findings, form, file=f"train{evil}.py"))
        out = capfd.readouterr().out
        assert not unprintable(out), form
        if form in ("json", "sarif"):
            json.loads(out)
        if form == "github":
            assert all(line.startswith("::") for line in out.splitlines()), out
    tell_json(spec_to_json(spec))
    assert [p["path"] for p in json.loads(capfd.readouterr().out)["spec"]["params"]] == [p.path for p in spec.params]
