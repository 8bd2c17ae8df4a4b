"""NaN and infinity are named where they are first; what only follows from them is not told as a fault of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.checks.runner import check
from initadvisor.errors import InputError

FOLLOWS = "INI503"


class Net(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.first, self.norm, self.second = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.norm(self.first(x)))
        if self.where == "root":
            h = h.clamp(max=0).sub(0.1).sqrt()
        return self.head(torch.sin(self.second(h)))


PLACES = {
    "weight": ("INI101", "second.weight"),
    "bias": ("INI101", "first.bias"),
    "average": ("INI103", "norm.running_mean"),
    "root": ("INI409", "second.weight"),
    "input": ("INI601", ""),
    "target": ("INI601", ""),
}


def broken(where: str, value: float, classes: bool) -> tuple[nn.Module, Any]:
    net, x = Net(where), torch.randn(32, 8)
    y: torch.Tensor = torch.randint(3, (32,)) if classes else torch.randn(32, 3)
    with torch.no_grad():
        if where == "weight":
            net.second.weight[3, 2] = value
        elif where == "bias":
            net.first.bias[1] = value
        elif where == "average":
            net.norm.running_mean[4] = value  # type: ignore[index]
        elif where == "input":
            x[5, 1] = math.copysign(math.inf, value)
        elif where == "target" and not classes:
            y[5, 1] = math.copysign(math.inf, value)
    return net, (x, y)


@settings(deadline=None, max_examples=30)
@given(where=st.sampled_from(sorted(PLACES)), value=st.sampled_from([math.nan, math.inf, -math.inf]),
       classes=st.booleans())  # fmt: skip
def test_the_first_cause_comes_first_and_alone(where: str, value: float, classes: bool) -> None:
    if where == "target" and (classes or math.isnan(value)):
        return  # labels hold no infinity
    model, batch = broken(where, value, classes)
    found = check(model, batch)
    code, path = PLACES[where]
    assert (found[0].code, found[0].path, found[0].severity.value) == (code, path, "error"), found
    rest = {f.code for f in found[1:] if f.severity.value != "info"}
    assert rest <= {FOLLOWS}, rest
    assert not any("nan" in f.message for f in found if f.code not in (code, FOLLOWS))


@pytest.mark.parametrize("what", ["inputs", "target"])
def test_nan_in_the_data_is_refused(what: str) -> None:
    model, (x, y) = broken("", 0.0, classes=False)
    (x if what == "inputs" else y)[3, 1] = math.nan
    with pytest.raises(InputError, match=f"{what}.* hold 1 NaN value;"):
        check(model, (x, y))
