"""Small plots of block characters, for terminals; every function returns lines of a fixed width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS = " ▁▂▃▄▅▆▇█"
"""Eighths of a character cell."""

NOT_FINITE = "!"
"""Marks a value that is infinite or not a number, at the top of its column."""

NOTHING = "0"
"""Marks an exact zero on a logarithmic axis, at the bottom of its column."""

MOST_DECADES = 12
"""A logarithmic axis shows at most so many powers of ten below its top: float32 gradients below that are dead."""

LEAST_RATIO = 10.0
"""A logarithmic axis spans at least this factor, so that a steady signal looks steady."""

SMALLEST, LARGEST = 1e-300, 1e300
"""Ends of every axis: with room to spare below the range of floats, so that widening an axis cannot leave it."""

LABEL_WIDTH = 7
"""Columns of the axis labels, ``1.2e-07``."""

ASCII_TWINS = {
    **dict(zip("▁▂▃▄▅▆▇█", "__--==##", strict=True)),
    **dict.fromkeys("─━╌–—−╴╶", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛╞╡╪╇╋", "+"),
    "×": "x", "→": ">", "·": "-", "•": "*", "…": "~", "√": "v", "σ": "s", "π": "p", "≥": ">", "≤": "<", "±": "~",
    "“": '"', "”": '"', "’": "'", "∞": "8", "²": "2", "◂": "<", "≈": "~", "▪": "*", "█": "#",
}  # fmt: skip
"""One-to-one replacements, so that the layout survives where only ASCII can be shown."""


def to_ascii(text: str) -> str:
    """``text`` in ASCII, same number of characters.

    Example:
        >>> to_ascii("█▄ 3×3 → ok")
        '#- 3x3 > ok'
    """
    return "".join(c if ord(c) < 128 else ASCII_TWINS.get(c, "?") for c in text)


@dataclass(frozen=True)
class Axis:
    """A vertical axis that several panels share, so that they can be compared by eye.

    Attributes:
        low, high: ends, in units of the data.
        log: logarithmic.
    """

    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """Position of ``value`` between 0 (bottom) and 1 (top), clipped."""
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, position: float) -> float:
        """Value at a position between 0 and 1."""
        if self.log:
            return float(self.low * (self.high / self.low) ** position)
        return self.low + position * (self.high - self.low)


def log_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis that holds all finite positive values, at least a decade and at most twelve."""
    positive = [v for v in values if math.isfinite(v) and v > 0]
    if not positive:
        return Axis(0.1, 1.0, log=True)
    high = min(max(*positive, SMALLEST), LARGEST)
    low = min(max(min(positive), high / 10.0**MOST_DECADES, SMALLEST), high)
    if high / low < LEAST_RATIO:
        middle = math.sqrt(high) * math.sqrt(low)  # their product may be outside the range of floats
        low, high = middle / math.sqrt(LEAST_RATIO), middle * math.sqrt(LEAST_RATIO)
    return Axis(low, high, log=True)


def linear_axis(values: Sequence[float]) -> Axis:
    """A linear axis over all finite values, from zero where they are near it."""
    finite = [min(max(v, -LARGEST), LARGEST) for v in values if math.isfinite(v)]
    if not finite:
        return Axis(0.0, 1.0, log=False)
    low, high = min(finite), max(finite)
    if 0 <= low < 0.5 * high:
        low = 0.0
    return Axis(low, high if high > low else low + max(abs(low), 1.0) * 0.1, log=False)


