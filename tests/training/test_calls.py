"""What a loss calls the model with is what is analysed, advised on and checked."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initadvisor
from initadvisor.errors import AnalysisError, InputError
from initadvisor.graph.capture import capture
from initadvisor.graph.spec import ModelSpec
from initadvisor.training.calls import batch_as_called, read_training, trained_batch
from initadvisor.training.data import Batch
from initadvisor.training.engine.batched import batching_of
from initadvisor.training.losses import Loss, LossKind, told_kind
from initadvisor.training.task import make_task
from initadvisor.types import Role

Raw = Any
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


class Denoiser(nn.Module):
    """Takes a noise level beside the data, as diffusion models do."""

    def __init__(self) -> None:
        super().__init__()
        self.level, self.net = nn.Linear(1, 6), mlp(6, 16, 16, 6)

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return self.net(x + self.level(level[:, None]))


def denoising(model: nn.Module, x: Raw) -> torch.Tensor:
    level, noise = torch.rand(len(x)), torch.randn_like(x)
    return F.mse_loss(model(x + level[:, None] * noise, level), noise)


class Autoencoder(nn.Module):
    """Has no forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.spread = mlp(6, 16, 16), nn.Linear(16, 3), nn.Linear(16, 3)
        self.decoder = mlp(3, 16, 6)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(x).relu()
        return self.mean(h), self.spread(h)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(z)


def evidence_bound(model: Any, x: Raw) -> torch.Tensor:
    mean, spread = model.encode(x)
    out = model.decode(mean + torch.randn_like(mean) * (spread / 2).exp())
    return F.mse_loss(out, x) - 0.5 * (1 + spread - mean**2 - spread.exp()).sum(1).mean()


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = mlp(4, 16, 6), mlp(6, 16, 1, activation=nn.Tanh)


