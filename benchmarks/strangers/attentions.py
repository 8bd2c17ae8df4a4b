"""Latents, slots, queries, relative places, rotary turns, hyper-connections, experts, adapters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.strangers.entry import KEPT, Stranger, stranger


def _labelled(n: int, places: int, width: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, places, width), torch.randint(classes, (n,))


@stranger
def latents() -> Stranger:
    class Reader(nn.Module):
        def __init__(self, n: int = 5, w: int = 16) -> None:
            super().__init__()
            self.latents = nn.Parameter(torch.randn(6, w))
            self.keys, self.values, self.queries, self.out = (
                nn.Linear(n, w),
                nn.Linear(n, w),
                nn.Linear(w, w),
                nn.Linear(w, w),
            )
            self.n1, self.n2, self.up, self.down = (
                nn.LayerNorm(w),
                nn.LayerNorm(w),
                nn.Linear(w, 4 * w),
                nn.Linear(4 * w, w),
            )
            self.head = nn.Linear(w, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.latents.unsqueeze(0).expand(len(x), -1, -1)
            z = z + self.out(F.scaled_dot_product_attention(self.queries(self.n1(z)), self.keys(x), self.values(x)))
            z = z + self.down(F.gelu(self.up(self.n2(z))))
            return self.head(z.mean(1))

    facts = {
        "latents": KEPT,
        "queries.weight": "query 16>16",
        "keys.weight": "key 5>16",
        "down.weight": "mlp_out 64>16",
        "head.weight": "output 16>4",
    }
    return Stranger(Reader(), _labelled(32, 9, 5), facts, branches=2)


@stranger
def object_queries() -> Stranger:
    class Slots(nn.Module):
        def __init__(self, w: int = 16) -> None:
            super().__init__()
            self.queries, self.enter, self.head = nn.Embedding(6, w), nn.Linear(5, w), nn.Linear(w, 3)
            self.layer = nn.MultiheadAttention(w, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            memory = self.enter(x)
            q = self.queries.weight.unsqueeze(0).expand(len(x), -1, -1)
            return self.head(self.layer(torch.zeros_like(q) + q, memory, memory)[0])

    batch = (torch.randn(8, 9, 5), torch.randn(8, 6, 3))
    return Stranger(
        Slots(), batch, {"queries.weight": KEPT, "enter.weight": "input 5>16", "head.weight": "output 16>3"}
    )


@stranger
def slot_attention() -> Stranger:
    class Slots(nn.Module):
        def __init__(self, w: int = 16, n: int = 4) -> None:
            super().__init__()
            self.mu, self.log_sigma, self.n = nn.Parameter(torch.randn(1, 1, w)), nn.Parameter(torch.zeros(1, 1, w)), n
            self.enter, self.ni, self.ns = nn.Linear(6, w), nn.LayerNorm(w), nn.LayerNorm(w)
            self.q, self.k, self.v = (nn.Linear(w, w, bias=False) for _ in range(3))
            self.gru, self.head = nn.GRUCell(w, w), nn.Linear(w, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.ni(self.enter(x))
            k, v, w = self.k(x), self.v(x), x.shape[-1]
            slots = self.mu + self.log_sigma.exp() * torch.randn(len(x), self.n, w)
            for _ in range(2):
                a = (self.q(self.ns(slots)) @ k.transpose(1, 2) * w**-0.5).softmax(1)
                a = a / (a.sum(-1, keepdim=True) + 1e-8)
                slots = self.gru((a @ v).reshape(-1, w), slots.reshape(-1, w)).view(len(x), self.n, w)
            return self.head(slots.mean(1))

    facts = {
        "mu": KEPT,
        "log_sigma": KEPT,
        "gru.weight_hh": "recurrent_hidden 16>16",
        "head.weight": "output 16>4",
    }
    return Stranger(Slots(), _labelled(16, 7, 6), facts)


class Relative(nn.Module):
    """Places that are compared with the query (Shaw et al. 2018)."""

    def __init__(self, w: int = 16, n: int = 7) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(w, w) for _ in range(4))
        self.rel, self.n = nn.Parameter(torch.randn(2 * n - 1, w) * 0.02), n

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        i = torch.arange(self.n)
        table, q = self.rel[i[:, None] - i[None] + self.n - 1], self.q(x)
        scores = (q @ self.k(x).transpose(1, 2) + torch.einsum("bnd,nmd->bnm", q, table)) / 4
        return x + self.o(scores.softmax(-1) @ self.v(x))


@stranger
def relative_places() -> Stranger:
    model = nn.Sequential(nn.Linear(5, 16), Relative(), Relative(), nn.Linear(16, 3))
    facts = {
        "1.rel": "relative_bias",
        "1.q.weight": "query 16>16",
        "1.o.weight": "attn_out 16>16",
        "3.weight": "output 16>3",
    }
    return Stranger(model, (torch.randn(8, 7, 5), torch.randn(8, 7, 3)), facts, branches=2)


@stranger
def rotary() -> Stranger:
    class Norm(nn.Module):
        def __init__(self, w: int) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(w))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain

    class Block(nn.Module):
        def __init__(self, w: int = 16, heads: int = 2) -> None:
            super().__init__()
            self.heads, self.n1, self.n2 = heads, Norm(w), Norm(w)
            self.wq, self.wk, self.wv, self.wo = (nn.Linear(w, w, bias=False) for _ in range(4))
            self.w1, self.w3, self.w2 = (
                nn.Linear(w, 32, bias=False),
                nn.Linear(w, 32, bias=False),
                nn.Linear(32, w, bias=False),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, n, w = x.shape
            h = self.n1(x)
            q, k, v = (m(h).view(b, n, self.heads, -1) for m in (self.wq, self.wk, self.wv))
            turn = torch.polar(torch.ones(n, 4), torch.arange(n)[:, None] / 10 ** torch.arange(4))[None, :, None]
            q, k = (
                torch.view_as_real(torch.view_as_complex(t.reshape(b, n, self.heads, 4, 2)) * turn).flatten(3)
                for t in (q, k)
            )
            a = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
            x = x + self.wo(a.transpose(1, 2).reshape(b, n, w))
            h = self.n2(x)
            return x + self.w2(F.silu(self.w1(h)) * self.w3(h))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.blocks, self.norm, self.head = (
                nn.Embedding(20, 16),
                nn.ModuleList(Block() for _ in range(2)),
                Norm(16),
                nn.Linear(16, 20),
            )

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.table(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)).mean(1)

    facts = {
        "table.weight": "embedding",
        "blocks.0.n1.gain": "norm_scale",
        "blocks.0.wq.weight": "query 16>16",
        "blocks.0.wo.weight": "attn_out 16>16",
        "blocks.1.w1.weight": "mlp_gate 16>32",
        "blocks.1.w2.weight": "mlp_out 32>16",
        "head.weight": "output 16>20",
    }
    return Stranger(Model(), (torch.randint(20, (8, 7)), torch.randint(20, (8,))), facts, branches=4)


@stranger
def scaled_embedding() -> Stranger:
    class Encoder(nn.Module):
        def __init__(self, w: int = 16) -> None:
            super().__init__()
            self.table, self.place, self.w = nn.Embedding(20, w), nn.Parameter(torch.randn(7, w) * 0.02), w
            self.layer, self.head = nn.TransformerEncoderLayer(w, 2, 32, dropout=0.0, batch_first=True), nn.Linear(w, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.table(ids) * self.w**0.5 + self.place).mean(1))

    facts = {
        "table.weight": "embedding × 4",
        "place": "position",
        "layer.linear1.weight": "mlp_in 16>32",
        "head.weight": "output 16>3",
    }
    return Stranger(Encoder(), (torch.randint(20, (16, 7)), torch.randint(3, (16,))), facts, branches=2)


@stranger
def hyper_connections() -> Stranger:
    class Model(nn.Module):
        def __init__(self, w: int = 16, n: int = 3) -> None:
            super().__init__()
            self.enter, self.head, self.n = nn.Linear(5, w), nn.Linear(w, 4), n
            self.norms = nn.ModuleList(nn.LayerNorm(w) for _ in range(2))
            self.up, self.down = (
                nn.ModuleList(nn.Linear(w, 32) for _ in range(2)),
                nn.ModuleList(nn.Linear(32, w) for _ in range(2)),
            )
            self.read = nn.ParameterList(torch.eye(n)[i % n] for i in range(2))
            self.carry, self.write = (
                nn.ParameterList(torch.eye(n) for _ in range(2)),
                nn.ParameterList(torch.ones(n) for _ in range(2)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            streams = self.enter(x)[:, None].expand(-1, self.n, -1)
            for i in range(2):
                h = torch.einsum("n,bnd->bd", self.read[i], streams)
                y = self.down[i](F.gelu(self.up[i](self.norms[i](h))))
                streams = torch.einsum("nm,bmd->bnd", self.carry[i], streams) + self.write[i][:, None] * y[:, None]
            return self.head(streams.sum(1))

    facts = {
        "carry.0": "map 3>3 kept",
        "read.0": "map 3>1 kept",
        "write.0": KEPT,
        "up.0.weight": "hidden 16>32",
        "head.weight": "output 16>4",
    }
    return Stranger(Model(), (torch.randn(32, 5), torch.randint(4, (32,))), facts)


@stranger
def experts() -> Stranger:
    class Experts(nn.Module):
        def __init__(self, w: int = 16, n: int = 4) -> None:
            super().__init__()
            self.norm, self.gate = nn.LayerNorm(w), nn.Linear(w, n, bias=False)
            self.up, self.down = (
                nn.Parameter(torch.randn(n, w, 32) * w**-0.5),
                nn.Parameter(torch.randn(n, 32, w) * 32**-0.5),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(x)
            best, index = self.gate(h).softmax(-1).topk(2, -1)
            shares = torch.zeros(*h.shape[:-1], 4).scatter(-1, index, best)
            y = torch.einsum("bnh,nhd->bnd", F.gelu(torch.einsum("bd,ndh->bnh", h, self.up)), self.down)
            return x + torch.einsum("bn,bnd->bd", shares, y)

    model = nn.Sequential(nn.Linear(5, 16), Experts(), Experts(), nn.LayerNorm(16), nn.Linear(16, 4))
    facts = {
        "1.gate.weight": "router 16>4",
        "1.up": "mlp_in 16>32",
        "1.down": "mlp_out 32>16",
        "4.weight": "output 16>4",
    }
    return Stranger(model, (torch.randn(32, 5), torch.randint(4, (32,))), facts, branches=2)


@stranger
def adapted() -> Stranger:
    class Adapted(nn.Module):
        def __init__(self, w: int = 16, rank: int = 2) -> None:
            super().__init__()
            self.base = nn.Linear(w, w)
            self.base.requires_grad_(False)
            self.a, self.b = nn.Parameter(torch.randn(rank, w) * w**-0.5), nn.Parameter(torch.zeros(w, rank))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + x @ self.a.T @ self.b.T * 2

    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), Adapted(), nn.Tanh(), nn.Linear(16, 4))
    facts = {"2.a": "adapter_in 16>2", "2.b": "adapter_out 2>16", "4.weight": "output 16>4"}
    return Stranger(model, (torch.randn(32, 5), torch.randint(4, (32,))), facts)


@stranger
def feature_tokens() -> Stranger:
    class Tokens(nn.Module):
        def __init__(self, features: int = 6, w: int = 16) -> None:
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.empty(features, w).uniform_(-0.25, 0.25)),
                nn.Parameter(torch.empty(features, w).uniform_(-0.25, 0.25)),
            )
            self.cls, self.layer, self.head = (
                nn.Parameter(torch.randn(1, 1, w) * 0.02),
                nn.TransformerEncoderLayer(w, 2, 32, dropout=0.0, batch_first=True, norm_first=True),
                nn.Linear(w, 3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x[:, :, None] * self.weight + self.bias
            return self.head(self.layer(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))[:, 0])

    facts = {
        "weight": KEPT,
        "bias": KEPT,
        "cls": "token",
        "layer.linear1.weight": "mlp_in 16>32",
        "head.weight": "output 16>3",
    }
    return Stranger(Tokens(), (torch.randn(32, 6), torch.randint(3, (32,))), facts, branches=2)


@stranger
def gated_at_the_end() -> Stranger:
    class Gated(nn.Module):
        def __init__(self, w: int) -> None:
            super().__init__()
            self.norm, self.up, self.gate, self.value = (
                nn.LayerNorm(w),
                nn.Linear(w, w),
                nn.Linear(w, w),
                nn.Linear(w, w),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.up(self.norm(x)))
            return x + torch.tanh(self.gate(h)) * self.value(h)

    model = nn.Sequential(nn.Linear(6, 16), Gated(16), Gated(16), nn.Linear(16, 3))
    return Stranger(
        model,
        (torch.randn(64, 6), torch.randint(3, (64,))),
        {"1.up.weight": "mlp_in 16>16", "3.weight": "output 16>3"},
        branches=2,
    )
