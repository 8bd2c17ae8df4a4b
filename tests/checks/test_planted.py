"""Every planted bug is found where it was planted; the same model without it is not accused of it."""

from __future__ import annotations

import re

import pytest
from planted import BUGS, Planted, fresh

from initadvisor.checks.registry import checks, get
from initadvisor.checks.runner import check


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: f"{b.code} {b.name}")
def test_a_planted_bug_is_found(bug: Planted) -> None:
    model, batch = fresh(bug.sick)
    found = [f for f in check(model, batch, loss=bug.loss) if f.code == bug.code]
    assert found, f"{bug.code} did not fire"
    assert any(bug.path in f.paths for f in found) or not bug.path
    known = get(bug.code)
    for finding in found:
        assert finding.severity in (known.severity, *known.grades), "the documents do not know this severity"
        assert re.search(r"\d|inf|nan", finding.message) or bug.code == "INI901", "no figure proves it"
        assert finding.remedy.endswith(".")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("bug", BUGS, ids=lambda b: f"{b.code} {b.name}")
def test_its_healthy_counterpart_is_not_accused(bug: Planted, seed: int) -> None:
    model, batch = fresh(bug.healthy, seed)
    accused = [f for f in check(model, batch, loss=bug.loss) if f.code == bug.code]
    assert not accused, accused[0].message


def test_every_check_has_a_planted_bug() -> None:
    # What tells that a check failed itself is planted where checks are made to fail, what needs a schedule with advice.
    assert {c.code for c in checks()} == {b.code for b in BUGS} | {"INI903", "INI410"}
