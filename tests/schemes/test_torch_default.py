"""The baseline "torch's default" against torch itself: same law, tensor by tensor, bound by bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.schemes.propose import propose_from_spec, torch_default_scheme

DRAWS = 12
"""Fresh modules per layer type."""


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Paired(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(12, 16, 8)

    def forward(self, x):
        return self.bilinear(x[:, :12], x)


LAYERS = {
    "linear": (lambda: nn.Linear(16, 24), (5, 16)),
    "conv": (lambda: nn.Conv2d(16, 8, 3), (2, 16, 6, 6)),
    "grouped": (lambda: nn.Conv2d(16, 16, 3, groups=4), (2, 16, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 8, 4, stride=2), (2, 16, 4, 4)),
    "transposed_grouped": (lambda: nn.ConvTranspose1d(16, 8, 4, stride=2, groups=2), (2, 16, 9)),
    "lstm": (lambda: nn.LSTM(16, 12, batch_first=True, num_layers=2, bidirectional=True), (2, 5, 16)),
    "gru": (lambda: nn.GRU(16, 12, batch_first=True), (2, 5, 16)),
    "rnn": (lambda: nn.RNN(16, 12, batch_first=True), (2, 5, 16)),
    "attention": (Attending, (2, 5, 16)),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 24)), (5, 16)),
    "bilinear": (Paired, (4, 16)),
    "norms": (lambda: nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.PReLU()), (8, 16)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_default_scheme_draws_what_torch_draws(name):
    make, shape = LAYERS[name]
    model = make()
    batch = torch.randn(shape)
    spec = analyze(model, batch)
    scheme = torch_default_scheme(spec)
    mine: dict[str, list[torch.Tensor]] = {}
    theirs: dict[str, list[torch.Tensor]] = {}
    for draw in range(DRAWS):
        torch.manual_seed(draw)
        for path, p in make().named_parameters():
            theirs.setdefault(path, []).append(p.detach().clone().flatten())
        scheme.apply(model, seed=draw)
        for path, p in model.named_parameters():
            mine.setdefault(path, []).append(p.detach().clone().flatten())
    for path, tensors in theirs.items():
        a, b = torch.cat(tensors).double(), torch.cat(mine[path]).double()
        # Uniform draws: kurtosis 1.8, so a standard deviation has the standard error σ·√(.8/4n); both are estimated.
        error = 7 * float(a.std()) * math.sqrt(0.8 / (4 * a.numel())) * math.sqrt(2)
        assert float(b.std(correction=0)) == pytest.approx(float(a.std(correction=0)), abs=error + 1e-12), path
        assert float(b.mean()) == pytest.approx(
            float(a.mean()), abs=7 * float(a.std()) * math.sqrt(2 / a.numel()) + 1e-12
        )
        # The largest of n uniforms falls short of the bound by bound/n on average; seven times that is generous.
        assert float(b.abs().max()) == pytest.approx(float(a.abs().max()), rel=14 / a.numel() + 1e-6), path


def test_embedding_default_is_a_unit_normal_with_a_zero_padding_row():
    model = nn.Sequential(nn.Embedding(500, 16, padding_idx=2), nn.Linear(16, 4))
    spec = analyze(model, torch.randint(0, 500, (4, 3)))
    torch_default_scheme(spec).apply(model, seed=0)
    rows = model[0].weight.detach()
    assert float(rows[2].abs().sum()) == 0
    assert float(torch.cat([rows[:2], rows[3:]]).std()) == pytest.approx(1.0, abs=7 / math.sqrt(2 * 499 * 16))


def test_layers_that_are_not_torchs_keep_their_author_s_values():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))
            self.level = nn.Parameter(torch.full((4,), 0.5))

        def forward(self, x):
            return (x @ self.w) * self.level

    model = Own()
    before = model.w.detach().clone()
    scheme = propose_from_spec(analyze(model, torch.randn(3, 4)), model)[1]
    result = scheme.apply(model)
    assert torch.equal(model.w, before)
    assert "w" in result.left
    assert model.level.tolist() == [0.5] * 4


def test_a_class_of_the_user_s_is_not_torch_s_whatever_it_is_called():
    class Linear(nn.Module):  # drawn in its own way, and none of torch's business
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.7)
            self.bias = nn.Parameter(torch.randn(outputs) * 0.7)

        def forward(self, x):
            return nn.functional.linear(x, self.weight, self.bias)

    class LayerNorm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((width,), 0.3))

        def forward(self, x):
            return nn.functional.layer_norm(x, x.shape[-1:], self.weight)

    Conv2d = type("Conv2d", (nn.Conv2d,), {"reset_parameters": lambda self: nn.init.normal_(self.weight)})
    model = nn.Sequential(Conv2d(1, 4, 3, bias=False), nn.Flatten(), Linear(16, 8), LayerNorm(8), nn.Linear(8, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    spec = analyze(model, torch.randn(3, 1, 4, 4))
    assert [p.torch_layer for p in spec.params] == ["", "", "", "", "Linear", "Linear"]
    torch_default_scheme(spec).apply(model, seed=0)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"4.weight", "4.bias"}


def test_torch_s_own_layer_is_known_behind_a_parametrization():
    own = type("Linear", (nn.Linear,), {})
    for make, known in ((nn.Linear, "Linear"), (own, "")):
        layer = nn.utils.parametrizations.weight_norm(make(6, 4))
        spec = analyze(nn.Sequential(layer), torch.randn(3, 6))
        assert {p.torch_layer for p in spec.params} == {known}
