"""The effect each step is known for, on a net that trains only after it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from models import everything, mlp, vectors
from torch import nn

from initadvisor.schemes.data_driven.registry import calibrate
from initadvisor.schemes.values import Calibration
from initadvisor.training.data import Batch

CHANCE = math.log(4)
RATES = (0.01, 0.03)
STEPS, LAST = 200, 20


def task(count: int, seed: int) -> Batch:
    x = vectors(count, seed=seed).args[0]
    return Batch((x,), {}, x[:, :4].argmax(1))


def trained_loss(built: nn.Module) -> float:
    """Mean training loss of the last steps at the better rate. Held-out loss would speak of 512 samples instead."""
    return min(_trained(copy.deepcopy(built), rate) for rate in RATES)


def _trained(model: nn.Module, rate: float) -> float:
    data, g = task(512, 1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        rows = torch.randint(512, (64,), generator=g)
        loss = F.cross_entropy(model(data.args[0][rows]), data.target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[-LAST:]) / LAST


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.SiLU])
def test_a_deep_plain_net_that_does_not_train_as_built_trains_after(act):
    built = mlp(16, width=48, act=act)
    assert trained_loss(built) > 0.95 * CHANCE
    # MetaInit stops short of unit variance, where its quotient grows: the net comes to life, but trains slower.
    for method, samples, share in (("lsuv", 256, 0.4), ("analytic", 256, 0.4), ("metainit", 64, 0.75)):
        model = copy.deepcopy(built)
        notes = calibrate(Calibration(method), model, paths=everything(model), batch=task(samples, 0))
        assert trained_loss(model) < share * CHANCE, notes
