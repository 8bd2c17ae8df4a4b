"""What I train, for initadvisor: a regression. Put your own model and data where the comments say so.

initadvisor check FILE      what is wrong with the weights as they are
initadvisor advise FILE     what to use instead, tried in short trainings
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def build_model() -> nn.Module:
    """Your network, built as your training script builds it."""
    # Yours: from my_project.model import MyNet; return MyNet()
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


def build_data() -> Any:
    """Your batches: a DataLoader, or a list of (inputs, values). Values have the shape of the network's output."""
    # Yours: return DataLoader(my_training_set, batch_size=64, shuffle=True)
    inputs = torch.randn(960, 8, generator=torch.Generator().manual_seed(0))
    values = torch.sin(inputs.sum(1, keepdim=True)) + inputs[:, :1] * inputs[:, 1:2]
    return list(zip(torch.split(inputs, 64), torch.split(values, 64), strict=True))


def target() -> dict[str, Any]:
    """All of the training that matters for its start. Every line but the first two may be left out."""
    return {
        "model": build_model(),
        "sample_batch": build_data(),
        # The loss is told from values of the output's shape: mean squared error. Or: (output, values) -> scalar.
        # "loss": nn.SmoothL1Loss(),
        "optimizer": torch.optim.Adam,  # or functools.partial(torch.optim.SGD, momentum=0.9)
        # "lr": 1e-3,  # a number locks it; left out, it is searched together with the weights
        "steps": 1000,  # optimizer steps of your full training: epochs times batches
    }
