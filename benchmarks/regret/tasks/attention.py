"""Transformers on text, strings and images, pre- and post-norm, and an MLP-Mixer."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.regret import data
from benchmarks.regret.task import Task, adam, adamw, sgd, token_cross_entropy

HEADS = 4


class Block(nn.Module):
    """Attention and a feed-forward part, normalised before each branch or after each sum."""

    def __init__(self, width: int, *, post_norm: bool, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.post_norm, self.causal = post_norm, causal

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post_norm:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.feed(x))
        x = x + self.attend(self.norm1(x))
        return x + self.feed(self.norm2(x))


class TokenModel(nn.Module):
    """Token and position embeddings, blocks and a head over every position."""

    def __init__(self, symbols: int, length: int, width: int, layers: int, *, post_norm: bool, causal: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(symbols, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, post_norm=post_norm, causal=causal) for _ in range(layers)))
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class VisionTransformer(nn.Module):
    """2×2 patches, a learned position table, pre-norm blocks, the mean of all places."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.positions = nn.Parameter(torch.zeros(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width, post_norm=False, causal=False) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


class MixerBlock(nn.Module):
    """An MLP across places and an MLP across channels, each a pre-norm residual branch (Tolstikhin et al. 2021)."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = nn.Sequential(nn.Linear(places, 2 * places), nn.GELU(), nn.Linear(2 * places, places))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """2×2 patches and mixer blocks."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.blocks = nn.Sequential(*(MixerBlock(16, width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


_TEXT = {"symbols": len(data.CHARACTERS), "length": 24, "width": 32, "causal": True}

TASKS = (
    Task(
        name="gpt_prenorm",
        family="transformer_prenorm",
        build=partial(TokenModel, layers=3, post_norm=False, **_TEXT),
        load=partial(data.source_text, 24),
        loss=token_cross_entropy,
        optimizer=adamw(),
        lrs=(0.003, 0.01, 0.03),
        steps=200,
        batch_size=16,
        clip_norm=1.0,
    ),
    Task(
        name="gpt_postnorm",
        family="transformer_postnorm",
        build=partial(TokenModel, layers=3, post_norm=True, **_TEXT),
        load=partial(data.source_text, 24),
        loss=token_cross_entropy,
        optimizer=adamw(),
        lrs=(0.003, 0.01, 0.03),
        steps=200,
        batch_size=16,
        clip_norm=1.0,
    ),
    Task(
        name="reverse_postnorm",
        family="transformer_postnorm",
        build=partial(TokenModel, symbols=12, length=10, width=32, layers=4, post_norm=True, causal=False),
        load=data.reversals,
        loss=token_cross_entropy,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=120,
        batch_size=32,
        clip_norm=1.0,
    ),
    Task(
        name="reverse_prenorm",
        family="transformer_prenorm",
        build=partial(TokenModel, symbols=12, length=10, width=32, layers=2, post_norm=False, causal=False),
        load=data.reversals,
        loss=token_cross_entropy,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=120,
        batch_size=32,
    ),
    Task(
        name="vit",
        family="vit",
        build=partial(VisionTransformer, width=32, layers=3),
        load=data.digit_images,
        optimizer=adamw(),
        lrs=(0.001, 0.003, 0.01),
        steps=200,
        batch_size=32,
    ),
    Task(
        name="mixer",
        family="mixer",
        build=partial(Mixer, width=32, layers=3),
        load=data.digit_images,
        optimizer=sgd(),
        lrs=(0.01, 0.03, 0.1),
        steps=250,
        batch_size=32,
        clip_norm=1.0,
    ),
)
