"""One member of a race: who it is, what it has done so far, and how to go on from there."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from initadvisor.training.engine.result import SignalFlow, Status, TrialResult


@dataclass(frozen=True, slots=True, order=True)
class MemberKey:
    """Who a member is; nothing else decides what it computes.

    Attributes:
        phase: ``"race"``, ``"warm"`` (the same with the user's warm-up), ``"refine"``, ``"fresh"`` or ``"probe"``.
        scheme: name of what fills its weights.
        seed: of the draw, the data order and the dropout; members with equal seeds see the same.
        lr: base learning rate.
    """

    phase: str
    scheme: str
    seed: int
    lr: float


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on.

    Attributes:
        tensors: parameters and buffers by name, detached.
        optimizer: its state dict.
        scheduler: its state dict, None without one.
        carried: what else it has changed, as :class:`~initadvisor.training.engine.carried.Carried` writes it down.
    """

    tensors: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None
    carried: bytes = b""

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer, scheduler: Any, carried: bytes = b"") -> Checkpoint:
        """Of a live training that goes no further itself: nothing is copied."""
        tensors = {name: p.detach() for name, p in model.named_parameters()}
        tensors.update((name, b.detach()) for name, b in model.named_buffers())
        return cls(tensors, optimizer.state_dict(), None if scheduler is None else scheduler.state_dict(), carried)

    def copy(self) -> Checkpoint:
        """The same in memory of its own, for where the live training goes on after all."""
        scheduler = None if self.scheduler is None else copy.deepcopy(dict(self.scheduler))
        return Checkpoint(
            {n: t.clone() for n, t in self.tensors.items()},
            copy.deepcopy(dict(self.optimizer)),
            scheduler,
            self.carried,
        )

    def restore(self, model: nn.Module, optimizer: Optimizer, scheduler: Any) -> None:
        """Bring a fresh training to where this one stopped."""
        load_tensors(model, self.tensors)
        optimizer.load_state_dict(dict(self.optimizer))
        if scheduler is not None and self.scheduler is not None:
            scheduler.load_state_dict(dict(self.scheduler))


def load_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write parameters and buffers by name, in place; a buffer that a forward pass gave another shape is replaced."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[name])
        for name, b in list(model.named_buffers()):
            if name not in tensors:
                continue  # made by a forward pass after the tensors were taken
            if b.shape == tensors[name].shape:
                b.copy_(tensors[name])
            else:
                owner, _, own = name.rpartition(".")
                setattr(model.get_submodule(owner), own, tensors[name].clone())


class ArrayPickler(pickle.Pickler):
    """Pickles tensors by value, as raw bytes.

    Between processes torch would hand tensors over as shared memory, one open file each: thousands for one rung.
    """

    def reducer_override(self, value: Any) -> Any:
        """How a tensor of the processor is written down; everything else as pickle does it."""
        # Parameters reduce to the tensor they hold, which comes by here again.
        if type(value) is torch.Tensor and value.device.type == "cpu" and value.layout is torch.strided:
            flat = value.detach().contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
            return _tensor_from_bytes, (data, value.dtype, tuple(value.shape))
        return NotImplemented


def _tensor_from_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def pack(value: Any) -> bytes:
    """A value with tensors in it as bytes that any process can read.

    Example:
        >>> unpack(pack({"w": torch.ones(2, dtype=torch.bfloat16)}))["w"]
        tensor([1., 1.], dtype=torch.bfloat16)
    """
    sink = io.BytesIO()
    ArrayPickler(sink, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return sink.getvalue()


def unpack(data: bytes) -> Any:
    """The value :func:`pack` was given. Only for bytes this process or its own workers made."""
    return pickle.loads(data)


@dataclass(frozen=True)
class MemberState:
    """Everything known of one member.

    Attributes:
        key: who it is.
        steps: optimizer steps done.
        train: training loss of every step.
        heldout: ``(step, loss)`` at every evaluation; a loss may be infinite.
        status: how it ended, None while it can go on.
        message: quoted error or remark.
        seconds: computing time spent on it.
        fastest: seconds of the fastest optimizer step so far, where steps were timed; 0 where none was.
        flow: signal and gradient flow of its draw, where measured.
        flow_after: the same at its end, where measured.
        checkpoint: where to go on from; bytes where it came from another process; None before the start, after the
            end, and where it was read from a storage.
    """

    key: MemberKey
    steps: int = 0
    train: tuple[float, ...] = ()
    heldout: tuple[tuple[int, float], ...] = ()
    status: Status | None = None
    message: str = ""
    seconds: float = 0.0
    fastest: float = 0.0
    flow: SignalFlow | None = None
    flow_after: SignalFlow | None = None
    checkpoint: Checkpoint | bytes | None = field(default=None, repr=False, compare=False)

    @property
    def alive(self) -> bool:
        """It can go on."""
        return self.status is None

    @property
    def dead(self) -> bool:
        """Its training broke down: it diverged, raised, or had nothing to move."""
        return self.status in (Status.DIVERGED, Status.FAILED, Status.NO_GRADIENT)

    def reached(self, horizon: int) -> bool:
        """Whether all there is to know up to ``horizon`` is known, its score there included."""
        return not self.alive or any(step == horizon for step, _ in self.heldout)

    def until(self, horizon: int) -> MemberState:
        """What was known of it after so many steps; where it got no further, all of it.

        Example:
            >>> run = MemberState(MemberKey("race", "a", 0, 0.1), 3, (2.0, 1.0, 0.5), ((1, 1.5), (3, 0.4)))
            >>> run.until(2).train, run.until(2).heldout
            ((2.0, 1.0), ((1, 1.5),))
        """
        if self.steps < horizon:
            return self
        heldout = tuple((step, loss) for step, loss in self.heldout if step <= horizon)
        return replace(
            self, steps=horizon, train=self.train[:horizon], heldout=heldout, status=None, message="", checkpoint=None
        )

    def best(self, horizon: int) -> float:
        """Lowest held-out loss up to ``horizon``: the checkpoint a user would keep; inf where none was finite."""
        return min((loss for step, loss in self.heldout if step <= horizon and math.isfinite(loss)), default=math.inf)

    def mean_so_far(self, horizon: int) -> float:
        """Mean training loss up to ``horizon``, each loss capped at twice the first so that one spike is one spike.

        inf for a member that died before: it has no claim to speed.
        """
        losses = self.train[:horizon]
        if not losses or (self.dead and self.steps < horizon):
            return math.inf
        cap = losses[0] + abs(losses[0])
        return math.fsum(min(loss, cap) for loss in losses) / len(losses)

    def result(self, fallback: Status) -> TrialResult:
        """The record that reports read; ``fallback`` is the status of a member that could have gone on."""
        return TrialResult(
            scheme=self.key.scheme,
            lr=self.key.lr,
            seed=self.key.seed,
            phase=self.key.phase,
            status=self.status or fallback,
            steps=self.steps,
            train_loss=self.train,
            heldout=self.heldout,
            flow=self.flow,
            flow_after=self.flow_after,
            seconds=self.seconds,
            message=self.message,
        )
