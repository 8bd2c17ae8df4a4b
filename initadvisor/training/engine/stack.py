"""A chunk of members as one live training: weights stacked, one vectorised pass, the user's optimizer on the stack."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from initadvisor.streams import derive_step, seed_all
from initadvisor.training.data import Batch
from initadvisor.training.engine.carried import Carried, NotCarriedError, unchanged_by_scoring
from initadvisor.training.engine.member import Checkpoint, MemberState
from initadvisor.training.engine.recording import PLAIN
from initadvisor.training.engine.replay import Replayer
from initadvisor.training.engine.together import Level, members_together
from initadvisor.training.engine.weights import NotBatchableError, StackedWeights
from initadvisor.training.task import TrainingTask

CLIP_EPSILON = 1e-6
"""What ``clip_grad_norm_`` adds to a norm before it divides."""

SEEN_BATCHES = 256
"""Batches, at most, that are remembered in parts: taking one apart takes a tenth of a small step."""


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
    """The batches of all members at one step.

    Attributes:
        tensors: those in it, each once; stacked over members where these have batches of their own.
        batch: puts them together again, as one member sees them.
        beside: all else about it; None where that cannot be told, as it holds objects that are no plain values.
    """

    tensors: list[torch.Tensor]
    batch: Callable[[Level], Batch]
    beside: Any


def _leaves(batch: Batch) -> tuple[list[Any], TreeSpec]:
    return tree_flatten((batch.args, dict(batch.kwargs), batch.target, batch.raw))


def _data_of(batches: Sequence[Batch]) -> _Data:
    """Take the tensors out of batches, each once, and stack them; those of a batch that all members share, as they are.

    Raises:
        NotBatchableError: the batches do not have the same shapes.
    """
    leaves, spec = _leaves(batches[0])
    places: dict[int, int] = {}
    where = [places.setdefault(id(x), len(places)) if isinstance(x, torch.Tensor) else None for x in leaves]
    firsts = {slot: i for i, slot in reversed(list(enumerate(where))) if slot is not None}
    others = [x for x in leaves if not isinstance(x, torch.Tensor)]
    plain = all(isinstance(x, PLAIN) for x in others)
    beside = (spec, tuple(where), tuple((type(x), x) for x in others)) if plain else None
    if all(b is batches[0] for b in batches):
        return _Data([leaves[firsts[slot]] for slot in range(len(places))], lambda level: batches[0], beside)
    flat = [_leaves(b) for b in batches]
    if any(s != spec for _, s in flat):
        raise NotBatchableError("batches differ in structure")
    columns = [[found[firsts[slot]] for found, _ in flat] for slot in range(len(places))]
    if any(len({(t.shape, t.dtype) for t in column}) > 1 for column in columns):
        raise NotBatchableError("batches differ in shape")
    tensors = [torch.stack(column) for column in columns]

    def batch(level: Level) -> Batch:
        given = [level.mark(t) for t in tensors]
        filled = [leaf if slot is None else given[slot] for leaf, slot in zip(leaves, where, strict=True)]
        return Batch(*tree_unflatten(filled, spec))

    return _Data(tensors, batch, beside)


class Stack:
    """A chunk of members as one live training."""

    def __init__(
        self,
        task: TrainingTask,
        batching: Batching,
        states: Sequence[MemberState],
        tensors: Sequence[Mapping[str, torch.Tensor]],
        *,
        replay: bool = True,
    ) -> None:
        self.model = task.member()
        self.task, self.states = task.of(self.model), states
        task = self.task
        self.seeds = [s.key.seed for s in states]
        self.begin = states[0].steps
        if any(s.steps != self.begin for s in states):
            raise NotBatchableError("members are at different steps")
        if task.random and len(set(self.seeds)) > 1:
            raise NotBatchableError("members of different seeds draw different random numbers")
        self._slots = _Slots(self.model)
        self.weights = StackedWeights(task, self.model, batching.active, states, tensors)
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        self.carried = {n: torch.stack([t[n] for t in tensors]) for n, _ in named if n not in batching.active}
        self._carried = Carried(task, self.model)
        begun = states[0].checkpoint
        if isinstance(begun, Checkpoint) and begun.carried:
            self._carried.restore(begun.carried)
        self._replays = replay
        self._replayer: Replayer | None = None
        self._seen: dict[int, tuple[Batch, _Data]] = {}
        self._begun = False
        self.starved: list[int] = []

    def checkpoint(self, member: int) -> Checkpoint:
        """One member's part, as the loop would have left it."""
        stacked = (*self.weights.tensors.items(), *self.carried.items())
        tensors = {n: t.detach()[member].clone(memory_format=torch.contiguous_format) for n, t in stacked}
        optimizer, schedule = self.weights.optimizer_state(member), self.weights.schedule_state(member)
        return Checkpoint(tensors, optimizer, schedule, self._packed())

    def _packed(self) -> bytes:
        """What counts on with the steps, the same for all members."""
        if not self.task.counts:
            return b""
        try:
            return self._carried.packed(together=True)
        except NotCarriedError as error:
            raise NotBatchableError(f"what a run holds cannot be written down: {error}") from error

    def require_apart(self) -> None:
        """Make sure that members have not trained what they share.

        Raises:
            NotBatchableError: they have: a network in the loss, say.
        """
        if where := self._carried.trained():
            raise NotBatchableError(f"a step writes to {where}")

    # -- training -----------------------------------------------------------------------------------------------------

    def _data(self, batches: Sequence[Batch]) -> _Data:
        if any(b is not batches[0] for b in batches):
            return _data_of(batches)
        if id(batches[0]) not in self._seen:
            if len(self._seen) == SEEN_BATCHES:
                self._seen.clear()
            self._seen[id(batches[0])] = batches[0], _data_of(batches[:1])  # held, so that the number stays its own
        return self._seen[id(batches[0])][1]

    def _losses(self, data: _Data, members: list[int] | None = None) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Loss of every member, or of those given, and what the model has put in the place of its buffers."""
        stacks: dict[str, torch.Tensor] = {**self.weights.tensors, **self.carried}
        if members is not None:
            stacks = {n: t[members] for n, t in stacks.items()}
        count = len(self.states) if members is None else len(members)
        with members_together(count) as level, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            marked = {n: level.mark(t) for n, t in stacks.items()}
            with self._slots.filled(marked):
                losses = level.unmark(self.task.compute_loss(self.model, data.batch(level)))
                replaced = self._slots.replaced(marked)
                for name in replaced:
                    if name in self.weights.tensors:
                        raise NotBatchableError(f"the model replaces its parameter {name}")
                return losses, {n: level.unmark(t).detach() for n, t in replaced.items()}

    def _carry(self, replaced: Mapping[str, torch.Tensor]) -> None:
        """Write new buffers over the old ones: replays know these by their place in memory."""
        for name, tensor in replaced.items():
            old = self.carried[name]
            if old.shape == tensor.shape and old.dtype == tensor.dtype:
                old.copy_(tensor)
            else:
                self.carried[name], self._replays = tensor, False

    def step(self, index: int) -> torch.Tensor:
        """One optimizer step of every member; their losses before it.

        Raises:
            StaleReplayError: see :class:`initadvisor.training.engine.replay.Replayer`.
        """

        def begin() -> None:
            seed_all(derive_step(self.seeds[0], index))

        begin()
        batch_of = {seed: self.task.batch_at(seed, index) for seed in dict.fromkeys(self.seeds)}
        data = self._data([batch_of[seed] for seed in self.seeds])
        if self._replays and self._begun and data.beside is not None:
            losses, *gradients = self._replay().step(lambda: self._results(data), data.tensors, data.beside, begin)
        else:
            losses, *gradients = self._results(data)
        self.weights.step(gradients)
        return losses

    def _replay(self) -> Replayer:
        if self._replayer is None:
            buffers = {n for n, _ in self.model.named_buffers()}
            frozen = [t for n, t in self.carried.items() if n not in buffers]
            changing = [t for n, t in self.carried.items() if n in buffers]
            self._replayer = Replayer(self.model, [*self.weights.tensors.values(), *frozen], changing)
        return self._replayer

    def _results(self, data: _Data) -> list[torch.Tensor]:
        """Losses of the members, and the gradients of their weights as the optimizer takes them."""
        losses, replaced = self._losses(data)
        leaves = self.weights.tensors
        # Members do not mix, so the gradient of the sum is the gradient of each; taken outside of vmap, it keeps the
        # memory layouts of ordinary batched products, a quarter faster than vmap(grad) on a deep MLP.
        gradients = dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))
        self._carry(replaced)  # the backward pass has read the old ones
        if self.task.clip_norm is not None:
            gradients = self._clip(gradients)
        if not self._begun:
            self._begun = True
            if self.begin == 0:
                self.starved = self._without_gradient(gradients)
            self.weights.lie_like(gradients)
        return [losses.detach(), *self.weights.gathered(gradients)]

    def _without_gradient(self, gradients: Mapping[str, torch.Tensor]) -> list[int]:
        """Members none of whose weights gets any gradient: nothing of theirs will ever move."""
        count = len(self.states)
        any_at_all = torch.zeros(count, dtype=torch.bool, device=self.task.device)
        for g in gradients.values():
            any_at_all |= (g.reshape(count, -1) != 0).any(dim=1)
        return (~any_at_all).nonzero().flatten().tolist()

    def _clip(self, gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert self.task.clip_norm is not None
        count = len(self.states)
        norms: torch.Tensor = torch.stack([g.reshape(count, -1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
        factors = (self.task.clip_norm / (norms + CLIP_EPSILON)).clamp(max=1.0)
        # Not in place: a gradient may be expanded from a single number.
        return {n: g * factors.view(-1, *[1] * (g.ndim - 1)) for n, g in gradients.items()}

    def evaluate(self) -> torch.Tensor:
        """Held-out losses of all members, as the loop computes them."""
        with unchanged_by_scoring(self.task, self.model):
            return self._evaluate()

    def _evaluate(self) -> torch.Tensor:
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
            losses, replaced = self._losses(self._data([batch]), part)
            if part is None:
                self._carry(replaced)
            total += losses.double() * size
            weight += size
        return total / weight
