"""Ctrl-C, ``kill`` and a closed terminal end the program with one line and the exit code that shells expect.

Needs the standard library alone and little of it: it is in place before anything else is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNAL_BASE = 128
"""A shell reports a program that a signal ended by this plus the signal's number."""

_TOLD = {
    "SIGINT": "stopped by Ctrl-C",
    "SIGTERM": "stopped by SIGTERM",
    "SIGHUP": "stopped, as the terminal was closed",
}


class Terminated(BaseException):
    """The process was asked to end (``kill``, a container's stop, a closed terminal)."""


class Signals:
    """Handlers for as long as the program runs; outside the main thread, and where signals are ignored, none.

    Attributes:
        received: number of the last signal that asked to stop, None where none did.
    """

    def __init__(self, *, last: bool) -> None:
        """Prepare.

        Args:
            last: the process ends with the program: afterwards a signal is left to the system.
        """
        self.received: int | None = None
        self._last = last
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if self._last:
            _plug_closed_streams()
        for name in _TOLD:
            number = getattr(signal, name, None)
            # Under nohup, or in the background of a script, a signal is ignored on purpose.
            if number is None or signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):
                continue
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread
                return self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if self._last else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        interrupt = number == signal.SIGINT
        if os.getpid() != self._process and not interrupt:
            # A worker forked from here: it ends as any program does.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        if interrupt:
            raise KeyboardInterrupt
        raise Terminated(number)

    def guard(self, run: Callable[[Signals], int]) -> int:
        """Run the program; after a signal its exit code is the signal's, however the run ended.

        A library may take the exception of a signal for an error of its own (an import that fails), so it is the signal
        that counts, not what came out. A run that answered all the same has said so itself.
        """
        try:
            code = run(self)
        except (KeyboardInterrupt, Terminated):
            return self._ended()
        except BaseException:
            if self.received is not None:
                return self._ended()
            raise
        return code if self.received is None else self._ended("; what was done by then has been told")

    def _ended(self, how: str = " before there was anything to tell") -> int:
        number = self.received if self.received is not None else int(signal.SIGINT)
        told = _TOLD.get(signal.Signals(number).name, "stopped")
        if sys.stderr is not None:
            try:
                print(f"initadvisor: {told}{how}", file=sys.stderr, flush=True)
            except OSError:  # the terminal is gone
                silence(sys.stderr)
        return SIGNAL_BASE + number


def _plug_closed_streams() -> None:
    """Open what the caller closed (``>&-``): else the next file opened would be standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process lives


def silence(stream: Any) -> None:
    """Keep Python from complaining at exit about a stream that takes nothing any more."""
    if stream is None:
        return
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):
        return
