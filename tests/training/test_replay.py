"""Replays of a recorded step: the step to the last bit, or none."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import blobs, tanh_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainings import MODELS, SCHEMES, assert_same, members, task_of
from transformers import GPT2Config, GPT2LMHeadModel

import initadvisor.training.engine.recording as recording_module
import initadvisor.training.engine.replay as replay_module
from initadvisor.training.engine import batched
from initadvisor.training.engine.batched import batching_of, train_batched
from initadvisor.training.engine.loop import make_draw, train_members
from initadvisor.training.engine.recording import Program, record
from initadvisor.training.engine.replay import Replayer, StaleReplayError
from initadvisor.training.engine.stack import Stack
from initadvisor.training.task import TrainingTask

STEPS = 24


def stack_of(task: TrainingTask, *, replay: bool = True, seeds: tuple[int, ...] = (3,)) -> Stack:
    states = sorted(members(task, seeds), key=lambda s: s.key.lr)
    draws = [make_draw(task, SCHEMES[s.key.scheme], s.key.seed, None) for s in states]
    return Stack(task, batching_of(task), states, [d.tensors for d in draws], replay=replay)


def assert_equal_trainings(task: TrainingTask, seeds: tuple[int, ...] = (3,), steps: int = STEPS) -> Replayer:
    """Train with and without replays, compare losses, weights and buffers bit by bit."""
    real, replayed = stack_of(task, replay=False, seeds=seeds), stack_of(task, seeds=seeds)
    for index in range(steps):
        a, b = real.step(index), replayed.step(index)
        assert torch.equal(a, b), f"step {index}: {a} and {b}"
        if index % 10 == 9:
            assert torch.equal(real.evaluate(), replayed.evaluate())
    for member in range(len(real.states)):
        one, other = real.checkpoint(member), replayed.checkpoint(member)
        assert all(torch.equal(t, other.tensors[n]) for n, t in one.tensors.items())
    assert replayed._replayer is not None
    return replayed._replayer


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_layer_is_replayed_to_the_last_bit(name: str) -> None:
    replayer = assert_equal_trainings(task_of(MODELS[name](), clip_norm=0.5))
    assert not replayer.refused
    assert [k.runs for k in replayer._known] == [STEPS - 2]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.table((x * 3).long() % 11)).mean(1))


class Contracted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map, self.scale = nn.Parameter(torch.randn(5, 4, 3)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bi,kij->bkj", x, self.map).logsumexp(1) * self.scale.exp()


def pooled() -> nn.Module:
    body = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    rest = (nn.Conv2d(4, 8, 1), nn.Upsample(scale_factor=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *body, *rest, nn.Flatten(), nn.Linear(8, 3))


FOREIGN: dict[str, Callable[[], nn.Module]] = {
    "embedding and torch's own block": Tokens,
    "contraction of three axes": Contracted,
    "pooled images, two norms": pooled,
    "weights by length and direction": lambda: nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_layers_left_to_vmap_are_replayed_too(name: str) -> None:
    torch.manual_seed(0)
    assert not assert_equal_trainings(task_of(FOREIGN[name]())).refused


def test_a_language_model_that_computes_its_own_loss_is_replayed() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    ids = [torch.randint(50, (8, 12)) for _ in range(4)]
    data = [{"input_ids": i, "labels": i} for i in ids]
    assert not assert_equal_trainings(task_of(GPT2LMHeadModel(config), data=data)).refused


def test_members_of_several_seeds_and_a_shorter_last_batch_are_replayed() -> None:
    batches = [*blobs(4), tuple(t[:20] for t in blobs(1, seed=9)[0])]
    replayer = assert_equal_trainings(task_of(tanh_mlp(), data=batches, steps=40))
    assert not replayer.refused
    assert len(replayer._known) == 2
    replayer = assert_equal_trainings(task_of(tanh_mlp()), seeds=(3, 4))
    assert not replayer.refused


def test_batches_of_ever_new_shapes_are_not() -> None:
    batches = [tuple(t[: 10 + i] for t in batch) for i, batch in enumerate(blobs(12))]
    replayer = assert_equal_trainings(task_of(tanh_mlp(), data=batches))
    assert "kinds" in replayer.refused


def test_a_batch_that_is_the_same_tensor_twice_is_not_taken_for_two() -> None:
    """A recording on ``x, x`` reads one of them; replayed on ``x, z`` it would read ``x`` twice."""

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        first, second = batch
        return (model(first) - second[:, :3]).square().mean()

    x, z = torch.randn(8, 4), torch.randn(8, 4)
    for same in (x, x.view(8, 4)):
        replayer = assert_equal_trainings(task_of(tanh_mlp(), data=[(x, same), (x, z), (z, x)], loss=loss))
        assert len(replayer._known) == 2


# -- what a step depends on beside tensors -----------------------------------------------------------------------------


class Stepping(nn.Module):
    """A linear map, and before it something that a recording cannot hold."""

    def __init__(self, hidden: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.hidden, self.count = nn.Linear(4, 3), hidden, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.hidden(self, x))


def by_number(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x if float(x.sum()) > 0 else -x


def by_mask(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x - x[x > 0].mean()


def by_numpy(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + torch.from_numpy(np.asarray(x).copy())


def by_list(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * torch.tensor(x[0].tolist())


def by_chance(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x if random.random() < 0.5 else -x


def by_numpy_chance(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * float(np.random.rand())


def by_counter(model: Any, x: torch.Tensor) -> torch.Tensor:
    model.count += 1
    return x if model.count < 18 else -x


REFUSALS = {
    by_number: "number is read",
    by_mask: "content",
    by_numpy: "leaves torch",
    by_list: "leaves torch",
    by_chance: "random numbers",
    by_numpy_chance: "random numbers",
    by_counter: "plain values",
}


@pytest.mark.parametrize("hidden", REFUSALS)
def test_a_step_that_depends_on_more_than_tensors_is_refused_and_trained_as_ever(
    hidden: Callable[[nn.Module, torch.Tensor], torch.Tensor],
) -> None:
    replayer = assert_equal_trainings(task_of(Stepping(hidden)))
    assert REFUSALS[hidden] in replayer.refused


def test_indices_that_are_numbers_and_tables_outside_of_the_model_are_recorded() -> None:
    table = torch.randn(5, 4)

    def hidden(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x + table[(x[:, 0] > 0).long()] + torch.tensor([0.1, 0.2, 0.3, 0.4])

    assert not assert_equal_trainings(task_of(Stepping(hidden))).refused


def test_objects_in_batches_are_not_replayed() -> None:
    class Graph:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0]).square().mean() + batch[1]["graph"].x.mean()

    data = [(x, {"graph": Graph(x)}) for x, _ in blobs(3)]
    stack = stack_of(task_of(tanh_mlp(), data=data, loss=loss))
    for index in range(4):
        stack.step(index)
    assert stack._replayer is None


@pytest.mark.parametrize(
    ("changes_at", "by", "found_at"), [(0, 0.001, 2), (0, 1e-7, 2), (10, 0.001, 16), (40, 0.001, 128)]
)
def test_a_loss_that_changes_from_outside_is_found(changes_at: int, by: float, found_at: int) -> None:
    """As an annealed weight, or one that is switched on by a counter of the user's own.

    One that changes all the time is found by its number, however little that does; one that begins to, by what it does.
    """
    steps: SimpleQueue[int] = SimpleQueue()  # a connection to elsewhere, which no copy has to itself

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y) * (1.0 + by * max(0, steps.qsize() - changes_at))

    stack = stack_of(task_of(tanh_mlp(), loss=loss, steps=200))
    with pytest.raises(StaleReplayError, match=f"{found_at} replays"):
        for index in range(200):
            steps.put(index)  # whether the loss is called or not
            stack.step(index)


def test_a_stack_whose_recording_has_gone_stale_is_trained_without(monkeypatch: pytest.MonkeyPatch) -> None:
    place: SimpleQueue[int] = SimpleQueue()

    def seen(task: TrainingTask, seed: int, step: int) -> Any:
        while place.qsize() != step:
            place.put(0) if place.qsize() < step else place.get()
        return true_batch(task, seed, step)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y) * (1.0 + 0.1 * place.qsize() if model.training else 1.0)

    true_batch = TrainingTask.batch_at
    monkeypatch.setattr(TrainingTask, "batch_at", seen)
    given: list[bool] = []
    true_stack = batched._train_stack

    def noted(*args: Any, replay: bool = True) -> Any:
        given.append(replay)
        return true_stack(*args, replay=replay)

    monkeypatch.setattr(batched, "_train_stack", noted)
    task = task_of(tanh_mlp(), loss=loss)
    stacked = train_batched(task, SCHEMES, members(task), STEPS, (STEPS,), None, batching_of(task))
    assert given == [True, False]
    assert_same(train_members(task, SCHEMES, members(task), STEPS, (STEPS,)), stacked)


@pytest.mark.parametrize("which", ["loss", "gradient"])
def test_a_replay_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    true_run = Program.run

    def wrong(self: Program, inputs: Any) -> list[torch.Tensor]:
        results = true_run(self, inputs)
        results[0 if which == "loss" else -1] = results[0 if which == "loss" else -1] * 1.01
        return results

    monkeypatch.setattr(Program, "run", wrong)
    assert "differs" in assert_equal_trainings(task_of(tanh_mlp())).refused


def test_buffers_that_a_replay_leaves_behind_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    true_run = Program.run
    task = task_of(MODELS["buffer replaced"]())
    stack = stack_of(task)

    def forgetful(self: Program, inputs: Any) -> list[torch.Tensor]:
        before = stack.carried["seen"].clone()
        results = true_run(self, inputs)
        stack.carried["seen"].copy_(before)
        return results

    monkeypatch.setattr(Program, "run", forgetful)
    for index in range(3):
        stack.step(index)
    assert stack._replayer is not None
    assert "differs" in stack._replayer.refused


def test_a_batch_that_is_no_plain_memory_is_refused_and_trained() -> None:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        waves, y = batch
        return F.cross_entropy(model(torch.view_as_real(waves.resolve_conj()).flatten(1)), y)

    data = [(torch.view_as_complex(x.view(-1, 2, 2)).conj(), y) for x, y in blobs(3)]
    assert "plain memory" in assert_equal_trainings(task_of(tanh_mlp(), data=data, loss=loss)).refused


def test_few_steps_are_not_worth_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    true_record = replay_module.record
    monkeypatch.setattr(replay_module, "record", lambda *a: (recorded.append(1), true_record(*a))[1])
    task = task_of(tanh_mlp())
    for until, times in ((batched.REPLAYED_FROM - 1, 0), (batched.REPLAYED_FROM, 2)):
        train_batched(task, SCHEMES, members(task), until, (), None, batching_of(task))
        assert len(recorded) == times


def test_a_step_too_large_to_be_recorded_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "RECORDED_BYTES", 1000)
    assert "too large" in assert_equal_trainings(task_of(tanh_mlp())).refused


# -- programs ----------------------------------------------------------------------------------------------------------

SHAPE = (3, 4)
OPS: dict[str, Callable[..., torch.Tensor]] = {
    "add": lambda a, b: a + b,
    "in place": lambda a, b: a.clone().add_(b),
    "in place through a view": lambda a, b: (lambda c: (c.mT.mul_(b.mT), c)[1])(a.clone()),
    "into a slice": lambda a, b: (lambda c: (c[1:].copy_(b[1:]), c)[1])(a.clone()),
    "there and back": lambda a, b: a.mT.contiguous().mT + b.mT.mT.detach(),
    "joined": lambda a, b: torch.cat([a[:1], b[1:]]),
    "chunks": lambda a, b: torch.cat(list(reversed(a.chunk(2, 1))), 1) - b,
    "halves": lambda a, b: torch.stack([a.unbind(0)[i] for i in (2, 0, 1)]) * b,
    "expanded": lambda a, b: a.sum(0, keepdim=True).expand(SHAPE) + b,
    "several results": lambda a, b: a.max(0).values + b.sort(1).indices,
    "scalar": lambda a, b: a * 0.5 - b.mean(),
    "gathered": lambda a, b: a.gather(1, b.argsort(1)),
    "seen as": lambda a, b: (a.flatten().view(4, 3).mT + b).reshape(SHAPE),
    "constant": lambda a, b: a + torch.arange(4) * b,
    "option": lambda a, b: torch.where(a > 0, a, b).clamp(max=2.0),
    "reshaped in place": lambda a, b: a.clone().transpose_(0, 1).unsqueeze_(0).squeeze_(0).t() + b,
    "strides in place": lambda a, b: a.clone().as_strided_((4, 3), (1, 4)).mT + b,
    "strided": lambda a, b: a.flatten()[::2].repeat(2).view(SHAPE) + b,
}


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(OPS)), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    st.integers(0, 2**16),
)
def test_a_program_computes_what_was_recorded_on_whatever_it_is_given(
    calls: list[tuple[str, int, int]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, buffer = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)

    def step(x: torch.Tensor) -> list[torch.Tensor]:
        held = [x, weight, buffer]
        for name, i, j in calls:
            held.append(OPS[name](held[i % len(held)], held[j % len(held)]))
        buffer.mul_(0.5).add_(held[-1].detach())
        return [held[-1], held[len(held) // 2] + 0, buffer.clone()]

    first, second = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    _, program = record(lambda: step(first), [first], [weight, buffer], nn.Identity())
    assert isinstance(program, Program), program
    with torch.no_grad():
        weight.add_(0.25)
    state = buffer.clone()
    expected = step(second)
    after = buffer.clone()
    buffer.copy_(state)
    replayed = program.run([second])
    assert torch.equal(buffer, after)
    assert all(torch.equal(a, b) for a, b in zip(expected, replayed, strict=True))


def test_random_numbers_are_drawn_anew() -> None:
    x = torch.ones(50)
    torch.manual_seed(1)
    first, program = record(lambda: [F.dropout(x, 0.5)], [x], [], nn.Identity())
    assert isinstance(program, Program)
    torch.manual_seed(2)
    expected = F.dropout(x, 0.5)
    torch.manual_seed(2)
    assert torch.equal(program.run([x])[0], expected)
    assert not torch.equal(first[0], expected)


class Living(TorchDispatchMode):
    """The most results that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self._alive = 0, weakref.WeakSet[torch.UntypedStorage]()
        self._refs: list[weakref.ref[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._refs = [r for r in self._refs if r() is not None]
        self._refs += [weakref.ref(t) for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.most = max(self.most, len(self._refs))
        return out


def test_results_are_let_go_when_nothing_reads_them_any_more() -> None:
    x = torch.randn(8)

    def chain() -> list[torch.Tensor]:
        y = x
        for _ in range(30):
            y = y.sin() + 1
        return [y]

    _, program = record(chain, [x], [], nn.Identity())
    assert isinstance(program, Program)
    gc.collect()
    with Living() as living:
        program.run([x])
    assert living.most <= 3


def test_recordings_differ_by_numbers_constants_and_order() -> None:
    x, w = torch.randn(4), torch.randn(4)
    table = torch.randn(4)

    def program(step: Callable[[], torch.Tensor]) -> Program:
        _, made = record(lambda: [step()], [x], [w], nn.Identity())
        assert isinstance(made, Program)
        return made

    base = program(lambda: x * w * 2.0 + table)
    assert base.same_as(program(lambda: x * w * 2.0 + table))
    equal = table.clone()
    assert base.same_as(program(lambda: x * w * 2.0 + equal))
    assert not base.same_as(program(lambda: x * w * 2.5 + table))
    assert not base.same_as(program(lambda: w * x * 2.0 + table))
    assert not base.same_as(program(lambda: x * w * 2.0 + table + 0))
    other = table + 1
    assert not base.same_as(program(lambda: x * w * 2.0 + other))
    nan = program(lambda: x * float("nan"))
    assert nan.same_as(program(lambda: x * float("nan")))
