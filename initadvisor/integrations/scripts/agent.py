"""What runs inside a watched process: it sets the hooks, follows the training and answers the command outside."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from initadvisor.integrations.scripts.hooks import Hooks
from initadvisor.integrations.scripts.messages import Job, Task, dumps
from initadvisor.integrations.scripts.networks import Network
from initadvisor.integrations.scripts.observer import Observer
from initadvisor.integrations.scripts.places import CLAIM_FILE, JOB_FILE, SOCKET_FILE
from initadvisor.integrations.scripts.seeding import Seeds
from initadvisor.integrations.scripts.writing import OpenedFiles
from initadvisor.training.data import Batch

logger = logging.getLogger("initadvisor")


class ScriptEnd(SystemExit):
    """Ends a script at a step; passes by ``except Exception`` and lets ``finally`` and exit handlers run."""


def begin(folder: str) -> None:
    """Set the hooks in this process.

    Args:
        folder: of the session.
    """
    place = Path(folder)
    if not (place / JOB_FILE).is_file():  # the command has ended and this process has outlived it
        return
    job: Job = pickle.loads((place / JOB_FILE).read_bytes())
    Agent(job, place).start()


class Agent:
    """Follows one training on behalf of a command.

    Args:
        job: what to do.
        folder: of the session.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.process = os.getpid()
        self.seeds = Seeds(job.seed, job.offset)
        self.files = OpenedFiles() if job.files else None
        self.observer = Observer(self, records=job.task is Task.WATCH, without_grad=job.task is not Task.WATCH)
        self.hooks = Hooks(self.observer)
        self._line: Connection | None = None
        self._ending = False
        self._part: Any = None

    def start(self) -> None:
        """Set the hooks."""
        self.seeds.begin()
        if self.files is not None:
            self.files.begin()
        self.hooks.install()
        atexit.register(self._at_exit)

    # ---- what the observer tells

    def found(self, networks: Sequence[Network], call: Batch | None) -> None:
        """Networks are known, and one of them is about to be called."""
        self._do("found", networks, call)

    def ready(self, optimizer: int) -> None:
        """The first gradients of an optimizer are there."""
        self._do("ready", optimizer)

    def stepping(self, optimizer: int) -> None:
        """A step begins; one that comes after the end is refused."""
        if self._ending:
            raise ScriptEnd(0)
        self._do("stepping", optimizer)

    def stepped(self, optimizer: int, loss: float | None) -> None:
        """A step has ended."""
        self._do("stepped", optimizer, loss)

    def _do(self, what: str, *args: Any) -> None:
        try:
            getattr(self._work(), what)(*args)
        except Exception as error:
            logger.debug("watching failed", exc_info=True)
            self.release()
            print(f"initadvisor: error: stopped watching: {type(error).__name__}: {error}", file=sys.stderr)

    def _work(self) -> Any:
        if self._part is None:
            # What reads networks is imported when there is one: a script that trains nothing is not slowed down.
            from initadvisor.integrations.scripts import roles

            self._part = roles.role_of(self)
        return self._part

    # ---- what the roles use

    def claim(self) -> bool:
        """Whether this process answers the command: of several (launchers, ranks) the first that asks does."""
        if self._line is not None:
            return True
        if os.getpid() != self.process:  # a forked copy
            return False
        try:
            os.close(os.open(self.folder / CLAIM_FILE, os.O_CREAT | os.O_EXCL))
        except OSError:
            return False
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(self.folder / SOCKET_FILE))
        self._line = Connection(line.detach())
        return True

    def send(self, message: Any) -> None:
        """Tell the command something."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.send_bytes(dumps(message))

    def ask(self, message: Any) -> Any:
        """Tell the command something and wait for the answer; None where there is nobody any more."""
        if self._line is None:
            return None
        try:
            self._line.send_bytes(dumps(message))
            return pickle.loads(self._line.recv_bytes())
        except (OSError, EOFError):
            return None

    def release(self) -> None:
        """Take out every hook: from here on the script runs as if it had never been watched."""
        self.hooks.remove()
        self.seeds.end()
        if self.files is not None:
            self.files.end()
        if self._line is not None:
            self._line.close()
            self._line = None
        self.observer.networks, self.observer.calls = (), {}
        atexit.unregister(self._at_exit)

    def end(self) -> None:
        """End the script: raised out of the step that is going on, and out of every later one."""
        self._ending = True
        raise ScriptEnd(0)

    def _at_exit(self) -> None:
        if os.getpid() == self.process and self._part is not None:
            with contextlib.suppress(Exception):
                self._part.at_exit()
