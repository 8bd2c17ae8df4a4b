"""World models, state spaces, retention, spikes, neural ODEs: what runs along time."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.strangers.entry import KEPT, Stranger, stranger


class StartState(nn.Module):
    """A recurrence from a learned state, which starts again where an episode does (recurrent world models)."""

    def __init__(self, inputs: int = 6, width: int = 16) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(1, width))
        self.reset, self.update, self.new = (nn.Linear(inputs + width, width) for _ in range(3))
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        fresh = torch.tanh(self.start).repeat(len(x), 1)
        h = fresh * first[:, None]
        for t in range(x.shape[1]):
            joined = torch.cat([x[:, t], h], -1)
            gate = torch.sigmoid(self.update(joined) - 1)
            candidate = torch.tanh(self.new(torch.cat([x[:, t], torch.sigmoid(self.reset(joined)) * h], -1)))
            h = gate * candidate + (1 - gate) * h
        return self.head(h)


@stranger
def world_model() -> Stranger:
    batch = (torch.randn(32, 4, 6), torch.ones(32), torch.randint(3, (32,)))
    return Stranger(StartState(), batch, {"start": KEPT, "head.weight": "output 16>3"})


@stranger
def start_state_joined() -> Stranger:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h0, self.cell, self.head = nn.Parameter(torch.randn(12) * 0.3), nn.Linear(16, 12), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.h0.expand(len(x), -1)
            for t in range(x.shape[1]):
                h = torch.tanh(self.cell(torch.cat([x[:, t], h], -1)))
            return self.head(h)

    return Stranger(
        Cell(), (torch.randn(32, 5, 4), torch.randint(3, (32,))), {"h0": KEPT, "head.weight": "output 12>3"}
    )


class Diagonal(nn.Module):
    """A diagonal state space by its convolution kernel."""

    def __init__(self, width: int = 12, states: int = 8) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.view_as_real(torch.randn(width, states, dtype=torch.cfloat)))
        self.log_dt = nn.Parameter(torch.rand(width) * math.log(100) + math.log(0.001))
        self.log_re = nn.Parameter(torch.full((width, states), 0.5).log())
        self.im = nn.Parameter(math.pi * torch.arange(states).float().repeat(width, 1))
        self.skip, self.mix = nn.Parameter(torch.randn(width)), nn.Linear(width, width)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        n, dt = u.shape[1], torch.exp(self.log_dt)[:, None]
        rate = (-torch.exp(self.log_re) + 1j * self.im) * dt
        powers = torch.exp(rate[..., None] * torch.arange(n))
        weights = torch.view_as_complex(self.c) * (torch.exp(rate) - 1) / (rate / dt)
        kernel = 2 * torch.einsum("hn,hnl->hl", weights, powers).real
        v = u.transpose(1, 2)
        y = torch.fft.irfft(torch.fft.rfft(v, n=2 * n) * torch.fft.rfft(kernel, n=2 * n), n=2 * n)[..., :n]
        return u + self.mix(F.gelu((y + v * self.skip[:, None]).transpose(1, 2)))


@stranger
def diagonal_state_space() -> Stranger:
    model = nn.Sequential(nn.Linear(2, 12), Diagonal(), Diagonal(), nn.Linear(12, 2))
    kept = {f"{i}.{name}": KEPT for i in (1, 2) for name in ("c", "log_dt", "log_re", "im")}
    facts = {**kept, "1.mix.weight": "residual_out 12>12", "3.weight": "output 12>2"}
    return Stranger(model, (torch.randn(16, 20, 2), torch.randn(16, 20, 2)), facts, branches=2)


class Retention(nn.Module):
    """Attention without a softmax, with a decay for each head; its projections are a class of the author's own."""

    class Linear(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(i, o) * i**-0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.q, self.k, self.v, self.g, self.o = (self.Linear(width, width) for _ in range(5))
        self.decay = nn.Parameter(torch.log(1 - 2.0 ** (-5 - torch.arange(heads).float())), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        b, n, w = h.shape
        q, k, v = (m(h).view(b, n, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        steps = torch.arange(n)[:, None] - torch.arange(n)[None]
        mask = torch.exp(self.decay[:, None, None] * steps.clamp(min=0)) * (steps >= 0)
        y = (q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5 * mask) @ v
        y = F.layer_norm(y, y.shape[-1:]).transpose(1, 2).reshape(b, n, w)
        return x + self.o(F.silu(self.g(h)) * y)


@stranger
def retention() -> Stranger:
    model = nn.Sequential(nn.Linear(5, 16), Retention(), Retention(), nn.LayerNorm(16), nn.Linear(16, 3))
    facts = {
        "1.q.w": "hidden 16>16",
        "1.o.w": "residual_out 16>16",
        "1.norm.weight": "norm_scale",
        "4.weight": "output 16>3",
    }
    return Stranger(model, (torch.randn(8, 7, 5), torch.randn(8, 7, 3)), facts, branches=2)


class Spike(torch.autograd.Function):
    """A step with the gradient of a slope (Neftci et al. 2019)."""

    @staticmethod
    def forward(ctx: Any, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(v)
        return (v > 0).float()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (v,) = ctx.saved_tensors
        return grads[0] / (1 + (3.14 * v) ** 2)


@stranger
def spiking() -> Stranger:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.leak = nn.Linear(10, 32), nn.Linear(32, 3), nn.Parameter(torch.tensor(0.9))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            m, out = x.new_zeros(len(x), 32), x.new_zeros(len(x), 3)
            for _ in range(4):
                m = self.leak.clamp(0, 1) * m + self.a(x)
                s = Spike.apply(m - 1)
                m, out = m - s.detach(), out + self.b(s)
            return out

    batch = (torch.rand(64, 10) * 2, torch.randint(3, (64,)))
    return Stranger(Net(), batch, {"a.weight": "input 10>32", "b.weight": "output 32>3", "leak": KEPT})


@stranger
def neural_ode() -> Stranger:
    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.a, self.b, self.head = (
                nn.Linear(4, 16),
                nn.Linear(17, 32),
                nn.Linear(32, 16),
                nn.Linear(16, 3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.enter(x)
            for step in range(4):
                t = torch.full_like(z[:, :1], step / 4)
                z = z + 0.25 * self.b(torch.tanh(self.a(torch.cat([z, t], 1))))
            return self.head(z)

    facts = {
        "enter.weight": "input 4>16",
        "a.weight": "mlp_in 17>32",
        "b.weight": "mlp_out 32>16",
        "head.weight": "output 16>3",
    }
    return Stranger(Flow(), (torch.randn(32, 4), torch.randint(3, (32,))), facts)


class TimeMix(nn.Module):
    """A linear recurrence with mixes of the step before, gated at its end (RWKV's two halves)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix_k, self.mix_r = (nn.Parameter(torch.linspace(0, 1, width)[None, None]) for _ in range(2))
        self.key, self.value, self.gate = (
            nn.Linear(width, 32, bias=False),
            nn.Linear(32, width, bias=False),
            nn.Linear(width, width, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        before = F.pad(h, (0, 0, 1, -1))
        k, r = (h * m + before * (1 - m) for m in (self.mix_k, self.mix_r))
        return x + torch.sigmoid(self.gate(r)) * self.value(torch.relu(self.key(k)) ** 2)


@stranger
def channel_mix() -> Stranger:
    model = nn.Sequential(nn.Linear(5, 16), TimeMix(), TimeMix(), nn.LayerNorm(16), nn.Linear(16, 4))
    facts = {"1.mix_k": KEPT, "1.mix_r": KEPT, "1.key.weight": "mlp_in 16>32", "4.weight": "output 16>4"}
    return Stranger(model, (torch.randn(8, 6, 5), torch.randn(8, 6, 4)), facts, branches=2)


@stranger
def moving_average() -> Stranger:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trend, self.season = nn.Linear(24, 8), nn.Linear(24, 8)
            for m in (self.trend, self.season):
                nn.init.constant_(m.weight, 1 / 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            trend = F.avg_pool1d(F.pad(x[:, None], (2, 2), mode="replicate"), 5, 1)[:, 0]
            return self.trend(trend) + self.season(x - trend)

    return Stranger(Split(), (torch.randn(32, 24).cumsum(1), torch.randn(32, 8)), {"trend.weight": "output 24>8"})


@stranger
def packed_words() -> Stranger:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.rnn, self.head = (
                nn.Embedding(30, 8),
                nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True),
                nn.Linear(24, 3),
            )

        def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
            return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].mean(1))

    lengths = torch.randint(2, 8, (16,))
    lengths[0] = 7
    facts = {
        "words.weight": "embedding",
        "rnn.weight_ih_l1": "recurrent_input 24>12",
        "rnn.weight_hh_l0": "recurrent_hidden 12>12",
        "head.weight": "output 24>3",
    }
    return Stranger(Tagger(), (torch.randint(30, (16, 7)), lengths, torch.randint(3, (16,))), facts)
