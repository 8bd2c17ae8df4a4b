"""Fill a model by a scheme: first a plan that proves everything fits, then a short loop, then the reading back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.errors import InitAdvisorError, SchemeError, nearest
from initadvisor.guard import preserve_model, preserve_process, run_eagerly
from initadvisor.initializers.registry import get as card_of
from initadvisor.schemes.regions import coverage_fault, gather, scatter, slice_shape
from initadvisor.schemes.seeding import stream
from initadvisor.schemes.slots import Slot, SlotKind, norm_statistics, slots_of
from initadvisor.schemes.streaming import backup, regions_of, run_all, sharing_memory, streamable
from initadvisor.schemes.values import ApplyResult, Assignment, FilledTensor, Part, SchemeKind, SchemeValues
from initadvisor.schemes.verify import check_declared, check_written, sample_of
from initadvisor.training.calls import trained_batch
from initadvisor.training.data import Batch
from initadvisor.training.losses import Loss, choose_loss
from initadvisor.wrapped import unspread

KEPT = "kept by the scheme"
"""``ApplyResult.left``: an assignment says to leave the tensor as it is, or the scheme is ``current``."""

FROZEN = "frozen"
"""``ApplyResult.left``: ``requires_grad`` is false."""

INTEGER = "integer"
"""``ApplyResult.left``: not a floating-point tensor, hence nothing to draw (quantised weights)."""

NO_REINIT = "marked _no_reinit"
"""``ApplyResult.left``: the model's author marked the tensor, as state-space models do for their step sizes."""

WRITTEN_WITH = "written together with its weight"
"""``ApplyResult.left``: the magnitude of a weight norm, which follows from the weight."""


@dataclass(frozen=True)
class Plan:
    """A scheme laid against a model, fully checked; nothing has been written yet.

    Attributes:
        fills: what to write, in model order.
        left: path -> why it is left alone.
    """

    fills: tuple[tuple[Slot, Assignment], ...]
    left: Mapping[str, str]


def plan_scheme(scheme: SchemeValues, model: nn.Module) -> Plan:
    """Lay a scheme against a model and check that every tensor is written exactly once, or left on purpose.

    Raises:
        SchemeError: a path, shape or slice does not fit, a parameter is assigned twice or not at all, or the model is
            not materialised.
        RegistryError: an initializer is unknown.
    """
    slots = slots_of(model)
    if scheme.kind is SchemeKind.CURRENT:
        return Plan((), dict.fromkeys(slots, KEPT))
    canonical = {name: slot.path for slot in slots.values() for name in (slot.path, *slot.aliases)}
    chosen: dict[str, Assignment] = {}
    for assignment in scheme.assignments:
        path = canonical.get(assignment.path)
        if path is None:
            raise SchemeError(
                f'scheme "{scheme.name}": the model has no parameter {assignment.path}; '
                f"{nearest(assignment.path, canonical)}"
            )
        if path in chosen:
            raise SchemeError(
                f'scheme "{scheme.name}": {path} is assigned twice (by {chosen[path].rule} and {assignment.rule}'
                + (f", as {assignment.path}, which is the same tensor)" if assignment.path != path else ")")
            )
        chosen[path] = assignment
    fills: list[tuple[Slot, Assignment]] = []
    left: dict[str, str] = {}
    for path, slot in slots.items():
        why = _why_left(scheme, slot, chosen.get(path))
        if why is not None:
            left[path] = why
            continue
        _check_fits(scheme, slot, chosen[path])
        fills.append((slot, chosen[path]))
    return Plan(tuple(fills), left)


def _why_left(scheme: SchemeValues, slot: Slot, assignment: Assignment | None) -> str | None:
    """Why a tensor is not written; None where it is; an error where nobody says anything about it."""
    if not slot.param.requires_grad:
        # Integer tensors cannot require gradients, so they are told apart here.
        return FROZEN if is_lazy(slot.param) or slot.param.is_floating_point() else INTEGER
    if getattr(slot.param, "_no_reinit", False):
        return NO_REINIT
    if slot.kind is SlotKind.COMPANION:
        if assignment is not None and assignment.parts:
            raise SchemeError(
                f'scheme "{scheme.name}": {slot.path} follows from {slot.written_with} and cannot be filled by itself; '
                "leave its parts empty"
            )
        return WRITTEN_WITH
    if assignment is None:
        raise SchemeError(
            f'scheme "{scheme.name}" says nothing about {slot.path} {tuple(slot.param.shape)}; add an assignment, or '
            "one without parts to keep it as it is"
        )
    return None if assignment.parts else (assignment.reason if assignment.rule == "protected" else KEPT)


