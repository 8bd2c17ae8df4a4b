"""How fast initializers fill, as a ratio to torch's in-place fills in the same run (below 1 is faster).

    python -m benchmarks.initializers.speed [--size 4096] [--rounds 5] [--dtype bfloat16]

Rounds alternate between the two, so that whatever else the machine does falls on both. Medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from initadvisor.initializers.registry import get
from initadvisor.types import Fans

Pair = tuple[Callable[[], object], Callable[[], object]]


def ours(name: str, size: int, dtype: torch.dtype, **args: float | str) -> Callable[[], object]:
    card, fans, generator = get(name), Fans(size, size), torch.Generator().manual_seed(0)
    return lambda: card.fn((size, size), fans, gain=1.0, generator=generator, dtype=dtype, **args)


def pairs(size: int, dtype: torch.dtype) -> dict[str, Pair]:
    """Name -> (ours, torch's), each making one filled matrix from nothing."""

    def empty() -> torch.Tensor:
        return torch.empty(size, size, dtype=dtype)

    return {
        "normal": (ours("normal", size, dtype), lambda: nn.init.normal_(empty(), std=0.02)),
        "uniform": (ours("uniform", size, dtype), lambda: nn.init.uniform_(empty(), -0.05, 0.05)),
        "trunc_normal": (ours("trunc_normal", size, dtype), lambda: nn.init.trunc_normal_(empty(), std=0.02)),
        "kaiming_normal": (ours("kaiming_normal", size, dtype), lambda: nn.init.kaiming_normal_(empty())),
        "xavier_uniform": (ours("xavier_uniform", size, dtype), lambda: nn.init.xavier_uniform_(empty())),
        "orthogonal": (ours("orthogonal", size, dtype), lambda: nn.init.orthogonal_(empty())),
        "sparse": (ours("sparse", size, dtype), lambda: nn.init.sparse_(empty(), 1 - 15 / size)),
    }


def seconds(fill: Callable[[], object]) -> float:
    start = time.perf_counter()
    fill()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="side of the matrix")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16", "float64"), default="float32")
    options = parser.parse_args()
    print(
        f"{options.size} × {options.size}, {options.dtype}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"{'initializer':<16}{'ours':>10}{'torch':>10}{'ratio':>8}")
    for name, (mine, theirs) in pairs(options.size, getattr(torch, options.dtype)).items():
        half = options.dtype in ("bfloat16", "float16")
        if (options.only and name not in options.only) or (half and name == "orthogonal"):  # torch has none in half
            continue
        mine(), theirs()  # warm the allocator and whatever else a first call pays for
        times = [(seconds(mine), seconds(theirs)) for _ in range(options.rounds)]
        one, other = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:<16}{one:>9.3f}s{other:>9.3f}s{one / other:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
