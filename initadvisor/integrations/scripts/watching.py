"""In the process of `watch`: reads every network at its first step, follows a few steps and tells all at once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from initadvisor.integrations.scripts.filling import twins_of
from initadvisor.integrations.scripts.messages import (
    NetworkSeen,
    OptimizerSeen,
    TrainingSeen,
    dumps,
    picklable,
)
from initadvisor.integrations.scripts.naming import names_of
from initadvisor.integrations.scripts.networks import Network, held_by
from initadvisor.integrations.scripts.observer import Call, Observer
from initadvisor.integrations.scripts.reading import Reading, read_network
from initadvisor.training.data import Batch, tensors_in

PATIENCE = 10
"""Steps of one optimizer, as a multiple of those to be watched, after which one that never steps is waited for no more:
a delayed policy steps every second time, a discriminator's five steps go to one of the generator."""


class Watching:
    """Gathers what is seen; everything is put back before the training goes on.

    Args:
        agent: of this process.
    """

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.observer: Observer = agent.observer
        self.readings: dict[Network, Reading] = {}
        self.copies: dict[Network, list[nn.Module]] = {}
        self.inputs: dict[Network, str] = {}
        self.parts: dict[Network, tuple[str, ...]] = {}
        self.names: dict[int, str] = {}
        self.before: dict[int, dict[int, torch.Tensor]] = {}
        self.updates: dict[int, float] = {}  # parameter -> relative size of its first step
        self.rates: dict[int, list[tuple[float, ...]]] = {}
        self.losses: dict[int, list[float | None]] = {}
        self.is_told = False

    def found(self, networks: Sequence[Network], call: Batch | None) -> None:
        """Nothing is put in."""
        for network in networks:
            if network not in self.copies:
                self.copies[network] = twins_of(network.module)

    def ready(self, number: int) -> None:
        """Read the networks of an optimizer at its first step."""
        if not self.agent.claim():
            self.agent.release()
            return
        self._learn_names()
        for network in self.observer.networks:
            if number in network.optimizers and network not in self.readings:
                self._read(network, number)

    def _read(self, network: Network, number: int) -> None:
        calls = self.observer.calls.get(network, [])
        whole = [c for c in calls if not c.path]
        if whole:  # of several modules that hold the same, the one that is called is the network
            network.module = whole[0].module
        self.inputs[network] = inputs_of(whole or calls)
        self.parts[network] = () if whole else tuple(dict.fromkeys(c.path for c in calls))
        graph = self.observer.losses.get(number)
        value = self.observer.pending(number)
        propose = self.agent.job.propose
        self.readings[network] = read_network(network, whole or calls, value, graph, propose=propose)
        self.observer.calls.pop(network, None)  # their copies are needed no more

    def stepping(self, number: int) -> None:
        """Keep the weights, to compare with after the step."""
        held = held_by(self.observer.optimizers[number])
        # A warm-up may begin at a rate of zero: the first step that moves a weight is the one that is told.
        self.before[number] = {id(p): p.detach().clone() for p in held if p.ndim >= 2 and not self.updates.get(id(p))}
        groups = self.observer.optimizers[number].param_groups
        self.rates.setdefault(number, []).append(tuple(float(g["lr"]) for g in groups if "lr" in g))

    def stepped(self, number: int, loss: float | None) -> None:
        """Measure the step; tell all after the last one."""
        self.losses.setdefault(number, []).append(loss)
        before = self.before.pop(number, {})
        for p in held_by(self.observer.optimizers[number]):
            if id(p) in before:
                self.updates[id(p)] = _relative(p.detach(), before[id(p)])
        if self._has_seen_enough():
            self._tell()

    def at_exit(self) -> None:
        """The script has ended before all was seen."""
        if not self.is_told and self.readings:
            self._tell(ended=True)

    def _has_seen_enough(self) -> bool:
        enough = self.agent.job.watched
        networks = {n for network in self.observer.networks for n in network.optimizers}
        steps = [self.observer.steps.get(n, 0) for n in networks] or [0]
        longest = max(self.observer.steps.values())
        return bool(min(steps) >= enough or longest >= enough * PATIENCE)

    def _tell(self, *, ended: bool = False) -> None:
        self.is_told = True
        self._learn_names()
        self.agent.ask(self._training())
        stop = self.agent.job.stop and not ended
        if not stop:
            self.agent.release()
            return
        self.agent.end()

    # ---- in words

    def _learn_names(self) -> None:
        modules = [m for n in self.observer.networks for m in n.same]
        copies = [m for found in self.copies.values() for m in found]
        wanted: list[Any] = [*modules, *copies, *self.observer.optimizers, *self.observer.outsiders]
        for key, name in names_of({id(o): o for o in wanted}).items():
            self.names.setdefault(key, name)

    def _name(self, thing: Any) -> str:
        return self.names.get(id(thing), "")

    def _network_name(self, network: Network) -> str:
        names = [self._name(m) for m in (network.module, *network.same)]
        return next((n for n in names if n and n != "self"), "")

    def _training(self) -> TrainingSeen:
        optimizers = tuple(self._optimizer(i, o) for i, o in enumerate(self.observer.optimizers) if i in self.rates)
        # Numbers count optimizers that stepped, so that what is told is told of these.
        stepped = {number: place for place, number in enumerate(sorted(self.rates))}
        networks = tuple(self._network(n, stepped) for n in self.observer.networks)
        device = next((str(p.device) for n in self.observer.networks for p in n.module.parameters()), "cpu")
        files = getattr(self.agent, "files", None)
        return TrainingSeen(
            optimizers,
            networks,
            others=tuple(self._other(m) for m in self.observer.outsiders),
            device=device,
            files=() if files is None else files.names,
            seeded=self.agent.seeds.set_by_script,
        )

    def _optimizer(self, number: int, optimizer: Optimizer) -> OptimizerSeen:
        return OptimizerSeen(
            self._name(optimizer),
            described(optimizer),
            tuple(self.rates[number]),
            tuple(self.losses.get(number, ())),
            len(held_by(optimizer)),
            number,
        )

    def _network(self, network: Network, stepped: dict[int, int]) -> NetworkSeen:
        module, reading = network.module, self.readings.get(network, Reading(fault="its optimizer took no step"))
        named = dict(module.named_parameters())
        weights = tuple(
            replace(w, update=self.updates.get(id(named[w.path])) if w.path in named else None)
            for w in reading.weights
            if w.path in named and named[w.path].ndim >= 2
        )
        return NetworkSeen(
            name=self._network_name(network),
            kind=type(module).__qualname__,
            key=network.key(self.observer.optimizers),
            optimizers=tuple(stepped[n] for n in network.optimizers if n in stepped),
            parameters=sum(p.numel() for p in module.parameters() if network.is_held(p)),
            inputs=self.inputs.get(network, ""),
            parts=self.parts.get(network, ()),
            spec=None if reading.spec is None else picklable(reading.spec),
            findings=reading.findings,
            weights=weights,
            schemes=tuple(replace(s, batch=None) for s in reading.schemes),
            packed=_packed(reading),
            left=network.left,
            copies=tuple(self._name(m) or type(m).__qualname__ for m in self.copies.get(network, ())),
            loss_name=reading.loss_name,
            note=reading.note,
            fault=reading.fault,
        )

    def _other(self, module: nn.Module) -> str:
        name, kind = self._name(module), type(module).__qualname__
        return f"{name} ({kind})" if name and name != "self" else kind


