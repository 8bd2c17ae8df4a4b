"""Signal and gradient flow of one training at one step, measured on a copy that is thrown away."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from initadvisor.errors import worked_around
from initadvisor.graph.spec import ModelSpec
from initadvisor.streams import derive_step, seed_all
from initadvisor.training.engine.result import SignalFlow
from initadvisor.training.engine.units import BOUNDED, RECTIFIERS, ChannelAxis, look_at
from initadvisor.training.task import TrainingTask
from initadvisor.types import WEIGHT_ROLES, Role

FLOW_ROLES = WEIGHT_ROLES | {Role.EMBEDDING, Role.UNKNOWN}
"""Weights whose outputs are measured; norms and added tables only rescale what is measured elsewhere."""


@dataclass
class _Layer:
    """Sums over all uses of one weight."""

    path: str
    squares: list[torch.Tensor] = field(default_factory=list)
    grads: list[torch.Tensor] = field(default_factory=list)
    trains: bool = False
    dead: torch.Tensor | None = None
    flat: torch.Tensor | None = None

    def add_grad(self, grad: torch.Tensor | None) -> None:
        if grad is None:  # of a result that nothing reads
            return
        self.grads.append(grad.detach().float().square().mean())


class _Watch(TorchFunctionMode):
    """Sees every op that takes a watched weight together with data, and the activations that follow.

    What is made of weights alone (a transposed view, a normalised weight) stands for the weight.
    """

    def __init__(self, model: nn.Module, watched: dict[int, str]) -> None:
        super().__init__()
        self.layers: dict[str, _Layer] = {}
        self._last: _Layer | None = None
        self._axis = ChannelAxis()
        # id -> (tensor, path of the weight it stands for); tensors are held so that ids stay theirs.
        self._weights: dict[int, tuple[torch.Tensor, str]] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self._weights[id(tensor)] = (tensor, watched.get(id(tensor), ""))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = _first_tensor(out)
        if made is None or not made.is_floating_point():
            return out
        inputs = list(_tensors((args, tuple((kwargs or {}).values()))))
        held = [self._weights.get(id(t)) for t in inputs]
        paths = [entry[1] for entry in held if entry is not None and entry[1]]
        if paths and all(entry is not None for entry in held):
            self._weights[id(made)] = (made, paths[0])
        elif paths:
            self._axis.layer(getattr(func, "__name__", ""))
            self._record(paths[-1], made, out)
        else:
            self._follow(getattr(func, "__name__", ""), made)
        return out

    def _record(self, path: str, made: torch.Tensor, out: Any) -> None:
        layer = self.layers.setdefault(path, _Layer(path))
        layer.squares.append(made.detach().float().square().mean())
        # Of a recurrent layer the last state alone may be read, and the gradient comes by it.
        for tensor in _tensors(out):
            if tensor.requires_grad:
                layer.trains = True
                tensor.register_hook(layer.add_grad)  # type: ignore[no-untyped-call]
        self._last = layer

    def _follow(self, name: str, out: torch.Tensor) -> None:
        """An activation belongs to the layer before it; only the first that follows counts."""
        name = name.removesuffix("_")
        self._axis.op(name)
        layer = self._last
        if layer is None or layer.dead is not None or not (name in RECTIFIERS or name in BOUNDED):
            return
        value = out.detach().float()
        units = look_at(name, value, self._axis.of(value))
        none = torch.zeros((), device=value.device)
        layer.dead = none if units.dead is None else units.dead / units.count
        layer.flat = none if units.flat is None else units.flat


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Tensors among an op's arguments, also inside its lists (LSTM weights, einsum operands)."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _first_tensor(value: Any) -> torch.Tensor | None:
    return next(_tensors(value), None)


def watched_weights(model: nn.Module, spec: ModelSpec) -> dict[int, str]:
    """Parameters to watch by identity: those the analysis calls linear maps; without a reading, all matrices."""
    found: dict[int, str] = {}
    for path, p in model.named_parameters():
        known = spec[path].role if path in spec else None
        if (known in FLOW_ROLES and p.ndim >= 2) if known is not None else p.ndim >= 2:
            found[id(p)] = path
    return found


def measure_flow(
    task: TrainingTask,
    model: nn.Module,
    spec: ModelSpec,
    seed: int,
    step: int,
    optimizer: Optimizer | None = None,
) -> SignalFlow | None:
    """Forward and backward RMS per weight layer on the batch of one step; with an optimizer, its update ratios too.

    ``model`` is left with gradients, and with an optimizer with other weights: give a copy that is not needed any more.

    Args:
        task: the training.
        model: a live member.
        spec: the reading of the model, for roles and depth.
        seed: of the batches and the random stream.
        step: which of them.
        optimizer: takes one step, to be measured; None measures none.

    Returns:
        The flow in execution order, or None where the pass fails or no weight was seen.

    Example:
        >>> from initadvisor.graph.spec import Coverage
        >>> from initadvisor.training.task import make_task
        >>> task = make_task(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
        ...                  (torch.randn(40, 4), torch.randint(3, (40,))), lr=0.1)
        >>> measure_flow(task, task.member(), ModelSpec((), (), 2, Coverage(0, 0), ""), 0, 0).layers
        ('0.weight', '2.weight')
    """
    watched = watched_weights(model, spec)
    watch = _Watch(model, watched)
    seed_all(derive_step(seed, step))
    try:
        model.zero_grad(set_to_none=True)
        with watch:
            loss = task.compute_loss(model, task.batch_at(seed, step))
        loss.backward()  # type: ignore[no-untyped-call]
        ratios = _update_ratios(task, model, optimizer, watch.layers) if optimizer is not None else ()
    except Exception as error:  # noqa: BLE001 - figures are an extra; a training that breaks is told by itself
        worked_around("measuring signal and gradient flow", error)
        return None
    layers = tuple(watch.layers.values())
    if not layers:
        return None
    return SignalFlow(
        layers=tuple(layer.path for layer in layers),
        depth=tuple(_depth(spec, layer.path, i) for i, layer in enumerate(layers)),
        forward_rms=_roots([layer.squares for layer in layers]),
        backward_norm=_roots([layer.grads for layer in layers]),
        dead_share=tuple(0.0 if layer.dead is None else float(layer.dead) for layer in layers),
        saturated_share=tuple(0.0 if layer.flat is None else float(layer.flat) for layer in layers),
        update_ratio=ratios,
        trains=tuple(layer.trains for layer in layers),
    )


def _depth(spec: ModelSpec, path: str, index: int) -> int:
    return spec[path].depth if path in spec and spec[path].depth else index + 1


def _roots(squares: list[list[torch.Tensor]]) -> tuple[float, ...]:
    """Root of the mean over uses, 0 where there was none; one transfer for all."""
    means = [torch.stack(s).mean() if s else torch.zeros(()) for s in squares]
    return tuple(torch.stack([m.cpu() for m in means]).sqrt().tolist())


def _update_ratios(
    task: TrainingTask, model: nn.Module, optimizer: Optimizer, layers: dict[str, _Layer]
) -> tuple[float, ...]:
    if task.optimizer.needs_closure:
        return ()
    weights = dict(model.named_parameters())
    before = {path: weights[path].detach().clone() for path in layers}
    if task.clip_norm is not None:
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], task.clip_norm)
    optimizer.step()
    ratios = []
    for path, old in before.items():
        size, change = float(old.float().norm()), float((weights[path].detach() - old).float().norm())
        ratios.append(change / size if size > 0 else (math.inf if change > 0 else 0.0))
    return tuple(ratios)
