"""The data of all trials: read once, shared by every member, part of them never trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initadvisor.data import Batch, batches_of, check_finite, map_tensors, split_batch, tensors_in
from initadvisor.guard import preserve_process

MAX_BATCHES = 320
"""Batches read of a loader at most: more than trainings this short can use up, and a bounded wait."""

MAX_BYTES = 1 << 30
"""Memory for the batches that are kept: a gigabyte, a fraction of what any machine that trains has."""

HELDOUT_SHARE = 0.2
"""Part held out for scoring: a fifth, as in five-fold validation."""

MAX_HELDOUT_BATCHES = 8
"""Held-out batches at most: scoring stays cheap beside training, and 8 batches already average the noise by √8."""

MIN_SPLIT = 20
"""Samples a single batch must have to be split: a held-out part under 4 samples measures nothing."""

MIN_CONFIRM = 16
"""Held-out samples that each half must keep where one batch has to serve both choosing and confirming: with fewer,
choosing loses more by its noise than confirming gains by fresh rows."""

CONFIRM_PARTS = 12
"""Parts the confirming rows are cut into, so that the error over rows can be told from the trainings: with fewer,
Student's t pays much for the few degrees of freedom; more only cost calls."""


@dataclass(frozen=True)
class Data:
    """Batches taken apart into what is trained on and what scores.

    Attributes:
        train: batches for training, cycled in an order drawn from the seed.
        heldout: batches no training sees and by which schemes are chosen; the same for every member.
        confirm: batches neither training nor choosing sees, where there are enough rows; else ``heldout``.
        separate: false where nothing could be held out and ``heldout`` is ``train``.
        note: how it was done, for the report.
    """

    train: tuple[Batch, ...]
    heldout: tuple[Batch, ...]
    confirm: tuple[Batch, ...]
    separate: bool
    note: str


@contextmanager
def _same_draw(sample: Any, seed: int) -> Iterator[None]:
    """Read a shuffling loader the same way for the same seed, and leave its generator as it was."""
    own = getattr(sample, "generator", None)
    generator = own if isinstance(own, torch.Generator) else None
    saved = generator.get_state() if generator is not None else None
    with preserve_process():
        torch.manual_seed(seed)
        if generator is not None:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            if generator is not None and saved is not None:
                generator.set_state(saved)


def _size_in_bytes(batch: Batch) -> int:
    return sum(t.numel() * t.element_size() for t in tensors_in((batch.args, dict(batch.kwargs), batch.target)))


