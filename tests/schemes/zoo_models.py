"""Forty small models of many kinds with a batch each, for what must hold of every proposal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 3


class Lambda(nn.Module):
    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *x):
        return self.fn(*x)


def mlp(inputs: int, width: int, depth: int, act: Callable[[], nn.Module], outputs: int = CLASSES, **kw) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth - 1):
        layers += [nn.Linear(inputs if i == 0 else width, width, **kw), act()]
    return nn.Sequential(*layers, nn.Linear(width, outputs, **kw))


class Residual(nn.Module):
    def __init__(
        self, width: int, norm: Callable[[int], nn.Module], act: Callable[..., Any], post: bool = False
    ) -> None:
        super().__init__()
        self.norm, self.up, self.down, self.act, self.post = (
            norm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
            act,
            post,
        )

    def forward(self, x):
        if self.post:
            return self.norm(x + self.down(self.act(self.up(x))))
        return x + self.down(self.act(self.up(self.norm(x))))


class ConvBlock(nn.Module):
    def __init__(self, width: int, norm: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.n, self.m = (nn.BatchNorm2d(width), nn.BatchNorm2d(width)) if norm else (nn.Identity(), nn.Identity())

    def forward(self, x):
        return F.relu(x + self.m(self.b(F.relu(self.n(self.a(x))))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.causal = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            heads,
            causal,
        )

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).reshape(b, t, w))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(width, 2 * width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, width: int, gated: bool = False, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.n, self.m, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, causal=causal)
        plain = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.mlp = Gated(width) if gated else plain
        self.scale = nn.Parameter(torch.full((width,), scale)) if scale is not None else 1.0

    def forward(self, x):
        x = x + self.scale * self.attention(self.n(x))
        return x + self.scale * self.mlp(self.m(x))


class Language(nn.Module):
    def __init__(
        self, tied: bool, positions: bool = True, gated: bool = False, words: int = 40, width: int = 16
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(8, width) if positions else None
        self.blocks = nn.Sequential(*(Block(width, gated, causal=True) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x):
        h = self.words(x)
        if self.places is not None:
            h = h + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(h))).transpose(1, 2)


class TiedPlain(nn.Module):
    """A tied table without norms: what goes in comes out."""

    def __init__(self, words: int = 40, width: int = 16, norm: bool = False) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(words, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, x):
        h = self.norm(torch.tanh(self.mix(self.words(x))))
        return F.linear(h, self.words.weight).transpose(1, 2)


class Vision(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 5, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, scale=0.1) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.places
        return self.head(self.norm(self.blocks(h))[:, 0])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **kw) -> None:
        super().__init__()
        self.cell, self.head = kind(6, 12, batch_first=True, **kw), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class ByHand(nn.Module):
    """A gated recurrence written out."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.gate, self.new, self.head, self.width = (
            nn.Linear(6 + width, width),
            nn.Linear(6 + width, width),
            nn.Linear(width, CLASSES),
            width,
        )

    def forward(self, x):
        h = x.new_zeros(len(x), self.width)
        for t in range(x.shape[1]):
            both = torch.cat([x[:, t], h], 1)
            z = torch.sigmoid(self.gate(both))
            h = (1 - z) * h + z * torch.tanh(self.new(both))
        return self.head(h)


class Factors(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Embedding(30, 8), nn.Embedding(30, 8), nn.Embedding(30, 1)
        for table in (self.a, self.b, self.c):
            nn.init.normal_(table.weight, std=std)
        self.mean = nn.Parameter(torch.tensor(3.5))

    def forward(self, ids):
        return self.mean + (self.a(ids[:, 0]) * self.b(ids[:, 1])).sum(-1, keepdim=True) + self.c(ids[:, 0])


class Sine(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 1)
        for i, layer in enumerate(self.layers):
            bound = 0.5 if i == 0 else math.sqrt(6 / width) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1), ConvBlock(8)
        self.up, self.out = nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        h = F.silu(self.enter(x))
        return self.out(torch.cat([h, F.silu(self.up(self.mid(self.down(h))))], 1))


class Modulated(nn.Module):
    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.enter, self.time = nn.Linear(6, 16), nn.Linear(1, 16)
        self.norm, self.mlp = nn.LayerNorm(16, elementwise_affine=False), Gated(16)
        self.modulation, self.head = nn.Linear(16, 48), nn.Linear(16, 6)
        if zero:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x):
        h = self.enter(x)
        shift, scale, gate = self.modulation(F.silu(self.time(x[:, :1]))).chunk(3, 1)
        h = h + gate * self.mlp(self.norm(h) * (1 + scale) + shift)
        return self.head(h)


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 16) / 3), nn.Parameter(torch.randn(4, 16, 8) / 4)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        share = self.router(x).softmax(-1)
        each = torch.einsum("enf,efd->end", F.relu(torch.einsum("nd,edf->enf", x, self.up)), self.down)
        return self.head(x + torch.einsum("ne,end->nd", share, each))


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(8, 16, 3, nn.Tanh, 16)
        self.policy, self.value = nn.Linear(16, CLASSES), nn.Linear(16, 1)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.policy(h) + 0 * self.value(h)


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 16)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Linear(8, 2, bias=False), nn.Linear(2, 16, bias=False)
        nn.init.zeros_(self.b.weight)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(F.relu(self.base(x) + self.b(self.a(x))))


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w / math.sqrt(w[0].numel()), self.bias, padding=1)


