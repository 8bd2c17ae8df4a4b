"""One reading of batches: every usual shape of batch is taken apart the way its model needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from initadvisor.errors import InputError
from initadvisor.training.data import batches_of, check_finite, first_batch, split_batch

X, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


class One(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class Two(nn.Module):
    def forward(self, src: Any, tgt: Any) -> Any:
        return src


class OneOrTwo(nn.Module):
    def forward(self, x: Any, mask: Any = None) -> Any:
        return x


class Keyed(nn.Module):
    def forward(self, input_ids: Any = None, labels: Any = None) -> Any:
        return input_ids


class KeyedNoLabels(nn.Module):
    def forward(self, input_ids: Any = None) -> Any:
        return input_ids


# model, batch -> number of positional inputs, keyword names, has a target
CASES: list[tuple[nn.Module, Any, int, set[str], bool]] = [
    (One(), X, 1, set(), False),
    (One(), (X, Y), 1, set(), True),
    (One(), [X, Y], 1, set(), True),
    (One(), (X,), 1, set(), False),
    (Two(), (X, X), 2, set(), False),
    (Two(), (X, X, Y), 2, set(), True),
    (OneOrTwo(), (X, Y), 1, set(), True),
    (OneOrTwo(), (X, X, Y), 2, set(), True),
    (Keyed(), {"input_ids": X, "labels": Y}, 0, {"input_ids", "labels"}, True),
    (KeyedNoLabels(), {"input_ids": X, "labels": Y}, 0, {"input_ids"}, True),
    (One(), {"image": X, "label": Y}, 1, set(), True),
    (Keyed(), ({"input_ids": X}, Y), 0, {"input_ids"}, True),
    (One(), SimpleNamespace(x=X, y=Y), 1, set(), True),
]


@pytest.mark.parametrize(("model", "batch", "positional", "names", "target"), CASES)
def test_batches_are_taken_apart(model: nn.Module, batch: Any, positional: int, names: set[str], target: bool) -> None:
    found = split_batch(model, batch)
    assert len(found.args) == positional
    assert set(found.kwargs) == names
    assert (found.target is not None) is target
    found.call(model)


def test_loaders_are_read_only_as_far_as_asked() -> None:
    read = []

    def loader() -> Any:
        for i in range(100):
            read.append(i)
            yield X + i, Y

    assert torch.equal(first_batch(One(), loader()).args[0], X)
    assert read == [0]
    assert len(batches_of(One(), [(X, Y)] * 5, limit=3)) == 3


@pytest.mark.parametrize("bad", [[], (), {"foo": X, "bar": Y}, iter(())])
def test_what_cannot_be_read_is_named(bad: Any) -> None:
    with pytest.raises(InputError):
        first_batch(KeyedNoLabels(), bad)


def test_nan_is_named_with_its_place() -> None:
    x = X.clone()
    x[1, 2] = float("nan")
    with pytest.raises(InputError, match=r"inputs.*\(4, 3\).*1 NaN"):
        check_finite(split_batch(One(), (x, Y)))
    with pytest.raises(InputError, match="target"):
        check_finite(split_batch(One(), (X, x)))
    check_finite(split_batch(One(), (torch.full((2, 2), float("-inf")), Y)))


def test_what_is_no_batch_is_told_with_its_remedy() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(InputError, match="DataLoader"):
        first_batch(net, TensorDataset(torch.zeros(8, 3)))
    with pytest.raises(InputError, match="there is no batch"):
        first_batch(net, None)
    with pytest.raises(InputError, match="numpy"):
        first_batch(net, (np.zeros((8, 3)), np.zeros(8)))
    own = (np.zeros((8, 3)), torch.zeros(8, 3))
    assert split_batch(net, own, whole=True).raw is own  # the loss may convert it by itself


@pytest.mark.parametrize("wrapped", [torch.compile, nn.DataParallel])
def test_wrapped_models_take_what_is_within(wrapped: Any) -> None:
    assert len(split_batch(wrapped(nn.Linear(3, 2)), (X, Y)).args) == 1


def test_a_model_without_forward_takes_nothing() -> None:
    with pytest.raises(InputError, match="parts"):
        split_batch(nn.Module(), (X, Y))
