"""Fans and parts read from module types equal those read from the ops."""

import pytest
import torch
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.graph.static import read_static
from initadvisor.types import Role

X, SEQ = torch.randn(2, 8), torch.randn(5, 2, 8)
IMAGE = torch.randn(2, 8, 9, 9)

CASES = {
    "linear": (nn.Linear(8, 5), X),
    "conv": (nn.Conv2d(8, 6, 3, stride=2), IMAGE),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4), IMAGE),
    "depthwise": (nn.Conv2d(8, 8, 5, groups=8), IMAGE),
    "conv1d": (nn.Conv1d(2, 4, 3), SEQ),
    "transposed": (nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), IMAGE),
    "transposed grouped": (nn.ConvTranspose2d(8, 6, (3, 2), stride=(1, 2), groups=2), IMAGE),
    "conv3d": (nn.Conv3d(2, 3, 3), torch.randn(1, 2, 5, 5, 5)),
    "bilinear": (nn.Bilinear(8, 8, 3), (X, X, None)),
    "embedding": (nn.Embedding(10, 4), torch.randint(10, (2, 3))),
    "bag": (nn.EmbeddingBag(10, 4), torch.randint(10, (2, 3))),
    "rnn": (nn.RNN(8, 4, 2, nonlinearity="relu"), SEQ),
    "lstm": (nn.LSTM(8, 4, 2, bidirectional=True), SEQ),
    "lstm projected": (nn.LSTM(8, 6, proj_size=3), SEQ),
    "gru": (nn.GRU(8, 4, batch_first=True), SEQ),
    "lstm cell": (nn.LSTMCell(8, 4), X),
    "gru cell": (nn.GRUCell(8, 4, bias=False), X),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16), SEQ),
    "decoder": (nn.TransformerDecoderLayer(8, 2, 16), (SEQ, SEQ, None)),
    "attention of other widths": (nn.MultiheadAttention(8, 2, kdim=8, vdim=8), (SEQ, SEQ, SEQ, None)),
    "norms": (nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8)), X),
    "batch norm": (nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)), IMAGE),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(8, 5)), X),
    "spectral norm": (nn.utils.parametrizations.spectral_norm(nn.Linear(8, 5)), X),
    "prelu": (nn.Sequential(nn.Linear(8, 4), nn.PReLU(4)), X),
}


@pytest.mark.parametrize("name", CASES)
def test_static_reading_has_the_fans_and_parts_of_the_full_one(name: str) -> None:
    model, batch = CASES[name]
    full, static = analyze(model, batch), read_static(model)
    assert [p.path for p in full.params] == [p.path for p in static.params]
    for seen, told in zip(full.params, static.params, strict=True):
        assert told.fans == seen.fans, told.path
        assert (told.fan_in, told.fan_out) == (seen.fan_in, seen.fan_out), told.path
        assert [(s.name, s.dim, s.ranges, s.fans) for s in told.slices] == [
            (s.name, s.dim, s.ranges, s.fans) for s in seen.slices
        ], told.path
        if told.role in (Role.BIAS, Role.NORM_SCALE, Role.NORM_SHIFT, Role.RECURRENT_HIDDEN, Role.QKV):
            assert seen.role is told.role, told.path
        assert seen.role is not Role.UNKNOWN
        if told.role is Role.BIAS:
            assert told.bias_of == seen.bias_of


def test_what_no_standard_module_owns_is_named() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(3, 4))

    spec = read_static(Own())
    assert [g.path for g in spec.coverage.unknown] == ["table"]
    assert spec["table"].role is Role.UNKNOWN
