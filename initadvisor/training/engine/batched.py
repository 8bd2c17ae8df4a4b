"""Many members at once, where the user's training allows it; what it does not allow is refused here and looped."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from initadvisor.errors import COMPUTING, LOGGER, worked_around
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.scheme import Scheme
from initadvisor.streams import seed_all
from initadvisor.training.data import Batch, tensors_in
from initadvisor.training.engine.loop import NOTHING_MOVES, Draw, Training, make_draw, step_clock, train_members
from initadvisor.training.engine.member import Checkpoint, MemberState
from initadvisor.training.engine.metrics import measure_flow
from initadvisor.training.engine.replay import StaleReplayError
from initadvisor.training.engine.result import Status
from initadvisor.training.engine.stack import Batching, Stack
from initadvisor.training.engine.weights import NotBatchableError
from initadvisor.training.losses import quoted
from initadvisor.training.task import TrainingTask
from initadvisor.types import CURRENT

ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
"""Classes of ``torch.optim`` that treat every element by itself."""

WEIGHT_COPIES = 6
"""Copies of the weights at the height of a step: weights, gradients, two moments, the old weights, one of transit."""

LOOKED_EVERY = 16
"""Steps after which is looked whether a member is still alive: looking waits for what is being computed."""

REPLAYED_FROM = 20
"""Steps ahead from which a stack's step is recorded: that, and recording it again, takes about six steps' time, a
replay saves a third to a half of one."""

NOT_BATCHED = (*COMPUTING, MemoryError, NotBatchableError, AttributeError)
"""What is raised where members cannot train side by side; the last by a torch whose private names have changed."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
"""Parts of the messages in which torch says so, on processors and accelerators."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("shape"))
        (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in OUT_OF_MEMORY)


def batching_of(task: TrainingTask) -> Batching:
    """Find out whether members of a training can be vectorised, by one looped step.

    Raises:
        NotBatchableError: with the reason.
    """
    kind = task.optimizer.kind
    if kind.__name__ not in ELEMENTWISE or not kind.__module__.startswith("torch.optim"):
        raise NotBatchableError(f"{kind.__name__} does not step each element by itself")
    if task.autocast is not None:
        raise NotBatchableError("autocast")
    if task.trains:
        raise NotBatchableError(f"a step writes to {task.trains}")
    model = task.member()
    task = task.of(model)
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
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    active = tuple(n for n, p in model.named_parameters() if p.grad is not None and id(p) in owned)
    if any(p.grad is not None and p.grad.is_sparse for p in model.parameters()):
        raise NotBatchableError("sparse gradients")
    in_folds = [b for fold in task.folds for b in fold.train]
    uniform = len(_shapes(task.choosing.train)) == 1 and len(_shapes(in_folds)) <= 1
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Batching(active, not task.random and uniform, WEIGHT_COPIES * weights + 2 * kept)


def _shapes(batches: Iterable[Batch]) -> set[Any]:
    return {tuple((t.shape, t.dtype) for t in tensors_in((b.inputs, b.target))) for b in batches}


def train_batched(
    task: TrainingTask,
    schemes: Mapping[str, Scheme],
    states: Sequence[MemberState],
    until: int,
    evals: Sequence[int],
    spec: ModelSpec | None,
    batching: Batching,
) -> list[MemberState]:
    """As :func:`initadvisor.training.engine.loop.train_members`, all members at once.

    An out-of-memory halves the chunk; a chunk that turns out not to be batchable is looped.
    """
    if len(states) < 2:
        return train_members(task, schemes, states, until, evals, spec)
    too_large = False
    for replay in (True, False):
        try:
            return _train_stack(task, schemes, states, until, evals, spec, batching, replay=replay)
        except StaleReplayError:
            continue
        except Exception as error:  # noqa: BLE001 - whatever vmap or the user's code raises, the loop is the judge of it
            too_large = is_out_of_memory(error)
            worked_around("training members side by side", error, NOT_BATCHED)
            break
    # Out of the handler: an exception under treatment keeps the frames of the failed stack, and all it had allocated.
    if not too_large:
        return train_members(task, schemes, states, until, evals, spec)
    middle = len(states) // 2
    parts = (states[:middle], states[middle:])
    return [s for part in parts for s in train_batched(task, schemes, part, until, evals, spec, batching)]


def _train_stack(
    task: TrainingTask,
    schemes: Mapping[str, Scheme],
    states: Sequence[MemberState],
    until: int,
    evals: Sequence[int],
    spec: ModelSpec | None,
    batching: Batching,
    *,
    replay: bool = True,
) -> list[MemberState]:
    began = time.perf_counter()
    draws, broken = _draws(task, schemes, [s for s in states if s.checkpoint is None], spec)
    going = [s for s in states if s.checkpoint is not None or (s.key.scheme, s.key.seed) in draws]
    going.sort(key=lambda s: s.key.lr)  # the optimizer steps neighbours of one rate together
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
            begun.append(replace(s, heldout=((0, draw.heldout),) if draw.scheme == CURRENT else (), flow=draw.flow))
    stack = Stack(task, batching, begun, tensors, replay=replay and until - begun[0].steps >= REPLAYED_FROM)
    losses, scores, died = _run(stack, until, evals)
    stack.require_apart()
    starved = set(stack.starved)
    died |= dict.fromkeys(starved, 0)
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
            status=_status(i, died, starved),
            message=NOTHING_MOVES if i in starved else f"at step {steps + 1}" if i in died else "",
            seconds=s.seconds + seconds,
            checkpoint=None if i in died else stack.checkpoint(i),
        )
        done.append(_with_flow(task, after, until, spec))
    return [*done, *failed]


def _status(member: int, died: Mapping[int, int], starved: Container[int]) -> Status | None:
    if member in starved:
        return Status.NO_GRADIENT
    return Status.DIVERGED if member in died else None


def time_steps(stack: Stack, steps: int) -> tuple[float, list[tuple[float, ...]]]:
    """Seconds of the fastest of so many steps, after one that warms up, and the losses of all.

    The first of them records; from two on, the fastest is a replay where the step can be replayed.

    Raises:
        NotBatchableError: or whatever the vectorised pass raises.
    """
    losses = [tuple(stack.step(0).tolist())]
    best, clock = float("inf"), step_clock(stack.task.device)
    for index in range(steps):
        began = clock()
        losses.append(tuple(stack.step(index + 1).tolist()))
        best = min(best, clock() - began)
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
            draws[name, seed] = make_draw(task, schemes[name], seed, spec, score=name == CURRENT)
        except Exception as error:  # noqa: BLE001 - a scheme that does not fit is that member's result
            LOGGER.info("drawing %s failed", name, exc_info=error)
            broken[name, seed] = quoted(error)
    return draws, broken


def _run(
    stack: Stack, until: int, evals: Sequence[int]
) -> tuple[torch.Tensor, list[tuple[int, torch.Tensor]], dict[int, int]]:
    """Losses of shape (steps, members), scores by step, and after how many steps which member diverged."""
    rows: list[torch.Tensor] = []
    scores: list[tuple[int, torch.Tensor]] = []
    for index in range(stack.begin, until):
        rows.append(stack.step(index))
        if len(rows) % LOOKED_EVERY == 0 and not torch.isfinite(rows[-1]).any():
            break
        if index + 1 in evals:
            scores.append((index + 1, stack.evaluate().cpu()))
    table = torch.stack(rows).cpu() if rows else torch.empty(0, len(stack.states))
    broken = ~torch.isfinite(table)
    died = {m: int(broken[:, m].nonzero()[0]) for m in broken.any(0).nonzero().flatten().tolist()}
    return table, scores, died


def _with_flow(task: TrainingTask, state: MemberState, until: int, spec: ModelSpec | None) -> MemberState:
    """Measure the end of a member on a revived copy."""
    if spec is None or not isinstance(state.checkpoint, Checkpoint):
        return state
    model = task.member()
    training = Training(task, model, replace(state, checkpoint=state.checkpoint.copy()))
    return replace(state, flow_after=measure_flow(task, model, spec, state.key.seed, until, training.optimizer))
