"""How figures are written in every report: few digits, honest about what is not a number."""

from __future__ import annotations

import math

SIGNIFICANT = 3
"""Digits of a loss or a norm: held-out losses of short trainings are seldom reproducible beyond the third."""

SMALLEST_P = 0.001
"""Below this a p-value is told as a bound: with a handful of seeds its further digits mean nothing."""


def number(value: float | None) -> str:
    """A figure with three significant digits, plain where it is short that way.

    Example:
        >>> number(2.3025), number(0.0123), number(1.5e-7), number(1234567.0), number(float("inf")), number(None)
        ('2.30', '0.0123', '1.5e-07', '1.23e+06', 'inf', '–')
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "−inf"
    size = abs(value)
    if size == 0:
        return "0"
    if 1e-3 <= size < 1e5:
        decimals = max(0, SIGNIFICANT - 1 - math.floor(math.log10(size)))
        text = f"{value:.{decimals}f}"
    else:
        text = f"{value:.{SIGNIFICANT}g}"
    return text.replace("-", "−", 1) if value < 0 else text


def rate(value: float) -> str:
    """A learning rate, as people write it.

    Example:
        >>> rate(0.03), rate(1e-4), rate(float("nan"))
        ('0.03', '0.0001', '–')
    """
    return "–" if math.isnan(value) else f"{value:.4g}"


def count(value: float) -> str:
    """A whole number with thousands separated.

    Example:
        >>> count(18400)
        '18,400'
    """
    return f"{value:,.0f}"


def plural(value: int, noun: str, many: str = "") -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "seed"), plural(3, "seed"), plural(2, "bias", "biases")
        ('1 seed', '3 seeds', '2 biases')
    """
    return f"{count(value)} {noun if value == 1 else many or noun + 's'}"


def share(value: float) -> str:
    """A share as a percentage.

    Example:
        >>> share(0.123), share(0.004), share(1.0)
        ('12%', '0.4%', '100%')
    """
    percent = 100 * value
    return f"{percent:.0f}%" if percent >= 1 or percent == 0 else f"{percent:.2g}%"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(0.4), duration(41.2), duration(200), duration(7300)
        ('0.4 s', '41 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def p_value(value: float) -> str:
    """A p-value, bounded where it is tiny.

    Example:
        >>> p_value(0.00001), p_value(0.042)
        ('p < 0.001', 'p = 0.042')
    """
    return f"p < {SMALLEST_P}" if value < SMALLEST_P else f"p = {value:.2g}"


def size(elements: int) -> str:
    """A parameter count in thousands, millions or billions.

    Example:
        >>> size(812), size(85_002), size(124_400_000)
        ('812', '85.0k', '124M')
    """
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if elements >= scale:
            scaled = elements / scale
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return str(elements)


def dims(shape: tuple[int, ...]) -> str:
    """A shape as people write it.

    Example:
        >>> dims((64, 3, 7, 7)), dims(())
        ('64×3×7×7', 'scalar')
    """
    return "×".join(map(str, shape)) if shape else "scalar"
