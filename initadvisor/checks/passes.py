"""One forward and one backward pass on the sample batch, everything of the user's put back afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.checks.figures import Figures, LossFigures
from initadvisor.checks.watch import Seen, Watch, variation_of
from initadvisor.errors import AnalysisError, InputError
from initadvisor.graph.analyze import read
from initadvisor.graph.capture import Recording, capture, recording
from initadvisor.graph.spec import ModelSpec
from initadvisor.guard import preserve_model, preserve_process, run_eagerly
from initadvisor.training.data import Batch, tensors_in
from initadvisor.training.engine.metrics import watched_weights
from initadvisor.training.losses import (
    Loss,
    LossKind,
    first_line,
    infer_kind,
    quoted,
    scores_of,
)

SEED = 0
"""Of dropout and of the stand-in gradient: the same model and batch give the same findings."""

_CLASSIFYING = (LossKind.CROSS_ENTROPY_LAST, LossKind.CROSS_ENTROPY_SECOND)


@dataclass
class _Pass:
    """What a pass leaves behind while the guards hold."""

    output: Any = None
    loss: torch.Tensor | None = None
    name: str = ""
    kind: LossKind | None = None
    notes: list[str] = field(default_factory=list)


def measure(model: nn.Module, batch: Batch, loss: Loss | None) -> tuple[ModelSpec, Figures]:
    """Run the passes; read the model and its figures off them.

    The forward pass that the gradients come from is the one the analysis reads, unless the loss calls the model itself:
    what such a loss calls it with, and how often, is its own affair, so the analysis then takes a pass of its own. The
    model runs in training mode, since that is what its weights are for; where its own state says evaluation the flags
    are put back afterwards, like everything else.

    Args:
        model: with weights on a real device.
        batch: what to call it with.
        loss: the user's, or None to infer it; where none fits, a random direction of the output stands in for it.

    Raises:
        AnalysisError: the model rejects the batch.
        InputError: the given loss cannot be called.
    """
    watch = Watch(model, batch.size or 0)
    with preserve_process(), preserve_model(model), run_eagerly(), torch.enable_grad():
        for parameter in model.parameters():
            parameter.grad = None
        was_training = model.training
        if not was_training:
            model.train()
        torch.manual_seed(SEED)
        if loss is not None and loss.kind is LossKind.MODEL_BATCH:
            graph = capture(model, batch)
            done = _loss_of_model(model, batch, loss, watch)
        else:
            with recording(model, batch) as record:
                output = _run(record, watch, was_training)
                graph = record.graph(output)
            done = _loss_of_output(output, batch, loss)
        gradients = _backward(model, done)
        with torch.no_grad():
            spec = read(model, graph)
            return spec, _figures(done, batch, watch.seen(spec, watched_weights(model, spec)), gradients)


def _figures(done: _Pass, batch: Batch, seen: Seen, gradients: dict[str, float | None]) -> Figures:
    compared = _compared(done.output)
    return Figures(
        layers=seen.layers,
        stream=seen.stream,
        attentions=seen.attentions,
        loss=_loss_figures(done, batch),
        gradients=gradients,
        output_variation=math.nan if compared is None else _variation(compared),
        output_rms=math.nan if compared is None else _rms(compared),
        samples=batch.size or 0,
        varied=_varied(batch),
        notes=tuple(done.notes),
    )


def _varied(batch: Batch) -> bool:
    """Some input differs between the samples; a batch of copies says nothing of what a model tells apart."""
    size = batch.size or 0
    inputs = [t for t in tensors_in(batch.inputs) if t.ndim and t.shape[0] == size > 1]
    return any(bool((t != t[:1]).any()) for t in inputs)


def _run(record: Recording, watch: Watch, was_training: bool) -> Any:
    try:
        # The recording lies above the watch, which therefore sees what is recorded while its own sums are not.
        with watch:
            return record.run()
    except AnalysisError as error:
        if was_training:
            raise
        raise AnalysisError(f"{error} (it was put into training mode, since that is what is checked)") from error


def _loss_of_model(model: nn.Module, batch: Batch, loss: Loss, watch: Watch) -> _Pass:
    done = _Pass(kind=loss.kind, name=loss.text)
    try:
        with watch:
            done.loss = _scalar(loss(model, batch))
    except Exception as error:
        raise InputError(f"loss(model, batch) fails: {quoted(error)}") from error
    return done


def _loss_of_output(output: Any, batch: Batch, loss: Loss | None) -> _Pass:
    done = _Pass(output)
    if loss is not None:
        done.kind, done.name = loss.kind, loss.text
        try:
            done.loss = _scalar(loss.of_output(done.output, batch.target))
        except Exception as error:
            raise InputError(
                f"loss(output, target) fails: {quoted(error)}; "
                "give (output, target) -> scalar or (model, batch) -> scalar"
            ) from error
        return done
    try:
        inferred = Loss(infer_kind(done.output, batch.target))
        done.loss = _scalar(inferred.of_output(done.output, batch.target))
        done.kind, done.name = inferred.kind, inferred.text
    except (InputError, RuntimeError, ValueError) as error:
        done.notes.append(f"the loss was not checked, and a random direction stood in for its gradient: {error}")
    return done


def _scalar(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"the loss is {shape}, not one number; reduce it to a scalar")
    return value.reshape(())


def _backward(model: nn.Module, done: _Pass) -> dict[str, float | None]:
    """RMS of every parameter's gradient; empty where no backward pass was possible."""
    target = done.loss if done.loss is not None else _stand_in(done.output)
    if target is None or not target.requires_grad:
        done.notes.append("no gradient was measured: nothing the model returned depends on a trained parameter")
        return {}
    try:
        target.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        done.notes.append(f"no gradient was measured: {first_line(error)}")
        return {}
    found: dict[str, float | None] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        grad = parameter.grad
        found[path] = None if grad is None else _rms(grad.coalesce().values() if grad.is_sparse else grad)
    return found


