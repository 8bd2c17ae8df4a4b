"""`try`: the race of `advise` where every run is the script itself."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initadvisor.advisor import Advice, provenance_of, versions_here
from initadvisor.errors import InputError, nearest
from initadvisor.integrations.scripts.launch import Script, python_command
from initadvisor.integrations.scripts.messages import Job, NetworkSeen, OptimizerSeen, Task, TrainingSeen
from initadvisor.integrations.scripts.runs import Entry, ScriptRuns, gpus_here
from initadvisor.integrations.scripts.scoring import Metric, read_metric
from initadvisor.recipes.recipe import Recipe, recipe_from_scheme
from initadvisor.report.evidence import Evidence
from initadvisor.report.progress import Progress, show_progress
from initadvisor.schemes.scheme import Scheme
from initadvisor.streams import derive
from initadvisor.trials.port import About
from initadvisor.trials.race import RACE, Setting
from initadvisor.trials.run import race_over
from initadvisor.types import CURRENT, TORCH_DEFAULT

MOST_JOBS = 4
"""Processes side by side on a machine without accelerators, where nobody says how many: the script's own threads, its
data workers and its memory are needed as often."""

SCOUTED = 2
"""Steps of the first look: what a script writes after a step is seen, too."""

HUBS = {"wandb": "WANDB_RUN_ID", "mlflow": "MLFLOW_RUN_ID", "comet_ml": "COMET_EXPERIMENT_KEY"}
"""Experiment trackers, and the variable by which every run would write into the same one."""


NOT_HELD_OUT = (
    "scores are of the loss that is stepped on, batches as they come: no data was held out; --metric scores what the "
    "script validates by"
)


@dataclass(frozen=True)
class Plan:
    """What is going to be tried, before anything is.

    Attributes:
        seen: of the script's training.
        networks: that are filled; the first is the one the report is about.
        counted: the optimizer whose steps count.
        candidates: names of what is tried.
        metric: what is scored.
        jobs: processes at a time.
        shared: what runs of the script cannot hold apart, in words.
        scratch: every run works in a copy of the folder.
    """

    seen: TrainingSeen
    networks: tuple[NetworkSeen, ...]
    counted: OptimizerSeen
    candidates: tuple[str, ...]
    metric: Metric
    jobs: int
    shared: tuple[str, ...]
    scratch: bool

    @property
    def text(self) -> str:
        """In a few lines."""
        named = " and ".join(n.name or n.kind for n in self.networks)
        seeds = (
            "its own seed, then fresh ones" if self.seen.seeded else "one seed for all (it sets none), then fresh ones"
        )
        scored = ("the loss " if self.metric.is_loss else "") + self.metric.text(self.counted.name)
        lines = [
            f"{len(self.candidates)} starts of {named}: {', '.join(self.candidates)}",
            f"scored by {scored}; {seeds}; {self.jobs} at a time",
        ]
        if self.shared:
            mend = "" if self.scratch else " (--scratch gives every run a copy of this folder)"
            lines.append(f"runs cannot be held apart in: {', '.join(self.shared[:6])}{mend}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Tried:
    """What came of it.

    Attributes:
        advice: about the first network of the plan, with the whole race.
        recipes: name of a network -> what the advice comes to for it.
        plan: what was tried.
    """

    advice: Advice
    recipes: Mapping[str, Recipe]
    plan: Plan


def try_script(
    words: Sequence[str],
    *,
    metric: str | None = None,
    maximize: bool = False,
    loss: str | None = None,
    steps: int | None = None,
    budget: str | int | float = "standard",
    candidates: Sequence[str] | None = None,
    seed: int = 0,
    jobs: int | None = None,
    scratch: bool = False,
    storage: str | None = None,
    study_name: str | None = None,
    progress: bool | Callable[[Progress], None] = True,
    tell: Callable[[Plan], None] = lambda plan: None,
) -> Tried:
    """Find out how a script's networks should be initialised by running the script, unedited, from other starts.

    Every run is a process of its own. The candidate's weights are put in before its first step; it waits in
    ``optimizer.step()`` between the rungs of the race and is ended where it stops.

    Args:
        words: the command, as typed.
        metric: ``None`` scores the loss that is stepped on; a name scores what the script gives to
            ``initadvisor.report(name, value)``; ``name=pattern`` what it prints.
        maximize: more of the metric is better.
        loss: name of the optimizer or network whose loss is scored and whose steps are counted, of several.
        steps: optimizer steps of the full training, where you know it.
        budget: as in :func:`initadvisor.advise`.
        candidates: names of proposed schemes to try; the weights as they are and torch's default always take part.
        seed: of everything drawn, and of scripts that set none.
        jobs: runs at a time; None takes what the machine has room for.
        scratch: every run works in a copy of the current folder.
        storage: an Optuna storage URL to record to and to resume from.
        study_name: of the study in that storage.
        progress: as in ``advise``.
        tell: given the plan before the first trial.

    Raises:
        InputError: the command cannot be tried; the message says why and how to mend it.
    """
    from initadvisor.trials.study import StudyLog

    command = tuple(python_command(words))
    scored = read_metric(metric, maximize=maximize)
    seen = _scout(command, scratch=scratch)
    counted = _counted(seen, loss, scored)
    networks = _networks(seen, counted)
    schemes = _chosen(networks[0], candidates)
    shared = _shared(seen)
    count = jobs or (1 if shared and not scratch else _jobs(seen.device))
    plan = Plan(seen, networks, counted, tuple(s.name for s in schemes), scored, count, shared, scratch)
    tell(plan)
    names = {s.name for s in schemes} - {CURRENT}
    packed = {name: {n.key: n.packed[name] for n in networks if name in n.packed} for name in names}
    keys = tuple(n.key for n in networks)
    own = derive(seed, RACE, 0)
    entry = Entry(command, keys, packed, counted.number, scored, seed, own, scratch)
    about = About(
        rates=(_rate(counted),),
        lr_locked=True,
        full_steps=steps,
        optimizer_name=counted.text,
        loss_name=scored.text(counted.name),
        identity={"script": _digest(command), "networks": [n.key.digest for n in networks], "metric": metric or ""},
    )
    runs = ScriptRuns(entry, count)
    try:
        with show_progress(progress) as on_event:
            setting = Setting(schemes, None, seed)
            log = StudyLog(storage, study_name)
            _, result = race_over(runs, about, setting, budget=budget, log=log, on_event=on_event)
    finally:
        runs.close()
    evidence = _evidence(plan, schemes, result, about, seed, steps)
    recipes = {
        n.name or n.kind: recipe_from_scheme(_scheme_of(n, result.decision.scheme), n.spec, provenance_of(evidence))
        for n in networks
        if n.spec is not None
    }
    first = networks[0].name or networks[0].kind
    return Tried(Advice(evidence, recipes[first]), recipes, plan)


def _scout(command: Sequence[str], *, scratch: bool) -> TrainingSeen:
    """Run the script until its networks have been read, and end it."""
    place = Path(tempfile.mkdtemp(prefix="initadvisor-scout-"))
    try:
        folder = Path.cwd()
        if scratch:
            folder = place / "work"
            shutil.copytree(Path.cwd(), folder, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        job = Job(Task.WATCH, watched=SCOUTED, stop=True, propose=True, files=True)
        output = place / "log"
        with output.open("wb") as sink:
            script = Script(command, job, folder=folder, output=sink, own_group=True)
        try:
            seen = script.receive()
            script.answer(True)
            code = script.wait(None if seen is None else 0.0)
        finally:
            script.close()
        if isinstance(seen, TrainingSeen):
            return seen
        lines = output.read_text(errors="replace").strip().splitlines()
        last = f"; its last words: {lines[-1].strip()}" if lines else ""
        raise InputError(f"no torch optimizer of the script took a step before it ended (exit code {code}){last}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _counted(seen: TrainingSeen, loss: str | None, metric: Metric) -> OptimizerSeen:
    """The optimizer whose steps count, and whose loss is scored where nothing else is.

    Raises:
        InputError: several have losses of their own, and nobody says which counts.
    """
    if loss is not None:
        named = {o.name: o for o in seen.optimizers if o.name}
        named |= {n.name: seen.optimizers[n.optimizers[0]] for n in seen.networks if n.name and n.optimizers}
        if loss not in named:
            raise InputError(f'--loss "{loss}": nothing that trains has that name; {nearest(loss, named)}')
        chosen = named[loss]
    else:
        of_one = set(seen.networks[0].optimizers) if len(seen.networks) == 1 else set()
        if metric.is_loss and len(seen.optimizers) > 1 and of_one != set(range(len(seen.optimizers))):
            names = ", ".join(o.name or o.text for o in seen.optimizers)
            raise InputError(
                f"the script has several losses, one for each of {names}; say which is scored with --loss NAME, or "
                "what is with --metric (a reported name, or name=pattern of what it prints)"
            )
        chosen = seen.optimizers[0]
    if metric.is_loss and not any(v is not None and math.isfinite(v) for v in chosen.losses):
        raise InputError("no loss was seen before the first step; say what is scored with --metric")
    return chosen


def _networks(seen: TrainingSeen, counted: OptimizerSeen) -> tuple[NetworkSeen, ...]:
    """The networks that can be filled, the counted optimizer's first."""
    place = seen.optimizers.index(counted)
    readable = [n for n in seen.networks if n.spec is not None and len(n.schemes) > 1]
    if not readable:
        faults = [n.fault for n in seen.networks if n.fault]
        raise InputError(f"no network of the script could be read: {faults[0] if faults else 'nothing to fill in it'}")
    return tuple(sorted(readable, key=lambda n: place not in n.optimizers))


