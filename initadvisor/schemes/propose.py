"""Candidate schemes for one model: the weights as they came, torch's default, what rules say, what people try."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.errors import InitAdvisorError, swallowed
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes import build
from initadvisor.schemes.beliefs import figure, prior
from initadvisor.schemes.blueprints import RULE_BLUEPRINTS, TEXTBOOK_BLUEPRINTS, Blueprint
from initadvisor.schemes.build import DeadBranchError
from initadvisor.schemes.data_driven.candidates import data_driven
from initadvisor.schemes.deliberate import constants_of, deliberate_values
from initadvisor.schemes.distinct import distinct
from initadvisor.schemes.family import facts_of
from initadvisor.schemes.first_step import first_steps
from initadvisor.schemes.protect import looks_trained, protect_spec
from initadvisor.schemes.rules.rule import Context
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.targets import output_bias
from initadvisor.schemes.values import SchemeKind
from initadvisor.training.calls import trained_batch
from initadvisor.training.data import Batch, first_batch
from initadvisor.training.losses import Loss
from initadvisor.types import TORCH_DEFAULT

_TRIED = (SchemeKind.RULES, SchemeKind.TEXTBOOK)

_MOST_ELEMENTS = 10_000_000
"""Elements of a model up to which every proposal is drawn once to look at its first pass: a second or two in all."""

MOST_CANDIDATES = int(figure("most_candidates"))


def torch_default_scheme(
    spec: ModelSpec,
    context: Context | None = None,
    companions: Iterable[str] = (),
    facts: frozenset[str] | None = None,
) -> Scheme:
    """What torch's own ``reset_parameters`` would draw for every layer of torch's; other tensors keep their values.

    Args:
        spec: reading of the model.
        context: for the values of constant parameters.
        companions: paths written together with others.
        facts: of the model and its training; None reads them from the spec.
    """
    return build.scheme_from_rules(
        TORCH_DEFAULT,
        SchemeKind.DEFAULT,
        "what torch's own reset_parameters draws",
        spec,
        ("torch_default",),
        context=context,
        prior=prior(TORCH_DEFAULT, facts_of(spec) if facts is None else facts),
        companions=companions,
    )


def _from_blueprint(
    blueprint: Blueprint, spec: ModelSpec, found: Context, companions: Iterable[str], facts: frozenset[str]
) -> Scheme | None:
    """The blueprint's scheme for one model; None where it would zero both a gate and the weight behind it."""
    context = replace(
        blueprint.context,
        constants=found.constants,
        deliberate=found.deliberate,
        output_bias=found.output_bias,
        output_bias_why=found.output_bias_why,
    )
    try:
        return build.scheme_from_rules(
            blueprint.name,
            blueprint.kind,
            blueprint.summary,
            spec,
            blueprint.order,
            context=context,
            prior=prior(blueprint.name, facts),
            companions=companions,
        )
    except DeadBranchError:
        # The author's own constants (a branch scale that came as zero) make this combination untrainable.
        return None


def propose_from_spec(
    spec: ModelSpec,
    model: nn.Module,
    batch: Any = None,
    *,
    protect: str | Iterable[str] | Mapping[str, torch.Tensor] | None = None,
    loss: Loss | None = None,
    renew: Iterable[str] = (),
    steps: int | None = None,
) -> tuple[Scheme, ...]:
    """Candidates for a model that has been read already.

    What the author of the model set on purpose is kept by all of them (:mod:`initadvisor.schemes.deliberate`).

    Args:
        spec: reading of the model.
        model: the module itself: the values its author gave to constants, and whether it looks trained.
        batch: one batch or a loader, for what its targets say of the output bias and for data-driven schemes.
        protect: parameters to leave alone (see :func:`initadvisor.schemes.protect.protect_spec`).
        loss: of the training, where it is known; without one, schemes that descend on it need a batch with a target.
        renew: paths whose values are known to be at fault, so that they are filled whatever they look like.
        steps: optimizer steps of the full training, where they are known: what is believed in may depend on them.

    Returns:
        Up to 24 schemes no two of which would draw the same: ``current``, ``torch_default``, then by prior belief.
    """
    spec = protect_spec(spec, model, protect)
    one = first_batch(model, batch) if batch is not None else None
    bias, why = output_bias(spec, one)
    context = Context(
        constants=constants_of(model, spec),
        deliberate=deliberate_values(model, spec, renew),
        output_bias=bias,
        output_bias_why=why,
    )
    companions = build.companions_of(model)
    facts = facts_of(spec, one, steps)
    fitting = (
        _from_blueprint(blueprint, spec, context, companions, facts)
        for blueprint in (*RULE_BLUEPRINTS, *TEXTBOOK_BLUEPRINTS)
        if blueprint.applies(spec, one) and (blueprint.name != "rules_output_prior" or bias)
    )
    made = [scheme for scheme in fitting if scheme is not None]
    made.extend(data_driven(spec, one, made, loss, facts))
    made.sort(key=lambda s: -s.prior)
    control = build.current_scheme(spec)
    default = torch_default_scheme(spec, context, companions, facts)
    return distinct((control, default, *made))[:MOST_CANDIDATES]


def propose(model: nn.Module, sample_batch: Any, *, loss: Callable[..., Any] | None = None) -> tuple[Scheme, ...]:
    """Distinct candidate schemes for a model, without any training.

    Args:
        model: any module; left exactly as it was.
        sample_batch: ``(x, y)``, a dict, or an iterable of batches.
        loss: of the training, where that calls the model otherwise than with the batch (see ``analyze``).

    Returns:
        ``current`` (the weights as they came) first, then ``torch_default``, then by prior belief. Each has ``.name``,
        ``.reasons`` and ``.apply(model, seed=0)``.

    Raises:
        AnalysisError: the model cannot be run on the batch.
        InputError: the batch cannot be used.

    Example:
        >>> model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
        >>> [s.name for s in propose(model, torch.randn(8, 16))][:3]
        ['current', 'torch_default', 'rules_orthogonal']
    """
    from initadvisor.graph.analyze import analyze

    batch = trained_batch(model, sample_batch, loss)
    spec = analyze(model, batch)
    warning = looks_trained(model, spec)
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    return _sound(propose_from_spec(spec, model, batch), model, batch, loss)


def _sound(
    schemes: tuple[Scheme, ...], model: nn.Module, batch: Batch, loss: Callable[..., Any] | None
) -> tuple[Scheme, ...]:
    """Without those whose first step is worse than it was and that nothing explains.

    Both baselines stay, whatever they do, and what measures on the data first. Where no loss fits the batch, or the
    model is large, nothing is tried: the race looks at each start anyway.
    """
    tried = {s.name: s for s in schemes if s.kind in _TRIED and not s.calibrations}
    parameters = list(model.parameters())
    if any(is_lazy(p) or p.is_meta for p in parameters) or sum(p.numel() for p in parameters) > _MOST_ELEMENTS:
        return schemes
    try:
        found = first_steps(model, batch, tried, loss=loss)
    except InitAdvisorError:
        return schemes
    except (RuntimeError, ValueError, TypeError, ArithmeticError, NotImplementedError) as error:
        swallowed("the first pass of what is proposed", error)
        return schemes
    return tuple(s for s in schemes if s.name not in found or found[s.name].holds)
