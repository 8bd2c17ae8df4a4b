"""Seeds: what each random number of a race follows from, so that members can be given the same ones."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


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


def seed_all(seed: int) -> None:
    """Put every global generator a model may draw from at the start of a stream."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
