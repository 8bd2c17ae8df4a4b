"""A 16-layer plain ReLU CNN, no normalisation, no shortcuts, on scikit-learn's digits.

Ask:  initadvisor advise examples/digits_cnn.py
Prove: python examples/digits_cnn.py     (asks, then trains in full both ways and shows both curves)
"""

from __future__ import annotations

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONVOLUTIONS, CHANNELS, TEST_SIZE = 15, 16, 360


def digits() -> tuple[TensorDataset, tuple[torch.Tensor, torch.Tensor]]:
    """Standardised digits as 1×8×8 images: 1437 to train on, 360 kept apart."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(labels, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_SIZE], order[TEST_SIZE:]
    return TensorDataset(x[train], y[train]), (x[test], y[test])


def plain_cnn() -> nn.Sequential:
    """Fifteen 3×3 convolutions with ReLU between, halving the image once, and a linear classifier."""
    layers: list[nn.Module] = []
    for index in range(CONVOLUTIONS):
        stride = 2 if index == CONVOLUTIONS // 2 else 1
        layers += [nn.Conv2d(CHANNELS if index else 1, CHANNELS, 3, stride=stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))


def target() -> dict[str, object]:
    """The training as its owner wrote it, as arguments of `initadvisor.advise`."""
    torch.manual_seed(0)
    train, _ = digits()
    return {
        "model": plain_cnn(),
        "sample_batch": DataLoader(train, batch_size=64, shuffle=True, drop_last=True),
        "optimizer": partial(torch.optim.SGD, momentum=0.9),
        "lr": (0.01, 0.03, 0.1),
        "clip_norm": 1.0,
        "steps": 300,
    }


if __name__ == "__main__":
    from compare import prove

    prove(target(), digits()[1], "digits_cnn.png")
