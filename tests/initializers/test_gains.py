"""Gains by quadrature agree with closed forms, with drawing, and with the figures the field uses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.errors import RegistryError
from initadvisor.initializers.gains import (
    _FUNCTIONS,
    activation_fn,
    deep_gain,
    gains_for,
    gated_gain,
    recommended,
)

# name, constants, forward gain to three decimals as the literature and drawing give it
FORWARD = [
    ("relu", (), 1.414),
    ("leaky_relu", (("negative_slope", 0.2),), 1.387),
    ("prelu", (("negative_slope", 0.25),), 1.372),
    ("tanh", (), 1.593),
    ("gelu", (), 1.534),
    ("silu", (), 1.677),
    ("mish", (), 1.487),
    ("elu", (), 1.245),
    ("hardswish", (), 1.737),
    ("relu_squared", (), 0.816),
    ("selu", (), 1.0),
    ("none", (), 1.0),
]


@pytest.mark.parametrize(("name", "args", "gain"), FORWARD)
def test_forward_gains(name: str, args: tuple[tuple[str, float], ...], gain: float) -> None:
    assert gains_for(name, args).forward == pytest.approx(gain, abs=6e-4)


def test_backward_and_variance_gains() -> None:
    assert gains_for("gelu").backward == pytest.approx(1.481, abs=6e-4)
    assert gains_for("silu").backward == pytest.approx(1.623, abs=6e-4)
    sigmoid, softplus = gains_for("sigmoid"), gains_for("softplus")
    assert (sigmoid.forward, sigmoid.variance, sigmoid.backward) == pytest.approx((1.85, 4.80, 4.72), abs=6e-3)
    assert (softplus.forward, softplus.variance, softplus.backward) == pytest.approx((1.04, 1.92, 1.85), abs=6e-3)
    assert gated_gain("silu") == pytest.approx(1.677, abs=6e-4)


@settings(deadline=None, max_examples=30)
@given(slope=st.floats(-0.9, 2.0))
def test_leaky_relu_in_closed_form_to_a_millionth(slope: float) -> None:
    g = gains_for("leaky_relu", (("negative_slope", slope),))
    moment = (1 + slope**2) / 2
    mean = (1 - slope) / math.sqrt(2 * math.pi)
    assert g.forward == pytest.approx(1 / math.sqrt(moment), abs=1e-6)
    assert g.backward == pytest.approx(1 / math.sqrt(moment), abs=1e-6)
    assert g.mean == pytest.approx(mean, abs=1e-6)
    assert g.variance == pytest.approx(1 / math.sqrt(moment - mean**2), abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(omega=st.floats(0.2, 60.0))
def test_sine_in_closed_form_to_a_millionth(omega: float) -> None:
    g = gains_for("sin", (("omega", omega),))
    assert g.forward == pytest.approx(1 / math.sqrt((1 - math.exp(-2 * omega**2)) / 2), abs=1e-6)
    assert g.backward == pytest.approx(1 / math.sqrt(omega**2 * (1 + math.exp(-2 * omega**2)) / 2), abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(kink=st.floats(-1.5, 1.5))
def test_any_callable_wherever_its_kink_is(kink: float) -> None:
    """A shifted ReLU, whose kink lies on no panel edge, against its closed form."""
    g = gains_for("custom", fn=lambda z: torch.relu(z - kink))
    density = math.exp(-(kink**2) / 2) / math.sqrt(2 * math.pi)
    above = 0.5 * math.erfc(kink / math.sqrt(2))
    moment = (1 + kink**2) * above - kink * density
    assert 1 / g.forward**2 == pytest.approx(moment, abs=1e-6)
    assert 1 / g.backward**2 == pytest.approx(above, abs=1e-6)
    assert g.mean == pytest.approx(density - kink * above, abs=1e-6)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_every_activation_agrees_with_drawing(name: str) -> None:
    """A check that shares nothing with the quadrature: a million draws."""
    z = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    squares = activation_fn(name)(z).square()
    error = 6 * float(squares.std()) / math.sqrt(len(z))
    assert 1 / gains_for(name).forward ** 2 == pytest.approx(float(squares.mean()), abs=error)


def test_recommended_takes_the_gain_that_carries_the_signal() -> None:
    for name in ("relu", "gelu", "silu", "tanh", "elu"):
        assert recommended(name) == gains_for(name).forward
    assert recommended("sigmoid") == pytest.approx(4.72, abs=0.01)
    assert recommended("softplus") == pytest.approx(1.85, abs=0.01)
    assert recommended("selu") == pytest.approx(1.0, abs=1e-6)


def correlation_after(fn: Callable[[torch.Tensor], torch.Tensor], gain: float, layers: int) -> tuple[float, float]:
    """Size of signal and of gradient after a wide random orthogonal net, relative to the start."""
    g = torch.Generator().manual_seed(0)
    n = 256
    x = torch.randn(4, n, generator=g, dtype=torch.float64)
    h = (x / x.norm(dim=1, keepdim=True) * n**0.5).requires_grad_(True)
    y = h
    for _ in range(layers):
        q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
        y = fn(gain * y @ q)
    u = torch.randn(4, n, generator=g, dtype=torch.float64)
    (grad,) = torch.autograd.grad(y, h, u)
    return float(y.detach().square().mean().sqrt()), float((grad.square().mean() / u.square().mean()).sqrt())


@pytest.mark.parametrize("layers", [16, 64])
def test_deep_gain_keeps_gradients_within_a_factor_that_depth_does_not_change(layers: int) -> None:
    signal, gradient = correlation_after(torch.tanh, deep_gain("tanh", layers), layers)
    assert 0.1 < signal < 1
    assert 0.1 < gradient < 10
    _, chaotic = correlation_after(torch.tanh, recommended("tanh"), layers)
    assert abs(math.log(chaotic)) > abs(math.log(gradient))


def test_deep_gain_leaves_others_alone() -> None:
    for name in ("relu", "gelu", "sigmoid", "selu", "sin"):
        assert deep_gain(name, 40) == recommended(name)


def test_unknown_names_are_told() -> None:
    with pytest.raises(RegistryError, match='did you mean "gelu"'):
        activation_fn("geluu")
