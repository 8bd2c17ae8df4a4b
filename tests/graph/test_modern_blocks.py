"""What blocks of recent architectures ask of the reading: modulation, heads, recurrences, parametrised weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations as on

from initadvisor.graph.analyze import analyze
from initadvisor.types import Role

WIDTH = 8


@pytest.mark.parametrize("kind", ["tanh", "relu"])
@pytest.mark.parametrize("cell", [False, True], ids=["layer", "cell"])
def test_a_plain_recurrence_bends_the_sum_of_its_weights(kind: str, cell: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNNCell(4, 6, nonlinearity=kind) if cell else nn.RNN(4, 6, 2, nonlinearity=kind)
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x[0]) if cell else self.rnn(x)[0])

    spec = analyze(Net(), torch.randn(5, 2, 4))
    inner = [p for p in spec.params if p.path.startswith("rnn.")]
    assert {p.activation for p in inner} == {kind}
    assert spec["head.weight"].input_activation == kind and spec["head.weight"].activation == "none"


class AdaptiveBlock(nn.Module):
    """Peebles & Xie 2023, section 3.2 (adaLN-Zero), each block bending the condition for itself."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, elementwise_affine=affine) for _ in range(2))
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(h, h, h, need_weights=False)[0]
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("blocks", [1, 30], ids=["a block by itself", "more blocks than one activation has ops"])
def test_adaptive_norm(affine: bool, blocks: int) -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(AdaptiveBlock(affine) for _ in range(blocks))
            self.enter, self.time = (nn.Linear(5, WIDTH), nn.Linear(3, WIDTH)) if blocks > 1 else (None, None)

        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            x, c = (self.enter(x), self.time(c)) if self.enter is not None else (x, c)
            for block in self.blocks:
                x = block(x, c)
            return x

    sizes = (WIDTH, WIDTH) if blocks == 1 else (5, 3)
    spec = analyze(Stack(), (torch.randn(2, 4, sizes[0]), torch.randn(2, sizes[1]), None))
    assert len(spec.branches) == 2 * blocks
    for i in range(blocks):
        weight = spec[f"blocks.{i}.modulation.1.weight"]
        assert weight.role is Role.MODULATION and weight.input_activation == "silu"
        assert [s.ranges for s in weight.slices] == [((k * WIDTH, (k + 1) * WIDTH),) for k in range(6)]
        assert {s.role for s in weight.slices} == {Role.MODULATION}
        bias = spec[f"blocks.{i}.modulation.1.bias"]
        assert bias.role is Role.BIAS and len(bias.slices) == 6 and bias.bias_of == weight.path
        assert spec[f"blocks.{i}.attention.out_proj.weight"].branch_last
        assert spec[f"blocks.{i}.mlp.2.weight"].branch_last


def test_every_reader_may_bend_one_value_for_itself() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return torch.cat([self.b(y.relu()), self.c(y * torch.sigmoid(y)), self.d(y * 0.5)], -1)

    spec = analyze(Net(), torch.randn(3, WIDTH))
    assert [spec[f"{n}.weight"].input_activation for n in "bcd"] == ["relu", "silu", "none"]
    assert spec["a.weight"].activation == "relu", "of several the first"


PARAMETRIZED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "spectral": (on.spectral_norm, "parametrizations.weight.original"),
    "weight": (on.weight_norm, "parametrizations.weight.original1"),
    "orthogonal": (on.orthogonal, "parametrizations.weight.original"),
    "spectral, old": (nn.utils.spectral_norm, "weight_orig"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_a_parametrised_weight_is_read_as_the_plain_one(name: str, training: bool) -> None:
    wrap, path = PARAMETRIZED[name]

    def build(wrapped: bool) -> nn.Module:
        layers = [nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)]
        if wrapped:
            layers = [wrap(layer) for layer in layers]  # type: ignore[misc]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.Tanh(), layers[2]).train(training)

    plain, seen = (analyze(build(wrapped), torch.randn(3, 6)) for wrapped in (False, True))
    for i in (0, 2, 4):
        weight, bias = seen[f"{i}.{path}"], seen[f"{i}.bias"]
        told = plain[f"{i}.weight"]
        assert (weight.role, weight.activation, weight.fan_in, weight.fan_out, weight.depth) == (
            told.role, told.activation, told.fan_in, told.fan_out, told.depth,
        )  # fmt: skip
        assert (bias.role, bias.activation, bias.bias_of) == (Role.BIAS, told.activation, weight.path)


