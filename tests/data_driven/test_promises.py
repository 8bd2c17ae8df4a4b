"""What every data-driven step promises: it touches only what it may, undoes what fails, and repeats itself by seed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Residual, everything, mlp, state, vectors, weights
from torch import nn

from initadvisor.errors import RegistryError, SchemeError
from initadvisor.references import REFERENCES
from initadvisor.schemes.apply import apply_scheme
from initadvisor.schemes.data_driven.card import register
from initadvisor.schemes.data_driven.registry import calibrate, cards, check_calibrations, get
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Calibration, Fill, Part, SchemeKind
from initadvisor.training.data import Batch
from initadvisor.types import Fans

METHODS = sorted(card.name for card in cards())
FEW_STEPS = {"metainit": (("steps", 3.0),), "gradinit": (("steps", 3.0),)}
"""Promises hold after few steps as after many."""


def step(name: str) -> Calibration:
    return Calibration(name, FEW_STEPS.get(name, ()))


@pytest.mark.parametrize("name", METHODS)
def test_the_card_says_everything(name):
    card = get(name)
    assert card.summary.endswith(".")
    assert card.right_when.endswith(".")
    assert card.wrong_when.endswith(".")
    assert card.references
    assert all(key in REFERENCES for key in card.references)
    assert all(h.meaning for h in card.args.values())
    with pytest.raises(RegistryError, match="twice"):
        register(card)


@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_only_the_given_paths_change_and_only_by_a_factor(name, data):
    model, batch = Residual(), vectors(64)
    paths = data.draw(st.sets(st.sampled_from(sorted(everything(model)))))
    before = state(model)
    calibrate(step(name), model, paths=paths, batch=batch)
    for key, value in model.state_dict().items():
        if key not in paths:
            assert torch.equal(value, before[key]), key
        elif before[key].any():
            factor = float(value.norm() / before[key].norm())
            torch.testing.assert_close(value, before[key] * factor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_everything_else_is_as_it_was(name, training):
    model, batch = Residual().train(training), vectors(64)
    model.norm.eval()  # a part that is kept in evaluation mode on purpose
    model(*batch.args).sum().backward()
    kept = model.head.weight.grad
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    modes = [m.training for m in model.modules()]
    seen = []
    model.register_forward_hook(lambda *a: seen.append(1))
    hooks = len(model._forward_hooks)
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    inputs = batch.args[0].clone()
    rng = torch.get_rng_state()
    calibrate(step(name), model, paths=weights(model), batch=batch)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in model.modules()] == modes
    assert len(model._forward_hooks) == hooks
    assert model.head.weight.grad is kept
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters())
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    assert torch.equal(batch.args[0], inputs)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides(name):
    def run(seed: int) -> dict[str, torch.Tensor]:
        model = Residual()
        torch.rand(seed + 3)  # the global generator plays no role
        calibrate(step(name), model, paths=weights(model), batch=vectors(64), seed=seed)
        return state(model)

    first, again = run(0), run(0)
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("name", METHODS)
def test_failure_leaves_the_filled_weights_and_says_so(name):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            h = self.one(x)
            if self.training:
                raise RuntimeError("only for evaluation")
            return self.two(h)

    model = Fails()
    before = state(model)
    notes = calibrate(step(name), model, paths=weights(model), batch=vectors(32))
    assert any("undone" in note and "only for evaluation" in note for note in notes)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_no_weight_is_left_that_is_not_finite(name):
    """Data that overflow the forward pass: whatever a step does with them, it does not write them into weights."""
    model = mlp(4)
    before = state(model)
    batch = vectors(32)
    broken = Batch((batch.args[0] * 1e38 * 1e3,), {}, batch.target)
    calibrate(step(name), model, paths=weights(model), batch=broken)
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) or name == "analytic"


def test_calibrations_are_checked_before_anything_is_written():
    model = nn.Linear(4, 2)
    before = state(model)
    assign = tuple(
        Assignment(path, tuple(p.shape), (Part(Fill("normal"), Fans(4, 2)),), "r", "x")
        for path, p in model.named_parameters()
    )
    for calibration, error, text in (
        (Calibration("lsvu"), RegistryError, 'did you mean "lsuv"'),
        (Calibration("lsuv", (("tarqet", 1.0),)), SchemeError, 'did you mean "target"'),
        (Calibration("lsuv", (("target", -1.0),)), SchemeError, "lies between"),
        (Calibration("lsuv", (("target", "one"),)), SchemeError, "is a number"),
    ):
        with pytest.raises(error, match=text):
            check_calibrations([calibration])
        scheme = Scheme("s", SchemeKind.DATA_DRIVEN, "", assign, (calibration,))
        with pytest.raises(error, match=text):
            apply_scheme(scheme, model, batch=torch.randn(8, 4))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_apply_runs_the_step_and_leaves_the_frozen_alone(name):
    model = mlp(4)
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model[0].weight)
    assign = tuple(
        Assignment(path, tuple(p.shape), (Part(Fill("kaiming_normal"), Fans(16, 16)),), "r", "x")
        if p.ndim > 1
        else Assignment(path, tuple(p.shape), (), "r", "kept")
        for path, p in model.named_parameters()
    )
    scheme = Scheme("s", SchemeKind.DATA_DRIVEN, "", assign, (step(name),))
    result = apply_scheme(scheme, model, batch=(vectors().args[0], vectors().target))
    assert any(note.startswith(name) for note in result.notes)
    assert torch.equal(model[0].weight, before)
    assert result.left["0.weight"] == "frozen"
