"""What I train, for initadvisor: a classifier. Put your own model and data where the comments say so.

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
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def build_data() -> Any:
    """Your batches: a DataLoader, or a list of (inputs, labels). Some thousand examples are enough."""
    # Yours: return DataLoader(my_training_set, batch_size=64, shuffle=True)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (960,), generator=generator)
    centres = torch.randn(3, 20, generator=generator)
    inputs = centres[labels] + torch.randn(960, 20, generator=generator)
    return list(zip(torch.split(inputs, 64), torch.split(labels, 64), strict=True))


def target() -> dict[str, Any]:
    """All of the training that matters for its start. Every line but the first two may be left out."""
    return {
        "model": build_model(),
        "sample_batch": build_data(),
        # The loss is told from integer labels: cross-entropy. Of your own: a function (output, labels) -> scalar.
        # "loss": nn.CrossEntropyLoss(label_smoothing=0.1),
        "optimizer": torch.optim.AdamW,  # or functools.partial(torch.optim.SGD, momentum=0.9)
        # "lr": 1e-3,  # a number locks it; left out, it is searched together with the weights
        "steps": 1000,  # optimizer steps of your full training: epochs times batches
    }
