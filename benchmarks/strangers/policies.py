"""Noisy nets, continuous actions, towers, sets, points, graphs, mixtures, Bayesian maps, highways."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.strangers.entry import KEPT, Stranger, stranger


class Noisy(nn.Module):
    """A map with learned noise on its weights (Fortunato et al. 2017)."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(i)
        self.mu, self.sigma = (
            nn.Parameter(torch.empty(o, i).uniform_(-bound, bound)),
            nn.Parameter(torch.full((o, i), 0.5 * bound)),
        )
        self.bias, self.bias_sigma = nn.Parameter(torch.zeros(o)), nn.Parameter(torch.full((o,), 0.5 * bound))
        self.register_buffer("noise", torch.randn(o, 1) @ torch.randn(1, i))
        self.register_buffer("bias_noise", torch.randn(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.mu + self.sigma * self.noise, self.bias + self.bias_sigma * self.bias_noise)


@stranger
def noisy_dueling() -> Stranger:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.value, self.advantage = Noisy(8, 32), Noisy(32, 1), Noisy(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.body(x))
            a = self.advantage(h)
            return self.value(h) + a - a.mean(1, keepdim=True)

    facts = {
        "body.mu": "input 8>32",
        "body.sigma": KEPT,
        "body.bias_sigma": KEPT,
        "value.mu": "output 32>1",
        "advantage.sigma": KEPT,
    }
    return Stranger(Net(), (torch.randn(64, 8), torch.randn(64, 4)), facts)


@stranger
def bayesian() -> Stranger:
    class Map(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.mu, self.rho = nn.Parameter(torch.randn(o, i) * i**-0.5), nn.Parameter(torch.full((o, i), -5.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.mu + F.softplus(self.rho) * torch.randn_like(self.rho))

    model = nn.Sequential(Map(6, 16), nn.Tanh(), Map(16, 2))
    return Stranger(
        model, (torch.randn(64, 6), torch.randn(64, 2)), {"0.mu": "input 6>16", "0.rho": KEPT, "2.mu": "output 16>2"}
    )


@stranger
def continuous_policy() -> Stranger:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean, self.log_std = (
                nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()),
                nn.Linear(32, 2),
                nn.Parameter(torch.full((2,), -0.5)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = self.mean(self.body(x))
            return torch.tanh(mean + self.log_std.exp() * torch.randn_like(mean))

    facts = {
        "body.0.weight": "input 6>32",
        "body.2.weight": "hidden 32>32",
        "mean.weight": "output 32>2",
        "log_std": KEPT,
    }
    return Stranger(Policy(), (torch.randn(64, 6), torch.rand(64, 2)), facts)


@stranger
def two_towers() -> Stranger:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (
                nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)),
                nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 8)),
            )
            self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            a, b = F.normalize(self.one(x), dim=-1), F.normalize(self.two(y), dim=-1)
            return self.scale.exp() * a @ b.T

    batch = (torch.randn(32, 6), torch.randn(32, 9), torch.arange(32))
    return Stranger(
        Towers(),
        batch,
        {"scale": KEPT, "one.0.weight": "input 6>16", "two.0.weight": "input 9>16", "one.2.weight": "hidden 16>8"},
        F.cross_entropy,
    )