def test_a_product_of_two_parameters_is_still_told_from_one_squared() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.root, self.a, self.b = (nn.Parameter(torch.randn(6, 6)) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(F.linear(x, self.root @ self.root.T).relu(), self.a @ self.b)

    spec = analyze(Net(), torch.randn(3, 6))
    assert spec["root"].role is Role.INPUT and "factors" not in spec["root"].note
    assert all("factors" in spec[n].note for n in "ab")


class Attention(nn.Module):
    """Grouped-query attention in one of its spellings."""

    def __init__(self, heads: int, groups: int, width: int, spelling: str) -> None:
        super().__init__()
        self.sizes, self.spelling = (heads, groups, width), spelling
        self.q = nn.Linear(heads * width, heads * width)
        self.k, self.v = (nn.Linear(heads * width, groups * width) for _ in range(2))
        self.o = nn.Linear(heads * width, heads * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads, groups, width = self.sizes
        b, t, _ = x.shape
        q = self.q(x).view(b, t, heads, width)
        k, v = (f(x).view(b, t, groups, width).repeat_interleave(heads // groups, 2) for f in (self.k, self.v))
        if self.spelling == "einsum":
            weights = torch.einsum("bthd,bshd->bhts", q, k).softmax(-1)
            return self.o(torch.einsum("bhts,bshd->bthd", weights, v).reshape(b, t, -1))
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        if self.spelling == "call":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.spelling == "transposed":  # keys first: softmax over their axis, which is not the last
            y = (v.mT @ (k @ q.mT).softmax(-2)).mT
        else:
            y = (q @ k.mT / width**0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


@settings(deadline=None, max_examples=16)
@given(
    st.sampled_from(["call", "product", "einsum", "transposed"]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from([3, 5]),
)
def test_heads(spelling: str, groups: int, per: int, width: int) -> None:
    spec = analyze(Attention(groups * per, groups, width, spelling), torch.randn(2, 7, groups * per * width))
    heads = {n: spec[f"{n}.weight"].heads for n in "qkvo"}
    assert heads == {"q": groups * per, "k": groups, "v": groups, "o": groups * per}
    assert all(p.heads is None for p in spec.params if p.role is Role.BIAS)


@pytest.mark.parametrize("own_sizes", [False, True])
def test_heads_of_the_module(own_sizes: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"kdim": 6, "vdim": 10} if own_sizes else {}
            self.attention = nn.MultiheadAttention(24, 3, batch_first=True, **sizes)

        def forward(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.attention(x, k, v)[0] if own_sizes else self.attention(x, x, x)[0]
            return out

    x, k, v = (torch.randn(2, 5, n) for n in (24, 6, 10))
    spec = analyze(Net(), {"x": x, "k": k, "v": v})
    weights = [p for p in spec.params if p.role in (Role.QKV, Role.QUERY, Role.KEY, Role.VALUE, Role.ATTN_OUT)]
    assert [p.heads for p in weights] == [3] * (4 if own_sizes else 2)


class SkipSums(nn.Module):
    """van den Oord et al. 2016, section 2.4: every block adds to the stream, and its own map of it to the output."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(1, 8, 1), nn.Conv1d(12, 4, 1)
        self.gates = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**i) for i in range(blocks))
        self.stays, self.skips = (nn.ModuleList(nn.Conv1d(8, n, 1) for _ in range(blocks)) for n in (8, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, total = self.enter(x), 0
        for i, (gate, stay, skip) in enumerate(zip(self.gates, self.stays, self.skips, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            h = a.tanh() * b.sigmoid()
            x, total = x + stay(h), total + skip(h)
        return self.leave(total.relu())  # type: ignore[attr-defined]


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_sums_of_skips_are_no_branches(blocks: int) -> None:
    spec = analyze(SkipSums(blocks), torch.randn(2, 1, 40))
    # The last block's stream is read by nobody.
    assert [b.last for b in spec.branches] == [(f"stays.{i}.weight",) for i in range(len(spec.branches))]
    assert len(spec.branches) >= blocks - 1
    assert {spec[f"skips.{i}.weight"].role for i in range(blocks)} == {Role.HIDDEN}
    assert not any(spec[f"skips.{i}.weight"].branch_last for i in range(blocks))


class WrittenNorm(nn.Module):
    """RMSNorm or LayerNorm by their formulas."""

    def __init__(self, centred: bool) -> None:
        super().__init__()
        self.centred = centred
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH)) if centred else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        if self.bias is not None:
            x = x - x.mean(-1, keepdim=True)
            return self.weight * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)) + self.bias
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(self.weight.dtype)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "called": lambda: nn.LayerNorm(WIDTH),
    "written, of squares": lambda: WrittenNorm(False),
    "written, centred": lambda: WrittenNorm(True),
}


class Latents(nn.Module):
    """Jaegle et al. 2021: learned vectors are the stream, and read the input by cross-attention."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.latents, self.enter = nn.Parameter(torch.randn(1, 4, WIDTH)), nn.Linear(3, WIDTH)
        self.norms = nn.ModuleList(norm() for _ in range(3))
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, stream = self.norms[1](self.enter(x)), self.latents.expand(x.shape[0], -1, -1)
        stream = stream + self.attention(self.norms[0](stream), x, x)[0]
        return stream + self.narrow(F.gelu(self.wide(self.norms[2](stream))))


@pytest.mark.parametrize("norm", NORMS)
def test_learned_vectors_that_are_normalised_are_a_stream(norm: str) -> None:
    spec = analyze(Latents(NORMS[norm]), torch.randn(2, 6, 3))
    assert spec["latents"].role is Role.LATENT
    assert [spec[f"norms.{i}.weight"].role for i in range(3)] == [Role.NORM_SCALE] * 3
    assert [b.last for b in spec.branches] == [("attention.out_proj.weight",), ("narrow.weight",)]
    assert [b.style.value for b in spec.branches] == ["pre_norm"] * 2
    assert spec.residual_depth == 2 and spec.coverage.complete and not spec.coverage.weak


def test_a_standardised_weight_is_no_stream() -> None:
    class Standardised(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, F.layer_norm(self.weight, self.weight.shape[1:]), self.bias)

    spec = analyze(nn.Sequential(Standardised(5, 6), nn.ReLU(), Standardised(6, 2)), torch.randn(3, 5))
    assert [spec[f"{i}.weight"].role for i in (0, 2)] == [Role.INPUT, Role.OUTPUT]


def test_a_long_chain_of_constants_beside_the_signal() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            count = torch.zeros(4)
            for _ in range(1200):
                count = count + 1
            return self.b(torch.relu(self.a(x)) * count)

    spec = analyze(Counting(), torch.randn(3, 3))
    assert spec["a.weight"].activation == spec["b.weight"].input_activation == "relu"
