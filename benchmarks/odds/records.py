"""Recorded trainings of all benchmarks in one shape."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.horizon import store as horizon
from benchmarks.horizon.pool import SEEDS as LONG_SEEDS
from benchmarks.horizon.task import LongTask
from benchmarks.horizon.tasks import TASKS as LONG_TASKS
from benchmarks.horizon.train import fresh_model as long_model
from benchmarks.regret.pool import PROPOSAL_SEED, SEEDS, TUNING_SEEDS
from benchmarks.regret.store import CURRENT_DIGEST, RESULTS, Store
from benchmarks.regret.task import Task
from benchmarks.regret.tasks import TASKS
from benchmarks.regret.train import evaluation_steps, fresh_model
from initadvisor.graph.analyze import analyze
from initadvisor.trials.view import Facts, network_facts

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
        full_steps: length of a full training.
        steps: optimizer steps at the evaluations that views are made of, 0 first.
        lrs: the rates that every scheme was trained at on ``tuning``, ascending.
        place: of each scheme in the order of the priors, -1 for those that no rule proposed (textbook and data-driven
            ones). The current weights are not among them.
        tuning: the seed on which every rate was trained.
        curves: best held-out loss so far at each of ``steps``; inf before the first finite one.
        ends: best held-out loss of the whole training; twice the untrained loss where there never was a finite one.
        broke: index of the evaluation at which a training had broken down, of those that did.
        initial: held-out loss of the current weights before any step.
        facts: of the network.
        trial: how the views were trained where it is not as the user trains: without the warm-up.
    """

    task: str
    family: str
    long: bool
    full_steps: int
    steps: tuple[int, ...]
    lrs: tuple[float, ...]
    place: Mapping[str, int]
    tuning: int
    curves: Mapping[Key, Losses]
    ends: Mapping[Key, float]
    broke: Mapping[Key, int]
    initial: float
    facts: Facts
    trial: str = ""

    @property
    def kind(self) -> str:
        """Kind of network, a coarser family."""
        return next((kind for kind, starts in KINDS.items() if self.family.startswith(starts)), "other")

    def own_rate(self, scheme: str) -> float:
        """The rate at which a scheme ends best on the tuning seed, of those it was trained at."""
        known = [lr for lr in self.lrs if Key(scheme, lr, self.tuning) in self.ends]
        return min(known, key=lambda lr: self.ends[Key(scheme, lr, self.tuning)])

    def seeds(self, scheme: str, lr: float) -> tuple[int, ...]:
        """Seeds other than the tuning seed on which a scheme was trained at a rate."""
        return tuple(sorted(k.seed for k in self.ends if k[:2] == (scheme, lr) and k.seed != self.tuning))

    def dead(self, key: Key, look: int) -> bool:
        """Whether a training has broken down by an evaluation."""
        return self.broke.get(key, look + 1) <= look


def best_so_far(losses: Sequence[float], count: int) -> Losses:
    """Running minimum over the finite ones, the last carried to ``count`` evaluations."""
    padded = np.full(count, np.inf)
    padded[: len(losses)] = np.where(np.isfinite(losses[:count]), losses[:count], np.inf)
    return np.minimum.accumulate(padded)


def _ends(best: Mapping[Key, float], initial: float) -> dict[Key, float]:
    return {k: x if math.isfinite(x) else 2 * initial for k, x in best.items()}


def _facts(task: Task | LongTask, model: nn.Module) -> Facts:
    batch = next(task.batches(PROPOSAL_SEED))
    return network_facts(analyze(model, batch, loss=task.loss if task.on_model else None))


