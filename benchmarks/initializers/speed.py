"""How fast initializers fill, as a ratio to torch's in-place fills in the same run (below 1 is faster).

    python -m benchmarks.initializers.speed [--size 4096] [--rounds 5] [--dtype bfloat16]
    python -m benchmarks.initializers.speed --apply 200 [--threads 2] [--no-undo]

The first compares single matrices, made from nothing; the second a whole transformer of so many million parameters,
filled in place: ``Scheme.apply`` with its plan, reading back and (but with ``--no-undo``) a copy of the old weights,
against a loop of torch's fill over the same tensors.

Rounds alternate between the two, so that whatever else the machine does falls on both. Medians are compared, and the
least of either side, since disturbance only ever adds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from initadvisor.initializers.registry import get
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
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


class Transformer(nn.Module):
    """The tensors of a pre-norm decoder, without a forward pass: only filling is timed."""

    def __init__(self, width: int, layers: int, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, dtype=dtype)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width, dtype=dtype),
                    "qkv": nn.Linear(width, 3 * width, dtype=dtype),
                    "out": nn.Linear(width, width, dtype=dtype),
                    "up": nn.Linear(width, 4 * width, dtype=dtype),
                    "down": nn.Linear(4 * width, width, dtype=dtype),
                }
            )
            for _ in range(layers)
        )


def transformer(millions: float, dtype: torch.dtype) -> Transformer:
    """About so many million parameters: 12·width² a layer and a vocabulary of 32000."""
    width = 2048 if millions >= 500 else 1024
    layers = max(1, round((millions * 1e6 - 32000 * width) / (12 * width**2)))
    with torch.device("meta"):
        model = Transformer(width, layers, 32000, dtype)
    return model.to_empty(device="cpu")


def scheme_for(model: nn.Module, name: str) -> Scheme:
    """Every matrix by one initializer, every vector zero."""
    fills = []
    for path, p in model.named_parameters():
        fans = Fans(float(p.shape[-1]), float(p.shape[0]))
        fill = Fill(name) if p.ndim > 1 else Fill("zeros")
        fills.append(Assignment(path, tuple(p.shape), (Part(fill, fans),), "speed", "timed"))
    return Scheme(name, SchemeKind.TEXTBOOK, "", tuple(fills))


IN_PLACE: dict[str, Callable[[torch.Tensor], object]] = {
    "normal": lambda w: nn.init.normal_(w, std=0.02),
    "uniform": lambda w: nn.init.uniform_(w, -0.05, 0.05),
    "trunc_normal": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
}


def apply_pairs(millions: float, dtype: torch.dtype, *, undo: bool) -> dict[str, Pair]:
    """Name -> (apply of a scheme, torch's in-place fills) over the same tensors of one model."""
    model = transformer(millions, dtype)
    for p in model.parameters():
        nn.init.zeros_(p)  # touched, as memory that held weights is
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")

    def one(name: str, fill: Callable[[torch.Tensor], object]) -> Pair:
        scheme = scheme_for(model, name)

        def torchs() -> None:
            for p in model.parameters():
                (fill if p.ndim > 1 else nn.init.zeros_)(p)

        return lambda: scheme.apply(model, undo=undo), torchs

    chosen = {name: one(name, fill) for name, fill in IN_PLACE.items()}
    # What no apply that can be undone gets around: one copy of the old weights, in memory touched for the first time.
    _, normal = chosen["normal"]
    chosen["(copy, normal)"] = (lambda: [p.detach().clone() for p in model.parameters()], normal)
    return chosen


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
    parser.add_argument("--apply", type=float, default=None, metavar="MILLIONS", help="time apply on a transformer")
    parser.add_argument("--no-undo", dest="undo", action="store_false", help="apply keeps no copy of the old weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    chosen = (
        pairs(options.size, dtype) if options.apply is None else apply_pairs(options.apply, dtype, undo=options.undo)
    )
    what = f"{options.size} × {options.size}" if options.apply is None else "apply against in-place fills"
    print(f"{what}, {options.dtype}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print(f"{'initializer':<16}{'ours':>10}{'torch':>10}{'ratio':>8}{'least':>8}")
    for name, (mine, theirs) in chosen.items():
        half = options.dtype in ("bfloat16", "float16")
        if (options.only and name not in options.only) or (half and name == "orthogonal"):  # torch has none in half
            continue
        mine(), theirs()  # warm the allocator and whatever else a first call pays for
        times = [(seconds(mine), seconds(theirs)) for _ in range(options.rounds)]
        one, other = (statistics.median(column) for column in zip(*times, strict=True))
        least, its = (min(column) for column in zip(*times, strict=True))
        print(f"{name:<16}{one:>9.3f}s{other:>9.3f}s{one / other:>8.2f}{least / its:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
