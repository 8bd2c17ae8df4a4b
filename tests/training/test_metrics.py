from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fakes import SPEC, blobs, current, tanh_mlp, xavier
from torch import nn

from initadvisor.graph.spec import Coverage, ModelSpec, ParamSpec
from initadvisor.streams import derive_step, seed_all
from initadvisor.training.engine.metrics import measure_flow
from initadvisor.training.engine.result import SignalFlow
from initadvisor.training.task import TrainingTask, make_task
from initadvisor.trials.run import run_race
from initadvisor.types import Role


def flow_of(task: TrainingTask, spec: ModelSpec = SPEC, **settings: object) -> SignalFlow:
    flow = measure_flow(task, task.member(), spec, 3, 0, **settings)
    assert flow is not None
    return flow


def by_hand(task: TrainingTask) -> tuple[list[float], list[float]]:
    """The same figures of a Sequential, with ordinary retained gradients."""
    model = task.member()
    seed_all(derive_step(3, 0))
    batch = task.batch_at(3, 0)
    value, outs = batch.args[0], []
    for module in model:
        value = module(value)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            value.retain_grad()
            outs.append(value)
    F.cross_entropy(value, batch.target).backward()
    return [float(o.detach().square().mean().sqrt()) for o in outs], [
        float(o.grad.square().mean().sqrt()) for o in outs
    ]


def test_forward_and_backward_rms_are_those_of_retained_gradients() -> None:
    task = make_task(tanh_mlp(depth=5), blobs(), lr=0.1)
    flow = flow_of(task)
    forward, backward = by_hand(task)
    assert flow.layers == ("0.weight", "2.weight", "4.weight", "6.weight", "8.weight")
    assert flow.forward_rms == pytest.approx(forward, rel=1e-5)
    assert flow.backward_norm == pytest.approx(backward, rel=1e-4)
    assert flow.update_ratio == ()


class Bare(nn.Module):
    """No layer modules: weights used transposed, by matmul and by einsum; an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(16, 4, generator=g))
        self.second = nn.Parameter(torch.randn(16, 16, generator=g))
        self.third = nn.Parameter(torch.randn(16, 3, generator=g))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x @ self.first.t()).relu_()
        x = torch.tanh(torch.einsum("bi,io->bo", x, self.second))
        return x @ self.third


def test_bare_parameters_are_measured_too() -> None:
    task = make_task(Bare(), blobs(), lr=0.1)
    flow = flow_of(task)
    assert flow.layers == ("first", "second", "third")
    model, batch = task.member(), task.batch_at(3, 0)
    assert flow.forward_rms[0] == pytest.approx(
        float((batch.args[0] @ model.first.detach().t()).square().mean().sqrt()), rel=1e-5
    )
    assert all(g > 0 for g in flow.backward_norm)


def test_dead_and_saturated_shares() -> None:
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias[:3] = -1e4  # three of ten units never fire
        model[2].bias[:2] = 50.0  # two of eight are flat on every sample
        model[2].bias[2:] = 0.0
        model[2].weight.mul_(1e-3)
    flow = flow_of(make_task(model, blobs(), lr=0.1))
    assert flow.dead_share == pytest.approx((0.3, 0.0, 0.0))
    assert flow.saturated_share == pytest.approx((0.0, 0.25, 0.0))


def test_the_update_ratio_is_that_of_one_step() -> None:
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=0.1, clip_norm=0.01)
    model = task.member()
    before = [p.detach().clone() for p in model.parameters() if p.ndim > 1]
    flow = measure_flow(task, model, SPEC, 3, 0, task.optimizer.build(model, 0.1))
    assert flow is not None
    after = [p.detach() for p in model.parameters() if p.ndim > 1]
    assert flow.update_ratio == pytest.approx(
        [float((b - a).norm() / a.norm()) for a, b in zip(before, after, strict=True)], rel=1e-5
    )
    moved = math.sqrt(sum(float((b - a).square().sum()) for a, b in zip(before, after, strict=True)))
    assert moved <= 0.1 * 0.01 * 1.001


def test_recurrent_and_attention_weights_are_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(7, 8), nn.LSTM(8, 8, batch_first=True)
            self.mix, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, _ = self.rnn(self.embed(x))
            return self.head(self.mix(h, h, h)[0].mean(1))

    flow = flow_of(make_task(Net(), (torch.randint(7, (40, 5)), torch.randint(3, (40,))), lr=0.1))
    assert flow.layers[0] == "embed.weight"
    assert flow.layers[-1] == "head.weight"
    assert any(p.startswith("rnn") for p in flow.layers)
    assert any(p.startswith("mix") for p in flow.layers)
    assert all(g > 0 for g in flow.backward_norm)


def test_the_reading_of_the_model_decides_what_a_layer_is_and_how_deep() -> None:
    task = make_task(tanh_mlp(), blobs(), lr=0.1)
    roles = {"0.weight": (Role.INPUT, 1), "2.weight": (Role.POSITION, 0), "4.weight": (Role.OUTPUT, 3)}
    params = tuple(ParamSpec(p, (1,), torch.float32, role, depth=d) for p, (role, d) in roles.items())
    flow = flow_of(task, ModelSpec(params, (), 3, Coverage(3, 3), ""))
    assert flow.layers == ("0.weight", "4.weight")
    assert flow.depth == (1, 3)


def test_measuring_disturbs_no_training() -> None:
    """The first seed of a race is measured, the second is not: without seeds that matter they would be twins."""
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.Adam, lr=0.01, steps=40)
    from initadvisor.training.engine.loop import train_members
    from initadvisor.training.engine.member import MemberKey, MemberState

    state = MemberState(MemberKey("rung", "a", 1, 0.01))
    schemes = {"a": xavier("a")}
    plain = train_members(task, schemes, train_members(task, schemes, [state], 9, (9,)), 20, (20,))[0]
    seen = train_members(task, schemes, train_members(task, schemes, [state], 9, (9,), SPEC), 20, (20,), SPEC)[0]
    assert seen.train == plain.train
    assert seen.heldout == plain.heldout
    assert seen.flow is not None
    assert seen.flow_after is not None
    assert len(seen.flow_after.update_ratio) == 3
    assert plain.flow is None


def test_a_race_records_flow_first_and_last() -> None:
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=0.1, steps=40)
    result = run_race(task, [current(), xavier("a")], SPEC, budget=500)
    for phase in ("race", "fresh"):
        measured = [t for t in result.trials if t.phase == phase and t.flow is not None]
        assert {t.scheme for t in measured} == {"current", "a"}
        assert all(t.flow_after is not None and t.flow_after.update_ratio for t in measured)


def test_frozen_layers_are_asked_for_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    model[4].requires_grad_(False)
    flow = flow_of(make_task(model, blobs(), lr=0.1))
    assert flow.trains == (False, True, True)  # through the last one it has to pass
    assert [place for place, _ in flow.course("forward_rms")] == [1, 2, 3]
    assert [place for place, _ in flow.course("backward_norm")] == [2, 3]
    assert all(g > 0 for _, g in flow.course("backward_norm"))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_gradient_that_comes_by_the_last_state_is_seen(kind: type[nn.RNNBase]) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(4, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = self.rnn(x[:, None])[1]
            return self.head((state[0] if isinstance(state, tuple) else state)[-1])

    flow = flow_of(make_task(Last(), blobs(), lr=0.1))
    assert len(flow.layers) == 2
    assert all(g > 0 for g in flow.backward_norm)
