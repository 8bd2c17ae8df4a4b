"""In the process of `run` and of a trial: puts weights in before the first step, and goes on as told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from initadvisor.integrations.scripts.filling import fill
from initadvisor.integrations.scripts.messages import Filled, Stepped
from initadvisor.integrations.scripts.naming import names_of
from initadvisor.integrations.scripts.networks import Network
from initadvisor.integrations.scripts.observer import Observer
from initadvisor.report import metrics
from initadvisor.training.data import Batch


class Filling:
    """Puts in what the job says at the first call of a network, once for each.

    Args:
        agent: of this process.
    """

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.observer: Observer = agent.observer
        self.done: set[Network] = set()

    def found(self, networks: Sequence[Network], call: Batch | None) -> None:
        """Fill what has not been filled, before it computes anything."""
        new = [n for n in networks if n not in self.done and not any(i in self.observer.steps for i in n.optimizers)]
        if not new:
            return
        self.done.update(new)
        names = names_of({id(m): m for n in new for m in n.same})
        for network in new:
            network.name = next((names[id(m)] for m in network.same if names.get(id(m), "self") != "self"), "")
        self.tell(fill(self.agent.job.fillings, new, self.observer.optimizers, call))

    def tell(self, filled: tuple[Filled, ...]) -> None:
        """Tell what was put in."""
        raise NotImplementedError

    def ready(self, number: int) -> None:
        """Nothing is read."""

    def stepping(self, number: int) -> None:
        """Nothing is kept."""

    def stepped(self, number: int, loss: float | None) -> None:
        """Nothing is followed."""

    def at_exit(self) -> None:
        """Nothing is left to tell."""


class Running(Filling):
    """The script goes on by itself once its first step has been taken."""

    def tell(self, filled: tuple[Filled, ...]) -> None:
        """Tell what was put in; where nothing could be, the script is not to run without it."""
        if self.agent.claim():
            if self.agent.ask(filled) is not True:
                self.agent.end()
        elif any(f.fault for f in filled):
            self.agent.end()

    def stepped(self, number: int, loss: float | None) -> None:
        """All networks that train have been called by now."""
        self.agent.release()


class Trialling(Filling):
    """Every so many steps the script waits in ``optimizer.step()`` for the word to go on or to end."""

    def __init__(self, agent: Any) -> None:
        super().__init__(agent)
        self.until = 0
        self.losses: list[float] = []
        self.reported: list[tuple[str, int, float]] = []
        metrics.LISTENERS.append(self._report)

    def tell(self, filled: tuple[Filled, ...]) -> None:
        """Tell what was put in, and learn how far to go."""
        if self.agent.claim():
            self._obey(self.agent.ask(filled))

    def stepped(self, number: int, loss: float | None) -> None:
        """Record the loss; wait where the asked steps are done."""
        if number != self.agent.job.counted:
            return
        self.losses.append(math.nan if loss is None else loss)
        if self._steps >= self.until:
            self._obey(self.agent.ask(self._message()))

    def at_exit(self) -> None:
        """The script has come to its own end."""
        self.agent.send(self._message(ended=True))

    @property
    def _steps(self) -> int:
        return self.observer.steps.get(self.agent.job.counted, 0)

    def _report(self, name: str, value: float) -> None:
        self.reported.append((name, self._steps, value))

    def _message(self, *, ended: bool = False) -> Stepped:
        losses, self.losses = tuple(self.losses), []
        reported, self.reported = tuple(self.reported), []
        return Stepped(self._steps, losses, reported, ended)

    def _obey(self, answer: Any) -> None:
        if not isinstance(answer, int) or answer <= 0:
            self.agent.end()
        self.until = answer
