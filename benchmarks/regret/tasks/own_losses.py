"""Tasks whose loss calls the model itself: noised or paired batches, methods instead of a forward, derivatives.

Made after the advisor, when it learnt to read a model as its loss calls it; like those of ``unseen.py`` they are of
other families than the suite, and nothing was chosen by their results.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.regret import data
from benchmarks.regret.task import Task, Tensors, adam
from benchmarks.regret.tasks.dense import mlp


class FlowMLP(nn.Module):
    """A velocity in the plane, by place and time."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.place, self.time = nn.Linear(2, width), nn.Linear(1, width)
        self.body = nn.Sequential(*(part for _ in range(layers) for part in (nn.SiLU(), nn.Linear(width, width))))
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.head(F.silu(self.body(self.place(x) + self.time(time[:, None]))))


def flow_matching(model: nn.Module, batch: Tensors) -> torch.Tensor:
    """Velocity of the straight way from noise to data (Lipman et al. 2023); the ring's noise is eight numbers, of which
    the first two serve."""
    noise, points = batch[0][:, :2], batch[1]
    time = torch.rand(len(points))
    between = (1 - time[:, None]) * noise + time[:, None] * points
    return F.mse_loss(model(between, time), points - noise)


class TimedBlock(nn.Module):
    """Two convolutions after group norms beside a skip; the time is added between them."""

    def __init__(self, read: int, write: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, read), nn.GroupNorm(4, write)
        self.conv1, self.conv2 = nn.Conv2d(read, write, 3, padding=1), nn.Conv2d(write, write, 3, padding=1)
        self.time = nn.Linear(time, write)
        self.skip = nn.Conv2d(read, write, 1) if read != write else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SmallUNet(nn.Module):
    """One level down and up again, with a skip across (Ho et al. 2020, made small)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        self.stem, self.first = nn.Conv2d(1, channels, 3, padding=1), TimedBlock(channels, channels, 32)
        self.down, self.middle = nn.Conv2d(channels, 16, 3, 2, 1), TimedBlock(16, 16, 32)
        self.up, self.last = nn.ConvTranspose2d(16, channels, 4, 2, 1), TimedBlock(2 * channels, channels, 32)
        self.norm, self.head = nn.GroupNorm(4, channels), nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        angles = time[:, None] * math.pi * 2.0 ** torch.arange(4)
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        wide = self.first(self.stem(x), t)
        h = self.up(self.middle(self.down(wide), t))
        return self.head(F.silu(self.norm(self.last(torch.cat([h, wide], 1), t))))


def denoising(model: nn.Module, batch: Tensors) -> torch.Tensor:
    """The noise in a picture, by a cosine schedule (Nichol and Dhariwal 2021)."""
    time, noise = torch.rand(len(batch[0])), torch.randn_like(batch[0])
    signal = (time * math.pi / 2).cos()[:, None, None, None]
    return F.mse_loss(model(signal * batch[0] + (1 - signal**2).sqrt() * noise, time), noise)


class VariationalAutoencoder(nn.Module):
    """Encoder with two heads and a decoder; there is no forward that calls them all."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(mlp(nn.ReLU, inputs=64, outputs=width, width=width, layers=4), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(width, latent), nn.Linear(width, latent)
        self.decoder = mlp(nn.ReLU, inputs=latent, outputs=64, width=width, layers=5)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(x)
        return self.mean(h), self.log_variance(h)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(z)


def evidence_bound(model: VariationalAutoencoder, batch: Tensors) -> torch.Tensor:
    """Squared error and divergence from the prior, per pixel (Kingma and Welling 2014)."""
    mean, log_variance = model.encode(batch[0])
    out = model.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp())
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
    return F.mse_loss(out, batch[0]) + 0.1 * divergence / batch[0].shape[1]


def contrast(model: nn.Module, batch: Tensors) -> torch.Tensor:
    """Which of all others is the same digit under other noise (NT-Xent, Chen et al. 2020)."""
    x = batch[0]
    views = torch.cat([x + 0.5 * torch.randn_like(x), x + 0.5 * torch.randn_like(x)])
    z = F.normalize(model(views), dim=1)
    others = (z @ z.T / 0.2).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    return F.cross_entropy(others, torch.arange(len(z)).roll(len(x)))


def poisson(model: nn.Module, batch: Tensors) -> torch.Tensor:
    """u'' = -16 sin 4x between zeros at the ends of [-π, π] (Raissi et al. 2019); also scored without gradients."""
    with torch.enable_grad():
        x = batch[0].detach().requires_grad_(True)
        u = model(x / math.pi)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
        ends = model(torch.tensor([[-1.0], [1.0]]))
        return ((bend + 16 * torch.sin(4 * x)) ** 2).mean() / 64 + (ends**2).mean()


_MADE = (
    Task(
        name="flow_ring", family="diffusion_mlp", build=partial(FlowMLP, 48, 8), load=data.ring, loss=flow_matching,
        optimizer=adam(), lrs=(0.001, 0.003, 0.01), steps=500, batch_size=128,
    ),
    Task(
        name="unet_digits", family="diffusion_unet", build=partial(SmallUNet, 8), load=data.digit_images,
        loss=denoising, optimizer=adam(), lrs=(0.001, 0.003, 0.01), steps=150, batch_size=32,
    ),
    Task(
        name="vae_digits", family="vae", build=partial(VariationalAutoencoder, 48, 6), load=data.digits,
        loss=evidence_bound, optimizer=adam(), lrs=(0.001, 0.003, 0.01), steps=400, batch_size=64,
    ),
    Task(
        name="contrastive_digits", family="contrastive", build=partial(mlp, nn.ReLU, inputs=64, outputs=16, width=48,
        layers=8), load=data.digits, loss=contrast, optimizer=adam(), lrs=(0.0003, 0.001, 0.003), steps=300,
        batch_size=64,
    ),
    Task(
        name="pinn_poisson", family="pinn", build=partial(mlp, nn.Tanh, inputs=1, outputs=1, width=32, layers=5),
        load=data.interval, loss=poisson, optimizer=adam(), lrs=(0.001, 0.003, 0.01), steps=400, batch_size=64,
    ),
)  # fmt: skip

TASKS = tuple(replace(task, unseen=True, on_model=True) for task in _MADE)
