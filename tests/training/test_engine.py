from __future__ import annotations

import ctypes
import itertools
import math
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import SPEC, Fill, blobs, tanh_mlp
from torch import nn
from trainings import (
    MODELS,
    OPTIMIZERS,
    SCHEMES,
    Causal,
    Recurrent,
    assert_same,
    conv,
    members,
    task_of,
)

import initadvisor.training.engine.choice as choice_module
import initadvisor.training.engine.engine as engine_module
from initadvisor.training.engine import batched
from initadvisor.training.engine.batched import batching_of, train_batched
from initadvisor.training.engine.choice import Choice, choose_batching
from initadvisor.training.engine.engine import Engine
from initadvisor.training.engine.jobs import time_loop
from initadvisor.training.engine.loop import make_draw, train_members, trial_process
from initadvisor.training.engine.member import Checkpoint, MemberKey, MemberState, pack, unpack
from initadvisor.training.engine.result import Status
from initadvisor.training.engine.stack import Stack
from initadvisor.training.engine.weights import NotBatchableError
from initadvisor.training.task import TrainingTask


def both_ways(task: TrainingTask, states: Sequence[MemberState], until: int = 8) -> None:
    batching = batching_of(task)
    evals = (until // 2, until)
    looped = train_members(task, SCHEMES, states, until, evals)
    stacked = batched._train_stack(task, SCHEMES, states, until, evals, None, batching)
    assert_same(looped, stacked)


@pytest.mark.parametrize("name", MODELS)
def test_stacks_agree_with_the_loop_for_every_kind_of_layer(name: str) -> None:
    task = task_of(MODELS[name](), clip_norm=0.5)
    both_ways(task, members(task))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacks_agree_with_the_loop_for_every_optimizer(name: str) -> None:
    task = task_of(tanh_mlp(), optimizer=OPTIMIZERS[name], lr=(0.003, 0.01, 0.02))
    both_ways(task, members(task))


def test_stacks_agree_with_the_loop_under_a_scheduler() -> None:
    def warm_up(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 5))

    floor = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=8, eta_min=0.005)
    for scheduler in (warm_up, floor):
        task = task_of(tanh_mlp(), optimizer=torch.optim.Adam, scheduler=scheduler)
        both_ways(task, members(task))


def test_members_of_several_seeds_share_a_stack_where_nothing_is_random() -> None:
    task = task_of(tanh_mlp())
    assert batching_of(task).mixed
    both_ways(task, members(task, (3, 4, 5)))
    assert not batching_of(task_of(MODELS["dropout"]())).mixed
    ragged = [*blobs(7), *blobs(1, size=20)]
    assert not batching_of(task_of(tanh_mlp(), data=ragged)).mixed


def test_a_loss_of_model_and_batch_and_dict_batches_are_batched() -> None:
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch["input"]), batch["label"]) + 0.01 * sum(
            p.square().sum() for p in model.parameters()
        )

    data = [{"input": x, "label": y} for x, y in blobs()]
    task = task_of(tanh_mlp(), data=data, loss=loss)
    both_ways(task, members(task))


@pytest.mark.parametrize("one_batch", [False, True])
def test_confirming_members_are_trained_and_scored_on_splits_of_their_own_in_either_engine(one_batch: bool) -> None:
    data = blobs(1, size=400)[0] if one_batch else blobs(20)
    seeds = (3, 4, 5, 6, 7, 8)
    task = task_of(tanh_mlp(), data=data).turned(seeds)
    batching = batching_of(task)
    assert batching.mixed
    states = [replace(s, key=replace(s.key, phase="confirm")) for s in members(task, seeds)]
    looped = train_members(task, SCHEMES, states, 8, (4, 8))
    assert_same(looped, batched._train_stack(task, SCHEMES, states, 8, (4, 8), None, batching))
    unturned = train_members(replace(task, fold_of={}), SCHEMES, states, 8, (4, 8))
    for a, b in zip(looped, unturned, strict=True):
        assert a.heldout != b.heldout
        assert a.train != b.train


