"""One random stream per tensor, named by what it fills, so that nothing else decides its numbers."""

from __future__ import annotations

import hashlib

import torch

_SEED_BYTES = 8
"""Bytes of the digest that become the generator's seed: all that ``Generator.manual_seed`` takes."""


def stream_seed(seed: int, path: str, part: str = "") -> int:
    """Seed of the stream that fills ``part`` of the parameter at ``path``.

    A hash of the three, so that adding, removing or reordering layers leaves the other layers' weights unchanged, and
    so that a few lines of plain Python can repeat it (:meth:`initadvisor.recipes.recipe.Recipe.to_code` does).

    Args:
        seed: the user's seed, any integer.
        path: dotted name of the parameter.
        part: name of the packed slice; empty for a tensor filled as a whole.

    Example:
        >>> stream_seed(0, "fc.weight") == stream_seed(0, "fc.weight")
        True
        >>> stream_seed(0, "fc.weight") == stream_seed(0, "fc.weight", "q")
        False
    """
    digest = hashlib.sha256(f"{seed}/{path}/{part}".encode("utf-8", "surrogatepass")).digest()
    # One bit less than the digest gives: a negative seed would be reinterpreted.
    return int.from_bytes(digest[:_SEED_BYTES], "big") >> 1


def stream(seed: int, path: str, part: str = "") -> torch.Generator:
    """CPU generator for ``part`` of ``path``; the device of the parameter plays no role.

    Example:
        >>> torch.rand(2, generator=stream(0, "w")).equal(torch.rand(2, generator=stream(0, "w")))
        True
    """
    generator = torch.Generator(device="cpu")
    generator.manual_seed(stream_seed(seed, path, part))
    return generator
