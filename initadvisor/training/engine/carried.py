"""What a run carries on beside parameters and buffers: attributes of modules, and the state that its loss holds."""

from __future__ import annotations

import io
import pickle
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from initadvisor.errors import LOGGER
from initadvisor.reach import WRITTEN, Node, Reach, reach
from initadvisor.snapshot import Snapshot, read_contents, write_contents
from initadvisor.training.engine.member import ArrayPickler
from initadvisor.training.task import TrainingTask


class NotCarriedError(ValueError):
    """What a run holds cannot be written down, so that it cannot go on elsewhere; it has to begin again."""


class Carried:
    """Looks after one run from its start.

    A walk from equal roots meets equal objects in the same order. So what one run holds is written down by the numbers
    of the objects that were there from the start, and whatever came since by value.

    Args:
        task: the training.
        model: a fresh copy of its model.
    """

    def __init__(self, task: TrainingTask, model: nn.Module) -> None:
        found: Reach = reach(task.roots_of(model))
        named = [*model.parameters(), *model.buffers()]
        self._named = {id(t) for t in named} | {id(m._buffers) for m in model.modules()}
        self._nodes = found.nodes
        self._before = Snapshot(found, changing=named)

    def packed(self, *, together: bool = False) -> bytes:
        """What has changed since the start.

        Args:
            together: of runs side by side: without the tensors of their last pass, which are of all of them.

        Raises:
            NotCarriedError: something in it cannot be pickled.
        """
        numbers = {id(node.value): i for i, node in enumerate(self._nodes)}
        changed = [(numbers[id(n.value)], read_contents(n)) for n in self._changed(together)]
        sink = io.BytesIO()
        try:
            _Writer(sink, numbers).dump(changed)
        except (pickle.PicklingError, TypeError, AttributeError, RuntimeError) as error:
            LOGGER.info("a run begins again, as what it holds cannot be written down: %s", error)
            raise NotCarriedError(str(error)) from error
        return sink.getvalue()

    def _changed(self, together: bool) -> list[Node]:
        changed = [node for node in self._before.changed() if id(node.value) not in self._named]
        return [node for node in changed if not (together and self._before.only_tensors(node))]

    def trained(self) -> str:
        """A tensor or generator beside the model that was written to; runs side by side would train each other's."""
        return next((node.path for node in self._changed(True) if node.kind in WRITTEN), "")

    def restore(self, packed: bytes) -> None:
        """Have this run, a fresh one, hold what another one held."""
        for number, held in _Reader(io.BytesIO(packed), self._nodes).load():
            write_contents(self._nodes[number], held)


@contextmanager
def unchanged_by_scoring(task: TrainingTask, model: nn.Module) -> Iterator[None]:
    """Put back what a run's loss counts on or trains beside the model: to score is not to train."""
    if not task.counts:
        yield
        return
    before = Snapshot(reach(task.roots_of(model)), changing=[*model.parameters(), *model.buffers()])
    try:
        yield
    finally:
        before.restore()


class _Writer(ArrayPickler):
    def __init__(self, sink: io.BytesIO, numbers: dict[int, int]) -> None:
        super().__init__(sink, protocol=pickle.HIGHEST_PROTOCOL)
        self._numbers = numbers

    def persistent_id(self, value: Any) -> int | None:
        return self._numbers.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, weakref.ReferenceType) and (referent := value()) is not None:
            return weakref.ref, (referent,)
        return super().reducer_override(value)


class _Reader(pickle.Unpickler):
    """Only for bytes this process or its own workers made."""

    def __init__(self, source: io.BytesIO, nodes: list[Node]) -> None:
        super().__init__(source)
        self._nodes = nodes

    def persistent_load(self, number: int) -> Any:
        return self._nodes[number].value
