"""What the numbers of one tensor look like, and whether a drawn tensor has a given variance.

Every comparison derives its tolerance from the number of elements: the logarithm of a sample variance scatters by
√((κ − 1)/n), with κ the kurtosis of the elements (3 for a normal, 1.8 for a uniform distribution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

KURTOSIS_SAMPLE = 1 << 16
"""Elements the fourth moment is estimated from; it is then known to 2%, which is all a tolerance needs."""

AGREES = 4.5
"""Standard errors within which a variance agrees with a rule: passed by chance or missed once in 150,000 tensors."""

DISAGREES = 9.0
"""Standard errors beyond which a variance contradicts a rule; twice :data:`AGREES`, so that nothing both agrees with a
wrong rule and nearly agrees with a right one."""

FEWEST = 64
"""Elements below which no distribution is told from another."""

UNIFORM_SLACK = 12.0
"""The largest of n uniform draws falls short of the bound by more than c/n of it with probability e^-c."""

TINIEST = 1e-30
"""No initializer in use draws numbers that small: a normal of any sane std puts one in 1e28 there."""

HUGE = 1e8
"""No weight in use starts that large; bytes read as floats often do."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of one tensor or of one part of it.

    Attributes:
        count: elements.
        nans, infs: how many of them.
        mean, std: of the elements; NaN where some are not finite.
        low, high: smallest and largest.
        kurtosis: fourth standardised moment, 3 for a normal distribution.
        tiny_share: share of nonzero elements below :data:`TINIEST` in size.
        resolution: relative spacing of the numbers of its type.
    """

    count: int
    nans: int
    infs: int
    mean: float
    std: float
    low: float
    high: float
    kurtosis: float
    tiny_share: float
    resolution: float

    @property
    def finite(self) -> bool:
        """No NaN and no infinity."""
        return self.nans == 0 and self.infs == 0

    @property
    def largest(self) -> float:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def rms(self) -> float:
        """Root mean square."""
        return math.hypot(self.mean, self.std)

    @property
    def constant(self) -> bool:
        """All elements are one number."""
        return self.finite and self.count > 0 and self.low == self.high

    @property
    def zero(self) -> bool:
        """All elements are zero."""
        return self.constant and self.low == 0.0

    @property
    def is_uniform(self) -> bool:
        """The largest element and the spread fit a centred uniform distribution, up to the scatter of the sample."""
        if self.std <= 0 or self.count < FEWEST:
            return False
        error = math.sqrt(0.8 / self.count)
        within = (
            abs(math.log(self.largest / (math.sqrt(3) * self.std))) < AGREES * error / 2 + UNIFORM_SLACK / self.count
        )
        return within and abs(self.kurtosis - 1.8) < AGREES * math.sqrt(8 / min(self.count, KURTOSIS_SAMPLE))

    @property
    def is_normal(self) -> bool:
        """Kurtosis and tails fit an untruncated normal distribution, up to the scatter of the sample."""
        if self.std <= 0 or self.count < FEWEST:
            return False
        return abs(self.kurtosis - 3) < AGREES * math.sqrt(24 / min(self.count, KURTOSIS_SAMPLE))

    @property
    def centred(self) -> bool:
        """The mean is zero up to the scatter of the sample."""
        return abs(self.mean) <= AGREES * self.std / math.sqrt(max(1, self.count))

    def log_error(self) -> float:
        """Standard error of the logarithm of the variance."""
        kurtosis = self.kurtosis if math.isfinite(self.kurtosis) else 3.0
        return math.sqrt(max(kurtosis - 1, 0.2) / max(1, self.count)) + self.resolution

    def agrees(self, variance: float) -> bool:
        """A draw with ``variance`` would look like this.

        A uniform draw is judged by its largest element, which is known to 1/n instead of 1/√n.
        """
        if not (variance > 0 and self.std > 0):
            return False
        if self.is_uniform:
            bound = math.sqrt(3 * variance)
            rounding = 4 * self.resolution
            return bound * (1 - UNIFORM_SLACK / self.count - rounding) <= self.largest <= bound * (1 + rounding)
        return abs(2 * math.log(self.std) - math.log(variance)) <= AGREES * self.log_error()

    def contradicts(self, variance: float) -> bool:
        """A draw with ``variance`` would practically never look like this."""
        if not (variance > 0 and self.std > 0):
            return False
        if self.is_uniform:
            short = 2 * (UNIFORM_SLACK / self.count + 4 * self.resolution)
            return not 1 - short <= self.largest / math.sqrt(3 * variance) <= 1 + short
        return abs(2 * math.log(self.std) - math.log(variance)) > DISAGREES * self.log_error()


def statistics_of(tensor: torch.Tensor) -> Statistics:
    """Figures of a tensor, in float32 at least.

    Example:
        >>> s = statistics_of(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
        >>> s.count, s.mean, s.std, s.largest, s.constant
        (4, 0.0, 1.0, 1.0, False)
    """
    flat = tensor.detach()
    flat = torch.view_as_real(flat) if flat.is_complex() else flat
    resolution = torch.finfo(flat.dtype).eps
    flat = flat.reshape(-1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    count = flat.numel()
    if count == 0:
        return Statistics(0, 0, 0, 0.0, 0.0, 0.0, 0.0, math.nan, 0.0, resolution)
    low, high = (float(v) for v in torch.aminmax(flat))
    if not (math.isfinite(low) and math.isfinite(high)):
        nans, infs = int(torch.isnan(flat).sum()), int(torch.isinf(flat).sum())
        return Statistics(count, nans, infs, math.nan, math.nan, low, high, math.nan, 0.0, resolution)
    # The mean of a constant carries rounding errors that would read as a spread.
    if low == high:
        return Statistics(count, 0, 0, low, 0.0, low, high, math.nan, _tiny_share(flat[:1]), resolution)
    variance, mean = torch.var_mean(flat, correction=0)
    std, centre = math.sqrt(float(variance)), float(mean)
    sample = flat[:: max(1, count // KURTOSIS_SAMPLE)]
    return Statistics(count, 0, 0, centre, std, low, high, _kurtosis(sample), _tiny_share(sample), resolution)


def _kurtosis(sample: torch.Tensor) -> float:
    squares = (sample - sample.mean()).square()
    second = float(squares.mean())
    # Divided first: the fourth power of a weight of 1e-10 is no float32.
    return float((squares / second).square().mean()) if second > 0 else math.nan


def _tiny_share(sample: torch.Tensor) -> float:
    size = sample.abs()
    return float(((size > 0) & (size < TINIEST)).float().mean())
