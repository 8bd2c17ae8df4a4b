"""Follows a training from the first call of what an optimizer holds to the last step that is watched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from initadvisor.integrations.scripts.autograd import LossGraph, walk
from initadvisor.integrations.scripts.ledger import Ledger
from initadvisor.integrations.scripts.networks import Network, find_networks, held_by, live_modules, unwrapped
from initadvisor.training.data import Batch, map_tensors, tensors_in

MOST_CALLS = 8
"""Calls of parts of a network that are kept: encoder and decoder, actor and critic, a few steps of a recurrence."""

MOST_OUTPUTS = 16
"""Outputs of a call whose dependence on each other is looked at."""


@dataclass(eq=False)
class Call:
    """One call of a network or of a part of it, as it was made.

    Attributes:
        module: what was called.
        path: its name in the network; ``""`` for the whole.
        args, kwargs: copies of what it was called with.
        autocast: dtype of the autocast region around it, or None.
        grads: number of an output tensor -> gradient of the loss that arrived there.
        last: numbers of output tensors that no other output is made of.
        shape: of the first output tensor.
        differentiated: the training took derivatives of it before any loss was.
    """

    module: nn.Module
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    autocast: torch.dtype | None
    grads: dict[int, torch.Tensor] = field(default_factory=dict)
    last: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    differentiated: bool = False


class Listener(Protocol):
    """Who is told of a training; anything may be raised to end it, from :meth:`stepped` and :meth:`stepping`."""

    def found(self, networks: Sequence[Network], call: Batch | None) -> None:
        """Networks are known for the first time; one of them, or a part of it, is about to be called so."""

    def ready(self, optimizer: int) -> None:
        """The first step of an optimizer is about to change weights; their gradients are there."""

    def stepping(self, optimizer: int) -> None:
        """A step begins."""

    def stepped(self, optimizer: int, loss: float | None) -> None:
        """A step has ended; ``loss`` is what was stepped on, None where no backward pass reached the parameters."""


class Observer:
    """Turns what the hooks see into a training: its optimizers, networks, calls, losses and steps.

    Args:
        listener: told of it.
        records: keep the calls and look into the losses of first steps; without, only losses are followed.
        without_grad: look for networks at calls without gradient as well (roll-outs come before the first loss).
    """

    def __init__(self, listener: Listener, *, records: bool, without_grad: bool) -> None:
        self.listener = listener
        self.optimizers: list[Optimizer] = []
        self.networks: tuple[Network, ...] = ()
        self.calls: dict[Network, list[Call]] = {}
        self.losses: dict[int, LossGraph] = {}  # optimizer -> what its first loss compares
        self.outsiders: list[nn.Module] = []  # called from outside, and no optimizer holds anything of them
        self.steps: dict[int, int] = {}
        self._records, self._without_grad = records, without_grad
        self._ledger = Ledger()
        self._stale = True
        self._depth = 0
        self._inside: set[Network] = set()
        self._known: dict[int, tuple[Network, str]] = {}
        self._prepared: set[int] = set()
        self._stepping: list[int] = []
        self._backward = False
        self._graph: LossGraph | None = None
        self._thread = 0
        self._busy = False  # what the listener does is not the training's

    # ---- what the hooks tell

    def built(self, optimizer: Optimizer) -> None:
        """An optimizer has been made."""
        if not self._busy:
            self.optimizers.append(optimizer)
            self._stale = True

    def called(self, call: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module is called."""
        if self._busy or not self._is_of_the_training(module, args, kwargs):
            return call(module, *args, **kwargs)
        network, path = self._known.get(id(unwrapped(module)), (None, ""))
        outside = self._depth == 0
        record = None
        if network is None:
            if outside and self._records and self._known:
                self._note_outsider(module)
        elif network not in self._inside:
            record = self._record(network, unwrapped(module), path, args, kwargs)
        else:
            network = None  # within a call of it that is followed already
        self._depth += 1
        if network is not None:
            self._inside.add(network)
        try:
            output = call(module, *args, **kwargs)
        finally:
            self._depth -= 1
            if network is not None:
                self._inside.discard(network)
        if record is not None:
            self._follow(record, output)
        return output

    def differentiating(self, roots: tuple[torch.Tensor, ...]) -> None:
        """A backward pass begins."""
        if self._busy or not roots:
            return
        self._backward = True
        value = sum((r.detach().sum() for r in roots[1:]), roots[0].detach().sum())
        if len(self.optimizers) == 1 and not self._records:
            self._ledger.add(value, self._holding(0))  # one loss and one optimizer: the graph need not be walked
            return
        self._graph = walk(roots)
        self._ledger.add(value, self._graph.reached)

    def differentiated(self) -> None:
        """It has ended."""
        if self._busy:
            return
        self._backward = False
        graph, self._graph = self._graph, None
        if graph is not None:
            for number in range(len(self.optimizers)):
                if number not in self.steps and graph.reached & self._holding(number):
                    self.losses.setdefault(number, graph)
        if self._stepping:  # a closure: the gradient comes after the step has begun
            self._prepare(self._stepping[0])

    def stepping(self, optimizer: Optimizer) -> None:
        """A step begins."""
        if self._busy:
            return
        number = self._number(optimizer)
        self._stepping.append(number)
        if len(self._stepping) == 1:
            has_gradient = any(p.grad is not None for p in held_by(optimizer))
            # Without one this step has a closure, and networks are found when that calls them.
            if self._stale and has_gradient:
                self._look(None, None)
            self.listener.stepping(number)
            if has_gradient:
                self._prepare(number)

    def stepped(self, optimizer: Optimizer) -> None:
        """A step has ended."""
        if self._busy or not self._stepping:
            return
        self._stepping.pop()
        if self._stepping:  # the step of a wrapped optimizer, within that of its wrapper
            return
        number = self._number(optimizer)
        loss = self._ledger.step(number, self._holding(number))
        self.steps[number] = self.steps.get(number, 0) + 1
        with self._listening():
            self.listener.stepped(number, loss)

    def pending(self, number: int) -> float:
        """The loss that an optimizer is about to step on; NaN where no backward pass was seen."""
        value = self._ledger.ahead(number, self._holding(number))
        return float("nan") if value is None else value

    # ---- networks

    def _is_of_the_training(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this thread trains; looks for networks where something has changed since."""
        if self._thread and threading.get_ident() != self._thread:
            return False
        if self._stale and self.optimizers and (self._without_grad or torch.is_grad_enabled()):
            held = frozenset().union(*(self._holding(i) for i in range(len(self.optimizers))))
            if any(id(p) in held for p in module.parameters()):
                self._thread = threading.get_ident()
                self._look(module, Batch(args, kwargs, None, unwrapped(module)))
        return True

    def _look(self, module: nn.Module | None, call: Batch | None) -> None:
        self._stale = False
        modules = live_modules()
        around = None if module is None else unwrapped(module)
        if around is not None and not any(m is around for m in modules):
            modules.insert(0, around)  # the collector may have been told not to list it
        networks = find_networks(self.optimizers, modules, around)
        before = {id(m): n for n in self.networks for m in n.same}
        for network in networks:  # an optimizer that came later may hold parts of a network that was known
            known = before.get(id(network.module))
            if known is not None:
                known.optimizers, known.held = network.optimizers, network.held
        self.networks = tuple(before.get(id(n.module), n) for n in networks)
        self._known = {}
        for network in self.networks:
            for name, part in network.module.named_modules():
                self._known.setdefault(id(part), (network, name))
            for whole in network.same:
                self._known[id(whole)] = (network, "")
        with self._listening():
            self.listener.found(self.networks, call)

    def _number(self, optimizer: Optimizer) -> int:
        for number, known in enumerate(self.optimizers):
            if known is optimizer:
                return number
        self.optimizers.append(optimizer)  # made before the hooks were in, or without calling torch's own `__init__`
        self._stale = True
        return len(self.optimizers) - 1

    def _holding(self, number: int) -> frozenset[int]:
        return frozenset(id(p) for p in held_by(self.optimizers[number]))

    def _note_outsider(self, module: nn.Module) -> None:
        module = unwrapped(module)
        if next(module.parameters(), None) is not None and not any(m is module for m in self.outsiders):
            self.outsiders.append(module)

    # ---- calls

    def _record(
        self, network: Network, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call | None:
        calls = self.calls.setdefault(network, [])
        stepped = any(n in self.steps for n in network.optimizers)
        if not self._records or stepped or not torch.is_grad_enabled() or len(calls) >= MOST_CALLS:
            return None
        if any(not c.path for c in calls) or (path and sum(c.path == path for c in calls) > MOST_CALLS // 4):
            return None
        device = next((p.device.type for p in module.parameters()), "cpu")
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        given, named = map_tensors((args, dict(kwargs)), _copy)
        call = Call(module, path, given, named, autocast)
        if not path:
            calls.clear()  # calls of parts, of a sanity check perhaps, tell less than one of the whole
        calls.append(call)
        return call

    def _follow(self, call: Call, output: Any) -> None:
        """Have the gradients of the outputs kept when they come."""
        tensors = list(tensors_in(output))[:MOST_OUTPUTS]
        call.last, call.shape = _last(tensors), tuple(tensors[0].shape) if tensors else ()
        for number in call.last:
            tensor = tensors[number]

            def keep(grad: torch.Tensor, number: int = number) -> None:
                if not self._backward:
                    call.differentiated = True
                elif number not in call.grads:
                    call.grads[number] = grad.detach().clone()

            tensor.register_hook(keep)  # type: ignore[no-untyped-call]

    # ---- steps

    def _prepare(self, number: int) -> None:
        if number in self._prepared or number in self.steps:
            return
        self._prepared.add(number)
        with self._listening():
            self.listener.ready(number)

    def _listening(self) -> _Busy:
        return _Busy(self)


class _Busy:
    """While the listener works, what it calls is not the training's."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __enter__(self) -> None:
        self._observer._busy = True

    def __exit__(self, *_: object) -> None:
        self._observer._busy = False


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    twin = tensor.detach().clone()
    return twin.requires_grad_() if tensor.requires_grad and tensor.is_leaf else twin


def _last(outputs: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Numbers of the outputs that depend on weights and that no other output is made of."""
    nodes = {i: t.grad_fn for i, t in enumerate(outputs) if t.grad_fn is not None and t.is_floating_point()}
    if len(nodes) < 2:
        return tuple(nodes)
    below: set[Any] = set()
    for node in nodes.values():
        below |= _below(node, set(nodes.values()) - {node})
    return tuple(i for i, node in nodes.items() if node not in below)


def _below(node: Any, wanted: set[Any]) -> set[Any]:
    """Which of ``wanted`` lie below a node of the graph."""
    todo, seen = [node], {node}
    while todo:
        for after, _ in todo.pop().next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                todo.append(after)
    return seen & wanted
