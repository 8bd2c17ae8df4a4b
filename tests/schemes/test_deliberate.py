"""What an author set on purpose stays, in every scheme of ours, in torch's default, and the reasons say so."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.schemes.build import AS_SET
from initadvisor.schemes.deliberate import deliberate_values
from initadvisor.schemes.propose import propose
from initadvisor.types import CURRENT


class Highway(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.new = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x):
        share = torch.sigmoid(self.gate(x))
        return share * torch.tanh(self.new(x)) + (1 - share) * x


class OpenCell(nn.Module):
    """A recurrence by hand with its forget gate held open."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.forget, self.cell, self.width = nn.Linear(inputs + width, width), nn.Linear(inputs + width, width), width
        nn.init.constant_(self.forget.bias, 3.0)

    def forward(self, x):
        h = x.new_zeros(len(x), self.width)
        for t in range(x.shape[1]):
            both = torch.cat([x[:, t], h], 1)
            share = torch.sigmoid(self.forget(both))
            h = share * h + (1 - share) * torch.tanh(self.cell(both))
        return h


class Noisy(nn.Module):
    """Fortunato et al. 2018: means are drawn, the noise starts at one size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.empty(outputs, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
        self.scale = nn.Parameter(torch.full((outputs, inputs), 0.5 / math.sqrt(inputs)))
        self.register_buffer("noise", torch.randn(outputs, 1) @ torch.randn(1, inputs))

    def forward(self, x):
        return F.linear(x, self.mean + self.scale * self.noise)


class LogGain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_gain, self.shift = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt() * self.log_gain.exp() + self.shift


class Mixing(nn.Module):
    """A learned mixing of channels that starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(width))

    def forward(self, x):
        return x @ self.mix


