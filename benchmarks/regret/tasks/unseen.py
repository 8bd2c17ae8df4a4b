"""Tasks made after the advisor, of other architectures than the rest: nothing of it was chosen by their results."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.regret import data
from benchmarks.regret.task import Task, adam, adamw, sgd, token_cross_entropy
from benchmarks.regret.tasks.dense import mlp


def pyramid() -> nn.Sequential:
    """64 pixels through layers that first widen and then narrow, with SiLU."""
    sizes = (64, 96, 96, 64, 64, 48, 48, 32, 32, 24, 24, 16)
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        parts += [nn.Linear(fan_in, fan_out), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(sizes[-1], 10))


class DenseBranch(nn.Module):
    """x + W₂ relu(W₁ x), without a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def residual_mlp(blocks: int, width: int) -> nn.Sequential:
    """A residual net of linear layers."""
    return nn.Sequential(nn.Linear(64, width), *(DenseBranch(width) for _ in range(blocks)), nn.Linear(width, 10))


class GatedBlock(nn.Module):
    """Causal attention and a gated feed-forward part after root-mean-square norms, without biases (Shazeer 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        projected = (project(h) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in projected)
        x = x + self.o_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class TiedLanguageModel(nn.Module):
    """Gated blocks over tokens and places; the head is the token table."""

    def __init__(self, symbols: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(GatedBlock(width, 4) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class SequenceEncoder(nn.Module):
    """torch's own encoder, post-norm with dropout, over eight rows of pixels."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def pooled_tanh_cnn() -> nn.Sequential:
    """Eight tanh convolutions, pooled twice, and two linear layers."""
    parts: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(pairwise((1, 12, 12, 12, 16, 16, 16, 24, 24))):
        parts += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.Tanh()]
        if index in (2, 5):
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(96, 32), nn.Tanh(), nn.Linear(32, 10))


class DenselyConnected(nn.Module):
    """Every convolution reads all earlier outputs, side by side (Huang et al. 2017, without norms)."""

    def __init__(self, layers: int, growth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, growth, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(growth * (i + 1), growth, 3, padding=1) for i in range(layers))
        self.head = nn.Linear(growth * (layers + 1), 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(torch.relu(x))], 1)
        return self.head(torch.relu(x).mean((2, 3)))


def conv_autoencoder() -> nn.Sequential:
    """8×8 pixels to 2×2 places and back through transposed convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(4, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(12, 1, 3, padding=1),
    )  # fmt: skip


class DilatedConvolutions(nn.Module):
    """Causal one-dimensional convolutions that reach twice as far each time, with leaky ReLU."""

    def __init__(self, layers: int, channels: int) -> None:
        super().__init__()
        sizes = enumerate(pairwise([1, *[channels] * layers]))
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 2, dilation=2 ** (i % 4)) for i, (a, b) in sizes)
        self.head = nn.Conv1d(channels, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.transpose(1, 2)
        for layer in self.layers:
            h = F.leaky_relu(layer(F.pad(h, (layer.dilation[0], 0))), 0.1)
        return self.head(h).transpose(1, 2)


class CharacterLSTM(nn.Module):
    """Token table, two LSTM layers, a head over every step."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(symbols, width)
        self.cell = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(self.tokens(ids))[0])


class BothWays(nn.Module):
    """A bidirectional GRU over eight rows, the mean of its states, a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.GRU(8, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0].mean(1))


class Factorisation(nn.Module):
    """The product of a user's and an item's vector, and their biases (Koren et al. 2009)."""

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        product = (self.users(user) * self.items(item)).sum(-1)
        return product + self.user_bias(user).squeeze(-1) + self.item_bias(item).squeeze(-1)


class DeepSet(nn.Module):
    """Each point through one net, their mean through another (Zaheer et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.each = mlp(nn.ReLU, inputs=2, outputs=width, width=width, layers=5)
        self.whole = mlp(nn.ReLU, inputs=width, outputs=3, width=width, layers=4)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.whole(self.each(points).mean(1))


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two convolutions, beside the identity (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))


