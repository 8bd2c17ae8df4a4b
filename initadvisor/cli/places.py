"""Where results may be written: tried before the work, and never over the target, its modules, inputs or each other."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import initadvisor.files as files
from initadvisor.cli.settings import find_pyproject, working_folder
from initadvisor.cli.target import file_of_target
from initadvisor.errors import InputError

_SQLITE = "sqlite:///"


def try_outputs(
    target: str, outputs: Mapping[str, Path | None], *, inputs: Iterable[Path] = (), storage: object = None
) -> None:
    """Prove that results can be written, before a target is loaded and again when its modules are known.

    Args:
        target: as typed; its file is an input.
        outputs: option -> file.
        inputs: further files that are read.
        storage: URL of a study; a file of SQLite's is an input and an output.

    Raises:
        InputError: see :func:`initadvisor.files.try_outputs`.
    """
    own = file_of_target(target)
    read = [*inputs, *([own] if own is not None else [])]
    if isinstance(storage, str) and storage.startswith(_SQLITE):
        read.append(Path(storage.removeprefix(_SQLITE)))
    files_tried(outputs, inputs=read)


def files_tried(outputs: Mapping[str, Path | None], *, inputs: Iterable[Path] = ()) -> None:
    """:func:`initadvisor.files.try_outputs` with what every command reads and writes besides.

    Raises:
        InputError: see there; also where an output is the file that standard output goes to.
    """
    settings = find_pyproject(working_folder())
    for option, file in outputs.items():
        if file is not None and _is_standard_output(file):
            raise InputError(f'{option} "{file}" is where standard output goes; give it a file of its own')
    files.try_outputs(outputs, inputs=[*inputs, *([settings] if settings is not None else [])])


def has_content(file: Path) -> bool:
    """Whether there is an earlier file that holds something."""
    try:
        return file.is_file() and file.stat().st_size > 0
    except OSError:
        return False


def _is_standard_output(file: Path) -> bool:
    try:
        out = os.fstat(sys.stdout.fileno())
        return stat.S_ISREG(out.st_mode) and os.path.samestat(out, file.stat())
    except (OSError, ValueError, AttributeError):
        return False
