"""Sees every op of a forward pass that uses a weight, and the activation, attention or sum that follows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from initadvisor.checks.figures import AttentionFigures, LayerFigures
from initadvisor.graph.spec import ModelSpec
from initadvisor.training.engine.metrics import BOUNDED, DEAD_BELOW, FLAT_ABOVE, RECTIFIERS

QUERIES_READ = 64
"""Queries per attention whose weights are looked at; the means over them are known to a few percent."""

FEATURES_READ = 4096
"""Features of a layer through which the spread over samples is measured; the ratio is then known to a few percent."""

_ADDS = frozenset({"add", "__add__", "__radd__", "__iadd__"})


@dataclass
class _Use:
    """An op that uses weights, and what came out; figures are tensors until they are asked for.

    Attributes:
        names: per weight among the arguments, the parameters it is made of.
        size: values that came out.
        norm: their length.
        largest: the largest of them.
        variation: their spread over the samples, None where it was not measured.
        grads: lengths of the gradients that arrived, filled in the backward pass.
    """

    names: tuple[tuple[str, ...], ...]
    size: int
    norm: torch.Tensor
    largest: torch.Tensor
    variation: torch.Tensor | None
    grads: list[torch.Tensor] = field(default_factory=list)

    def add_grad(self, grad: torch.Tensor) -> None:
        self.grads.append(torch.linalg.vector_norm(grad.detach(), dtype=_wide(grad)))


@dataclass
class _Activation:
    """An elementwise nonlinearity: units that stay zero, share of values in its flat parts."""

    name: str
    units: int
    samples: int
    dead: torch.Tensor | None
    flat: torch.Tensor | None


@dataclass
class _Sum:
    """Two signals added: length and number of values of the sum."""

    norm: torch.Tensor
    size: int


@dataclass
class _Attention:
    """Attention weights: number of keys, mean largest weight, spread of the logits."""

    keys: int
    largest: torch.Tensor
    spread: torch.Tensor


@dataclass
class _Step:
    """One op; what it was taken for depends on which of its weights turn out to be layers."""

    use: _Use | None = None
    other: _Activation | _Sum | _Attention | None = None


@dataclass
class _Layer:
    """What is gathered of one weight."""

    path: str
    uses: list[_Use] = field(default_factory=list)
    activation: _Activation | None = None

    def figures(self) -> LayerFigures:
        count = sum(u.size for u in self.uses)
        total = sum(float(u.norm) ** 2 for u in self.uses)
        largest = [float(u.largest) for u in self.uses]
        grads = [float(g) for u in self.uses for g in u.grads]
        variation = next((u.variation for u in self.uses if u.variation is not None), None)
        act = self.activation
        return LayerFigures(
            self.path,
            rms=math.sqrt(total / count) if count else 0.0,
            largest=max(largest, default=0.0),
            finite=math.isfinite(total) and all(math.isfinite(v) for v in largest),
            variation=math.nan if variation is None else float(variation),
            grad_norm=math.sqrt(sum(g**2 for g in grads)) if grads else math.nan,
            activation="" if act is None else act.name,
            units=0 if act is None else act.units,
            samples=0 if act is None else act.samples,
            dead=0 if act is None or act.dead is None else int(act.dead),
            saturated_share=0.0 if act is None or act.flat is None else float(act.flat),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a forward and a backward pass showed.

    Attributes:
        layers: per weight, in execution order.
        stream: RMS of the residual stream after each branch was added.
        attentions: per attention.
    """

    layers: tuple[LayerFigures, ...]
    stream: tuple[float, ...]
    attentions: tuple[AttentionFigures, ...]


