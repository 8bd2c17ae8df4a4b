"""How is it asked from a shell? ``main`` is the entry point; nothing is imported here before signals are in hand."""

from __future__ import annotations

from collections.abc import Sequence

from initadvisor.cli.signals import Signals

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: words after the program's name; None takes the process's, and the process is then expected to end.

    Returns:
        The exit code: see :class:`initadvisor.cli.outcome.ExitCode`.
    """
    with Signals(last=argv is None) as signals:
        # Loading the parser takes long enough to be interrupted, so it is inside.
        def run(signals: Signals) -> int:
            from initadvisor.cli.app import run_words

            return run_words(argv, signals)

        return signals.guard(run)
