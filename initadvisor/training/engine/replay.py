"""Replays of a step that was recorded, for as long as they are the step.

A recording cannot know of what enters a step beside tensors. So each is held against the real step when it is made, and
again after a while, first by its operations and the numbers in them and then by its results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initadvisor.training.engine.recording import NotRecordableError, Program, Results, Step, memory_of, record

KINDS_OF_BATCH = 4
"""Shapes of batches, at most, that have a recording of their own."""

RECORDED_AGAIN = 2
"""Number of the replay at which the step is recorded once more: a counter anywhere has moved by then."""

COMPARED = (16, 128, 1024, 8192)
"""Numbers of the replays that are held against the real step."""

AGREEMENT = 1e-4
"""Largest difference between a replay and the real step, as a share of the result's norm. They call the same kernels;
on a processor they agree to the last bit."""


class StaleReplayError(RuntimeError):
    """The step is no longer the one that was recorded; what was trained by replays of it is worth nothing."""


@dataclass
class _Recorded:
    """A program for batches of one kind, and how often it ran."""

    kind: Any
    program: Program
    runs: int = 0


class Replayer:
    """Runs a step by replaying it, where that can be done, and sees to it that it still is the step.

    Args:
        model: what the step trains.
        fixed: tensors that stay where they are while their content changes.
        changing: further ones, whose content the step itself changes.

    Attributes:
        refused: why the step is not replayed; empty where it is.
    """

    def __init__(self, model: nn.Module, fixed: Sequence[torch.Tensor], changing: Sequence[torch.Tensor]) -> None:
        self.refused = ""
        self._model, self._fixed, self._changing = model, [*fixed, *changing], changing
        self._known: list[_Recorded] = []

    def step(self, real: Step, inputs: Sequence[torch.Tensor], beside: Any, begin: Callable[[], None]) -> Results:
        """Results of the step, computed or replayed.

        Args:
            real: computes the step.
            inputs: the tensors of its batch.
            beside: what the batch holds beside tensors; a recording is replayed on batches with an equal one.
            begin: sets the generators of random numbers to where the step finds them.

        Raises:
            StaleReplayError: the step is no longer the one that was recorded.
        """
        if self.refused:
            return real()
        try:
            kind = (_kind_of(inputs), beside)
        except NotRecordableError as reason:
            self.refused = str(reason)
            return real()
        known = next((k for k in self._known if k.kind == kind), None)
        if known is None:
            return self._first(real, inputs, kind, begin)
        known.runs += 1
        if known.runs == RECORDED_AGAIN or known.runs in COMPARED:
            return self._compared(known, real, inputs, begin)
        return known.program.run(inputs)

    def _first(self, real: Step, inputs: Sequence[torch.Tensor], kind: Any, begin: Callable[[], None]) -> Results:
        if len(self._known) == KINDS_OF_BATCH:
            self.refused = f"batches of more than {KINDS_OF_BATCH} kinds"
            return real()
        before = _State(self._changing)
        outputs, program = record(real, inputs, self._fixed, self._model)
        if isinstance(program, str):
            self.refused = program
            return outputs
        after = before.put_back()
        begin()
        replayed = program.run(inputs)
        if _agree(outputs, replayed) and _agree(after.kept, after.put_back().kept):
            self._known.append(_Recorded(kind, program))
        else:
            self.refused = "a replay differs from the step"
        return outputs

    def _compared(
        self, known: _Recorded, real: Step, inputs: Sequence[torch.Tensor], begin: Callable[[], None]
    ) -> Results:
        before = _State(self._changing)
        replayed = known.program.run(inputs)
        after = before.put_back()
        begin()
        if known.runs == RECORDED_AGAIN:
            outputs, program = record(real, inputs, self._fixed, self._model)
            same = isinstance(program, Program) and known.program.same_as(program)
        else:
            outputs, same = real(), True
        if not (same and _agree(outputs, replayed) and _agree(self._changing, after.kept)):
            raise StaleReplayError(f"the step is no longer what it was {known.runs} replays ago")
        return outputs


class _State:
    """What tensors hold at a moment."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        self.kept = [t.clone() for t in tensors]

    def put_back(self) -> _State:
        """Have the tensors hold it again; gives back what they held."""
        found = _State(self._tensors)
        for tensor, kept in zip(self._tensors, self.kept, strict=True):
            tensor.copy_(kept)
        return found


def _kind_of(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Layout of each, and which of them are the same part of the same memory."""
    memories = [memory_of(t) for t in tensors]
    return tuple((m[2:], memories.index(m), t.device) for m, t in zip(memories, tensors, strict=True))


def _agree(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(_is_close(a, b) for a, b in zip(some, others, strict=True))


def _is_close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return False
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return False
    apart = torch.where(finite, a - b, 0).norm()
    return bool(apart <= AGREEMENT * torch.where(finite, a, 0).norm())