def _check_fits(scheme: SchemeValues, slot: Slot, assignment: Assignment) -> None:
    what = f'scheme "{scheme.name}": {slot.path}'
    if is_lazy(slot.param):
        raise SchemeError(f"{what} has no shape yet; run one batch through the model first")
    if slot.param.is_meta:
        raise SchemeError(f'{what} is on the meta device; call model.to_empty(device="cpu") (or cuda) first')
    shape = tuple(slot.param.shape)
    if shape != tuple(assignment.shape):
        raise SchemeError(f"{what} is {shape} in the model but {tuple(assignment.shape)} in the scheme")
    fault = coverage_fault(shape, [part.slice for part in assignment.parts])
    if fault is not None:
        raise SchemeError(f"{what} {shape} {fault} (rule {assignment.rule})")
    for part in assignment.parts:
        card = card_of(part.fill.initializer)
        if len(slice_shape(shape, part.slice)) < card.min_dims:
            raise SchemeError(f"{what} {shape}: {card.name} needs at least {card.min_dims} axes")
        unknown = [name for name, _ in part.fill.args if name not in card.args]
        if unknown:
            raise SchemeError(f'{what}: {card.name} takes no argument "{unknown[0]}"; {nearest(unknown[0], card.args)}')


@contextmanager
def _told(path: str, shape: tuple[int, ...], initializer: str) -> Iterator[None]:
    """Whatever an initializer raises says where."""
    try:
        yield
    except InitAdvisorError as error:
        raise SchemeError(f"{path} {shape}: {error}") from error
    except (ValueError, RuntimeError, TypeError) as error:
        raise SchemeError(f"{path} {shape}: {initializer} cannot fill it: {error}") from error


def _draw(part: Part, shape: tuple[int, ...], dtype: torch.dtype, seed: int, path: str) -> torch.Tensor:
    card = card_of(part.fill.initializer)
    name = part.slice.name if part.slice is not None else ""
    with _told(path, shape, card.name):
        return card.fn(
            slice_shape(shape, part.slice),
            part.fans,
            gain=part.fill.gain,
            generator=stream(seed, path, name),
            dtype=dtype,
            **dict(part.fill.args),
        )


def draw(assignment: Assignment, seed: int, dtype: torch.dtype, *, padding_idx: int | None = None) -> torch.Tensor:
    """The full value of one tensor, on the CPU: every part drawn from its own stream, padding row zeroed.

    Args:
        assignment: what fills it; it must have parts.
        seed: the user's seed.
        dtype: of the result.
        padding_idx: row to set to zero afterwards.

    Raises:
        SchemeError: an initializer cannot fill this shape.
    """
    shape = tuple(assignment.shape)
    if len(assignment.parts) == 1 and assignment.parts[0].slice is None:
        value = _draw(assignment.parts[0], shape, dtype, seed, assignment.path)
    else:
        value = torch.empty(shape, dtype=dtype)
        for part in assignment.parts:
            scatter(value, part.slice, _draw(part, shape, dtype, seed, assignment.path))
    if padding_idx is not None:
        value[padding_idx] = 0
    return value


def _read_back(slot: Slot, assignment: Assignment, wrote: torch.Tensor) -> FilledTensor:
    """Check one written tensor, part by part; the summary of the whole where it has several."""
    read = slot.read()
    check_written(slot.path, wrote, read, recomputed=slot.recomputed)
    results = []
    for part in assignment.parts:
        region = gather(read, part.slice)
        if slot.padding_idx is not None and part.slice is None:
            region = torch.cat([region[: slot.padding_idx], region[slot.padding_idx :][1:]])
        if region.numel():
            results.append(_check_part(assignment, part, region))
    return _summary(slot.path, assignment, results, read)


def _check_part(assignment: Assignment, part: Part, region: torch.Tensor, *, independent: bool = False) -> FilledTensor:
    card = card_of(part.fill.initializer)
    declared = card.declare(slice_shape(assignment.shape, part.slice), part.fans, part.fill.gain, dict(part.fill.args))
    label = assignment.path if part.slice is None else f"{assignment.path}[{part.slice.name}]"
    return check_declared(label, card.name, region, declared, independent=independent)


