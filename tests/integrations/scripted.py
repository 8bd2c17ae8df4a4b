"""Trainings as scripts write them, as functions, and an agent that follows one inside the test's own process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.integrations.scripts.agent import Agent
from initadvisor.integrations.scripts.messages import Job, Task, TrainingSeen

Training = Callable[[int], list[float]]
"""Steps to the losses it has seen."""


class InProcess(Agent):
    """Answers nobody; keeps what it would have told."""

    def __init__(self, job: Job, answers: list[Any] | None = None) -> None:
        super().__init__(job, Path())
        self.told: list[Any] = []
        self.answers = answers

    def claim(self) -> bool:
        return True

    def ask(self, message: Any) -> Any:
        self.told.append(message)
        return self.answers.pop(0) if self.answers else None


def watched(train: Training, steps: int = 6, **job: Any) -> tuple[list[float], TrainingSeen]:
    agent = InProcess(Job(Task.WATCH, **job))
    agent.start()
    try:
        losses = train(steps)
    finally:
        agent.release()
    return losses, agent.told[0]


def data(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def mlp(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), *more, nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def plain(steps: int) -> list[float]:
    torch.manual_seed(1)
    (x, y), model = data(), mlp()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def noisy(steps: int) -> list[float]:
    """Buffers, dropout, shuffling, a schedule and accumulation."""
    torch.manual_seed(2)
    (x, y), model = data(), mlp(nn.BatchNorm1d(16), nn.Dropout(0.3))
    opt = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: min(1.0, (step + 1) / 4))
    losses = []
    for _ in range(steps):
        for _ in range(2):
            rows = torch.randperm(len(x))[:32]
            loss = F.cross_entropy(model(x[rows]), y[rows]) / 2
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses


def closure(steps: int) -> list[float]:
    torch.manual_seed(3)
    (x, _), model = data(), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    target = x.sum(dim=1, keepdim=True).sin()
    opt = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def evaluate() -> torch.Tensor:
        opt.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        return loss

    return [opt.step(evaluate).item() for _ in range(steps)]


def gan(steps: int) -> list[float]:
    torch.manual_seed(4)
    real, _ = data()
    netG = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))
    netD = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    optG = torch.optim.Adam(netG.parameters(), lr=0.001)
    optD = torch.optim.Adam(netD.parameters(), lr=0.002)
    ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
    losses = []
    for _ in range(steps):
        netD.zero_grad()
        F.binary_cross_entropy_with_logits(netD(real), ones).backward()
        fake = netG(torch.randn(len(real), 4))
        F.binary_cross_entropy_with_logits(netD(fake.detach()), zeros).backward()
        optD.step()
        netG.zero_grad()
        loss = F.binary_cross_entropy_with_logits(netD(fake), ones)
        loss.backward()
        optG.step()
        losses.append(loss.item())
    return losses


def averaged(steps: int) -> list[float]:
    """A teacher that is an average of the student, and a copy of the weights in a dict."""
    torch.manual_seed(5)
    (x, _), student = data(), mlp()
    teacher = copy.deepcopy(student).requires_grad_(False)
    shadow = {name: p.detach().clone() for name, p in student.named_parameters()}
    opt = torch.optim.SGD(student.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        with torch.no_grad():
            target = teacher(x)
        loss = F.mse_loss(student(x + 0.1), target)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        with torch.no_grad():
            for (name, p), q in zip(student.named_parameters(), teacher.parameters(), strict=True):
                q.lerp_(p, 0.1)
                shadow[name].lerp_(p, 0.1)
    return [*losses, *(float(s.sum()) for s in shadow.values())]


def compiled(steps: int) -> list[float]:
    torch.manual_seed(6)
    (x, y), model = data(), mlp()
    fast = torch.compile(model, backend="eager")
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(fast(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def recurrent(steps: int) -> list[float]:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rnn, self.head = nn.Embedding(9, 8), nn.LSTM(8, 8), nn.Linear(8, 9)
            self.calls, self.seen = 0, []

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.seen.append(self.calls)
            out, _ = self.rnn(self.table(ids))
            return self.head(out) / (1 + 0.01 * self.calls)

    torch.manual_seed(7)
    model, ids = Reader(), torch.randint(9, (12, 5))
    opt = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(ids[:-1]).flatten(0, 1), ids[1:].flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return [*losses, float(model.calls), float(len(model.seen))]


def in_backward(steps: int) -> list[float]:
    """Optimizers that step as gradients arrive: reading the model must not trigger them."""
    torch.manual_seed(8)
    (x, y), model = data(), mlp()
    main = torch.optim.SGD([model[0].weight, model[0].bias], lr=0.1)
    rest = [p for p in model.parameters() if p is not model[0].weight and p is not model[0].bias]
    own = {p: torch.optim.SGD([p], lr=0.1) for p in rest}

    def step(p: torch.Tensor) -> None:
        own[p].step()
        own[p].zero_grad()

    for p in rest:
        p.register_post_accumulate_grad_hook(step)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        main.zero_grad()
        loss.backward()
        main.step()
        losses.append(loss.item())
    return losses


def in_parts(steps: int) -> list[float]:
    """Nothing calls the whole: an encoder and a decoder in a container, one after the other, in a closure."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
            self.decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6))

    torch.manual_seed(9)
    (x, _), model = data(), Both()
    opt = torch.optim.Adam(model.parameters(), lr=0.01)

    def evaluate() -> torch.Tensor:
        opt.zero_grad()
        loss = F.mse_loss(model.decoder(model.encoder(x)), x)
        loss.backward()
        return loss

    return [opt.step(evaluate).item() for _ in range(steps)]


def split(steps: int) -> list[float]:
    """One network, matrices for one optimizer and the rest for another, on one loss."""
    torch.manual_seed(10)
    (x, y), model = data(), mlp()
    matrices = [p for p in model[2:4].parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    opts = [torch.optim.SGD(matrices, lr=0.05, momentum=0.9), torch.optim.AdamW(rest, lr=0.01)]
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        for opt in opts:
            opt.zero_grad()
        loss.backward()
        for opt in opts:
            opt.step()
        losses.append(loss.item())
    return losses


TRAININGS: dict[str, Training] = {
    f.__name__: f
    for f in (plain, noisy, closure, gan, averaged, compiled, recurrent, in_backward, in_parts, split)
}  # fmt: skip