def _stand_in(output: Any) -> torch.Tensor | None:
    """The output along a random direction, of the size a mean over samples would have."""
    parts = [t for t in tensors_in(output) if t.requires_grad and t.is_floating_point() and t.numel()]
    if not parts:
        return None
    total = torch.zeros((), device=parts[0].device)
    for part in parts:
        direction = torch.randn(part.shape).to(part)
        total = total + (part * direction).sum().float() / part.numel()
    return total


def _rms(tensor: torch.Tensor) -> float:
    if tensor.numel() == 0:
        return 0.0
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return float(torch.linalg.vector_norm(wide)) / math.sqrt(tensor.numel())


def _compared(output: Any) -> torch.Tensor | None:
    try:
        scores = scores_of(output)
    except InputError:
        return None
    return scores if scores.is_floating_point() and scores.numel() else None


def _variation(output: torch.Tensor) -> float:
    return float(variation_of(output)) if output.ndim and output.shape[0] > 1 else math.nan


def _loss_figures(done: _Pass, batch: Batch) -> LossFigures | None:
    if done.loss is None:
        return None
    figures = LossFigures(float(done.loss), done.name)
    scores, target = _compared(done.output), batch.target
    if scores is None or not isinstance(target, torch.Tensor):
        return figures
    entropy = _cross_entropy(scores, target, done.kind)
    if entropy is not None:
        each, rows = entropy
        centred = rows - rows.mean(dim=-1, keepdim=True)
        return LossFigures(
            figures.value,
            done.name,
            cross_entropy=float(each.mean()),
            entropy_error=float(each.std()) / math.sqrt(each.numel()) if each.numel() > 1 else 0.0,
            classes=rows.shape[-1],
            score_rms=_rms(centred),
            output_rms=_rms(rows),
        )
    if target.is_floating_point() and target.numel() and done.kind is LossKind.SQUARED:
        spread = float(target.float().std()) if target.numel() > 1 else math.nan
        return LossFigures(
            figures.value,
            done.name,
            target_mean=float(target.float().mean()),
            target_std=spread,
            output_rms=_rms(scores),
        )
    return figures


def _cross_entropy(
    scores: torch.Tensor, target: torch.Tensor, kind: LossKind | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Cross-entropy per labelled position and the scores there, where that is what is trained.

    An output that carries its own loss (``OWN``) or a user's function is taken for a classifier where the labels fit
    the scores and the loss is indeed close to their cross-entropy, shifted by one position or not.
    """
    if target.is_floating_point() or target.dtype is torch.bool or scores.ndim < 2:
        return None
    if kind is LossKind.CROSS_ENTROPY_SECOND:
        scores = scores.movedim(1, -1)
    elif kind not in (*_CLASSIFYING, LossKind.OWN, LossKind.OUTPUT_TARGET):
        return None
    if scores.shape[:-1] != target.shape or scores.shape[-1] < 2:
        return None
    rows, labels = scores.reshape(-1, scores.shape[-1]).float(), target.reshape(-1).long()
    known = (labels >= 0) & (labels < rows.shape[-1])
    if not bool(known.any()):
        return None
    rows, labels = rows[known], labels[known]
    return F.cross_entropy(rows, labels, reduction="none"), rows
