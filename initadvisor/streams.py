"""Seeds: what each random number of a race follows from, so that members can be given the same ones.

On the ground floor, since a loss that is watched draws from them, too.
"""

from __future__ import annotations

import functools
import hashlib
import random

import numpy as np
import torch

from initadvisor.errors import InputError

MOST_SEED = 2**63 - 1
"""The largest seed of torch's generators that every platform takes."""


def check_seed(seed: object) -> None:
    """Demand a seed that every generator takes.

    Raises:
        InputError: it is no whole number, or out of range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MOST_SEED:
        shown = seed if not isinstance(seed, int) or abs(seed) < 10**40 else "so large a number"
        raise InputError(f"seed={shown}: give a whole number from 0 to {MOST_SEED} (2**63 - 1)")


def derive(seed: int, *parts: object) -> int:
    """A seed of 31 bits that follows from ``seed`` and what it is for.

    Example:
        >>> derive(0, "rung", 1) == derive(0, "rung", 1), derive(0, "rung", 1) == derive(0, "confirm", 1)
        (True, False)
    """
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def derive_step(seed: int, index: int) -> int:
    """Seed of the random stream of one step, equal for all members of ``seed``; cheap, as it is needed at every step.

    A multiplicative mix with large odd constants; the generators hash their seeds themselves.
    """
    return (seed * 0x9E3779B1 + index * 0x85EBCA6B + 0x27D4EB2F) & 0x7FFFFFFF


@functools.cache
def _rare_accelerator() -> bool:
    """Whether there is a device with a generator of its own that is neither the processor nor CUDA."""
    return bool(torch.backends.mps.is_available() or torch.xpu.is_available())


def seed_all(seed: int) -> None:
    """Put every global generator a model may draw from at the start of a stream.

    The same streams as ``torch.manual_seed`` begins, which on a machine without an accelerator takes 0.1-0.4 ms: it
    writes down the stack of callers for each kind of device that is not there: as much as a step of a small net.

    Example:
        >>> seed_all(3); a = torch.rand(2)
        >>> _ = torch.manual_seed(3)
        >>> bool((a == torch.rand(2)).all())
        True
    """
    if _rare_accelerator():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