@pytest.mark.parametrize(("first", "second"), list(itertools.product(("loop", "stack"), repeat=2)))
def test_a_member_goes_on_in_either_engine(first: str, second: str) -> None:
    """Optimizer moments, scheduler and weights pass from loop to stack and back."""
    task = task_of(
        tanh_mlp(), optimizer=OPTIMIZERS["by shape"], lr=(0.003, 0.01),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12),
    )  # fmt: skip
    batching = batching_of(task)

    def run(how: str, states: Sequence[MemberState], until: int) -> list[MemberState]:
        if how == "loop":
            return train_members(task, SCHEMES, states, until, (6, 12))
        return batched._train_stack(task, SCHEMES, states, until, (6, 12), None, batching)

    through = train_members(task, SCHEMES, members(task), 12, (6, 12))
    half = [unpack(pack(s)) for s in run(first, members(task), 6)]
    assert_same(through, run(second, half, 12))


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "sgd"])
def test_moments_of_scalars_and_transposed_weights_go_on(optimizer: str) -> None:
    """A scalar's moments have the shape of the step counter; a linear map's lie in memory as its gradients do."""
    task = task_of(Causal(6), optimizer=OPTIMIZERS[optimizer], lr=(0.003, 0.03))
    through = train_members(task, SCHEMES, members(task), 9, (9,))
    half = [unpack(pack(s)) for s in batched._train_stack(task, SCHEMES, members(task), 4, (), None, batching_of(task))]
    stacked = batched._train_stack(task, SCHEMES, half, 9, (9,), None, batching_of(task))
    assert_same(through, stacked)
    ends = {s.key: s.checkpoint for s in stacked}
    for member in through:
        wanted, found = member.checkpoint, ends[member.key]
        assert isinstance(wanted, Checkpoint)
        assert isinstance(found, Checkpoint)
        for name, tensor in wanted.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-3, atol=1e-4)
        for index, entries in wanted.optimizer["state"].items():
            for key, value in entries.items():
                torch.testing.assert_close(found.optimizer["state"][index][key], value, rtol=1e-2, atol=1e-4)


def test_a_diverged_member_of_a_stack_disturbs_no_other() -> None:
    schemes = {**SCHEMES, "wild": Fill("wild", lambda p, g: p.fill_(1e25))}
    x = torch.randn(100, 4)
    task = task_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), data=(x, x[:, :1]))
    states = [MemberState(MemberKey("rung", n, 3, 0.01)) for n in schemes]
    looped = train_members(task, schemes, states, 6, (6,))
    stacked = batched._train_stack(task, schemes, states, 6, (6,), None, batching_of(task))
    assert next(s for s in stacked if s.key.scheme == "wild").status is Status.DIVERGED
    assert_same(looped, stacked)


def test_a_stack_without_a_living_member_soon_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    true_step = Stack.step
    monkeypatch.setattr(Stack, "step", lambda self, index: (taken.append(index), true_step(self, index))[1])
    x = torch.randn(100, 4)
    task = task_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), data=(x, x[:, :1]))
    wild = {"wild": Fill("wild", lambda p, g: p.fill_(1e25))}
    states = [MemberState(MemberKey("rung", "wild", 3, lr)) for lr in task.rates]
    stacked = batched._train_stack(task, wild, states, 200, (), None, batching_of(task))
    assert len(taken) == batched.LOOKED_EVERY
    looped = train_members(task, wild, states, 200, ())
    assert {(s.steps, s.status, s.message) for s in stacked} == {(s.steps, s.status, s.message) for s in looped}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": torch.optim.ASGD}, "ASGD"),
        ({"optimizer": torch.optim.LBFGS, "lr": 1.0}, "LBFGS"),
        ({"scheduler": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o)}, "follows the loss"),
    ],
)
def test_what_cannot_be_batched_is_refused_with_its_reason_and_loops(settings: dict[str, Any], reason: str) -> None:
    model = settings.pop("model", tanh_mlp)()
    task = task_of(model, **settings)
    with pytest.raises(NotBatchableError, match=reason):
        batching_of(task)
    choice = choose_batching(task, SCHEMES, 0, 1.0, 10**6, 1)
    assert choice.batching is None
    assert reason in choice.text
    done = train_members(task, SCHEMES, members(task), 4, (4,))
    assert all(s.steps == 4 for s in done)


class Branching(nn.Module):
    """Control flow on data: no vectorised pass can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.fc(x)
        return out if out.mean() > 0 else out * 2


def averaging_norm() -> nn.Module:
    """Batch norm with a cumulative average, which reads its counter as a Python number."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 3))


