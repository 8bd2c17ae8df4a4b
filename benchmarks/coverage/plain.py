"""Plain PyTorch of every kind: bare parameters, loops, control flow on data, wrappers, other number types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from benchmarks.coverage.entry import Entry

X = (2, 8)
IMAGE = (2, 3, 32, 32)
SEQUENCE = (2, 6, 8)


class Bare(nn.Module):
    """Parameters used by functions only."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(16, 8))
        self.b = nn.Parameter(torch.randn(16, 12))
        self.c = nn.Parameter(torch.randn(12, 4, 5))
        self.d = nn.Parameter(torch.zeros(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.linear(x, self.a)) @ self.b
        return torch.einsum("bi,iko->bo", x.tanh(), self.c) + self.d


class Shared(nn.Module):
    """One module called several times, and a loop that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3 if float(x.detach().sum()) > 0 else 4):
            x = torch.tanh(self.step(x))
        return self.head(x)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return x


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.attention(x, x, x)[0])


class LanguageModel(nn.Module):
    """An LSTM language model with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(50, 16), nn.LSTM(16, 16, 2, batch_first=True), nn.Linear(16, 50)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


class Complex(nn.Module):
    """A global filter: a learned complex weight in Fourier space."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(3, 32, 17, dtype=torch.cfloat))
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=(32, 32)))


class ComplexLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4, dtype=torch.cfloat)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.to(torch.cfloat)).abs()


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.both = nn.Linear(8, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.c(F.silu(self.a(x)) * self.b(x))
        return self.c(F.glu(self.both(x)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(a))
        return self.out(torch.cat([a, F.relu(self.up(b))], 1))


class ReZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.scales = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, scale in zip(self.layers, self.scales, strict=True):
            x = x + scale * torch.relu(layer(x))
        return x


class InPlace(nn.Module):
    """Writes into slices and into its own activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        out[:, :4] = self.a(x)[:, :4]
        out[:, 4:].add_(x[:, 4:])
        return self.b(out.relu_())


class Snake(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.alpha, self.out = nn.Conv1d(6, 8, 3), nn.Parameter(torch.ones(1, 8, 1)), nn.Conv1d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.out(x + torch.sin(self.alpha * x).pow(2) / (self.alpha + 1e-9))


class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + (x @ self.a.T @ self.b.T) * 2.0


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.side = nn.Conv2d(3, 4, 3), nn.Linear(8, 4)
        self.policy, self.value = nn.Linear(4, 5), nn.Linear(4, 1)
        self.log_std = nn.Parameter(torch.zeros(5))

    def forward(self, x: torch.Tensor, side: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = torch.relu(self.image(x).mean((2, 3)) + self.side(side))
        return self.policy(h), self.value(h), self.log_std


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4, bias=False)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 8, 16)), nn.Parameter(torch.randn(4, 16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, index = self.router(x).softmax(-1).topk(2, -1)
        h = torch.einsum("btd,edh->bteh", x, self.w1).relu()
        every = torch.einsum("bteh,ehd->bted", h, self.w2)
        picked = torch.gather(every, 2, index[..., None].expand(*index.shape, x.shape[-1]))
        return x + (weight[..., None] * picked).sum(2)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.never = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(50, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.bag(ids))


def _normed(model: nn.Module) -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(model), nn.ReLU(), nn.Linear(16, 3))


_CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), (X,)),
    "bare_parameters": (Bare, (X,)),
    "shared_module": (Shared, (X,)),
    "checkpoint": (Checkpointed, (X,)),
    "multihead_attention": (Attention, (SEQUENCE,)),
    "transformer": (lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (SEQUENCE, SEQUENCE)),
    "lstm_lm_tied": (LanguageModel, ("ids",)),
    "fourier_filter": (Complex, (IMAGE,)),
    "complex_linear": (ComplexLinear, (X,)),
    "double": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).double(), ("double",)),
    "gated": (Gated, (X,)),
    "unet_concat": (UNet, (IMAGE,)),
    "rezero": (ReZero, (X,)),
    "in_place": (InPlace, (X,)),
    "snake": (Snake, (SEQUENCE,)),
    "lora": (LoRA, (X,)),
    "two_inputs_three_outputs": (TwoHeads, (IMAGE, X)),
    "experts_3d": (Experts, (SEQUENCE,)),
    "unused_parameters": (Unused, (X,)),
    "embedding_bag": (Bag, ("ids",)),
    "weight_norm": (lambda: _normed(nn.Linear(8, 16)), (X,)),
    "weight_norm_legacy": (lambda: nn.utils.weight_norm(nn.Linear(8, 16)), (X,)),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16)), (X,)),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), (X,)),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3)), (X,)),
    "compiled": (lambda: torch.compile(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), backend="eager"), (X,)),
    "data_parallel": (lambda: nn.DataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))), (X,)),
    "gru_stack": (lambda: nn.GRU(8, 16, 3, batch_first=True, bidirectional=True), (SEQUENCE,)),
    "bilinear": (lambda: nn.Bilinear(8, 8, 3), (X, X)),
}  # fmt: skip


def _tensor(what: Any) -> torch.Tensor:
    if what == "ids":
        return torch.randint(50, (2, 6))
    if what == "double":
        return torch.randn(X, dtype=torch.float64)
    return torch.randn(what)


def _batches(shapes: tuple[Any, ...]) -> Callable[[nn.Module], Iterator[Any]]:
    def make(model: nn.Module) -> Iterator[Any]:
        yield (*(_tensor(s) for s in shapes), None)

    return make


def entries() -> list[Entry]:
    """All of them, on CPU."""
    return [Entry(f"plain/{name}", (("cpu", build, _batches(shapes)),)) for name, (build, shapes) in _CASES.items()]
