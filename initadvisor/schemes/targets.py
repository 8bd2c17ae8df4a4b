"""What a batch's targets say about the output layer's bias before anything is learned."""

from __future__ import annotations

import math

import torch

from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.rules.head import log_priors
from initadvisor.schemes.rules.reading import weight_of_bias
from initadvisor.training.data import Batch
from initadvisor.types import Role

_MOST_OUTPUTS = 64
"""Above this many outputs a batch holds too few samples of each to say anything."""

_FEWEST_SAMPLES = 16
"""Below this many targets their average is mostly noise."""

_UNEVEN = 4.0
"""Standard errors a class share (or a mean) must be away from even (from zero) before a bias is worth its name."""

_MEAN_MATTERS = 0.25
"""A target mean below this share of the target's spread is learned in a few steps by itself."""


def _output_count(spec: ModelSpec) -> int | None:
    """Length of the one output bias, None where there is none or several."""
    found = [
        p.shape[0]
        for p in spec.params
        if p.role is Role.BIAS
        and len(p.shape) == 1
        and (weight := weight_of_bias(p, spec)) is not None
        and weight.role is Role.OUTPUT
    ]
    return found[0] if len(found) == 1 else None


def output_bias(spec: ModelSpec, batch: Batch | None) -> tuple[tuple[float, ...], str]:
    """Values for the output bias and where they come from; empty where the targets say nothing worth saying.

    Class indices give the logarithm of each class's share, if the shares are not even; zeros and ones give log odds
    (Lin et al. 2017, section 4.1); other numbers give their mean, if it is not small beside their spread.

    Args:
        spec: of the model.
        batch: with its target, or None.
    """
    outputs = _output_count(spec)
    target = batch.target if batch is not None else None
    if outputs is None or outputs > _MOST_OUTPUTS or not isinstance(target, torch.Tensor) or target.is_meta:
        return (), ""
    if target.numel() < _FEWEST_SAMPLES:
        return (), ""
    if not target.is_floating_point():
        binary = outputs == 1 and bool(((target == 0) | (target == 1)).all())
        return _from_numbers(target, outputs) if binary else _from_classes(target, outputs)
    return _from_numbers(target, outputs)


def _from_classes(target: torch.Tensor, outputs: int) -> tuple[tuple[float, ...], str]:
    labels = target.detach().reshape(-1).cpu().long()
    labels = labels[(labels >= 0) & (labels < outputs)]  # ignore_index is negative
    count = labels.numel()
    if outputs < 2 or count < _FEWEST_SAMPLES:
        return (), ""
    shares = torch.bincount(labels, minlength=outputs).double() / count
    error = math.sqrt((1 / outputs) * (1 - 1 / outputs) / count)
    if float((shares - 1 / outputs).abs().max()) < _UNEVEN * error:
        return (), ""
    return log_priors(
        tuple(shares.tolist()), count
    ), f"log class shares of the batch's {count} targets, which are not even"


def _from_numbers(target: torch.Tensor, outputs: int) -> tuple[tuple[float, ...], str]:
    values = target.detach().double().cpu()
    values = values.reshape(-1, 1) if outputs == 1 else values.reshape(-1, values.shape[-1])
    if values.shape[-1] != outputs or values.shape[0] < _FEWEST_SAMPLES or not bool(torch.isfinite(values).all()):
        return (), ""
    mean = values.mean(0)
    if bool(((values == 0) | (values == 1)).all()):
        floor = 0.5 / values.shape[0]
        odds = torch.logit(mean.clamp(floor, 1 - floor))
        spread = 0.5 / math.sqrt(values.shape[0])
        if float((mean - 0.5).abs().max()) < _UNEVEN * spread:
            return (), ""
        return tuple(odds.tolist()), f"log odds of the positives among the batch's {values.shape[0]} targets"
    if float(mean.abs().max()) < _MEAN_MATTERS * float(values.std(0).max()):
        return (), ""
    return tuple(mean.tolist()), f"means of the batch's {values.shape[0]} targets"