def _packed(reading: Reading) -> dict[str, bytes]:
    """Candidates that can travel; one that measures on a batch that cannot is left out."""
    found = {}
    for scheme in reading.schemes:
        try:
            found[scheme.name] = dumps(scheme)
        except (TypeError, AttributeError, ValueError, RuntimeError):
            continue
    return found


def _relative(now: torch.Tensor, before: torch.Tensor) -> float:
    size, change = float(before.float().norm()), float((now - before).float().norm())
    return change / size if size > 0 else (float("inf") if change > 0 else 0.0)


def inputs_of(calls: Sequence[Call]) -> str:
    """What a network was called with, in words.

    Example:
        >>> inputs_of([Call(nn.Linear(2, 2), "", (torch.zeros(5, 2),), {}, None)])
        'float32 5×2'
    """
    if not calls:
        return ""
    told = [_tensor(t) for t in tensors_in((calls[0].args, calls[0].kwargs))]
    return ", ".join(told[:4]) + (", …" if len(told) > 4 else "")


def _tensor(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'×'.join(map(str, tensor.shape))}".strip()


def described(optimizer: Optimizer) -> str:
    """Class and settings of an optimizer, as its owner would have typed them.

    Example:
        >>> described(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9))
        'SGD(momentum=0.9)'
    """
    kind = type(optimizer)
    try:
        defaults = {k: p.default for k, p in inspect.signature(kind).parameters.items()}
    except (TypeError, ValueError):
        defaults = {}
    group = optimizer.param_groups[0]
    shown = {k: v for k, v in group.items() if k in defaults and k not in ("lr", "params") and v != defaults[k]}
    groups = len(optimizer.param_groups)
    text = f"{kind.__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"
    return text + (f" in {groups} groups" if groups > 1 else "")
