"""The data of all trials: read once, shared by every member, part of them never trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initadvisor.guard import preserve_process
from initadvisor.training.data import Batch, batches_of, check_finite, first_batch, map_tensors, split_batch, tensors_in

MAX_BATCHES = 320
"""Batches read of a loader at most: more than trainings this short can use up, and a bounded wait."""

MAX_BYTES = 1 << 30
"""Memory for the batches that are kept: a gigabyte, a fraction of what any machine that trains has."""

HELDOUT_SHARE = 0.2
"""Part held out for scoring: a fifth, as in five-fold validation."""

MAX_HELDOUT_BATCHES = 8
"""Held-out batches at most: scoring stays cheap beside training, and 8 batches already average the noise by √8."""

MIN_HELDOUT = 4
"""Samples a held-out part must have: fewer measure nothing."""

MIN_SPLIT = 20
"""Samples a single batch must have to be split: a fifth of them is then :data:`MIN_HELDOUT`."""

FOLDS = 7
"""Parts that confirming trainings hold out in turn. As many as fresh seeds, so that each scores on rows of its own."""

FEWEST_FOLDS = 5
"""Parts of a single small batch that are still held out in turn: seeds that share rows count as one, and fewer than
five differences say little."""


@dataclass(frozen=True)
class Split:
    """What is trained on and what scores.

    Attributes:
        train: batches for training, cycled in an order drawn from the seed.
        heldout: batches that score, not among those trained on.
    """

    train: tuple[Batch, ...]
    heldout: tuple[Batch, ...]


@dataclass(frozen=True)
class Data:
    """Batches taken apart into what is trained on and what scores.

    Attributes:
        choosing: the split under which schemes are chosen, the same for every member.
        folds: the splits under which a choice is confirmed, in turn. What they hold out is disjoint, and nothing of it
            has scored a choice; so the differences between fresh seeds hold what other rows would change as well.
            Empty where there are too few rows.
        separate: false where nothing could be held out and everything is scored on what it was trained on.
        note: how it was done, for the report.
    """

    choosing: Split
    folds: tuple[Split, ...]
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
    return sum(t.numel() * t.element_size() for t in tensors_in((batch.inputs, batch.target)))


def read_data(model: nn.Module, sample: Any, *, seed: int, full_steps: int | None, whole: bool = False) -> Data:
    """Read a batch, a sequence of batches or a loader into training and held-out batches.

    Args:
        model: says how a batch is taken apart; never called.
        sample: as in :func:`initadvisor.advise`.
        seed: of the loader's shuffling.
        full_steps: length of the full training: no more batches than that are read, held-out ones come on top.
        whole: there is a loss that may know what to do with batches that the model itself cannot take.

    Raises:
        InputError: no batch, one the model cannot take, or NaN in the data.
    """
    with _same_draw(sample, seed):
        limit = MAX_BATCHES if full_steps is None else min(MAX_BATCHES, full_steps + MAX_HELDOUT_BATCHES)
        if iter_twice(sample):
            limit = max(2, min(limit, MAX_BYTES // max(1, _size_in_bytes(first_batch(model, sample, whole=whole)))))
    with _same_draw(sample, seed):
        found = batches_of(model, sample, limit=limit, whole=whole)
    for batch in found:
        check_finite(batch)
    return _split_single(model, found[0], whole) if len(found) == 1 else _split_several(found)


def iter_twice(sample: Any) -> bool:
    """Whether a collection can be read from its start again, unlike a generator."""
    return hasattr(sample, "__len__") or (hasattr(sample, "__iter__") and not hasattr(sample, "__next__"))


def _split_several(found: Sequence[Batch]) -> Data:
    """Hold out batches spread evenly over what was read, so that an unshuffled loader is sampled throughout."""
    count = max(1, min(MAX_HELDOUT_BATCHES, round(HELDOUT_SHARE * len(found))))
    stride = len(found) / count
    chosen = {int(stride * (i + 0.5)) for i in range(count)}
    held = tuple(b for i, b in enumerate(found) if i in chosen)
    train = tuple(b for i, b in enumerate(found) if i not in chosen)
    folds = []
    for first in range(min(FOLDS, len(train))):
        turn = train[first::FOLDS]
        step = max(1.0, len(turn) / MAX_HELDOUT_BATCHES)
        scored = tuple(turn[int(i * step)] for i in range(min(len(turn), MAX_HELDOUT_BATCHES)))
        out = {id(b) for b in scored}
        folds.append(Split(tuple(b for b in found if id(b) not in out), scored))
    note = f"{len(train)} batches to train on, {len(held)} held out to choose by; {_in_turn(len(folds))}"
    return Data(Split(train, held), tuple(folds), True, note)


def _in_turn(folds: int) -> str:
    parts = f"{folds} others in turn" if folds > 1 else "another"
    return f"confirming trainings hold out {parts}"


def _split_single(model: nn.Module, batch: Batch, whole: bool) -> Data:
    size = batch.size
    target = batch.target
    fits = not isinstance(target, torch.Tensor) or target.ndim == 0 or target.shape[0] == size
    if size is None or not fits:
        return unsplit(batch, "its parts share no axis of samples")
    if size < MIN_SPLIT:
        return unsplit(batch, f"it has only {size} samples")
    held = max(1, round(HELDOUT_SHARE * size))
    # Evenly spread, for batches that are sorted by class or time.
    is_held = torch.zeros(size, dtype=torch.bool)
    is_held[(torch.arange(held) * (size / held)).long()] = True
    others = (~is_held).nonzero().flatten()
    # Of one size, so that members of different seeds can be stacked; the few rows left over are always trained on.
    count = min(FOLDS, len(others) // MIN_HELDOUT)
    each = len(others) // max(1, count)
    turns = [others[first::count][:each] for first in range(count if count >= FEWEST_FOLDS else 0)]
    if any(_relates_rows(t, size) for t in tensors_in(batch.raw)):
        return unsplit(batch, "a sparse matrix relates its rows")
    choosing = _split_rows(model, batch, is_held, whole)
    if choosing.train[0].size != size - held:
        return unsplit(batch, "it does not come apart by samples")
    masks = (torch.zeros(size, dtype=torch.bool).index_fill(0, turn, True) for turn in turns)
    folds = [_split_rows(model, batch, mask, whole) for mask in masks]
    how = _in_turn(len(folds)) if folds else "confirming trainings are scored on the same"
    note = f"one batch of {size} was given: {size - held} samples to train on, {held} held out to choose by; {how}"
    return Data(choosing, tuple(folds), True, note)


def _split_rows(model: nn.Module, batch: Batch, out: torch.Tensor, whole: bool) -> Split:
    """One batch split by a mask of the rows to hold out."""
    size = len(out)

    def part(rows: torch.Tensor) -> Batch:
        rows_of = map_tensors(batch.raw, lambda t: _rows_of(t, rows) if _has_rows(t, size) else t)
        return split_batch(model, rows_of, whole=whole)

    return Split((part(~out),), (part(out),))


def _has_rows(tensor: torch.Tensor, size: int) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == size


def _relates_rows(tensor: torch.Tensor, size: int) -> bool:
    """A sparse matrix with a row and a column for every sample: which nodes of a graph are neighbours."""
    return tensor.layout is not torch.strided and tuple(tensor.shape[:2]) == (size, size)


def _rows_of(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Some rows of a tensor, by a mask; sparse tensors know no masks, and only one of their layouts an index."""
    rows = rows.to(tensor.device)
    if tensor.layout is torch.strided:
        return tensor[rows]
    picked: torch.Tensor = tensor.to_sparse(layout=torch.sparse_coo).index_select(0, rows.nonzero().flatten())
    return picked.to_sparse(layout=tensor.layout)


def unsplit(batch: Batch, why: str) -> Data:
    """The whole batch for training and scoring, where a model does not take a part of it."""
    return Data(
        Split((batch,), (batch,)),
        (),
        False,
        f"one batch was given and nothing could be held out ({why}): scores are of the data trained on",
    )
