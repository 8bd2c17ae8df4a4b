"""In the process of `run` and of a trial: puts weights in before the first step, and goes on as told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from initadvisor.integrations.scripts.filling import fill
from initadvisor.integrations.scripts.messages import Stepped
from initadvisor.integrations.scripts.networks import Network
from initadvisor.integrations.scripts.observer import Observer
from initadvisor.training.data import Batch


class _Filling:
    """Puts in what the job says at the first call of a network, once for each network."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.observer: Observer = agent.observer
        self.done: set[Network] = set()

    def found(self, networks: Sequence[Network], module: nn.Module) -> None:
        """Fill what has not been filled, before it computes anything."""
        new = [n for n in networks if n not in self.done and not any(i in self.observer.steps for i in n.optimizers)]
        if not new:
            return
        self.done.update(new)
        self.filled(fill(self.agent.job.fillings, new, self.observer.optimizers, None))

    def filled(self, told: Any) -> None:
        raise NotImplementedError

    def ready(self, number: int) -> None:
        """Nothing is read."""

    def stepping(self, number: int) -> None:
        """Nothing is kept."""

    def stepped(self, number: int, loss: float | None) -> None:
        """Nothing is followed."""

    def at_exit(self) -> None:
        """Nothing is told."""


class Running(_Filling):
    """The script goes on by itself once its first step has been taken."""

    def filled(self, told: Any) -> None:
        """Tell what was put in."""
        if self.agent.claim():
            self.agent.ask(told)

    def stepped(self, number: int, loss: float | None) -> None:
        """All networks that train have been called by now."""
        self.agent.release()


class Trialling(_Filling):
    """Every so many steps the script waits in ``optimizer.step()`` for the word to go on or to end."""

    def __init__(self, agent: Any) -> None:
        super().__init__(agent)
        self.until = 0
        self.losses: list[tuple[int, float | None]] = []

    def filled(self, told: Any) -> None:
        """Tell what was put in, and learn how far to go."""
        if self.agent.claim():
            self._obey(self.agent.ask(told))

    def stepped(self, number: int, loss: float | None) -> None:
        """Record the loss; wait where the asked steps are done."""
        self.losses.append((number, loss))
        steps = max(self.observer.steps.values())
        if steps >= self.until and number == max(self.observer.steps):
            losses, self.losses = tuple(self.losses), []
            self._obey(self.agent.ask(Stepped(steps, losses)))

    def _obey(self, answer: Any) -> None:
        if not isinstance(answer, int) or answer <= 0:
            self.agent.end()
        self.until = answer


__all__ = ["Batch", "Running", "Trialling"]
