"""How a command ends: exit codes, one-line errors, what goes to standard output and what beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from initadvisor.cli.signals import silence
from initadvisor.errors import InitAdvisorError, InputError
from initadvisor.plaintext import plain, unprintable

PROGRAM = "initadvisor"


class ExitCode(IntEnum):
    """What the shell is told; a program ended by a signal has 128 plus the signal's number, as shells have it."""

    OK = 0
    FINDINGS = 1  # `check` found something at or above --fail-on; `diff` found a difference
    BAD_INPUT = 2
    BUG = 3  # an error that is not the user's; the traceback is shown
    NOTHING_TRIED = 4  # `advise` had no time for a single training
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = (
    "Exit codes: 0 fine, 1 findings or differences, 2 bad input, 3 a bug in initadvisor, 4 advise had no time to try "
    "anything, 130 Ctrl-C, 143 and 129 ended from outside (SIGTERM, SIGHUP)."
)


LONGEST_LINE = 2000
"""Characters of an error's one line; what somebody typed or wrote into a file may be quoted in it."""


class ReaderGone(Exception):  # noqa: N818 - no error: whoever reads may have seen enough
    """Whoever read standard output (``| head``) has closed it."""


def complain(message: str) -> None:
    """One line on standard error."""
    line = " ".join(plain(message).split())
    _beside(f"{PROGRAM}: error: {line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + '…'}")


def remark(message: str, *, quiet: bool = False) -> None:
    """A line that is not the result: on standard error, so that results can be piped."""
    if not quiet:
        _beside(plain(message))


def _beside(line: str) -> None:
    """A line on standard error; where that takes nothing there is nobody to tell."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except UnicodeEncodeError:
        print(line.encode("ascii", "replace").decode(), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def tell(text: str) -> None:
    """The result, on standard output, whatever the terminal can encode.

    Raises:
        ReaderGone: the reader has closed it.
        InputError: it cannot be written (closed from the start, a full disk).
    """
    out = plain(text, colours=True)
    out = out if out.endswith("\n") else out + "\n"
    if sys.stdout is None:
        raise InputError("standard output is closed, so nothing can be told; leave it open, or send it to a file")
    try:
        try:
            sys.stdout.write(out)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(out.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError as error:
        silence(sys.stdout)
        raise ReaderGone from error
    except OSError as error:
        silence(sys.stdout)
        raise InputError(
            f"standard output cannot be written: {error.strerror or error}; send it to a file on a disk with room"
        ) from error


def tell_json(value: Mapping[str, Any]) -> None:
    """The result as JSON, on standard output; only numbers that JSON knows, no character that steers a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if unprintable(text):
        text = json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False)
    tell(text)


def message_of(error: InitAdvisorError) -> str:
    """What to print of one of our own errors."""
    return str(error) or type(error).__name__
