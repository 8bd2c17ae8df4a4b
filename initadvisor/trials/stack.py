"""A chunk of members as one live training: weights stacked, one vectorised pass, the user's optimizer on the stack.

Learning rates differ per member. The user's elementwise optimizer steps the whole stack at the largest rate, then each
member's displacement is scaled by its own share of it: exact wherever the step is proportional to the rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from initadvisor.data import Batch
from initadvisor.trials.member import Checkpoint, MemberState
from initadvisor.trials.streams import derive_step, seed_all
from initadvisor.trials.task import TrainingTask

CLIP_EPSILON = 1e-6
"""What ``clip_grad_norm_`` adds to a norm before it divides."""


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


@contextmanager
def _vectorised() -> Iterator[None]:
    """Attention as plain products: its fused kernel has no batching rule on a CPU and would run member by member."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        yield


class _Scored(nn.Module):
    """The loss as the output of a module, so that its weights can be swapped in."""

    def __init__(self, task: TrainingTask, model: nn.Module) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, batch: Batch) -> torch.Tensor:
        return self._task.compute_loss(self.model, batch)


@dataclass(frozen=True)
class _Data:
    """Batches of all members of a chunk at one step: one shared, or one each, stacked."""

    tensors: list[torch.Tensor]
    rebuild: Callable[[Sequence[torch.Tensor]], Batch]
    shared: bool


def _leaves(batch: Batch) -> tuple[list[Any], TreeSpec]:
    return tree_flatten((batch.args, dict(batch.kwargs), batch.target, batch.raw))


