"""Which data-driven steps are worth a trial on which model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.beliefs import figure, prior
from initadvisor.schemes.data_driven.registry import get
from initadvisor.schemes.rules.special import is_siren
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Calibration, SchemeKind
from initadvisor.training.data import Batch, tensors_in
from initadvisor.training.losses import Loss
from initadvisor.types import Role

BASE = "rules_orthogonal"
"""The fill they start from: Mishkin and Matas found LSUV best on an orthogonal one, and it has the highest prior."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One data-driven scheme."""

    name: str
    summary: str
    step: Calibration


_CANDIDATES = (
    _Candidate(
        "lsuv",
        "orthogonal weights, rescaled in execution order to unit output variance on the batch",
        Calibration("lsuv"),
    ),
    _Candidate(
        "analytic",
        "orthogonal weights, rescaled to unit output variance by calculation through the graph (AutoInit)",
        Calibration("analytic"),
    ),
    _Candidate(
        "gradinit",
        "orthogonal weights, one factor per tensor learned so that Adam's first step lowers the loss most",
        Calibration("gradinit", (("optimizer", "adam"),)),
    ),
    _Candidate(
        "metainit",
        "orthogonal weights, norms tuned so that the gradient changes least along itself",
        Calibration("metainit"),
    ),
)


def affordable(spec: ModelSpec, batch: Batch) -> bool:
    """Whether second derivatives of this model's loss on this batch cost seconds rather than minutes.

    Every weight is counted once per sample and position: pixels of a picture, tokens of a sequence.
    """
    first = next(tensors_in(batch.inputs), None)
    positions = 1
    if first is not None and first.ndim:
        # How the first weight reads the data says which axes are places: a kernel the last ones, as many as it has; a
        # linear map all but the last; a table of tokens all.
        kernel = max((len(p.shape) - 2 for p in spec.with_role(Role.INPUT)), default=0)
        inner = first.shape[1:-1] if first.is_floating_point() else first.shape[1:]
        positions = math.prod(first.shape[-kernel:] if 0 < kernel <= first.ndim - 2 else inner)
    return sum(p.numel for p in spec.fillable) * (batch.size or 1) * positions <= figure("most_products")


def data_driven(
    spec: ModelSpec,
    batch: Batch | None,
    made: Iterable[Scheme],
    loss: Loss | None = None,
    facts: frozenset[str] = frozenset(),
) -> tuple[Scheme, ...]:
    """Schemes that fill by the rules and then calibrate on the batch.

    None for recurrent layers, whose kernels no calibration sees into; none for sine networks, where the frequency
    factor and not unit variance decides the scale; those that descend on a loss only for small models, and only where
    there is a loss or a target to infer it from.

    Args:
        spec: reading of the model.
        batch: what they will measure on; without one there are none.
        made: the rule schemes, for the one they build on.
        loss: of the training, None where it is not known.
        facts: that hold of the model and its training.
    """
    base = next((s for s in made if s.name == BASE), None)
    depth_known = spec.depth >= figure("calibrated_layers")
    if base is None or batch is None or not depth_known or is_siren(spec) or spec.with_role(Role.RECURRENT_HIDDEN):
        return ()
    has_loss = loss is not None or batch.target is not None
    return tuple(
        replace(
            base,
            name=candidate.name,
            kind=SchemeKind.DATA_DRIVEN,
            summary=candidate.summary,
            calibrations=(candidate.step,),
            prior=prior(candidate.name, facts),
            batch=batch,
        )
        for candidate in _CANDIDATES
        if not get(candidate.step.method).descends or (has_loss and affordable(spec, batch))
    )
