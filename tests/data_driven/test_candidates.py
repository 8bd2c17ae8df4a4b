"""Data-driven schemes are proposed where they make sense, build on the rules and can be applied as they are."""

from __future__ import annotations

import pytest
import torch
from models import cnn, images, mlp, vectors
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.references import cite
from initadvisor.schemes.data_driven.candidates import BASE, affordable
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.values import SchemeKind
from initadvisor.training.data import Batch


def proposed(model, batch):
    return {s.name: s for s in propose_from_spec(analyze(model, batch), model, batch)}


def driven(model, batch):
    return {name for name, s in proposed(model, batch).items() if s.kind is SchemeKind.DATA_DRIVEN}


def test_a_plain_net_gets_all_and_they_apply():
    model, batch = mlp(6), vectors(64)
    found = proposed(model, batch)
    names = {"lsuv", "analytic", "metainit", "gradinit"}
    assert names <= set(found)
    for name in names:
        scheme = found[name]
        assert scheme.assignments == found[BASE].assignments
        assert scheme.prior < found[BASE].prior
        assert any(reason.startswith(f"{name}: ") for reason in scheme.reasons)
        assert set(scheme.references) > set(found[BASE].references)
        assert all(cite(key) for key in scheme.references)
    for name in ("lsuv", "analytic"):
        result = found[name].apply(model, seed=1)
        assert any("6 weights rescaled" in note for note in result.notes)


def test_a_scheme_carries_its_batch_and_draws_the_same_twice():
    batch = vectors(64)
    first, second = mlp(5), mlp(5)
    for model in (first, second):
        proposed(model, batch)["lsuv"].apply(model, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.rnn, self.out = nn.Linear(16, 16), nn.LSTM(16, 16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.out(self.rnn(torch.relu(self.one(x))[:, None])[0][:, -1])


class Sine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return x


@pytest.mark.parametrize("make", [Recurrent, Sine, lambda: mlp(2)], ids=["recurrent", "sine", "shallow"])
def test_none_where_they_make_no_sense(make):
    assert not driven(make(), vectors(32))


def test_learned_steps_only_for_small_models():
    assert driven(cnn(6), images(16)) == {"lsuv", "analytic", "metainit", "gradinit"}
    assert driven(mlp(6, width=512), vectors(256)) == {"lsuv", "analytic"}


def test_cost_counts_every_use_of_a_weight():
    """A picture four times as large, or four times the samples, costs four times as much."""
    spec = analyze(cnn(6), images(16))
    small = Batch((torch.zeros(16, 3, 12, 12),))
    assert affordable(spec, small)
    assert not affordable(spec, Batch((torch.zeros(16, 3, 24, 24),)))
    assert not affordable(spec, Batch((torch.zeros(64, 3, 12, 12),)))
    assert affordable(spec, Batch((torch.zeros(256, 100),)))
    assert not affordable(spec, Batch((torch.zeros(256, 100, dtype=torch.long),)))


def test_none_without_a_batch():
    model = mlp(6)
    schemes = propose_from_spec(analyze(model, vectors(8)), model)
    assert not [s for s in schemes if s.kind is SchemeKind.DATA_DRIVEN]


def test_places_are_counted_as_the_model_reads_them() -> None:
    """(N, 6, 900) is 900 places of a kernel that slides over it and six of a map that reads the last axis."""
    series = torch.zeros(16, 6, 900)
    slides = analyze(nn.Sequential(nn.Conv1d(6, 64, 3), nn.ReLU(), nn.Conv1d(64, 64, 3)), series)
    reads = analyze(nn.Sequential(nn.Linear(900, 15), nn.ReLU(), nn.Linear(15, 15)), series)
    assert sum(p.numel for p in slides.fillable) < sum(p.numel for p in reads.fillable)
    assert not affordable(slides, Batch((series,)))
    assert affordable(reads, Batch((series,)))
