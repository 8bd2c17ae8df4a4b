"""Recorded trainings of all benchmarks in one shape."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.regret.pool import SEEDS, TUNING_SEEDS
from benchmarks.regret.store import CURRENT_DIGEST, RESULTS, Store
from benchmarks.regret.tasks import TASKS
from benchmarks.regret.train import evaluation_steps

Losses = NDArray[np.float64]

KINDS = {
    "mlp": ("mlp_", "tabular", "autoencoder", "linear", "sets", "transfer"),
    "convolutional": ("cnn_",),
    "recurrent": ("rnn", "lstm", "gru"),
    "transformer": ("transformer_", "vit", "mixer"),
    "graph": ("gnn",),
    "generative": ("gan", "diffusion_", "vae", "contrastive"),
    "field": ("siren", "pinn"),
}
"""Families by kind of network, by the beginnings of their names: base rates of the rules are told by kind."""


class Key(NamedTuple):
    """Which training of a task."""

    scheme: str
    lr: float
    seed: int


@dataclass(frozen=True)
class Record:
    """All trainings of one task.

    Attributes:
        task, family: names; a family is left out as a whole.
        long: trained for thousands of steps.
        steps: optimizer steps at the evaluations, 0 first, the full length last.
        lrs: the rates that every scheme was trained at on ``tuning``, ascending.
        order: schemes in the order of their priors, the current weights not among them.
        unordered: those of them that no rule proposed (textbook and data-driven schemes).
        tuning: the seed on which every rate was trained.
        curves: best held-out loss so far at each of ``steps``; inf before the first finite one.
        broke: index of the evaluation at which a training had broken down, of those that did.
        initial: held-out loss of the current weights before any step.
    """

    task: str
    family: str
    long: bool
    steps: tuple[int, ...]
    lrs: tuple[float, ...]
    order: tuple[str, ...]
    unordered: frozenset[str]
    tuning: int
    curves: Mapping[Key, Losses]
    broke: Mapping[Key, int]
    initial: float

    @property
    def kind(self) -> str:
        """Kind of network, a coarser family."""
        return next((kind for kind, starts in KINDS.items() if self.family.startswith(starts)), "other")

    def own_rate(self, scheme: str) -> float:
        """The rate at which a scheme ends best on the tuning seed."""
        return min(self.lrs, key=lambda lr: self.end(Key(scheme, lr, self.tuning)))

    def dead(self, key: Key, look: int) -> bool:
        """Whether a training has broken down by an evaluation."""
        return self.broke.get(key, look + 1) <= look

    def end(self, key: Key) -> float:
        """Final loss of a training (best checkpoint); twice the untrained loss where there never was a finite one."""
        last = float(self.curves[key][-1])
        return last if math.isfinite(last) else 2 * self.initial

    def seeds(self, scheme: str, lr: float) -> tuple[int, ...]:
        """Seeds other than the tuning seed on which a scheme was trained at a rate."""
        return tuple(sorted(k.seed for k in self.curves if k[:2] == (scheme, lr) and k.seed != self.tuning))


def best_so_far(losses: Sequence[float], count: int) -> Losses:
    """Running minimum over the finite ones, the last carried to ``count`` evaluations."""
    padded = np.full(count, np.inf)
    padded[: len(losses)] = np.where(np.isfinite(losses), losses, np.inf)
    return np.minimum.accumulate(padded)


def short_records(names: Sequence[str] | None = None) -> Iterator[Record]:
    """The tasks of ``benchmarks/regret``: a few hundred steps each."""
    store = Store()
    proposals = store.proposals()
    for name in names or TASKS:
        task = TASKS[name]
        steps = evaluation_steps(task.steps)
        found = store.curves(task)
        pool = [p for p in proposals.get(name, []) if p["fault"] is None and p["digest"] != CURRENT_DIGEST]
        pool = [p for p in pool if all((p["digest"], lr, TUNING_SEEDS[0]) in found for lr in task.lrs)]
        wanted = {CURRENT_DIGEST, *(p["digest"] for p in pool)}
        known = {k: c for k, c in found.items() if k.digest in wanted and k.seed in (*TUNING_SEEDS, *SEEDS)}
        pool.sort(key=lambda p: -p["prior"])
        yield Record(
            task=name,
            family=task.family,
            long=False,
            steps=steps,
            lrs=task.lrs,
            order=tuple(p["digest"] for p in pool),
            unordered=frozenset(p["digest"] for p in pool if p["kind"] != "rules"),
            tuning=TUNING_SEEDS[0],
            curves={Key(*k): best_so_far(c.heldout, len(steps)) for k, c in known.items()},
            broke={Key(*k): len(c.heldout) - 1 for k, c in known.items() if c.diverged},
            initial=known[CURRENT_DIGEST, task.lrs[0], TUNING_SEEDS[0]].heldout[0],  # type: ignore[index]
        )


def inputs() -> list[Path]:
    """Files that the fit reads."""
    return [RESULTS / "proposals.json", *sorted((RESULTS / "curves").glob("*.jsonl"))]


def digest(paths: Sequence[Path]) -> str:
    """Hash of what the files say, whatever the order of their lines: trainings are appended as they come."""
    total = hashlib.sha256()
    for path in paths:
        lines = sorted(path.read_text(encoding="utf-8").splitlines())
        total.update(json.dumps([path.name, lines]).encode())
    return total.hexdigest()[:16]
