"""Everything one call of ``advise`` measured and decided: the single value all reports are rendered from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from initadvisor.checks.finding import Finding
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.scheme import Scheme
from initadvisor.trials.result import RaceResult


@dataclass(frozen=True)
class WeightSample:
    """Histogram of one tensor as the recommended scheme fills it, beside what it declares.

    Attributes:
        path: of the parameter.
        initializer: name of what filled it.
        edges: bin edges, one more than counts.
        counts: elements per bin, of the recommended fill.
        before: elements per bin, of the weights as they came.
        declared_std: standard deviation the initializer declares, None where it is not fixed.
        observed_std: read back.
    """

    path: str
    initializer: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    before: tuple[int, ...]
    declared_std: float | None
    observed_std: float


@dataclass(frozen=True)
class Evidence:
    """What was read, tried and decided.

    Attributes:
        model_name: class name of the model.
        parameter_count: trainable elements.
        spec: the reading of the model.
        schemes: every candidate, ``current`` first.
        race: trials, ranking, decision and cost.
        loss_name: the loss in words, and whether it was inferred.
        optimizer_name: the optimizer in words.
        seed: the seed of everything drawn.
        full_steps: length of the user's full training, None where unknown.
        versions: name -> version of what ran (initadvisor, torch, optuna, python).
        notes: remarks of the analysis, rules and data reading, worth a line each.
        weights: histograms of a few representative tensors.
        findings: what the audit finds wrong with the weights, the data and the loss as they came, the worst first.
    """

    model_name: str
    parameter_count: int
    spec: ModelSpec
    schemes: tuple[Scheme, ...]
    race: RaceResult
    loss_name: str
    optimizer_name: str
    seed: int
    full_steps: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    weights: tuple[WeightSample, ...] = ()
    findings: tuple[Finding, ...] = ()

    def scheme(self, name: str) -> Scheme:
        """The candidate called ``name``; KeyError where there is none."""
        for candidate in self.schemes:
            if candidate.name == name:
                return candidate
        raise KeyError(name)
