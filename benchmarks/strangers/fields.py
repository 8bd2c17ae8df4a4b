"""Hash grids, learned frequencies, spectral layers, splines, positive weights, centres, capsules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.strangers.entry import KEPT, Stranger, stranger


@stranger
def hash_grid() -> Stranger:
    class Grid(nn.Module):
        def __init__(self, levels: int = 3, size: int = 64) -> None:
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(size, 2) for _ in range(levels))
            for table in self.tables:
                nn.init.uniform_(table.weight, -1e-4, 1e-4)
            self.size, self.net = size, nn.Sequential(nn.Linear(2 * levels, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = []
            for level, table in enumerate(self.tables):
                cell = (x * 4 * 2**level).long()
                found.append(table((cell[:, 0] * 1 ^ cell[:, 1] * 2654435761) % self.size))
            return self.net(torch.cat(found, -1))

    x = torch.rand(64, 2)
    return Stranger(
        Grid(),
        (x, x.sum(1, keepdim=True).sin()),
        {"tables.0.weight": "embedding", "net.0.weight": "hidden 6>16", "net.2.weight": "output 16>1"},
    )


@stranger
def learned_frequencies() -> Stranger:
    class Filter(nn.Module):
        def __init__(self, w: int = 8, length: int = 20) -> None:
            super().__init__()
            t = torch.linspace(0, 1, length)[:, None]
            self.z, self.freq = (
                nn.Parameter(torch.cat([t, (6.28 * t).cos(), (6.28 * t).sin()], 1)),
                nn.Parameter(torch.full((1, 12), 10.0)),
            )
            self.a, self.b, self.enter, self.head = nn.Linear(3, 12), nn.Linear(12, w), nn.Linear(4, w), nn.Linear(w, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            k, v, n = self.b(torch.sin(self.freq * self.a(self.z))).T, self.enter(x).transpose(1, 2), x.shape[1]
            y = torch.fft.irfft(torch.fft.rfft(k, n=2 * n) * torch.fft.rfft(v, n=2 * n), n=2 * n)[..., :n]
            return self.head(y.transpose(1, 2))

    facts = {"z": KEPT, "freq": KEPT, "enter.weight": "input 4>8", "head.weight": "output 8>2"}
    return Stranger(Filter(), (torch.randn(8, 20, 4), torch.randn(8, 20, 2)), facts)


@stranger
def fourier_operator() -> Stranger:
    class Spectral(nn.Module):
        def __init__(self, w: int = 8, modes: int = 5) -> None:
            super().__init__()
            self.weight, self.modes, self.local = (
                nn.Parameter(torch.randn(w, w, modes, dtype=torch.cfloat) / w),
                modes,
                nn.Conv1d(w, w, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            f = torch.fft.rfft(x)
            kept = torch.einsum("bim,iom->bom", f[..., : self.modes], self.weight)
            out = torch.zeros(*f.shape, dtype=torch.cfloat)
            out[..., : self.modes] = kept
            return F.gelu(torch.fft.irfft(out, n=x.shape[-1]) + self.local(x))

    model = nn.Sequential(nn.Conv1d(2, 8, 1), Spectral(), Spectral(), nn.Conv1d(8, 1, 1))
    facts = {
        "0.weight": "input 2>8",
        "1.weight": "hidden 8>8",
        "1.local.weight": "hidden 8>8",
        "3.weight": "output 8>1",
    }
    return Stranger(model, (torch.randn(8, 2, 24), torch.randn(8, 1, 24)), facts)


@stranger
def splines() -> Stranger:
    class Spline(nn.Module):
        def __init__(self, i: int, o: int, n: int = 6) -> None:
            super().__init__()
            self.base, self.coef = nn.Parameter(torch.randn(o, i) * i**-0.5), nn.Parameter(torch.randn(o, i, n) * 0.1)
            self.scale = nn.Parameter(torch.ones(o, i))
            self.register_buffer("grid", torch.linspace(-2, 2, n))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            basis = torch.exp(-((x[..., None] - self.grid) ** 2) * 4)
            return F.linear(F.silu(x), self.base) + torch.einsum(
                "bin,oin->bo", basis, self.coef * self.scale[..., None]
            )

    model = nn.Sequential(Spline(4, 8), Spline(8, 2))
    return Stranger(
        model,
        (torch.randn(64, 4), torch.randn(64, 2)),
        {"0.scale": KEPT, "0.base": "input 4>8", "1.coef": "output 48>2"},
    )


@stranger
def convex() -> Stranger:
    class Positive(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.raw = nn.Parameter(torch.randn(o, i) - 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, F.softplus(self.raw))

    class Convex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.z1, self.b, self.z2, self.c = (
                nn.Linear(4, 16),
                Positive(16, 16),
                nn.Linear(4, 16),
                Positive(16, 1),
                nn.Linear(4, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = F.softplus(self.a(x))
            z = F.softplus(self.z1(z) + self.b(x))
            return self.z2(z) + self.c(x)

    return Stranger(
        Convex(),
        (torch.randn(64, 4), torch.randn(64, 1)),
        {"z1.raw": "map 16>16 kept", "z2.raw": "output 16>1 kept", "a.weight": "map 4>16"},
    )


@stranger
def centres() -> Stranger:
    class Centres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres, self.log_width, self.head = (
                nn.Parameter(torch.randn(12, 4)),
                nn.Parameter(torch.zeros(12)),
                nn.Linear(12, 2),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.exp(-torch.cdist(x, self.centres) * self.log_width.exp()))

    return Stranger(
        Centres(),
        (torch.randn(64, 4), torch.randint(2, (64,))),
        {"centres": KEPT, "log_width": KEPT, "head.weight": "output 12>2"},
    )


@stranger
def prototypes() -> Stranger:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.rows, self.log_scale = (
                nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)),
                nn.Parameter(torch.randn(5, 8)),
                nn.Parameter(torch.tensor(2.3)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.log_scale.exp() * F.normalize(self.body(x), dim=-1) @ F.normalize(self.rows, dim=-1).T

    return Stranger(
        Net(),
        (torch.randn(32, 6), torch.randint(5, (32,))),
        {"log_scale": KEPT, "body.0.weight": "input 6>16", "body.2.weight": "hidden 16>8"},
    )


@stranger
def capsules() -> Stranger:
    def squash(x: torch.Tensor) -> torch.Tensor:
        n = x.square().sum(-1, keepdim=True)
        return n / (1 + n) * x / (n + 1e-8).sqrt()

    class Capsules(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.w = nn.Linear(10, 6 * 4), nn.Parameter(torch.randn(6, 3, 8, 4) * 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = squash(self.enter(x).view(-1, 6, 4))
            votes = torch.einsum("ijkl,bil->bijk", self.w, u)
            logits = torch.zeros(votes.shape[:3])
            for _ in range(2):
                s = squash((logits.softmax(2)[..., None] * votes).sum(1))
                logits = logits + (votes.detach() * s[:, None]).sum(-1)
            return s.norm(dim=-1)

    return Stranger(Capsules(), (torch.randn(32, 10), torch.randint(3, (32,))), {"enter.weight": "input 10>24"})


@stranger
def standardised_convolutions() -> Stranger:
    class Conv(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5) / (w[0].numel()) ** 0.5
            return F.conv2d(x, w, self.bias, padding=1)

    model = nn.Sequential(
        Conv(3, 8, 3), nn.ReLU(), Conv(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    return Stranger(
        model,
        (torch.randn(16, 3, 8, 8), torch.randint(3, (16,))),
        {"0.weight": "input 27>72", "2.weight": "hidden 72>72", "6.weight": "output 8>3"},
    )