def _chosen(network: NetworkSeen, wanted: Sequence[str] | None) -> tuple[Scheme, ...]:
    """Candidates, best prior first after the current weights."""
    known = {s.name: s for s in network.schemes if s.name == CURRENT or s.name in network.packed}
    for name in wanted or ():
        if name not in known:
            raise InputError(f'no candidate "{name}" is proposed for this network; {nearest(name, known)}')
    names = [n for n in known if wanted is None or n in (CURRENT, TORCH_DEFAULT, *wanted)]
    return tuple(sorted((known[n] for n in names), key=lambda s: (s.name != CURRENT, -s.prior)))


def _scheme_of(network: NetworkSeen, name: str) -> Scheme:
    """A network's own scheme of that name; where it has none, it keeps its weights."""
    by_name = {s.name: s for s in network.schemes}
    return by_name.get(name, by_name[CURRENT])


def _shared(seen: TrainingSeen) -> tuple[str, ...]:
    hubs = [f"{variable} of {hub}" for hub, variable in HUBS.items() if os.environ.get(variable)]
    return (*seen.files, *hubs)


def _jobs(device: str) -> int:
    if device.startswith("cuda"):
        return max(1, len(gpus_here()))
    return max(1, min(MOST_JOBS, (os.cpu_count() or 1) // 2))


def _rate(optimizer: OptimizerSeen) -> float:
    rates = [r for step in optimizer.rates for r in step if r > 0]
    return max(rates, default=1.0)


def _digest(command: Sequence[str]) -> str:
    """Of the words and of the files among them."""
    sink = hashlib.sha256("\0".join(command).encode())
    for word in command[1:]:
        if word.endswith(".py") and Path(word).is_file():
            sink.update(Path(word).read_bytes())
    return sink.hexdigest()[:16]


def _evidence(
    plan: Plan, schemes: tuple[Scheme, ...], result: Any, about: About, seed: int, steps: int | None
) -> Evidence:
    first = plan.networks[0]
    assert first.spec is not None
    notes = [n.note for n in plan.networks if n.note]
    if plan.metric.is_loss:
        notes.append(NOT_HELD_OUT)
    if len(plan.networks) > 1:
        others = ", ".join(n.name or n.kind for n in plan.networks[1:])
        notes.append(f"the scheme of the same name was put into {others}, too, where there is one")
    return Evidence(
        model_name=f"{first.name} ({first.kind})" if first.name else first.kind,
        parameter_count=first.parameters,
        spec=first.spec,
        schemes=(*schemes, *result.refined),
        race=result,
        loss_name=about.loss_name,
        optimizer_name=about.optimizer_name,
        seed=seed,
        full_steps=steps,
        versions=versions_here(),
        notes=tuple(notes),
        findings=first.findings,
    )
