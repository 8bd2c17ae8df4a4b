"""Was this tensor drawn at random, or did somebody set it? A statistical reading of values, and nothing else.

A plain random draw has independent elements around one centre, all of one size. Whatever contradicts that by more than
chance allows was set by its author, or learned: repeated values, ramps and waves, rows that follow each other, a
diagonal, sizes that change from row to row. Each test states its error; none looks at names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import torch

ALPHA = 1e-6
"""Chance, for each test, that a plain draw of independent elements is taken for something that was set."""

_QUANTILE = 4.75
"""Standard normal quantile of :data:`ALPHA`."""

_ROWS, _COLUMNS = 64, 256
"""The corner of a matrix that is looked at: 16,000 elements show any structure, and cost under a millisecond."""

_LINE = 4096
"""Elements of a vector that are looked at."""

_SHUFFLES = 96
"""Shuffled copies of a suspicious tensor. They have its very elements in random order, so that what the formulas assume
of their distribution (tails, zeros) no longer matters."""

_BEYOND = 8.0
"""Standard deviations of the shuffled copies' statistic from which an order is no chance: at most 1 in 65 for any
distribution (Cantelli), on top of :data:`ALPHA` for one without heavy tails."""

_DIGITS = 3
"""A number somebody typed has at most so many significant digits. Of the float32 numbers of one power of ten, some
28 million, 900 have: a draw does once in 30,000."""

_REGULAR = 1e-4
"""Relative accuracy to which equal steps (or ratios) are equal: two steps of a draw agree so once in 5,000."""

_FEWEST_STEPS = 4
"""Elements from which equal steps are no chance: two agreements beyond the first, 4e-8."""

_FEWEST_DIAGONAL = 4

_BITS = {torch.bfloat16: 8, torch.float16: 11}
"""Binary digits of a random element that differ; others are float32 draws of torch, which have 24."""


class Look(StrEnum):
    """What a tensor's values look like."""

    DRAWN = "drawn"  # independent elements around one centre, or too few to say otherwise
    CONSTANT = "constant"  # one number throughout
    STRUCTURED = "structured"  # anything that chance would not make
    BROKEN = "broken"  # holds numbers that are not finite
    UNSEEN = "unseen"  # no values to look at (meta device, no element, integers)


@dataclass(frozen=True, slots=True)
class Found:
    """The reading of one tensor.

    Attributes:
        look: kind of values.
        value: of a constant, else None.
        what: clause that says what gave it away, such as ``"its values repeat"``; empty for draws.
    """

    look: Look
    value: float | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class Deliberate:
    """What an author set in one tensor.

    Attributes:
        what: clause that says how it shows, such as ``"every element is -2"``.
        value: of the whole tensor where it holds one number, else None.
        slices: name -> number of the parts of a packed tensor that were set, where the others were not.
    """

    what: str
    value: float | None = None
    slices: Mapping[str, float] = field(default_factory=dict)


def look_at(tensor: torch.Tensor, centre: float = 0.0) -> Found:
    """Read one tensor's values.

    Of independent draws (any distribution symmetric about ``centre``, zeros among them or not) and of orthogonal
    matrices fewer than 1 in 1,000 are called structured; for tensors of under ten elements little can be seen, so that
    most of what was set is called drawn unless it is typed, regular or repeats.

    Args:
        tensor: any shape, dtype, device.
        centre: what a draw would scatter about (1 for norm scales).

    Example:
        >>> look_at(torch.linspace(-1, 1, 32)).look.value, look_at(torch.full((8,), -2.0)).value
        ('structured', -2.0)
        >>> look_at(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).look.value
        'drawn'
    """
    if tensor.is_meta or not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return Found(Look.UNSEEN)
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    bits = _BITS.get(tensor.dtype, 24)
    low, high = (float(v) for v in torch.aminmax(tensor))
    if not (math.isfinite(low) and math.isfinite(high)):
        return Found(Look.BROKEN, what="holds numbers that are not finite")
    if low == high and (tensor.numel() > 1 or low == 0 or is_typed(tensor)):
        return Found(Look.CONSTANT, low, f"every element is {low:.6g}" if tensor.numel() > 1 else f"it is {low:.6g}")
    if low == high:
        return Found(Look.DRAWN)
    what = _structure(_corner(tensor), bits, centre) or ("its values are round numbers" if is_typed(tensor) else "")
    return Found(Look.STRUCTURED, what=what) if what else Found(Look.DRAWN)


