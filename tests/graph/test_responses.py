"""Activations are told by their response, however they are spelt."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import ModelSpec

Function = Callable[[torch.Tensor], torch.Tensor]


class Between(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(self.a(x)))


def read(function: Function) -> ModelSpec:
    return analyze(Between(function), torch.randn(2, 3))


def told(function: Function) -> tuple[str, dict[str, float]]:
    spec = read(function)
    before, after = spec["a.weight"], spec["b.weight"]
    assert (after.input_activation, after.input_activation_args) == (before.activation, before.activation_args)
    return before.activation, dict(before.activation_args)


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


SPELLINGS: dict[str, tuple[str, Function]] = {
    "relu": ("relu", F.relu),
    "relu in place": ("relu", lambda x: x.relu_()),
    "relu by clamp": ("relu", lambda x: x.clamp(min=0)),
    "relu by where": ("relu", lambda x: torch.where(x > 0, x, 0.0)),
    "relu by maximum": ("relu", lambda x: torch.maximum(x, torch.tensor(0.0))),
    "relu in half precision": ("relu", lambda x: F.relu(x.to(torch.bfloat16)).float()),
    "relu6": ("relu6", F.relu6),
    "relu squared": ("relu_squared", lambda x: F.relu(x) ** 2),
    "tanh by exponentials": ("tanh", lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
    "sigmoid by hand": ("sigmoid", lambda x: 1 / (1 + torch.exp(-x))),
    "silu by hand": ("silu", lambda x: x * torch.sigmoid(x)),
    "gelu": ("gelu", F.gelu),
    "gelu by tanh": ("gelu", tanh_gelu),
    "gelu by erf": ("gelu", lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2)))),
    "quick gelu": ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
    "mish by hand": ("mish", lambda x: x * torch.tanh(F.softplus(x))),
    "hardswish by hand": ("hardswish", lambda x: x * F.relu6(x + 3) / 6),
    "selu": ("selu", F.selu),
    "softsign by hand": ("softsign", lambda x: x / (1 + x.abs())),
    "gaussian": ("gaussian", lambda x: torch.exp(-(x**2))),
    "identity": ("none", lambda x: x),
    "affine": ("none", lambda x: 2 * x - 1),
    "guard against overflow": ("none", lambda x: x.clamp(-1e4, 1e4)),
    "pooled and reshaped": ("relu", lambda x: F.dropout(F.relu(x), 0.1).view(2, 2, 2).flatten(1)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_known_activations(spelling: str) -> None:
    name, function = SPELLINGS[spelling]
    assert told(function)[0] == name


@settings(deadline=None, max_examples=8)
@given(st.floats(0.01, 0.9), st.floats(0.2, 3.0), st.floats(1.0, 60.0))
def test_constants_are_read_off(slope: float, alpha: float, omega: float) -> None:
    assert told(lambda x: F.leaky_relu(x, slope)) == ("leaky_relu", pytest.approx({"negative_slope": slope}, rel=1e-3))
    assert told(lambda x: F.hardtanh(x, -alpha, 2 * alpha)) == (
        "hardtanh",
        pytest.approx({"min_val": -alpha, "max_val": 2 * alpha}, rel=1e-3),
    )
    assert told(lambda x: torch.sin(omega * x)) == ("sin", pytest.approx({"omega": omega}, rel=1e-3))


def test_unknown_ones_keep_their_function() -> None:
    spec = read(lambda x: torch.tanh(x) * x.abs().sqrt())
    name = spec["a.weight"].activation
    assert name.startswith("custom_")
    z = torch.tensor([-2.0, 0.5, 3.0])
    assert torch.allclose(spec.custom_activations[name](z), torch.tanh(z) * z.abs().sqrt())


def test_what_is_learned_inside_is_part_of_the_activation() -> None:
    class Snake(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.alpha, self.b = nn.Linear(3, 4), nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            return self.b(x + torch.sin(self.alpha * x).square() / self.alpha)

    spec = analyze(Snake(), torch.randn(2, 3))
    assert spec["alpha"].role.value == "activation"
    assert spec["a.weight"].activation.startswith("custom_")


def test_softmax_is_no_activation() -> None:
    assert told(lambda x: x.softmax(-1))[0] == "none"
