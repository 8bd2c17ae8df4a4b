"""A scheme that would only draw again what the weights already are is known, whatever kind of tensors it draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.schemes.propose import propose_from_spec, torch_default_scheme
from initadvisor.schemes.redraw import ALPHA, is_another_draw
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Calibration


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(30, 8, padding_idx=0), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.table(x).mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "scalar": (lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1)), torch.randn(8, 20)),
    "tiny": (lambda: nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)), torch.randn(8, 1)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.PReLU()),
        torch.randn(2, 1, 8, 8),
    ),
    "lstm": (lambda: nn.LSTM(8, 16), torch.randn(5, 2, 8)),
    "table": (Table, torch.randint(30, (4, 6))),
    "normed": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 16)), torch.randn(4, 8)),
}


def made(name: str, seed: int) -> tuple[nn.Module, torch.Tensor]:
    make, batch = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(), batch


@pytest.mark.parametrize("name", MODELS)
def test_torch_s_default_is_another_draw_of_a_fresh_model(name):
    count, found = 60, 0
    for seed in range(count):
        model, batch = made(name, seed)
        scheme = torch_default_scheme(analyze(model, batch))
        found += is_another_draw(scheme, model, seed=1000 + seed)
    assert count - found <= binom.ppf(1 - 1e-4, count, ALPHA)


@pytest.mark.parametrize("name", ["scalar", "conv", "lstm"])
def test_every_candidate_knows_its_own_draws_and_no_other_s(name):
    model, batch = made(name, 0)
    schemes = [s for s in propose_from_spec(analyze(model, batch), model, batch) if s.assignments]
    plain = [s for s in schemes if not s.calibrations]
    assert len(plain) >= 6
    for i, scheme in enumerate(plain):
        fresh, _ = made(name, 1)
        scheme.apply(fresh, seed=5, batch=batch)
        drawn = any(
            part.fill.initializer not in ("zeros", "ones", "constant", "zero_init", "identity", "dirac")
            for a in scheme.assignments
            for part in a.parts
        )
        assert is_another_draw(scheme, fresh, seed=9) is drawn, scheme.name
        for other in plain[i + 1 :]:
            if _differ(scheme, other):
                assert not is_another_draw(other, fresh, seed=9), (scheme.name, other.name)


def _differ(a: Scheme, b: Scheme) -> bool:
    """Some tensor of at least 400 elements is drawn at sizes that differ by a half, or only in one of them at all."""
    from initadvisor.initializers.registry import get

    for x, y in zip(a.assignments, b.assignments, strict=True):
        if math.prod(x.shape) < 400 or len(x.parts) != len(y.parts):
            continue
        for p, q in zip(x.parts, y.parts, strict=True):
            sizes = [
                get(r.fill.initializer).declare(x.shape, r.fans, r.fill.gain, dict(r.fill.args)).std for r in (p, q)
            ]
            if None not in sizes and not 0.67 < (sizes[0] or 0) / (sizes[1] or 1e-9) < 1.5:
                return True
    return False


@pytest.mark.parametrize(
    "change",
    [
        lambda m: nn.init.zeros_(m[2].bias),
        lambda m: nn.init.constant_(m[2].bias, 25.0),
        lambda m: nn.init.orthogonal_(m[0].weight, gain=1 / math.sqrt(3)),
        lambda m: nn.init.normal_(m[0].weight, std=1 / math.sqrt(60)),
        lambda m: nn.init.uniform_(m[0].weight, -0.5, 0.5),
        lambda m: m[0].weight.data.copy_(m[0].weight.data[:1].expand(32, 20)),
    ],
    ids=["zero bias", "mean bias", "orthogonal", "normal", "larger", "equal rows"],
)
def test_what_differs_is_not_another_draw(change):
    model, batch = made("scalar", 3)
    scheme = torch_default_scheme(analyze(model, batch))
    assert is_another_draw(scheme, model)
    change(model)
    assert not is_another_draw(scheme, model)


def test_what_measures_or_keeps_everything_is_no_draw():
    model, batch = made("scalar", 3)
    scheme = torch_default_scheme(analyze(model, batch))
    assert not is_another_draw(replace(scheme, calibrations=(Calibration("lsuv"),)), model)
    kept = replace(scheme, assignments=tuple(replace(a, parts=()) for a in scheme.assignments))
    assert not is_another_draw(kept, model)
    assert not is_another_draw(scheme, nn.Linear(3, 3))
