"""Equalised and modulated generators, flows, vector quantisers, vocoders, denoisers, hypernetworks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.strangers.entry import KEPT, Stranger, stranger


class Equal(nn.Module):
    """A map with an equalised learning rate."""

    def __init__(self, i: int, o: int, mul: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(o, i) / mul), nn.Parameter(torch.full((o,), bias))
        self.scale, self.mul = mul / math.sqrt(i), mul

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.mul)


class Modulated(nn.Module):
    """A convolution whose kernel every sample scales, and whose size is taken off again."""

    def __init__(self, i: int, o: int, k: int, style: int) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(1, o, i, k, k)), Equal(style, i, bias=1.0)
        self.scale, self.k = 1 / math.sqrt(i * k * k), k

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        kernel = self.scale * self.weight * self.style(s).view(b, 1, c, 1, 1)
        kernel = kernel * torch.rsqrt(kernel.pow(2).sum([2, 3, 4]) + 1e-8).view(b, -1, 1, 1, 1)
        out = F.conv2d(x.reshape(1, b * c, h, w), kernel.view(-1, c, self.k, self.k), padding=self.k // 2, groups=b)
        return out.view(b, -1, h, w)


@stranger
def style_generator() -> Stranger:
    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.randn(1, 8, 4, 4))
            self.map = nn.ModuleList(Equal(16, 16, mul=0.01) for _ in range(3))
            self.first, self.last = Modulated(8, 12, 3, 16), Modulated(12, 3, 1, 16)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            for layer in self.map:
                z = F.leaky_relu(layer(z), 0.2) * 2**0.5
            x = self.start.repeat(len(z), 1, 1, 1)
            return self.last(F.leaky_relu(self.first(x, z), 0.2) * 2**0.5, z)

    facts = {
        "start": KEPT, "map.0.weight": "input 16>16 × 0.0025", "map.1.weight": "hidden 16>16 × 0.0025",
        "first.weight": "hidden 72>108", "first.style.weight": "hidden 16>8 × 0.25", "last.weight": "output 12>3",
    }  # fmt: skip
    return Stranger(Generator(), (torch.randn(8, 16), torch.randn(8, 3, 4, 4)), facts)


@stranger
def progressive_critic() -> Stranger:
    class Scaled(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(i, o, 3, padding=1, bias=False)
            nn.init.normal_(self.conv.weight)
            self.scale, self.bias = (2 / (i * 9)) ** 0.5, nn.Parameter(torch.zeros(o))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x * self.scale) + self.bias[None, :, None, None]

    model = nn.Sequential(
        Scaled(3, 8),
        nn.LeakyReLU(0.2),
        Scaled(8, 8),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    facts = {
        "0.conv.weight": "input 27>72 × 0.272",
        "2.conv.weight": "hidden 72>72 × 0.167",
        "2.bias": "bias",
        "6.weight": "output 8>2",
    }
    return Stranger(model, (torch.randn(8, 3, 8, 8), torch.randint(2, (8,))), facts)


class LogGain(nn.Module):
    """A norm of flows: its gain is kept as a logarithm."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.log_gain, self.shift = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt() * self.log_gain.exp() + self.shift


