"""Train a model in full as it came and as advised, and show both curves: the proof the examples end with.

Plain PyTorch on purpose: nothing of initadvisor takes part in the training, only its answer does.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import initadvisor

Batch = tuple[torch.Tensor, ...]
WIDTH, HEIGHT = 34, 12
"""Size of one terminal curve in characters; two stand side by side in 80 columns."""


@dataclass
class Curve:
    """Held-out loss over steps of one full training."""

    name: str
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def train_in_full(training: Mapping[str, Any], test: Batch, model: nn.Module, lr: float, name: str) -> Curve:
    """The user's training loop, written out, with the test loss every twentieth of the way."""
    steps, clip_norm = training["steps"], training.get("clip_norm")
    loss_of = loss_of_batch(training.get("loss") or nn.functional.cross_entropy)
    curve, done, every = Curve(name), 0, max(1, steps // 20)
    with torch.random.fork_rng():
        torch.manual_seed(1000)  # a data order that no trial has seen
        model = copy.deepcopy(model).train()
        optimizer = training["optimizer"](model.parameters(), lr=lr)
        while True:
            for batch in training["sample_batch"]:
                if done % every == 0 or done == steps:
                    curve.steps.append(done)
                    curve.losses.append(loss_on(test, model, loss_of))
                if done == steps:
                    return curve
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                optimizer.step()
                done += 1


def loss_of_batch(loss: Callable[..., torch.Tensor]) -> Callable[[nn.Module, Batch], torch.Tensor]:
    """A loss as a function of model and batch, whichever of the two conventions it has."""
    if next(iter(inspect.signature(loss).parameters)) == "model":
        return loss
    return lambda model, batch: loss(model(batch[0]), batch[1])


def loss_on(test: Batch, model: nn.Module, loss_of: Callable[[nn.Module, Batch], torch.Tensor]) -> float:
    """Mean loss on the data no training and no trial has seen."""
    model.eval()
    with torch.no_grad():
        loss = float(loss_of(model, test))
    model.train()
    return loss


def draw(curve: Curve, low: float, high: float) -> list[str]:
    """One curve as lines of text, on a log scale from ``low`` to ``high``."""
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    for step, loss in zip(curve.steps, curve.losses, strict=True):
        if not math.isfinite(loss):
            continue
        share = (math.log(high) - math.log(max(loss, low))) / (math.log(high) - math.log(low))
        column = round(step / max(1, curve.steps[-1]) * (WIDTH - 1))
        rows[min(HEIGHT - 1, max(0, round(share * (HEIGHT - 1))))][column] = "●"
    return ["".join(row) for row in rows]


def show(curves: list[Curve], picture: Path) -> None:
    """Print the curves side by side and draw them into ``picture``."""
    values = [v for c in curves for v in c.losses if math.isfinite(v)]
    low, high = min(values) * 0.9, max(values) * 1.1
    print("\nheld-out loss over the full training (log scale)")
    print("".join(f"{'':8}{c.name[:WIDTH]:<{WIDTH}}" for c in curves))
    drawn = [draw(c, low, high) for c in curves]
    for row, parts in enumerate(zip(*drawn, strict=True)):
        level = math.exp(math.log(high) - row / (HEIGHT - 1) * (math.log(high) - math.log(low)))
        print("".join(f"{level:7.3g} {part}" for part in parts))
    for curve in curves:
        print(f"  {curve.name}: {curve.losses[0]:.3f} → {curve.losses[-1]:.3f} (best {min(curve.losses):.3f})")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for curve, style in zip(curves, ("--", "-"), strict=False):
        axes.plot(curve.steps, curve.losses, style, marker="o", markersize=3, label=curve.name)
    axes.set(xlabel="optimizer step", ylabel="held-out loss", yscale="log")
    axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=144)
    print(f"  picture: {picture}")


def prove(training: Mapping[str, Any], test: Batch, picture: str) -> list[Curve]:
    """Ask for advice, print it, then train in full both ways and show the curves.

    Args:
        training: the arguments of ``initadvisor.advise``: model, data, optimizer, rates, steps.
        test: data that neither the advice nor the training sees.
        picture: file name of the figure, under ``out/``.
    """
    advice = initadvisor.advise(**training)
    print(advice.report())
    rates = {entry.scheme: entry.lr for entry in advice.ranking}
    advised = copy.deepcopy(training["model"])
    advice.apply(advised)
    curves = [
        train_in_full(training, test, training["model"], rates["current"], f"as it came, lr {rates['current']:g}"),
        train_in_full(training, test, advised, advice.lr, f"as advised ({advice.decision.verdict}), lr {advice.lr:g}"),
    ]
    show(curves, Path("out") / picture)
    return curves
