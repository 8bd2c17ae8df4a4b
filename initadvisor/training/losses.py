"""Which loss a training uses: the user's, or the one its output and target leave no doubt about."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.errors import InputError
from initadvisor.training.data import Batch, own_copy, tensors_in

SQUEEZE_DIM = 1
"""Size of an axis that may be dropped from an output to make it fit a target: only a single value per sample."""


class LossKind(StrEnum):
    """How a loss is computed from a model and a batch; the value completes the sentence "the loss is …"."""

    OUTPUT_TARGET = "your function of (output, target)"
    MODEL_BATCH = "your function of (model, batch)"
    OWN = "the one the model's output carries in .loss"
    SCALAR = "the model's output itself, a single number"
    CROSS_ENTROPY_LAST = "cross-entropy over the last axis (integer targets)"
    CROSS_ENTROPY_SECOND = "cross-entropy over axis 1 (integer targets)"
    BINARY = "binary cross-entropy with logits (targets are 0 and 1)"
    SQUARED = "mean squared error (float targets)"


class LabelError(InputError):
    """Labels that are no class of the output.

    Attributes:
        classes: that the output has.
        outside: lowest and highest of those that are none.
    """

    def __init__(self, labels: torch.Tensor, classes: int) -> None:
        low, high = int(labels.min()), int(labels.max())
        super().__init__(
            f"the targets run from {low} to {high}, but the output has {classes} classes; "
            "widen the output, renumber the labels, or give loss="
        )
        outside = labels[(labels < 0) | (labels >= classes)]
        self.classes, self.outside = classes, (int(outside.min()), int(outside.max()))


_GIVEN = (LossKind.OUTPUT_TARGET, LossKind.MODEL_BATCH)


MODEL_NAMES = {(name,) for name in ("model", "module", "net", "network", "self_model")}
OUTPUT_NAMES = {
    (name,) for name in ("input", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "logits")
} | {(name,) for name in ("scores", "y_hat", "yhat", "y_pred")}
"""First arguments of losses that take a model and of those that take its output."""


@dataclass(frozen=True)
class Loss:
    """A loss that is called with a model and a batch.

    Attributes:
        kind: how it is computed.
        function: the user's callable, None where the loss was inferred.
    """

    kind: LossKind
    function: Callable[..., Any] | None = None

    @property
    def text(self) -> str:
        """The loss in words, and whether it was inferred."""
        if self.kind in _GIVEN:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            return f"{name}, {self.kind.value}"
        return f"{self.kind.value}, inferred"

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of ``model`` on ``batch``, a tensor with one element."""
        if self.kind is LossKind.MODEL_BATCH:
            assert self.function is not None
            value = self.function(model, batch.raw)
        else:
            value = self.of_output(batch.call(model), batch.target)
        return value.reshape(()) if isinstance(value, torch.Tensor) and value.numel() == 1 else value

    def of_output(self, output: Any, target: Any) -> Any:
        """The loss where it depends on the output only."""
        match self.kind:
            case LossKind.OUTPUT_TARGET:
                assert self.function is not None
                return self.function(output, target)
            case LossKind.OWN:
                return own_loss(output)
            case LossKind.SCALAR:
                return output
            case LossKind.CROSS_ENTROPY_LAST:
                scores = scores_of(output)
                return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), target.reshape(-1).long())
            case LossKind.CROSS_ENTROPY_SECOND:
                return F.cross_entropy(scores_of(output), target.long())
            case LossKind.BINARY:
                scores = scores_of(output)
                return F.binary_cross_entropy_with_logits(scores, target.reshape(scores.shape).to(scores.dtype))
            case _:
                scores = scores_of(output)
                return F.mse_loss(scores, target.reshape(scores.shape).to(scores.dtype))


def own_loss(output: Any) -> torch.Tensor | None:
    """The loss an output carries, as transformers' models return it; None where there is none."""
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return found if isinstance(found, torch.Tensor) else None


