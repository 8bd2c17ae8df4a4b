from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import SPEC, blobs, current, tanh_mlp, xavier
from torch import nn

from initadvisor.training.task import make_task
from initadvisor.trials.result import Decision
from initadvisor.trials.run import run_race

SGD = torch.optim.SGD


def diagnosis(model: nn.Module, data: object, **settings: object) -> tuple[str, ...]:
    return decision(model, data, **settings).diagnosis


def decision(model: nn.Module, data: object, **settings: object) -> Decision:
    task = make_task(model, data, **{"optimizer": SGD, "lr": 0.1, "steps": 60, **settings})
    return run_race(task, [current(), xavier("a"), xavier("b", 1.5), xavier("c", 0.7)], SPEC, budget=1200).decision


def says(found: tuple[str, ...], words: str) -> bool:
    return any(words in sentence for sentence in found)


def test_a_healthy_training_has_no_diagnosis() -> None:
    assert diagnosis(tanh_mlp(), blobs(batches=30)) == ()


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_a_softmax_before_a_cross_entropy(loss: Any) -> None:
    raw = blobs(batches=30)
    assert says(diagnosis(nn.Sequential(tanh_mlp(), nn.Softmax(1)), raw, loss=loss), "ends in a softmax")
    assert not says(diagnosis(nn.Sequential(tanh_mlp(), nn.LogSoftmax(1)), raw, loss=loss), "softmax")
    broken = tanh_mlp()
    broken[-1].weight.data[0, 0] = torch.nan
    assert not says(diagnosis(broken, raw, loss=loss), "softmax")
    assert not says(diagnosis(nn.Sequential(tanh_mlp(), nn.Sigmoid()), raw, loss=loss), "softmax")


@pytest.mark.parametrize("loss", [None, nn.BCEWithLogitsLoss(), nn.functional.binary_cross_entropy_with_logits])
def test_a_sigmoid_before_a_cross_entropy_of_scores(loss: Any) -> None:
    raw = [(x, (y > 0).float()[:, None]) for x, y in blobs(batches=30)]
    if loss is None:
        raw = [(x, y.long()) for x, y in raw]  # to be told from a regression
    scores = nn.Sequential(tanh_mlp(), nn.Tanh(), nn.Linear(tanh_mlp()[-1].out_features, 1))
    with torch.no_grad():
        scores[-1].weight.mul_(0.01)
        scores[-1].bias.fill_(0.5)  # scores between 0 and 1, by chance
    assert not says(diagnosis(scores, raw, loss=loss), "sigmoid")
    assert says(diagnosis(nn.Sequential(scores, nn.Sigmoid()), raw, loss=loss), "ends in a sigmoid")
    squared = nn.functional.mse_loss
    assert not says(diagnosis(nn.Sequential(scores, nn.Sigmoid()), raw, loss=squared), "sigmoid")


def test_times_beside_the_data_are_not_told_to_be_standardised() -> None:
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tanh_mlp()

        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return self.net(x) * (time[:, None] / 1000)

    raw = [((x, 1000 * torch.rand(len(x))), y) for x, y in blobs(batches=30)]

    def loss(model: nn.Module, batch: tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(*batch[0]), batch[1])

    assert not says(diagnosis(Timed(), raw, loss=loss), "not standardised")


def test_data_far_from_unit_scale() -> None:
    raw = [(100 * x + 30, y) for x, y in blobs()]
    assert says(diagnosis(tanh_mlp(), raw), "not standardised")
    uneven = [(x * torch.tensor([1.0, 1.0, 1.0, 1e-3]), y) for x, y in blobs()]
    assert says(diagnosis(tanh_mlp(), uneven), "different scales")


def test_shuffled_labels() -> None:
    g = torch.Generator().manual_seed(0)
    noise = [(torch.randn(32, 4, generator=g), torch.randint(3, (32,), generator=g)) for _ in range(6)]
    few = diagnosis(tanh_mlp(width=128), noise, optimizer=torch.optim.Adam, lr=0.01, steps=150)
    assert says(few, "shuffled") or says(few, "below the loss of guessing")


def test_a_loss_at_chance_for_every_scheme() -> None:
    silent = [(torch.zeros(32, 4), y) for _, y in blobs()]
    assert says(diagnosis(tanh_mlp(), silent), "below the loss of guessing")


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lost, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.lost(x).detach())


def test_a_layer_that_no_gradient_reaches() -> None:
    assert says(diagnosis(Detached(), blobs()), "no gradient reaches lost.weight")


def test_a_frozen_layer_needs_none() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    assert not says(diagnosis(model, blobs()), "no gradient reaches")
    assert not says(diagnosis(tanh_mlp(), blobs()), "no gradient")


def test_the_best_rate_at_the_edge_of_the_grid() -> None:
    assert says(diagnosis(tanh_mlp(), blobs(), lr=(1e-5, 1e-4, 1e-3)), "the highest learning rate tried (0.001)")
    assert not says(diagnosis(tanh_mlp(), blobs(), lr=0.1), "edge")


def test_rates_that_matter_more_than_schemes() -> None:
    assert says(diagnosis(nn.Linear(4, 3), blobs(batches=20), lr=(1e-4, 0.3)), "matters more than the scheme")


def test_over_fitting_is_told_and_scored_by_the_best_checkpoint() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(80, 4, generator=g)
    y = ((x[:, 0] + 0.8 * torch.randn(80, generator=g)) > 0).long()
    found = decision(tanh_mlp(width=128, outputs=2), (x, y), optimizer=torch.optim.Adam, lr=0.03, steps=100)
    assert says(found.diagnosis, "over-fits")
