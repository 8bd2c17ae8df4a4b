"""Which textbook rule a tensor was filled by, and whether it was given the right connection counts.

A rule is told by its variance alone, so a wrong one is named only where the observed variance agrees with it, agrees
with no rule over the true fans, and with no plain constant people use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from initadvisor.checks.statistics import Statistics
from initadvisor.types import Fans

PLAIN_STDS = (1e-4, 1e-3, 2e-3, 5e-3, 6e-3, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0)
"""Standard deviations people type without looking at fans; agreeing with one of them proves nothing."""

FEWEST_JUDGED = 512
"""Values below which a normal draw may look uniform by chance, whose variance would then be judged far too strictly."""

CUT_STD = 0.8796
"""Standard deviation of a standard normal distribution cut at ±2."""

RATIO = 1.5
"""Factor in variance between the wrong and every right rule below which nothing is told: it would train alike."""

TORCH_DEFAULT = "torch's default U(±1/√fan_in)"


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that explains a variance.

    Attributes:
        rule: in words.
        variance: what it gives.
        intended: what it gives over the true fans.
        by_default: it is what torch's layers do when nobody chooses.
    """

    rule: str
    variance: float
    intended: float
    by_default: bool = False

    @property
    def factor(self) -> float:
        """How many times too large (above 1) or too small the variance is."""
        return self.variance / self.intended


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    scale: float
    mode: str

    def variance(self, fan_in: float, fan_out: float) -> float:
        count = {"in": fan_in, "out": fan_out, "avg": (fan_in + fan_out) / 2}[self.mode]
        return self.scale / count if count > 0 else math.inf


_RULES = (
    _Rule("He over fan_in", 2.0, "in"),
    _Rule("He over fan_out", 2.0, "out"),
    _Rule("LeCun, 1/fan_in", 1.0, "in"),
    _Rule("1/fan_out", 1.0, "out"),
    _Rule("Xavier", 1.0, "avg"),
    _Rule("Xavier with gain √2", 2.0, "avg"),
    _Rule("Xavier with tanh's gain 5/3", 25 / 9, "avg"),
    _Rule(TORCH_DEFAULT, 1 / 3, "in"),
)

_ALSO_RIGHT = (
    _Rule("uniform over 1/√fan_out", 1 / 3, "out"),  # torch's recurrent layers: ±1/√hidden
    _Rule("He, LeakyReLU(.2)", 2 / 1.04, "in"),
    _Rule("He, LeakyReLU(.2)", 2 / 1.04, "out"),
    _Rule("tanh's gain", 25 / 9, "in"),
    _Rule("SELU's", 0.5625, "in"),
)
"""Right over the true fans, but too rare to accuse anybody of."""


def torch_fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """What ``torch.nn.init`` takes for fan-in and fan-out of a tensor: second and first axis times all the others.

    Example:
        >>> torch_fans((64, 1, 3, 3))
        (9.0, 576.0)
    """
    field = math.prod(shape[2:])
    return float(shape[1] * field), float(shape[0] * field)


def misfit(seen: Statistics, shape: tuple[int, ...], fans: Fans, *, exchanged: bool = False) -> Match | None:
    """The rule over torch's fans of the whole tensor that explains the variance, where no rule over the true ones does.

    Args:
        seen: of the tensor, or of one of its parts.
        shape: of the whole tensor.
        fans: true connection counts of what was seen.
        exchanged: what torch takes for the fan-in of this layout is its fan-out, so that a variance of 2/fan_out speaks
            for the mistake and not for a choice.

    Returns:
        None where the fans agree, where a right rule explains the variance, or where nothing can be told.
    """
    if len(shape) < 2 or seen.count < FEWEST_JUDGED or not seen.finite or seen.std <= 0 or not seen.centred:
        return None
    if not (seen.is_uniform or _bell(seen)) or _plain(seen):
        return None
    for rule in (*_RULES, *_ALSO_RIGHT):
        by_choice = not (exchanged and rule.mode == "out")
        if by_choice and not seen.contradicts(rule.variance(fans.fan_in, fans.fan_out)):
            return None
    return next(_explaining(seen, shape, fans), None)


def _explaining(seen: Statistics, shape: tuple[int, ...], fans: Fans) -> Iterator[Match]:
    wrong_in, wrong_out = torch_fans(shape)
    for rule in _RULES:
        wrong, right = rule.variance(wrong_in, wrong_out), rule.variance(fans.fan_in, fans.fan_out)
        if max(wrong / right, right / wrong) < RATIO or not seen.agrees(wrong):
            continue
        if rule.name == TORCH_DEFAULT and not seen.is_uniform:
            continue
        yield Match(rule.name, wrong, right, by_default=rule.name == TORCH_DEFAULT)


def _bell(seen: Statistics) -> bool:
    """Normal, or normal with its tails cut (kurtosis 2.06 when cut at two standard deviations)."""
    return seen.is_normal or 1.9 < seen.kurtosis < 3.0


def _plain(seen: Statistics) -> bool:
    """One of the constants people type, as a normal's spread, a cut normal's, or a uniform's bound."""
    if seen.is_uniform:
        return any(seen.agrees(bound**2 / 3) for bound in PLAIN_STDS)
    factors = (1.0,) if seen.is_normal else (1.0, CUT_STD)
    return any(seen.agrees((factor * std) ** 2) for std in PLAIN_STDS for factor in factors)