class Watch(TorchFunctionMode):
    """Records figures of one forward pass, and of its backward pass through hooks on the outputs.

    What is made of weights alone (a transposed view, a normalised weight) stands for the weight. Which weights are
    layers is known only after the pass, from the analysis that reads the same pass: :meth:`seen` is told then.

    Args:
        model: whose matrices, and parameters of more axes, may be layers.
        samples: length of the batch, for the spread over samples.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        # id -> (tensor, parameters it is made of): empty for buffers, biases and scales, which are no layer's weight.
        self._weights: dict[int, tuple[torch.Tensor, tuple[str, ...]]] = {id(b): (b, ()) for b in model.buffers()}
        for path, p in model.named_parameters():
            self._weights[id(p)] = (p, (path,) if p.ndim >= 2 else ())
        self._samples = samples
        self._steps: list[_Step] = []
        self._varied: set[tuple[tuple[str, ...], ...]] = set()
        self._is_used = False  # some weight has been used
        self._is_followed = True  # and an activation came after it
        self._channels_first = False

    # ---- results

    def seen(self, spec: ModelSpec, layers: Mapping[int, str]) -> Seen:
        """The figures, once it is known what the weights are.

        Args:
            spec: the reading of the model.
            layers: id -> path of the parameters that are layers.
        """
        watched = frozenset(layers.values())
        ends = frozenset(path for branch in spec.branches for path in branch.last)
        found: dict[str, _Layer] = {}
        sums: list[float] = []
        attentions: list[AttentionFigures] = []
        last: _Layer | None = None
        for step in self._steps:
            use, other = step.use, step.other
            path = None if use is None else _layer_of(use, watched)
            if use is not None and path is not None:
                last = found.setdefault(path, _Layer(path))
                last.uses.append(use)
            elif last is None:
                continue
            elif isinstance(other, _Activation):
                last.activation = last.activation or other  # only the first that follows belongs to the layer
            elif isinstance(other, _Sum) and last.path in ends:
                sums.append(float(other.norm) / math.sqrt(other.size))
            elif isinstance(other, _Attention):
                figures = AttentionFigures(last.path, other.keys, float(other.largest), float(other.spread))
                attentions.append(figures)
        return Seen(tuple(layer.figures() for layer in found.values()), tuple(sums), tuple(attentions))

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
        names = tuple(entry[1] for entry in held if entry is not None and entry[1])
        if names and all(entry is not None for entry in held):
            self._weights[id(made)] = (made, tuple(dict.fromkeys(path for group in names for path in group)))
            return out
        step = _Step(self._use(name, names, made) if names else None, self._other(name, args, made))
        if step.use is not None or step.other is not None:
            self._steps.append(step)
        return out

    def _use(self, name: str, names: tuple[tuple[str, ...], ...], out: torch.Tensor) -> _Use:
        value = out.detach()
        low, high = torch.aminmax(value)
        use = _Use(names, value.numel(), _norm(value), torch.maximum(low.abs(), high.abs()), None)
        if names not in self._varied and self._samples > 1 and value.shape[:1] == (self._samples,):
            self._varied.add(names)
            use.variation = variation_of(value)
        if out.requires_grad:
            out.register_hook(use.add_grad)  # type: ignore[no-untyped-call]
        self._is_used, self._is_followed = True, False
        if name not in _ADDS:  # an offset (a position, a bias of several axes) changes no layout
            self._channels_first = name.startswith("conv")
        return use

    def _other(self, name: str, args: tuple[Any, ...], made: torch.Tensor) -> _Activation | _Sum | _Attention | None:
        if name in RECTIFIERS or name in BOUNDED:
            return None if self._is_followed else self._follow(name, made)
        if name in _ADDS and self._is_used and _is_sum(args):
            return _Sum(_norm(made.detach()), made.numel())
        if name == "softmax" and made.ndim >= 3:
            return self._soften(made.detach(), args[0])
        return None

    def _follow(self, name: str, out: torch.Tensor) -> _Activation | None:
        """An activation belongs to the layer before it."""
        if out.ndim < 2:
            return None
        self._is_followed = True
        value = out.detach()
        unit = 1 if self._channels_first else value.ndim - 1
        others = [d for d in range(value.ndim) if d != unit]
        act = _Activation(name, value.shape[unit], value.numel() // value.shape[unit], None, None)
        if name in RECTIFIERS:
            largest = torch.linalg.vector_norm(value, ord=math.inf, dim=others)
            act.dead = (largest <= DEAD_BELOW).sum()
        low, high = BOUNDED.get(name, (-math.inf, math.inf))
        if math.isfinite(low):
            margin = (1 - FLAT_ABOVE) * (high - low) / 2
            act.flat = ((value > high - margin) | (value < low + margin)).float().mean()
        return act

    def _attend(self, *args: torch.Tensor, scale: float | None, **named: torch.Tensor) -> None:
        query, key = (*args, *named.values())[:2]
        if query.ndim < 3 or not self._is_used or query.shape[:-2] != key.shape[:-2]:
            return
        q = query.detach().flatten(0, -3)[:QUERIES_READ, :QUERIES_READ].float()
        k = key.detach().flatten(0, -3)[:QUERIES_READ].float()
        logits = q @ k.transpose(-1, -2) * (scale if scale is not None else q.shape[-1] ** -0.5)
        self._steps.append(_Step(other=_Attention(k.shape[-2], *_sharpness(logits))))

    def _soften(self, weights: torch.Tensor, logits: Any) -> _Attention | None:
        """An attention written by hand shows its weights."""
        if not self._is_used or not isinstance(logits, torch.Tensor) or weights.shape[-1] < 2:
            return None
        # Masked logits are minus infinity or nearly; what remains is told by the weights alone.
        seen = weights.reshape(-1, weights.shape[-1])[:: max(1, weights.numel() // weights.shape[-1] // 4096)]
        spread = seen.float().clamp_min(1e-30).log().std(dim=-1).mean()
        return _Attention(seen.shape[-1], seen.float().amax(dim=-1).mean(), spread)


def _layer_of(use: _Use, watched: frozenset[str]) -> str | None:
    """The last weight among the arguments that is a layer, by the first it is made of."""
    first = (next((p for p in names if p in watched), None) for names in reversed(use.names))
    return next((path for path in first if path is not None), None)


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
