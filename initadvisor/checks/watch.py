"""Sees every op of a forward pass that uses a weight, and the activation, attention or sum that follows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from initadvisor.checks.figures import AttentionFigures, LayerFigures
from initadvisor.graph.spec import ModelSpec
from initadvisor.trials.metrics import BOUNDED, DEAD_BELOW, FLAT_ABOVE, RECTIFIERS

QUERIES_READ = 64
"""Queries per attention whose weights are looked at; the means over them are known to a few percent."""

FEATURES_READ = 4096
"""Features of a layer through which the spread over samples is measured; the ratio is then known to a few percent."""

_ADDS = frozenset({"add", "__add__", "__radd__", "__iadd__"})


@dataclass
class _Layer:
    """What is gathered of one weight; tensors are turned into numbers once, at the end."""

    path: str
    channels_first: bool
    squares: list[torch.Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    largest: list[torch.Tensor] = field(default_factory=list)
    variation: torch.Tensor | None = None
    grads: list[torch.Tensor] = field(default_factory=list)
    activation: str = ""
    units: int = 0
    samples: int = 0
    dead: torch.Tensor | None = None
    flat: torch.Tensor | None = None

    def add_grad(self, grad: torch.Tensor) -> None:
        self.grads.append(torch.linalg.vector_norm(grad.detach(), dtype=_wide(grad)))

    def figures(self) -> LayerFigures:
        count = sum(self.sizes)
        total = sum(float(s) ** 2 for s in self.squares)
        largest = [float(v) for v in self.largest]
        finite = math.isfinite(total) and all(math.isfinite(v) for v in largest)
        grad = math.sqrt(sum(float(g) ** 2 for g in self.grads)) if self.grads else math.nan
        return LayerFigures(
            self.path,
            rms=math.sqrt(total / count) if count else 0.0,
            largest=max(largest, default=0.0),
            finite=finite,
            variation=math.nan if self.variation is None else float(self.variation),
            grad_norm=grad,
            activation=self.activation,
            units=self.units,
            samples=self.samples,
            dead=0 if self.dead is None else int(self.dead),
            saturated_share=0.0 if self.flat is None else float(self.flat),
        )


class Watch(TorchFunctionMode):
    """Records figures of one forward pass, and of its backward pass through hooks on the outputs.

    What is made of weights alone (a transposed view, a normalised weight) stands for the weight.

    Args:
        weights: id -> (tensor, path) of every parameter and buffer; path empty where it is no layer's weight.
        spec: for the ops that use them.
        samples: length of the batch, for the spread over samples.
    """

    def __init__(self, weights: dict[int, tuple[torch.Tensor, str]], spec: ModelSpec, samples: int) -> None:
        super().__init__()
        self._weights = dict(weights)
        self._spec = spec
        self._samples = samples
        self._layers: dict[str, _Layer] = {}
        self._last: _Layer | None = None
        self._ends = frozenset(path for branch in spec.branches for path in branch.last)
        self._sums: list[tuple[torch.Tensor, int]] = []
        self._attentions: list[tuple[str, int, torch.Tensor, torch.Tensor]] = []

    # ---- results

    def layers(self) -> tuple[LayerFigures, ...]:
        """Per weight, in execution order."""
        return tuple(layer.figures() for layer in self._layers.values())

    def stream(self) -> tuple[float, ...]:
        """RMS of the residual stream after each branch was added."""
        return tuple(float(norm) / math.sqrt(size) for norm, size in self._sums)

    def attentions(self) -> tuple[AttentionFigures, ...]:
        """Per attention."""
        return tuple(
            AttentionFigures(path, keys, float(largest), float(spread))
            for path, keys, largest, spread in self._attentions
        )

    # ---- recording

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").removesuffix("_")
        if name == "scaled_dot_product_attention":
            self._attend(*args[:2], scale=kwargs.get("scale"), **_named(kwargs, "query", "key"))
        # An activation in place overwrites what it reads, so the layer's figures were taken before.
        out = func(*args, **kwargs)
        made = next(_tensors(out), None)
        if made is None or not made.is_floating_point() or made.numel() == 0:
            return out
        held = [self._weights.get(id(t)) for t in _tensors((args, tuple(kwargs.values())))]
        paths = [entry[1] for entry in held if entry is not None and entry[1]]
        if paths and all(entry is not None for entry in held):
            self._weights[id(made)] = (made, paths[0])
        elif paths:
            self._record(paths[-1], made)
        elif name in RECTIFIERS or name in BOUNDED:
            self._follow(name, made)
        elif name in _ADDS and self._last is not None and self._last.path in self._ends and _is_sum(args):
            self._sums.append((_norm(made.detach()), made.numel()))
        elif name == "softmax" and made.ndim >= 3:
            self._soften(made.detach(), args[0])
        return out

    def _record(self, path: str, out: torch.Tensor) -> None:
        op = self._spec[path].op if path in self._spec else ""
        layer = self._layers.setdefault(path, _Layer(path, op.startswith("conv")))
        value = out.detach()
        layer.squares.append(_norm(value))
        layer.sizes.append(value.numel())
        low, high = torch.aminmax(value)
        layer.largest.append(torch.maximum(low.abs(), high.abs()))
        if layer.variation is None and self._samples > 1 and value.shape[:1] == (self._samples,):
            layer.variation = variation_of(value)
        if out.requires_grad:
            out.register_hook(layer.add_grad)  # type: ignore[no-untyped-call]
        self._last = layer

    def _follow(self, name: str, out: torch.Tensor) -> None:
        """An activation belongs to the layer before it; only the first that follows counts."""
        layer = self._last
        if layer is None or layer.activation or out.ndim < 2:
            return
        value = out.detach()
        unit = 1 if layer.channels_first else value.ndim - 1
        others = [d for d in range(value.ndim) if d != unit]
        layer.activation = name
        layer.units, layer.samples = value.shape[unit], value.numel() // value.shape[unit]
        if name in RECTIFIERS:
            largest = torch.linalg.vector_norm(value, ord=math.inf, dim=others)
            layer.dead = (largest <= DEAD_BELOW).sum()
        low, high = BOUNDED.get(name, (-math.inf, math.inf))
        if math.isfinite(low):
            margin = (1 - FLAT_ABOVE) * (high - low) / 2
            layer.flat = ((value > high - margin) | (value < low + margin)).float().mean()

    def _attend(self, *args: torch.Tensor, scale: float | None, **named: torch.Tensor) -> None:
        query, key = (*args, *named.values())[:2]
        if query.ndim < 3 or self._last is None or query.shape[:-2] != key.shape[:-2]:
            return
        q = query.detach().flatten(0, -3)[:QUERIES_READ, :QUERIES_READ].float()
        k = key.detach().flatten(0, -3)[:QUERIES_READ].float()
        logits = q @ k.transpose(-1, -2) * (scale if scale is not None else q.shape[-1] ** -0.5)
        self._attentions.append((self._last.path, k.shape[-2], *_sharpness(logits)))

    def _soften(self, weights: torch.Tensor, logits: Any) -> None:
        """An attention written by hand shows its weights."""
        if self._last is None or not isinstance(logits, torch.Tensor) or weights.shape[-1] < 2:
            return
        # Masked logits are minus infinity or nearly; what remains is told by the weights alone.
        seen = weights.reshape(-1, weights.shape[-1])[:: max(1, weights.numel() // weights.shape[-1] // 4096)]
        spread = seen.float().clamp_min(1e-30).log().std(dim=-1).mean()
        self._attentions.append((self._last.path, seen.shape[-1], seen.float().amax(dim=-1).mean(), spread))


def _sharpness(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return logits.softmax(dim=-1).amax(dim=-1).mean(), logits.std(dim=-1).mean()


def variation_of(value: torch.Tensor) -> torch.Tensor:
    """Spread over the first axis, relative to the RMS of all; 0 for a tensor of zeros.

    Wide outputs are looked at through evenly spaced features; the ratio is a mean over them.
    """
    flat = value.reshape(value.shape[0], -1)
    flat = flat[:, :: max(1, flat.shape[1] // FEATURES_READ)]
    wide = flat.float() if value.dtype in (torch.float16, torch.bfloat16) else flat
    apart = wide - wide.mean(dim=0)
    spread = torch.linalg.vector_norm(apart) / math.sqrt(wide.numel() * (1 - 1 / wide.shape[0]))
    rms = torch.linalg.vector_norm(wide) / math.sqrt(wide.numel())
    relative: torch.Tensor = spread / rms.clamp_min(torch.finfo(wide.dtype).tiny)
    return relative


def _wide(tensor: torch.Tensor) -> torch.dtype | None:
    """Accumulate what is stored in half precision in float32."""
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None


def _norm(value: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(value, dtype=_wide(value))
    return norm


def _is_sum(args: tuple[Any, ...]) -> bool:
    """Two signals of equal shape, no bias and no constant."""
    if len(args) < 2 or not all(isinstance(a, torch.Tensor) for a in args[:2]):
        return False
    return bool(args[0].shape == args[1].shape and args[0].ndim >= 2 and args[0].is_floating_point())


def _named(kwargs: dict[str, Any], *names: str) -> dict[str, torch.Tensor]:
    return {name: kwargs[name] for name in names if name in kwargs}


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Tensors among an op's arguments or results, also inside its lists (LSTM weights, einsum operands)."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
