"""How one run ended and what it left behind: frozen values that trials, reports and storage share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a trial ended; the value is the sentence a user reads, with the remedy where there is one."""

    COMPLETED = "finished its steps"
    PRUNED = "stopped at a rung: others were clearly better"
    GATED = "not trained: its very first forward and backward pass was already broken"
    NOT_TRIED = "not tried: the budget had room for candidates further up in the rules' order only"
    DIVERGED = "the loss became infinite or not a number: a lower learning rate or a smaller gain is needed"
    NO_GRADIENT = "no weight gets any gradient from the first backward pass, so nothing would ever move"
    FAILED = "the training itself raised an error, which is quoted"
    INTERRUPTED = "stopped by the user before its steps were done"


@dataclass(frozen=True, slots=True)
class SignalFlow:
    """Per weight layer, in execution order, at one step of one training.

    Attributes:
        layers: paths of the weights whose outputs were measured.
        depth: their depth in the graph.
        forward_rms: root mean square of the layer's output.
        backward_norm: RMS of the gradient of the loss with respect to that output.
        dead_share: share of following-activation units that are zero on the whole batch.
        saturated_share: share of following-activation outputs in the flat part of a bounded activation.
        update_ratio: RMS(weight change in one step) / RMS(weight); empty before the first step.
        trains: whether the loss asks for a gradient at that output; it does not where the weight and all before it are
            frozen. Empty: everywhere.
    """

    layers: tuple[str, ...]
    depth: tuple[int, ...]
    forward_rms: tuple[float, ...]
    backward_norm: tuple[float, ...]
    dead_share: tuple[float, ...] = ()
    saturated_share: tuple[float, ...] = ()
    update_ratio: tuple[float, ...] = ()
    trains: tuple[bool, ...] = ()

    def course(self, field: str) -> tuple[tuple[int, float], ...]:
        """Places of the layers, from 1, and one of the figures there; a gradient only where the loss asks for one.

        Example:
            >>> flow = SignalFlow(("a", "b"), (1, 2), (1.0, 0.9), (0.0, 0.1), trains=(False, True))
            >>> flow.course("forward_rms"), flow.course("backward_norm")
            (((1, 1.0), (2, 0.9)), ((2, 0.1),))
        """
        places = enumerate(getattr(self, field), start=1)
        if field != "backward_norm" or not self.trains:
            return tuple(places)
        return tuple(place for place, asked in zip(places, self.trains, strict=True) if asked)


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One short training: a scheme at a learning rate from one draw.

    Attributes:
        scheme: name of the scheme.
        lr: base learning rate.
        seed: of weights, data order and dropout.
        phase: ``"race"``, ``"warm"``, ``"refine"`` or ``"fresh"``.
        status: how it ended.
        steps: optimizer steps done.
        train_loss: one value per step.
        heldout: ``(step, loss)`` at each evaluation, step 0 included.
        flow: signal and gradient flow at initialisation.
        flow_after: the same at the end, None where not measured.
        seconds: its share of wall time.
        message: quoted error or remark.
    """

    scheme: str
    lr: float
    seed: int
    phase: str
    status: Status
    steps: int
    train_loss: tuple[float, ...] = ()
    heldout: tuple[tuple[int, float], ...] = ()
    flow: SignalFlow | None = None
    flow_after: SignalFlow | None = None
    seconds: float = 0.0
    message: str = ""
