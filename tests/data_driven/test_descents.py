"""MetaInit and GradInit descend on what they say, checked by means that share nothing with them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from models import Residual, everything, mlp, state, vectors
from torch import nn

from initadvisor.schemes.data_driven.card import Site, rescalable
from initadvisor.schemes.data_driven.gradinit import first_step
from initadvisor.schemes.data_driven.metainit import gradient_quotient
from initadvisor.schemes.data_driven.objective import Objective, gradients
from initadvisor.schemes.data_driven.registry import calibrate
from initadvisor.schemes.values import Calibration
from initadvisor.training.data import Batch


def site(model: nn.Module, batch: Batch, loss=None) -> Site:
    return Site(model, rescalable(model, everything(model))[0], batch, loss, 0)


class Vector(nn.Module):
    """A model that is one row of weights, so that its loss can be any function of them."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.3, -1.2, 0.7, 2.0]], dtype=torch.float64))

    def forward(self, x):
        return self.w * x


@pytest.mark.parametrize(
    ("loss", "quotient"),
    [
        # H = 0; H = c·1, so H·g / g = c; L = Σw³/3 has g = w², H = 2w, so H·g / g = 2w.
        (lambda m, b: m.w.sum(), 0.0),
        (lambda m, b: 1.5 * m.w.square().sum(), 3.0),
        (lambda m, b: m.w.pow(3).sum() / 3, 2 * (0.3 + 1.2 + 0.7 + 2.0) / 4),
    ],
    ids=["linear", "quadratic", "cubic"],
)
def test_gradient_quotient_in_closed_form(loss, quotient):
    objective = Objective(site(Vector(), Batch((torch.ones(1, 4),)), loss), norms=False)
    value = gradient_quotient(objective, objective.weights(torch.zeros(1)))
    # ε = 1e-5 beside gradients of .09 and more: it also leaves ε where the quotient is 0.
    assert float(value.detach()) == pytest.approx(quotient, rel=5e-4, abs=1.2e-5)


@pytest.mark.parametrize("what", ["loss", "quotient"])
def test_slopes_by_factor_are_those_of_finite_differences(what):
    model = mlp(4, width=8, act=nn.Tanh).double()
    batch = vectors(32)
    batch = Batch((batch.args[0].double(),), {}, batch.target)
    objective = Objective(site(model, batch), norms=False)

    def value(logs: torch.Tensor):
        weights = objective.weights(logs)
        return (objective.loss(weights) if what == "loss" else gradient_quotient(objective, weights)), weights

    logs = torch.full((len(objective.paths),), 0.2, dtype=torch.float64)
    slopes = objective.by_factor(*value(logs))
    for i in range(len(logs)):
        step = torch.zeros_like(logs)
        step[i] = 1e-5
        rise = float((value(logs + step)[0] - value(logs - step)[0]).detach())
        assert float(slopes[i]) == pytest.approx(rise / 2e-5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_first_step_is_the_optimizers(optimizer):
    model, batch = mlp(3, width=8), vectors(64)
    objective = Objective(site(model, batch), norms=True)
    weights = objective.weights(torch.zeros(len(objective.paths)))
    stepped = first_step(weights, gradients(objective.loss(weights), weights), 0.01, optimizer)
    real = copy.deepcopy(model)
    made = (
        torch.optim.SGD(real.parameters(), lr=0.01)
        if optimizer == "sgd"
        else torch.optim.Adam(real.parameters(), lr=0.01)
    )
    F.cross_entropy(batch.call(real), batch.target).backward()
    made.step()
    for path, value in real.named_parameters():
        # Adam divides by |g| + 1e-8, which shows where a gradient is that small.
        clear = dict(real.named_parameters())[path].grad.abs() > 1e-4
        torch.testing.assert_close(stepped[path][clear], value.detach()[clear], atol=2e-6, rtol=1e-4)


def loss_after_one_step(model: nn.Module, batch: Batch, optimizer: str, lr: float) -> float:
    trial = copy.deepcopy(model)
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](trial.parameters(), lr=lr)
    F.cross_entropy(batch.call(trial), batch.target).backward()
    make.step()
    return float(F.cross_entropy(batch.call(trial), batch.target).detach())


