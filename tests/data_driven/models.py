"""Small models that the data-driven steps are tried on, with a batch each."""

from __future__ import annotations

import torch
from torch import nn

from initadvisor.schemes.slots import slots_of
from initadvisor.training.data import Batch


def mlp(depth: int = 6, width: int = 96, act: type[nn.Module] = nn.ReLU, outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(depth)
    layers: list[nn.Module] = [nn.Linear(16, width), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def cnn(depth: int = 6) -> nn.Sequential:
    torch.manual_seed(depth)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


class Residual(nn.Module):
    """Pre-norm branches, dropout and BatchNorm: everything a step must leave as it was."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(16, 32)
        self.norm = nn.BatchNorm1d(32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        h = self.stem(x)
        return self.head(h + self.drop(self.down(torch.relu(self.up(self.norm(h))))))


def vectors(count: int = 256, features: int = 16, classes: int = 4, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=g)
    return Batch((x,), {}, torch.randint(classes, (count,), generator=g))


def images(count: int = 64, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch((torch.randn(count, 3, 12, 12, generator=g),), {}, torch.randint(4, (count,), generator=g))


def weights(model: nn.Module) -> set[str]:
    return {path for path, slot in slots_of(model).items() if slot.param.ndim > 1}


def everything(model: nn.Module) -> set[str]:
    return set(slots_of(model))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


__all__ = ["Residual", "cnn", "everything", "images", "mlp", "state", "vectors", "weights"]
