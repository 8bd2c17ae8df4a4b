"""`new`: a target to begin with, for a person who has none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from initadvisor.cli.outcome import tell
from initadvisor.cli.places import files_tried
from initadvisor.errors import InputError, nearest
from initadvisor.files import write_text

PROGRAM_NEW = "initadvisor new"
BEGINNINGS = Path(__file__).parent / "beginnings"

_TOLD = {"language": "language model"}


def kinds() -> tuple[str, ...]:
    """What there is a beginning for."""
    return tuple(sorted(p.stem for p in BEGINNINGS.glob("*.py") if p.stem != "__init__"))


def run_new(file: Path, *, kind: str, quiet: bool) -> None:
    """Write a target that runs as it is, and say what to do with it.

    Raises:
        InputError: no such kind; the file exists, is no Python file, or has a name that hides a module.
    """
    if kind not in kinds():
        raise InputError(f'--kind "{kind}": there is no beginning for it; {nearest(kind, kinds())}')
    if file.suffix != ".py":
        raise InputError(f'"{file}" is a Python file to be; name it with .py: {PROGRAM_NEW} {file}.py')
    if not file.stem.isidentifier():
        raise InputError(
            f'"{file}" cannot be imported under that name; use letters, digits and _: {PROGRAM_NEW} target.py'
        )
    if file.stem in sys.stdlib_module_names or file.stem in ("torch", "numpy", "initadvisor"):
        raise InputError(
            f'"{file}" would hide the module {file.stem}; name it otherwise: {PROGRAM_NEW} train_target.py'
        )
    if os.path.lexists(file):
        other = file.with_name(f"{file.stem}_2.py")
        raise InputError(f'"{file}" exists and is not overwritten; name another: {PROGRAM_NEW} {other}')
    files_tried({"FILE": file})
    text = (BEGINNINGS / f"{kind}.py").read_text(encoding="utf-8")
    write_text(file, text.replace("FILE  ", f"{file.name}  "))
    if not quiet:
        tell(
            f"{file} is written: a small {_TOLD.get(kind, kind)} with data of its own, that runs as it is.\n"
            f"Put your model and data in where its comments say so, then\n"
            f"  initadvisor check {file}    what is wrong with the weights now\n"
            f"  initadvisor advise {file}   what to use instead"
        )
