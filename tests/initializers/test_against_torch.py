"""torch's own `nn.init` as oracle where it is right, the correct rule where it is known to be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import ks_2samp
from table import fill
from torch import nn

from initadvisor.types import Fans

LEVEL = 1e-6
"""Chance of a false alarm per comparison; the samples below tell a standard deviation that is 2% off."""
SIZE = (400, 250)
FANS = Fans(250, 400)

SAME_LAW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "torch_linear": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    "lecun_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "lecun_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"),
    "orthogonal": nn.init.orthogonal_,
    "normal": lambda w: nn.init.normal_(w, std=0.02),
    "uniform": lambda w: nn.init.uniform_(w, -0.05, 0.05),
}


@pytest.mark.parametrize("name", SAME_LAW)
def test_same_distribution_as_torch(name: str) -> None:
    torch.manual_seed(0)
    theirs = SAME_LAW[name](torch.empty(SIZE)).flatten()
    ours = fill(name, SIZE, FANS, seed=1).flatten()
    assert ks_2samp(ours.numpy(), theirs.numpy()).pvalue > LEVEL
    assert ks_2samp((ours * 1.05).numpy(), theirs.numpy()).pvalue < LEVEL, "the test would not notice a 5% error"


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_kaiming_for_relu(mode: str, law: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(nn.init, f"kaiming_{law}_")(torch.empty(SIZE), mode=mode, nonlinearity="relu").flatten()
    ours = fill(f"kaiming_{law}", SIZE, FANS, gain=math.sqrt(2), seed=1, mode=mode).flatten()
    assert ks_2samp(ours.numpy(), theirs.numpy()).pvalue > LEVEL


def test_a_grouped_convolution_keeps_gradients_where_torch_does_not() -> None:
    """Depthwise fan_out: 9 output values per input, while torch counts 9·channels."""
    conv = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
    x = torch.randn(8, 64, 16, 16, requires_grad=True, generator=torch.Generator().manual_seed(0))

    def gradient_size() -> float:
        y = conv(x)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        (grad,) = torch.autograd.grad(y, x, g)
        return float(grad[..., 2:-2, 2:-2].square().mean())

    conv.weight.data = fill("kaiming_normal", (64, 1, 3, 3), Fans(9, 9, groups=64), mode="fan_out")
    ours = gradient_size()
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="linear")
    assert ours == pytest.approx(1, rel=0.4)
    assert gradient_size() < 0.1


def test_a_transposed_convolution_keeps_the_signal_where_torch_does_not() -> None:
    """64 → 16 channels, kernel 4, stride 2 in one dimension: fan_in 128, torch counts 64."""
    layer = nn.ConvTranspose1d(64, 16, 4, stride=2, bias=False)
    x = torch.randn(16, 64, 200, generator=torch.Generator().manual_seed(0))
    layer.weight.data = fill("lecun_normal", (64, 16, 4), Fans(128, 32, out_dim=1, in_dim=0))
    assert float(layer(x).detach()[..., 4:-4].square().mean()) == pytest.approx(1, rel=0.15)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    assert float(layer(x).detach()[..., 4:-4].square().mean()) > 1.7


def test_truncation_cuts_and_keeps_the_std_where_torch_does_neither() -> None:
    w = fill("trunc_normal", (1000, 1000), Fans(1, 1), std=0.02)
    assert float(w.abs().max()) <= 2 * 0.02 / 0.8796 * 1.0001
    # Relative error of a std from n draws is √((κ-1)/(4n)); κ < 3 here.
    assert float(w.std()) == pytest.approx(0.02, rel=6 * math.sqrt(0.5 / w.numel()))
    theirs = nn.init.trunc_normal_(torch.empty(1000, 1000), std=0.02)
    assert float(theirs.abs().max()) > 4 * 0.02


def test_half_precision_orthogonal_works_where_torch_fails() -> None:
    with pytest.raises(RuntimeError):
        nn.init.orthogonal_(torch.empty(8, 8, dtype=torch.bfloat16))
    w = fill("orthogonal", (8, 8), Fans(8, 8), dtype=torch.bfloat16).float()
    torch.testing.assert_close(w @ w.T, torch.eye(8), atol=0.03, rtol=0)
