"""A chunk of members as one live training: weights stacked, one vectorised pass, the user's optimizer on the stack.

Learning rates differ per member. The user's optimizer treats every element by itself, so it steps stacks as it steps
single tensors; it gets the stacked weights in slices, one for each run of neighbouring members of one rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from initadvisor.data import Batch
from initadvisor.trials.member import Checkpoint, MemberState
from initadvisor.trials.streams import derive_step, seed_all
from initadvisor.trials.task import TrainingTask
from initadvisor.trials.together import members_together

CLIP_EPSILON = 1e-6
"""What ``clip_grad_norm_`` adds to a norm before it divides."""

FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
"""Optimizers of torch that step many tensors on a processor in one call; they agree with the others to rounding."""

COUNTERS = ("step", "mu_product")
"""Entries of optimizers' states that are the same number for all members, whatever the shape of the parameter."""

LEFT_OUT = ("params", "lr", "initial_lr", "param_names", "fused")
"""Entries of a parameter group that are no settings of the user's to carry over to the stack."""


class NotBatchableError(Exception):
    """This training cannot be vectorised over members; the message says why. Caught where an engine is chosen."""


@dataclass(frozen=True)
class Batching:
    """What is known of a training that can be vectorised.

    Attributes:
        active: names of the parameters that get a gradient; the others are carried along.
        mixed: members of different seeds can share a stack: no random numbers, batches of one shape.
        member_bytes: memory one member takes while it is trained: weights and their copies, and what the backward
            pass keeps.
    """

    active: tuple[str, ...]
    mixed: bool
    member_bytes: int