def labels(*shape: int, classes: int = CLASSES) -> torch.Tensor:
    return torch.randint(classes, shape)


def zoo() -> dict[str, tuple[nn.Module, Any]]:
    """Name -> model and ``(inputs, targets)``, drawn from the global generator."""
    x, y = torch.randn(32, 8), labels(32)
    seq, picture = torch.randn(16, 7, 6), torch.randn(8, 3, 8, 8)
    ids, words = torch.randint(30, (32, 2)), torch.randint(40, (8, 8))
    flat = nn.Flatten()
    ln, no = nn.LayerNorm, nn.Identity
    head = (nn.AdaptiveAvgPool2d(1), flat, nn.Linear(8, CLASSES))
    enter = nn.Conv2d(3, 8, 3, padding=1)

    def residual(
        norm: Callable[..., nn.Module], act: Callable[..., Any], count: int = 4, *, post: bool = False
    ) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 16), *(Residual(16, norm, act, post) for _ in range(count)), nn.Linear(16, CLASSES)
        )

    return {
        "softmax regression": (nn.Linear(8, CLASSES), (x, y)),
        "relu mlp": (mlp(8, 32, 3, nn.ReLU), (x, y)),
        "tanh mlp": (mlp(8, 32, 6, nn.Tanh), (x, y)),
        "deep relu mlp": (mlp(8, 24, 12, nn.ReLU), (x, y)),
        "selu mlp": (mlp(8, 24, 6, nn.SELU), (x, y)),
        "sigmoid mlp": (mlp(8, 24, 4, nn.Sigmoid), (x, y)),
        "gelu regression": (mlp(8, 24, 4, nn.GELU, 1), (x, x[:, :1])),
        "batchnorm mlp": (
            nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES)),
            (x, y),
        ),
        "pre-norm mlp": (residual(ln, F.gelu), (x, y)),
        "post-norm mlp": (residual(ln, F.relu, post=True), (x, y)),
        "norm-free mlp": (residual(no, F.relu), (x, y)),
        "plain cnn": (nn.Sequential(enter, nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), *head), (picture, labels(8))),
        "resnet": (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *(ConvBlock(8) for _ in range(3)), *head),
            (picture, labels(8)),
        ),
        "norm-free resnet": (
            nn.Sequential(nn.Conv2d(3, 8, 3), *(ConvBlock(8, False) for _ in range(3)), *head),
            (picture, labels(8)),
        ),
        "depthwise": (
            nn.Sequential(enter, nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.ReLU(), *head),
            (picture, labels(8)),
        ),
        "u-net": (UNet(), (picture, picture)),
        "generator": (
            nn.Sequential(
                nn.ConvTranspose2d(8, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()
            ),
            (torch.randn(8, 8, 1, 1), picture.tanh()),
        ),
        "standardised": (
            nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 8, 3), nn.ReLU(), *head),
            (picture, labels(8)),
        ),
        "weight norm": (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, CLASSES)),
            (x, y),
        ),
        "lstm": (Recurrent(nn.LSTM), (seq, labels(16))),
        "gru": (Recurrent(nn.GRU, num_layers=2), (seq, labels(16))),
        "relu rnn": (Recurrent(nn.RNN, nonlinearity="relu"), (seq, labels(16))),
        "gated recurrence": (ByHand(), (seq, labels(16))),
        "encoder": (
            nn.Sequential(
                nn.Linear(6, 16),
                nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 2),
                nn.Linear(16, 6),
            ),
            (seq, seq),
        ),
        "pre-norm blocks": (nn.Sequential(nn.Linear(6, 16), Block(16), Block(16), nn.Linear(16, 6)), (seq, seq)),
        "gated blocks": (
            nn.Sequential(nn.Linear(6, 16), Block(16, True), Block(16, True), nn.Linear(16, 6)),
            (seq, seq),
        ),
        "language untied": (Language(False), (words, words.roll(-1, 1))),
        "language tied": (Language(True), (words, words.roll(-1, 1))),
        "language tied no positions": (Language(True, False, True), (words, words.roll(-1, 1))),
        "tied plain": (TiedPlain(), (words, words.roll(-1, 1))),
        "tied norm": (TiedPlain(norm=True), (words, words.roll(-1, 1))),
        "vision": (Vision(), (torch.randn(8, 3, 8, 8), labels(8))),
        "factor model": (Factors(0.1), (ids, torch.randn(32, 1) + 3.5)),
        "categories": (nn.Sequential(nn.Embedding(30, 8), flat, nn.Linear(16, CLASSES)), (ids, y)),
        "sine field": (Sine(), (torch.rand(32, 2), torch.rand(32, 1))),
        "modulated": (Modulated(False), (seq[:, 0], seq[:, 0])),
        "modulated zero": (Modulated(True), (seq[:, 0], seq[:, 0])),
        "experts": (Mixture(), (x, y)),
        "actor critic": (Actor(), (x, y)),
        "adapters": (Adapted(), (x, y)),
        "highway": (
            nn.Sequential(nn.Linear(8, 16), Lambda(torch.tanh), nn.Linear(16, 16), nn.Softplus(), nn.Linear(16, 1)),
            (x, x[:, :1].exp()),
        ),
    }