def resample(values: Sequence[float | None], columns: int) -> list[float | None]:
    """``values`` as ``columns`` figures: stretched where there are fewer, the worst of each stretch where more.

    "Worst" is what is not finite, else the smallest: a dead layer must not vanish between two healthy ones. None is
    "no value here" and stays blank.
    """
    if not values:
        return []
    shown: list[float | None] = []
    for column in range(columns):
        start = column * len(values) // columns
        stop = max(start + 1, (column + 1) * len(values) // columns)
        part = [v for v in values[start:stop] if v is not None]
        bad = [v for v in part if not math.isfinite(v)]
        shown.append(bad[0] if bad else min(part, default=None))
    return shown


def bars(values: Sequence[float | None], axis: Axis, *, width: int, height: int) -> list[str]:
    """Columns of blocks, ``height`` lines of ``width`` characters, top first.

    Example:
        >>> for line in bars([1, 10, 100], Axis(1, 100, True), width=3, height=2): print(repr(line))
        '  █'
        '▁██'
    """
    grid = [[" "] * width for _ in range(height)]
    for x, value in enumerate(resample(values, width)):
        if value is None:
            continue
        if not math.isfinite(value):
            grid[0][x] = NOT_FINITE
            continue
        if axis.log and value <= 0:
            grid[-1][x] = NOTHING
            continue
        # The least visible mark is one eighth: a value at the foot of the axis is still there.
        eighths = max(1, round(axis.place(value) * height * 8))
        for y in range(height):
            filled = min(8, max(0, eighths - 8 * (height - 1 - y)))
            grid[y][x] = BLOCKS[filled]
    return ["".join(row) for row in grid]


def ticks(values: Sequence[float]) -> list[str]:
    """Axis labels of at most seven characters, with as many digits as tell them apart where there is room.

    Example:
        >>> ticks([0.25, 1.2e-7]), ticks([1500.0, 2.30259]), ticks([2.305, 2.302])
        (['0.25', '1.2e-07'], ['1.5e+03', '2.3'], ['2.31', '2.3'])
    """
    labels = [f"{v:.2g}" for v in values]
    for digits in (3, 4, 5):
        if len(set(labels)) == len(set(values)):
            break
        finer = [f"{v:.{digits}g}" for v in values]
        if max(map(len, finer)) > LABEL_WIDTH:
            break
        labels = finer
    return labels


def panel(
    values: Sequence[float | None], axis: Axis, *, title: str, foot: tuple[str, str], width: int, height: int
) -> list[str]:
    """One plot with its title, axis labels and foot, every line exactly ``width`` characters wide.

    Args:
        values: what to draw, left to right.
        axis: the vertical axis.
        title: first line, cut to the width.
        foot: what stands under the left and the right end.
        width: of the whole panel, labels included.
        height: lines of the drawing itself.
    """
    inner = max(4, width - LABEL_WIDTH - 2)
    columns = min(inner, stretched(len(values), inner))
    rows = {0: axis.high, height - 1: axis.low}
    if height >= 5:
        rows[height // 2] = axis.at(1 - (height // 2 + 0.5) / height)
    labels = dict(zip(rows, ticks(list(rows.values())), strict=True))
    lines = [title]
    drawn = bars(values, axis, width=columns, height=height) if values else ["(not measured)", *[""] * (height - 1)]
    lines += [f"{labels.get(y, ''):>{LABEL_WIDTH}} │{row}" for y, row in enumerate(drawn)]
    left, right = foot
    gap = max(1, columns - len(left) - len(right))
    lines.append(" " * (LABEL_WIDTH + 1) + "└" + "─" * columns)
    lines.append(" " * (LABEL_WIDTH + 2) + left + " " * gap + right)
    return [fit(line, width) for line in lines]


def stretched(points: int, room: int) -> int:
    """Columns to use for so many points: the largest whole multiple that fits, so that all points are equally wide.

    Example:
        >>> stretched(10, 35), stretched(50, 35), stretched(0, 35)
        (30, 35, 35)
    """
    return points * (room // points) if 0 < points <= room else room


def fit(text: str, width: int) -> str:
    """``text`` cut or padded to exactly ``width`` characters.

    Example:
        >>> fit("abcdef", 4), fit("ab", 4)
        ('abc…', 'ab  ')
    """
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def beside(left: Sequence[str], right: Sequence[str], gap: int) -> list[str]:
    """Two panels of equal height next to each other."""
    return [a + " " * gap + b for a, b in zip(left, right, strict=True)]
