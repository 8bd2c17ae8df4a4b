"""Many members as one program: weights stacked, one vectorised pass, the user's optimizer on the stack.

Learning rates differ per member. The user's elementwise optimizer steps the whole stack at the largest rate, then each
member's displacement is scaled by its own share of it: exact wherever the step is proportional to the rate. What this
does not hold for, or what ``torch.func.vmap`` has no rule for, is refused here and looped instead.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from initadvisor.data import Batch, tensors_in
from initadvisor.graph.spec import ModelSpec
from initadvisor.losses import first_line
from initadvisor.schemes.scheme import Scheme
from initadvisor.trials.loop import Draw, Training, make_draw, train_members
from initadvisor.trials.member import Checkpoint, MemberState
from initadvisor.trials.metrics import measure_flow
from initadvisor.trials.result import Status
from initadvisor.trials.streams import derive_step, seed_all
from initadvisor.trials.task import TrainingTask

PROPORTIONAL = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
"""Classes of ``torch.optim`` that treat every element by itself and step in proportion to the rate."""

CLIP_EPSILON = 1e-6
"""What ``clip_grad_norm_`` adds to a norm before it divides."""

WEIGHT_COPIES = 6
"""Copies of the weights at the height of a step: weights, gradients, two moments, the old weights, one of transit."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
"""Parts of the messages in which torch says so, on processors and accelerators."""


