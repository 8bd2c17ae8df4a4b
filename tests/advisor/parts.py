"""Parts of models and losses that write where one does not expect it; the contract suite composes them at random.

Every part maps (batch, WIDTH) to (batch, WIDTH) and is small. It does what people's own modules do: an ActNorm that
sets itself from its first batch, forced weight norm, an EMA shadow outside the registered modules, a lambda over parts.
"""

from __future__ import annotations

import copy
import functools
import os
import random
import signal
import warnings
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

WIDTH, CLASSES = 4, 3


class ActNorm(nn.Module):
    """Kingma & Dhariwal 2018: scale and shift from the first batch, written by the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.gain = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("ready", torch.zeros((), dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.ready:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.gain.copy_(1 / (x.std(0) + 1e-3))
            self.ready.fill_(1)
        return self.gain * (x + self.shift)


class Forced(nn.Linear):
    """Karras et al. 2024: weights normalised in place by every training pass."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.weight, dim=1))
        return super().forward(x)


class Swapped(nn.Linear):
    """Gives its weight other memory, as flattening and offloading do."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data = self.weight.data.clone() * 1.5
        return super().forward(x)


class Looked(nn.Module):
    """An embedding that renormalises the rows it looks up, inside of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, WIDTH, max_norm=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table((x[:, 0] > 0).long())


class Remembers(nn.Module):
    """Tensors of the last pass, counters and histories as plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.calls, self.history, self.seen = 0, [], {"max": 0.0}
        self.recent: deque[float] = deque(maxlen=3)
        self.counts: Any = Counter()
        self.log: Any = defaultdict(list)
        self.settings = SimpleNamespace(step=0, inner=OrderedDict(a=[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = self.fc(x)
        self.history.append(self.last)
        self.seen["max"] = float(x.detach().max()) if not x.is_meta else 0.0
        self.recent.append(1.0)
        self.counts["passes"] += 1
        self.log["passes"].append(self.calls)
        self.settings.step += 1
        self.settings.inner["a"].append(self.settings.step)
        self.settings.inner["b"] = self.settings.inner.pop("a")
        self.settings.inner["a"] = self.settings.inner.pop("b")
        return self.last


class OverParts(nn.Module):
    """minGPT's block: functions over the module's own parts."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = fc = nn.Linear(WIDTH, WIDTH)
        passes = [0]

        def run(x: torch.Tensor) -> torch.Tensor:
            passes[0] += 1
            return fc(x)

        self.run, self.act = run, functools.partial(lambda part, x: torch.tanh(part(x)), self.fc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x) + self.act(x)


class Replaces(nn.Module):
    """A buffer that is another one after each pass, of another shape, and one that was not there."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("state", torch.zeros(2))
        self.register_buffer("grown", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = torch.cat([self.state, torch.ones(1)])
        with torch.no_grad():
            self.grown.resize_(self.grown.numel() + 1).fill_(1.0)
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(1))
        return self.fc(x) * self.late


class Builds(nn.Module):
    """Makes a part when it is first called; not one that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.extra: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.extra is None:
            self.extra = nn.BatchNorm1d(WIDTH, affine=False)
        return self.extra(self.fc(x))


class Shadow(nn.Module):
    """An EMA of itself in a list, so that it is no part of the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.shadow = [copy.deepcopy(self.fc).requires_grad_(False)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.shadow[0].weight.lerp_(self.fc.weight, 0.1)
        return self.fc(x) + self.shadow[0](x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.b.weight = self.a.weight
        self.parent = weakref.ref(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.b(torch.relu(self.a(x))))


class Meddles(nn.Module):
    """With modes, flags, gradients and hooks of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.frozen = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.frozen.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.frozen.eval()
        self.frozen.weight.grad = torch.ones_like(self.frozen.weight)
        self.frozen.bias.requires_grad_(True)
        self.fc.register_forward_hook(lambda *_: None)
        self.fc.weight.register_hook(lambda grad: grad)
        self.fc.weight.tag = "seen"  # type: ignore[attr-defined]
        return self.fc(x) + self.frozen(x)


class Draws(nn.Module):
    """From every generator there is, also its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.3)
        self.own, self.numpy, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.legacy = np.random.RandomState(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(WIDTH, generator=self.own) + self.python.random() + float(self.numpy.random())
        noise = noise + random.random() + float(np.random.rand()) + float(self.legacy.rand())
        return self.drop(self.fc(x)) + 0.01 * noise.to(x)


class Global(nn.Module):
    """With the process."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        warnings.simplefilter("ignore")
        os.environ["A_MODEL_S_OWN"] = "1"
        os.environ.pop("LANG", None)
        np.random.seed(0)
        np.seterr(all="ignore")
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        torch.set_default_dtype(torch.float64)
        out = self.fc(x)
        torch.set_default_dtype(torch.float32)
        return out


