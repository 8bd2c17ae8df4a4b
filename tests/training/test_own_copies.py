"""Each run has copies of its own of whatever a training can change, whichever way that is reached."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import tanh_mlp
from torch import nn
from trainings import SCHEMES, assert_same, members, task_of

from initadvisor.errors import InputError
from initadvisor.reach import reach
from initadvisor.training.engine.batched import batching_of, train_batched
from initadvisor.training.engine.loop import evaluate, train_members
from initadvisor.training.engine.member import pack, unpack
from initadvisor.training.engine.weights import NotBatchableError
from initadvisor.twins import Originals

# -- modules that hold functions over their own parts ------------------------------------------------------------------


class OverPart(nn.Module):
    """As minGPT's block: a lambda over a variable of the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = fc = nn.Linear(4, 3)
        self.run: Any = lambda x: fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


class OverSelf(OverPart):
    def __init__(self) -> None:
        super().__init__()
        self.run = lambda x: self.fc(x)


class OverDefault(OverPart):
    def __init__(self) -> None:
        super().__init__()

        def run(x: torch.Tensor, part: nn.Module = self.fc) -> torch.Tensor:
            return part(x)

        self.run = run


class OverTable(OverPart):
    def __init__(self) -> None:
        super().__init__()
        fc = self.fc
        self.run = lambda x: self.table["fc"][0](x)
        self.table = {"fc": [lambda x: fc(x)]}


class OverPartial(OverPart):
    def __init__(self) -> None:
        super().__init__()
        self.run = partial(lambda part, x: part(x), self.fc)


class OverMethod(OverPart):
    def __init__(self) -> None:
        super().__init__()
        self.run = self.fc.forward