def read_data(model: nn.Module, sample: Any, *, seed: int, full_steps: int | None) -> Data:
    """Read a batch, a sequence of batches or a loader into training and held-out batches.

    Args:
        model: says how a batch is taken apart; never called.
        sample: as in :func:`initadvisor.advise`.
        seed: of the loader's shuffling.
        full_steps: length of the full training: no more batches than that are read, held-out ones come on top.

    Raises:
        InputError: no batch, one the model cannot take, or NaN in the data.
    """
    with _same_draw(sample, seed):
        limit = MAX_BATCHES if full_steps is None else min(MAX_BATCHES, full_steps + MAX_HELDOUT_BATCHES)
        if iter_twice(sample):
            limit = max(2, min(limit, MAX_BYTES // max(1, _size_in_bytes(batches_of(model, sample, limit=1)[0]))))
    with _same_draw(sample, seed):
        found = batches_of(model, sample, limit=limit)
    for batch in found:
        check_finite(batch)
    return _split_single(model, found[0]) if len(found) == 1 else _split_several(model, found)


def iter_twice(sample: Any) -> bool:
    """Whether a collection can be read from its start again, unlike a generator."""
    return hasattr(sample, "__len__") or (hasattr(sample, "__iter__") and not hasattr(sample, "__next__"))


def _split_several(model: nn.Module, found: Sequence[Batch]) -> Data:
    """Hold out batches spread evenly over what was read, so that an unshuffled loader is sampled throughout."""
    count = max(1, min(MAX_HELDOUT_BATCHES, round(HELDOUT_SHARE * len(found))))
    stride = len(found) / count
    chosen = {int(stride * (i + 0.5)) for i in range(count)}
    held = tuple(b for i, b in enumerate(found) if i in chosen)
    train = tuple(b for i, b in enumerate(found) if i not in chosen)
    if len(held) > 1:
        choosing, confirm = held[::2], held[1::2]
        how = f"{len(choosing)} held out to choose by, {len(confirm)} to confirm"
    else:
        choosing, confirm, how = _halved(model, held[0])
    return Data(train, choosing, confirm, True, f"{len(train)} batches to train on, {how}")


def _halved(model: nn.Module, held: Batch) -> tuple[tuple[Batch, ...], tuple[Batch, ...], str]:
    """Rows to choose by, rows to confirm, and how it was done; one for both where there are too few."""
    size = held.size
    halves = cut(model, held, 2) if size is not None and size >= 2 * MIN_CONFIRM else None
    if halves is None:
        amount = "1 batch" if size is None else f"1 batch of {size} samples"
        return (held,), (held,), f"{amount} held out to choose by and to confirm"
    choosing, confirm = halves
    return (choosing,), (confirm,), f"{choosing.size} samples held out to choose by, {confirm.size} to confirm"


def cut(model: nn.Module, batch: Batch, count: int) -> tuple[Batch, ...] | None:
    """A batch in ``count`` parts of about equal size, neighbouring rows in different parts; None where it has no rows.

    Args:
        model: says how a part is taken apart; never called.
        batch: to be cut.
        count: parts, at most one per row.
    """
    size = batch.size
    if size is None or size < count or not _has_target_rows(batch, size):
        return None
    try:
        parts = tuple(_rows(model, batch, torch.arange(size) % count == i) for i in range(count))
    except Exception:  # noqa: BLE001 - a batch of a user's own type may refuse in any way; it is then left whole
        return None
    return parts if sum(p.size or 0 for p in parts) == size else None


def _has_target_rows(batch: Batch, size: int) -> bool:
    target = batch.target
    return not isinstance(target, torch.Tensor) or target.ndim == 0 or target.shape[0] == size


def _rows(model: nn.Module, batch: Batch, rows: torch.Tensor) -> Batch:
    size = batch.size
    return split_batch(model, map_tensors(batch.raw, lambda t: t[rows.to(t.device)] if _has_rows(t, size) else t))


def _split_single(model: nn.Module, batch: Batch) -> Data:
    size = batch.size
    fits = size is None or _has_target_rows(batch, size)
    if size is None or size < MIN_SPLIT or not fits:
        why = "its parts share no axis of samples" if size is None or not fits else f"it has only {size} samples"
        note = f"one batch was given and nothing could be held out ({why}): scores are of the data trained on"
        return Data((batch,), (batch,), (batch,), False, note)
    held = max(1, round(HELDOUT_SHARE * size))
    # Evenly spread, for batches that are sorted by class or time.
    is_held = torch.zeros(size, dtype=torch.bool)
    is_held[(torch.arange(held) * (size / held)).long()] = True
    train, scored = (_rows(model, batch, rows) for rows in (~is_held, is_held))
    if train.size != size - held:
        return unsplit(batch, "it is an object that does not come apart by samples")
    choosing, confirm, how = _halved(model, scored)
    how = how.replace("1 batch of ", "")
    note = f"one batch of {size} was given: {size - held} samples to train on, {how}"
    return Data((train,), choosing, confirm, True, note)


def _has_rows(tensor: torch.Tensor, size: int | None) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == size


def unsplit(batch: Batch, why: str) -> Data:
    """The whole batch for training and scoring, where a model does not take a part of it."""
    return Data(
        (batch,),
        (batch,),
        (batch,),
        False,
        f"one batch was given and nothing could be held out ({why}): scores are of the data trained on",
    )
