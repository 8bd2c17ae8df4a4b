"""Stacks of linear layers: deep ones that hardly train as torch builds them, and shallow ones that need no advice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from benchmarks.regret import data
from benchmarks.regret.task import Task, adam, sgd


def mlp(
    activation: Callable[[], nn.Module],
    *,
    inputs: int,
    outputs: int,
    width: int,
    layers: int,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """``layers`` linear layers of one width with a nonlinearity between, and a norm before it where asked."""
    sizes = [inputs, *[width] * (layers - 1)]
    parts: list[nn.Module] = []
    for fan_in in sizes[: layers - 1]:
        parts.append(nn.Linear(fan_in, width))
        if norm is not None:
            parts.append(norm(width))
        parts.append(activation())
    return nn.Sequential(*parts, nn.Linear(sizes[-1], outputs))


def tanh_autoencoder() -> nn.Sequential:
    """64 → 8 → 64 pixels through five tanh layers a side."""
    sizes = (64, 48, 40, 32, 16, 8, 16, 32, 40, 48, 64)
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        parts += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


_DIGITS = {"inputs": 64, "outputs": 10}

TASKS = (
    Task(
        name="tanh_24",
        family="mlp_tanh",
        build=partial(mlp, nn.Tanh, width=48, layers=24, **_DIGITS),
        load=data.digits,
        optimizer=sgd(),
        lrs=(0.003, 0.01, 0.03),
        steps=400,
        batch_size=64,
    ),
    Task(
        name="tanh_10_adam",
        family="mlp_tanh",
        build=partial(mlp, nn.Tanh, inputs=10, outputs=1, width=64, layers=10),
        load=data.friedman,
        loss=F.mse_loss,
        optimizer=adam(),
        lrs=(0.001, 0.003, 0.01),
        steps=500,
        batch_size=64,
    ),
    Task(
        name="sigmoid_6",
        family="mlp_sigmoid",
        build=partial(mlp, nn.Sigmoid, width=64, layers=6, **_DIGITS),
        load=data.digits,
        optimizer=sgd(),
        lrs=(0.03, 0.1, 0.3),
        steps=900,
        batch_size=64,
    ),
    Task(
        name="relu_20",
        family="mlp_relu",
        build=partial(mlp, nn.ReLU, width=64, layers=20, **_DIGITS),
        load=data.digits,
        optimizer=sgd(),
        lrs=(0.003, 0.01, 0.03),
        steps=400,
        batch_size=64,
    ),
    Task(
        name="relu_8_adam",
        family="mlp_relu",
        build=partial(mlp, nn.ReLU, width=64, layers=8, **_DIGITS),
        load=data.digits,
        optimizer=adam(),
        lrs=(0.001, 0.003, 0.01),
        steps=400,
        batch_size=64,
    ),
    Task(
        name="selu_16",
        family="mlp_selu",
        build=partial(mlp, nn.SELU, width=64, layers=16, **_DIGITS),
        load=data.digits,
        optimizer=sgd(),
        lrs=(0.003, 0.01, 0.03),
        steps=400,
        batch_size=64,
    ),
    Task(
        name="gelu_16",
        family="mlp_gelu",
        build=partial(mlp, nn.GELU, width=64, layers=16, **_DIGITS),
        load=data.digits,
        optimizer=sgd(),
        lrs=(0.003, 0.01, 0.03),
        steps=400,
        batch_size=64,
    ),
    Task(
        name="layernorm_mlp",
        family="mlp_gelu",
        build=partial(mlp, nn.GELU, width=64, layers=5, norm=nn.LayerNorm, **_DIGITS),
        load=data.digits,
        optimizer=adam(),
        lrs=(0.0003, 0.001, 0.003),
        steps=300,
        batch_size=64,
        expected_null=True,
    ),
    Task(
        name="autoencoder",
        family="autoencoder",
        build=tanh_autoencoder,
        load=data.digit_copies,
        loss=F.mse_loss,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=600,
        batch_size=64,
    ),
    Task(
        name="cancer_shallow",
        family="tabular",
        build=partial(mlp, nn.ReLU, inputs=30, outputs=2, width=32, layers=2),
        load=data.breast_cancer,
        optimizer=adam(),
        lrs=(0.001, 0.003, 0.01),
        steps=400,
        batch_size=32,
        expected_null=True,
    ),
    Task(
        name="friedman_relu_6",
        family="tabular",
        build=partial(mlp, nn.ReLU, inputs=10, outputs=1, width=64, layers=6),
        load=data.friedman,
        loss=F.mse_loss,
        optimizer=sgd(),
        lrs=(0.03, 0.1, 0.3),
        steps=800,
        batch_size=64,
    ),
    Task(
        name="diabetes_linear",
        family="tabular",
        build=partial(mlp, nn.ReLU, inputs=10, outputs=1, width=16, layers=2),
        load=data.diabetes,
        loss=F.mse_loss,
        optimizer=adam(),
        lrs=(0.001, 0.003, 0.01),
        steps=400,
        batch_size=50,
        expected_null=True,
    ),
    Task(
        name="wine_batchnorm",
        family="tabular",
        build=partial(mlp, nn.ReLU, inputs=13, outputs=3, width=32, layers=3, norm=nn.BatchNorm1d),
        load=data.wine,
        optimizer=adam(),
        lrs=(0.001, 0.003, 0.01),
        steps=300,
        batch_size=25,
        expected_null=True,
    ),
    Task(
        name="rare_class",
        family="tabular",
        build=partial(mlp, nn.ReLU, inputs=20, outputs=2, width=48, layers=4),
        load=data.rare_class,
        optimizer=sgd(),
        lrs=(0.01, 0.03, 0.1),
        steps=800,
        batch_size=64,
    ),
)
