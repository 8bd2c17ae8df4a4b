"""What is calculated is what is measured, where nets are wide enough for the calculation to hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import cnn, images, mlp, vectors, weights
from test_lsuv import outputs_of
from torch import nn

from initadvisor.schemes.data_driven import moments
from initadvisor.schemes.data_driven.moments import Moments
from initadvisor.schemes.data_driven.registry import calibrate
from initadvisor.schemes.values import Calibration
from initadvisor.training.data import Batch

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.SiLU, nn.GELU, nn.ELU]


def gaussian(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of a wrong size throughout, biases zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=g) * 0.02)
            elif name.endswith("bias"):
                p.zero_()
    return model


def measured(model: nn.Module, batch: Batch) -> list[float]:
    return [float(out.std()) for out in outputs_of(model, batch).values()]


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_wide_mlp_has_unit_variance_throughout(act):
    model, batch = gaussian(mlp(6, width=768, act=act)), vectors(512)
    notes = calibrate(Calibration("analytic"), model, paths=weights(model), batch=batch)
    assert "6 weights rescaled" in notes[0]
    assert len(notes) == 1
    # A layer of 16 inputs draws its own variance within √(2/16·768)… of one; each further layer adds √(5/768).
    assert measured(model, batch)[:-1] == pytest.approx([1.0] * 5, abs=0.15)


def test_it_looks_at_no_data():
    first, second = gaussian(mlp(4)), gaussian(mlp(4))
    calibrate(Calibration("analytic"), first, paths=weights(first), batch=vectors(8))
    calibrate(Calibration("analytic"), second, paths=weights(second), batch=Batch((1000 * torch.randn(8, 16),)))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_residual_sums_norms_and_gates():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch = nn.Linear(512, 512), nn.Linear(512, 512)
            self.norm = nn.LayerNorm(512)
            self.gate, self.up, self.last = nn.Linear(512, 512), nn.Linear(512, 512), nn.Linear(512, 512)

        def forward(self, x):
            h = self.stem(x)
            h = h + self.branch(torch.relu(h))
            h = 3.0 * self.norm(h)
            return self.last(torch.nn.functional.silu(self.gate(h)) * self.up(h)) * 0.5

    torch.manual_seed(0)
    model, batch = gaussian(Net()), Batch((torch.randn(256, 512),))
    notes = calibrate(Calibration("analytic"), model, paths=weights(model), batch=batch)
    assert len(notes) == 1, notes
    assert measured(model, batch) == pytest.approx([1.0] * 5, abs=0.12)


def test_convolutions_padding_and_pooling():
    model = nn.Sequential(
        nn.Conv2d(8, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 256),
    )  # fmt: skip
    model = gaussian(model)
    batch = Batch((torch.randn(32, 8, 12, 12),))
    calibrate(Calibration("analytic"), model, paths=weights(model), batch=batch)
    assert measured(model, batch) == pytest.approx([1.0] * 4, abs=0.25)


def test_ops_that_are_not_understood_are_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    notes = calibrate(Calibration("analytic"), Net(), paths={"out.weight"}, batch=Batch((torch.randn(4, 5, 16),)))
    assert any("unit variance assumed behind lstm_layer" in note for note in notes)


def test_a_deep_cnn_gets_its_signal_back():
    model, batch = gaussian(cnn(12)), images()
    assert measured(model, batch)[-1] < 1e-3
    calibrate(Calibration("analytic"), model, paths=weights(model), batch=batch)
    assert 0.2 < measured(model, batch)[-1] < 5


@settings(deadline=None, max_examples=20)
@given(mean=st.floats(-2, 2), deviation=st.floats(0.1, 3), likeness=st.floats(0.0, 0.99))
def test_moments_agree_with_sampling(mean, deviation, likeness):
    n = 40000
    g = torch.Generator().manual_seed(0)
    common, one, two = torch.randn(3, n, generator=g, dtype=torch.float64)
    x, y = (mean + deviation * (math.sqrt(likeness) * common + math.sqrt(1 - likeness) * own) for own in (one, two))
    before = Moments(mean, deviation**2, likeness * deviation**2)
    for fn in (torch.relu, torch.tanh, torch.sin):
        after = moments.bent(before, fn)
        a, b = fn(x), fn(y)
        scale = float(a.std()) + 1e-9
        assert after.mean == pytest.approx(float(a.mean()), abs=6 * scale / math.sqrt(n) + 1e-4)
        fourth = float((a - a.mean()).pow(4).mean())
        assert after.variance == pytest.approx(float(a.var()), abs=6 * math.sqrt(fourth / n) + 1e-3)
        assert after.shared == pytest.approx(
            float(((a - a.mean()) * (b - b.mean())).mean()), abs=6 * math.sqrt(fourth / n) + 3e-3
        )


def test_rules_of_sums_and_products():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200000, generator=g, dtype=torch.float64)
    a, b = Moments(1.0, 4.0), Moments(-0.5, 0.25)
    u, v = 1 + 2 * x, -0.5 + 0.5 * y
    for value, told in (
        (u + v, moments.added(a, b)),
        (u * v, moments.multiplied(a, b)),
        (3 * u + 1, moments.scaled(a, 3, 1)),
    ):
        assert told.mean == pytest.approx(float(value.mean()), abs=0.05)
        assert told.variance == pytest.approx(float(value.var()), rel=0.03)
    joined = moments.joined([(a, 1.0), (b, 1.0)])
    both = torch.cat([u, v])
    assert (joined.mean, joined.variance) == pytest.approx((float(both.mean()), float(both.var())), rel=0.03)


def test_a_root_has_no_moments_under_a_gaussian_and_is_named_instead_of_failing():
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x):
            return self.b(torch.sqrt(self.a(x).square() + 1) * torch.sqrt(self.a(x)).nan_to_num())

    model, batch = Root(), Batch((torch.randn(64, 8),))
    notes = calibrate(Calibration("analytic"), model, paths={"a.weight", "b.weight"}, batch=batch)
    assert any("sqrt" in note for note in notes)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