def is_typed(tensor: torch.Tensor) -> bool:
    """Whether all elements have few significant digits, as numbers that people write.

    Example:
        >>> is_typed(torch.tensor([0.1, -2.5])), is_typed(torch.rand(2, generator=torch.Generator().manual_seed(0)))
        (True, False)
    """
    if tensor.dtype not in (torch.float32, torch.float64):
        return False  # coarser numbers have few digits anyway
    values = tensor.detach().reshape(-1)[:_LINE].cpu()
    rounded = torch.tensor([float(f"{v:.{_DIGITS}g}") for v in values.tolist()], dtype=torch.float64).to(values.dtype)
    return bool(torch.equal(rounded, values))


def _corner(tensor: torch.Tensor) -> torch.Tensor:
    """A vector, or the leading corner of the tensor as a matrix, in float64 on the CPU, without axes of one element."""
    squeezed = tensor.squeeze()
    if squeezed.ndim < 2:
        return squeezed.reshape(-1)[:_LINE].to("cpu", torch.float64)
    return squeezed[:_ROWS].flatten(1)[:, :_COLUMNS].to("cpu", torch.float64)


def _structure(values: torch.Tensor, bits: int, centre: float) -> str:
    """What chance would not make, empty where there is nothing of the kind."""
    if _repeats(values, bits):
        return "its values repeat"
    if values.ndim == 1 and _is_regular(values):
        return "its values follow each other in equal steps"
    off = values - centre
    if off.ndim == 2 and _has_diagonal(off):
        return "its diagonal stands out"
    if off.ndim == 2:
        # Rows and columns without any element (padding, taps beside the centre) are not part of a draw.
        off = off[off.any(1)][:, off.any(0)]
    if off.numel() < 2:
        return ""
    for test, what in _TESTS:
        if _is_suspicious(off, test):
            return what
    return ""


def _repeats(values: torch.Tensor, bits: int) -> bool:
    """Some element other than zero occurs more often than the coarseness of its dtype makes likely.

    That m of n draws agree has a chance of at most C(n, m)·p^(m−1), where p bounds the chance of one value.
    """
    flat = values.reshape(-1)
    flat = flat[flat != 0]
    if flat.numel() < 2:
        return False
    _, counts = torch.unique(flat, return_counts=True)
    most, n = int(counts.max()), flat.numel()
    if most < 2:
        return False
    log_chance = math.lgamma(n + 1) - math.lgamma(most + 1) - math.lgamma(n - most + 1)
    log_chance -= (most - 1) * bits * math.log(2)
    # Below the mean count C(n, m)·p^(m-1) is no small number, so nothing is called a repetition there.
    return log_chance < math.log(ALPHA) and most > n * 2.0**-bits


def _is_regular(line: torch.Tensor) -> bool:
    """Equal steps, equal ratios, or a run that only rises or only falls (2/n! of all orders do)."""
    n = line.numel()
    if n < _FEWEST_STEPS:
        return False
    steps = line.diff()
    if bool((steps > 0).all()) or bool((steps < 0).all()):
        if math.log(2) - math.lgamma(n + 1) < math.log(ALPHA):
            return True
        if _all_equal(steps):
            return True
    return bool((line > 0).all() or (line < 0).all()) and _all_equal(line.abs().log().diff())


def _all_equal(steps: torch.Tensor) -> bool:
    size = float(steps.abs().mean())
    return size > 0 and float((steps - steps.mean()).abs().max()) <= _REGULAR * size


def _has_diagonal(matrix: torch.Tensor) -> bool:
    """The mean of the diagonal is further from zero than that of as many independent elements."""
    diagonal = matrix.diagonal()
    k, n = diagonal.numel(), matrix.numel()
    if k < _FEWEST_DIAGONAL or n < 2 * k:
        return False
    rest = float((matrix.square().sum() - diagonal.square().sum()).clamp_min(0)) / (n - k)
    spread = math.sqrt(rest) or math.sqrt(float(diagonal.square().mean())) / _BEYOND
    return abs(float(diagonal.sum())) > _BEYOND * spread * math.sqrt(k)


