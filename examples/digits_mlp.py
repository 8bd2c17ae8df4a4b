"""A 30-layer tanh MLP on scikit-learn's digits: as torch builds it, it does not train at all.

Ask:  initadvisor advise examples/digits_mlp.py
Prove: python examples/digits_mlp.py     (asks, then trains in full both ways and shows both curves)
"""

from __future__ import annotations

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LAYERS, WIDTH, TEST_SIZE = 30, 64, 360


def digits() -> tuple[TensorDataset, tuple[torch.Tensor, torch.Tensor]]:
    """Standardised 8×8 digits as rows of 64 pixels: 1437 to train on, 360 kept apart."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(labels, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_SIZE], order[TEST_SIZE:]
    return TensorDataset(x[train], y[train]), (x[test], y[test])


def deep_tanh_mlp() -> nn.Sequential:
    """`LAYERS` linear layers with tanh between, built the usual way."""
    layers: list[nn.Module] = []
    for _ in range(LAYERS - 1):
        layers += [nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def target() -> dict[str, object]:
    """The training as its owner wrote it, as arguments of `initadvisor.advise`."""
    torch.manual_seed(0)
    train, _ = digits()
    return {
        "model": deep_tanh_mlp(),
        "sample_batch": DataLoader(train, batch_size=64, shuffle=True, drop_last=True),
        "optimizer": partial(torch.optim.SGD, momentum=0.9),
        "lr": (0.003, 0.01, 0.03),
        "steps": 400,
    }


if __name__ == "__main__":
    from compare import prove

    prove(target(), digits()[1], "digits_mlp.png")
