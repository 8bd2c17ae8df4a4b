"""The audit as advice needs it: of the weights as they came, and of what every candidate would fill."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from initadvisor.checks.finding import Finding, Severity
from initadvisor.checks.fix import concerned, mendable, mended
from initadvisor.checks.registry import get
from initadvisor.checks.runner import check_training
from initadvisor.errors import InitAdvisorError, swallowed
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.engine.loop import drawn_model
from initadvisor.training.task import TrainingTask
from initadvisor.types import CURRENT, TORCH_DEFAULT, WEIGHT_ROLES

LARGEST_FILLED = 300_000
"""Elements of a model up to which every candidate is filled and audited, two passes and a few steps each: a second or
two together. For a transformer of five million it took as long as forty training steps; there the race is the judge."""

LARGEST_MEASURED = 30_000
"""The same for candidates that measure on data while they fill, each of which takes tens of passes."""


SOON = 100
"""Steps of the schedule that are looked at; a warm-up raises the rate in the first of them."""

RISES = 0.5
"""First rate over a later one below which it warms up."""

REMARKED = ("INI507",)
"""Remarks of the audit that a report has to make as well: what the trials do that the user's own training does not."""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        findings: of the weights as they came.
        unfit: candidate -> the error that its own fill has.
    """

    findings: tuple[Finding, ...]
    unfit: Mapping[str, Finding]

    def fit(self, schemes: Iterable[Scheme]) -> tuple[Scheme, ...]:
        """Those without an error of their own; both baselines stay, since they are what is compared with."""
        return tuple(s for s in schemes if s.name not in self.unfit)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the loss, and a line per candidate that was left out."""
        loss = [f.message for f in self.findings if f.severity is Severity.INFO and f.code in REMARKED]
        left = [f'"{name}" was not tried: its weights have {f.code}, {f.message}' for name, f in self.unfit.items()]
        return (*loss, *left)


def audit_training(task: TrainingTask, schemes: Sequence[Scheme] = (), *, seed: int = 0) -> Audit:
    """Audit the weights of a training as they came, and a draw of every candidate.

    Args:
        task: the training; its model is only copied from.
        schemes: candidates, baselines among them or not.
        seed: of the draws.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from initadvisor.training.task import make_task
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> _ = nn.init.zeros_(net[0].weight), nn.init.zeros_(net[0].bias)
        >>> task = make_task(net, (torch.randn(40, 4), torch.randint(3, (40,))), lr=0.1)
        >>> audit_training(task).findings[0].code
        'INI104'
    """
    findings = _findings(task, None, seed)
    size = sum(p.numel() for p in task.model.parameters())
    known = {(f.code, f.path) for f in findings if f.severity is Severity.ERROR}
    unfit: dict[str, Finding] = {}
    for scheme in schemes:
        most = LARGEST_MEASURED if getattr(scheme, "calibrations", ()) else LARGEST_FILLED
        if scheme.name in (CURRENT, TORCH_DEFAULT) or size > most:
            continue
        error = next((f for f in _findings(task, scheme, seed) if _is_own(f, known)), None)
        if error is not None:
            unfit[scheme.name] = error
    return Audit(findings, unfit)


def _is_own(finding: Finding, known: set[tuple[str, str]]) -> bool:
    """An error that the fill makes, or leaves although filling could mend it: not one of the data or the loss."""
    if finding.severity is not Severity.ERROR:
        return False
    return (finding.code, finding.path) not in known or get(finding.code).mends


def mending(task: TrainingTask, spec: ModelSpec, audit: Audit, *, seed: int = 0) -> tuple[Scheme, ...]:
    """The candidate that fills only what errors and warnings name, and keeps the rest; none where that is everything.

    Args:
        task: the training.
        spec: reading of its model.
        audit: what was found.
        seed: of the draw that is audited.
    """
    serious = mendable(f for f in audit.findings if f.severity is not Severity.INFO)
    paths = concerned(spec, serious)
    weights = {p.path for p in spec.fillable if p.role in WEIGHT_ROLES}
    if not paths & weights or weights <= paths:
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said already
        schemes = propose_from_spec(spec, task.model, task.sample, loss=task.loss, renew=paths)
    scheme = mended(spec, schemes, serious)
    if scheme is None or any(_is_own(f, set()) for f in _findings(task, scheme, seed)):
        return ()
    return (scheme,)


def warms_up(task: TrainingTask, model: nn.Module) -> bool | None:
    """Whether the first learning rate is well below what the schedule reaches soon; None where it cannot be asked.

    Args:
        task: the training.
        model: a copy of its model.
    """
    if task.scheduler is None:
        return False
    try:
        optimizer = task.optimizer.build(model, task.rates[0])
        scheduler = task.build_scheduler(optimizer)
        first = max(float(g["lr"]) for g in optimizer.param_groups)
        rates = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer step precedes
            for _ in range(SOON):
                scheduler.step()
                rates.append(max(float(g["lr"]) for g in optimizer.param_groups))
    except Exception as error:  # noqa: BLE001 - a schedule may want a figure, or end
        swallowed("the learning rate's schedule", error)
        return None
    return first < RISES * max(rates)


def _findings(task: TrainingTask, scheme: Scheme | None, seed: int) -> tuple[Finding, ...]:
    try:
        model = task.member() if scheme is None else drawn_model(task, scheme, seed)
        return check_training(model, task.sample, task.loss_of(model), warms_up=warms_up(task, model))
    except InitAdvisorError:
        return ()  # what cannot be filled or called is told by the trials, in the same words
    except Exception as error:  # noqa: BLE001 - logged; advice goes on without the audit
        swallowed("the audit", error)
        return ()
