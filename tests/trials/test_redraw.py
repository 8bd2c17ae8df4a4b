"""Another draw of what the weights already are is known as such; whatever differs in scale, shape or bias is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import binom
from torch import nn

from initadvisor.trials.redraw import ALPHA, is_redraw

MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)),
    "tiny": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
    "cnn": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)),
    "scalar": lambda: nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 1)),
    "lstm": lambda: nn.LSTM(8, 16, num_layers=2),
    "tables": lambda: nn.ModuleList([nn.Embedding(200, 8), nn.Embedding(200, 1)]),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def drawn(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def changed(model: nn.Module, how: Callable[[torch.Tensor], torch.Tensor], *, fewest_axes: int = 2) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= fewest_axes:
                p.copy_(how(p))
    return model


@every_model
def test_a_redraw_is_known_but_for_the_level_of_the_test(make: Callable[[], nn.Module]) -> None:
    count = 200
    missed = sum(not is_redraw(drawn(make, i), drawn(make, 1000 + i)) for i in range(count))
    assert missed <= binom.ppf(1 - 1e-4, count, ALPHA)


@every_model
@pytest.mark.parametrize(
    "how",
    [lambda p: 2 * p, lambda p: p / 2, torch.zeros_like, lambda p: nn.init.kaiming_normal_(torch.empty_like(p))],
    ids=["larger", "smaller", "zero", "he"],
)
def test_what_differs_is_no_redraw(
    make: Callable[[], nn.Module], how: Callable[[torch.Tensor], torch.Tensor], request: pytest.FixtureRequest
) -> None:
    if "tiny" in request.node.callspec.id and "zero" not in request.node.callspec.id:
        pytest.skip("58 weights do not show a factor of two for sure")
    count = 20
    found = sum(is_redraw(changed(drawn(make, i), how), drawn(make, 1000 + i)) for i in range(count))
    assert found == 0


def test_biases_count() -> None:
    make = MODELS["mlp"]
    assert not is_redraw(changed(drawn(make, 0), torch.zeros_like, fewest_axes=1), drawn(make, 1))
    model = drawn(make, 0)
    nn.init.zeros_(model.get_submodule("2").bias)
    assert not is_redraw(model, drawn(make, 1))


def test_frozen_weights_do_not_count_and_the_same_weights_are_no_draw() -> None:
    model, other = drawn(MODELS["mlp"], 0), drawn(MODELS["mlp"], 1)
    model.get_submodule("0").weight.requires_grad_(False).fill_(7.0)  # type: ignore[operator]
    assert is_redraw(model, other)
    assert not is_redraw(other, other)
    assert not is_redraw(drawn(MODELS["tiny"], 0), other)


def test_training_shows() -> None:
    make = MODELS["mlp"]
    model = drawn(make, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.randn(256, 20, generator=torch.Generator().manual_seed(0))
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, :3]).argmax(1)).backward()
        optimizer.step()
    assert not is_redraw(model, drawn(make, 1))
