"""The user's training exactly as it is, one member after another: the engine every other one is held against."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from initadvisor.errors import LOGGER
from initadvisor.graph.spec import ModelSpec
from initadvisor.guard import preserve_process
from initadvisor.schemes.scheme import Scheme
from initadvisor.streams import derive, derive_step, seed_all
from initadvisor.training.engine.carried import Carried, NotCarriedError, unchanged_by_scoring
from initadvisor.training.engine.member import Checkpoint, MemberState, load_tensors
from initadvisor.training.engine.metrics import measure_flow
from initadvisor.training.engine.result import SignalFlow, Status
from initadvisor.training.losses import quoted
from initadvisor.training.task import TrainingTask
from initadvisor.types import CURRENT


class DivergedError(ArithmeticError):
    """A loss is infinite or not a number; caught where members are run, and recorded as their status."""


NOTHING_MOVES = "no weight gets any gradient"


class NoGradientError(ArithmeticError):
    """The first backward pass left every weight without gradient; recorded as the status of the run."""


@contextmanager
def trial_process(threads: int | None = 1) -> Iterator[None]:
    """Settings under which trials run, undone on the way out.

    Subnormals are flushed: schemes that let the signal vanish fill a processor with them, at ten times the cost.
    """
    with preserve_process():
        torch.set_flush_denormal(True)
        torch.set_grad_enabled(True)
        if threads is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        yield


def step_clock(device: torch.device) -> Callable[[], float]:
    """The clock by which steps are timed to be compared: this thread's, where all is computed in it.

    What other programs take from a step is not the step's, and on a busy machine it is most of what a wall clock shows.
    """
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


class Training:
    """One live training: model, optimizer and scheduler of one member."""

    def __init__(self, task: TrainingTask, model: nn.Module, state: MemberState) -> None:
        self.task, self.model, self.key, self.seed = task.of(model), model, state.key, state.key.seed
        task = self.task
        self.optimizer = task.optimizer.build(model, state.key.lr)
        self.scheduler = task.build_scheduler(self.optimizer)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._closure = task.optimizer.needs_closure
        self._carried = Carried(task, model) if task.carries else None
        if isinstance(state.checkpoint, Checkpoint):
            state.checkpoint.restore(model, self.optimizer, self.scheduler)
            if self._carried is not None and state.checkpoint.carried:
                self._carried.restore(state.checkpoint.carried)

    def step(self, index: int) -> float:
        """One optimizer step on the batch and the random stream of ``index``; the loss before it.

        Raises:
            DivergedError: that loss is not finite; nothing was stepped.
        """
        seed_all(derive_step(self.seed, index))
        batch = self.task.batch_at(self.seed, index)
        losses: list[float] = []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self.task.compute_loss(self.model, batch)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise DivergedError
            loss.backward()  # type: ignore[no-untyped-call]
            if self.task.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.task.clip_norm)
            return loss

        with self._rates(index):
            if self._closure:
                self.optimizer.step(closure)  # type: ignore[arg-type]
            else:
                closure()
                if index == 0 and not self._gets_gradient():
                    raise NoGradientError
                self.optimizer.step()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(losses[0])
        elif self.scheduler is not None:
            self.scheduler.step()
        return losses[0]

    def _gets_gradient(self) -> bool:
        """Whether any weight does: where none does, nothing will ever move."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return any(bool((g.coalesce().values() if g.is_sparse else g).any()) for g in grads)

    @contextmanager
    def _rates(self, index: int) -> Iterator[None]:
        """The rates of a step; what the scheduler has set is put back, since some schedulers go on from it."""
        held = self.task.held_rates(self.key.phase, index, self.key.lr)
        if held is None:
            yield
            return
        groups = self.optimizer.param_groups
        before = [g["lr"] for g in groups]
        for group, rate in zip(groups, held, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, rate in zip(groups, before, strict=True):
                group["lr"] = rate

    def checkpoint(self) -> Checkpoint | None:
        """Where another process, or the next rung, goes on; None where only this very training can, and no other."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            carried = b"" if self._carried is None else self._carried.packed()
        except NotCarriedError:
            return None
        return Checkpoint.of(self.model, self.optimizer, self.scheduler, carried)


def evaluate(task: TrainingTask, model: nn.Module, seed: int) -> float:
    """Held-out loss of a member of ``seed`` in evaluation mode, mean over batches by their size.

    Flags are put back, and so is what the loss counts on or trains beside the model: to score is not to train.
    """
    with unchanged_by_scoring(task, model):
        return _score(task, model, seed)


def _score(task: TrainingTask, model: nn.Module, seed: int) -> float:
    flags = [(m, m.training) for m in model.modules()]
    model.eval()
    total = weight = 0.0
    try:
        with nullcontext() if task.eval_needs_grad else torch.no_grad():
            for index, batch in enumerate(task.split_of(seed).heldout):
                # Models that draw while scoring (diffusion, variational) draw the same for all.
                seed_all(derive_step(task.seed, index))
                size = batch.size or 1
                total += float(task.compute_loss(model, batch).detach()) * size
                weight += size
    finally:
        for module, flag in flags:
            module.training = flag
    value = total / weight
    return value if math.isfinite(value) else math.inf


@dataclass(frozen=True)
class Draw:
    """Weights of one scheme from one seed, shared by its learning rates.

    Attributes:
        scheme: its name.
        seed: of the draw.
        tensors: parameters and buffers by name.
        heldout: loss of the untrained model.
        flow: signal and gradient flow, None where not asked for.
    """

    scheme: str
    seed: int
    tensors: Mapping[str, torch.Tensor]
    heldout: float
    flow: SignalFlow | None = None


def drawn_model(task: TrainingTask, scheme: Scheme, seed: int) -> nn.Module:
    """A copy of the model filled by ``scheme``; by ``current``, the weights exactly as they came."""
    model = task.member()
    if scheme.name != CURRENT:
        seed_all(derive(seed, "init"))
        scheme.apply(model, seed=seed, batch=task.split_of(seed).train[0], loss=task.loss_of(model))
    return model


def make_draw(task: TrainingTask, scheme: Scheme, seed: int, spec: ModelSpec | None, *, score: bool = True) -> Draw:
    """Fill a copy of the model and score it untrained, unless told not to; with a ``spec``, measure its flow."""
    model = drawn_model(task, scheme, seed)
    heldout = evaluate(task, model, seed) if score else math.nan
    tensors = {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    flow = None if spec is None else measure_flow(task, model, spec, seed, 0)
    return Draw(scheme.name, seed, tensors, heldout, flow)


def train_members(
    task: TrainingTask,
    schemes: Mapping[str, Scheme],
    states: Sequence[MemberState],
    until: int,
    evals: Sequence[int],
    spec: ModelSpec | None = None,
) -> list[MemberState]:
    """Train each member on to ``until`` steps, scoring at ``evals``; nothing that a training does can stop the others.

    Args:
        task: the training.
        schemes: by name, at least those of ``states``.
        states: alive members; those of one draw next to each other share its making.
        until: steps at which to stop.
        evals: steps at which to score.
        spec: measure signal and gradient flow, first and last, by this reading of the model; None measures none.
    """
    done = []
    draw: Draw | Exception | None = None
    made_for: tuple[str, int] | None = None
    for state in states:
        started = time.perf_counter()
        if state.checkpoint is None and made_for != (state.key.scheme, state.key.seed):
            made_for = (state.key.scheme, state.key.seed)
            try:
                # The current weights tell where all begin; others are scored when they have been trained.
                score = state.key.scheme == CURRENT
                draw = make_draw(task, schemes[state.key.scheme], state.key.seed, spec, score=score)
            except Exception as error:  # noqa: BLE001 - whatever a user's model raises is that member's result
                LOGGER.info("drawing %s failed", state.key.scheme, exc_info=error)
                draw = error
        after = _train_one(task, state, draw, until, evals, spec)
        done.append(replace(after, seconds=state.seconds + time.perf_counter() - started))
    return done


def _train_one(
    task: TrainingTask,
    state: MemberState,
    draw: Draw | Exception | None,
    until: int,
    evals: Sequence[int],
    spec: ModelSpec | None,
) -> MemberState:
    heldout: list[tuple[int, float]] = []
    losses: list[float] = []
    begin, status, message = 0, None, ""
    checkpoint: Checkpoint | None = None
    flow_after, fastest = state.flow_after, state.fastest or math.inf
    try:
        if state.checkpoint is None:
            if isinstance(draw, Exception):
                raise draw
            assert draw is not None
            model = task.member()
            load_tensors(model, draw.tensors)
            if draw.scheme == CURRENT:
                heldout.append((0, draw.heldout))
        else:
            model, begin = task.member(), state.steps
            losses, heldout = list(state.train), list(state.heldout)
        training = Training(task, model, state)
        for index in range(begin, until):
            began = time.perf_counter()
            losses.append(training.step(index))
            fastest = min(fastest, time.perf_counter() - began)
            if index + 1 in evals:
                heldout.append((index + 1, evaluate(task, model, state.key.seed)))
        checkpoint = training.checkpoint()
        if spec is not None:
            checkpoint = None if checkpoint is None else checkpoint.copy()
            flow_after = measure_flow(task, model, spec, state.key.seed, until, training.optimizer)
    except DivergedError:
        status, message = Status.DIVERGED, f"at step {len(losses) + 1}"
    except NoGradientError:
        status, message = Status.NO_GRADIENT, NOTHING_MOVES
    except Exception as error:  # noqa: BLE001 - a user's training may raise anything; it is quoted
        LOGGER.info("a training with %s failed", state.key.scheme, exc_info=error)
        status, message = Status.FAILED, quoted(error)
    return replace(
        state,
        steps=len(losses),
        train=tuple(losses),
        heldout=tuple(heldout),
        status=status,
        message=message,
        fastest=fastest if math.isfinite(fastest) else 0.0,
        flow=draw.flow if isinstance(draw, Draw) and state.checkpoint is None else state.flow,
        flow_after=flow_after,
        checkpoint=checkpoint,
    )
