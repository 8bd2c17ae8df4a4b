from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fakes import SPEC, Fill, blobs, current, tanh_mlp, xavier
from torch import nn

from initadvisor.errors import InputError
from initadvisor.graph.analyze import analyze
from initadvisor.schemes.propose import torch_default_scheme
from initadvisor.training.engine.result import Status
from initadvisor.training.task import TrainingTask, make_task
from initadvisor.trials.decide import settled
from initadvisor.trials.plan import FIRST_RUNG
from initadvisor.trials.progress import Progress
from initadvisor.trials.race import MOST_FRESH
from initadvisor.trials.result import Ground, RaceResult, Verdict
from initadvisor.trials.run import run_race
from initadvisor.types import TORCH_DEFAULT

SGD = torch.optim.SGD


def task_of(model: nn.Module | None = None, **settings: Any) -> TrainingTask:
    given = {"optimizer": SGD, "lr": (0.05, 0.2), "steps": 60, **settings}
    return make_task(model or tanh_mlp(), given.pop("data", blobs()), **given)


def race(task: TrainingTask, schemes: Sequence[Any], **settings: Any) -> RaceResult:
    return run_race(task, schemes, SPEC, **{"budget": 1500, **settings})


def losses(result: RaceResult) -> list[tuple[Any, ...]]:
    return sorted((t.phase, t.scheme, t.lr, t.seed, t.status, t.train_loss, t.heldout) for t in result.trials)


def test_weights_that_cannot_train_are_replaced() -> None:
    """All weights zero but for the biases: only the last bias ever learns."""
    result = race(task_of(tanh_mlp(depth=4, scale=0.0)), [current(), xavier("good"), xavier("tiny", 1e-6)])
    decision = result.decision
    assert decision.verdict is Verdict.SWITCH
    assert decision.scheme == decision.challenger == "good"
    assert decision.ground is Ground.COMPARED
    assert decision.effect > 0
    assert decision.p_better > 0.95
    assert decision.p_worse < 0.02
    assert decision.fresh >= 3
    assert decision.horizon == 60
    assert result.ranking[0].scheme == "good"
    assert "current" in [e.scheme for e in result.ranking]


def test_good_weights_are_kept_against_bad_schemes() -> None:
    result = race(task_of(), [current(), xavier("tiny", 1e-6), xavier("huge", 40.0)])
    assert result.decision.verdict is Verdict.KEEP
    assert result.decision.scheme == "current"
    assert result.decision.lr in (0.05, 0.2)


def test_the_same_seed_gives_the_same_race_and_another_another() -> None:
    task, schemes = task_of(), [current(), xavier("a"), xavier("b", 1.5)]
    first, second = race(task, schemes, seed=3), race(task, schemes, seed=3)
    assert losses(first) == losses(second)
    assert first.decision == second.decision
    assert losses(race(task, schemes, seed=4)) != losses(first)


def test_members_of_one_seed_see_the_same_batches_and_dropout() -> None:
    """A scheme that fills what the model holds anyway is a twin of the current weights: all their losses are equal."""
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3))
    held = [p.detach().clone() for p in model.parameters()]

    class Twin:
        name = "twin"

        def apply(self, model: nn.Module, *, seed: int = 0, batch: Any = None, loss: Any = None) -> None:
            # Whatever a scheme draws must not shift the streams of the training.
            torch.rand(seed % 7 + 1), random.random(), np.random.rand()
            with torch.no_grad():
                for p, value in zip(model.parameters(), held, strict=True):
                    p.copy_(value)
                # The gate would drop an exact twin.
                model[0].bias[0] += 1e-7

    result = race(task_of(model, lr=0.1), [current(), Twin(), xavier("other", 1e-6)])
    curves = {(t.scheme, t.phase, t.seed): np.array(t.train_loss) for t in result.trials}
    pairs = [
        (c, curves["twin", *rest])
        for (name, *rest), c in curves.items()
        if name == "current" and ("twin", *rest) in curves
    ]
    assert len(pairs) >= 2, "a rung and the confirmation"
    for a, b in pairs:
        np.testing.assert_allclose(a[: len(b)], b[: len(a)], rtol=1e-4)