class Arrays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.mean, self.names = nn.Linear(WIDTH, WIDTH), np.zeros(2), {"a"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean += 1.0
        self.names.add(str(len(self.names)))
        return self.fc(x)


class Slotted:
    __slots__ = ("steps", "weight")

    def __init__(self) -> None:
        self.steps, self.weight = 0, torch.ones(WIDTH)


class Holds(nn.Module):
    """An object of the user's own, with slots."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.held = nn.Linear(WIDTH, WIDTH), Slotted()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.held.steps += 1
        self.held.weight.mul_(0.9)
        return self.fc(x) * self.held.weight


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.state: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, self.state = self.rnn(x.unsqueeze(1))
        return out[:, 0]


class Writes(nn.Module):
    """To what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_leaf and not x.requires_grad:
            x.mul_(1.01)
        return self.fc(x)


class Nothing(nn.Module):
    """NaN weights are weights, too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.unused = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.tensor([float("nan"), -0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


PARTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "spectral norm": lambda: spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "weight norm": lambda: weight_norm(nn.Linear(WIDTH, WIDTH)),
    "lazy": lambda: nn.LazyLinear(WIDTH),
    "eval": lambda: nn.Dropout(0.5).eval(),
    **{
        kind.__name__: kind
        for kind in (
            ActNorm, Forced, Swapped, Looked, Remembers, OverParts, Replaces, Builds, Shadow, Tied, Meddles, Draws,
            Global, Arrays, Holds, Recurrent, Writes, Nothing,
        )
    },
}  # fmt: skip


class Model(nn.Module):
    """Parts one after another, with sums in between where they are asked for."""

    def __init__(self, names: list[str], fails_at: Callable[[], None]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(PARTS[name]() for name in names)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.fails_at = fails_at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fails_at()
        for part in self.parts:
            x = x + part(x)
        return self.head(x)


# -- losses -----------------------------------------------------------------------------------------------------------

GLOBAL_CRITIC = nn.Sequential(nn.Linear(CLASSES, CLASSES), nn.BatchNorm1d(CLASSES))
GLOBAL_COUNT = 0


def plain(model: nn.Module) -> Any:
    return lambda output, target: F.cross_entropy(output, target)


def of_module(model: nn.Module) -> Any:
    return nn.CrossEntropyLoss(weight=torch.ones(CLASSES))


def critic(model: nn.Module) -> Any:
    """A critic in the closure that the loss trains, with its optimizer and schedule."""
    net = nn.Sequential(nn.Linear(CLASSES, CLASSES), nn.BatchNorm1d(CLASSES), nn.Linear(CLASSES, 1))
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        fake = model(batch[0])
        if torch.is_grad_enabled():
            optimizer.zero_grad()
            F.softplus(net(fake.detach())).mean().backward()
            optimizer.step()
            schedule.step()
        return F.softplus(-net(fake)).mean() + F.cross_entropy(fake, batch[1])

    return loss


def teacher(model: nn.Module) -> Any:
    """An EMA of the model, by a method of an object."""

    class Mean:
        def __init__(self) -> None:
            self.net: nn.Module | None = None

        def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
            if self.net is None:
                self.net = nn.Linear(CLASSES, CLASSES)
            with torch.no_grad():
                self.net.weight.mul_(0.9)
            out = model(batch[0])
            return F.cross_entropy(out, batch[1]) + F.mse_loss(out, self.net(out).detach())

    return Mean().loss


def by_globals(model: nn.Module) -> Any:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        global GLOBAL_COUNT
        GLOBAL_COUNT += 1
        return F.cross_entropy(GLOBAL_CRITIC(output), target)

    return loss


def by_default(model: nn.Module) -> Any:
    def loss(output: torch.Tensor, target: torch.Tensor, net: nn.Module = nn.BatchNorm1d(CLASSES)) -> torch.Tensor:  # noqa: B008
        return F.cross_entropy(net(output), target)

    return functools.partial(loss)


def by_model(model: nn.Module) -> Any:
    """One that closes over the model itself, and keeps tensors of each pass."""
    kept: list[torch.Tensor] = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        kept.append(output)
        return F.cross_entropy(output, target) + 0.01 * model.head.weight.square().mean()  # type: ignore[union-attr, operator]

    return loss


def counting(model: nn.Module) -> Any:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss.count += 1  # type: ignore[attr-defined]
        return F.cross_entropy(output, target) * (1 + 0.01 * loss.count)  # type: ignore[attr-defined]

    loss.count = 0  # type: ignore[attr-defined]
    return loss


LOSSES: dict[str, Callable[[nn.Module], Any]] = {
    "inferred": lambda model: None,
    **{f.__name__: f for f in (plain, of_module, critic, teacher, by_globals, by_default, by_model, counting)},
}
