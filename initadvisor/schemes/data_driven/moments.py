"""Mean, variance and likeness of signals, and what each kind of op makes of them: the arithmetic of AutoInit.

A signal is described by the distribution of one of its elements, and by how much two positions of one sample have in
common. The last is what AutoInit leaves out and what pooling needs: deep in a ReLU net all positions are nearly alike,
and their average varies hardly less than each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

Elementwise = Callable[[torch.Tensor], torch.Tensor]

_REACH = 8.0
_POINTS = 1601
"""Grid of the one-dimensional integrals; the kink of ReLU costs 1e-5 there."""
_COARSE = 81
"""Grid per axis of the two-dimensional ones; they decide a factor of pooling only, where 1e-3 is plenty."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Moments:
    """One signal.

    Attributes:
        mean: of its elements.
        variance: of its elements, over units, positions and samples.
        shared: covariance of two positions of one unit in one sample, between 0 and ``variance``.
    """

    mean: float = 0.0
    variance: float = 1.0
    shared: float = 0.0

    @property
    def second(self) -> float:
        """Second moment."""
        return self.variance + self.mean**2


UNIT = Moments()
"""What is assumed of data, and of whatever is not understood."""


def of_tensor(tensor: torch.Tensor) -> Moments:
    """Of the elements of a tensor; it is the same at every position, so all its variance is shared."""
    flat = tensor.detach().double()
    variance = float(flat.var(correction=0)) if flat.numel() > 1 else 0.0
    return Moments(float(flat.mean()), variance, variance)


def scaled(signal: Moments, factor: float, shift: float = 0.0) -> Moments:
    """factor·x + shift."""
    square = factor * factor
    return Moments(factor * signal.mean + shift, square * signal.variance, square * signal.shared)


def added(one: Moments, other: Moments, sign: float = 1.0) -> Moments:
    """Sum of independent signals.

    Example:
        >>> added(Moments(1.0, 2.0), Moments(0.5, 1.0))
        Moments(mean=1.5, variance=3.0, shared=0.0)
    """
    return Moments(one.mean + sign * other.mean, one.variance + other.variance, one.shared + other.shared)


def multiplied(one: Moments, other: Moments) -> Moments:
    """Product of independent signals."""
    mean = one.mean * other.mean
    common = (one.shared + one.mean**2) * (other.shared + other.mean**2) - mean**2
    return Moments(mean, one.second * other.second - mean**2, max(common, 0.0))


def joined(signals: list[tuple[Moments, float]]) -> Moments:
    """Of a concatenation; each part with its share of the elements."""
    total = sum(share for _, share in signals)
    mean = sum(s.mean * share for s, share in signals) / total
    second = sum(s.second * share for s, share in signals) / total
    shared = sum((s.shared + s.mean**2) * share for s, share in signals) / total
    return Moments(mean, max(second - mean**2, 0.0), max(shared - mean**2, 0.0))


def mapped(signal: Moments, weight: Moments, fan_in: float) -> Moments:
    """Of a linear map whose weights are independent: Bingham & Miikkulainen 2023, eq. 1, for any mean of the weights.

    Example:
        >>> mapped(Moments(1.0, 1.0), Moments(0.0, 0.01), 100.0).variance
        2.0
    """

    def spread(within: float) -> float:
        return fan_in * (weight.variance * (within + signal.mean**2) + weight.mean**2 * within)

    return Moments(fan_in * weight.mean * signal.mean, spread(signal.variance), spread(signal.shared))


def averaged(signal: Moments, count: float) -> Moments:
    """Mean over ``count`` positions of one unit."""
    return replace(signal, variance=signal.shared + (signal.variance - signal.shared) / max(count, 1.0))


def dropped(signal: Moments, rate: float) -> Moments:
    """After dropout, which keeps the mean and raises the second moment."""
    return replace(signal, variance=signal.second / (1 - rate) - signal.mean**2) if 0 < rate < 1 else signal


@lru_cache(maxsize=2)
def _grid(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.linspace(-_REACH, _REACH, points, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square())
    return z, density / density.sum()


def bent(signal: Moments, fn: Elementwise) -> Moments:
    """After an elementwise function, the signal being Gaussian.

    Args:
        signal: before.
        fn: evaluated in float64.

    Example:
        >>> after = bent(Moments(0.0, 1.0), torch.relu)
        >>> round(after.mean, 4), round(after.second, 4)
        (0.3989, 0.5)
    """
    deviation = math.sqrt(max(signal.variance, 0.0))
    z, weight = _grid(_POINTS)
    value = fn(signal.mean + deviation * z).double()
    mean = float((value * weight).sum())
    variance = max(float((value.square() * weight).sum()) - mean**2, 0.0)
    return Moments(mean, variance, min(_shared_after(signal, fn, deviation), variance))


def _shared_after(signal: Moments, fn: Elementwise, deviation: float) -> float:
    """Covariance of fn at two positions: the variance of its mean given what the positions have in common."""
    if signal.variance <= _TINY or signal.shared <= _TINY:
        return 0.0
    likeness = min(signal.shared / signal.variance, 1.0)
    z, weight = _grid(_COARSE)
    common, own = math.sqrt(likeness) * z[:, None], math.sqrt(1 - likeness) * z[None, :]
    value = fn((signal.mean + deviation * (common + own)).reshape(-1)).double().reshape(_COARSE, _COARSE)
    given = (value * weight).sum(dim=1)
    mean = float((given * weight).sum())
    return max(float((given.square() * weight).sum()) - mean**2, 0.0)