def _summary(path: str, assignment: Assignment, parts: list[FilledTensor], whole: torch.Tensor) -> FilledTensor:
    if len(parts) == 1:
        only = parts[0]
        return FilledTensor(path, only.initializer, only.declared_mean, only.declared_std, only.mean, only.std)
    names = "+".join(dict.fromkeys(part.fill.initializer for part in assignment.parts))
    values = whole.double()
    return FilledTensor(path, names, None, None, float(values.mean()), float(values.std(correction=0)))


def _stream_into(slot: Slot, assignment: Assignment, seed: int) -> FilledTensor:
    """Draw straight into the parameter and check what lies there; see :mod:`initadvisor.schemes.streaming`."""
    results = []
    shape = tuple(assignment.shape)
    with _told(slot.path, shape, "its initializer"):
        regions = regions_of(slot, assignment, seed)
    for region in regions:
        with _told(slot.path, shape, region.card.name):
            region.fill()
        if region.flat.numel():
            results.append(_check_part(assignment, region.part, region.flat, independent=True))
    if slot.padding_idx is not None:
        slot.param.detach()[slot.padding_idx] = 0
    return _summary(slot.path, assignment, results, sample_of(slot.param.detach().view(-1)))


def _reset_statistics(
    model: nn.Module, written: set[int], left_any: bool
) -> tuple[list[tuple[torch.Tensor, float]], int]:
    """Running statistics that describe weights which are gone: those of norms whose own parameters were written.

    A norm without parameters is reset only where nothing of the model was kept.
    """
    stale, modules = [], set()
    for module, buffer, fresh in norm_statistics(model):
        own = [id(p) for p in module.parameters(recurse=False)]
        if all(key in written for key in own) if own else not left_any:
            stale.append((buffer, fresh))
            modules.add(id(module))
    return stale, len(modules)


def apply_scheme(
    scheme: SchemeValues,
    model: nn.Module,
    *,
    seed: int = 0,
    batch: Any = None,
    loss: Callable[..., Any] | None = None,
    undo: bool = True,
) -> ApplyResult:
    """Fill a model's weights in place by a scheme, and prove that it happened.

    Each tensor (each packed slice of it) is drawn from a stream of its own, named by ``(seed, path, slice)``, on the
    CPU, and copied to wherever the parameter lives: the numbers depend on no device, order or other layer. Tied tensors
    are written once. Frozen tensors, integer tensors and those marked ``_no_reinit`` are not touched. BatchNorm
    statistics of refilled norms are reset, since they describe the old weights. Every written tensor is read back and
    compared with what its initializer declares.

    Args:
        scheme: what fills what.
        model: any module with real (not ``meta``) parameters; changed in place.
        seed: any integer; the same seed gives the same weights to the bit.
        batch: for data-driven steps; ``scheme.batch`` where it is None.
        loss: of the training, for data-driven steps that descend on it: ``(output, target)`` or ``(model, batch)`` ->
            scalar; None infers it from the batch. Schemes without such steps never call it.
        undo: keep the old weights until all is checked, which takes their memory once more. Without, a failure or an
            interrupt leaves the model partly filled: for models too large to be held twice, whose weights are new.

    Returns:
        What was filled, with declared and observed statistics, and what was left alone and why.

    Raises:
        SchemeError: the scheme does not fit the model, or a data-driven step lacks a batch. Nothing was changed.
        VerificationError: a tensor reads back wrong. Everything was put back.
        InputError: a step needs ``loss``, and it cannot be called with this model and batch. Everything was put back.

    Example:
        >>> from initadvisor.schemes.values import Fill
        >>> from initadvisor.types import Fans
        >>> zero = Assignment("weight", (2, 3), (Part(Fill("zeros"), Fans(3, 2)),), "example", "for show")
        >>> keep = Assignment("bias", (2,), (), "example", "kept")
        >>> layer = nn.Linear(3, 2)
        >>> result = apply_scheme(SchemeValues("s", SchemeKind.TEXTBOOK, "", (zero, keep)), layer)
        >>> float(layer.weight.detach().abs().sum()), dict(result.left)
        (0.0, {'bias': 'kept by the scheme'})
    """
    plan = plan_scheme(scheme, model)
    data = batch if batch is not None else scheme.batch
    _check_data(scheme, data)
    notes: list[str] = []
    with _undone_on_failure(undo) as keep:
        with torch.no_grad():
            filled = _fill(plan, seed, keep)
            notes += _renew_statistics(plan, model, keep)
        if scheme.calibrations:
            paths = {slot.path for slot, assignment in plan.fills if not _is_chosen(assignment)}
            notes += _calibrate(scheme, unspread(model), paths, trained_batch(model, data, loss), loss, seed)
            filled = [_after(slot, entry) for (slot, _), entry in zip(plan.fills, filled, strict=True)]
    return ApplyResult(tuple(filled), plan.left, seed, tuple(notes))