def adversarial(model: Any, x: Raw) -> torch.Tensor:
    made = model.generator(torch.randn(len(x), 4))
    fooled = F.softplus(-model.critic(made)).mean()
    return fooled + F.softplus(model.critic(made.detach())).mean() + F.softplus(-model.critic(x)).mean()


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.actions, self.value = mlp(6, 16, 16, activation=nn.Tanh), nn.Linear(16, 3), nn.Linear(16, 1)

    def act(self, x: torch.Tensor) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=self.actions(self.body(x).tanh()))

    def judge(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(self.body(x).tanh()).squeeze(-1)


def actor_critic(m: Any, b: Raw) -> torch.Tensor:
    x, action, advantage, returns = b
    policy = m.act(x)
    return (
        -(policy.log_prob(action) * advantage).mean() + (m.judge(x) - returns).square().mean() - policy.entropy().mean()
    )


def steps_of(count: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(count, 6), torch.randint(3, (count,)), torch.randn(count), torch.randn(count)


class Bare(nn.Module):
    """Weights of its own and no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(16, 3))
        self.scale = nn.Parameter(torch.zeros(()))

    def score(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.first) @ self.second * self.scale.exp()


def penalised(model: Any, x: Raw) -> torch.Tensor:
    penalty = torch.stack([p.square().sum() for p in model.parameters()]).sum()
    return model.score(x).square().mean() + 1e-4 * penalty


def derivative(model: nn.Module, x: Raw) -> torch.Tensor:
    """A physics-informed loss: calls the model twice and differentiates it by its input."""
    x = x.detach().requires_grad_(True)
    slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
    return (slope - x).square().mean() + model(torch.zeros(1, 6)).square().mean()


class Halves(nn.Module):
    """One forward for two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp(6, 8, 6), mlp(6, 8, 6)

    def forward(self, x: torch.Tensor, side: str) -> torch.Tensor:
        return self.left(x) if side == "left" else self.right(x)


def both(model: nn.Module, x: Raw) -> torch.Tensor:
    return (model(model(x, "left"), "right") - x).square().mean()


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 16, 1, activation=nn.Tanh)

    def potential(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def force(model: Any, x: Raw) -> torch.Tensor:
    x = x.detach().requires_grad_(True)
    return (torch.autograd.grad(model.potential(x).sum(), x, create_graph=True)[0] - x).square().mean()


Case = tuple[Callable[[], nn.Module], Any, Callable[..., torch.Tensor]]
CASES: dict[str, Case] = {
    "denoiser": (Denoiser, X, denoising),
    "autoencoder": (Autoencoder, X, evidence_bound),
    "pair": (Pair, X, adversarial),
    "policy": (Policy, steps_of(32), actor_critic),
    "bare": (Bare, X, penalised),
    "derivative": (lambda: mlp(6, 16, 1, activation=nn.Tanh), X, derivative),
    "halves": (Halves, X, both),
    "field": (Field, X, force),
}


def roles(spec: ModelSpec) -> dict[str, Role]:
    return {p.path: p.role for p in spec.params if p.role is not Role.BIAS}


@pytest.mark.parametrize("name", CASES)
def test_all_is_understood(name: str) -> None:
    build, raw, loss = CASES[name]
    spec = initadvisor.analyze(build(), raw, loss=loss)
    assert spec.coverage.complete, spec.coverage
    assert not spec.coverage.weak


def test_a_model_is_read_as_its_loss_calls_it() -> None:
    batch = trained_batch(Denoiser(), X, denoising)
    assert [tuple(a.shape) for a in batch.args] == [(32, 6), (32,)]
    assert batch.through is None
    assert batch.raw is X
    assert not torch.equal(batch.args[0], X)  # noised, as the training sees it


def test_what_the_loss_makes_of_outputs_is_no_part_of_the_model() -> None:
    model = Autoencoder()
    spec = initadvisor.analyze(model, X, loss=evidence_bound)
    assert not spec.branches  # the sum of two terms of the loss is no residual stream
    assert spec["mean.weight"].activation == "none"  # its square is the divergence's
    assert spec["decoder.2.weight"].role is Role.OUTPUT
    assert spec["body.0.weight"].role is Role.INPUT
    assert spec["decoder.0.weight"].depth == 4


def test_heads_that_only_the_loss_joins_are_outputs() -> None:
    spec = initadvisor.analyze(Policy(), steps_of(32), loss=actor_critic)
    assert spec["actions.weight"].role is spec["value.weight"].role is Role.OUTPUT
    assert spec["actions.weight"].activation == "none"


def test_weights_without_modules_are_seen_and_penalties_are_not_uses() -> None:
    spec = initadvisor.analyze(Bare(), X, loss=penalised)
    assert spec["first"].activation == "tanh"
    assert spec["second"].role is Role.OUTPUT
    assert spec["first"].uses == spec["second"].uses == 1


def test_arguments_are_those_before_the_model_writes_to_them() -> None:
    class Scrubbing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            x.zero_()
            return out

    def loss(model: nn.Module, x: Raw) -> torch.Tensor:
        return model(x.clone()).square().mean()

    assert torch.equal(trained_batch(Scrubbing(6, 3), X, loss).args[0], X)


def test_the_first_call_is_read_where_it_reaches_all() -> None:
    once = initadvisor.analyze(mlp(6, 16, 1, activation=nn.Tanh), X)
    twice = initadvisor.analyze(mlp(6, 16, 1, activation=nn.Tanh), X, loss=derivative)
    assert twice == once


def test_later_calls_are_read_where_the_first_does_not_reach_all() -> None:
    spec = initadvisor.analyze(Halves(), X, loss=both)
    assert spec.depth == 4
    assert spec["right.2.weight"].role is Role.OUTPUT


def test_a_criterion_is_no_part_of_the_model() -> None:
    criterion = nn.CrossEntropyLoss()
    labels = torch.randint(3, (32,))

    def loss(model: Any, batch: Raw) -> torch.Tensor:
        return criterion(model.actions(model.body(batch[0]).tanh()), batch[1]) + model.judge(batch[0]).square().mean()

    found = roles(initadvisor.analyze(Policy(), (X, labels), loss=loss))
    assert found["actions.weight"] is found["value.weight"] is Role.OUTPUT


def test_what_a_module_throws_away_is_no_output() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    model = nn.ModuleDict({"reader": Reader()})
    batch = trained_batch(model, X[:, None], lambda model, x: model["reader"](x).square().mean())
    graph = capture(model, batch)
    assert [graph.values[v].shape for v in graph.outputs] == [(32, 3)]


def test_the_watched_loss_draws_the_same_whatever_was_drawn_before() -> None:
    def loss(model: nn.Module, x: Raw) -> torch.Tensor:
        return model(x + torch.rand(1) + random.random() + float(np.random.rand())).square().mean()

    found = []
    for ambient in (0, 1):
        torch.manual_seed(ambient)
        random.seed(ambient)
        np.random.seed(ambient)
        found.append(trained_batch(mlp(6, 3), X, loss).args[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("name", CASES)
def test_advice_check_and_recipe_take_it(name: str) -> None:
    build, raw, loss = CASES[name]
    torch.manual_seed(1)
    model = build()
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    python = random.getstate()
    advice = initadvisor.advise(model, raw, loss=loss, budget=200, lr=0.01, progress=False)
    initadvisor.check(model, raw, loss=loss)
    schemes = initadvisor.propose(model, raw, loss=loss)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert python == random.getstate()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert advice.spec.coverage.complete
    assert len(schemes) > 3
    fresh = build()
    advice.recipe.apply(fresh, raw, loss=loss)
    assert initadvisor.analyze(fresh, raw, loss=loss).fingerprint == advice.spec.fingerprint


@pytest.mark.parametrize("name", ["denoiser", "autoencoder"])
def test_data_driven_steps_run_and_depend_on_their_seed_alone(name: str) -> None:
    build, raw, loss = CASES[name]
    schemes = {s.name: s for s in initadvisor.propose(build(), raw, loss=loss)}
    found = []
    for ambient in (0, 1):
        torch.manual_seed(5)
        model = build()
        torch.manual_seed(ambient)
        result = schemes["lsuv"].apply(model, seed=3, batch=raw, loss=loss)
        assert not any("undone" in note for note in result.notes), result.notes
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_batches_that_only_the_loss_can_take_come_in_any_form() -> None:
    one = make_task(Policy(), steps_of(64), loss=actor_critic, lr=0.1)
    several = make_task(Policy(), [steps_of(8) for _ in range(10)], loss=actor_critic, lr=0.1)
    assert one.separate and several.separate
    assert one.choosing.heldout[0].size == 13
    assert len(several.choosing.train) == 8
    assert one.sample.target is None  # not the last of its parts, from which an output's bias would be set


def test_batches_of_several_sizes_are_seen_to_be_such() -> None:
    uneven = make_task(Policy(), [steps_of(8 + i % 2) for i in range(10)], loss=actor_critic, lr=0.1)
    assert not batching_of(uneven).mixed
    assert batching_of(make_task(Policy(), [steps_of(8)] * 10, loss=actor_critic, lr=0.1)).mixed


def test_lazy_models_get_their_shapes_from_the_loss() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.LazyLinear(16), nn.Linear(16, 6)

        def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            return self.outer(torch.tanh(self.inner(x) + level[:, None]))

    model = Lazy()
    task = make_task(model, X, loss=denoising, lr=0.1)
    assert task.model.inner.weight.shape == (16, 6)  # type: ignore[union-attr]
    assert initadvisor.analyze(model, X, loss=denoising)["inner.weight"].role is Role.INPUT
    assert isinstance(model.inner.weight, nn.UninitializedParameter)


def test_a_list_of_batches_is_not_taken_for_the_parts_of_one() -> None:
    batches = list(X.split(4))
    assert make_task(Denoiser(), batches, loss=denoising, lr=0.1).sample.size == 4
    assert make_task(mlp(6, 8, 6), batches, loss=derivative, lr=0.1).sample.size == 4


def test_errors_say_how_to_mend_it() -> None:
    with pytest.raises(AnalysisError, match=r"give loss=\(model, batch\) -> scalar"):
        initadvisor.analyze(Denoiser(), X)
    with pytest.raises(InputError, match=r"give loss=\(model, batch\) -> scalar"):
        make_task(Denoiser(), X)
    with pytest.raises(InputError, match="4 parts"):
        initadvisor.analyze(mlp(6, 8, 3), steps_of(8))

    def broken(model: nn.Module, batch: Raw) -> torch.Tensor:
        raise KeyError("step")

    with pytest.raises(InputError, match="KeyError"):
        initadvisor.analyze(Denoiser(), X, loss=broken)


def test_a_model_that_is_broken_inside_gets_no_hint_about_its_call() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + "one"

    with pytest.raises(AnalysisError) as caught:
        initadvisor.analyze(Broken(), X)
    assert "loss=" not in str(caught.value)


def test_a_batch_that_was_read_is_not_read_again() -> None:
    model = Denoiser()
    batch, chosen = read_training(model, X, denoising)
    assert chosen is not None and chosen.kind is LossKind.MODEL_BATCH
    assert trained_batch(model, batch, chosen) is trained_batch(model, batch, denoising) is batch
    plain = Batch((X,), {}, X)
    assert batch_as_called(mlp(6, 6), plain, Loss(LossKind.SQUARED)) is plain


def test_names_that_tell_a_loss_apart() -> None:
    assert told_kind(F.mse_loss) is told_kind(nn.MSELoss()) is LossKind.OUTPUT_TARGET
    assert told_kind(denoising) is told_kind(lambda f, batch: f) is LossKind.MODEL_BATCH
    assert told_kind(actor_critic) is None


def test_on_meta_the_batch_alone_is_read() -> None:
    with torch.device("meta"):
        model = mlp(6, 8, 6)
    assert initadvisor.analyze(model, X, loss=derivative).coverage.complete


def test_a_reading_prints_as_a_table() -> None:
    spec = initadvisor.analyze(Denoiser(), X, loss=denoising)
    text = str(spec).splitlines()
    assert text[0] == repr(spec)
    assert "8 of 8 parameters understood" in text[0]
    assert [line.split()[:3] for line in text[2:4]] == [
        ["level.weight", "6×1", spec["level.weight"].role.value],
        ["net.0.weight", "16×6", spec["net.0.weight"].role.value],
    ]
    assert len(text) == 2 + 4
