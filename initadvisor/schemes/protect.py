"""What must not be filled: the user's word for it, and a warning where weights look trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.errors import InputError, nearest
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.paths import matches
from initadvisor.types import WEIGHT_ROLES, Role

USER = "user"
"""``ParamSpec.protected`` of what the user named."""

_FEWEST_COLUMNS = 16
"""Rows shorter than this have sums of squares too noisy to compare."""

_EXCESS = 4.0
"""How many times its independent-draw value the spread of the rows' sizes must have: training leaves 5 to 100 times."""

_MAJORITY = 0.5

_FEWEST_DRAWS = 2
"""Norm layers from which one distribution for all is told from chance."""

_SCATTER = 4.5
"""Standard errors of a mean that are allowed for; of a standard deviation, whose error is smaller by √2, six."""


def protect_spec(
    spec: ModelSpec, model: nn.Module, protect: str | Iterable[str] | Mapping[str, torch.Tensor] | None
) -> ModelSpec:
    """The spec with further parameters marked as not to be filled.

    Args:
        spec: reading of the model.
        model: for the shapes a state dict is compared with.
        protect: path patterns (``"encoder.**"``), or the state dict of what was pretrained: every parameter it holds
            in the same shape is protected, so that of a model partly loaded from it the new head alone is filled.

    Raises:
        InputError: a pattern or the whole state dict matches nothing.

    Example:
        >>> from initadvisor.graph.spec import Coverage, ParamSpec
        >>> fc = ParamSpec("enc.weight", (2, 2), torch.float32, Role.HIDDEN)
        >>> spec = ModelSpec((fc,), (), 1, Coverage(1, 1), "")
        >>> protect_spec(spec, nn.Linear(2, 2), "enc.*")["enc.weight"].protected
        'user'
    """
    if protect is None:
        return spec
    names: dict[str, list[str]] = {}
    for param in spec.params:
        names.setdefault(param.tied_to or param.path, []).append(param.path)
    chosen = _named_by(protect, spec, names)
    params = tuple(
        replace(p, protected=USER) if (p.tied_to or p.path) in chosen and p.protected is None else p
        for p in spec.params
    )
    return replace(spec, params=params)


def _named_by(
    protect: str | Iterable[str] | Mapping[str, torch.Tensor], spec: ModelSpec, names: Mapping[str, list[str]]
) -> set[str]:
    if isinstance(protect, Mapping):
        held = {
            k
            for k, v in protect.items()
            if isinstance(v, torch.Tensor) and k in spec and tuple(v.shape) == spec[k].shape
        }
        chosen = {path for path, every in names.items() if held.intersection(every)}
        if not chosen:
            raise InputError(
                "the state dict given as protect= holds no parameter of the model in its shape; "
                "are its keys prefixed (for example with module.)?"
            )
        return chosen
    chosen = set()
    for pattern in [protect] if isinstance(protect, str) else list(protect):
        # A module's name protects all of it, as people expect.
        found = {
            path
            for path, every in names.items()
            if any(matches(pattern, name) or matches(f"{pattern}.**", name) for name in every)
        }
        if not found:
            raise InputError(
                f'protect="{pattern}" matches no parameter; {nearest(pattern, (p.path for p in spec.params))}'
            )
        chosen |= found
    return chosen


def _row_spread(param: torch.Tensor) -> float | None:
    """Spread of the rows' mean squares, relative to what independent elements would give; None where too small."""
    rows = param.detach().float().flatten(1)
    rows = rows[rows.abs().amax(1) > 0]  # padding rows
    count, columns = rows.shape
    if count < _FEWEST_COLUMNS or columns < _FEWEST_COLUMNS:
        return None
    squares = rows.double().square()
    mean = squares.mean()
    kurtosis = float((squares.square().mean() / mean**2).clamp(1.0, 3.0))
    expected = (kurtosis - 1) / columns
    seen = float((squares.mean(1) / mean).var())
    return seen / expected if expected > 0 else None


def _one_draw(scales: list[torch.Tensor]) -> bool:
    """Several tensors look drawn from one distribution, as DCGAN draws norm scales from N(1, .02).

    Training gives every layer a mean and a spread of its own.
    """
    if len(scales) < _FEWEST_DRAWS:
        return False
    pooled = torch.cat(scales)
    mean, std = float(pooled.mean()), float(pooled.std())
    if std == 0:
        return False
    for t in scales:
        error = _SCATTER / math.sqrt(len(t))
        if len(t) < 2 or abs(float(t.mean()) - mean) > error * std:
            return False
        if not math.exp(-error) < float(t.std()) / std < math.exp(error):
            return False
    return True


def looks_trained(model: nn.Module, spec: ModelSpec) -> str | None:
    """A warning where the weights do not look freshly drawn; None where they do.

    Whatever the initializer, a fresh weight's elements are independent (or orthogonal, which is evener still), so its
    rows are about equally large; and norm scales are constant, or drawn alike in all layers. Training breaks both.

    Args:
        model: with real weights.
        spec: its reading.
    """
    params = dict(model.named_parameters(remove_duplicate=False))
    spreads, norms, scales = [], [], []
    for entry in spec.fillable:
        tensor = params.get(entry.path)
        if tensor is None or is_lazy(tensor) or tensor.is_meta:
            continue
        if entry.role in WEIGHT_ROLES and len(entry.shape) >= 2:
            spread = _row_spread(tensor)
            if spread is not None:
                spreads.append(spread > _EXCESS)
        elif entry.role is Role.NORM_SCALE and entry.numel > 1 and not entry.slices and max(entry.shape) == entry.numel:
            # Of a table with a row per class nothing is known: a fresh embedding is random all over. What is read by
            # the op of its own weight is no norm's scale but the magnitude of a weight norm, which differs from row to
            # row as the weight does.
            if entry.bias_of is not None and spec[entry.bias_of].op == entry.op:
                continue
            low, high = torch.aminmax(tensor.detach())
            norms.append(bool(low != high))
            scales.append(tensor.detach().flatten().double())
    uneven = len(spreads) > 0 and sum(spreads) / len(spreads) > _MAJORITY
    scaled = len(norms) > 0 and sum(norms) / len(norms) > _MAJORITY and not _one_draw(scales)
    if not (uneven or scaled):
        return None
    seen = (
        "most norm scales differ from feature to feature" if scaled else "most weights have rows of very different size"
    )
    return (
        f"the weights do not look freshly drawn ({seen}); if they are trained, protect them "
        '(protect="encoder.**", or protect=state_dict), or every fill throws that training away'
    )