def _chi_square(value: float, freedom: float) -> float:
    """A chi-square value as a standard normal one (Wilson and Hilferty 1931)."""
    if freedom <= 0:
        return 0.0
    share = 2 / (9 * freedom)
    return (float(math.pow(max(value, 0.0) / freedom, 1 / 3)) - (1 - share)) / math.sqrt(share)


def _off_centre(x: torch.Tensor) -> float:
    return abs(float(x.sum())) / math.sqrt(float(x.square().sum()) or 1.0)


def _neighbours(x: torch.Tensor, axis: int) -> float:
    """Likeness of elements that lie side by side along an axis: of each line by itself, and of all together."""
    x = x.movedim(axis, -1)
    pairs = x.shape[-1] - 1
    if pairs < 1:
        return 0.0
    variance = float(x.square().mean()) or 1.0
    products = (x[..., 1:] * x[..., :-1]).sum(-1).reshape(-1) / (variance * math.sqrt(pairs))
    each = _chi_square(float(products.square().sum()), products.numel())
    together = abs(float(products.sum())) / math.sqrt(products.numel())
    return max(each, together)


def _sizes(x: torch.Tensor) -> torch.Tensor:
    size = x.abs()
    return size - size.mean()


def _rows_alike(x: torch.Tensor) -> float:
    """Likeness of any two rows, as of a matrix of low rank; rows of an orthogonal one are less alike than chance."""
    if x.ndim < 2 or x.shape[0] < 2 or x.shape[1] < 2:
        return 0.0
    gram = torch.nn.functional.normalize(x, dim=1)
    cosines = (gram @ gram.T).square()
    k = x.shape[0]
    pairs = k * (k - 1) / 2
    return _chi_square(float((cosines.sum() - cosines.diagonal().sum()) / 2) * x.shape[1], pairs)


def _uneven(x: torch.Tensor, axis: int) -> float:
    """How far rows (or columns) differ in size, against what independent elements of this kurtosis would."""
    if x.ndim < 2 or min(x.shape) < 2:
        return 0.0
    squares = x.square()
    mean = float(squares.mean()) or 1.0
    kurtosis = float(squares.square().mean()) / mean**2
    rows = squares.mean(1 - axis) / mean
    expected = max(kurtosis - 1, 0.1) / x.shape[1 - axis]
    return _chi_square(float((rows - 1).square().sum()) / expected, rows.numel() - 1)


Test = Callable[[torch.Tensor], float]
"""Values about zero -> a statistic that is roughly standard normal (or below) for a plain draw."""

_TESTS: tuple[tuple[Test, str], ...] = (
    (_off_centre, "its values lie to one side"),
    (lambda x: _neighbours(x, 0), "its values follow each other along the first axis"),
    (lambda x: _neighbours(x, -1), "its values follow each other along the last axis"),
    (_rows_alike, "its rows resemble each other"),
    (lambda x: max(_uneven(x, 0), _uneven(x, 1)), "its rows or columns differ in size"),
    (lambda x: _neighbours(_sizes(x), 0), "the size of its values changes along the first axis"),
    (lambda x: _neighbours(_sizes(x), -1), "the size of its values changes along the last axis"),
)


def _is_suspicious(x: torch.Tensor, test: Test) -> bool:
    """The statistic is beyond chance by its formula, and (but for the centre) beyond that of shuffled copies."""
    seen = test(x)
    if seen <= _QUANTILE:
        return False
    if test is _off_centre:
        return True
    generator = torch.Generator().manual_seed(0)
    flat = x.reshape(-1)
    copies = [test(flat[torch.randperm(flat.numel(), generator=generator)].reshape(x.shape)) for _ in range(_SHUFFLES)]
    mean = sum(copies) / _SHUFFLES
    spread = math.sqrt(sum((c - mean) ** 2 for c in copies) / (_SHUFFLES - 1))
    return seen > max(max(copies), mean + _BEYOND * spread)
