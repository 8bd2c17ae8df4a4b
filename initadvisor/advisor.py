"""`advise`: the whole story on one page. Orchestration only; every room it walks through can be used by itself."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from initadvisor.checks.finding import Finding
from initadvisor.checks.proposals import audit_training, mending
from initadvisor.errors import InputError, nearest
from initadvisor.graph.analyze import analyze, require_trainable
from initadvisor.graph.spec import ModelSpec
from initadvisor.guard import preserve_model, preserve_process, run_eagerly
from initadvisor.recipes.recipe import Provenance, Recipe, recipe_from_scheme
from initadvisor.references import bibtex as bibtex_of
from initadvisor.report.evidence import Evidence, WeightSample
from initadvisor.report.progress import Progress, show_progress
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.protect import looks_trained, protect_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import ApplyResult, FilledTensor
from initadvisor.training.losses import Loss
from initadvisor.training.task import TrainingTask, make_task
from initadvisor.trials.result import Cost, Decision, RankingEntry
from initadvisor.trials.run import run_race
from initadvisor.types import CURRENT, TORCH_DEFAULT, WEIGHT_ROLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from initadvisor.trials.study import StudyLog

HISTOGRAM_TENSORS = 6
"""Tensors shown as histograms in reports: enough to see a pattern over depth, few enough to read."""
HISTOGRAM_BINS = 40
"""Bins of those histograms."""
RUNTIME_PACKAGES = ("initadvisor", "torch", "optuna", "numpy")
"""Packages whose versions can change a result; recorded with every advice."""


@dataclass(frozen=True, repr=False)
class Advice:
    """What to do, and everything it rests on.

    Attributes:
        evidence: all that was read, tried and decided.
        recipe: the recommended scheme as a shareable file (one that keeps every weight, where that is the advice).
        loss: of the training, for schemes that descend on it when they are applied.
    """

    evidence: Evidence
    recipe: Recipe
    loss: Loss | None = field(default=None, compare=False)

    @property
    def decision(self) -> Decision:
        """Switch, keep or undecided, with effect, interval and odds."""
        return self.evidence.race.decision

    @property
    def ranking(self) -> tuple[RankingEntry, ...]:
        """Every candidate's standing, best first."""
        return self.evidence.race.ranking

    @property
    def lr(self) -> float:
        """Learning rate the recommended scheme did best at."""
        return self.decision.lr

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What :func:`initadvisor.check` finds wrong with the model, the data and the loss as they came."""
        return self.evidence.findings

    @property
    def spec(self) -> ModelSpec:
        """The reading of the model."""
        return self.evidence.spec

    @property
    def cost(self) -> Cost:
        """Optimizer steps and seconds spent."""
        return self.evidence.race.cost

    @property
    def scheme(self) -> Scheme:
        """The recommended scheme."""
        return self.evidence.scheme(self.decision.scheme)

    def report(self, *, width: int | None = None, color: bool | None = None) -> str:
        """The advice as text for a terminal.

        Args:
            width: columns; None takes the terminal's.
            color: None colours only where standard output is a terminal.
        """
        from initadvisor.report.console import render

        return render(self.evidence, width=width, color=color)

    def to_html(self, path: str | Path) -> Path:
        """Write the whole report as one self-contained file and return its path."""
        from initadvisor.report.html import write_html

        return write_html(self.evidence, path, recipe=self.recipe.to_yaml())

    def to_json(self) -> dict[str, Any]:
        """The evidence as plain data, in the published schema."""
        from initadvisor.report.jsonout import evidence_to_json

        return evidence_to_json(self.evidence, recipe=self.recipe.to_yaml())

    def plot(self) -> Figure:
        """Curves, signal flow before and after, ranking and weights as one matplotlib figure."""
        from initadvisor.report.plots import plot_evidence

        return plot_evidence(self.evidence)

    def apply(self, model: nn.Module, *, seed: int | None = None) -> ApplyResult:
        """Fill ``model`` in place as recommended; protected tensors stay byte-identical.

        Args:
            model: the advised model or a fresh one of the same architecture.
            seed: of the draw; None takes the seed of this advice.

        Raises:
            SchemeError: the model has other parameters than the advised one; nothing is changed then.
        """
        return self.scheme.apply(model, seed=self.evidence.seed if seed is None else seed, loss=self.loss)

    def save(self, path: str | Path) -> Path:
        """Write the recipe as YAML, whole or not at all, and return its path."""
        self.recipe.save(path)
        return Path(path)

    def bibtex(self) -> str:
        """BibTeX of everything the recommended scheme rests on."""
        return bibtex_of(self.scheme.references)

    def __repr__(self) -> str:
        """The first sentence of the report; the fields themselves would fill a screen many times over."""
        from initadvisor.report.sentences import headline

        return f"<{type(self).__name__}: {headline(self.evidence)}>"

    def _repr_html_(self) -> str:
        from initadvisor.report.html import render_fragment

        return render_fragment(self.evidence)

    def __str__(self) -> str:
        return self.report(color=False)


def advise(
    model: nn.Module,
    sample_batch: Any,
    *,
    loss: Callable[..., torch.Tensor] | None = None,
    optimizer: Any = None,
    lr: float | Sequence[float] | str | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    clip_norm: float | None = None,
    steps: int | None = None,
    budget: str | int | float = "standard",
    candidates: Sequence[str | Scheme] | None = None,
    protect: Any = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    executor: Executor | None = None,
    progress: bool | Callable[[Progress], None] = True,
) -> Advice:
    """Find out how this model should be initialised for this training, by reading it and by trying.

    The model, its buffers, gradients, flags and hooks, and the process' random generators and settings are left exactly
    as they were, also after an exception and after Ctrl-C. Ctrl-C during the trials gives the advice that the finished
    trials allow, marked as interrupted.

    Args:
        model: any eager ``nn.Module``.
        sample_batch: ``(inputs, target)``, a dict, or an iterable of such batches (a DataLoader), or whatever your
            ``loss`` takes. With several batches some are held out for scoring; of a single batch a part is.
        loss: ``(output, target) -> scalar`` or ``(model, batch) -> scalar``; None infers it and says so in the report.
            One of the second kind may noise or pair the batch, or call only methods and parts of the model.
        optimizer: an optimizer class, a ``functools.partial`` of one, an instance bound to the model (its class,
            defaults and groups are read), or a callable ``params -> Optimizer``; None is AdamW.
        lr: a float is locked, a sequence is searched together with the scheme, None chooses a grid; ``"search"``
            chooses a grid even where the optimizer carries a rate of its own.
        scheduler: ``optimizer -> LRScheduler``, stepped once per optimizer step.
        clip_norm: gradient-norm bound of your loop.
        steps: optimizer steps of your full training, where you know it; trials are sized against it.
        budget: ``"fast"``, ``"standard"``, ``"thorough"``, seconds (a float) or model-steps (an int).
        candidates: names of proposed schemes, or schemes of your own, to try instead of everything proposed; the
            weights as they are and torch's default always take part.
        protect: glob patterns of parameter paths, or a state dict of pretrained tensors, that must not be filled.
        seed: of everything drawn.
        device: where trials run; None is where the model is.
        storage: an Optuna storage URL (``"sqlite:///study.db"``) to record to and to resume from; None keeps it in
            memory.
        study_name: name of the study in that storage.
        executor: a ``concurrent.futures`` executor for the trials.
        progress: show a progress bar on standard error, or a callable that is given each progress event.

    Returns:
        The advice: what to use, why, how sure, what it cost.

    Raises:
        InputError: something given cannot be used; the message says what and how to mend it.
        AnalysisError: the model raised on the batch; its own error is quoted.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> x, y = torch.randn(64, 4), torch.randint(3, (64,))
        >>> advice = advise(model, (x, y), lr=0.1, optimizer=torch.optim.SGD, budget=200, progress=False)
        >>> advice.decision.verdict.value in ("switch", "keep", "undecided")
        True
    """
    _check_model(model)
    factory = None if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    guarded = preserve_model(model, loss, factory, scheduler)
    with preserve_process(), guarded, run_eagerly(), show_progress(progress) as on_event:
        task = make_task(
            model,
            sample_batch,
            loss=loss,
            optimizer=optimizer,
            lr=lr,
            scheduler=scheduler,
            clip_norm=clip_norm,
            steps=steps,
            device=device,
            seed=seed,
        )
        # The task's model is the user's own, or a materialised copy of a lazy one; it is only ever copied from.
        spec = protect_spec(analyze(task.model, task.sample), task.model, protect)
        schemes = _choose(propose_from_spec(spec, task.model, task.sample, loss=task.loss, steps=steps), candidates)
        audit = audit_training(task, schemes if candidates is None else (), seed=seed)
        schemes = (*audit.fit(schemes), *(mending(task, spec, audit, seed=seed) if candidates is None else ()))
        study = _open_study(storage, study_name)
        race = run_race(
            task, schemes, spec, budget=budget, seed=seed, study=study, executor=executor, on_event=on_event
        )
        trained = looks_trained(task.model, spec)
        evidence = Evidence(
            model_name=type(model).__name__,
            parameter_count=sum(p.numel() for p in task.model.parameters() if p.requires_grad),
            spec=spec,
            schemes=(*schemes, *race.refined),
            race=race,
            loss_name=task.loss_name,
            optimizer_name=task.optimizer_name,
            seed=seed,
            full_steps=steps,
            versions=versions_here(),
            notes=(*((trained,) if trained else ()), *task.notes, *audit.notes),
            findings=audit.findings,
        )
        chosen = evidence.scheme(race.decision.scheme)
        evidence = replace(evidence, weights=_histograms(task, chosen, spec, seed))
    return Advice(evidence, recipe_from_scheme(chosen, spec, provenance_of(evidence)), task.loss)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be an nn.Module, not {type(model).__name__}; give an instance, not its class")
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has no trainable parameter; there is nothing to initialise (is it frozen?)"
        )
    require_trainable(model)  # a scripted one shows no ops


def _choose(proposed: tuple[Scheme, ...], wanted: Sequence[str | Scheme] | None) -> tuple[Scheme, ...]:
    """What is tried: everything proposed, or what the user names and both baselines."""
    if wanted is None:
        return proposed
    by_name = {s.name: s for s in proposed}
    chosen = {name: by_name[name] for name in (CURRENT, TORCH_DEFAULT) if name in by_name}
    for item in [wanted] if isinstance(wanted, str | Scheme) else wanted:
        if isinstance(item, Scheme):
            chosen[item.name] = item
        elif item in by_name:
            chosen[item] = by_name[item]
        else:
            raise InputError(f'no candidate "{item}" is proposed for this model; {nearest(item, by_name)}')
    return tuple(chosen.values())


def _open_study(storage: str | None, name: str | None) -> StudyLog | None:
    if storage is None and name is None:
        return None
    from initadvisor.trials.study import StudyLog

    return StudyLog(storage, name)


def versions_here() -> dict[str, str]:
    """Versions of what can change a result."""
    found = {"python": platform.python_version()}
    for package in RUNTIME_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def provenance_of(evidence: Evidence) -> Provenance:
    """What a recipe that comes of an advice says of where it comes from."""
    decision = evidence.race.decision
    figures: dict[str, float | str] = {
        "verdict": decision.verdict.value,
        "lr": decision.lr,
        "effect": decision.effect,
        "expected_gain": decision.gain,
        "p_better": decision.p_better,
        "p_worse": decision.p_worse,
        "seeds": float(decision.seeds),
        "fresh_seeds": float(decision.fresh),
        "steps_each": float(decision.horizon),
        "loss": evidence.loss_name,
        "optimizer": evidence.optimizer_name,
    }
    return Provenance(
        made_by=f"initadvisor {evidence.versions.get('initadvisor', 'unknown')}",
        versions=dict(evidence.versions),
        seed=evidence.seed,
        fingerprint=evidence.spec.fingerprint,
        # A recipe is plain YAML for people: what is not a number (an interval nobody could form) is left out.
        evidence={k: v for k, v in figures.items() if isinstance(v, str) or math.isfinite(v)},
    )


def _histograms(task: TrainingTask, chosen: Scheme, spec: ModelSpec, seed: int) -> tuple[WeightSample, ...]:
    """A few weights through the depth, as they came and as the chosen scheme fills them."""
    filled = task.member()
    declared = {t.path: t for t in chosen.apply(filled, seed=seed, batch=task.sample, loss=task.loss_of(filled)).filled}
    before, after = dict(task.model.named_parameters()), dict(filled.named_parameters())
    weights = [p for p in spec.fillable if p.role in WEIGHT_ROLES and p.path in before and p.numel > 1]
    step = max(1, -(-len(weights) // HISTOGRAM_TENSORS))
    return tuple(_histogram(p.path, before[p.path], after[p.path], declared.get(p.path)) for p in weights[::step])


def _histogram(path: str, before: torch.Tensor, after: torch.Tensor, told: FilledTensor | None) -> WeightSample:
    old, new = (t.detach().flatten().to("cpu", torch.float64) for t in (before, after))
    reach = max(float(old.abs().max()), float(new.abs().max())) or 1.0
    edges = torch.linspace(-reach, reach, HISTOGRAM_BINS + 1, dtype=torch.float64)
    counts = [tuple(int(c) for c in torch.histogram(t, edges).hist) for t in (new, old)]
    return WeightSample(
        path=path,
        initializer=told.initializer if told else "as it came",
        edges=tuple(float(e) for e in edges),
        counts=counts[0],
        before=counts[1],
        declared_std=told.declared_std if told else None,
        observed_std=float(new.std()),
    )
