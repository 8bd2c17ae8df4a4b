"""The weights of all members of a stack, and the user's optimizer over them.

Learning rates differ per member. The user's optimizer treats every element by itself, so it steps stacks as it steps
single tensors; it gets the stacked weights in slices, one for each run of neighbouring members of one rate.

An optimizer's time over small tensors is what each of them costs beside its elements. So the small ones of a parameter
group lie in one block of memory, a row for each member; the model sees views of it, the optimizer the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from initadvisor.training.engine.member import Checkpoint, MemberKey, MemberState
from initadvisor.training.task import TrainingTask

FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
"""Optimizers of torch that step many tensors on a processor in one call; they agree with the others to rounding."""

COUNTERS = ("step", "mu_product")
"""Entries of optimizers' states that are the same number for all members, whatever the shape of the parameter."""

LEFT_OUT = ("params", "lr", "initial_lr", "param_names", "fused")
"""Entries of a parameter group that are no settings of the user's to carry over to the stack."""

SHARED_AXES = 2
"""Axes of a parameter, at most, that shares a block. Products of matrices take any stride between members; kernels of
convolutions are reshaped over them, which would copy those of a block at every step."""

SHARED_ELEMENTS = 1 << 14
"""Elements of a parameter, at most, that shares a block: gathering its gradient costs a copy, which a large one's own
call to the optimizer does not outweigh."""


class NotBatchableError(Exception):
    """This training cannot be vectorised over members; the message says why. Caught where an engine is chosen."""


class Rates:
    """Rates of every group at every step for one base rate, as the user's scheduler sets them."""

    def __init__(self, task: TrainingTask, model: nn.Module, key: MemberKey, begin: int) -> None:
        self._task, self._key, self._at = task, key, 0
        lr = key.lr
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
        """Of every group of the user's, at this step."""
        held = self._task.held_rates(self._key.phase, self._at, self._key.lr)
        return [float(g["lr"]) for g in self.optimizer.param_groups] if held is None else list(held)

    def step(self) -> None:
        """Go on to the next step."""
        self._at += 1
        if self.scheduler is None:
            return
        self.optimizer.step()  # no gradient: nothing moves, but the scheduler wants to have seen it
        self.scheduler.step()
        if self._options() != self._fixed:
            raise NotBatchableError("the scheduler changes more than the rate")


