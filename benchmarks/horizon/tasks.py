"""The long tasks, of every family the advice is for, half of them with a rate that warms up or decays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.horizon import data
from benchmarks.horizon.task import STEPS, WARMUP, LongTask, Schedule
from benchmarks.regret.data import CHARACTERS
from benchmarks.regret.task import Tensors, adam, adamw, sgd, token_cross_entropy
from benchmarks.regret.tasks.attention import TokenModel, VisionTransformer
from benchmarks.regret.tasks.convolutional import plain_cnn, residual_cnn
from benchmarks.regret.tasks.dense import mlp, tanh_autoencoder
from benchmarks.regret.tasks.other import AdversarialPair, GraphNet, Sine, adversarial_loss, transfer
from benchmarks.regret.tasks.own_losses import poisson
from benchmarks.regret.tasks.recurrent import Reader
from benchmarks.regret.tasks.unseen import residual_mlp

COSINE = Schedule("cosine")
WARM_COSINE = Schedule("cosine", WARMUP)
WARM_LINEAR = Schedule("linear", WARMUP)
ONE_CYCLE = Schedule("one_cycle")

IMAGE = (1, 8, 8)
PIECES = (16, 4)
UPPER = (5, 6, 7, 8, 9)


class CharacterGRU(nn.Module):
    """Token table, a GRU layer, a head over every step."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(CHARACTERS), width)
        self.cells = nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(CHARACTERS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(self.tokens(ids))[0])