def preactivation_resnet(blocks: int, channels: int) -> nn.Sequential:
    """A strided stem, blocks, a last norm and a head."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, stride=2, padding=1, bias=False),
        *(PreActivationBlock(channels) for _ in range(blocks)),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


_SLOW, _FAST = (0.003, 0.01, 0.03), (0.01, 0.03, 0.1)
_DIGITS = {"inputs": 64, "outputs": 10}
_SYMBOLS = len(data.CHARACTERS)

_MADE = (
    Task(
        name="elu_14", family="mlp_elu", build=partial(mlp, nn.ELU, inputs=10, outputs=1, width=48, layers=14),
        load=data.friedman, loss=F.mse_loss, optimizer=sgd(), lrs=(0.03, 0.1, 0.3), steps=500, batch_size=64,
    ),
    Task(
        name="softsign_12", family="mlp_softsign", build=partial(mlp, nn.Softsign, width=48, layers=12, **_DIGITS),
        load=data.digits, optimizer=adam(), lrs=(0.0001, 0.0003, 0.001), steps=400, batch_size=64,
    ),
    Task(
        name="silu_pyramid", family="mlp_silu", build=pyramid, load=data.digits, optimizer=sgd(), lrs=_FAST, steps=500,
        batch_size=64,
    ),
    Task(
        name="residual_mlp", family="mlp_residual", build=partial(residual_mlp, 10, 48), load=data.digits,
        optimizer=sgd(), lrs=_FAST, steps=300, batch_size=64,
    ),
    Task(
        name="llama_tied", family="transformer_gated", build=partial(TiedLanguageModel, _SYMBOLS, 24, 32, 2),
        load=partial(data.source_text, 24), loss=token_cross_entropy, optimizer=adamw(), lrs=_SLOW, steps=200,
        batch_size=16, clip_norm=1.0,
    ),
    Task(
        name="encoder_dropout", family="transformer_torch", build=partial(SequenceEncoder, 32, 3), load=data.digit_rows,
        optimizer=adam(), lrs=(0.001, 0.003, 0.01), steps=200, batch_size=32,
    ),
    Task(
        name="cnn_tanh_pooled", family="cnn_tanh", build=pooled_tanh_cnn, load=data.digit_images, optimizer=sgd(),
        lrs=(0.03, 0.1, 0.3), steps=200, batch_size=32,
    ),
    Task(
        name="densenet_plain", family="cnn_dense", build=partial(DenselyConnected, 8, 8), load=data.digit_images,
        optimizer=sgd(), lrs=(0.03, 0.1, 0.3), steps=200, batch_size=32,
    ),
    Task(
        name="conv_autoencoder", family="cnn_autoencoder", build=conv_autoencoder, load=data.image_copies,
        loss=F.mse_loss, optimizer=adam(), lrs=_SLOW, steps=250, batch_size=32,
    ),
    Task(
        name="dilated_waves", family="cnn_1d", build=partial(DilatedConvolutions, 8, 16), load=data.waves,
        loss=F.mse_loss, optimizer=sgd(), lrs=_SLOW, steps=300, batch_size=32,
    ),
    Task(
        name="lstm_characters", family="lstm_stacked", build=partial(CharacterLSTM, _SYMBOLS, 32),
        load=partial(data.source_text, 24), loss=token_cross_entropy, optimizer=adam(), lrs=_FAST, steps=200,
        batch_size=32, clip_norm=1.0,
    ),
    Task(
        name="factorisation", family="embedding", build=partial(Factorisation, 200, 150, 8), load=data.ratings,
        loss=F.mse_loss, optimizer=adam(), lrs=(0.03, 0.1, 0.3), steps=500, batch_size=128,
    ),
    Task(
        name="deep_set", family="sets", build=partial(DeepSet, 32), load=data.point_sets, optimizer=sgd(), lrs=_FAST,
        steps=400, batch_size=64,
    ),
    Task(
        name="gru_both_ways", family="gru_bidirectional", build=partial(BothWays, 24), load=data.digit_rows,
        optimizer=adam(), lrs=_FAST, steps=250, batch_size=64, expected_null=True,
    ),
    Task(
        name="resnet_preactivation", family="cnn_preactivation", build=partial(preactivation_resnet, 3, 12),
        load=data.digit_images, optimizer=adamw(), lrs=_FAST, steps=150, batch_size=32,
        expected_null=True,
    ),
    Task(
        name="logistic", family="linear", build=partial(nn.Linear, 64, 10), load=data.digits, optimizer=sgd(),
        lrs=(0.1, 0.3, 1.0), steps=300, batch_size=64, expected_null=True,
    ),
)  # fmt: skip

TASKS = tuple(replace(task, unseen=True) for task in _MADE)
