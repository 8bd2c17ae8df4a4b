"""A progress bar with an estimate, on standard error, for people who watch a race."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from initadvisor.report.numbers import duration
from initadvisor.trials.progress import OnEvent, Progress, ignore

__all__ = ["Progress", "show_progress"]

FRAMES_PER_SECOND = 4
"""How often the bar is drawn: often enough to look alive, seldom enough to cost nothing beside training."""

PLANNED = "plan"
"""The one event that says what will run and for how long; it stays on the screen."""

QUIET_SECONDS = 15.0
"""Without a terminal a line is printed at most this often, so that a log shows life and no more."""


@contextlib.contextmanager
def show_progress(progress: bool | Callable[[Progress], None]) -> Iterator[OnEvent]:
    """A listener for the events of a race.

    Args:
        progress: True shows a bar where standard error is a terminal and a line now and then where it is not; False
            shows nothing; a callable is given every event instead.

    Example:
        >>> with show_progress(False) as listen:
        ...     listen(Progress(1, 10, "gate", "looking"))
    """
    if callable(progress):
        yield progress
    elif not progress:
        yield ignore
    elif sys.stderr.isatty():
        with _bar() as listen:
            yield listen
    else:
        yield _lines()


def estimate(event: Progress) -> str:
    """Time left in words, empty before anything has been timed.

    Example:
        >>> estimate(Progress(1, 10, "rung", "", eta=75.0))
        'about 1 min 15 s left'
    """
    return "" if event.eta is None else f"about {duration(event.eta)} left"


@contextlib.contextmanager
def _bar() -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False, style="dim"),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=FRAMES_PER_SECOND,
        # A race is run with the process' streams as the user has them; a bar must not catch what a model prints.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = bar.add_task("reading the model", total=None, left="")

    def listen(event: Progress) -> None:
        if event.phase == PLANNED:
            bar.console.print(f"initadvisor: {event.message}", markup=False, highlight=False)
        bar.update(
            task, completed=event.done, total=event.total or None, description=event.message, left=estimate(event)
        )

    with bar:
        yield listen


def _lines() -> OnEvent:
    last = -QUIET_SECONDS

    def listen(event: Progress) -> None:
        nonlocal last
        if event.phase == PLANNED:
            print(f"initadvisor: {event.message}", file=sys.stderr)
            return
        if event.seconds - last >= QUIET_SECONDS:
            last = event.seconds
            left = estimate(event)
            told = f"{100 * event.share:3.0f}% {event.message}" + (f", {left}" if left else "")
            print(f"initadvisor: {told}", file=sys.stderr)

    return listen