def scores_of(output: Any) -> torch.Tensor:
    """The tensor a target is compared with: the output, its ``logits``, or its first tensor."""
    if isinstance(output, torch.Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    found = next(tensors_in(output), None)
    if found is None:
        raise InputError(
            f"the model returns {type(output).__name__}, which holds no tensor; give loss=(model, batch) -> scalar"
        )
    return found


def choose_loss(function: Callable[..., Any] | None, model: nn.Module, batch: Batch) -> Loss:
    """The user's loss with its calling convention found out, or the inferred one.

    Args:
        function: the user's loss or None.
        model: a copy that may be called (its buffers may change).
        batch: the batch to try it on.

    Raises:
        InputError: nothing fits; the message says what was seen and what to give.

    Example:
        >>> batch = Batch((torch.randn(8, 3),), {}, torch.randint(2, (8,)))
        >>> choose_loss(None, nn.Linear(3, 2), batch).text
        'cross-entropy over the last axis (integer targets), inferred'
    """
    if function is not None:
        return _given(function, model, batch)
    with torch.no_grad():
        try:
            output = own_copy(batch).call(model)
        except Exception as error:
            remedy = _remedy_for(error, model, batch)
            raise InputError(f"the model rejects the batch: {quoted(error)}{remedy}") from error
    return Loss(infer_kind(output, batch.target))


def first_line(error: BaseException) -> str:
    """First non-empty line of an error's text, for messages of one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def quoted(error: BaseException) -> str:
    """Kind and first line of an error, as messages of one line tell it."""
    return f"{type(error).__name__}: {first_line(error)}"


def _remedy_for(error: Exception, model: nn.Module, batch: Batch) -> str:
    if isinstance(error, (TypeError, NotImplementedError)):
        return "; if your training calls it otherwise, give loss=(model, batch) -> scalar"
    mine = {p.dtype for p in model.parameters() if p.is_floating_point()}
    theirs = {t.dtype for t in tensors_in(batch.inputs) if t.is_floating_point()}
    if len(mine) == len(theirs) == 1 and mine != theirs:
        names = [str(*dtypes).removeprefix("torch.") for dtypes in (theirs, mine)]
        return f"; the inputs are {names[0]} and the weights {names[1]}: convert one of them"
    return ""


def _given(function: Callable[..., Any], model: nn.Module, batch: Batch) -> Loss:
    """Try both calling conventions, the likelier first; a loss may need gradients, so none are switched off."""
    order = list(_GIVEN)
    if takes_model_and_batch(function) or (batch.target is None and not isinstance(function, nn.Module)):
        order.reverse()
    faults = []
    for kind in order:
        loss = Loss(kind, function)
        try:
            value = loss(model, own_copy(batch))
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises is quoted below
            faults.append(f"as {kind.value.removeprefix('your function of ')} {quoted(error)}")
            continue
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            return loss
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        faults.append(f"as {kind.value.removeprefix('your function of ')} it returns {shape}, not one number")
    raise InputError(
        "loss= cannot be called: " + "; ".join(faults) + "; give (output, target) -> scalar or (model, batch) -> scalar"
    )


def takes_model_and_batch(function: Callable[..., Any]) -> bool:
    """Whether the names of a loss' arguments say that it calls the model itself."""
    names = _argument_names(function)
    return names[:1] in MODEL_NAMES or names[1:2] == ("batch",)


def told_kind(function: Callable[..., Any]) -> LossKind | None:
    """What a loss takes, where its arguments' names give that away; None where it has to be tried.

    Example:
        >>> told_kind(F.cross_entropy), told_kind(lambda model, x: 0), told_kind(lambda a, b: 0)
        (<LossKind.OUTPUT_TARGET: 'your function of (output, target)'>, \
<LossKind.MODEL_BATCH: 'your function of (model, batch)'>, None)
    """
    if isinstance(function, Loss):
        return function.kind
    if takes_model_and_batch(function):
        return LossKind.MODEL_BATCH
    if isinstance(function, nn.Module) or _argument_names(function)[:1] in OUTPUT_NAMES:
        return LossKind.OUTPUT_TARGET
    return None


def _argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(name.lower() for name in inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def infer_kind(output: Any, target: Any) -> LossKind:
    """How the loss of an output must be computed, told by the output and the target alone.

    Raises:
        InputError: nothing fits; the message says what was seen and what to give.
    """
    if own_loss(output) is not None:
        return LossKind.OWN
    if not isinstance(target, torch.Tensor):
        if isinstance(output, torch.Tensor) and output.numel() == 1 and output.is_floating_point() and target is None:
            return LossKind.SCALAR
        what = "no target" if target is None else f"a target of type {type(target).__name__}"
        raise InputError(
            f"the loss cannot be inferred: the batch has {what} and the output carries no .loss; "
            "give loss=(output, target) -> scalar or (model, batch) -> scalar"
        )
    scores = scores_of(output)
    if target.is_floating_point():
        if _same_but_for_single(scores.shape, target.shape):
            return LossKind.SQUARED
        raise _no_fit(scores, target)
    return _classify(scores, target)


def _classify(scores: torch.Tensor, target: torch.Tensor) -> LossKind:
    binary = bool(((target == 0) | (target == 1)).all())
    if binary and _same_but_for_single(scores.shape, target.shape):
        return LossKind.BINARY
    last, second = scores.shape[:-1] == target.shape, scores.shape[:1] + scores.shape[2:] == target.shape
    # Of (N, T, T) with (N, T) both would do: sequences have their classes last, images in axis 1.
    if last and second:
        last, second = scores.ndim <= 3, scores.ndim > 3
    if not (last or second):
        raise _no_fit(scores, target)
    classes = scores.shape[-1] if last else scores.shape[1]
    # -100 is what cross-entropy leaves out by default.
    known = target[target != -100]
    if known.numel() and (int(known.max()) >= classes or int(known.min()) < 0):
        raise LabelError(known, classes)
    return LossKind.CROSS_ENTROPY_LAST if last else LossKind.CROSS_ENTROPY_SECOND


def _same_but_for_single(output: torch.Size, target: torch.Size) -> bool:
    """Equal shapes, but for a trailing axis of one value on either side."""
    return output == target or (*output, SQUEEZE_DIM) == target or output == (*target, SQUEEZE_DIM)


def reshaping(kind: LossKind, output: Any, target: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes of output and target where an inferred loss gives the target the output's shape; None where it need not.

    Example:
        >>> reshaping(LossKind.SQUARED, torch.zeros(8, 1), torch.zeros(8))
        ((8, 1), (8,))
    """
    if kind not in (LossKind.SQUARED, LossKind.BINARY) or not isinstance(target, torch.Tensor):
        return None
    shapes = tuple(scores_of(output).shape), tuple(target.shape)
    return None if shapes[0] == shapes[1] else shapes


def _no_fit(scores: torch.Tensor, target: torch.Tensor) -> InputError:
    return InputError(
        f"the loss cannot be inferred: the output has shape {tuple(scores.shape)}, the target {target.dtype} of shape "
        f"{tuple(target.shape)}; give loss=(output, target) -> scalar"
    )