@pytest.mark.parametrize("model", [partial(Recurrent, num_layers=2, dropout=0.5), Branching, averaging_norm])
def test_what_vmap_cannot_do_falls_back_by_itself(model: Callable[[], nn.Module]) -> None:
    task = task_of(model())
    choice = choose_batching(task, SCHEMES, 0, 1.0, 10**6, 1)
    assert choice.batching is None
    assert "not batched" in choice.text
    states = members(task)
    stacked = train_batched(task, SCHEMES, states, 4, (4,), None, batching_of(task))
    assert_same(train_members(task, SCHEMES, states, 4, (4,)), stacked)


@pytest.mark.parametrize("missing", ["_add_batch_dim", "_vmap_increment_nesting", "is_batchedtensor", "get_unwrapped"])
def test_a_torch_without_the_primitives_of_vmap_loops(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """They are not public: a version that names them otherwise costs speed and nothing else."""
    monkeypatch.delattr(f"initadvisor.training.engine.together.functorch.{missing}")
    task = task_of(tanh_mlp())
    choice = choose_batching(task, SCHEMES, 3, 1.0, 10**6, 1)
    assert choice.batching is None
    states = members(task)
    assert_same(
        train_members(task, SCHEMES, states, 4, (4,)),
        train_batched(task, SCHEMES, states, 4, (4,), None, batching_of(task)),
    )


def test_a_stack_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stack, "_clip", lambda self, gradients: gradients)
    task = task_of(tanh_mlp(), clip_norm=1e-3)
    choice = choose_batching(task, SCHEMES, 0, 1.0, 10**6, 1)
    assert choice.batching is None
    assert "losses differ" in choice.text


@pytest.mark.parametrize(
    ("fits", "tried"), [(1, [9, 4, 2, 2, 5, 2, 3, 2]), (2, [9, 4, 2, 2, 5, 2, 3, 2]), (4, [9, 4, 5, 2, 3])]
)
def test_out_of_memory_halves_the_stack(monkeypatch: pytest.MonkeyPatch, fits: int, tried: list[int]) -> None:
    """Halves are tried after what the failed stack held is free again."""
    task, sizes = task_of(tanh_mlp()), []
    held: list[weakref.ref[torch.Tensor]] = []
    true_stack = batched._train_stack

    def limited(
        task: TrainingTask, schemes: Any, states: Sequence[MemberState], *rest: Any, **options: Any
    ) -> list[MemberState]:
        assert not any(ref() is not None for ref in held)
        sizes.append(len(states))
        if len(states) > fits:
            weights = torch.empty(8)
            held.append(weakref.ref(weights))
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")
        return true_stack(task, schemes, states, *rest, **options)

    monkeypatch.setattr(batched, "_train_stack", limited)
    states = members(task)
    stacked = train_batched(task, SCHEMES, states, 4, (4,), None, batching_of(task))
    assert sizes == tried
    assert_same(train_members(task, SCHEMES, states, 4, (4,)), stacked)


@pytest.mark.parametrize(("share", "stacked"), [(0.3, True), (0.95, False), (1.2, False)])
def test_stacks_are_taken_only_where_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, share: float, stacked: bool
) -> None:
    looped = 0.01

    def timed(stack: Stack, steps: int) -> tuple[float, list[Any]]:
        return share * looped * len(stack.states), true_times(stack, steps)[1]

    true_times = batched.time_steps
    monkeypatch.setattr(choice_module, "time_steps", timed)
    choice = choose_batching(task_of(tanh_mlp()), SCHEMES, 0, looped, 10**6, 1)
    assert (choice.batching is not None) == stacked
    assert ("stacks of up to" in choice.text) == stacked


@pytest.mark.parametrize(
    ("members", "workers", "tried"), [(None, 1, [4, 16, 32]), (8, 2, [4]), (9, 2, [4, 16]), (40, 2, [4, 16, 32])]
)
def test_no_larger_stack_is_tried_than_a_worker_can_fill(
    monkeypatch: pytest.MonkeyPatch, members: int | None, workers: int, tried: list[int]
) -> None:
    sizes: list[int] = []

    def timed(stack: Stack, steps: int) -> tuple[float, list[Any]]:
        sizes.append(len(stack.states))
        return 1e-9, true_times(stack, steps)[1]

    true_times = batched.time_steps
    monkeypatch.setattr(choice_module, "time_steps", timed)
    choose_batching(task_of(tanh_mlp()), SCHEMES, 0, 1.0, 10**6, workers, members)
    assert sizes == tried