@dataclass(frozen=True)
class _Place:
    """Where a parameter lies in the rows of its block.

    Attributes:
        begin: its first element in a row.
        end: the one behind its last.
        axes: of the stacked parameter, members first, in the order of memory: from the longest stride to the shortest.
    """

    begin: int
    end: int
    axes: tuple[int, ...]

    def flat(self, stacked: torch.Tensor) -> torch.Tensor:
        """Shape (members, elements) of the stacked parameter or its gradient, elements as they lie in the block."""
        return stacked.permute(self.axes).flatten(1) if stacked.ndim > 1 else stacked.unsqueeze(1)

    def view(self, rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The parameter of ``shape`` (of one member) in ``rows`` of the block, for as many members as there are."""
        stacked = (len(rows), *shape)
        inner = rows[:, self.begin : self.end].view(len(rows), *(stacked[axis] for axis in self.axes[1:]))
        return inner.permute([self.axes.index(axis) for axis in range(len(stacked))])


@dataclass(frozen=True)
class _Block:
    """Parameters that are stepped as one: ``rows`` has one for each member, ``parts`` are those of one rate each."""

    group: int
    places: dict[str, _Place]
    rows: torch.Tensor
    parts: list[torch.Tensor]


@dataclass(frozen=True)
class _Run:
    """Neighbouring members of one rate."""

    lr: float
    members: slice


class StackedWeights:
    """The weights that are trained, stacked over members, and the user's optimizer over them.

    Attributes:
        tensors: leaf tensors of shape (members, …) by name, to be put into the model.
        rates: of every base rate.
    """

    def __init__(
        self,
        task: TrainingTask,
        model: nn.Module,
        active: Sequence[str],
        states: Sequence[MemberState],
        tensors: Sequence[Mapping[str, torch.Tensor]],
    ) -> None:
        self._task, self._states = task, states
        self.rates = {
            s.key.lr: Rates(task, model, s.key, states[0].steps) for s in {s.key.lr: s for s in states}.values()
        }  # fmt: skip
        self._runs = _runs([s.key.lr for s in states])
        self._lengths = [run.members.stop - run.members.start for run in self._runs]
        names = {id(p): n for n, p in model.named_parameters()}
        groups = next(iter(self.rates.values())).optimizer.param_groups
        self._options = [{k: v for k, v in group.items() if k not in LEFT_OUT} for group in groups]
        flat = [names[id(p)] for group in groups for p in group["params"]]
        self._indexed = [(i, n) for i, n in enumerate(flat) if n in active]
        self._group_of = {names[id(p)]: i for i, group in enumerate(groups) for p in group["params"]}
        stacks = {n: torch.stack([t[n] for t in tensors]) for n in active}
        self._shapes = {n: t.shape[1:] for n, t in stacks.items()}
        self._arm(stacks)

    def _arm(self, stacks: Mapping[str, torch.Tensor]) -> None:
        """Lay weights into blocks, in the order of axes they come in, with what members bring of the optimizer."""
        self._blocks = list(self._laid(stacks))
        self._home = {name: block for block in self._blocks for name in block.places}
        self.tensors = {
            name: nn.Parameter(self._home[name].places[name].view(self._home[name].rows, shape))
            for name, shape in self._shapes.items()
        }
        self._optimizer = self._build()
        self._load_optimizer()

    def _laid(self, stacks: Mapping[str, torch.Tensor]) -> Iterator[_Block]:
        together: dict[Any, list[str]] = {}
        for name, stacked in stacks.items():
            shared = stacked.ndim - 1 <= SHARED_AXES and stacked[0].numel() <= SHARED_ELEMENTS
            group = self._group_of[name]
            together.setdefault((group, stacked.dtype) if shared else (group, name), []).append(name)
        for (group, _), names in together.items():
            places, begin = {}, 0
            for name in names:
                end = begin + stacks[name][0].numel()
                places[name] = _Place(begin, end, _in_memory_order(stacks[name]))
                begin = end
            rows = torch.cat([place.flat(stacks[name]) for name, place in places.items()], 1)
            yield _Block(group, places, rows, [rows[run.members] for run in self._runs])

    def lie_like(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Order weights in memory as their gradients come (those of linear maps, transposed).

        Gradients are then gathered row by row, and not element by element; fused optimizers walk through memory, and
        take for granted that weights, gradients and moments lie alike.
        """
        orders = {n: _in_memory_order(g) for n, g in gradients.items() if _is_dense(g)}
        changed = [n for n, axes in orders.items() if axes != self._home[n].places[n].axes]
        if changed:
            stacks = {n: t.detach() for n, t in self.tensors.items()}
            for n in changed:
                stacks[n] = torch.empty_like(gradients[n]).copy_(stacks[n])
            self._arm(stacks)

    def _build(self) -> Optimizer:
        """One optimizer over all members: its groups are the user's, once for each run of members of one rate."""
        self._owners: list[tuple[int, float]] = []
        groups = []
        for index, options in enumerate(self._options):
            owned = [block for block in self._blocks if block.group == index]
            for place, run in enumerate(self._runs):
                if owned:
                    groups.append(
                        {**options, **self._kernel(options), "params": [block.parts[place] for block in owned]}
                    )
                    self._owners.append((index, run.lr))
        return self._task.optimizer.kind(groups, lr=1.0)  # type: ignore[call-arg]

    def _kernel(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that step many tensors in one call, which for small ones is most of the time."""
        if options.get("differentiable") or self._task.device.type != "cpu":
            return {"foreach": None} if "foreach" in options else {}
        real = all(block.rows.dtype in (torch.float32, torch.float64) for block in self._blocks)
        if self._task.optimizer.kind.__name__ in FUSED and real:
            return {"fused": True, "foreach": False}
        return {"foreach": True} if "foreach" in options else {}

    def gathered(self, gradients: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The gradient of every block, of shape (members, elements), from those of its parameters."""
        rows = []
        for block in self._blocks:
            parts = [place.flat(gradients[name]) for name, place in block.places.items()]
            rows.append(parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, 1))
        return rows

    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """One step of the optimizer and of the schedule, by gradients as :meth:`gathered` gives them."""
        for block, gradient in zip(self._blocks, gradients, strict=True):
            for part, rows in zip(block.parts, torch.split(gradient, self._lengths), strict=True):
                part.grad = rows
        for (owner, lr), group in zip(self._owners, self._optimizer.param_groups, strict=True):
            group["lr"] = self.rates[lr].now[owner]
        self._optimizer.step()
        for rates in self.rates.values():
            rates.step()

    # -- state of the optimizer: by member and parameter in checkpoints, by run of members and block here -------------

    def _load_optimizer(self) -> None:
        loaded = [s.checkpoint.optimizer["state"] for s in self._states if isinstance(s.checkpoint, Checkpoint)]
        if not loaded:
            return
        for index, name in self._indexed:
            block, shape = self._home[name], self._shapes[name]
            place = block.places[name]
            for run, part in zip(self._runs, block.parts, strict=True):
                entries = [state.get(index, {}) for state in loaded[run.members]]
                slot = self._optimizer.state[part]
                for key, value in entries[0].items():
                    if _is_elementwise(key, value, shape):
                        moments = slot.setdefault(key, torch.zeros_like(part, dtype=value.dtype))
                        place.view(moments, shape).copy_(torch.stack([entry[key] for entry in entries]))
                    else:
                        slot[key] = value.clone() if isinstance(value, torch.Tensor) else value

    def optimizer_state(self, member: int) -> dict[str, Any]:
        """What the optimizer of this member alone would save."""
        state = self.rates[self._states[member].key.lr].optimizer.state_dict()
        run = next(i for i, r in enumerate(self._runs) if member < r.members.stop)
        row = member - self._runs[run].members.start
        state["state"] = {
            index: {
                key: self._home[name]
                .places[name]
                .view(value, self._shapes[name])[row]
                .clone(memory_format=torch.contiguous_format)
                if _is_elementwise(key, value, self._home[name].parts[run].shape)
                else (value.clone() if isinstance(value, torch.Tensor) else value)
                for key, value in self._optimizer.state[self._home[name].parts[run]].items()
            }
            for index, name in self._indexed
        }
        return state

    def schedule_state(self, member: int) -> dict[str, Any] | None:
        """What the scheduler of this member alone would save; None without one."""
        scheduler = self.rates[self._states[member].key.lr].scheduler
        return None if scheduler is None else scheduler.state_dict()


def _in_memory_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """Axes of a stacked tensor from the longest stride to the shortest; members come first."""
    return (0, *sorted(range(1, tensor.ndim), key=lambda axis: tensor.stride()[axis], reverse=True))


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether elements fill memory without gaps or overlap, in whatever order of axes."""
    return torch.empty_like(tensor).stride() == tensor.stride()


def _is_elementwise(key: str, value: Any, shape: torch.Size) -> bool:
    """Whether an entry of an optimizer's state holds a number for every element of a parameter of that shape."""
    return isinstance(value, torch.Tensor) and key not in COUNTERS and value.shape == shape


def _runs(rates: Sequence[float]) -> list[_Run]:
    found: list[_Run] = []
    for place, lr in enumerate(rates):
        if found and found[-1].lr == lr:
            found[-1] = _Run(lr, slice(found[-1].members.start, place + 1))
        else:
            found.append(_Run(lr, slice(place, place + 1)))
    return found