def short_records(names: Sequence[str] | None = None) -> Iterator[Record]:
    """The tasks of ``benchmarks/regret``: a few hundred steps each."""
    store = Store()
    proposals = store.proposals()
    for name in names or TASKS:
        task = TASKS[name]
        steps, found = evaluation_steps(task.steps), store.curves(task)
        pool = sorted((p for p in proposals.get(name, []) if p["digest"] != CURRENT_DIGEST), key=lambda p: -p["prior"])
        pool = [p for p in pool if p["fault"] is None]
        wanted = {CURRENT_DIGEST, *(p["digest"] for p in pool)}
        known = {Key(*k): c for k, c in found.items() if k.digest in wanted and k.seed in (*TUNING_SEEDS, *SEEDS)}
        initial = known[Key(CURRENT_DIGEST, task.lrs[0], TUNING_SEEDS[0])].heldout[0]
        yield Record(
            task=name,
            family=task.family,
            long=False,
            full_steps=task.steps,
            steps=steps,
            lrs=task.lrs,
            place={p["digest"]: i if p["kind"] == "rules" else -1 for i, p in enumerate(pool)},
            tuning=TUNING_SEEDS[0],
            curves={k: best_so_far(c.heldout, len(steps)) for k, c in known.items()},
            ends=_ends({k: c.best for k, c in known.items()}, initial),
            broke={k: len(c.heldout) - 1 for k, c in known.items() if c.diverged},
            initial=initial,
            facts=_facts(task, fresh_model(task, None, PROPOSAL_SEED)),
        )


def long_records(folder: Path = horizon.RESULTS) -> Iterator[Record]:
    """The tasks of ``benchmarks/horizon``; where the rate warms up, a second record holds views without the warm-up."""
    proposals, rows = horizon.proposals(folder), horizon.load(folder)
    for name, task in LONG_TASKS.items():
        own = [r for r in rows if r.task == name and r.version == task.version]
        full = {Key(r.digest, r.lr, r.seed): r for r in own if r.variant == horizon.FULL}
        if not any(k.scheme == CURRENT_DIGEST for k in full):
            continue
        pool = sorted((p for p in proposals[name] if p["digest"] != CURRENT_DIGEST), key=lambda p: -p["prior"])
        place = {p["digest"]: i if p["kind"] == "rules" else -1 for i, p in enumerate(pool)}
        initial = next(r.curve.heldout[0] for k, r in full.items() if k.scheme == CURRENT_DIGEST)
        facts = _facts(task, long_model(task, None, LONG_SEEDS[0]))
        trials = {"": full}
        if task.schedule.warms_up:
            trials["without warm-up"] = {Key(r.digest, r.lr, r.seed): r for r in own if r.variant == horizon.CONSTANT}
        for trial, seen in trials.items():
            known = {k: r for k, r in seen.items() if k in full}
            if not known:
                continue
            steps = max((r.curve.steps for r in known.values()), key=len)
            yield Record(
                task=name,
                family=task.family,
                long=True,
                full_steps=task.steps,
                steps=steps,
                lrs=task.lrs,
                place={d: i for d, i in place.items() if any(k.scheme == d for k in known)},
                tuning=LONG_SEEDS[0],
                curves={k: best_so_far(r.curve.heldout, len(steps)) for k, r in known.items()},
                ends=_ends({k: r.best for k, r in full.items() if k in known}, initial),
                broke={k: len(r.curve.heldout) - 1 for k, r in known.items() if r.curve.diverged is not None},
                initial=initial,
                facts=facts,
                trial=trial,
            )


def inputs(folder: Path = horizon.RESULTS) -> dict[str, dict[str, list[str]]]:
    """Lines that the fit reads, one per training, by benchmark and file; packed and loose ones are the same to it."""
    packed, loose = folder / horizon.PACKED, folder / horizon.LOOSE
    long = gzip.decompress(packed.read_bytes()).decode().splitlines() if packed.exists() else []
    long += loose.read_text(encoding="utf-8").splitlines() if loose.exists() else []
    files = sorted((RESULTS / "curves").glob("*.jsonl"))
    short = {path.name: path.read_text(encoding="utf-8").splitlines() for path in files}
    return {"regret": short, "horizon": {"curves": long}}


def digest(lines: Mapping[str, Sequence[str]]) -> str:
    """Hash of what was read, whatever the order of the lines: trainings are appended as they come."""
    return hashlib.sha256(json.dumps({name: sorted(set(lines[name])) for name in sorted(lines)}).encode()).hexdigest()[
        :16
    ]
