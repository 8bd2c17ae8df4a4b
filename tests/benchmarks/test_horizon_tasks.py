"""Every long task trains, is fixed by its seed, and trains alike as one program and one member after another."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.horizon.task import LongTask, Schedule
from benchmarks.horizon.tasks import TASKS
from benchmarks.horizon.train import evaluation_steps, fresh_model, train
from benchmarks.regret.task import adam, adamw, sgd

FAMILIES = {
    "mlp_tanh", "mlp_relu", "mlp_gelu", "mlp_residual", "cnn_plain", "cnn_residual", "rnn", "lstm", "gru",
    "transformer_prenorm", "transformer_postnorm", "vit", "siren", "autoencoder", "vae", "gnn", "gan", "transfer",
    "pinn",
}  # fmt: skip

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_tasks_are_as_many_as_long_and_as_wide_as_promised():
    assert len(TASKS) >= 14
    assert {t.family for t in TASKS.values()} == FAMILIES
    assert all(t.steps >= 3000 for t in TASKS.values())
    scheduled = [t for t in TASKS.values() if t.schedule.shape != "constant"]
    assert len(TASKS) / 2 <= len(scheduled) <= 2 * len(TASKS) / 3, "half of them, or a little more"
    assert {t.schedule.shape for t in scheduled} == {"cosine", "linear", "one_cycle"}
    assert {type(t.optimizer([torch.zeros(1, requires_grad=True)], lr=0.1)) for t in TASKS.values()} == {
        torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
    }  # fmt: skip
    assert all(t.lrs[0] < t.lrs[1] < t.lrs[2] for t in TASKS.values())


@every_task
def test_trains_a_few_steps_and_repeats_itself(task):
    first, again = (train(task, [(None, task.lrs[2])], 1, steps=5)[0] for _ in range(2))
    other = train(task, [(None, task.lrs[2])], 2, steps=5)[0]
    assert first.diverged is None
    assert first.steps == (0, 1, 2, 3, 5)
    assert all(map(math.isfinite, first.heldout))
    assert first.heldout == again.heldout
    assert first.heldout != other.heldout
    assert first.heldout[0] != first.heldout[-1], "five steps changed nothing"


@every_task
def test_both_ways_to_train_agree(task):
    """Two steps only: rounding grows with every further one, the faster the less a model is normalised."""
    if not task.stacked:
        return
    members = [(None, lr) for lr in (task.lrs[0], task.lrs[2])]
    stacked, looped = (train(replace(task, stacked=way), members, 3, steps=2) for way in (True, False))
    for one, two in zip(stacked, looped, strict=True):
        assert one.heldout == pytest.approx(two.heldout, rel=1e-3)
        assert one.train[1:] == pytest.approx(two.train[1:], rel=1e-3)


@every_task
def test_batches_do_not_repeat_and_held_out_rows_are_fixed(task):
    batches = task.batches(1)
    one, two = next(batches), next(batches)
    assert any(not torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one, next(task.batches(1)), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(task.heldout, task.load_heldout(), strict=True))


@every_task
def test_building_leaves_the_global_generator_alone(task):
    before = torch.get_rng_state()
    fresh_model(task, None, 5)
    assert torch.equal(before, torch.get_rng_state())


def noisy(generator):
    x = torch.randn(32, 5, generator=generator)
    return x, x @ torch.linspace(-1, 1, 10).view(5, 2)


LINEAR = LongTask(
    "linear", "none", partial(nn.Linear, 5, 2), noisy, lambda: noisy(torch.Generator().manual_seed(0)), sgd(),
    (0.01, 0.03, 0.1), nn.functional.mse_loss,
)  # fmt: skip


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("cosine", 5, 40), Schedule("one_cycle", 0, 40)], ids=str)
@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize("optimizer", [sgd(), adam(), adamw(0.3)], ids=["sgd", "adam", "adamw"])
def test_stacks_step_as_torch_does(optimizer, clip_norm, schedule):
    task = replace(LINEAR, optimizer=optimizer, clip_norm=clip_norm, schedule=schedule, steps=40)
    members = [(None, lr) for lr in task.lrs]
    stacked, looped = (train(replace(task, stacked=way), members, 1) for way in (True, False))
    for one, two in zip(stacked, looped, strict=True):
        assert one.heldout == pytest.approx(two.heldout, rel=1e-3)
    assert len({curve.heldout[-1] for curve in stacked}) == 3, "each member has a rate of its own"


@pytest.mark.parametrize(
    ("schedule", "torchs"),
    [
        (Schedule("cosine", 0, 1000), partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=1000)),
        (
            Schedule("linear", 0, 1000),
            partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=1000),
        ),
        (
            Schedule("one_cycle", 0, 1000),
            partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=1001, cycle_momentum=False),
        ),
    ],
    ids=str,
)
def test_schedules_are_torchs(schedule, torchs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torchs(optimizer)
    for step in range(1000):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=0.01)
        optimizer.step()
        scheduler.step()


def test_a_warm_up_can_be_left_out():
    schedule = Schedule("cosine", 100, 3000)
    assert [schedule(s) for s in (0, 49, 99)] == pytest.approx([0.01, 0.5, 1.0])
    assert schedule.warms_up
    assert not schedule.without_warmup().warms_up
    assert schedule.without_warmup()(0) == 1.0
    assert Schedule("one_cycle").without_warmup()(0) == 1.0


def test_a_member_that_breaks_is_cut_and_leaves_the_others_alone():
    task = replace(LINEAR, steps=100)
    good, bad = train(task, [(None, 0.03), (None, 1e6)], 1)
    assert good.diverged is None
    assert bad.diverged is not None
    assert bad.steps[-1] == bad.diverged < 100
    assert good.heldout == pytest.approx(train(task, [(None, 0.03)], 1)[0].heldout, rel=1e-3)


def test_evaluations_are_even_in_the_logarithm_and_hit_the_rungs():
    steps = evaluation_steps(3000)
    assert 40 <= len(steps) <= 60
    assert {0, 1, 2, 3, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3000} <= set(steps)
    assert steps[-1] == 3000
    assert evaluation_steps(160)[-1] == 160


@pytest.mark.parametrize("name", ["gan_ring", "transfer_deep_head"])
def test_a_recorded_step_is_the_same_step(name, monkeypatch):
    task, curves = TASKS[name], []
    for least in (1, 1000):
        monkeypatch.setattr("benchmarks.horizon.train.WORTH_RECORDING", least)
        curves.append(train(task, [(None, lr) for lr in task.lrs], 1, steps=5))
    for one, two in zip(*curves, strict=True):
        assert one.heldout == pytest.approx(two.heldout, rel=1e-3)
        assert one.train[1:] == pytest.approx(two.train[1:], rel=1e-3)
