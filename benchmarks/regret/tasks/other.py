"""Sinusoidal networks, graph networks, transfer heads and a pair of adversaries."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.regret import data
from benchmarks.regret.task import Task, Tensors, adam, sgd
from benchmarks.regret.tasks.dense import mlp

OMEGA = 30.0
PRETRAINING_STEPS = 300


class Sine(nn.Module):
    """sin(ω·x) with ω = 30, as in SIREN (Sitzmann et al. 2020)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(OMEGA * x)


class GraphNet(nn.Module):
    """Graph convolutions (Kipf and Welling 2017) over dense adjacencies, the mean of all nodes, a linear head."""

    def __init__(self, layers: int, width: int, norm: Callable[[int], nn.Module] | None) -> None:
        super().__init__()
        sizes = [8, *[width] * layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(norm(width) if norm else nn.Identity() for _ in range(layers))
        self.head = nn.Linear(width, 3)

    def forward(self, features: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        x = features
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(adjacency @ x)))
        return self.head(x.mean(1))


class TransferModel(nn.Module):
    """A frozen trunk trained on other classes, and a fresh head."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))


@cache
def _pretrained_trunk() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        whole = nn.Sequential(trunk, nn.Linear(32, 5))
        optimizer = torch.optim.Adam(whole.parameters(), lr=0.003)
        x, y = data.digit_halves(low=True).train
        with torch.enable_grad():
            for _ in range(PRETRAINING_STEPS):
                rows = torch.randint(len(x), (64,))
                optimizer.zero_grad()
                F.cross_entropy(whole(x[rows]), y[rows]).backward()
                optimizer.step()
    return trunk


def transfer(head: Callable[[], nn.Module]) -> TransferModel:
    """A copy of the same pretrained trunk each time; only the head is drawn."""
    return TransferModel(copy.deepcopy(_pretrained_trunk()), head())


class AdversarialPair(nn.Module):
    """Generator and discriminator trained by one optimizer.

    The generator's gradient is reversed at its output, so that one descent on the discriminator's loss plays both
    sides of the game (Ganin and Lempitsky 2015's layer, used between the adversaries).
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.generator = mlp(nn.Tanh, inputs=8, outputs=2, width=width, layers=depth)
        self.discriminator = mlp(partial(nn.LeakyReLU, 0.2), inputs=2, outputs=1, width=width, layers=depth)

    def forward(self, noise: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = self.generator(noise)
        reversed_made = 2 * made.detach() - made
        return made, self.discriminator(reversed_made), self.discriminator(points)


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Twice the mean distance between two samples less those within each (Székely and Rizzo 2013)."""
    return 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()


def adversarial_loss(model: nn.Module, batch: Tensors) -> torch.Tensor:
    """The game's loss while training; while evaluating, how far the made points are from the true ones."""
    noise, points = batch
    made, judged_made, judged_true = model(noise, points)
    if not model.training:
        return energy_distance(made, points)
    return F.softplus(judged_made).mean() + F.softplus(-judged_true).mean()


TASKS = (
    Task(
        name="siren",
        family="siren",
        build=partial(mlp, Sine, inputs=2, outputs=1, width=48, layers=4),
        load=data.picture,
        loss=F.mse_loss,
        optimizer=adam(),
        lrs=(0.0003, 0.001, 0.003),
        steps=600,
        batch_size=256,
    ),
    Task(
        name="gnn_deep",
        family="gnn",
        build=partial(GraphNet, 6, 32, None),
        load=data.random_graphs,
        optimizer=sgd(),
        lrs=(0.01, 0.03, 0.1),
        steps=400,
        batch_size=32,
    ),
    Task(
        name="gnn_layernorm",
        family="gnn",
        build=partial(GraphNet, 2, 24, nn.LayerNorm),
        load=data.random_graphs,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=250,
        batch_size=32,
        expected_null=True,
    ),
    Task(
        name="transfer_linear",
        family="transfer",
        build=partial(transfer, partial(nn.Linear, 32, 5)),
        load=partial(data.digit_halves, low=False),
        optimizer=adam(),
        lrs=(0.01, 0.03, 0.1),
        steps=400,
        batch_size=64,
        expected_null=True,
    ),
    Task(
        name="transfer_deep_head",
        family="transfer",
        build=partial(transfer, partial(mlp, nn.Tanh, inputs=32, outputs=5, width=32, layers=8)),
        load=partial(data.digit_halves, low=False),
        optimizer=sgd(),
        lrs=(0.01, 0.03, 0.1),
        steps=400,
        batch_size=64,
    ),
    Task(
        name="gan_ring",
        family="gan",
        build=partial(AdversarialPair, 4, 32),
        load=data.ring,
        loss=adversarial_loss,
        on_model=True,
        optimizer=sgd(0.5),
        lrs=(0.01, 0.03, 0.1),
        steps=600,
        batch_size=64,
    ),
)
