"""How a command ends: exit codes, one-line errors, what goes to standard output and what beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from initadvisor.errors import InitAdvisorError

PROGRAM = "initadvisor"


class ExitCode(IntEnum):
    """What the shell is told."""

    OK = 0
    FINDINGS = 1  # `check` found something at or above --fail-on; `diff` found a difference
    BAD_INPUT = 2
    BUG = 3  # an error that is not the user's; the traceback is shown
    INTERRUPTED = 130  # stopped before any advice was possible


EXIT_CODES = "Exit codes: 0 fine, 1 findings or differences, 2 bad input, 3 a bug in initadvisor, 130 interrupted."


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)


def remark(message: str, *, quiet: bool = False) -> None:
    """A line that is not the result: on standard error, so that results can be piped."""
    if not quiet:
        print(message, file=sys.stderr)


def tell(text: str) -> None:
    """The result, on standard output, whatever the terminal can encode."""
    out = text if text.endswith("\n") else text + "\n"
    try:
        sys.stdout.write(out)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(out.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def tell_json(value: Mapping[str, Any]) -> None:
    """The result as JSON, on standard output; only numbers that JSON knows."""
    tell(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def message_of(error: InitAdvisorError) -> str:
    """What to print of one of our own errors."""
    return str(error) or type(error).__name__
