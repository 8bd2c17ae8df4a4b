"""Recurrent networks: vanilla over pixels, LSTM and GRU on the adding problem, and a GRU that needs no advice."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.regret import data
from benchmarks.regret.task import Task, adam


class Reader(nn.Module):
    """A recurrent layer and a linear head, over the last state or over every step."""

    def __init__(self, cell: type[nn.RNNBase], inputs: int, hidden: int, outputs: int, *, every_step: bool) -> None:
        super().__init__()
        self.cell = cell(inputs, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)
        self.every_step = every_step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.cell(x)
        return self.head(states if self.every_step else states[:, -1])


TASKS = (
    Task(
        name="rnn_pixels",
        family="rnn",
        build=partial(Reader, nn.RNN, 2, 48, 10, every_step=False),
        load=data.digit_pixels,
        optimizer=adam(),
        lrs=(0.001, 0.003, 0.01),
        steps=250,
        batch_size=64,
        clip_norm=1.0,
    ),
    Task(
        name="lstm_adding",
        family="lstm",
        build=partial(Reader, nn.LSTM, 2, 32, 1, every_step=False),
        load=data.adding,
        loss=F.mse_loss,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=500,
        batch_size=32,
        clip_norm=1.0,
    ),
    Task(
        name="gru_adding",
        family="gru",
        build=partial(Reader, nn.GRU, 2, 32, 1, every_step=False),
        load=data.adding,
        loss=F.mse_loss,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=200,
        batch_size=32,
        clip_norm=1.0,
    ),
    Task(
        name="gru_waves",
        family="gru",
        build=partial(Reader, nn.GRU, 1, 24, 1, every_step=True),
        load=data.waves,
        loss=F.mse_loss,
        optimizer=adam(),
        lrs=(0.01, 0.03, 0.1),
        steps=200,
        batch_size=32,
        clip_norm=1.0,
        expected_null=True,
    ),
    Task(
        name="lstm_rows",
        family="lstm",
        build=partial(Reader, nn.LSTM, 8, 32, 10, every_step=False),
        load=data.digit_rows,
        optimizer=adam(),
        lrs=(0.003, 0.01, 0.03),
        steps=300,
        batch_size=64,
        expected_null=True,
    ),
)