def test_going_on_from_a_checkpoint_is_training_through() -> None:
    """Adam's averages, the scheduler, BatchNorm and dropout all go on where the rung left them."""
    from initadvisor.training.engine.loop import train_members
    from initadvisor.training.engine.member import MemberKey, MemberState, pack, unpack

    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))
    task = task_of(
        model,
        optimizer=torch.optim.AdamW,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30),
        clip_norm=0.5,
    )
    state = MemberState(MemberKey("race", "current", 5, 0.05))
    through = train_members(task, {"current": current()}, [state], 30, (10, 30))[0]
    half = train_members(task, {"current": current()}, [state], 10, (10, 30))[0]
    half = unpack(pack(half))
    resumed = train_members(task, {"current": current()}, [half], 30, (10, 30))[0]
    assert resumed.train == through.train
    assert resumed.heldout == through.heldout
    a, b = resumed.checkpoint.tensors, through.checkpoint.tensors
    assert all(torch.equal(a[k], b[k]) for k in a)


class Breaks(nn.Module):
    """A small net whose training breaks as told at a given call."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor], after: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.how, self.after, self.calls = tanh_mlp(), how, after, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        out = self.body(x)
        # Only weights that started large break, so that current and challenger differ.
        large = self.body[0].weight.abs().max() > 3
        return self.how(out) if large and self.calls > self.after else out


def raises(out: torch.Tensor) -> torch.Tensor:
    raise ValueError("the third layer of the user\nwith a second line")


def out_of_memory(out: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        (lambda out: out * math.nan, Status.DIVERGED, "step"),
        (raises, Status.FAILED, "ValueError: the third layer of the user"),
        (out_of_memory, Status.FAILED, "out of memory"),
    ],
)
def test_what_breaks_one_scheme_is_its_result_and_stops_no_other(
    how: Callable[[torch.Tensor], torch.Tensor], status: Status, words: str
) -> None:
    task = task_of(Breaks(how, after=6), lr=0.05)
    result = race(task, [current(), xavier("fine"), Fill("large", lambda p, g: p.normal_(0, 4, generator=g))])
    broken = [t for t in result.trials if t.scheme == "large"]
    assert broken
    assert all(t.status is status for t in broken)
    assert words in broken[0].message
    assert "\n" not in broken[0].message
    assert result.decision.challenger == "fine"
    entry = next(e for e in result.ranking if e.scheme == "large")
    assert entry.status is status
    assert entry.score == math.inf


def test_current_weights_that_break_down_are_replaced() -> None:
    model = Breaks(lambda out: out * math.nan, after=6)
    with torch.no_grad():
        model.body[0].weight.mul_(100)
    result = race(task_of(model, lr=0.05), [current(), xavier("fine")])
    assert result.decision.verdict is Verdict.SWITCH
    assert result.decision.ground is Ground.CURRENT_BREAKS
    assert result.decision.effect == math.inf
    assert result.decision.dead == result.decision.seeds
    assert result.decision.challenger_dead == 0
    assert result.decision.p_better > 0.5


def test_a_training_that_always_fails_is_the_users_error() -> None:
    class Sixth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.calls = nn.Linear(4, 3), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            if self.calls > 4:
                raise KeyError("cache")
            return self.fc(x)

    with pytest.raises(InputError, match="every training fails: KeyError"):
        race(task_of(Sixth()), [current(), xavier("a")])


def test_the_gate_drops_what_cannot_start_and_duplicates_but_never_the_current_weights() -> None:
    schemes = [
        current(),
        xavier("fine"),
        xavier("fine again"),
        Fill("nan", lambda p, g: p.fill_(math.nan)),
        Fill("zero", lambda p, g: p.zero_()),
        Fill("raises", lambda p, g: p.view(-1, 7, 11)),
    ]
    result = race(task_of(tanh_mlp(scale=math.nan)), schemes)
    gated = {e.scheme: e.why for e in result.ranking if e.status is Status.GATED}
    assert set(gated) == {"fine again", "nan", "raises"}
    assert '"fine"' in gated["fine again"]
    assert "not finite" in gated["nan"]
    assert all(t.steps <= FIRST_RUNG for t in result.trials if t.scheme in gated)
    assert {e.scheme for e in result.ranking} == {s.name for s in schemes}
    assert result.decision.scheme == "fine"


def test_nothing_of_the_process_or_the_model_changes() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3))
    task = task_of(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(11)
    numbers = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), torch.get_num_threads())
    race(task, [current(), xavier("a")])
    tiny = torch.tensor([1e-30]) * 1e-10
    assert float(tiny) != 0.0, "subnormals are still flushed"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(numbers[0], torch.get_rng_state())
    assert numbers[1] == random.getstate()
    assert (numbers[2] == np.random.get_state()[1]).all()
    assert numbers[3] == torch.get_num_threads()


@pytest.mark.parametrize("budget", [15, 20, 60, 300, 900, 4000])
def test_a_budget_of_steps_is_used_and_never_exceeded(budget: int) -> None:
    schemes = [current(), *(xavier(f"x{i}", 0.5 + 0.2 * i) for i in range(6))]
    result = race(task_of(), schemes, budget=budget)
    decision = result.decision
    assert result.cost.model_steps <= budget
    if budget < 20:
        assert decision.ground is Ground.RULES
        assert decision.challenger == "x0"
    elif decision.out_of_money:
        assert result.cost.model_steps >= 0.9 * budget
    else:
        assert settled(decision) or decision.fresh == MOST_FRESH


def test_events_count_up_to_the_total() -> None:
    events: list[Progress] = []
    result = race(task_of(), [current(), xavier("a"), xavier("b", 2.0)], on_event=events.append)
    assert [e.done for e in events] == sorted(e.done for e in events)
    assert all(e.done <= e.total for e in events)
    assert events[-1].phase == "done"
    assert events[-1].done == events[-1].total == result.cost.model_steps
    assert {e.phase for e in events} == {"race", "plan", "fresh", "done"}
    (plan,) = [e for e in events if e.phase == "plan"]
    assert "steps of" in plan.message
    assert "full training" in plan.message


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_an_interrupt_gives_the_decision_the_finished_trials_allow(after: int) -> None:
    seen = 0

    def stop(event: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen > after:
            raise KeyboardInterrupt

    def once(event: Progress) -> None:
        if event.phase != "done":
            stop(event)

    result = race(task_of(), [current(), xavier("a"), xavier("b", 2.0)], on_event=once)
    assert result.decision.interrupted
    assert result.decision.lr in (0.05, 0.2)
    assert {e.scheme for e in result.ranking} == {"current", "a", "b"}
    compared = result.decision.horizon > 0
    assert compared == (result.decision.ground is Ground.COMPARED)
    if not compared:
        assert result.decision.verdict is Verdict.UNDECIDED


def test_a_locked_rate_is_the_only_one() -> None:
    result = race(task_of(lr=0.1), [current(), xavier("a")])
    assert {t.lr for t in result.trials} == {0.1}


def test_candidates_must_hold_the_current_weights_once() -> None:
    for schemes in ([xavier("a")], [current(), xavier("a"), xavier("a")]):
        with pytest.raises(InputError, match="candidates"):
            race(task_of(), schemes)


def test_another_draw_of_the_current_weights_takes_no_part() -> None:
    """It would win now and then by chance alone, and nobody would be helped."""
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
    data = [(x, x.sum(1, keepdim=True)) for x, _ in blobs()]
    batch = data[0][0]
    default = torch_default_scheme(analyze(model, batch))
    result = race(task_of(model, data=data), [current(), default, xavier("other")])
    entry = next(e for e in result.ranking if e.scheme == TORCH_DEFAULT)
    assert (entry.status, entry.steps) == (Status.GATED, 0)
    assert "already drawn like this" in entry.why
    assert TORCH_DEFAULT not in {t.scheme for t in result.trials}