class VariationalAutoencoder(nn.Module):
    """Encoder with two heads and a decoder; the noise of the code comes with the batch."""

    def __init__(self, width: int, latent: int, layers: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(mlp(nn.ReLU, inputs=64, outputs=width, width=width, layers=layers), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(width, latent), nn.Linear(width, latent)
        self.decoder = mlp(nn.ReLU, inputs=latent, outputs=64, width=width, layers=layers)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


def evidence_bound(model: Callable[..., Any], batch: Tensors) -> torch.Tensor:
    """Squared error and a tenth of the divergence from the prior, per pixel (Kingma and Welling 2014)."""
    x, noise, target = batch
    out, mean, log_variance = model(x, noise)
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
    return F.mse_loss(out, target) + 0.1 * divergence / x.shape[1]


def _streams(draw: Callable[..., Tensors], held: int, /, *, sides: bool = False, **options: Any) -> dict[str, Any]:
    """Training stream and held-out rows of one source; ``sides``: held-out rows are of another part."""
    apart = {"heldout": True} if sides else {}
    return {
        "draw": partial(draw, **options),
        "load_heldout": partial(data.fixed, partial(draw, **{**options, "rows": held}, **apart)),
    }


_DIGITS = {"inputs": 64, "outputs": 10}
_LANGUAGE = {"symbols": len(CHARACTERS), "length": 24, "width": 32, "layers": 2, "causal": True}
_digits = partial(_streams, data.digits, 500, sides=True)
_text = partial(_streams, data.text, 80, sides=True, rows=12)

_ALL = (
    LongTask("tanh_16", "mlp_tanh", partial(mlp, nn.Tanh, width=48, layers=16, **_DIGITS), **_digits(),
             optimizer=sgd(), lrs=(0.003, 0.01, 0.03)),
    LongTask("lm_prenorm", "transformer_prenorm", partial(TokenModel, post_norm=False, **_LANGUAGE),
             **_text(context=24), loss=token_cross_entropy, optimizer=adamw(), lrs=(0.001, 0.003, 0.01),
             schedule=WARM_COSINE, clip_norm=1.0),
    LongTask("plain_cnn", "cnn_plain", partial(plain_cnn, layers=8, channels=12), **_digits(rows=32, shape=IMAGE),
             optimizer=sgd(), lrs=(0.01, 0.03, 0.1), schedule=ONE_CYCLE),
    LongTask("lstm_adding", "lstm", partial(Reader, nn.LSTM, 2, 32, 1, every_step=False),
             **_streams(data.adding, 500), loss=F.mse_loss, optimizer=adam(), lrs=(0.001, 0.003, 0.01), clip_norm=1.0,
             stacked=False),
    LongTask("vit_digits", "vit", partial(VisionTransformer, width=24, layers=3), **_digits(rows=16, shape=IMAGE),
             optimizer=adamw(), lrs=(0.001, 0.003, 0.01), schedule=WARM_COSINE),
    LongTask("relu_12", "mlp_relu", partial(mlp, nn.ReLU, width=64, layers=12, **_DIGITS), **_digits(),
             optimizer=adam(), lrs=(0.0003, 0.001, 0.003), schedule=COSINE),
    LongTask("siren_photo", "siren", partial(mlp, Sine, inputs=2, outputs=1, width=48, layers=4),
             **_streams(data.field, 1000), loss=F.mse_loss, optimizer=adam(), lrs=(0.0003, 0.001, 0.003)),
    LongTask("resnet_batchnorm", "cnn_residual",
             partial(residual_cnn, blocks=3, channels=12, norm=nn.BatchNorm2d), **_digits(rows=32, shape=IMAGE),
             optimizer=sgd(), lrs=(0.01, 0.03, 0.1), schedule=WARM_COSINE, stacked=False),
    LongTask("gelu_16", "mlp_gelu", partial(mlp, nn.GELU, width=64, layers=16, **_DIGITS), **_digits(),
             optimizer=adamw(), lrs=(0.0003, 0.001, 0.003), schedule=WARM_COSINE),
    LongTask("lm_postnorm", "transformer_postnorm", partial(TokenModel, post_norm=True, **_LANGUAGE),
             **_text(context=24), loss=token_cross_entropy, optimizer=adamw(), lrs=(0.001, 0.003, 0.01),
             schedule=WARM_LINEAR, clip_norm=1.0),
    LongTask("autoencoder_patches", "autoencoder", tanh_autoencoder, **_streams(data.patches, 500, sides=True),
             loss=F.mse_loss, optimizer=adam(), lrs=(0.001, 0.003, 0.01)),
    LongTask("gnn_deep", "gnn", partial(GraphNet, 6, 32, None), **_streams(data.graphs, 500), optimizer=sgd(),
             lrs=(0.01, 0.03, 0.1), schedule=COSINE),
    LongTask("gan_ring", "gan", partial(AdversarialPair, 4, 32), **_streams(data.ring, 500), loss=adversarial_loss,
             on_model=True, optimizer=adam(), lrs=(0.0003, 0.001, 0.003)),
    LongTask("rnn_pixels", "rnn", partial(Reader, nn.RNN, 4, 40, 10, every_step=False),
             **_digits(rows=32, shape=PIECES), optimizer=adam(), lrs=(0.0003, 0.001, 0.003),
             clip_norm=1.0, stacked=False),
    LongTask("transfer_deep_head", "transfer",
             partial(transfer, partial(mlp, nn.Tanh, inputs=32, outputs=5, width=32, layers=8)),
             **_digits(classes=UPPER), optimizer=sgd(), lrs=(0.01, 0.03, 0.1)),
    LongTask("vae_patches", "vae", partial(VariationalAutoencoder, 48, 8, 5),
             **_streams(data.noised_patches, 500, sides=True), loss=evidence_bound, on_model=True,
             optimizer=adam(), lrs=(0.0003, 0.001, 0.003), schedule=ONE_CYCLE),
    LongTask("gru_text", "gru", partial(CharacterGRU, 24, 40), **_text(context=14), loss=token_cross_entropy,
             optimizer=adamw(), lrs=(0.001, 0.003, 0.01), schedule=COSINE, clip_norm=1.0, stacked=False),
    LongTask("pinn_poisson", "pinn", partial(mlp, nn.Tanh, inputs=1, outputs=1, width=32, layers=5),
             **_streams(data.interval, 400), loss=poisson, on_model=True, optimizer=adam(),
             lrs=(0.0003, 0.001, 0.003), schedule=COSINE, stacked=False),
    LongTask("residual_mlp", "mlp_residual", partial(residual_mlp, 8, 48), **_digits(), optimizer=sgd(),
             lrs=(0.003, 0.01, 0.03)),
)  # fmt: skip

TASKS: dict[str, LongTask] = {task.name: task for task in _ALL}
"""All long tasks by name, in the order they are trained in."""

if len(TASKS) < len(_ALL) or any(task.steps != STEPS for task in _ALL):
    raise ValueError("every long task has a name of its own and the same length")