@stranger
def coupling_flow() -> Stranger:
    class Coupling(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.norm, self.net = LogGain(n), nn.Sequential(nn.Linear(n // 2, 32), nn.ReLU(), nn.Linear(32, n))
            nn.init.zeros_(self.net[2].weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, two = self.norm(x).chunk(2, -1)
            log_scale, shift = self.net(one).chunk(2, -1)
            return torch.cat([two * torch.exp(torch.tanh(log_scale)) + shift, one], -1)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.square().mean()

    model = nn.Sequential(Coupling(8), Coupling(8))
    batch = (torch.randn(64, 8), torch.zeros(64))
    return Stranger(model, batch, {"0.norm.log_gain": KEPT, "0.net.0.weight": "input 4>32"}, loss)


@stranger
def vector_quantiser() -> Stranger:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(10, 8), nn.Linear(8, 10)
            self.codebook = nn.Embedding(32, 8)
            nn.init.uniform_(self.codebook.weight, -1 / 32, 1 / 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.enter(x)
            e = self.codebook.weight
            far = z.pow(2).sum(1, keepdim=True) - 2 * z @ e.t() + e.pow(2).sum(1)
            near = self.codebook(far.argmin(1))
            return self.leave(z + (near - z).detach()) + 0 * near.sum()

    x = torch.randn(64, 10)
    return Stranger(
        Codes(), (x, x.clone()), {"codebook.weight": KEPT, "enter.weight": "input 10>8", "leave.weight": "output 8>10"}
    )


class Res1d(nn.Module):
    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.c = nn.Conv1d(c, c, k, padding=k // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.c(F.leaky_relu(x, 0.1))


@stranger
def vocoder() -> Stranger:
    class Net(nn.Module):
        def __init__(self, c: int = 16, levels: int = 4) -> None:
            super().__init__()
            self.pre, self.post = nn.Conv1d(8, c, 3, padding=1), nn.Conv1d(c, 1, 3, padding=1)
            self.mid = nn.ModuleList(nn.Conv1d(c, c, 3, padding=1) for _ in range(levels))
            self.res = nn.ModuleList(nn.ModuleList(Res1d(c, k) for k in (3, 5, 7)) for _ in range(levels))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pre(x)
            for mid, branches in zip(self.mid, self.res, strict=True):
                x = mid(F.leaky_relu(x, 0.1))
                x = sum(r(x) for r in branches) / len(branches)
            return torch.tanh(self.post(F.leaky_relu(x, 0.1)))

    facts = {
        "pre.weight": "input 24>48",
        "mid.1.weight": "hidden 48>48",
        "res.0.1.c.weight": "residual_out 80>80",
        "post.weight": "output 48>3",
    }
    return Stranger(Net(), (torch.randn(8, 8, 32), torch.randn(8, 1, 32)), facts)


@stranger
def denoiser() -> Stranger:
    class Block(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.n1, self.n2 = nn.GroupNorm(2, c), nn.GroupNorm(2, c)
            self.a, self.b, self.time = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1), nn.Linear(16, c)
            nn.init.zeros_(self.b.weight)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            h = self.a(F.silu(self.n1(x))) + self.time(F.silu(t))[:, :, None, None]
            return x + self.b(F.silu(self.n2(h)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave, self.norm = (
                nn.Conv2d(3, 8, 3, padding=1),
                nn.Conv2d(8, 3, 3, padding=1),
                nn.GroupNorm(2, 8),
            )
            self.t1, self.t2, self.blocks = (
                nn.Linear(16, 16),
                nn.Linear(16, 16),
                nn.ModuleList(Block(8) for _ in range(2)),
            )

        def forward(self, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
            angle = step[:, None] * torch.exp(-math.log(1e4) * torch.arange(8) / 8)
            t = self.t2(F.silu(self.t1(torch.cat([angle.sin(), angle.cos()], -1))))
            h = self.enter(x)
            for block in self.blocks:
                h = block(h, t)
            return self.leave(F.silu(self.norm(h)))

    facts = {
        "enter.weight": "input 27>72",
        "blocks.0.time.weight": "modulation 16>8",
        "blocks.0.b.weight": "residual_out 72>72",
        "leave.weight": "output 72>27",
    }
    return Stranger(Net(), (torch.randn(8, 3, 8, 8), torch.rand(8) * 100, torch.randn(8, 3, 8, 8)), facts, branches=2)


@stranger
def hypernetwork() -> Stranger:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task, self.a, self.make = nn.Embedding(5, 8), nn.Linear(8, 32), nn.Linear(32, 6 * 4 + 4)

        def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
            made = self.make(torch.relu(self.a(self.task(task))))
            w, b = made[:, :24].view(-1, 4, 6), made[:, 24:]
            return torch.bmm(w, x[..., None])[..., 0] + b

    return Stranger(
        Hyper(),
        (torch.randn(32, 6), torch.randint(5, (32,)), torch.randn(32, 4)),
        {"task.weight": "embedding", "a.weight": "hidden 8>32"},
    )


@stranger
def dynamic_convolution() -> Stranger:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernels, self.route = nn.Parameter(torch.randn(4, 8, 3, 3, 3) * 0.2), nn.Linear(3, 4)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shares = torch.softmax(self.route(x.mean((2, 3))), -1)
            b, c, h, w = x.shape
            kernel = (shares @ self.kernels.view(4, -1)).view(b * 8, 3, 3, 3)
            y = F.conv2d(x.view(1, b * c, h, w), kernel, groups=b, padding=1).view(b, 8, h, w)
            return self.head(torch.relu(y).mean((2, 3)))

    return Stranger(Mixed(), (torch.randn(8, 3, 6, 6), torch.randint(3, (8,))), {"head.weight": "output 8>3"})


@stranger
def critic_with_spectral_norm() -> Stranger:
    class Spectral(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = F.normalize(torch.ones(self.out_features), dim=0)
            v = F.normalize(self.weight.detach().T @ u, dim=0)
            return F.linear(x, self.weight / (u @ self.weight @ v), self.bias)

    class Res(nn.Module):
        def __init__(self, w: int) -> None:
            super().__init__()
            self.a, self.b = Spectral(w, w), Spectral(w, w)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(torch.relu(self.a(torch.relu(x))))

    model = nn.Sequential(nn.Linear(6, 16), Res(16), Res(16), nn.Linear(16, 2))
    facts = {"1.a.weight": "mlp_in 16>16", "1.b.weight": "mlp_out 16>16", "3.weight": "output 16>2"}
    return Stranger(model, (torch.randn(32, 6), torch.randint(2, (32,))), facts, branches=2)
