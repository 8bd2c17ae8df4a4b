"""Before any step: drop what is broken at its first pass, and what another scheme or the model already is."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import nn

from initadvisor.schemes.scheme import Scheme
from initadvisor.streams import derive_step, seed_all
from initadvisor.training.data import tensors_in
from initadvisor.training.engine.loop import drawn_model, trial_process
from initadvisor.training.losses import quoted
from initadvisor.training.task import TrainingTask
from initadvisor.trials.redraw import is_redraw
from initadvisor.types import CURRENT, TORCH_DEFAULT

EXPLODED = 1e6
"""Loss, in multiples of the lowest first loss of all candidates, from which a start is hopeless: an optimizer that
moves weights by a percent a step would need most of a short training to undo it."""

DIGEST_ELEMENTS = 4096
"""Elements of each tensor that are compared to find duplicates: equal draws are equal everywhere."""


@dataclass(frozen=True)
class Passed:
    """What the first pass of one scheme showed.

    Attributes:
        scheme: its name.
        loss: of the sample batch; not finite where it overflowed.
        fault: why it is dropped, empty where it is not.
        digest: equal for equal weights.
        seconds: its forward and backward pass took; nothing where it failed.
        fill_seconds: its weights took to be drawn.
    """

    scheme: str
    loss: float
    fault: str
    digest: str
    seconds: float = 0.0
    fill_seconds: float = 0.0


def gate(task: TrainingTask, schemes: Sequence[Scheme], seed: int, *, seconds: float = math.inf) -> tuple[Passed, ...]:
    """Look at the first forward and backward pass of every scheme, without a step.

    Dropped are: an error while filling, a loss or gradient that is not finite, no gradient anywhere, a loss out of all
    proportion, a duplicate of an earlier scheme, and torch's default where the weights as they came are just that:
    another draw of the same wins by chance alone. The weights as they came are never dropped; zeros that leave part of
    a net without gradient at first (residual branches, output layers) are on purpose and pass.

    Args:
        task: the training.
        schemes: candidates, the preferred of two equal ones first.
        seed: of the draw that is looked at.
        seconds: to spend on drawing schemes that measure on data; those for which they do not suffice are left out.
    """
    with trial_process():
        seen = list(_looks(task, schemes, seed, seconds))
    lowest = min((p.loss for p in seen if math.isfinite(p.loss)), default=math.inf)
    first_with: dict[str, str] = {}
    result = []
    for passed in seen:
        fault = passed.fault
        twin = first_with.setdefault(passed.digest, passed.scheme) if passed.digest else passed.scheme
        if not fault and lowest > 0 and passed.loss > EXPLODED * lowest:
            fault = f"its first loss is {passed.loss:.1e}, where another candidate starts at {lowest:.2g}"
        if not fault and twin != passed.scheme:
            fault = f'draws exactly the weights of "{twin}"'
        result.append(replace(passed, fault="" if passed.scheme == CURRENT else fault))
    return tuple(result)


def longer_to_draw(passed: Sequence[Passed], some: Sequence[str]) -> float:
    """Seconds that drawing a scheme takes on average beyond what it takes for some of them; 0 where those take longer.

    Example:
        >>> seen = [Passed("a", 1.0, "", "", fill_seconds=0.1), Passed("b", 1.0, "", "", fill_seconds=0.5)]
        >>> round(longer_to_draw(seen, ["a"]), 3), longer_to_draw(seen, ["b"]), longer_to_draw(seen, [])
        (0.2, 0.0, 0.0)
    """
    fills = {p.scheme: p.fill_seconds for p in passed if not p.fault}
    return max(0.0, fmean(fills.values()) - fmean(fills[name] for name in some)) if some else 0.0


def _looks(task: TrainingTask, schemes: Sequence[Scheme], seed: int, seconds: float) -> Iterator[Passed]:
    spent = longest = 0.0
    for scheme in schemes:
        measures = bool(getattr(scheme, "calibrations", ()))
        if measures and spent + longest > seconds:
            continue
        passed = _look(task, scheme, seed)
        if measures:
            spent, longest = spent + passed.fill_seconds, max(longest, passed.fill_seconds)
        yield passed


def _look(task: TrainingTask, scheme: Scheme, seed: int) -> Passed:
    try:
        drawing = time.perf_counter()
        model = drawn_model(task, scheme, seed)
        drawing = time.perf_counter() - drawing
        seed_all(derive_step(seed, 0))
        began = time.perf_counter()
        loss = task.compute_loss(model, task.batch_at(seed, 0))
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - a scheme that does not fit is dropped with its own words
        return Passed(scheme.name, math.inf, quoted(error), "")
    value, seconds = float(loss.detach()), time.perf_counter() - began
    fault = _fault(task, model, value)
    if not fault and scheme.name == TORCH_DEFAULT and is_redraw(task.member(), model):
        fault = "the weights as they came are already drawn like this"
    return Passed(scheme.name, value, fault, _digest(model), seconds, drawing)


def _fault(task: TrainingTask, model: nn.Module, loss: float) -> str:
    if not math.isfinite(loss):
        return "its first loss is not finite"
    grads = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    if not all(bool(torch.isfinite(g).all()) for g in grads if not g.is_sparse):
        return "its first gradient is not finite"
    if not any(bool(g.any()) if not g.is_sparse else bool(g._values().any()) for g in grads):
        return "no weight gets any gradient"
    return ""


def _digest(model: nn.Module) -> str:
    """Of the trainable weights as drawn; the backward pass has not changed them."""
    sink = hashlib.sha256()
    for p in model.parameters():
        if p.requires_grad:
            flat = p.detach().reshape(-1)[:DIGEST_ELEMENTS].contiguous().cpu()
            sink.update(flat.view(torch.uint8).numpy().tobytes())
    return sink.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Of all parameters and buffers, to know a model again."""
    sink = hashlib.sha256()
    for tensor in tensors_in([list(model.parameters()), list(model.buffers())]):
        sink.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return sink.hexdigest()[:16]
