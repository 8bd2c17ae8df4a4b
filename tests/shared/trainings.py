"""Trainings of every kind that is stacked, and their members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fakes import blobs, current, tanh_mlp, xavier
from torch import nn

from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.task import TrainingTask, make_task

SCHEMES = {s.name: s for s in (current(), xavier("a"), xavier("b", 1.4))}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Linear(2, 8), nn.LayerNorm(8)
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x.view(-1, 2, 2))
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(self.norm(h)).chunk(3, -1))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(h.mean(1))


def conv() -> nn.Module:
    torch.manual_seed(0)
    body = (nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU())
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *body, nn.Flatten(), nn.Linear(24, 3))


class Tied(nn.Module):
    """One weight used twice, one frozen, one that is never used, a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.frozen, self.unused = nn.Linear(4, 4).requires_grad_(False), nn.Linear(3, 3)
        self.bare = nn.Parameter(torch.randn(4, 3) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(self.b(torch.tanh(self.a(x)))) @ self.bare


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(2, 5, **settings)
        self.head = nn.Linear(5 * (2 if self.rnn.bidirectional else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = x.view(-1, 2, 2) if self.rnn.batch_first else x.view(-1, 2, 2).transpose(0, 1)
        out, last = self.rnn(steps)
        ends = last[0][-1] * last[1][-1] if isinstance(last, tuple) else last[-1]
        return self.head(out[:, -1] if self.rnn.batch_first else out[-1]) + ends.mean(-1, keepdim=True)


class Causal(nn.Module):
    """Attention under a causal mask, over a short or a long sequence; norms without bias; a scalar parameter."""

    def __init__(self, length: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spread, self.qkv, self.head = nn.Linear(4, length * 4), nn.Linear(4, 12, bias=False), nn.Linear(4, 3)
        self.norm, self.gain = nn.LayerNorm(4, bias=False), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.spread(x).unflatten(-1, (-1, 4)))
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in self.qkv(h).chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.9)
        return self.head((h + self.gain * out.transpose(1, 2).flatten(2)).mean(1))


class Counting(nn.Module):
    """Replaces its buffer at every pass, and reads it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.fc(x)
        if self.training:
            self.seen = 0.9 * self.seen + out.detach().mean(0)
        return out + self.seen


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: tanh_mlp(depth=4),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 3)),
    "conv": conv,
    "attention": Attention,
    "tied": Tied,
    "lstm": Recurrent,
    "lstm, two layers and ways": partial(Recurrent, num_layers=2, bidirectional=True, batch_first=True),
    "gru": partial(Recurrent, nn.GRU, num_layers=2, bias=False),
    "rnn": partial(Recurrent, nn.RNN, batch_first=True),
    "rnn, relu": partial(Recurrent, nn.RNN, nonlinearity="relu"),
    "causal, short": partial(Causal, 6),
    "causal, long": partial(Causal, 40),
    "batch norm": normed,
    "buffer replaced": Counting,
    "embedding": lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 3)),
}

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, weight_decay=0.1, amsgrad=True),
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.5, centered=True),
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adadelta": torch.optim.Adadelta,
    "by shape": lambda params: torch.optim.AdamW(
        [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.5},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0, "lr": 0.02},
        ],
        lr=0.01,
    ),
}


def task_of(model: nn.Module, **settings: Any) -> TrainingTask:
    given = {"optimizer": torch.optim.SGD, "lr": (0.01, 0.05, 0.1), "steps": 60, **settings}
    return make_task(model, given.pop("data", blobs()), **given)


def members(task: TrainingTask, seeds: Sequence[int] = (3,)) -> list[MemberState]:
    return [MemberState(MemberKey("rung", n, s, lr)) for s in seeds for n in SCHEMES for lr in task.rates]


def assert_same(looped: Sequence[MemberState], stacked: Sequence[MemberState], rtol: float = 2e-3) -> None:
    """Float32 sums in another order differ by 1e-6 at first and the training multiplies that."""
    by_key = {s.key: s for s in stacked}
    assert len(by_key) == len(looped)
    for a in looped:
        b = by_key[a.key]
        assert (a.status, a.steps) == (b.status, b.steps)
        np.testing.assert_allclose(a.train, b.train, rtol=rtol, atol=1e-5)
        assert [step for step, _ in a.heldout] == [step for step, _ in b.heldout]
        np.testing.assert_allclose([v for _, v in a.heldout], [v for _, v in b.heldout], rtol=rtol, atol=1e-5)
