"""What a check says does not depend on how a loss is given, and a comparison of unequal shapes is told in all ways."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.checks.runner import check
from initadvisor.checks.terms import broadcast

Way = Callable[..., Any]


class Own(nn.Module):
    """As transformers do: the loss is made inside ``forward``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.body(x)
        return {"loss": F.cross_entropy(scores, labels), "logits": scores}


def gathered(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return -(output - output.logsumexp(-1, keepdim=True)).gather(1, target[:, None]).sum()


CLASSES: dict[str, Way] = {
    "module": nn.CrossEntropyLoss(),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "summed": nn.CrossEntropyLoss(reduction="sum"),
    "function": F.cross_entropy,
    "model and batch": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    "log_softmax and nll": lambda model, batch: F.nll_loss(model(batch[0]).log_softmax(-1), batch[1]),
    "by hand": gathered,
    "with a penalty": lambda m, b: F.cross_entropy(m(b[0]), b[1]) + sum(p.square().sum() for p in m.parameters()),
}
VALUES: dict[str, Way] = {
    "module": nn.MSELoss(),
    "function": F.mse_loss,
    "model and batch": lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
    "by hand": lambda output, target: (output - target).square().mean(),
    "half": lambda model, batch: 0.5 * (batch[1] - model(batch[0])).pow(2).sum(),
}


def net(outputs: int, std: float) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, outputs))
    nn.init.normal_(made[2].weight, std=std)
    return made


def codes(model: nn.Module, batch: Any, loss: Way | None) -> set[str]:
    return {f.code for f in check(model, batch, loss=loss)}


@settings(deadline=None, max_examples=12)
@given(way=st.sampled_from(sorted(CLASSES)), std=st.sampled_from([0.05, 3.0]), seed=st.integers(0, 999))
def test_a_classifier_is_judged_alike_whichever_way_its_loss_is_given(way: str, std: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, x, y = net(30, std), torch.randn(64, 20), torch.randint(30, (64,))
    inferred = codes(model, (x, y), None)
    assert codes(model, (x, y), CLASSES[way]) == inferred
    assert codes(Own(model), {"x": x, "labels": y}, None) == inferred
    assert ("INI501" in inferred) == (std > 0.1)


@settings(deadline=None, max_examples=10)
@given(way=st.sampled_from(sorted(VALUES)), std=st.sampled_from([0.05, 1.0]), seed=st.integers(0, 999))
def test_a_regression_is_judged_alike_whichever_way_its_loss_is_given(way: str, std: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, x, y = net(5, std), torch.randn(64, 20), torch.randn(64, 5) / 20
    inferred = codes(model, (x, y), None)
    assert codes(model, (x, y), VALUES[way]) == inferred
    assert ("INI502" in inferred) == (std > 0.1)


def test_a_loss_that_cannot_be_seen_through_is_said_to_be_one() -> None:
    model, x, y = net(5, 0.1), torch.randn(64, 20), torch.randn(64, 5)
    assert "INI901" in codes(model, (x, y), lambda output, target: (output - target).abs().sqrt().mean())


@settings(deadline=None, max_examples=15)
@given(
    loss=st.sampled_from([nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), VALUES["by hand"],
                          VALUES["model and batch"], VALUES["half"]]),
    swapped=st.booleans(), rows=st.integers(2, 40),
)  # fmt: skip
def test_shapes_that_broadcast_over_the_batch_are_told(loss: Way, swapped: bool, rows: int) -> None:
    x, y = torch.randn(rows, 20), torch.randn(rows)
    column, flat = net(1, 0.1), nn.Sequential(net(1, 0.1), nn.Flatten(0))
    model, target = (flat, y[:, None]) if swapped else (column, y)
    assert "INI504" in codes(model, (x, target), loss)
    assert "INI504" not in codes(model, (x, target[:, 0] if swapped else target[:, None]), loss)


def test_a_clash_of_sequences_is_told_and_pairs_on_purpose_are_not() -> None:
    x, y = torch.randn(6, 6, 20), torch.randn(6, 6)
    assert "INI504" in codes(net(1, 0.1), (x, y), nn.MSELoss())

    def ranking(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.softplus((target[:, None] - target) * (output[:, None] - output)).mean()

    def chamfer(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output[:, None] - target[None]).square().sum(-1).min(1).values.mean()

    flat = nn.Sequential(net(1, 0.1), nn.Flatten(0))
    assert "INI504" not in codes(flat, (torch.randn(8, 20), torch.randn(8)), ranking)
    assert "INI504" not in codes(net(3, 0.1), (torch.randn(8, 20), torch.randn(8, 3)), chamfer)


def test_the_warning_of_torch_is_not_repeated() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(net(1, 0.1), (torch.randn(8, 20), torch.randn(8)), loss=nn.MSELoss())


@settings(deadline=None, max_examples=60)
@given(a=st.lists(st.integers(1, 3), max_size=4), b=st.lists(st.integers(1, 3), max_size=4))
def test_broadcast_agrees_with_torch(a: list[int], b: list[int]) -> None:
    try:
        expected: tuple[int, ...] | None = tuple(torch.broadcast_shapes(a, b))
    except RuntimeError:
        expected = None
    assert broadcast(tuple(a), tuple(b)) == expected


@pytest.mark.parametrize("label", [-1, 10, 12])
@pytest.mark.parametrize("loss", [None, F.cross_entropy, CLASSES["model and batch"]])
def test_a_label_that_is_no_class_is_an_error_of_its_own(label: int, loss: Way | None) -> None:
    y = torch.randint(10, (32,))
    y[5] = label
    (found,) = [f for f in check(net(10, 0.1), (torch.randn(32, 20), y), loss=loss) if f.severity.value == "error"]
    assert found.code == "INI506"
    assert f"label {label} " in found.message
