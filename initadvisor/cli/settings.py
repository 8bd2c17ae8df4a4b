"""Defaults from ``[tool.initadvisor]`` of the nearest pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from initadvisor.errors import InputError, nearest

SECTION = "tool.initadvisor"


def working_folder() -> Path:
    """The folder the program was started in.

    Raises:
        InputError: it is gone.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise InputError("the folder you are in is gone; change to one that exists (cd)") from error


def find_pyproject(start: Path) -> Path | None:
    """The nearest pyproject.toml in ``start`` or a folder above it."""
    return next((f for d in (start, *start.parents) if (f := d / "pyproject.toml").is_file()), None)


def read_defaults(file: Path, commands: Mapping[str, Mapping[str, bool]]) -> dict[str, dict[str, Any]]:
    """Defaults per command.

    Keys of ``[tool.initadvisor]`` apply to every command that has such an option; those of
    ``[tool.initadvisor.advise]`` to that command only, and win. Dashes and underscores are the same.

    Args:
        file: a pyproject.toml.
        commands: name of each command -> name of each option -> whether it may be given several times.

    Raises:
        InputError: not TOML, a key no command knows, or a value that is none.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file}: {error}") from error
    tool = document.get("tool", {})
    section = tool.get("initadvisor", {}) if isinstance(tool, dict) else {}
    if not isinstance(section, dict):
        raise InputError(f"{file}: [{SECTION}] is not a table")
    anywhere = {name: several for options in commands.values() for name, several in options.items()}
    shared = {k: v for k, v in section.items() if not isinstance(v, dict)}
    own = {k: v for k, v in section.items() if isinstance(v, dict)}
    for name in own:
        if name not in commands:
            raise InputError(f"{file}: [{SECTION}.{name}] is no command; {nearest(name, commands)}")
    defaults: dict[str, dict[str, Any]] = {}
    for command, options in commands.items():
        values = _checked(file, SECTION, shared, anywhere)
        chosen = {k: v for k, v in values.items() if k in options}
        chosen.update(_checked(file, f"{SECTION}.{command}", own.get(command, {}), options))
        defaults[command] = chosen
    return defaults


def _checked(file: Path, section: str, values: Mapping[str, Any], known: Mapping[str, bool]) -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            shown = sorted(k.replace("_", "-") for k in known)
            raise InputError(f'{file}: [{section}] has "{key}", which is no option; {nearest(key, shown)}')
        if isinstance(value, dict) or (isinstance(value, list) and not known[name]):
            raise InputError(
                f'{file}: [{section}] "{key}" takes one value, not a {"table" if isinstance(value, dict) else "list"}'
            )
        # The command line reads text; a number of the file is its text, and what may come several times is a list.
        listed = value if isinstance(value, list) else [value]
        found[name] = [str(v) for v in listed] if known[name] else value if isinstance(value, bool) else str(value)
    return found
