"""Audit and advice are one: what has an error is not proposed, and the report carries the findings."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from planted import LanguageModel, mlp, rows
from torch import nn

import initadvisor
from initadvisor.checks import proposals
from initadvisor.checks.finding import Severity
from initadvisor.checks.proposals import Audit, audit_training, mending
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.training.task import make_task
from initadvisor.types import CURRENT, TORCH_DEFAULT


def tied() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = LanguageModel(2, 32, tied=True)
    nn.init.normal_(model.tokens.weight)
    ids = torch.randint(100, (32, 9))
    return model, (ids[:, :-1], ids[:, 1:])


def test_a_proposal_with_an_error_is_not_proposed() -> None:
    model, batch = tied()
    task = make_task(model, batch, lr=0.01)
    spec = initadvisor.analyze(model, batch)
    proposed = propose_from_spec(spec, task.model, task.sample, loss=task.loss)
    schemes = tuple(s for s in proposed if not s.calibrations)  # drawn in no time
    audit = audit_training(task, schemes)
    assert {"INI312", "INI501"} <= {f.code for f in audit.findings}
    left = audit.fit(schemes)
    assert {CURRENT, TORCH_DEFAULT} <= {s.name for s in left}
    assert len(left) > 2
    for scheme in left:
        if scheme.name in (CURRENT, TORCH_DEFAULT):
            continue
        filled = task.member()
        scheme.apply(filled, seed=0, batch=task.sample, loss=task.loss)
        assert not [f for f in initadvisor.check(filled, batch) if f.severity is Severity.ERROR], scheme.name
    assert len(audit.notes) == len(schemes) - len(left)


def test_an_error_of_the_data_drops_no_proposal() -> None:
    task = make_task(mlp(16, 1), (rows(64, 16), torch.randint(10, (64,))), lr=0.01)
    spec = initadvisor.analyze(task.model, task.sample)
    proposed = propose_from_spec(spec, task.model, task.sample, loss=task.loss)
    schemes = tuple(s for s in proposed if not s.calibrations)  # drawn in no time
    task.sample.args[0][0, 0] = torch.inf
    audit = audit_training(task, schemes)
    assert "INI601" in {f.code for f in audit.findings}
    assert audit.fit(schemes) == tuple(schemes)


def test_the_report_carries_what_check_finds() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    for p in (model[0].weight, model[0].bias):
        nn.init.zeros_(p)
    batch = (rows(60, 8), torch.randint(3, (60,)))
    advice = initadvisor.advise(model, batch, lr=0.05, budget=120, candidates=["rules_orthogonal"], progress=False)
    assert [f.code for f in advice.findings] == [f.code for f in initadvisor.check(model, batch)]
    said = " ".join(advice.report(width=100, color=False).split())
    assert "INI104 error (0.weight)" in said
    assert re.search(r"has \d errors? \(INI104, .*: mend that first", said)
    assert "Initialisation is not your problem" not in said


def test_advice_goes_on_where_the_audit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no audit")

    monkeypatch.setattr(proposals, "check_training", broken)
    monkeypatch.delenv("INITADVISOR_STRICT", raising=False)
    task = make_task(mlp(16, 1), (rows(64, 16), torch.randint(10, (64,))), lr=0.01)
    assert audit_training(task).findings == ()


def encoder(layers: int, *, first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=first)
    return nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))


def ramp(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))


def step_down(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 30)


@pytest.mark.parametrize(
    ("layers", "first", "scheduler", "told"),
    [(6, False, None, True), (6, False, step_down, True), (6, False, ramp, False), (6, True, None, False),
     (3, False, None, False)],
)  # fmt: skip
def test_deep_post_norm_wants_a_warm_up(layers: int, first: bool, scheduler: Any, told: bool) -> None:
    batch = (torch.randn(8, 5, 8), torch.randn(8, 5, 16))
    task = make_task(encoder(layers, first=first), batch, lr=0.001, scheduler=scheduler)
    assert ("INI410" in {f.code for f in audit_training(task).findings}) == told
    assert "INI410" not in {f.code for f in initadvisor.check(task.model, batch)}


def test_what_a_finding_names_is_a_candidate_of_its_own() -> None:
    """One weight of a good net is wrong: filling it alone is tried, all else is kept."""
    torch.manual_seed(0)
    net = mlp(16, 2)
    nn.init.constant_(net[2].weight, 0.05)
    task = make_task(net, (rows(64, 16), torch.randint(10, (64,))), lr=0.01)
    spec = initadvisor.analyze(task.model, task.sample)
    (scheme,) = mending(task, spec, audit_training(task))
    filled = task.member()
    scheme.apply(filled, seed=0, batch=task.sample, loss=task.loss)
    before = dict(net.named_parameters())
    changed = {n for n, p in filled.named_parameters() if not torch.equal(p, before[n])}
    assert "2.weight" in changed
    assert not changed & {"0.weight", "4.weight"}
    assert mending(task, spec, Audit((), {})) == ()
