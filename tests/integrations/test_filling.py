"""What is put in before the first step: where it belongs, into copies too, and into nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.integrations.scripts.agent import ScriptEnd
from initadvisor.integrations.scripts.messages import Filled, Filling, Job, Stepped, Task
from tests.integrations import scripted
from tests.integrations.scripted import InProcess, watched

CONSTANT = """
format: 1
name: constant
rules:
  - {match: "**.weight", init: constant, args: {value: 0.125}, reason: to be seen}
  - {match: "**.bias", init: zeros, reason: to be seen}
"""

KEEP = """
format: 1
name: keep
rules:
  - {match: "**", init: keep, reason: nothing is changed}
"""


def run_with(recipe: str, train: Any, steps: int = 4, **filling: Any) -> tuple[Any, list[Any]]:
    agent = InProcess(Job(Task.RUN, fillings=(Filling(recipe=recipe, **filling),)), answers=[True] * 8)
    agent.start()
    try:
        result = train(steps)
    finally:
        agent.release()
    return result, agent.told


def seen_by(model_of: Any, loss_of: Any) -> Any:
    """A training of one step that gives back the weights as they were before it."""

    def train(steps: int) -> Any:
        torch.manual_seed(0)
        model = model_of()
        opt = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        loss_of(model).backward()
        opt.step()
        return model

    return train


def test_weights_are_there_before_anything_is_computed() -> None:
    outputs: list[torch.Tensor] = []

    def train(steps: int) -> nn.Module:
        model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.ones(2, 4)
        opt = torch.optim.SGD(model.parameters(), lr=0.0)
        with torch.no_grad():  # a roll-out comes before the first loss
            outputs.append(model(x))
        outputs.append(model(x))
        outputs[-1].sum().backward()
        opt.step()
        return model

    _, told = run_with(CONSTANT, train)
    assert [len(t) for t in told] == [1]
    assert isinstance(told[0][0], Filled)
    assert (told[0][0].tensors, told[0][0].fault) == (2, "")
    for output in outputs:
        assert torch.allclose(output, torch.full((2, 3), 0.5).tanh())


def test_parts_are_filled_before_the_first_of_them_runs() -> None:
    outputs: list[torch.Tensor] = []

    def train(steps: int) -> None:
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder, self.decoder = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))

        both = Both()
        opt = torch.optim.SGD(both.parameters(), lr=0.0)
        outputs.append(both.decoder(both.encoder(torch.ones(1, 4))))
        outputs[0].sum().backward()
        opt.step()

    run_with(CONSTANT, train)
    assert torch.allclose(outputs[0], torch.full((1, 4), 0.25))


def test_copies_start_where_their_source_starts() -> None:
    def train(steps: int) -> tuple[nn.Module, nn.Module, dict[str, torch.Tensor], nn.Module, nn.Module]:
        torch.manual_seed(0)
        online, other = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        target = copy.deepcopy(online).requires_grad_(False)
        average = torch.optim.swa_utils.AveragedModel(online)
        shadow = {name: p.detach().clone() for name, p in online.named_parameters()}
        opt = torch.optim.SGD(online.parameters(), lr=0.0)
        F.mse_loss(online(torch.ones(2, 8)), target(torch.ones(2, 8))).backward()
        opt.step()
        return online, target, shadow, other, average

    (online, target, shadow, other, average), told = run_with(CONSTANT, train)
    assert bool((online[0].weight == 0.125).all())
    assert torch.equal(target[0].weight, online[0].weight)
    assert torch.equal(average.module[0].weight, online[0].weight)
    assert torch.equal(shadow["0.weight"], online[0].weight)
    assert not bool((other[0].weight == 0.125).any())  # of the same shape, but no copy
    assert told[0][0].copies == 6  # weight and bias of three copies


@pytest.mark.parametrize("name", ["plain", "noisy", "closure", "averaged", "compiled", "recurrent", "in_parts"])
def test_a_recipe_that_keeps_everything_changes_nothing(name: str) -> None:
    train = scripted.TRAININGS[name]
    plain = train(4)
    result, told = run_with(KEEP, train)
    assert result == plain
    assert [f.fault for t in told for f in t] == [""]


def test_frozen_weights_stay() -> None:
    def model_of() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        model[0].requires_grad_(False)
        return model

    before = seen_by(model_of, lambda m: m(torch.ones(1, 4)).sum())(1)
    recipe = CONSTANT.replace("**.weight", "2.weight").replace("**.bias", "2.bias")
    after, told = run_with(recipe, seen_by(model_of, lambda m: m(torch.ones(1, 4)).sum()))
    assert told[0][0].fault == ""
    assert torch.equal(after[0].weight, before[0].weight)
    assert bool((after[2].weight == 0.125).all())


def test_two_networks_that_fit_ask_for_a_name() -> None:
    agent = InProcess(Job(Task.RUN, fillings=(Filling(recipe=CONSTANT),)), answers=[None])
    agent.start()
    try:
        with pytest.raises(ScriptEnd):  # nothing is trained without what was asked for
            scripted.gan(2)
    finally:
        agent.release()
    assert "fits several networks" in agent.told[0][0].fault
    _, told = run_with(CONSTANT, scripted.gan, network="netD")
    assert [(f.network, f.tensors, f.fault) for f in told[0]] == [("netD", 4, "")]


def test_a_scheme_finds_its_network_again() -> None:
    _, seen = watched(scripted.gan, propose=True)
    generator = seen.networks[0]
    name = next(s.name for s in generator.schemes if s.name.startswith("rules"))
    job = Job(
        Task.TRIAL,
        fillings=(Filling(generator.key, generator.packed[name], seed=3),),
        counted=seen.optimizers[0].number,
    )
    agent = InProcess(job, answers=[2, 5, 0])
    agent.start()
    try:
        with pytest.raises(ScriptEnd):
            scripted.gan(9)
    finally:
        agent.release()
    filled, first, second = agent.told
    assert [(f.network, f.fault) for f in filled] == [("Sequential", "")]
    assert isinstance(first, Stepped)
    assert (first.steps, len(first.losses), second.steps, len(second.losses)) == (2, 2, 5, 3)
    plain, _ = watched(scripted.gan, steps=5)
    # The discriminator is what it is without; the generator's weights, and so its loss, are others.
    assert [*first.losses, *second.losses] != pytest.approx(plain)
