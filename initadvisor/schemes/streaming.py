"""Fill large plain tensors where they lie, several at a time: no second copy of the draw, and a thread per core.

What is drawn is what :func:`initadvisor.schemes.apply.draw` returns, to the bit: every tensor (every slice of it) has a
generator of its own, so that neither order nor threads decide a number.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from initadvisor.initializers.card import RUN_MULTIPLE, Card, Into
from initadvisor.initializers.maps import working_dtype
from initadvisor.initializers.registry import get as card_of
from initadvisor.schemes.seeding import stream
from initadvisor.schemes.slots import Slot, SlotKind
from initadvisor.schemes.values import Assignment, Part

_RUN = 1024 * RUN_MULTIPLE
"""Elements drawn at once where the parameter is narrower than what is drawn in: a quarter megabyte stays in cache."""

_WORTH_THREADS = 2**21
"""Elements in all below which one thread fills them: about 10 ms of drawing, many times what starting threads costs."""

_HUGE = 2**22
"""Bytes from which a backup is laid on huge pages: its cost is mostly the faults of first touch, 512 times fewer."""

_DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class Region:
    """One part of a parameter as a flat view, with what is drawn into it.

    Attributes:
        part: of the assignment.
        card: its initializer.
        flat: contiguous view of the parameter's own memory.
        into: writes the draw.
        generator: its own stream.
    """

    part: Part
    card: Card
    flat: torch.Tensor
    into: Into
    generator: torch.Generator

    def fill(self) -> None:
        """Draw into the parameter's memory; through a short buffer where it is narrower than what is drawn in."""
        dtype, count = working_dtype(self.flat.dtype), self.flat.numel()
        if self.flat.dtype == dtype:
            self.into(self.flat, self.generator)
            return
        buffer = torch.empty(min(count, 2 * _RUN), dtype=dtype)
        start = 0
        while start < count:
            # The last run takes the rest along: torch draws the end of a normal run anew, so it must not be short.
            size = _RUN if count - start >= 2 * _RUN else count - start
            run = buffer[:size]
            self.into(run, self.generator)
            self.flat[start : start + size].copy_(run)
            start += size


def streamable(slot: Slot, assignment: Assignment) -> bool:
    """Whether all parts are independent draws into contiguous memory of this process' processor.

    Example:
        >>> from initadvisor.schemes.values import Fill
        >>> from initadvisor.schemes.slots import slots_of
        >>> from initadvisor.types import Fans
        >>> slot = slots_of(nn.Linear(3, 2))["weight"]
        >>> [streamable(slot, Assignment("weight", (2, 3), (Part(Fill(name), Fans(3, 2)),), "r", "r"))
        ...  for name in ("kaiming_normal", "orthogonal")]
        [True, False]
    """
    data = slot.param.detach()
    if slot.kind is not SlotKind.PLAIN or type(slot.param) is not nn.Parameter or type(data) is not torch.Tensor:
        return False
    if data.device.type != "cpu" or data.dtype not in _DTYPES:
        return False
    for part in assignment.parts:
        if card_of(part.fill.initializer).sampler is None or (part.slice is not None and len(part.slice.ranges) > 1):
            return False
        if not _view(data, part).is_contiguous():
            return False
    return True


def sharing_memory(slots: Iterable[Slot]) -> set[str]:
    """Paths whose memory overlaps that of another parameter (two ``nn.Parameter`` over one tensor).

    The later one wins, as it always did: they must be written one after another.
    """
    spans = []
    for slot in slots:
        data = slot.param.detach()
        if type(data) is torch.Tensor and data.device.type == "cpu" and data.is_contiguous():
            begin = data.data_ptr()
            spans.append((begin, begin + data.numel() * data.element_size(), slot.path))
    spans.sort()
    found: set[str] = set()
    reach, holder = 0, ""
    for begin, end, path in spans:
        if begin < min(reach, end):
            found |= {path, holder}
        if end > reach:
            reach, holder = end, path
    return found


def _view(data: torch.Tensor, part: Part) -> torch.Tensor:
    if part.slice is None:
        return data
    ((start, stop),) = part.slice.ranges
    return data.narrow(part.slice.dim, start, stop - start)


def regions_of(slot: Slot, assignment: Assignment, seed: int) -> list[Region]:
    """The parts of a streamable parameter, each with its own stream.

    Raises:
        SchemeError: an initializer cannot fill this shape.
    """
    found = []
    for part in assignment.parts:
        card = card_of(part.fill.initializer)
        assert card.sampler is not None
        into = card.sampler(part.fans, part.fill.gain, dict(part.fill.args))
        name = part.slice.name if part.slice is not None else ""
        view = _view(slot.param.detach(), part)
        found.append(Region(part, card, view.view(-1), into, stream(seed, assignment.path, name)))
    return found


def backup(tensor: torch.Tensor) -> torch.Tensor:
    """A copy to put back from. Large ones lie on huge pages where the system has them, which makes them cheap.

    Example:
        >>> weight = torch.randn(3, 4)
        >>> bool((backup(weight) == weight).all())
        True
    """
    data = tensor.detach()
    size = data.numel() * data.element_size()
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if size < _HUGE or advice is None or data.device.type != "cpu" or type(data) is not torch.Tensor:
        return data.clone()
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them: ordinary pages do
        pages.madvise(advice)
    copy = torch.frombuffer(pages, dtype=data.dtype).view(data.shape)
    copy.copy_(data)
    return copy


def run_all(jobs: Sequence[tuple[int, Callable[[], None]]]) -> None:
    """Run jobs on as many threads as torch may use, the largest first; where one fails, no further one is begun.

    When this returns or raises (after Ctrl-C too), no job is running.

    Args:
        jobs: ``(elements, job)``; jobs share nothing.

    Raises:
        BaseException: what the first failing job raised.
    """
    threads = min(torch.get_num_threads(), len(jobs))
    if threads < 2 or sum(size for size, _ in jobs) < _WORTH_THREADS:
        for _, job in jobs:
            job()
        return
    stopped = threading.Event()
    ordered = iter(sorted(jobs, key=lambda pair: -pair[0]))
    turn = threading.Lock()

    def work() -> None:
        # Grad mode belongs to a thread.
        with torch.no_grad():
            while not stopped.is_set():
                with turn:
                    taken = next(ordered, None)
                if taken is None:
                    return
                try:
                    taken[1]()
                except BaseException:
                    stopped.set()
                    raise

    with ThreadPoolExecutor(threads) as pool:
        try:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
        finally:
            stopped.set()
