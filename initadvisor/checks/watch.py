"""Sees every op of a forward pass that uses a weight, and the activation, attention or sum that follows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from initadvisor.checks.figures import AttentionFigures, SumFigures
from initadvisor.checks.lineage import Fact, Lineage, Use, length, rms
from initadvisor.checks.policies import Policy, policy_of
from initadvisor.checks.steps import Activation, Attention, Layer, Parts, Seen, Step, Sum
from initadvisor.checks.terms import COMPARING, Clash, Term, clash_of, term_of
from initadvisor.errors import swallowed
from initadvisor.graph.spec import ModelSpec
from initadvisor.training.data import Batch, tensors_in
from initadvisor.training.engine.units import BOUNDED, RECTIFIERS, ChannelAxis, look_at

QUERIES_READ = 64
"""Queries per attention whose weights are looked at; the means over them are known to a few percent."""

FEATURES_READ = 4096
"""Features of a layer through which the spread over samples is measured; the ratio is then known to a few percent."""

SQUASHING = frozenset({"sigmoid", "logsigmoid", "binary_cross_entropy_with_logits", "sigmoid_focal_loss"})
"""Ops that make probabilities of single scores, or their logarithms."""

_ADDS = frozenset({"add", "__add__", "__radd__", "__iadd__"})


class Watch(TorchFunctionMode):
    """Records figures of one forward pass, of the loss behind it, and of their backward pass through hooks on outputs.

    What is made of weights alone (a transposed view, a normalised weight) stands for the weight. Which weights are
    layers is known only after the pass, from the analysis that reads the same pass: :meth:`seen` is told then. What
    comes after the model has returned is the loss: of it only what is compared with what is looked at, so that a loss
    shows the same whichever way it is given.

    Args:
        model: whose matrices, and parameters of more axes, may be layers.
        batch: whose tensors the loss compares outputs with.

    Attributes:
        terms: what the loss compared, in order; also inside the model.
        clashes: what it compared although the shapes do not fit.
        output: what the model returned last, None before.
        lineage: where tensors come from.
        policies: distributions of actions that a head makes.
        squashed: identities of outputs that the loss makes probabilities of.
        faults: ops of which no figures could be taken, and why.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        # id -> (tensor, parameters it is made of): empty for buffers, biases and scales, which are no layer's weight.
        self._weights: dict[int, tuple[torch.Tensor, tuple[str, ...]]] = {id(b): (b, ()) for b in model.buffers()}
        for path, p in model.named_parameters():
            self._weights[id(p)] = (p, (path,) if p.ndim >= 2 else ())
        self._samples = batch.size or 0
        self._steps: list[Step] = []
        self._varied: set[tuple[tuple[str, ...], ...]] = set()
        self._is_used = False  # some weight has been used
        self._is_followed = True  # and an activation came after it
        self._axis = ChannelAxis()
        self.lineage = Lineage()
        self._is_inside = True  # the model, or a loss that calls parts of it, is running
        self.terms: list[Term] = []
        self.clashes: list[Clash] = []
        self.faults: list[str] = []
        self.squashed: set[int] = set()
        self.policies: list[Policy] = []
        self.output: Any = None
        for tensor in tensors_in((batch.target, batch.raw)):
            self.lineage.tell(tensor, Fact(batch=True))

    def enter(self, *_: Any) -> None:
        """The model is called; a forward pre-hook of it."""
        self._is_inside = True

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """The model returns; a forward hook of it, or called by hand."""
        self._is_inside, self.output = False, output
        for tensor in tensors_in(output):
            self.lineage.tell(tensor, replace(self.lineage.of(tensor) or Fact(), output=True))

    # ---- results

    def seen(self, spec: ModelSpec, layers: Mapping[int, str]) -> Seen:
        """The figures, once it is known what the weights are.

        Args:
            spec: the reading of the model.
            layers: id -> path of the parameters that are layers.
        """
        watched = frozenset(layers.values())
        ends = frozenset(path for branch in spec.branches for path in branch.last)
        found: dict[str, Layer] = {}
        stream: list[float] = []
        sums: list[SumFigures] = []
        attentions: list[AttentionFigures] = []
        last: Layer | None = None
        for step in self._steps:
            use, other = step.use, step.other
            path = None if use is None else layer_of(use, watched)
            if isinstance(other, Sum) and other.parts:
                sums += _sum_figures(other)
            if use is not None and path is not None:
                last = found.setdefault(path, Layer(path))
                last.uses.append(use)
            elif last is None:
                continue
            elif isinstance(other, Activation):
                last.activation = last.activation or other  # only the first that follows belongs to the layer
            elif isinstance(other, Sum) and other.is_stream and last.path in ends:
                stream.append(float(other.norm) / math.sqrt(other.size))
            elif isinstance(other, Attention):
                figures = AttentionFigures(last.path, other.keys, float(other.largest), float(other.spread))
                attentions.append(figures)
        layers_seen = tuple(layer.figures() for layer in found.values())
        return Seen(layers_seen, tuple(stream), tuple(attentions), tuple(sums))

    # ---- recording

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").removesuffix("_")
        parts: Parts = ()
        try:
            parts = self._before(name, args, kwargs)
        except Exception as error:  # noqa: BLE001 - a figure that cannot be taken must not break the user's pass
            self._fail(name, error)
        # An activation in place overwrites what it reads, so the layer's figures were taken before.
        out = func(*args, **kwargs)
        try:
            self._after(name, args, kwargs, out, parts)
        except Exception as error:  # noqa: BLE001 - likewise
            self._fail(name, error)
        return out

    def _fail(self, name: str, error: Exception) -> None:
        told = f"the op {name} could not be watched ({swallowed(f'watching {name}', error)})"
        if told not in self.faults:
            self.faults.append(told)

    def _before(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parts:
        self._compare(name, args, kwargs)
        policy = policy_of(name, args, self.lineage)
        if policy is not None:
            self.policies.append(policy)
        if not self._is_inside:
            return ()
        if name == "scaled_dot_product_attention":
            self._attend(*args[:2], scale=kwargs.get("scale"), **_named(kwargs, "query", "key"))
        return self._parts(name, args)  # before an addition in place overwrites one of them

    def _after(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, parts: Parts) -> None:
        made = next(_tensors(out), None)
        if not self._is_inside or made is None or not made.is_floating_point() or made.numel() == 0:
            self._follow_facts(name, args, out)
            return
        operands = list(_tensors((args, tuple(kwargs.values()))))
        held = [self._weights.get(id(t)) for t in operands]
        names = tuple(entry[1] for entry in held if entry is not None and entry[1])
        if names and all(entry is not None for entry in held):
            self._weights[id(made)] = (made, tuple(dict.fromkeys(path for group in names for path in group)))
            return
        step = Step()
        if names:
            data = next((t for t, entry in zip(operands, held, strict=True) if entry is None), None)
            step.use = self._use(name, names, made, data)
        else:
            self._axis.op(name)
            self._follow_facts(name, args, out)
        step.other = self._other(name, args, made, parts)
        if step.use is not None or step.other is not None:
            self._steps.append(step)

    def _compare(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a loss compares; asked before the op runs, since it may refuse what it is given."""
        if name in COMPARING:
            term = term_of(name, args, kwargs, self.lineage)
            if term is not None:
                self.terms.append(term)
        first = args[0] if args else kwargs.get("input")
        if not self._is_inside and name in SQUASHING and isinstance(first, torch.Tensor):
            fact = self.lineage.of(first)
            if fact is not None and fact.output:
                self.squashed.add(id(first))
        if name in COMPARING or not self._is_inside:
            clash = clash_of(name, args, kwargs, self.lineage)
            if clash is not None:
                self.clashes.append(clash)

    def _follow_facts(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        first = args[0] if args else None
        if isinstance(first, torch.Tensor):
            others = [t for t in _tensors(args[1:]) if t.ndim]
            alone = all(id(t) in self._weights for t in others)
            self.lineage.carry(name, first, alone, list(_tensors(out)))

    def _parts(self, name: str, args: tuple[Any, ...]) -> Parts:
        """Both summands of a sum, where at least one is the work of a single weight."""
        if name not in _ADDS or len(args) < 2 or not all(isinstance(a, torch.Tensor) for a in args[:2]):
            return ()
        made: list[tuple[Use | tuple[str, ...] | None, torch.Tensor]] = []
        for tensor in args[:2]:
            if not tensor.is_floating_point() or tensor.ndim < 2 or tensor.numel() == 0:
                return ()
            entry, fact = self._weights.get(id(tensor)), self.lineage.of(tensor)
            made.append(((entry[1] or None) if entry is not None else fact.use if fact else None, rms(tensor.detach())))
        return tuple(made) if any(source is not None for source, _ in made) else ()

    def _use(self, name: str, names: tuple[tuple[str, ...], ...], out: torch.Tensor, data: torch.Tensor | None) -> Use:
        value = out.detach()
        low, high = torch.aminmax(value)
        use = Use(names, value.numel(), length(value), torch.maximum(low.abs(), high.abs()))
        if data is not None and data.is_floating_point():
            use.entered = rms(data.detach())
        if name not in _ADDS:
            self.lineage.tell(out, Fact(use))
        if names not in self._varied and self._samples > 1 and value.shape[:1] == (self._samples,):
            self._varied.add(names)
            use.variation = variation_of(value)
        if out.requires_grad:
            out.register_hook(use.add_grad)  # type: ignore[no-untyped-call]
        self._is_used, self._is_followed = True, False
        if name not in _ADDS:  # an offset (a position, a bias of several axes) changes no layout
            self._axis.layer(name)
        return use

    def _other(
        self,
        name: str,
        args: tuple[Any, ...],
        made: torch.Tensor,
        parts: Parts,
    ) -> Activation | Sum | Attention | None:
        if name in RECTIFIERS or name in BOUNDED:
            return None if self._is_followed else self._follow(name, made)
        if parts or (name in _ADDS and self._is_used and _is_sum(args)):
            return Sum(length(made.detach()), made.numel(), self._is_used and _is_sum(args), parts)
        if name == "softmax" and made.ndim >= 3:
            return self._soften(made.detach(), args[0])
        return None

    def _follow(self, name: str, out: torch.Tensor) -> Activation | None:
        """An activation belongs to the layer before it."""
        if out.ndim < 2:
            return None
        self._is_followed = True
        value = out.detach()
        units = look_at(name, value, self._axis.of(value))
        return Activation(name, units.count, value.numel() // max(1, units.count), units.dead, units.flat)

    def _attend(self, *args: torch.Tensor, scale: float | None, **named: torch.Tensor) -> None:
        query, key = (*args, *named.values())[:2]
        if query.ndim < 3 or not self._is_used or query.shape[:-2] != key.shape[:-2]:
            return
        q = query.detach().flatten(0, -3)[:QUERIES_READ, :QUERIES_READ].float()
        k = key.detach().flatten(0, -3)[:QUERIES_READ].float()
        logits = q @ k.transpose(-1, -2) * (scale if scale is not None else q.shape[-1] ** -0.5)
        self._steps.append(Step(other=Attention(k.shape[-2], *_sharpness(logits))))

    def _soften(self, weights: torch.Tensor, logits: Any) -> Attention | None:
        """An attention written by hand shows its weights."""
        if not self._is_used or not isinstance(logits, torch.Tensor) or weights.shape[-1] < 2:
            return None
        # Masked logits are minus infinity or nearly; what remains is told by the weights alone.
        seen = weights.reshape(-1, weights.shape[-1])[:: max(1, weights.numel() // weights.shape[-1] // 4096)]
        spread = seen.float().clamp_min(1e-30).log().std(dim=-1).mean()
        return Attention(seen.shape[-1], seen.float().amax(dim=-1).mean(), spread)


def layer_of(use: Use, watched: frozenset[str]) -> str | None:
    """The last weight among the arguments that is a layer, by the first it is made of."""
    first = (next((p for p in names if p in watched), None) for names in reversed(use.names))
    return next((path for path in first if path is not None), None)


def _sum_figures(found: Sum) -> Iterator[SumFigures]:
    # Positions are no layers, so what a use is made of is asked for by name.
    names = [source.names[-1] if isinstance(source, Use) else source for source, _ in found.parts]
    one, other = (group[0] if group else "" for group in names)
    yield SumFigures((one, other), (float(found.parts[0][1]), float(found.parts[1][1])))


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
