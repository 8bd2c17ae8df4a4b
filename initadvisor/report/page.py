"""A page of terminal text: width, colour and character set decided once, then headings, sentences and tables."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from initadvisor.plaintext import plain
from initadvisor.report.termplot import to_ascii

if TYPE_CHECKING:
    from rich.console import RenderableType

NARROWEST, WIDEST = 40, 160
"""Columns a page is clamped to: below, tables fall apart; above, lines are too long to read."""


def wants_color() -> bool:
    """Whether standard output should carry colour: a terminal that is not dumb, and no ``NO_COLOR``.

    ``NO_COLOR`` counts where it is set to anything but the empty string (no-color.org).
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or sys.stdout is None:
        return False
    return sys.stdout.isatty()


def speaks_unicode() -> bool:
    """Whether standard output can show block characters."""
    try:
        "█▁─→×".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def terminal_width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


class Page:
    """Collects what is told and gives it back as one string, no line longer than ``width``."""

    def __init__(self, *, width: int | None = None, color: bool | None = None, unicode: bool | None = None) -> None:
        """Decide the format.

        Args:
            width: columns; None takes the terminal's.
            color: None decides by standard output and ``NO_COLOR``.
            unicode: None decides by standard output's encoding.
        """
        from rich.console import Console

        self.width = min(WIDEST, max(NARROWEST, width if width is not None else terminal_width()))
        self.unicode = speaks_unicode() if unicode is None else unicode
        colored = wants_color() if color is None else color
        self._file = StringIO()
        self._console = Console(
            file=self._file,
            width=self.width,
            color_system="standard" if colored else None,
            force_terminal=colored,
            no_color=not colored,
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._empty = True

    def put(self, what: RenderableType) -> None:
        """A rich renderable as it is, but for characters in it that would steer the terminal."""
        from rich.segment import Segment, Segments

        shown = (Segment(plain(s.text), s.style) for s in self._console.render(what) if not s.control)
        self._console.print(Segments(shown), end="")
        self._empty = False

    def heading(self, words: str, *, alarm: bool = False) -> None:
        """A section's heading, a blank line before it."""
        from rich.text import Text

        if not self._empty:
            self._console.print()
        self.put(Text(words, style="bold yellow" if alarm else "bold"))

    def gap(self) -> None:
        """A blank line."""
        self._console.print()

    def text(self, words: str, *, quiet: bool = False, strong: bool = False, indent: int = 0) -> None:
        """A paragraph, wrapped; nothing where it is empty."""
        from rich.padding import Padding
        from rich.text import Text

        if words:
            style = "bold green" if strong else "dim" if quiet else ""
            self.put(Padding(Text(words, style=style), (0, 0, 0, indent), expand=False))

    def bullets(self, lines: Iterable[str], *, quiet: bool = False) -> None:
        """A list, each item wrapped under its own text."""
        from rich.table import Table
        from rich.text import Text

        for line in lines:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(width=1)
            grid.add_column(overflow="fold")
            grid.add_row("•", Text(line, style="dim" if quiet else ""))
            self.put(grid)

    def lines(self, drawn: Sequence[str]) -> None:
        """Lines that must not be wrapped or changed."""
        from rich.text import Text

        for line in drawn:
            self._console.print(Text(plain(line.rstrip())), no_wrap=True, crop=True)
        self._empty = False

    def done(self) -> str:
        """Everything told so far, without trailing spaces."""
        told = "\n".join(line.rstrip() for line in self._file.getvalue().splitlines()) + "\n"
        told = re.sub(r"\n{3,}", "\n\n", told)  # tables bring blank lines of their own
        return told if self.unicode else to_ascii(told)
