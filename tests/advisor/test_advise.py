"""`advise` end to end on small trainings: the verdict, what it saves, and the promises of the contract."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initadvisor
from initadvisor.schemes.scheme import Scheme
from initadvisor.types import CURRENT, TORCH_DEFAULT


def blobs(count: int = 512, classes: int = 4, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    centres = torch.randn(classes, 16, generator=g)
    y = torch.randint(classes, (count,), generator=g)
    return centres[y] + noise * torch.randn(count, 16, generator=g), y


def deep_tanh(layers: int = 24) -> nn.Sequential:
    torch.manual_seed(0)
    inner = [part for _ in range(layers) for part in (nn.Linear(16, 16), nn.Tanh())]
    return nn.Sequential(*inner, nn.Linear(16, 4))


def batches(count: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = blobs(64 * count)
    return list(zip(x.split(64), y.split(64), strict=True))


@pytest.fixture(scope="module")
def switch() -> tuple[nn.Module, initadvisor.Advice]:
    """Advice where the right answer is known: a deep tanh net that does not train as torch builds it."""
    model = deep_tanh()
    sgd = partial(torch.optim.SGD, momentum=0.9)
    advice = initadvisor.advise(
        model,
        batches(),
        optimizer=sgd,
        lr=(0.01, 0.03),
        steps=120,
        budget=6000,  # in steps, so that a busy machine gives the same advice as an idle one
        candidates=["rules_orthogonal", "xavier_normal", "he_normal"],
        progress=False,
    )
    return model, advice


def train(model: nn.Module, lr: float, steps: int) -> float:
    torch.manual_seed(77)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    data = batches(12)
    for step in range(steps):
        x, y = data[step % 10]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(data[10][0]), data[10][1]))


def test_a_net_that_does_not_train_is_told_what_does(switch: tuple[nn.Module, initadvisor.Advice]) -> None:
    model, advice = switch
    assert advice.decision.verdict == "switch"
    low, high = advice.decision.interval
    assert 0 < low <= high
    assert advice.decision.effect > 0
    assert advice.decision.p_better > 0.9
    advised = copy.deepcopy(model)
    advice.apply(advised)
    assert train(copy.deepcopy(model), advice.lr, 120) > 1.3  # ln 4 = 1.386: nothing learned
    assert train(advised, advice.lr, 120) < 0.5


def test_the_saved_recipe_gives_the_same_weights(switch: tuple[nn.Module, initadvisor.Advice], tmp_path: Path) -> None:
    _, advice = switch
    one, two = deep_tanh(), deep_tanh()
    advice.apply(one)
    path = advice.save(tmp_path / "recipe.yaml")
    initadvisor.load_recipe(path).apply(two, batches()[0], seed=advice.evidence.seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    three = deep_tanh()
    initadvisor.load_recipe(path).apply(three, seed=advice.evidence.seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_the_code_gives_the_same_weights(switch: tuple[nn.Module, initadvisor.Advice]) -> None:
    _, advice = switch
    one, two = deep_tanh(), deep_tanh()
    advice.apply(one)
    code: dict[str, Any] = {}
    exec(advice.recipe.to_code(), code)
    code["init_weights"](two)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_report_says_what_to_do_first(switch: tuple[nn.Module, initadvisor.Advice]) -> None:
    _, advice = switch
    lines = [line for line in advice.report(width=100, color=False).splitlines() if line.strip()]
    assert advice.decision.scheme in " ".join(lines[:4])
    assert "tanh" in advice.report(width=100, color=False)


def test_the_ranking_holds_both_baselines_and_is_sorted(switch: tuple[nn.Module, initadvisor.Advice]) -> None:
    _, advice = switch
    names = [e.scheme for e in advice.ranking]
    assert {CURRENT, TORCH_DEFAULT} <= set(names)
    assert len(names) == len(set(names))
    assert advice.evidence.schemes[0].name == CURRENT


def test_cost_is_counted(switch: tuple[nn.Module, initadvisor.Advice]) -> None:
    _, advice = switch
    trained = sum(t.steps for t in advice.evidence.race.trials)
    assert advice.cost.model_steps >= trained > 0
    assert advice.cost.share_of_full is not None


def test_where_nothing_matters_the_weights_are_kept() -> None:
    """A two-layer net on easy data trains as it is: no false switch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    advice = initadvisor.advise(
        model, batches(), optimizer=torch.optim.Adam, lr=0.01, steps=150, budget=4000, progress=False
    )
    assert advice.decision.verdict in ("keep", "undecided")
    assert advice.decision.scheme == CURRENT
    before = copy.deepcopy(model.state_dict())
    advice.apply(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_same_seed_gives_the_same_advice() -> None:
    def ask() -> initadvisor.Advice:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
        return initadvisor.advise(
            model, batches(4), optimizer=torch.optim.SGD, lr=0.1, budget=150, seed=5, progress=False
        )

    one, two = ask(), ask()
    assert [(e.scheme, e.lr, e.score) for e in one.ranking] == [(e.scheme, e.lr, e.score) for e in two.ranking]


def test_own_candidates_take_part() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    names = [s.name for s in initadvisor.propose(model, batches(1)[0])]
    wanted = next(n for n in names if n not in (CURRENT, TORCH_DEFAULT))
    advice = initadvisor.advise(
        model, batches(4), lr=0.1, optimizer=torch.optim.SGD, budget=80, candidates=[wanted], progress=False
    )
    assert [s.name for s in advice.evidence.schemes] == [CURRENT, TORCH_DEFAULT, wanted]
    own: Scheme = advice.evidence.schemes[2]
    again = initadvisor.advise(
        model, batches(4), lr=0.1, optimizer=torch.optim.SGD, budget=80, candidates=[own], progress=False
    )
    assert own.name in [s.name for s in again.evidence.schemes]


X, Y = blobs(64)


@pytest.mark.parametrize(
    ("model", "data", "more", "says"),
    [
        ("a string", (X, Y), {}, "nn.Module"),
        (nn.ReLU(), (X, Y), {}, "no trainable parameter"),
        (nn.Linear(16, 4).requires_grad_(False), (X, Y), {}, "no trainable parameter"),
        (nn.Linear(5, 4), (X, Y), {}, "mat1"),
        (nn.Linear(16, 4), (X * float("nan"), Y), {}, "NaN"),
        (nn.Linear(16, 4), X, {}, "loss"),
        (nn.Linear(16, 4), (X, torch.zeros(64, 7, 9)), {}, "loss"),
        (nn.Linear(16, 4), [], {}, "batch"),
        (nn.Linear(16, 4), (X, Y), {"budget": "huge"}, "budget"),
        (nn.Linear(16, 4), (X, Y), {"candidates": ["orthogonl"]}, "orthogon"),
        (nn.Linear(16, 4), (X, Y), {"lr": -1.0}, "lr"),
        (nn.Linear(16, 4), (X, Y), {"steps": 0}, "steps"),
        (nn.Linear(16, 4), (X, Y), {"storage": "sqlite:////no/such/folder/x.db"}, "storage"),
        (nn.Linear(16, 4), (X, Y), {"protect": ["nothing.matches"]}, "protect"),
    ],
)
def test_bad_input_is_named_in_one_line(model: Any, data: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(initadvisor.InitAdvisorError, match=says) as caught:
        initadvisor.advise(model, data, progress=False, **more)
    assert "\n" not in str(caught.value)