@stranger
def deep_set() -> Stranger:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = (
                nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16)),
                nn.Sequential(nn.ReLU(), nn.Linear(16, 4)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.all(self.each(x).mean(1))

    return Stranger(
        Sets(),
        (torch.randn(32, 9, 3), torch.randint(4, (32,))),
        {"each.0.weight": "input 3>16", "each.2.weight": "hidden 16>16", "all.1.weight": "output 16>4"},
    )


@stranger
def point_net() -> Stranger:
    class Points(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn, self.a, self.b, self.head = (
                nn.Linear(3, 9),
                nn.Conv1d(3, 16, 1),
                nn.Conv1d(16, 32, 1),
                nn.Linear(32, 4),
            )
            nn.init.normal_(self.turn.weight, std=0.01)
            with torch.no_grad():
                self.turn.bias.copy_(torch.eye(3).flatten())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.bmm(x, self.turn(x.mean(1)).view(-1, 3, 3)).transpose(1, 2)
            return self.head(torch.relu(self.b(torch.relu(self.a(x)))).amax(2))

    return Stranger(
        Points(),
        (torch.randn(32, 20, 3), torch.randint(4, (32,))),
        {"turn.bias": KEPT, "b.weight": "hidden 16>32", "head.weight": "output 32>4"},
    )


@stranger
def sparse_graph() -> Stranger:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
            return torch.spmm(near, self.b(torch.relu(torch.spmm(near, self.a(x)))))

    near = ((torch.rand(40, 40) < 0.1) | torch.eye(40, dtype=torch.bool)).float()
    near = (near / near.sum(1, keepdim=True)).to_sparse()
    return Stranger(
        Graph(),
        (torch.randn(40, 8), near, torch.randint(3, (40,))),
        {"a.weight": "input 8>16", "b.weight": "output 16>3"},
    )


@stranger
def graph_attention() -> Stranger:
    class Graph(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.w, self.source, self.target = (
                nn.Linear(i, o, bias=False),
                nn.Parameter(torch.randn(o) * o**-0.5),
                nn.Parameter(torch.randn(o) * o**-0.5),
            )

        def forward(self, x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
            h = self.w(x)
            scores = F.leaky_relu((h * self.source).sum(-1)[:, None] + (h * self.target).sum(-1)[None], 0.2)
            return scores.masked_fill(near == 0, -1e9).softmax(-1) @ h

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Graph(8, 16), Graph(16, 3)

        def forward(self, x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
            return self.b(F.elu(self.a(x, near)), near)

    near = ((torch.rand(30, 30) < 0.2) | torch.eye(30, dtype=torch.bool)).float()
    return Stranger(Net(), (torch.randn(30, 8), near, torch.randint(3, (30,))), {"a.source": "hidden 16>1"})


@stranger
def mixture_density() -> Stranger:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.weights, self.means, self.log_scales = (
                nn.Linear(3, 32),
                nn.Linear(32, 4),
                nn.Linear(32, 4),
                nn.Linear(32, 4),
            )

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            h = torch.tanh(self.body(x))
            return self.weights(h).log_softmax(-1), self.means(h), self.log_scales(h).exp()

    def loss(output: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
        shares, mean, scale = output
        return -(shares + torch.distributions.Normal(mean, scale).log_prob(y)).logsumexp(-1).mean()

    return Stranger(
        Mixture(),
        (torch.randn(64, 3), torch.randn(64, 1)),
        {"body.weight": "input 3>32", "means.weight": "output 32>4"},
        loss,
    )


@stranger
def highway() -> Stranger:
    class Highway(nn.Module):
        def __init__(self, w: int) -> None:
            super().__init__()
            self.gate, self.new = nn.Linear(w, w), nn.Linear(w, w)
            nn.init.constant_(self.gate.bias, -2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = torch.sigmoid(self.gate(x))
            return t * torch.tanh(self.new(x)) + (1 - t) * x

    model = nn.Sequential(nn.Linear(8, 16), *(Highway(16) for _ in range(4)), nn.Linear(16, 3))
    return Stranger(
        model, (torch.randn(64, 8), torch.randint(3, (64,))), {"1.gate.bias": KEPT, "5.weight": "output 16>3"}
    )


@stranger
def detector_prior() -> Stranger:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 9, 1)
    )
    nn.init.normal_(model[4].weight, std=0.01)
    nn.init.constant_(model[4].bias, -math.log(0.99 / 0.01))
    batch = (torch.randn(8, 3, 8, 8), (torch.rand(8, 9, 8, 8) < 0.01).float())
    return Stranger(
        model, batch, {"4.bias": KEPT, "0.weight": "input 27>144", "4.weight": "output 16>9"}, nn.BCEWithLogitsLoss()
    )


@stranger
def dilated_gates() -> Stranger:
    class Gate(nn.Module):
        def __init__(self, w: int, d: int) -> None:
            super().__init__()
            self.both, self.skip, self.out = nn.Conv1d(w, 2 * w, 2, dilation=d), nn.Conv1d(w, w, 1), nn.Conv1d(w, w, 1)
            self.d = d

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a, b = self.both(F.pad(x, (self.d, 0))).chunk(2, 1)
            h = torch.tanh(a) * torch.sigmoid(b)
            return (x + self.out(h)) * 0.5**0.5, self.skip(h)

    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.layers, self.head = (
                nn.Conv1d(1, 8, 1),
                nn.ModuleList(Gate(8, 2**i) for i in range(3)),
                nn.Conv1d(8, 4, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x, total = self.enter(x), 0
            for layer in self.layers:
                x, skip = layer(x)
                total = total + skip
            return self.head(torch.relu(total))

    facts = {"enter.weight": "input 1>8", "layers.0.out.weight": "residual_out 8>8", "head.weight": "output 8>4"}
    return Stranger(Wave(), (torch.randn(8, 1, 24), torch.randint(4, (8, 24))), facts)
