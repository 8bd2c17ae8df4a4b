"""What a script writes to and listens on: trials side by side would share it."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
_ELSEWHERE: tuple[str, ...] = ("/dev/", "/proc/", "/sys/")
_CACHES = ("__pycache__", ".cache", "torchinductor", ".triton")

MOST = 200
"""Names that are kept."""


class OpenedFiles:
    """Listens to Python's audit events; for processes that are ended, since such a hook cannot be taken out again.

    Example:
        >>> from pathlib import Path
        >>> seen = OpenedFiles()
        >>> seen.begin()
        >>> folder = tempfile.mkdtemp(dir=".")
        >>> _ = (Path(folder) / "log.txt").write_text("x")
        >>> seen.end()
        >>> [Path(name).name for name in seen.names]
        ['log.txt']
        >>> (Path(folder) / "log.txt").unlink(); Path(folder).rmdir()
    """

    def __init__(self) -> None:
        self._found: dict[str, None] = {}
        self._listening = False
        self._elsewhere = _ELSEWHERE

    @property
    def names(self) -> tuple[str, ...]:
        """Files, databases and ports, in the order they were first opened."""
        return tuple(self._found)

    def begin(self) -> None:
        """Listen."""
        # Asked for now: it opens a file itself, under a lock.
        self._elsewhere = (*_ELSEWHERE, tempfile.gettempdir() + os.sep)
        self._listening = True
        sys.addaudithook(self._heard)

    def end(self) -> None:
        """Listen no more."""
        self._listening = False

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._listening:
            return
        if event == "open":
            self._opened(*args[:3])
        elif event == "sqlite3.connect":
            self._add(str(args[0]))
        elif event == "socket.bind" and isinstance(args[1], tuple):
            self._add(f"port {args[1][1]}")

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(int(flags or 0) & _WRITES)
        if writes and isinstance(path, str | bytes | os.PathLike):
            self._add(os.fsdecode(path))

    def _add(self, name: str) -> None:
        passing = name.startswith(self._elsewhere) or any(part in name for part in _CACHES)
        if not passing and len(self._found) < MOST:
            self._found.setdefault(name)
