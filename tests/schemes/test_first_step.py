"""No proposal makes the first step worse than it was, over a zoo of models; what does is said with its figures."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from zoo_models import mlp, zoo

from initadvisor.checks.finding import Severity
from initadvisor.checks.runner import check
from initadvisor.schemes.first_step import FirstStep, Start, first_step, first_step_of_each, first_steps
from initadvisor.schemes.propose import propose, propose_from_spec
from initadvisor.schemes.values import Fill, Part, SchemeKind
from initadvisor.types import CURRENT, TORCH_DEFAULT

BASELINES = (CURRENT, TORCH_DEFAULT)

torch.manual_seed(7)
ZOO = zoo()


@pytest.mark.parametrize("name", ZOO)
def test_no_proposal_starts_worse_or_has_an_error(name):
    """One proposal in three is audited, another third for each model, so that the whole zoo covers all of them."""
    model, batch = ZOO[name]
    schemes = [s for s in propose(model, batch) if s.name not in BASELINES and not s.calibrations]
    found = first_steps(model, batch, {s.name: s for s in schemes})
    assert [step.fault for step in found.values() if not step.holds] == []
    shift = list(ZOO).index(name) % 3
    for scheme in schemes[shift::3]:
        twin = copy.deepcopy(model)
        scheme.apply(twin, seed=1, batch=batch)
        errors = [f"{f.code} {f.path}: {f.message}" for f in check(twin, batch) if f.severity is Severity.ERROR]
        assert errors == [], scheme.name


def start(loss: float, gradient: float = 1.0, outputs: float = 0.3) -> Start:
    return Start(loss, gradient, outputs)


@pytest.mark.parametrize(
    ("before", "after", "holds", "said"),
    [
        (start(1.1), start(1.2), True, ""),
        (start(1.1), start(2.3, outputs=5.0), False, "starts at a loss of 2.3"),
        (start(1.1), start(2.3, outputs=1.2), True, "starts at a loss"),  # explained by unit outputs
        (start(0.055, outputs=4.6), start(0.73, outputs=0.5), False, "0.73"),  # a prior that was lost
        (start(1.0), start(1.0, gradient=11.0, outputs=3.0), False, "11 times"),
        (start(1.0), start(1.0, gradient=9.0, outputs=3.0), True, ""),
        (start(0.001), start(0.04), True, ""),  # level
        (start(-3.0), start(-1.0, outputs=9.0), True, ""),  # a likelihood may be negative
        (start(-3.0), start(0.5, outputs=9.0), False, "0.5"),
        (start(1.0), start(math.inf), False, "overflow"),
        (start(math.inf), start(1.0), True, ""),
        (start(math.nan), start(math.inf), False, "does not mend"),
    ],
)
def test_what_counts_as_worse(before, after, holds, said):
    step = FirstStep("s", before, after)
    assert step.holds is holds
    assert said in step.fault
    assert bool(step.fault) or not said


def test_a_signal_that_dies_out_is_worse_and_a_zero_on_purpose_is_not():
    before = Start(1.0, 1.0, 0.3, {"a": 0.5, "b": 0.5})
    assert "a has 1e-06" in FirstStep("s", before, Start(1.0, 1.0, 0.1, {"a": 5e-7, "b": 0.5})).fault
    for a in (0.0, 5e-3):
        assert FirstStep("s", before, Start(1.0, 1.0, 0.1, {"a": a, "b": 0.5})).holds


def test_the_tensor_at_fault_is_found_and_the_model_left_alone():
    torch.manual_seed(0)
    model, batch = mlp(8, 16, 3, nn.Tanh), (torch.randn(32, 8), torch.randint(3, (32,)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scheme = next(s for s in propose(model, batch) if s.name == "rules_orthogonal")
    assert first_step(model, batch, scheme).fault == ""
    spoilt = tuple(
        replace(a, parts=(Part(Fill("normal", args=(("std", 9.0),)), a.parts[0].fans),)) if a.path == "4.weight" else a
        for a in scheme.assignments
    )
    wrong = replace(scheme, name="wrong", assignments=spoilt)
    assert not first_step(model, batch, wrong).holds
    each = first_step_of_each(model, batch, wrong)
    assert set(each) == {a.path for a in wrong.assignments if a.parts}
    assert [path for path, step in each.items() if not step.holds] == ["4.weight"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_of_model_and_batch_and_a_model_that_overflows():
    torch.manual_seed(0)
    model, x = mlp(8, 16, 3, nn.ReLU, 1), torch.randn(32, 8)
    scheme = propose(model, x)[2]
    step = first_step(model, x, scheme, loss=lambda net, batch: net(batch).square().mean())
    assert step.after.finite
    wide = replace(
        scheme,
        assignments=tuple(
            replace(a, parts=(Part(Fill("constant", args=(("value", 1e30),)), a.parts[0].fans),))
            for a in scheme.assignments
        ),
    )
    assert "overflow" in first_step(model, x, wide, loss=lambda net, batch: net(batch).square().mean()).fault


def test_propose_leaves_out_what_starts_worse_and_the_race_still_may_have_it():
    torch.manual_seed(0)
    model, batch = ZOO["norm-free mlp"]
    from initadvisor.graph.analyze import analyze

    every = {s.name for s in propose_from_spec(analyze(model, batch), model, batch)}
    sound = {s.name for s in propose(model, batch)}
    assert "he_normal" in every
    assert "he_normal" not in sound  # a loss of 23 where the weights as they came have 1.1
    assert {*BASELINES, "rules_orthogonal"} <= sound
    assert all(s.kind is not SchemeKind.CURRENT or s.name == CURRENT for s in propose(model, batch))