class NotBatchableError(Exception):
    """This training cannot be vectorised over members; the message says why. Caught where an engine is chosen."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("shape"))
        (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in OUT_OF_MEMORY)


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


def batching_of(task: TrainingTask) -> Batching:
    """Find out whether members of a training can be vectorised, by one looped step.

    Raises:
        NotBatchableError: with the reason.
    """
    kind = task.optimizer.kind
    if kind.__name__ not in PROPORTIONAL or not kind.__module__.startswith("torch.optim"):
        raise NotBatchableError(f"{kind.__name__} does not step each element in proportion to the rate")
    if task.autocast is not None:
        raise NotBatchableError("autocast")
    model = task.member()
    before = {n: b.detach().clone() for n, b in model.named_buffers()}
    optimizer = task.optimizer.build(model, task.rates[0])
    if isinstance(task.build_scheduler(optimizer), ReduceLROnPlateau):
        raise NotBatchableError("the scheduler follows the loss")
    seed_all(0)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = task.compute_loss(model, task.sample)
    loss.backward()  # type: ignore[no-untyped-call]
    if any(not torch.equal(b, before[n]) for n, b in model.named_buffers() if n in before):
        raise NotBatchableError("buffers change in training (running statistics)")
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    active = tuple(n for n, p in model.named_parameters() if p.grad is not None and id(p) in owned)
    if any(p.grad is not None and p.grad.is_sparse for p in model.parameters()):
        raise NotBatchableError("sparse gradients")
    shapes = {tuple((t.shape, t.dtype) for t in tensors_in((b.args, dict(b.kwargs), b.target))) for b in task.train}
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Batching(active, not task.random and len(shapes) == 1, WEIGHT_COPIES * weights + 2 * kept)


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


class _Stack:
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
        total = torch.zeros(len(self.states), dtype=torch.float64, device=self.task.device)
        weight = 0.0
        try:
            with torch.no_grad(), _vectorised():
                for index, batch in enumerate(self.task.heldout):
                    seed_all(derive_step(self.task.seed, index))
                    data = _data_of([batch])
                    run = vmap(self._loss(data), in_dims=(0, 0, None), randomness="same")
                    size = batch.size or 1
                    total += run(self._weights(), self.carried, data.tensors).double() * size
                    weight += size
        finally:
            for module, flag in flags:
                module.training = flag
        return total / weight


def train_batched(
    task: TrainingTask,
    schemes: Mapping[str, Scheme],
    states: Sequence[MemberState],
    until: int,
    evals: Sequence[int],
    spec: ModelSpec | None,
    batching: Batching,
) -> list[MemberState]:
    """As :func:`initadvisor.trials.loop.train_members`, all members at once.

    An out-of-memory halves the chunk; a chunk that turns out not to be batchable is looped.
    """
    if len(states) < 2:
        return train_members(task, schemes, states, until, evals, spec)
    try:
        return _train_stack(task, schemes, states, until, evals, spec, batching)
    except Exception as error:  # noqa: BLE001 - whatever vmap or the user's code raises, the loop is the judge of it
        if is_out_of_memory(error):
            middle = len(states) // 2
            parts = (states[:middle], states[middle:])
            return [s for part in parts for s in train_batched(task, schemes, part, until, evals, spec, batching)]
        return train_members(task, schemes, states, until, evals, spec)


def _train_stack(
    task: TrainingTask,
    schemes: Mapping[str, Scheme],
    states: Sequence[MemberState],
    until: int,
    evals: Sequence[int],
    spec: ModelSpec | None,
    batching: Batching,
) -> list[MemberState]:
    began = time.perf_counter()
    draws, broken = _draws(task, schemes, [s for s in states if s.checkpoint is None], spec)
    going = [s for s in states if s.checkpoint is not None or (s.key.scheme, s.key.seed) in draws]
    failed = [
        replace(s, status=Status.FAILED, message=broken[s.key.scheme, s.key.seed]) for s in states if s not in going
    ]
    if not going:
        return failed
    tensors, begun = [], []
    for s in going:
        draw = draws.get((s.key.scheme, s.key.seed))
        if isinstance(s.checkpoint, Checkpoint):
            tensors.append(s.checkpoint.tensors)
            begun.append(s)
        else:
            assert draw is not None
            tensors.append(draw.tensors)
            begun.append(replace(s, heldout=((0, draw.heldout),), flow=draw.flow))
    stack = _Stack(task, batching, begun, tensors)
    losses, scores, died = _run(stack, until, evals)
    seconds = (time.perf_counter() - began) / len(states)
    done = []
    for i, s in enumerate(begun):
        count = died.get(i, until - stack.begin)
        steps = stack.begin + count
        after = replace(
            s,
            steps=steps,
            train=(*s.train, *(float(v) for v in losses[:count, i])),
            heldout=(*s.heldout, *((step, _finite(float(row[i]))) for step, row in scores if step <= steps)),
            status=Status.DIVERGED if i in died else None,
            message=f"at step {steps + 1}" if i in died else "",
            seconds=s.seconds + seconds,
            checkpoint=None if i in died else stack.checkpoint(i),
        )
        done.append(_with_flow(task, after, until, spec))
    return [*done, *failed]


def step_seconds(
    task: TrainingTask, batching: Batching, states: Sequence[MemberState], draws: Sequence[Draw], steps: int
) -> tuple[float, list[tuple[float, ...]]]:
    """Seconds of the fastest stacked step of ``states`` (after one that warms up), and the losses of every step.

    Raises:
        NotBatchableError: or whatever the vectorised pass raises.
    """
    stack = _Stack(task, batching, states, [d.tensors for d in draws])
    losses = [tuple(stack.step(0).tolist())]
    best = float("inf")
    for index in range(steps):
        began = time.perf_counter()
        losses.append(tuple(stack.step(index + 1).tolist()))
        best = min(best, time.perf_counter() - began)
    return best, losses


def _finite(value: float) -> float:
    return value if value == value else float("inf")


def _draws(
    task: TrainingTask, schemes: Mapping[str, Scheme], states: Sequence[MemberState], spec: ModelSpec | None
) -> tuple[dict[tuple[str, int], Draw], dict[tuple[str, int], str]]:
    draws: dict[tuple[str, int], Draw] = {}
    broken: dict[tuple[str, int], str] = {}
    for name, seed in dict.fromkeys((s.key.scheme, s.key.seed) for s in states):
        try:
            draws[name, seed] = make_draw(task, schemes[name], seed, spec)
        except Exception as error:  # noqa: BLE001 - a scheme that does not fit is that member's result
            broken[name, seed] = f"{type(error).__name__}: {first_line(error)}"
    return draws, broken


def _run(
    stack: _Stack, until: int, evals: Sequence[int]
) -> tuple[torch.Tensor, list[tuple[int, torch.Tensor]], dict[int, int]]:
    """Losses of shape (steps, members), scores by step, and after how many steps which member diverged."""
    rows: list[torch.Tensor] = []
    scores: list[tuple[int, torch.Tensor]] = []
    died: dict[int, int] = {}
    for index in range(stack.begin, until):
        losses = stack.step(index).cpu()
        for member in (~torch.isfinite(losses)).nonzero().flatten().tolist():
            died.setdefault(member, len(rows))
        rows.append(losses)
        if len(died) == len(stack.states):
            break
        if index + 1 in evals:
            scores.append((index + 1, stack.evaluate().cpu()))
    table = torch.stack(rows) if rows else torch.empty(0, len(stack.states))
    return table, scores, died


def _with_flow(task: TrainingTask, state: MemberState, until: int, spec: ModelSpec | None) -> MemberState:
    """Measure the end of a member on a revived copy."""
    if spec is None or not isinstance(state.checkpoint, Checkpoint):
        return state
    model = task.member()
    training = Training(task, model, replace(state, checkpoint=state.checkpoint.copy()))
    return replace(state, flow_after=measure_flow(task, model, spec, state.key.seed, until, training.optimizer))