def test_waiting_is_not_a_step_s_time() -> None:
    """A step that is kept waiting, as by other programs, counts as long as it computes."""

    def slow(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        time.sleep(0.3)
        return F.cross_entropy(output, target)

    with Engine(task_of(tanh_mlp(), loss=slow), tuple(SCHEMES.values()), SPEC, workers=2) as engine:
        with trial_process(threads=1):
            looped, _ = time_loop(engine.task, 0)
        assert looped is not None
        assert looped < 0.15


def test_the_choice_weighs_measured_times() -> None:
    choice = Choice(object(), ((4, 8.0), (16, 16.0), (32, 64.0)), limit=100)  # type: ignore[arg-type]
    assert choice.best_seconds == 1.0
    assert choice.best_size == 16
    assert choice.seconds(4) == 2.0
    assert choice.seconds(2) == 4.0
    assert choice.seconds(10) == pytest.approx(1.2)
    assert choice.seconds(64) == 2.0
    assert Choice(object(), choice.timed, limit=8).best_size == 4  # type: ignore[arg-type]
    assert Choice().seconds(8) == math.inf


def advance(engine: Engine, states: Sequence[MemberState], until: int) -> list[MemberState]:
    return [s for done in engine.advance(states, until, (until,)) for s in done]


def test_processes_and_executors_compute_what_the_loop_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemes and losses defined in a function reach forked workers without being pickled."""
    monkeypatch.setattr(engine_module, "WORTH_A_POOL", 0.0)
    task = task_of(MODELS["dropout"](), loss=lambda output, target: F.cross_entropy(output, target))
    states = members(task, (3, 4))
    looped = train_members(task, SCHEMES, states, 10, (10,))
    with Engine(task, tuple(SCHEMES.values()), SPEC, workers=2) as engine:
        engine.step_seconds = 1.0
        half = advance(engine, states, 5)
        assert engine._pool is not None
        pids = [p.pid for p in engine._pool.processes]
        done = advance(engine, half, 10)
        assert engine.steps == 10 * len(states)
    assert_same(looped, [_without_middle(s) for s in done], rtol=0)
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)


def _without_middle(state: MemberState) -> MemberState:

    return replace(state, heldout=tuple((step, v) for step, v in state.heldout if step != 5))


class Plain:
    """A scheme that can be pickled."""

    def __init__(self, name: str, scale: float) -> None:
        self.name, self.scale = name, scale

    def apply(self, model: nn.Module, *, seed: int = 0, batch: Any = None, loss: Any = None) -> None:
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, self.scale, generator=g)


class Inline(Executor):
    """The smallest executor: runs what it is given at once."""

    def __init__(self) -> None:
        self.count = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future


@pytest.mark.parametrize("make", [Inline, partial(ThreadPoolExecutor, 4), partial(ProcessPoolExecutor, 1)])
def test_any_executor_of_concurrent_futures_can_be_given(make: Callable[[], Executor]) -> None:
    """Also threads of one process, which share its random generators."""
    schemes = {"current": Plain("current", 1.0), "a": Plain("a", 0.3)}
    task = task_of(MODELS["dropout"]())
    states = [MemberState(MemberKey("rung", n, s, lr)) for n in schemes for lr in task.rates for s in (3, 4)]
    with make() as executor, Engine(task, tuple(schemes.values()), SPEC, executor=executor) as engine:
        done = advance(engine, states, 6)
        assert executor.submit(len, "ab").result() == 2, "a given executor is left running"
    assert_same(train_members(task, schemes, states, 6, (6,)), done, rtol=0)


class Suicidal(nn.Module):
    """Ends its process, as the kernel does when memory runs out; but only in a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.home, self.calls = nn.Linear(4, 3), os.getpid(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if os.getpid() != self.home and self.calls > 4:
            os._exit(9)
        return self.fc(x)


def test_a_worker_that_dies_is_replaced_by_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "WORTH_A_POOL", 0.0)
    task = task_of(Suicidal())
    states = members(task)
    with Engine(task, tuple(SCHEMES.values()), SPEC, workers=2) as engine:
        engine.step_seconds = 1.0
        done = advance(engine, states, 6)
        assert any("worker process died" in note for note in engine.notes)
    assert_same(train_members(task, SCHEMES, states, 6, (6,)), done, rtol=0)


def test_a_probe_runs_where_members_will_run_and_its_death_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large stacks are tried in a worker: what kills it leaves the user's process, and members that loop."""
    monkeypatch.setattr(engine_module, "WORTH_PROBING", 0.0)
    task = task_of(Suicidal())
    with Engine(task, tuple(SCHEMES.values()), SPEC, workers=2) as engine:
        engine.step_seconds = 0.025
        engine.choose(0, 10**6)
        assert engine.choice.batching is None
        assert engine.step_seconds == 0.025
        assert any("died while stacks were tried" in note for note in engine.notes)
    task = task_of(tanh_mlp())
    seen: list[str] = []
    monkeypatch.setattr(task.optimizer.__class__, "build", _telling(seen, task.optimizer.__class__.build))
    with Engine(task, tuple(SCHEMES.values()), SPEC, workers=2) as engine:
        engine.choose(0, 10**6)
        assert not seen, "nothing was trained in this process"
        assert engine.steps > 0
        assert engine.step_seconds is not None
        assert "ms" in engine.choice.text


def _telling(seen: list[str], build: Callable[..., Any]) -> Callable[..., Any]:
    home = os.getpid()

    def told(*args: Any, **kwargs: Any) -> Any:
        if os.getpid() == home:
            seen.append("here")
        return build(*args, **kwargs)

    return told


FAULTS = """
import resource, torch
from initadvisor.training.engine.workers import keep_freed_memory
if {kept}: keep_freed_memory()
for step in range(30):
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x, kept = torch.ones(1 << 20), []
    for layer in range(8):
        x = x * 1.0
        kept.append(x)
        y = x + kept[-1]
    while kept:
        kept.pop()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_workers_keep_the_memory_that_each_step_frees() -> None:
    """Layers of 4 MiB, freed as by a forward and backward pass: hundreds of thousands of new pages, or next to none.

    Left to itself glibc adapts its threshold and gives memory back or not, by what happens to lie at the heap's end; a
    threshold from the environment holds it where it starts.
    """
    started = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    faults = {
        kept: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, check=True, env=started
            ).stdout
        )
        for kept in (False, True)
    }
    assert faults[True] < 0.1 * faults[False]


@pytest.mark.parametrize("name", ["tanh", "conv"])
def test_the_optimizer_sees_memory_without_gaps_and_checkpoints_the_model_s_own_axes(name: str) -> None:
    """Gradients of stacked linear maps come transposed; kernels copy what is not contiguous, at every step."""
    task = task_of(tanh_mlp() if name == "tanh" else conv(), optimizer=torch.optim.Adam)
    states = sorted(members(task), key=lambda s: s.key.lr)
    draws = [make_draw(task, SCHEMES[s.key.scheme], s.key.seed, None) for s in states]
    stack = Stack(task, batching_of(task), states, [d.tensors for d in draws])
    for index in range(2):
        stack.step(index)
    blocks = stack.weights._blocks
    assert all(part.is_contiguous() and part.grad.is_contiguous() for block in blocks for part in block.parts)
    if name == "tanh":
        orders = {n: place.axes for block in blocks for n, place in block.places.items()}
        assert {axes for n, axes in orders.items() if n.endswith("weight")} == {(0, 2, 1)}
        assert len(blocks) == 1
    else:
        assert {len(block.places) for block in blocks if "1.weight" in block.places} == {1}, "kernels lie by themselves"
    model = task.member()
    shapes = [p.shape for p in model.parameters()]
    optimizer = stack.checkpoint(1).optimizer
    assert [entry["exp_avg"].shape for entry in optimizer["state"].values()] == shapes
    again = Stack(
        task,
        batching_of(task),
        [replace(s, steps=2, checkpoint=stack.checkpoint(i)) for i, s in enumerate(states)],
        [stack.checkpoint(i).tensors for i in range(len(states))],
    )
    np.testing.assert_allclose(again.step(2).numpy(), stack.step(2).numpy(), rtol=1e-5)
    np.testing.assert_allclose(again.step(3).numpy(), stack.step(3).numpy(), rtol=1e-5)
