"""Does each data-driven step do on a small task what its paper says it does?

    python -m benchmarks.initializers.effects [--seeds 3] [--steps 300] [--net NAME] [--out results/effects.md]

Every step is tried on every net, from the start its paper speaks of: nets that their start keeps from training. All
train on scikit-learn's digits with SGD and momentum at each of three rates, and where a step knows its optimizer with
Adam as well; a net "trains" where its held-out loss falls below half of chance (ln 10 / 2). Held-out loss is the mean
over seeds at the best rate.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from initadvisor.schemes.data_driven.registry import calibrate
from initadvisor.schemes.slots import slots_of
from initadvisor.schemes.values import Calibration
from initadvisor.training.data import Batch

RATES = (0.01, 0.03, 0.1)
TRAINED = math.log(10) / 2
HELD_OUT = 397
BATCH = 64
CALIBRATION_SAMPLES = 128
STEPS: dict[str, Calibration | None] = {
    "as built": None,
    "lsuv": Calibration("lsuv"),
    "analytic": Calibration("analytic"),
    "metainit": Calibration("metainit"),
    # The paper descends for hundreds of steps; candidates take 60 to cost no more than a short trial.
    "metainit, 300 steps": Calibration("metainit", (("steps", 300.0),)),
    "gradinit for SGD": Calibration("gradinit"),
    "gradinit for Adam": Calibration("gradinit", (("optimizer", "adam"),)),
}


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised pixels, shape (1797, 64), and labels, in one fixed random order."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(found.data, dtype=torch.float32)[order]
    return (x - x.mean()) / x.std(), torch.tensor(found.target)[order]


def plain(act: type[nn.Module], depth: int, width: int = 64) -> nn.Sequential:
    """A stack of linear layers as torch builds it: signals shrink at every one."""
    layers: list[nn.Module] = [nn.Linear(64, width), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def plain_cnn(depth: int = 14, channels: int = 12) -> nn.Sequential:
    """Convolutions without norms or skips, as torch builds them."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, channels, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def misscaled(depth: int, factor: float) -> nn.Sequential:
    """A ReLU stack whose author got the scale wrong: the signal grows by ``factor`` at every layer."""
    model = plain(nn.ReLU, depth)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
            with torch.no_grad():
                module.weight.mul_(factor)
    return model


class NormFreeResidual(nn.Module):
    """He weights on residual branches without norms: the stream doubles at every branch."""

    def __init__(self, blocks: int = 12, width: int = 64) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(F.relu(up(F.relu(h))))
        return self.head(h)


NETS: dict[str, Callable[[], nn.Module]] = {
    "16 tanh layers, torch's default": lambda: plain(nn.Tanh, 16),
    "24 tanh layers, torch's default": lambda: plain(nn.Tanh, 24),
    "14 ReLU convolutions, torch's default": plain_cnn,
    "16 ReLU layers, 1.6 times He": lambda: misscaled(16, 1.6),
    "12 norm-free residual blocks, He": NormFreeResidual,
}
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[float, ...]]] = {
    "SGD": (partial(torch.optim.SGD, momentum=0.9), RATES),
    "Adam": (torch.optim.Adam, (0.0003, 0.001, 0.003)),
}


def train(
    model: nn.Module,
    rate: float,
    steps: int,
    data: tuple[torch.Tensor, torch.Tensor],
    make: Callable[..., torch.optim.Optimizer],
) -> float:
    """Held-out loss after training, infinity where it diverged."""
    x, y = data
    split = len(x) - HELD_OUT
    optimizer = make(model.parameters(), lr=rate)
    order = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(split, (BATCH,), generator=order)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        if not torch.isfinite(loss):
            return math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        final = float(F.cross_entropy(model(x[split:]), y[split:]))
    return final if math.isfinite(final) else math.inf


@dataclass
class Outcome:
    """One net from one start: held-out loss by rate and seed, and what the calibration took."""

    losses: dict[float, list[float]]
    seconds: list[float]
    note: str = ""

    @property
    def best(self) -> float:
        return min(statistics.fmean(v) for v in self.losses.values())

    @property
    def rates_that_train(self) -> str:
        return ", ".join(f"{r:g}" for r, v in self.losses.items() if max(v) < TRAINED) or "none"


def outcome(
    build: Callable[[], nn.Module],
    step: Calibration | None,
    optimizer: str,
    seeds: int,
    steps: int,
    data: tuple[torch.Tensor, torch.Tensor],
) -> Outcome:
    make, rates = OPTIMIZERS[optimizer]
    found = Outcome({rate: [] for rate in rates}, [])
    x, y = data
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = build()
        if step is not None:
            batch = Batch((x[:CALIBRATION_SAMPLES],), {}, y[:CALIBRATION_SAMPLES])
            start = time.perf_counter()
            notes = calibrate(step, model, paths=set(slots_of(model)), batch=batch, seed=seed)
            found.seconds.append(time.perf_counter() - start)
            found.note = notes[-1]
        for rate in rates:
            found.losses[rate].append(train(copy.deepcopy(model), rate, steps, data, make))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--net", choices=list(NETS), action="append", help="only these nets (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "effects.md")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    data = digits()
    lines = [
        "# What the data-driven steps do to nets that their start keeps from training",
        "",
        f"`python -m benchmarks.initializers.effects --seeds {options.seeds} --steps {options.steps}"
        + "".join(f' --net "{net}"' for net in options.net or ())
        + "`: digits, SGD "
        f"with momentum at {', '.join(map(str, RATES))}, Adam at {', '.join(map(str, OPTIMIZERS['Adam'][1]))}. "
        "Held-out loss is the mean over seeds at the best rate "
        f"(chance: {math.log(10):.2f}); a rate trains where every seed ends below {TRAINED:.2f}. Seconds are the "
        "median of one calibration, single-threaded.",
        "",
        "| net and start | trained by | step | held-out loss | rates that train | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for (net, build), by, (name, step) in itertools.product(NETS.items(), OPTIMIZERS, STEPS.items()):
        if options.net and net not in options.net:
            continue
        if by == "Adam" and "gradinit" not in name and step is not None:
            continue  # what does not know the optimizer is shown once
        made = outcome(build, step, by, options.seeds, options.steps, data)
        spent = f"{statistics.median(made.seconds):.1f}" if made.seconds else ""
        lines.append(f"| {net} | {by} | {name} | {made.best:.3f} | {made.rates_that_train} | {spent} |")
        print(lines[-1], made.note, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