class NormFree(nn.Module):
    """He weights on twelve residual branches without norms: the stream doubles at every one."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16, 32), *(nn.Linear(32, 32) for _ in range(12)), nn.Linear(32, 4)])
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, generator=g)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        first, *branches, head = self.layers
        h = first(x)
        for branch in branches:
            h = h + branch(torch.relu(h))
        return head(h)


def learnable() -> Batch:
    x = vectors(256).args[0]
    return Batch((x,), {}, x[:, :4].argmax(1))


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("adam", 0.01)])
def test_gradinit_makes_an_exploding_start_take_its_first_step(optimizer, lr):
    model, batch = NormFree(), learnable()
    before = loss_after_one_step(model, batch, optimizer, lr)
    biases = {k: v for k, v in state(model).items() if k.endswith("bias")}
    notes = calibrate(
        Calibration("gradinit", (("optimizer", optimizer), ("lr", lr), ("steps", 40.0))),
        model, paths=everything(model), batch=batch,
    )  # fmt: skip
    after = loss_after_one_step(model, batch, optimizer, lr)
    assert before > 10
    assert after < 1.6, notes  # chance is ln 4 = 1.39; a step that overshoots leaves far more
    assert f"{after:.4g} after" in notes[-1]
    assert all(torch.equal(state(model)[k], v) for k, v in biases.items())


def test_metainit_lowers_the_quotient_and_keeps_directions():
    model, batch = mlp(8, width=32, act=nn.Tanh), learnable()

    def quotient() -> float:
        objective = Objective(site(model, batch), norms=False)
        return float(gradient_quotient(objective, objective.weights(torch.zeros(len(objective.paths)))).detach())

    before, old = quotient(), state(model)
    calibrate(Calibration("metainit"), model, paths=everything(model), batch=batch)
    assert quotient() < 0.8 * before
    for name, value in state(model).items():
        if value.ndim == 1:
            assert torch.equal(value, old[name])
        else:
            factor = value.norm() / old[name].norm()
            torch.testing.assert_close(value, old[name] * factor, rtol=1e-4, atol=1e-6)


def test_a_start_that_cannot_be_improved_is_left_to_the_bit():
    model = mlp(3, width=8)
    batch = learnable()
    old = state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    zeros = state(model)
    notes = calibrate(Calibration("gradinit"), model, paths=everything(model), batch=batch)
    assert "no tensor can be rescaled" in notes[0]
    assert all(torch.equal(v, zeros[k]) for k, v in state(model).items())
    model.load_state_dict(old)
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    broken = state(model)
    for method in ("gradinit", "metainit"):
        notes = calibrate(Calibration(method), model, paths=everything(model), batch=batch)
        assert "not finite" in notes[0]
        assert all(torch.equal(v, broken[k]) for k, v in state(model).items())


def test_norm_scales_are_learned_by_gradinit_alone():
    model, batch = Residual(), learnable()
    plain = site(model, batch)
    assert "norm.weight" in Objective(plain, norms=True).paths
    assert "norm.weight" not in Objective(plain, norms=False).paths
    assert not [p for p in Objective(plain, norms=True).paths if p.endswith("bias")]


def test_halves_share_no_sample_and_the_whole_stands_in_where_it_cannot_be_divided():
    model = mlp(3, width=8)
    batch = Batch((torch.arange(64.0)[:, None].expand(64, 16).contiguous(),), {}, torch.arange(64) % 4)
    g = torch.Generator().manual_seed(0)
    first, second = Objective(site(model, batch), norms=True).halves(g)
    rows = [set(part.args[0][:, 0].tolist()) for part in (first, second)]
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == set(map(float, range(64)))
    assert torch.equal(first.target, first.args[0][:, 0].long() % 4)
    own = Objective(site(model, batch, lambda m, b: m(b.args[0]).square().mean()), norms=True)
    assert own.halves(g) == (batch, batch)
