"""Starts a script's own command in a process with hooks, listens to it, and ends it."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import initadvisor
from initadvisor.errors import InputError, nearest
from initadvisor.integrations.scripts.bootstrap.sitecustomize import HOME, JOB
from initadvisor.integrations.scripts.messages import Job, dumps
from initadvisor.integrations.scripts.places import JOB_FILE, SOCKET_FILE

BOOTSTRAP = Path(__file__).parent / "bootstrap"
"""Folder that Python is to look into first."""

GRACE_SECONDS = 10.0
"""What a script is given to end by itself (close its workers, files and trackers) before it is ended."""

POLL_SECONDS = 0.02
"""How often a process that says nothing is looked at."""

_PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?")
_DEAF = "IES"
"""Flags of the interpreter under which it does not look at ``PYTHONPATH``, or loads no ``sitecustomize``."""


def python_command(words: Sequence[str]) -> list[str]:
    """The command that a user typed after ``--``, completed where the interpreter is left out.

    Raises:
        InputError: there is none, its script does not exist, or it cannot be watched.

    Example:
        >>> python_command(["-m", "http.server"])[1:]
        ['-m', 'http.server']
    """
    if not words:
        raise InputError("no command is given; name it after --, as in: initadvisor watch -- python train.py")
    command = list(words)
    if command[0] == "-m" or command[0].endswith(".py"):
        command = [sys.executable, *command]
    elif _PYTHON.fullmatch(command[0]) and not _is_somebodys(command[0]):
        command[0] = sys.executable
    elif shutil.which(command[0]) is None:
        raise InputError(f'"{command[0]}" is no command; give the one you train with, as in: python train.py')
    if _PYTHON.fullmatch(Path(command[0]).name):
        _check_interpreter(command[1:])
    return command


def _is_somebodys(word: str) -> bool:
    """Whether a bare ``python`` means one that was chosen: an environment is active. Otherwise it means ours."""
    active = any(os.environ.get(name) for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYENV_VERSION"))
    return active and shutil.which(word) is not None


def _check_interpreter(words: Sequence[str]) -> None:
    for word in words:
        if not word.startswith("-"):
            script = Path(word)
            if not script.exists():
                known = [p.name for p in script.parent.glob("*.py")] if script.parent.is_dir() else []
                hint = f"; {nearest(script.name, known)}" if known else ""
                raise InputError(f'script "{word}" does not exist{hint}')
            return
        if word.startswith(("-m", "-c")) or word == "-":
            return
        if not word.startswith("--") and any(flag in word for flag in _DEAF):
            raise InputError(
                f"a script cannot be watched under Python's {word}, which ignores PYTHONPATH; leave it out"
            )


class Script:
    """One run of a command with hooks in it.

    Args:
        command: as :func:`python_command` gives it.
        job: what its process is to do.
        folder: working directory; None is this one.
        output: where what it prints goes; None is where ours goes.
        environment: variables added to ours.
        own_group: run it as a group of processes of its own, which is ended as a whole.

    Raises:
        InputError: this system has no Unix sockets.
    """

    def __init__(
        self,
        command: Sequence[str],
        job: Job,
        *,
        folder: Path | None = None,
        output: IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        own_group: bool = False,
    ) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise InputError("scripts are watched on Linux and macOS only; write a target instead (initadvisor new)")
        self.session = Path(tempfile.mkdtemp(prefix="initadvisor-"))
        self._group = own_group
        self._line: Connection | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(self.session / SOCKET_FILE))
            self._listener.listen(1)
            self._listener.settimeout(POLL_SECONDS)
            (self.session / JOB_FILE).write_bytes(dumps(job))
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(self.session, environment or {}),
                stdin=subprocess.DEVNULL if own_group else None,
                stdout=output,
                stderr=subprocess.STDOUT if output is not None else None,
                start_new_session=own_group,
            )
        except OSError as error:
            self._tidy()
            raise InputError(f'"{command[0]}" cannot be started: {error.strerror or error}') from error

    def receive(self, deadline: float | None = None) -> Any:
        """The next message of the process; None where it has ended, or at the deadline (of ``time.monotonic``)."""
        while deadline is None or time.monotonic() < deadline:
            if self._line is None:
                with contextlib.suppress(TimeoutError):
                    line, _ = self._listener.accept()
                    self._line = Connection(line.detach())
                    continue
            elif self._line.poll(POLL_SECONDS):
                try:
                    return pickle.loads(self._line.recv_bytes())
                except (EOFError, OSError):  # it listens no more
                    return None
            if self.process.poll() is not None and (self._line is None or not self._line.poll(0)):
                return None
        return None

    def answer(self, message: Any) -> None:
        """Answer the message that was received last."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.send_bytes(dumps(message))

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code, None where it still runs after that many seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def close(self, grace: float = GRACE_SECONDS) -> None:
        """End the process and all it has started, gently at first; remove what the session left."""
        if self._line is not None:
            self._line.close()  # a process that waits for an answer sees that nobody is there and ends
            self._line = None
        if self._group:
            self._end_group(grace)
        elif self.process.poll() is None:
            self.process.terminate()
            if self.wait(grace) is None:
                self.process.kill()
                self.process.wait()
        self._tidy()

    def _end_group(self, grace: float) -> None:
        waited = self.wait(grace)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if not self._signal(sign):
                break
            deadline = time.monotonic() + (grace if waited is None else 1.0)
            while time.monotonic() < deadline and self._signal(0):
                self.process.poll()
                time.sleep(POLL_SECONDS)
        self.process.wait()

    def _signal(self, sign: int) -> bool:
        """Whether there was anybody in the group to get it."""
        try:
            os.killpg(self.process.pid, sign)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _tidy(self) -> None:
        self._listener.close()
        shutil.rmtree(self.session, ignore_errors=True)


def _environment(session: Path, more: Mapping[str, str]) -> dict[str, str]:
    home = str(Path(initadvisor.__file__).parents[1])
    path = os.pathsep.join(p for p in (str(BOOTSTRAP), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **more, "PYTHONPATH": path, JOB: str(session), HOME: home}
