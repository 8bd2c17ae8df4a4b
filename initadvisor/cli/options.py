"""Options that several commands share, so that a flag means the same everywhere, and how their text is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from initadvisor.errors import InputError

_TRIALS = "Trials"
_OUTPUT = "Output"
_WEIGHTS = "Weights"

TargetText = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="file.py:name or package.module:name, a callable that gives (model, data) or a mapping with the "
        "arguments of advise; without :name, the file's target.",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="HOW_MUCH",
        help="fast, standard or thorough; a time (90s, 5m); or optimizer steps in all (20000).",
        rich_help_panel=_TRIALS,
        show_default="standard",
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--lr",
        metavar="RATE",
        help="One rate locks it; several (0.01,0.1) are searched with the scheme; search chooses a grid.",
        rich_help_panel=_TRIALS,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Optimizer steps of your full training; trials are sized against it.",
        rich_help_panel=_TRIALS,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Of everything that is drawn.", rich_help_panel=_WEIGHTS, show_default="0"),
]
Protect = Annotated[
    list[str] | None,
    typer.Option(
        "--protect",
        metavar="GLOB",
        help="Parameter paths that must not be filled (encoder.*); may be given several times.",
        rich_help_panel=_WEIGHTS,
    ),
]
Candidates = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate",
        metavar="NAME",
        help="Try only this scheme (and the weights as they are); may be given several times.",
        rich_help_panel=_TRIALS,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where trials run (cpu, cuda).",
        rich_help_panel=_TRIALS,
        show_default="where the model is",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Record trials to an Optuna storage (sqlite:///study.db) and resume from it.",
        rich_help_panel=_TRIALS,
    ),
]
StudyName = Annotated[
    str | None, typer.Option("--study-name", help="Name of the study in that storage.", rich_help_panel=_TRIALS)
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Write the report as one self-contained HTML file.", rich_help_panel=_OUTPUT
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.", rich_help_panel=_OUTPUT)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, and one line of result.", rich_help_panel=_OUTPUT)
]
NoColor = Annotated[
    bool,
    typer.Option("--no-color", help="No colour, as with NO_COLOR set or when piped.", rich_help_panel=_OUTPUT),
]

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)", re.ASCII)
_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def read_budget(text: str) -> str | int | float:
    """A budget as ``advise`` takes it: a name, seconds as a float, or optimizer steps as an int.

    Raises:
        InputError: neither a word, nor a time, nor a whole number.

    Example:
        >>> read_budget("fast"), read_budget("90s"), read_budget("1.5m"), read_budget("20000")
        ('fast', 90.0, 90.0, 20000)
    """
    plain = text.strip().lower()
    time = _TIME.fullmatch(plain)
    if time:
        return float(time[1]) * _SECONDS[time[2]]
    if plain.isdecimal():
        return int(plain)
    if plain.isalpha():
        return plain
    raise InputError(f'--budget "{text}": give fast, standard or thorough, a time (90s, 5m) or steps (20000)')


def read_rate(text: str) -> float | tuple[float, ...] | str:
    """A learning rate as ``advise`` takes it: a float, several, or ``"search"``.

    Raises:
        InputError: not a positive number.

    Example:
        >>> read_rate("0.1"), read_rate("0.01, 0.1"), read_rate("search")
        (0.1, (0.01, 0.1), 'search')
    """
    if text.strip() == "search":
        return "search"
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f'--lr "{text}": give a number, several (0.01,0.1) or search') from None
    if not all(0 < rate < float("inf") for rate in rates):
        raise InputError(f'--lr "{text}": learning rates are positive')
    return rates[0] if len(rates) == 1 else rates
