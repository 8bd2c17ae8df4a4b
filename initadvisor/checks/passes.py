"""One forward and one backward pass on the sample batch, everything of the user's put back afterwards."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from initadvisor.checks.context import units_first
from initadvisor.checks.derived import derived_tensors, lost_writes
from initadvisor.checks.figures import Figures, LossFigures, PriorFigures, TermFigures, TermKind
from initadvisor.checks.lineage import rms
from initadvisor.checks.steps import Seen
from initadvisor.checks.terms import figures_of, labels_outside, told_by_gradient
from initadvisor.checks.waking import waking
from initadvisor.checks.watch import Watch, layer_of, variation_of
from initadvisor.errors import AnalysisError, InputError, swallowed
from initadvisor.graph.analyze import read
from initadvisor.graph.capture import Recording, capture, recording
from initadvisor.graph.spec import ModelSpec
from initadvisor.guard import preserve_model, preserve_process, run_eagerly
from initadvisor.training.data import Batch, map_tensors, own_copy, tensors_in
from initadvisor.training.engine.metrics import watched_weights
from initadvisor.training.losses import LabelError, Loss, LossKind, first_line, infer_kind, quoted, reshaping, scores_of
from initadvisor.training.sanity import scales
from initadvisor.types import Role

Value = TypeVar("Value")

NOTHING: dict[str, bool] = {}

SEED = 0
"""Of dropout and of the stand-in gradient: the same model and batch give the same findings."""

UNTOLD = (
    "what the loss compares could not be seen, so its first value was not judged: it is none of torch's losses and "
    "acts neither as cross-entropy nor as a squared error"
)
SAME_GRADIENT = 1e-5
"""Difference between gradients of equal units, relative to the largest, up to which they are equal but for rounding."""


@dataclass
class _Pass:
    """What a pass leaves behind while the guards hold."""

    output: Any = None
    loss: torch.Tensor | None = None
    name: str = ""
    kind: LossKind | None = None
    reshaped: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    labels: LabelError | None = None
    arrived: dict[int, torch.Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure(model: nn.Module, batch: Batch, loss: Loss | None) -> tuple[ModelSpec, Figures]:
    """Run the passes; read the model and its figures off them.

    The forward pass that the gradients come from is the one the analysis reads, unless the loss calls the model itself:
    what such a loss calls it with, and how often, is its own affair, so the analysis then takes a pass of its own. The
    model runs in training mode, since that is what its weights are for; where its own state says evaluation the flags
    are put back afterwards, like everything else. Only where some gradient is exactly zero a few small steps are
    taken, on values that are put back, to see whether it stays zero.

    Args:
        model: with weights on a real device.
        batch: what to call it with.
        loss: the user's, or None to infer it; where none fits, a random direction of the output stands in for it.

    Raises:
        AnalysisError: the model rejects the batch.
        InputError: the given loss cannot be called.
    """
    batch = own_copy(batch)
    watch = Watch(model, batch)
    guarded = preserve_model(model, None if loss is None else loss.function)
    with preserve_process(), guarded, run_eagerly(), torch.enable_grad(), warnings.catch_warnings():
        # That shapes only broadcast is a finding.
        warnings.filterwarnings("ignore", message="Using a target size")
        for parameter in model.parameters():
            parameter.grad = None
        was_training = model.training
        if not was_training:
            model.train()
        torch.manual_seed(SEED)
        made = derived_tensors(model)
        if loss is not None and loss.kind is LossKind.MODEL_BATCH:
            graph = capture(model, batch)
            done = _loss_of_model(model, batch, loss, watch)
        else:
            with recording(model, batch) as record:
                output = _run(record, watch, was_training)
                graph = record.graph(output)
            watch.leave(model, (), output)
            with watch:
                done = _loss_of_output(output, batch, loss, watch)
        gradients = _backward(model, done)
        with torch.no_grad():
            spec = read(model, graph)
            layers = watched_weights(model, spec)
            names = frozenset(layers.values())
            seen = _tried(done, "the watch", lambda: watch.seen(spec, layers), Seen((), (), ()))
            figures = _figures(done, batch, seen, gradients)
            told = _tried(done, "the loss", lambda: _loss_figures(done, batch, watch, names), None)
            lost = _listed(done, "derived weights", lambda: lost_writes(made))
            priors = _listed(done, "priors", lambda: _priors(done, batch, watch, names))
            acting = {layer_of(p.use, names) or "": float(p.size) for p in watch.policies}
            alike = _tried(done, "equal units", lambda: dict(_alike(model, spec)), NOTHING)
        again = partial(_once_more, model, batch, loss)
        stirred = _tried(done, "weights without gradient", lambda: waking(model, gradients, again), NOTHING)
        notes = (*done.notes, *watch.faults)
        figures = replace(figures, lost=lost, priors=priors, policies=acting)
        return spec, replace(figures, loss=told, waking=stirred, alike=alike, notes=notes)


def _tried(done: _Pass, what: str, take: Callable[[], Value], otherwise: Value) -> Value:
    """A figure, or what stands for it where it cannot be taken: the audit goes on without it, and says so."""
    try:
        return take()
    except Exception as error:  # noqa: BLE001 - logged, and told as a remark
        done.notes.append(f"{what} could not be looked at: {swallowed(f'figures of {what}', error)}")
        return otherwise


def _listed(done: _Pass, what: str, take: Callable[[], Iterable[Value]]) -> tuple[Value, ...]:
    """Figures of one kind, none where they cannot be taken."""
    none: tuple[Value, ...] = ()
    return _tried(done, what, lambda: tuple(take()), none)


def _priors(done: _Pass, batch: Batch, watch: Watch, layers: frozenset[str]) -> Iterator[PriorFigures]:
    """Outputs that are squashed to probabilities, in the model or in the loss, beside targets of zeros and ones."""
    targets = [t for t in tensors_in((batch.target, batch.raw)) if t.numel() > 1 and not t.is_complex()]
    for output in tensors_in(done.output):
        fact = watch.lineage.of(output)
        inside = fact is not None and fact.squash == "sigmoid"
        if fact is None or not output.is_floating_point() or not (inside or id(output) in watch.squashed):
            continue
        for target in dict.fromkeys(t for t in targets if t.numel() == output.numel()):
            if bool(((target == 0) | (target == 1)).all()):
                chance = output.detach().float() if inside else output.detach().float().sigmoid()
                path = "" if fact.use is None else layer_of(fact.use, layers) or ""
                yield PriorFigures(path, float(target.float().mean()), float(chance.mean()), output.ndim > 2)
                break


def _once_more(model: nn.Module, batch: Batch, loss: Loss | None) -> torch.Tensor | None:
    """The loss of a model that has moved, or what stands in for it."""
    torch.manual_seed(SEED)
    copied = replace(
        batch,
        args=map_tensors(batch.args, torch.clone),
        kwargs=map_tensors(dict(batch.kwargs), torch.clone),
        raw=map_tensors(batch.raw, torch.clone),
    )
    if loss is not None and loss.kind is LossKind.MODEL_BATCH:
        return _scalar(loss(model, copied))
    output = copied.call(model)
    done = _loss_of_output(output, batch, loss)
    return done.loss if done.loss is not None else _stand_in(output)


def _figures(done: _Pass, batch: Batch, seen: Seen, gradients: dict[str, float | None]) -> Figures:
    compared = _compared(done.output)
    return Figures(
        layers=seen.layers,
        stream=seen.stream,
        attentions=seen.attentions,
        sums=seen.sums,
        data=_listed(done, "the data", lambda: scales(batch)),
        gradients=gradients,
        output_variation=math.nan if compared is None else _variation(compared),
        output_rms=math.nan if compared is None else float(rms(compared)),
        samples=batch.size or 0,
        varied=_varied(batch),
        notes=tuple(done.notes),
    )


def _alike(model: nn.Module, spec: ModelSpec) -> Iterator[tuple[str, bool]]:
    """Weights all of whose units (tables all of whose features) are equal -> whether their gradients are, too."""
    for path, parameter in model.named_parameters():
        if path not in spec or parameter.ndim < 2 or parameter.numel() == 0:
            continue
        if parameter.grad is None or parameter.grad.is_sparse:
            continue
        param = spec[path]
        value, grad = (
            t.detach().reshape(-1, t.shape[-1]).T if param.role in TABLES else units_first(t.detach(), param)
            for t in (parameter, parameter.grad)
        )
        if len(value) < 2 or not bool((value == value[:1]).all()):
            continue
        size = float(grad.abs().max())
        yield path, size > 0 and float((grad - grad[:1]).abs().max()) <= SAME_GRADIENT * size


TABLES = frozenset({Role.EMBEDDING, Role.POSITION, Role.TOKEN})
"""Roles whose tensors hold features in the last axis."""


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


@contextmanager
def _hooked(model: nn.Module, batch: Batch, watch: Watch) -> Iterator[None]:
    """The watch is told when the model is entered and left; of a loss that calls parts of it, all is the model."""
    with ExitStack() as stack:
        if batch.through is not None:
            yield
            return
        stack.callback(model.register_forward_pre_hook(watch.enter).remove)
        stack.callback(model.register_forward_hook(watch.leave).remove)
        yield


def _loss_of_model(model: nn.Module, batch: Batch, loss: Loss, watch: Watch) -> _Pass:
    done = _Pass(kind=loss.kind, name=loss.text)
    try:
        with _hooked(model, batch, watch), watch:
            done.loss = _scalar(loss(model, batch))
    except Exception as error:
        if any(labels_outside(t) for t in watch.terms):
            done.output = watch.output
            return done
        raise InputError(f"loss(model, batch) fails: {quoted(error)}") from error
    done.output = watch.output
    _await_gradients(done)
    return done


def _loss_of_output(output: Any, batch: Batch, loss: Loss | None, watch: Watch | None = None) -> _Pass:
    done = _Pass(output)
    _await_gradients(done)
    if loss is not None:
        done.kind, done.name = loss.kind, loss.text
        done.reshaped = reshaping(loss.kind, output, batch.target)
        try:
            done.loss = _scalar(loss.of_output(done.output, batch.target))
        except Exception as error:
            if watch is not None and any(labels_outside(t) for t in watch.terms):
                return done
            raise InputError(
                f"loss(output, target) fails: {quoted(error)}; "
                "give (output, target) -> scalar or (model, batch) -> scalar"
            ) from error
        return done
    try:
        inferred = Loss(infer_kind(done.output, batch.target))
        done.loss = _scalar(inferred.of_output(done.output, batch.target))
        done.kind, done.name = inferred.kind, inferred.text
        done.reshaped = reshaping(inferred.kind, done.output, batch.target)
    except LabelError as error:
        done.labels = error
    except (InputError, RuntimeError, ValueError) as error:
        done.notes.append(f"the loss was not checked, and a random direction stood in for its gradient: {error}")
    return done


def _await_gradients(done: _Pass) -> None:
    """Keep the gradients that arrive at the outputs: what a loss compares is told by them."""

    def keep(key: int, grad: torch.Tensor) -> None:
        done.arrived[key] = grad.detach()

    for tensor in tensors_in(done.output):
        if tensor.requires_grad and tensor.is_floating_point():
            tensor.register_hook(partial(keep, id(tensor)))  # type: ignore[no-untyped-call]


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
        found[path] = None if grad is None else float(rms(grad.coalesce().values() if grad.is_sparse else grad))
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


def _compared(output: Any) -> torch.Tensor | None:
    try:
        scores = scores_of(output)
    except InputError:
        return None
    return scores.detach() if scores.is_floating_point() and scores.numel() else None


def _variation(output: torch.Tensor) -> float:
    return float(variation_of(output)) if output.ndim and output.shape[0] > 1 else math.nan


def _loss_figures(done: _Pass, batch: Batch, watch: Watch, layers: frozenset[str]) -> LossFigures | None:
    terms = watch.terms
    if not terms and done.loss is not None:
        terms = list(told_by_gradient(done.output, (batch.target, batch.raw), done.arrived, watch.lineage))
    if not terms and done.loss is not None and done.kind is not LossKind.SCALAR:
        done.notes.append(UNTOLD)
    if done.labels is not None:
        wrong = TermFigures(TermKind.CLASSES, classes=done.labels.classes, labels=done.labels.outside)
        return LossFigures(math.nan, done.name, (wrong,))
    if done.loss is None and not terms:
        return None
    return LossFigures(
        math.nan if done.loss is None else float(done.loss),
        done.name,
        terms=tuple(figures_of(t, "" if t.use is None else layer_of(t.use, layers) or "") for t in terms),
        clashes=tuple(dict.fromkeys((c.output, c.target) for c in watch.clashes)),
        reshaped=done.reshaped,
    )
