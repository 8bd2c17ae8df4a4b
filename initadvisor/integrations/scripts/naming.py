"""What a script calls its modules and optimizers, read off the frames that are running."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

LONGEST_WALK = 60
"""Frames that are looked at; a framework lies about thirty deep between the script and a step."""

_FRAMEWORKS = 2
"""Rank of names in installed code; those of the script come first."""

OWN = __name__.rpartition(".")[0]
"""Frames of this package are not the script's."""


def names_of(wanted: Mapping[int, Any]) -> dict[int, str]:
    """Shortest names under which objects can be reached from the running frames, the script's own first.

    Args:
        wanted: identity -> object.
    """
    found: dict[int, tuple[int, str]] = {}
    for rank, names in _namespaces():
        for values in names:
            for name, value in list(values.items()):
                if id(value) not in wanted or wanted[id(value)] is not value or not isinstance(name, str):
                    continue
                if rank < _FRAMEWORKS or not name.startswith("_"):  # a framework's private name says nothing
                    found[id(value)] = min(found.get(id(value), (rank, name)), (rank, name))
    return {key: name for key, (_, name) in found.items()}


def _namespaces() -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """The global names of the script and of other modules, then local names, with the attributes of ``self``."""
    frame: FrameType | None = sys._getframe(2)
    seen: set[int] = set()
    for _ in range(LONGEST_WALK):
        if frame is None:
            return
        module = frame.f_globals.get("__name__", "")
        installed = "site-packages" in frame.f_code.co_filename
        if not str(module).startswith((OWN, "torch.")):
            base = _FRAMEWORKS if installed else 0
            if id(frame.f_globals) not in seen:
                seen.add(id(frame.f_globals))
                yield base, [frame.f_globals]
            local = frame.f_locals
            spaces: list[Mapping[str, Any]] = [] if installed else [local]
            owner = local.get("self")
            if owner is not None and hasattr(owner, "__dict__"):
                spaces += [vars(owner), vars(owner).get("_modules") or {}]
            yield base + 1, spaces
        frame = frame.f_back
