"""LSUV does what its name says, to any contraction a model is made of."""

from __future__ import annotations

import pytest
import torch
from models import cnn, images, mlp, state, vectors, weights
from torch import nn
from torch.nn.utils import parametrizations

from initadvisor.schemes.data_driven.registry import calibrate
from initadvisor.schemes.values import Calibration
from initadvisor.training.data import Batch


def outputs_of(model: nn.Module, batch: Batch, kinds=(nn.Linear, nn.Conv2d)) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    handles = [
        m.register_forward_hook(lambda mod, args, out, name=name: seen.__setitem__(name, out.detach()))
        for name, m in model.named_modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        batch.call(model)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.SiLU, nn.Sigmoid])
def test_every_layer_of_an_mlp_has_unit_variance(act):
    model, batch = mlp(8, act=act), vectors()
    before = outputs_of(model, batch)
    assert max(abs(float(o.std()) - 1) for o in before.values()) > 0.3
    notes = calibrate(Calibration("lsuv"), model, paths=weights(model), batch=batch)
    assert "8 weights rescaled" in notes[0]
    for name, out in outputs_of(model, batch).items():
        assert float(out.std()) == pytest.approx(1, abs=0.011), name


def test_convolutions_and_their_head():
    model, batch = cnn(8), images()
    calibrate(Calibration("lsuv", (("target", 0.5),)), model, paths=weights(model), batch=batch)
    found = outputs_of(model, batch)
    assert len(found) == 8
    for name, out in found.items():
        assert float(out.std()) == pytest.approx(0.5, abs=0.0055), name


def test_weight_norm_is_written_through_its_originals():
    model, batch = mlp(4), vectors()
    parametrizations.weight_norm(model[0])
    nn.utils.weight_norm(model[2])
    calibrate(Calibration("lsuv"), model, paths={n for n, _ in model.named_parameters()}, batch=batch)
    for name, out in outputs_of(model, batch).items():
        assert float(out.std()) == pytest.approx(1, abs=0.011), name


def test_packed_attention_is_seen():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    before = state(model)
    batch = Batch((torch.randn(8, 12, 32),))
    paths = {n for n, p in model.named_parameters() if p.ndim > 1}
    notes = calibrate(Calibration("lsuv"), model, paths=paths, batch=batch)
    assert "4 weights rescaled" in notes[0]
    for path in paths:
        after = model.get_parameter(path)
        factor = float(after.detach().norm() / before[path].norm())
        torch.testing.assert_close(after.detach(), before[path] * factor)
        assert factor != pytest.approx(1, abs=1e-3)


def test_weights_multiplied_by_hand_are_seen():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(16, 8) * 3)

        def forward(self, x):
            return x @ self.w

    model, batch = ByHand(), vectors()
    calibrate(Calibration("lsuv"), model, paths={"w"}, batch=batch)
    assert float(model(*batch.args).detach().std()) == pytest.approx(1, abs=0.011)


def test_zero_weights_stay_zero_and_are_named():
    model, batch = mlp(4), vectors()
    nn.init.zeros_(model[6].weight)
    nn.init.zeros_(model[6].bias)
    notes = calibrate(Calibration("lsuv"), model, paths=weights(model), batch=batch)
    assert not model[6].weight.any()
    assert any("without variance" in note and "6.weight" in note for note in notes)


def test_a_spectral_norm_is_left_and_named():
    model, batch = mlp(4), vectors()
    parametrizations.spectral_norm(model[2])
    before = state(model)
    notes = calibrate(Calibration("lsuv"), model, paths={n for n, _ in model.named_parameters()}, batch=batch)
    assert any("no factor reaches" in note and "2.parametrizations.weight.original" in note for note in notes)
    for key in before:
        if key.startswith("2.parametrizations"):
            assert torch.equal(before[key], model.state_dict()[key])
