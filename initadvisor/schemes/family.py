"""What kind of model and training is this? The facts that beliefs about schemes depend on."""

from __future__ import annotations

from enum import StrEnum

from initadvisor.graph.spec import ModelSpec, NormStyle
from initadvisor.schemes.beliefs import figure
from initadvisor.schemes.rules import reading
from initadvisor.schemes.rules.special import is_siren
from initadvisor.training.data import Batch
from initadvisor.types import Role


class Family(StrEnum):
    """Kinds of models on which the same starts do well, told by what the ops do."""

    RECURRENT = "recurrent"
    LANGUAGE = "language"  # attention over tokens looked up in a table
    TRANSFORMER = "transformer"  # any other attention
    GRAPH = "graph"
    FIELD = "field"  # a function of few coordinates
    CONV = "conv"
    TABLES = "tables"  # look-ups without attention: recommenders, categories
    MLP = "mlp"


def is_graph_batch(batch: Batch | None) -> bool:
    """The batch carries edges."""
    if batch is None:
        return False
    return "edge_index" in batch.kwargs or any(hasattr(item, "edge_index") for item in (batch.raw, *batch.args))


def family_of(spec: ModelSpec, batch: Batch | None = None) -> Family:
    """The one family a model belongs to.

    Args:
        spec: its reading.
        batch: tells graphs.

    Example:
        >>> from initadvisor.graph.spec import Coverage
        >>> family_of(ModelSpec((), (), 0, Coverage(0, 0), "")).value
        'mlp'
    """
    tables = bool(spec.with_role(Role.EMBEDDING))
    weights = [p for p in spec.params if reading.is_weight(p)]
    kernels = sum(len(p.shape) > 2 and max(p.shape[2:]) > 1 for p in weights)
    inputs = [p.fan_in for p in spec.with_role(Role.INPUT)]
    told = (
        (bool(spec.with_role(Role.RECURRENT_HIDDEN)), Family.RECURRENT),
        (reading.is_transformer(spec), Family.LANGUAGE if tables else Family.TRANSFORMER),
        (is_graph_batch(batch), Family.GRAPH),
        (2 * kernels > len(weights) > 0, Family.CONV),
        (tables, Family.TABLES),
        (is_siren(spec) or (bool(inputs) and max(inputs) <= figure("coordinates")), Family.FIELD),
    )
    return next((family for holds, family in told if holds), Family.MLP)


def is_pre_norm_language(spec: ModelSpec) -> bool:
    """A language model with norms before its branches and a head of its own."""
    tables = spec.with_role(Role.EMBEDDING)
    return (
        reading.is_transformer(spec)
        and reading.has_style(spec, NormStyle.PRE_NORM)
        and bool(tables)
        and not any(reading.is_tied(t, spec) for t in tables)
    )


def facts_of(spec: ModelSpec, batch: Batch | None = None, steps: int | None = None) -> frozenset[str]:
    """Everything a belief may be conditioned on: the family, and what else holds.

    Args:
        spec: reading of the model.
        batch: where there is one.
        steps: optimizer steps of the full training, None where they are not known.
    """
    facts = {
        "residual": bool(spec.branches),
        "normalised": reading.has_norms(spec),
        "pre_norm_language": is_pre_norm_language(spec),
        "long": steps is not None and steps >= figure("long_steps"),
        "short": steps is not None and steps < figure("long_steps"),
    }
    return frozenset({family_of(spec, batch).value, *(name for name, holds in facts.items() if holds)})


FACTS = frozenset({*Family, "residual", "normalised", "pre_norm_language", "long", "short"})
"""All facts there are; beliefs may name no others."""