class Waves(nn.Module):
    """Learned positions that start as waves of falling frequency."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        angle = torch.arange(float(places))[:, None] * 0.5 ** torch.arange(width // 2)
        self.places = nn.Parameter(torch.cat([angle.sin(), angle.cos()], 1))

    def forward(self, x):
        return x + self.places[: x.shape[1]]


def dense(*between: nn.Module, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), *between, nn.Linear(16, outputs))


def with_bias(values: torch.Tensor, of: str = "last") -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, len(values)))
    with torch.no_grad():
        model[2 if of == "last" else 0].bias.copy_(values)
    return model


def lstm(value: float) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)
            with torch.no_grad():
                self.lstm.bias_ih_l0.zero_()[16:32] = value

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    return Net()


def window() -> nn.Module:
    layer = nn.Linear(8, 3)
    nn.init.constant_(layer.weight, 1 / 8)
    return layer


def zero_last() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
            nn.init.zeros_(self.down.weight)

        def forward(self, x):
            return x + self.down(torch.relu(self.up(self.norm(x))))

    return dense(Block(), Block())


rows, steps, words = torch.Size([32, 8]), torch.Size([8, 6, 8]), torch.Size([8, 6, 16])

CASES: dict[str, tuple[Callable[[], nn.Module], torch.Size, str]] = {
    "prior of a rare class": (lambda: with_bias(torch.full((4,), -math.log(99.0))), rows, "2.bias"),
    "log class shares": (lambda: with_bias(torch.tensor([0.91, 0.08, 0.01]).log()), rows, "2.bias"),
    "mean of the targets": (lambda: with_bias(torch.tensor([25.0])), rows, "2.bias"),
    "highway": (lambda: dense(Highway(16), Highway(16)), rows, "1.gate.bias"),
    "open recurrence": (lambda: nn.Sequential(OpenCell(8, 16), nn.Linear(16, 3)), steps, "0.forget.bias"),
    "noise scale": (lambda: nn.Sequential(Noisy(8, 64), nn.ReLU(), Noisy(64, 4)), rows, "2.scale"),
    "log gain": (lambda: dense(LogGain(16), nn.ReLU()), rows, "1.log_gain"),
    "identity mixing": (lambda: dense(Mixing(16)), rows, "1.mix"),
    "waves": (lambda: nn.Sequential(Waves(6, 16), nn.Linear(16, 3)), words, "0.places"),
    "moving average": (window, rows, "weight"),
    "zero end of a branch": (zero_last, rows, "1.down.weight"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_scheme_keeps_what_was_set(name):
    torch.manual_seed(0)
    make, shape, path = CASES[name]
    model, batch = make(), (torch.randn(shape), torch.randn(*shape[:-1], 1))
    before = dict(model.named_parameters())[path].detach().clone()
    schemes = propose(model, batch)
    assert len(schemes) >= 3
    for scheme in schemes:
        twin = copy.deepcopy(model)
        scheme.apply(twin, batch=batch, loss=lambda m, b: m(b[0]).square().mean())
        assert torch.equal(dict(twin.named_parameters())[path], before), scheme.name
        if scheme.name != CURRENT:
            (said,) = [a for a in scheme.assignments if a.path == path]
            assert said.rule == AS_SET or not said.parts or "author" in said.reason, said
            if said.rule == AS_SET:
                assert any("its author set it" in reason for reason in scheme.reasons)


def test_a_forget_gate_held_open_stays_open_and_its_other_gates_are_filled():
    torch.manual_seed(0)
    model = lstm(3.0)
    batch = torch.randn(4, 6, 8)
    for scheme in propose(model, batch)[1:]:
        twin = copy.deepcopy(model)
        scheme.apply(twin, batch=batch)
        assert twin.lstm.bias_ih_l0[16:32].tolist() == [3.0] * 16, scheme.name
    usual = lstm(1.0)
    assert deliberate_values(usual, analyze(usual, batch)) == {}


@pytest.mark.parametrize("seed", range(12))
def test_nothing_of_a_fresh_model_counts_as_set(seed):
    """Torch's own starts, of every kind: draws, zeros, ones."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    models = [
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1)),
            (4, 3, 8, 8),
        ),
        (nn.Sequential(layer, nn.Linear(16, 2)), (4, 6, 16)),
        (lstm(0.0), (4, 6, 8)),
        (nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)), (16, 1)),
        (
            nn.Sequential(nn.ConvTranspose2d(4, 8, 4, 2), nn.GroupNorm(2, 8), nn.PReLU(), nn.Conv2d(8, 1, 3)),
            (2, 4, 4, 4),
        ),
    ]
    for model, shape in models:
        assert deliberate_values(model, analyze(model, torch.randn(shape))) == {}


def test_symmetric_layers_in_a_row_are_a_fault_and_not_a_choice():
    batch = torch.randn(16, 8)
    for value in (0.0, 0.01):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
        for p in model.parameters():
            nn.init.constant_(p, value)
        assert not [p for p in deliberate_values(model, analyze(model, batch)) if p.endswith("weight")]
        model = dense(nn.ReLU())
        nn.init.constant_(model[2].weight, value)
        assert list(deliberate_values(model, analyze(model, batch))) == ["2.weight"]
        model = dense(nn.Tanh())
        nn.init.constant_(model[0].weight, value)
        assert list(deliberate_values(model, analyze(model, batch))) == ["0.weight"]
    dead = dense(nn.ReLU())
    nn.init.zeros_(dead[0].weight)
    assert list(deliberate_values(dead, analyze(dead, batch))) == ["0.weight"]  # its biases wake it
    nn.init.zeros_(dead[0].bias)
    assert deliberate_values(dead, analyze(dead, batch)) == {}


def test_values_known_to_be_at_fault_are_no_choice():
    model = with_bias(torch.full((4,), -2.0))
    spec = analyze(model, torch.randn(4, 8))
    assert list(deliberate_values(model, spec)) == ["2.bias"]
    assert deliberate_values(model, spec, renew=["2.bias"]) == {}


def test_a_model_without_values_is_filled_whole():
    with torch.device("meta"):
        model, batch = dense(nn.ReLU()), torch.empty(4, 8)
    assert deliberate_values(model, analyze(model, batch)) == {}