def _data_of(batches: Sequence[Batch]) -> _Data:
    """Take the tensors out of batches, each once; those of different batches are stacked.

    Raises:
        NotBatchableError: the batches do not have the same shapes.
    """
    leaves, spec = _leaves(batches[0])
    shared = all(b is batches[0] for b in batches)
    places: dict[int, int] = {}
    where = [places.setdefault(id(x), len(places)) if isinstance(x, torch.Tensor) else None for x in leaves]
    firsts = {slot: i for i, slot in reversed(list(enumerate(where))) if slot is not None}
    tensors = [leaves[firsts[slot]] for slot in range(len(places))]
    if not shared:
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

    return _Data(tensors, rebuild, shared)


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
        model = task.member()
        self.scored = _Scored(task, model)
        self.active = {n: nn.Parameter(torch.stack([t[n] for t in tensors])) for n in batching.active}
        names = [n for n, _ in (*model.named_parameters(), *model.named_buffers()) if n not in self.active]
        self.carried = {f"model.{n}": torch.stack([t[n] for t in tensors]) for n in names}
        self.rates = {lr: _Rates(task, model, lr, self.begin) for lr in dict.fromkeys(s.key.lr for s in states)}
        self.groups = self._groups(model)
        self.optimizer = self._build()
        self._load_optimizer()

    def _groups(self, model: nn.Module) -> list[list[str]]:
        names = {id(p): n for n, p in model.named_parameters()}
        first = next(iter(self.rates.values())).optimizer
        return [[names[id(p)] for p in g["params"]] for g in first.param_groups]

    def _build(self) -> Optimizer:
        first = next(iter(self.rates.values())).optimizer
        groups = []
        for group, names in zip(first.param_groups, self.groups, strict=True):
            options = {k: v for k, v in group.items() if k not in ("params", "initial_lr", "param_names", "fused")}
            groups.append({**options, "params": [self.active[n] for n in names if n in self.active], "foreach": None})
        return self.task.optimizer.kind(groups, lr=1.0)  # type: ignore[call-arg]

    # -- state of the optimizer: by member in checkpoints, stacked here ---------------------------------------------

    def _indexed(self) -> Iterator[tuple[int, str]]:
        """Index of each active parameter in the state dict of a looped optimizer."""
        flat = [n for names in self.groups for n in names]
        return ((i, n) for i, n in enumerate(flat) if n in self.active)

    def _load_optimizer(self) -> None:
        loaded = [s.checkpoint.optimizer["state"] for s in self.states if isinstance(s.checkpoint, Checkpoint)]
        if not loaded:
            return
        for index, name in self._indexed():
            entries = [state.get(index, {}) for state in loaded]
            slot = self.optimizer.state[self.active[name]]
            for key, value in entries[0].items():
                per_member = (
                    isinstance(value, torch.Tensor) and value.ndim and value.shape == self.active[name].shape[1:]
                )
                if per_member:
                    slot[key] = torch.stack([entry[key] for entry in entries])
                else:
                    slot[key] = value.clone() if isinstance(value, torch.Tensor) else value

    def checkpoint(self, member: int) -> Checkpoint:
        """One member's part, as the loop would have left it."""
        rates = self.rates[self.states[member].key.lr]
        optimizer = rates.optimizer.state_dict()
        optimizer["state"] = {}
        for index, name in self._indexed():
            p = self.active[name]
            optimizer["state"][index] = {
                key: value[member].clone()
                if isinstance(value, torch.Tensor) and value.ndim and value.shape == p.shape
                else (value.clone() if isinstance(value, torch.Tensor) else value)
                for key, value in self.optimizer.state[p].items()
            }
        tensors = {n: p.detach()[member].clone() for n, p in self.active.items()}
        tensors.update((n.removeprefix("model."), t[member].clone()) for n, t in self.carried.items())
        scheduler = None if rates.scheduler is None else rates.scheduler.state_dict()
        return Checkpoint(tensors, optimizer, scheduler)

    # -- training -----------------------------------------------------------------------------------------------------

    def _loss(self, data: _Data) -> Callable[..., torch.Tensor]:
        def loss(active: dict[str, torch.Tensor], carried: dict[str, torch.Tensor], tensors: Any) -> torch.Tensor:
            value: torch.Tensor = functional_call(self.scored, {**active, **carried}, (data.rebuild(tensors),))
            return value

        return loss

    def _weights(self) -> dict[str, torch.Tensor]:
        return {f"model.{n}": p.detach() for n, p in self.active.items()}

    def step(self, index: int) -> torch.Tensor:
        """One optimizer step of every member; their losses before it."""
        seed_all(derive_step(self.seeds[0], index))
        data = _data_of([self.task.batch_at(seed, index) for seed in self.seeds])
        run = vmap(self._loss(data), in_dims=(0, 0, None if data.shared else 0), randomness="same")
        weights = {f"model.{n}": p for n, p in self.active.items()}
        with _vectorised():
            losses = run(weights, self.carried, data.tensors)
        # Members do not mix, so the gradient of the sum is the gradient of each; taken outside of vmap, it keeps the
        # memory layouts of ordinary batched products, a quarter faster than vmap(grad) on a deep MLP.
        gradients = list(torch.autograd.grad(losses.sum(), list(self.active.values())))
        if self.task.clip_norm is not None:
            self._clip(gradients)
        for p, g in zip(self.active.values(), gradients, strict=True):
            p.grad = g
        self._move()
        for rates in self.rates.values():
            rates.step()
        return losses.detach()

    def _clip(self, gradients: list[torch.Tensor]) -> None:
        assert self.task.clip_norm is not None
        norms: torch.Tensor = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (self.task.clip_norm / (norms + CLIP_EPSILON)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.view(-1, *[1] * (g.ndim - 1)))

    def _move(self) -> None:
        """Step at the largest rate of each group, then take back what is too much for each member."""
        per_member = [self.rates[s.key.lr].now for s in self.states]
        shares: list[torch.Tensor | None] = []
        for index, group in enumerate(self.optimizer.param_groups):
            own = torch.tensor([rates[index] for rates in per_member], dtype=torch.float32, device=self.task.device)
            largest = float(own.max())
            group["lr"] = largest
            shares.append(None if largest == 0 or bool((own == largest).all()) else own / largest)
        before = [
            None if share is None else [p.detach().clone() for p in group["params"]]
            for group, share in zip(self.optimizer.param_groups, shares, strict=True)
        ]
        self.optimizer.step()
        with torch.no_grad():
            for group, share, olds in zip(self.optimizer.param_groups, shares, before, strict=True):
                if share is None or olds is None:
                    continue
                for p, old in zip(group["params"], olds, strict=True):
                    torch.lerp(old, p, share.to(p.dtype).view(-1, *[1] * (p.ndim - 1)), out=p)

    def evaluate(self) -> torch.Tensor:
        """Held-out losses of all members, as the loop computes them."""
        flags = [(m, m.training) for m in self.scored.modules()]
        self.scored.eval()
        scores = torch.empty(len(self.states), dtype=torch.float64, device=self.task.device)
        # Confirming members of different seeds are scored on different rows.
        together: dict[int | None, list[int]] = {}
        for member, seed in enumerate(self.seeds):
            together.setdefault(self.task.fold_of.get(seed), []).append(member)
        try:
            with torch.no_grad(), _vectorised():
                for members in together.values():
                    scores[members] = self._score(members)
        finally:
            for module, flag in flags:
                module.training = flag
        return scores

    def _score(self, members: list[int]) -> torch.Tensor:
        """Held-out losses of members that are scored on the same rows."""
        weights, carried = self._weights(), self.carried
        if len(members) < len(self.states):
            weights = {n: p[members] for n, p in weights.items()}
            carried = {n: t[members] for n, t in carried.items()}
        total, weight = torch.zeros(len(members), dtype=torch.float64, device=self.task.device), 0.0
        for index, batch in enumerate(self.task.split_of(self.seeds[members[0]]).heldout):
            seed_all(derive_step(self.task.seed, index))
            data = _data_of([batch])
            run = vmap(self._loss(data), in_dims=(0, 0, None), randomness="same")
            size = batch.size or 1
            total += run(weights, carried, data.tensors).double() * size
            weight += size
        return total / weight
