"""Fans are what can be counted: with all weights and inputs one, an output is the number of its summands."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.types import Fans


def weight_of(model: nn.Module, x: torch.Tensor) -> ParamSpec:
    return next(p for p in analyze(model, x).params if p.path.endswith("weight"))


def summands(model: nn.Module, x: torch.Tensor, margin: int) -> tuple[float, float]:
    """Mean summands per output and mean outputs per input, away from the border."""
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.0 if p.ndim == 1 else 1.0)
    x = torch.ones_like(x).requires_grad_()
    y = model(x)
    y.sum().backward()
    inside = (slice(None), slice(None), *[slice(margin, -margin)] * (y.ndim - 2))
    assert x.grad is not None
    return float(y[inside].mean()), float(x.grad[inside].mean())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_convolutions(inputs: int, outputs: int, kernel: int, groups: int) -> None:
    model = nn.Conv2d(inputs * groups, outputs * groups, kernel, groups=groups, padding=kernel // 2)
    x = torch.zeros(1, inputs * groups, 16, 16)
    seen = weight_of(model, x)
    assert (seen.fan_in, seen.fan_out) == pytest.approx(summands(model, x, 5))
    assert seen.fans == Fans(seen.fan_in, seen.fan_out, 0, 1, groups)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2]))
def test_transposed_convolutions(inputs: int, outputs: int, multiple: int, stride: int, groups: int) -> None:
    model = nn.ConvTranspose1d(inputs * groups, outputs * groups, multiple * stride, stride=stride, groups=groups)
    x = torch.zeros(1, inputs * groups, 60)
    seen = weight_of(model, x)
    # A whole number of strides inside, so that every phase counts alike.
    measured = summands(model, x, 2 * 3 * multiple)
    assert (seen.fan_in, seen.fan_out) == pytest.approx(measured)
    assert seen.fans == Fans(seen.fan_in, seen.fan_out, 1, 0, groups)


class Uses(nn.Module):
    """One parameter, used by one function."""

    def __init__(self, shape: tuple[int, ...], function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


X = torch.randn(2, 5, 8)
CASES: dict[str, tuple[tuple[int, ...], Any, Fans]] = {
    "x @ W": ((8, 6), lambda x, w: x @ w, Fans(8, 6, 1, 0)),
    "x @ W.T": ((6, 8), lambda x, w: x @ w.T, Fans(8, 6, 0, 1)),
    "(W @ x.T).T": ((6, 8), lambda x, w: (w @ x.mT).mT, Fans(8, 6, 0, 1)),
    "linear of a transposed view": ((8, 6), lambda x, w: nn.functional.linear(x, w.t()), Fans(8, 6, 1, 0)),
    "einsum out, in": ((6, 8), lambda x, w: torch.einsum("bti,oi->bto", x, w), Fans(8, 6, 0, 1)),
    "einsum in, heads, width": ((8, 2, 3), lambda x, w: torch.einsum("bti,ihd->bthd", x, w), Fans(8, 6, 1, 0)),
    "einsum with dots": ((8, 6), lambda x, w: torch.einsum("...i,io->...o", x, w), Fans(8, 6, 1, 0)),
    "einsum over two": ((5, 8, 6), lambda x, w: torch.einsum("bti,tio->bo", x, w), Fans(40, 6, 2, 0)),
    "tensordot": ((8, 6), lambda x, w: torch.tensordot(x, w, dims=([2], [0])), Fans(8, 6, 1, 0)),
    "addmm": ((8, 6), lambda x, w: torch.addmm(torch.zeros(6), x.reshape(-1, 8), w), Fans(8, 6, 1, 0)),
    "experts by bmm": ((2, 8, 6), lambda x, w: torch.bmm(x, w), Fans(8, 6, 2, 1, 1, (0,))),
    "one expert of several": ((3, 8, 6), lambda x, w: x @ w[1], Fans(8, 6, 2, 1, 1, (0,))),
    "scaled weight": ((6, 8), lambda x, w: nn.functional.linear(x, w * 0.5), Fans(8, 6, 0, 1)),
    "standardised weight": (
        (6, 8),
        lambda x, w: nn.functional.linear(x, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)),
        Fans(8, 6, 0, 1),
    ),
    "stored flat": ((48,), lambda x, w: nn.functional.linear(x, w.view(6, 8)), Fans(8, 6, 0, 0)),
    "vector": ((8,), lambda x, w: x @ w, Fans(8, 1, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_layouts(name: str) -> None:
    shape, function, fans = CASES[name]
    seen = analyze(Uses(shape, function), X)["weight"]
    assert seen.fans == fans
    assert seen.role.value == "output"


def packed(layout: str, heads: int, groups: int, width: int) -> tuple[nn.Module, dict[str, set[int]]]:
    """An attention whose projection is packed in one of the ways in use, and the rows each part should have."""
    d = heads * width
    sizes = (heads * width, groups * width, groups * width)
    rows = sum(sizes)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.out = nn.Linear(d, rows), nn.Linear(d, d)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            y = self.project(x)
            per = heads // groups
            if layout == "blocks":
                q, k, v = y.split(sizes, -1)
            elif layout == "slices":
                q, k, v = y[..., : sizes[0]], y[..., sizes[0] : -sizes[2]], y[..., -sizes[2] :]
            else:  # for every group: its queries, its key, its value
                y = y.view(b, t, groups, (per + 2) * width)
                q, k, v = y.split((per * width, width, width), -1)
                q, k, v = (z.reshape(b, t, -1) for z in (q, k, v))
            q = q.view(b, t, heads, width).transpose(1, 2)
            k, v = (z.view(b, t, groups, width).transpose(1, 2).repeat_interleave(per, 1) for z in (k, v))
            weights = ((q @ k.mT) * width**-0.5).softmax(-1)
            return self.out((weights @ v).transpose(1, 2).reshape(b, t, d))

    if layout == "groups":
        each = (heads // groups + 2) * width
        wide = heads // groups * width
        start = [g * each for g in range(groups)]
        expected = {
            "query": {s + i for s in start for i in range(wide)},
            "key": {s + wide + i for s in start for i in range(width)},
            "value": {s + wide + width + i for s in start for i in range(width)},
        }
    else:
        a, b = sizes[0], sizes[0] + sizes[1]
        expected = {"query": set(range(a)), "key": set(range(a, b)), "value": set(range(b, rows))}
    return Attention(), expected


def rows_by_part(spec: ModelSpec, path: str) -> dict[str, set[int]]:
    return {s.name: {i for a, b in s.ranges for i in range(a, b)} for s in spec[path].slices}


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from(["blocks", "slices", "groups"]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.integers(2, 4),
)
def test_packed_projections(layout: str, groups: int, per: int, width: int) -> None:
    model, expected = packed(layout, groups * per, groups, width)
    spec = analyze(model, torch.randn(2, 5, groups * per * width))
    assert spec["project.weight"].role.value == "qkv"
    assert rows_by_part(spec, "project.weight") == expected
    assert rows_by_part(spec, "project.bias") == expected
    assert {s.fans.fan_in for s in spec["project.weight"].slices} == {groups * per * width}
    assert [s.fans.fan_out for s in spec["project.weight"].slices] == [
        len(expected[s.name]) for s in spec["project.weight"].slices
    ]
    assert spec["out.weight"].role.value == "attn_out"
