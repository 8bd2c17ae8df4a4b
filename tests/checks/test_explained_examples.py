"""Every check shows a few lines with its fault and without; they are Python, and what can be run shows what is said."""

from __future__ import annotations

import ast

import pytest

from initadvisor.checks.examples import EXAMPLES
from initadvisor.checks.registry import checks
from initadvisor.cli.knowledge import everything


def test_every_check_has_an_example_and_explain_shows_it() -> None:
    assert list(EXAMPLES) == [c.code for c in checks()]
    for entry in everything():
        if entry.kind == "checks":
            facts = dict(entry.facts)
            assert facts["Wrong"] != facts["Right"], entry.name
            assert all(len(line) < 90 for line in (*facts["Wrong"], *facts["Right"])), entry.name


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_are_code(code: str) -> None:
    for text in EXAMPLES[code]:
        if not text.startswith("INITADVISOR_STRICT"):
            body = text if not text.startswith("return") else f"def forward(self, x):\n    {text}"
            ast.parse(body)