class OverDecorated(OverPart):
    def __init__(self) -> None:
        super().__init__()
        fc = self.fc

        def traced(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def inner(*args: Any) -> Any:
                return function(*args)

            return inner

        self.run = traced(lambda x: fc(x))


class OverWeak(OverPart):
    def __init__(self) -> None:
        super().__init__()
        self.me = weakref.ref(self)
        self.run = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.me().fc(x)  # type: ignore[union-attr]


class OverHook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.kept = nn.Linear(4, 3), {}
        self.fc.register_forward_hook(lambda module, args, output: self.kept.update(out=output))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fc(x)
        return self.kept["out"]


HOLDING = [OverPart, OverSelf, OverDefault, OverTable, OverPartial, OverMethod, OverDecorated, OverWeak, OverHook]


@pytest.mark.parametrize("make", HOLDING)
def test_a_copy_computes_with_its_own_weights(make: Callable[[], nn.Module]) -> None:
    model = make()
    task = task_of(model)
    twin = task.member()
    task.compute_loss(twin, task.sample).backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        twin.fc.weight.fill_(torch.nan)
    assert bool(task.compute_loss(twin, task.sample).isnan())
    assert bool(task.compute_loss(model, task.sample).isfinite())


class Cached(nn.Module):
    """A function in a cache of the standard library cannot be made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.part = functools.lru_cache(maxsize=None)(lambda: self.fc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part()(x)


class OnClass(nn.Module):
    """A network on the class is one for all instances."""

    shared = nn.Linear(4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.shared(x))


@pytest.mark.parametrize(("make", "named"), [(Cached, "fc.weight"), (OnClass, "shared.weight")])
def test_what_cannot_be_copied_is_told_by_name(make: Callable[[], nn.Module], named: str) -> None:
    model = make()
    with pytest.raises(InputError, match="is no copy") as told:
        task_of(model)
    assert named in str(told.value)
    assert "\n" not in str(told.value)
    assert all(p.grad is None for p in model.parameters())
    assert OnClass.shared.weight.grad is None


class Counted(nn.Module):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.calls += 1
        return self.fc(x)


def test_a_counter_on_a_class_is_put_back_and_told() -> None:
    task = task_of(Counted())
    assert Counted.calls == 0
    assert any("Counted" in note and "shared by all runs" in note for note in task.notes)


# -- what a loss reaches -----------------------------------------------------------------------------------------------

CRITIC = nn.Linear(3, 3)
STEPS = 0


def by_global(model: nn.Module, batch: Any) -> torch.Tensor:
    global STEPS
    STEPS += 1
    return train_critic(CRITIC, model, batch) * (1 + 0.1 * STEPS)


def train_critic(critic: nn.Module, model: nn.Module, batch: Any) -> torch.Tensor:
    x, y = batch
    if torch.is_grad_enabled():
        with torch.no_grad():
            for p in critic.parameters():
                p.mul_(0.9)
    return F.cross_entropy(critic(model(x)), y)


def by_closure() -> Callable[..., torch.Tensor]:
    critic, history = nn.Linear(3, 3), [0.0]

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        value = train_critic(critic, model, batch)
        history.append(float(value.detach()))
        return value * (1 + 0.1 * len(history))

    return loss


def by_optimizer() -> Callable[..., torch.Tensor]:
    critic = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(critic.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        if torch.is_grad_enabled():
            optimizer.zero_grad()
            F.cross_entropy(critic(model(x).detach()), y).backward()
            optimizer.step()
            schedule.step()
        return F.cross_entropy(critic(model(x)), y)

    return loss


class Method:
    def __init__(self) -> None:
        self.critic, self.noise = nn.Linear(3, 3), np.zeros(3)

    def __call__(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.noise += 0.1
        return train_critic(self.critic, model, batch) * (1 + float(self.noise[0]))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return self(model, batch)


def by_partial() -> Callable[..., torch.Tensor]:
    return partial(train_critic, nn.Linear(3, 3))


def by_default() -> Callable[..., torch.Tensor]:
    def loss(model: nn.Module, batch: Any, *, critic: nn.Module = nn.Linear(3, 3)) -> torch.Tensor:  # noqa: B008
        return train_critic(critic, model, batch)

    return loss


def by_generator() -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(model(x + 0.1 * torch.randn(x.shape, generator=generator)), y)

    return loss


def by_attribute() -> Callable[..., torch.Tensor]:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        loss.count += 1  # type: ignore[attr-defined]
        x, y = batch
        return F.cross_entropy(model(x), y) * (1 + 0.1 * loss.count)  # type: ignore[attr-defined]

    loss.count = 0  # type: ignore[attr-defined]
    return loss


def by_queue() -> Callable[..., torch.Tensor]:
    """A replay buffer: tensors that were not there at the start."""
    kept: list[torch.Tensor] = []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        if torch.is_grad_enabled():
            kept.append(x[:2].clone())
        again = torch.cat(kept or [x])
        return F.cross_entropy(model(x), y) + 0.1 * model(again).square().mean()

    return loss


LOSSES: dict[str, Callable[[], Callable[..., torch.Tensor]]] = {
    "global": lambda: by_global,
    "closure": by_closure,
    "optimizer": by_optimizer,
    "object": Method,
    "method": lambda: Method().loss,
    "partial": by_partial,
    "default": by_default,
    "generator": by_generator,
    "attribute": by_attribute,
    "queue": by_queue,
}


def state_of(loss: Any) -> list[Any]:
    """Bits of all tensors, and text of all else that is reached."""
    nodes = reach({"loss": loss}).nodes
    return [n.value.tolist() if isinstance(n.value, torch.Tensor) else n.path for n in nodes] + [STEPS]


@pytest.mark.parametrize("name", LOSSES)
def test_each_run_changes_its_own(name: str) -> None:
    """Runs side by side, one after another and one that goes on in another process have the same course."""
    loss = LOSSES[name]()
    before = state_of(loss)
    task = task_of(tanh_mlp(), loss=loss, optimizer=torch.optim.SGD)
    assert task.carries
    states = members(task)[:3]
    whole = train_members(task, SCHEMES, states, 8, (4, 8))
    assert not any(s.message for s in whole)
    again = train_members(task, SCHEMES, states[::-1], 8, (4, 8))
    assert_same(whole, again, rtol=0)
    half = [unpack(pack(s)) for s in train_members(task, SCHEMES, states, 4, (4,))]
    assert_same(whole, train_members(task, SCHEMES, half, 8, (4, 8)), rtol=0)
    assert state_of(loss) == before


@pytest.mark.parametrize("name", LOSSES)
def test_stacks_give_the_same_or_refuse(name: str) -> None:
    task = task_of(tanh_mlp(), loss=LOSSES[name](), optimizer=torch.optim.SGD)
    states = members(task)
    try:
        batching = batching_of(task)
    except NotBatchableError as reason:
        assert "writes to" in str(reason)
        return
    looped = train_members(task, SCHEMES, states, 6, (6,))
    assert_same(looped, train_batched(task, SCHEMES, states, 6, (6,), None, batching))
    half = train_batched(task, SCHEMES, states, 3, (3,), None, batching)
    done = train_batched(task, SCHEMES, half, 6, (6,), None, batching)
    assert [s.train for s in sorted(done, key=lambda s: s.key)] == [
        pytest.approx(s.train, rel=1e-5) for s in sorted(looped, key=lambda s: s.key)
    ]


def test_to_score_is_not_to_train() -> None:
    critic = nn.Linear(3, 3)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        with torch.no_grad():
            critic.weight.mul_(0.9)
        return F.cross_entropy(critic(model(x)), y)

    task = task_of(tanh_mlp(), loss=loss)
    twin = task.member()
    assert evaluate(task, twin, 0) == evaluate(task, twin, 0)


def test_a_loss_that_closes_over_the_model_itself_means_the_copy() -> None:
    model = tanh_mlp()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target) + model[0].weight.square().mean()

    task = task_of(model, loss=loss)
    twin = task.member()
    with torch.no_grad():
        twin[0].weight.fill_(torch.nan)
    assert bool(task.compute_loss(twin, task.sample).isnan())
    assert bool(task.compute_loss(task.member(), task.sample).isfinite())


def test_trained_parts_of_the_loss_reach_the_factory_s_optimizer() -> None:
    """As a learned temperature: the loss and the factory of optimizers hold one module, and so do their copies."""
    weighting = nn.Linear(3, 3)
    task = task_of(
        tanh_mlp(),
        loss=lambda output, target: F.cross_entropy(weighting(output), target),
        optimizer=lambda params: torch.optim.SGD([*params, *weighting.parameters()], lr=0.1),
    )
    before = copy.deepcopy(weighting.state_dict())
    states = members(task)[:2]
    done = train_members(task, SCHEMES, states, 4, (4,))
    assert not any(s.message for s in done)
    half = [unpack(pack(s)) for s in train_members(task, SCHEMES, states, 2, (2,))]
    assert_same(done, [_without(s, 2) for s in train_members(task, SCHEMES, half, 4, (4,))], rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in weighting.state_dict().items())


def _without(state: Any, step: int) -> Any:
    from dataclasses import replace

    return replace(state, heldout=tuple(pair for pair in state.heldout if pair[0] != step))


def test_what_connects_to_elsewhere_is_shared() -> None:
    """Locks, files, loggers, modules and data can or should not be copied; what holds them is."""
    import logging
    import threading

    lock, data = threading.Lock(), torch.zeros(1 << 23)
    held = {"lock": lock, "log": logging.getLogger("a"), "np": np, "data": data, "list": [1], "critic": CRITIC}
    made = Originals({"held": held}).copy()["held"]
    assert all(made[k] is held[k] for k in ("lock", "log", "np", "data"))
    assert made["list"] == [1]
    assert made["list"] is not held["list"]
    assert made["critic"].weight is not CRITIC.weight


def test_attributes_of_parameters_are_copied_too() -> None:
    model = nn.Linear(2, 2)
    model.weight.group = {"lr": 0.1}  # type: ignore[attr-defined]
    twin = Originals({"model": model}).copy()["model"]
    assert twin.weight.group == {"lr": 0.1}
    assert twin.weight.group is not model.weight.group  # type: ignore[attr-defined]