class _Slots:
    """The places of a model at which weights and buffers can be swapped for those of all members.

    Written straight into the modules' tables, as ``torch.func.functional_call`` does too; that one looks every tensor
    up by its path and searches the model for tied ones at each call.
    """

    def __init__(self, model: nn.Module) -> None:
        names = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        # The tables hold parameters, or None, by their type; while they are filled, they hold any tensor.
        tables: list[dict[str, Any]] = [
            table for m in model.modules() for table in (cast(Any, m._parameters), cast(Any, m._buffers))
        ]
        self._slots = [(table, key, names[id(t)]) for table in tables for key, t in table.items() if t is not None]

    @contextmanager
    def filled(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Put ``tensors`` in, by name; on the way out, what was there before."""
        before = [table[key] for table, key, _ in self._slots]
        try:
            for table, key, name in self._slots:
                table[key] = tensors[name]
            yield
        finally:
            for (table, key, _), tensor in zip(self._slots, before, strict=True):
                table[key] = tensor

    def replaced(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors that the model has put in other ones' places since, by name."""
        return {name: table[key] for table, key, name in self._slots if table[key] is not tensors[name]}


@dataclass(frozen=True)
class _Data:
    """The batches of all members at one step, stacked."""

    tensors: list[torch.Tensor]
    rebuild: Callable[[Sequence[torch.Tensor]], Batch]


def _leaves(batch: Batch) -> tuple[list[Any], TreeSpec]:
    return tree_flatten((batch.args, dict(batch.kwargs), batch.target, batch.raw))


def _data_of(batches: Sequence[Batch]) -> _Data:
    """Take the tensors out of batches, each once, and stack them.

    Raises:
        NotBatchableError: the batches do not have the same shapes.
    """
    leaves, spec = _leaves(batches[0])
    places: dict[int, int] = {}
    where = [places.setdefault(id(x), len(places)) if isinstance(x, torch.Tensor) else None for x in leaves]
    firsts = {slot: i for i, slot in reversed(list(enumerate(where))) if slot is not None}
    others = [_leaves(b) for b in batches]
    if any(s != spec for _, s in others):
        raise NotBatchableError("batches differ in structure")
    columns = [[found[firsts[slot]] for found, _ in others] for slot in range(len(places))]
    if any(len({(t.shape, t.dtype) for t in column}) > 1 for column in columns):
        raise NotBatchableError("batches differ in shape")
    tensors = [torch.stack(column) for column in columns]

    def rebuild(given: Sequence[torch.Tensor]) -> Batch:
        filled = [leaf if slot is None else given[slot] for leaf, slot in zip(leaves, where, strict=True)]
        return Batch(*tree_unflatten(filled, spec))

    return _Data(tensors, rebuild)


class _Rates:
    """Rates of every group at every step for one base rate, as the user's scheduler sets them."""

    def __init__(self, task: TrainingTask, model: nn.Module, lr: float, begin: int) -> None:
        self.optimizer = task.optimizer.build(model, lr)
        self.scheduler = task.build_scheduler(self.optimizer)
        self._fixed = self._options()
        for _ in range(begin):
            self.step()

    def _options(self) -> list[dict[str, Any]]:
        left_out = ("params", "lr", "initial_lr")
        return [{k: v for k, v in g.items() if k not in left_out} for g in self.optimizer.param_groups]

    @property
    def now(self) -> list[float]:
        return [float(g["lr"]) for g in self.optimizer.param_groups]

    def step(self) -> None:
        if self.scheduler is None:
            return
        self.optimizer.step()  # no gradient: nothing moves, but the scheduler wants to have seen it
        self.scheduler.step()
        if self._options() != self._fixed:
            raise NotBatchableError("the scheduler changes more than the rate")


class Stack:
    """A chunk of members as one live training."""

    def __init__(
        self,
        task: TrainingTask,
        batching: Batching,
        states: Sequence[MemberState],
        tensors: Sequence[Mapping[str, torch.Tensor]],
    ) -> None:
        self.task, self.states = task, states
        self.seeds = [s.key.seed for s in states]
        self.begin = states[0].steps
        if any(s.steps != self.begin for s in states):
            raise NotBatchableError("members are at different steps")
        if task.random and len(set(self.seeds)) > 1:
            raise NotBatchableError("members of different seeds draw different random numbers")
        self.model = task.member()
        self._slots = _Slots(self.model)
        self.active = {n: nn.Parameter(torch.stack([t[n] for t in tensors])) for n in batching.active}
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        self.carried = {n: torch.stack([t[n] for t in tensors]) for n, _ in named if n not in self.active}
        self.rates = {lr: _Rates(task, self.model, lr, self.begin) for lr in dict.fromkeys(s.key.lr for s in states)}
        self._runs = _runs([s.key.lr for s in states])
        self._lengths = [run.members.stop - run.members.start for run in self._runs]
        self._begun = False
        self._arm()

    def _arm(self) -> None:
        """Give the weights as they lie in memory now to an optimizer, with what the members bring of its state.

        It sees the axes of each in the order of memory: an optimizer that treats every element by itself does not
        care, and its kernels copy what is not contiguous.
        """
        self._axes = {n: _in_memory_order(p) for n, p in self.active.items()}
        self._parts = {
            n: [p.detach()[run.members].permute(self._axes[n]) for run in self._runs] for n, p in self.active.items()
        }
        self.optimizer = self._build()
        self._load_optimizer()

    def _lie_like(self, gradients: Sequence[torch.Tensor]) -> None:
        """Order weights in memory as their gradients come (those of linear maps, transposed), so that none is copied.

        Fused optimizers walk through memory, and take for granted that weights, gradients and moments lie alike.
        """
        self._begun = True
        odd = False
        for p, g in zip(self.active.values(), gradients, strict=True):
            if g.stride() != p.stride() and torch.empty_like(g).stride() == g.stride():
                p.data = torch.empty_like(g).copy_(p.detach())
                odd = True
        if odd:
            self._arm()

    def _build(self) -> Optimizer:
        """One optimizer over all members: its groups are the user's, once for each run of members of one rate."""
        self._owners: list[tuple[int, float]] = []
        groups = []
        names = {id(p): n for n, p in self.model.named_parameters()}
        first = next(iter(self.rates.values())).optimizer
        for index, group in enumerate(first.param_groups):
            options = {k: v for k, v in group.items() if k not in LEFT_OUT}
            owned = [names[id(p)] for p in group["params"] if names[id(p)] in self.active]
            for place, run in enumerate(self._runs):
                if owned:
                    groups.append(
                        {**options, **self._kernel(options), "params": [self._parts[n][place] for n in owned]}
                    )
                    self._owners.append((index, run.lr))
        return self.task.optimizer.kind(groups, lr=1.0)  # type: ignore[call-arg]

    def _kernel(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that step many tensors in one call, which for small ones is most of the time."""
        if options.get("differentiable") or self.task.device.type != "cpu":
            return {"foreach": None} if "foreach" in options else {}
        real = all(p.dtype in (torch.float32, torch.float64) for p in self.active.values())
        if self.task.optimizer.kind.__name__ in FUSED and real:
            return {"fused": True, "foreach": False}
        return {"foreach": True} if "foreach" in options else {}

    # -- state of the optimizer: by member in checkpoints, by run of members here -----------------------------------

    def _indexed(self) -> Iterator[tuple[int, str]]:
        """Index of each active parameter in the state dict of a looped optimizer."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        groups = next(iter(self.rates.values())).optimizer.param_groups
        flat = [names[id(p)] for group in groups for p in group["params"]]
        return ((i, n) for i, n in enumerate(flat) if n in self.active)

    def _load_optimizer(self) -> None:
        loaded = [s.checkpoint.optimizer["state"] for s in self.states if isinstance(s.checkpoint, Checkpoint)]
        if not loaded:
            return
        for index, name in self._indexed():
            for run, part in zip(self._runs, self._parts[name], strict=True):
                entries = [state.get(index, {}) for state in loaded[run.members]]
                slot = self.optimizer.state[part]
                for key, value in entries[0].items():
                    if _is_elementwise(key, value, self.active[name].shape[1:]):
                        stacked = torch.stack([entry[key] for entry in entries]).permute(self._axes[name])
                        slot[key] = torch.empty_like(part).copy_(stacked)
                    else:
                        slot[key] = value.clone() if isinstance(value, torch.Tensor) else value

    def checkpoint(self, member: int) -> Checkpoint:
        """One member's part, as the loop would have left it."""
        rates = self.rates[self.states[member].key.lr]
        optimizer = rates.optimizer.state_dict()
        optimizer["state"] = {}
        place, run = next((i, r) for i, r in enumerate(self._runs) if member < r.members.stop)
        for index, name in self._indexed():
            part = self._parts[name][place]
            back = [self._axes[name].index(axis) for axis in range(part.ndim)]
            optimizer["state"][index] = {
                key: value.permute(back)[member - run.members.start].clone(memory_format=torch.contiguous_format)
                if _is_elementwise(key, value, part.shape)
                else (value.clone() if isinstance(value, torch.Tensor) else value)
                for key, value in self.optimizer.state[part].items()
            }
        stacked = (*self.active.items(), *self.carried.items())
        tensors = {n: t.detach()[member].clone(memory_format=torch.contiguous_format) for n, t in stacked}
        scheduler = None if rates.scheduler is None else rates.scheduler.state_dict()
        return Checkpoint(tensors, optimizer, scheduler)

    # -- training -----------------------------------------------------------------------------------------------------

    def _losses(self, batches: Sequence[Batch], members: list[int] | None = None) -> torch.Tensor:
        """Loss of every member, or of those given, on its batch or on the one there is."""
        shared = all(b is batches[0] for b in batches)
        data = None if shared else _data_of(batches)
        stacks: dict[str, torch.Tensor] = {**self.active, **self.carried}
        if members is not None:
            stacks = {n: t[members] for n, t in stacks.items()}
        count = len(self.states) if members is None else len(members)
        with members_together(count) as level, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            marked = {n: level.mark(t) for n, t in stacks.items()}
            with self._slots.filled(marked):
                batch = batches[0] if data is None else data.rebuild([level.mark(t) for t in data.tensors])
                losses = level.unmark(self.task.compute_loss(self.model, batch))
                for name, tensor in self._slots.replaced(marked).items():
                    if name in self.active:
                        raise NotBatchableError(f"the model replaces its parameter {name}")
                    if members is None:
                        self.carried[name] = level.unmark(tensor).detach()
        return losses

    def step(self, index: int) -> torch.Tensor:
        """One optimizer step of every member; their losses before it."""
        seed_all(derive_step(self.seeds[0], index))
        losses = self._losses([self.task.batch_at(seed, index) for seed in self.seeds])
        # Members do not mix, so the gradient of the sum is the gradient of each; taken outside of vmap, it keeps the
        # memory layouts of ordinary batched products, a quarter faster than vmap(grad) on a deep MLP.
        gradients = list(torch.autograd.grad(losses.sum(), list(self.active.values())))
        if self.task.clip_norm is not None:
            gradients = self._clip(gradients)
        if not self._begun:
            self._lie_like(gradients)
        for (name, p), gradient in zip(self.active.items(), gradients, strict=True):
            alike = gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)
            # One call for all runs: a view for each, by itself, is a tenth of the step of a deep MLP.
            views = torch.split(alike.permute(self._axes[name]), self._lengths)
            for part, view in zip(self._parts[name], views, strict=True):
                part.grad = view
        for (owner, lr), group in zip(self._owners, self.optimizer.param_groups, strict=True):
            group["lr"] = self.rates[lr].now[owner]
        self.optimizer.step()
        for rates in self.rates.values():
            rates.step()
        return losses.detach()

    def _clip(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        assert self.task.clip_norm is not None
        count = len(self.states)
        norms: torch.Tensor = torch.stack([g.reshape(count, -1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (self.task.clip_norm / (norms + CLIP_EPSILON)).clamp(max=1.0)
        # Not in place: a gradient may be expanded from a single number.
        return [g * factors.view(-1, *[1] * (g.ndim - 1)) for g in gradients]

    def evaluate(self) -> torch.Tensor:
        """Held-out losses of all members, as the loop computes them."""
        flags = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        scores = torch.empty(len(self.states), dtype=torch.float64, device=self.task.device)
        # Confirming members of different seeds are scored on different rows.
        together: dict[int | None, list[int]] = {}
        for member, seed in enumerate(self.seeds):
            together.setdefault(self.task.fold_of.get(seed), []).append(member)
        try:
            with torch.no_grad():
                for members in together.values():
                    scores[members] = self._score(members)
        finally:
            for module, flag in flags:
                module.training = flag
        return scores

    def _score(self, members: list[int]) -> torch.Tensor:
        """Held-out losses of members that are scored on the same rows."""
        part = None if len(members) == len(self.states) else members
        total, weight = torch.zeros(len(members), dtype=torch.float64, device=self.task.device), 0.0
        for index, batch in enumerate(self.task.split_of(self.seeds[members[0]]).heldout):
            seed_all(derive_step(self.task.seed, index))
            size = batch.size or 1
            total += self._losses([batch], part).double() * size
            weight += size
        return total / weight


def _in_memory_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """Axes of a stacked tensor from the longest stride to the shortest; members come first."""
    return (0, *sorted(range(1, tensor.ndim), key=lambda axis: tensor.stride()[axis], reverse=True))


def _is_elementwise(key: str, value: Any, shape: torch.Size) -> bool:
    """Whether an entry of an optimizer's state holds a number for every element of a parameter of that shape."""
    return isinstance(value, torch.Tensor) and key not in COUNTERS and value.shape == shape


@dataclass(frozen=True)
class _Run:
    """Neighbouring members of one rate."""

    lr: float
    members: slice


def _runs(rates: Sequence[float]) -> list[_Run]:
    found: list[_Run] = []
    for place, lr in enumerate(rates):
        if found and found[-1].lr == lr:
            found[-1] = _Run(lr, slice(found[-1].members.start, place + 1))
        else:
            found.append(_Run(lr, slice(place, place + 1)))
    return found
