"""Read back what was filled: declared against observed, with tolerances that follow from the number of elements."""

from __future__ import annotations

import math

import torch

from initadvisor.errors import VerificationError
from initadvisor.initializers.card import Declared
from initadvisor.schemes.values import FilledTensor

_STANDARD_ERRORS = 7.0
"""Allowed distance in standard errors. One normal figure passes this in 3e-12 of draws: a model of ten thousand tensors
applied ten thousand times raises no false alarm, while a wrong fan (a factor of √2) of 200 elements is caught."""

_NORMAL_KURTOSIS = 3.0
"""Fourth standardised moment of a normal; no fill without zeros has more."""

_KURTOSIS_SAMPLE = 2**16
"""Elements, evenly spaced, that the kurtosis is estimated from: it only widens a tolerance."""

_SAMPLE = 2**18
"""Elements that mean and standard deviation of independent draws are read from. Seven standard errors of this many are
1.4% of the std for the mean and 1% for the std itself: a wrong gain of any activation lies outside."""

_SAMPLE_BLOCKS = 16
"""Evenly spaced blocks the sample is made of: memory is read in order, and no part of the tensor is left out."""

_ROUNDING = 8.0
"""Units in the last place of the parameter's dtype allowed on top: drawing, scaling and casting round once each."""


def _moments(values: torch.Tensor) -> tuple[float, float, float, float, float]:
    """Mean, standard deviation, kurtosis, minimum and maximum; in passes that cost less than the draw itself."""
    flat = values.detach().reshape(-1)
    if flat.is_complex():  # real and imaginary part have half the variance each
        mean, std, kurtosis, low, high = _moments(torch.view_as_real(flat))
        return mean, std * math.sqrt(2), kurtosis, low, high
    flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    low, high = (float(v) for v in torch.aminmax(flat))
    if low == high or not (math.isfinite(low) and math.isfinite(high)):
        return (low + high) / 2, 0.0, _NORMAL_KURTOSIS, low, high
    mean = float(flat.mean())
    centred = flat - mean
    std = float(torch.linalg.vector_norm(centred)) / math.sqrt(flat.numel())
    if std == 0:
        return mean, std, _NORMAL_KURTOSIS, low, high
    sample = centred[:: max(1, flat.numel() // _KURTOSIS_SAMPLE)].double() / std
    return mean, std, float(sample.pow(4).mean()), low, high


def sample_of(flat: torch.Tensor) -> torch.Tensor:
    """As many elements of a flat tensor as decide its moments, from all over it; the whole where it is small.

    Example:
        >>> sample_of(torch.zeros(10)).numel(), sample_of(torch.zeros(10**6)).numel()
        (10, 262144)
    """
    if flat.numel() <= _SAMPLE:
        return flat
    block = _SAMPLE // _SAMPLE_BLOCKS
    step = (flat.numel() - block) // (_SAMPLE_BLOCKS - 1)
    return torch.cat([flat[i * step : i * step + block] for i in range(_SAMPLE_BLOCKS)])


def check_declared(
    path: str, initializer: str, values: torch.Tensor, declared: Declared, *, independent: bool = False
) -> FilledTensor:
    """Compare the elements of one filled region with what its initializer declares.

    Args:
        path: of the parameter, with its slice, for the message.
        initializer: name of what filled it.
        values: the elements as read back, in the parameter's dtype.
        declared: what they should look like.
        independent: they are independent draws of one law, so that of a large tensor mean and standard deviation are
            read from a sample; lowest and highest, and whether all are finite, always from every element.

    Raises:
        VerificationError: not finite, or mean, standard deviation or bounds are further off than chance allows.

    Example:
        >>> check_declared("w", "constant", torch.ones(4), Declared(mean=1.0, std=0.0)).mean
        1.0
    """
    sample = sample_of(values.detach().reshape(-1)) if independent else values
    mean, std, kurtosis, low, high = _moments(sample)
    count = sample.numel()
    if count < values.numel():
        low, high = (float(v) for v in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            mean = math.nan
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise VerificationError(
            f"{path}: {initializer} left values that are not finite in {values.dtype}; lower its gain or keep the "
            "parameter in float32"
        )
    grain = _ROUNDING * float(torch.finfo(values.dtype).eps)
    scale = max(abs(low), abs(high), declared.std or 0.0)
    slack = grain * scale
    if declared.mean is not None:
        error = _STANDARD_ERRORS * (declared.std if declared.std is not None else std) / math.sqrt(count) + slack
        _demand(path, initializer, "mean", mean, declared.mean, error, count)
    if declared.std is not None:
        # Var(s²) ≈ σ⁴(κ−1)/n, hence s has the standard error σ√((κ−1)/4n). Sparse fills have a large κ, which the
        # sample itself shows.
        spread = declared.std * math.sqrt((max(kurtosis, _NORMAL_KURTOSIS) - 1) / (4 * count))
        # The sample's mean was subtracted: its expected square is short by a factor 1−1/n.
        bias = declared.std * (1 - math.sqrt(1 - 1 / count)) if count > 1 else declared.std
        _demand(
            path, initializer, "standard deviation", std, declared.std, _STANDARD_ERRORS * spread + bias + slack, count
        )
    if declared.low is not None and low < declared.low - slack:
        raise VerificationError(
            f"{path}: {initializer} declares no element below {declared.low:.6g}, read back {low:.6g}"
        )
    if declared.high is not None and high > declared.high + slack:
        raise VerificationError(
            f"{path}: {initializer} declares no element above {declared.high:.6g}, read back {high:.6g}"
        )
    return FilledTensor(path, initializer, declared.mean, declared.std, mean, std)


def _demand(path: str, initializer: str, what: str, seen: float, declared: float, error: float, count: int) -> None:
    if abs(seen - declared) > error:
        raise VerificationError(
            f"{path}: {initializer} declares {what} {declared:.6g}, read back {seen:.6g} from {count} elements "
            f"(chance allows ±{error:.2g}); initializer and declaration disagree, or something rewrote the tensor"
        )


def check_written(path: str, wrote: torch.Tensor, read: torch.Tensor, *, recomputed: bool) -> None:
    """Demand that what is read back is what was written: to the bit, or to rounding where it is recomputed.

    Raises:
        VerificationError: they differ.

    Example:
        >>> check_written("w", torch.ones(2), torch.ones(2), recomputed=False)
    """
    if recomputed:
        tolerance = _ROUNDING * float(torch.finfo(wrote.dtype).eps)
        same = torch.allclose(wrote.float(), read.float(), rtol=tolerance, atol=tolerance * float(wrote.abs().max()))
    else:
        same = torch.equal(wrote, read)
    if not same:
        raise VerificationError(
            f"{path}: the weight reads back different from what was written; its module recomputes it in a way that "
            "has no inverse here. Remove the parametrization, fill, and register it again"
        )