def _is_chosen(assignment: Assignment) -> bool:
    """A number that somebody chose, which no calibration rescales; neutral zeros and ones have names of their own."""
    return any(part.fill.initializer == "constant" for part in assignment.parts)


def _check_data(scheme: SchemeValues, data: Any) -> None:
    if not scheme.calibrations:
        return
    if data is None:
        names = ", ".join(c.method for c in scheme.calibrations)
        raise SchemeError(f'scheme "{scheme.name}" measures on data ({names}); pass sample_batch (batch=…)')
    from initadvisor.schemes.data_driven.registry import check_calibrations

    check_calibrations(scheme.calibrations)


_Keep = Callable[[torch.Tensor], None]
"""Called with every tensor before it is changed."""


@contextmanager
def _undone_on_failure(undo: bool) -> Iterator[_Keep]:
    """Keep copies of what the block is about to change, and put them back if it fails, latest first."""
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(tensor: torch.Tensor) -> None:
        if undo:
            saved.append((tensor, backup(tensor)))

    try:
        yield keep
    except BaseException:
        with torch.no_grad():
            for tensor, before in reversed(saved):
                tensor.copy_(before)
        raise


def _renew_statistics(plan: Plan, model: nn.Module, keep: _Keep) -> list[str]:
    """Reset the running statistics that described old weights; a note if there were any."""
    if not plan.fills:
        return []
    written = {id(slot.param) for slot, _ in plan.fills}
    stale, norms = _reset_statistics(model, written, bool(plan.left))
    for buffer, fresh in stale:
        keep(buffer)
        buffer.fill_(fresh)
    return [f"running statistics of {norms} norm layers were reset, as their weights are new"] if norms else []


def _fill(plan: Plan, seed: int, keep: _Keep) -> list[FilledTensor]:
    """Write and check everything, what can be streamed first; ``keep`` is told before anything is touched."""
    done: dict[str, FilledTensor] = {}

    def streaming(slot: Slot, assignment: Assignment) -> None:
        keep(slot.param)
        done[slot.path] = _stream_into(slot, assignment, seed)

    shared = sharing_memory(slot for slot, _ in plan.fills)
    streamed = [pair for pair in plan.fills if pair[0].path not in shared and streamable(*pair)]
    run_all([(slot.param.numel(), partial(streaming, slot, assignment)) for slot, assignment in streamed])
    for slot, assignment in plan.fills:
        if slot.path in done:
            continue
        for tensor in slot.touched():
            keep(tensor)
        value = draw(assignment, seed, slot.param.dtype, padding_idx=slot.padding_idx)
        slot.write(value)
        done[slot.path] = _read_back(slot, assignment, value)
    return [done[slot.path] for slot, _ in plan.fills]


def _calibrate(
    scheme: SchemeValues, model: nn.Module, paths: set[str], batch: Batch, given: Callable[..., Any] | None, seed: int
) -> list[str]:
    """Run the data-driven steps in order; they may rescale what was just filled and nothing else."""
    from initadvisor.schemes.data_driven.registry import calibrate, get

    loss: Loss | None = None
    if isinstance(given, Loss):
        loss = given
    elif given is not None and any(get(step.method).descends for step in scheme.calibrations):
        with preserve_process(), preserve_model(model, given), run_eagerly(), torch.enable_grad():
            loss = choose_loss(given, model, batch)
    steps = (calibrate(step, model, paths=paths, batch=batch, loss=loss, seed=seed) for step in scheme.calibrations)
    return [note for notes in steps for note in notes]


def _after(slot: Slot, entry: FilledTensor) -> FilledTensor:
    """What a tensor holds after data-driven steps, which is no longer what its initializer declares."""
    value = slot.read().double()
    return FilledTensor(entry.path, entry.initializer, None, None, float(value.mean()), float(value.std(correction=0)))
