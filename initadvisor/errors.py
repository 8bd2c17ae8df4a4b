"""Errors a user can act on: one line that names what is wrong and how to mend it."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable

LOGGER = logging.getLogger("initadvisor")

STRICT = "INITADVISOR_STRICT"
"""Environment variable that, set to 1, lets errors through that are logged and worked around otherwise."""


class InitAdvisorError(Exception):
    """Base of every error this package raises on purpose.

    The command line prints its message on one line and exits with code 2; nothing of the user's has been changed when
    it is raised.
    """


class InputError(InitAdvisorError):
    """The model, batch, loss, optimizer or another argument cannot be used as given."""


class TargetError(InitAdvisorError):
    """A command-line target (``package.module:name`` or ``file.py:name``) cannot be loaded."""


class AnalysisError(InitAdvisorError):
    """The model could not be read; the model's own error is quoted."""


class RegistryError(InitAdvisorError):
    """An initializer, rule or scheme name is unknown, or registered twice."""


class SchemeError(InitAdvisorError):
    """A scheme does not fit the model: a parameter is missing, unmatched, matched twice or of another shape."""


class VerificationError(InitAdvisorError):
    """A tensor read back after filling does not have the statistics its initializer declares."""


class RecipeError(InitAdvisorError):
    """A recipe file cannot be read or does not validate; the message gives line and field."""


class StorageError(InitAdvisorError):
    """An Optuna storage cannot be opened, or holds a study of something else."""


_LONGEST_TYPED = 100
"""Characters of a name that is still taken for a mistyped one."""


def swallowed(where: str, error: Exception) -> str:
    """Log an error that is worked around, with its traceback; with ``INITADVISOR_STRICT=1`` raise it instead.

    Args:
        where: what was being done, for the log.
        error: as it was caught.

    Returns:
        Its kind and first line, for a message of one line.

    Raises:
        Exception: the error itself, where :data:`STRICT` is set.

    Example:
        >>> LOGGER.disabled, strict = True, os.environ.pop(STRICT, None)
        >>> swallowed("an example", ValueError("no good"))
        'ValueError: no good'
        >>> LOGGER.disabled = bool(os.environ.update({} if strict is None else {STRICT: strict}))
    """
    if os.environ.get(STRICT) == "1":
        raise error
    LOGGER.warning("%s failed and was left out", where, exc_info=error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first}"


COMPUTING = (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a user's model or loss, and torch beneath them, raise where they cannot do what is asked."""


def worked_around(where: str, error: Exception, expected: tuple[type[Exception], ...] = COMPUTING) -> None:
    """Log an error of the user's code after which there is another way; of any other kind it is :func:`swallowed`.

    Args:
        where: what was being done, for the log.
        error: as it was caught.
        expected: kinds that are no news here.

    Raises:
        Exception: the error itself, where it is not expected and :data:`STRICT` is set.
    """
    if isinstance(error, (InitAdvisorError, *expected)):
        LOGGER.info("%s: %s, so it is done another way", where, error)
    else:
        swallowed(where, error)


def nearest(name: str, known: Iterable[str]) -> str:
    """Sentence part that suggests the known name closest to a mistyped one.

    Example:
        >>> nearest("xavier_nromal", ["xavier_normal", "orthogonal"])
        'did you mean "xavier_normal"?'
    """
    names = sorted(known)
    # Comparing takes time with the square of the length: a word nobody mistyped is not compared at all.
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5) if len(name) <= _LONGEST_TYPED else []
    if close:
        return f'did you mean "{close[0]}"?'
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known: {shown}"
