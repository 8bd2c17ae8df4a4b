"""Of a product at most one factor starts at zero: whatever a branch ends in, every weight gets a gradient in time."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.types import CURRENT

WIDTH = 8
ACTIVATIONS = {
    "none": lambda v: v,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
}


class Block(nn.Module):
    """A residual branch that ends in sums of products of layers, with a factor and a norm of its own or without."""

    def __init__(self, terms: list[list[str]], scale: float | None, norm: str, hidden: bool) -> None:
        super().__init__()
        self.terms = terms
        self.before = nn.LayerNorm(WIDTH) if norm == "before" else nn.Identity()
        self.up = nn.Linear(WIDTH, WIDTH) if hidden else nn.Identity()
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in term) for term in terms)
        self.after = nn.LayerNorm(WIDTH) if norm == "after" else nn.Identity()
        self.scale = nn.Parameter(torch.tensor(scale)) if scale is not None else None

    def forward(self, x):
        h = torch.tanh(self.up(self.before(x)))
        total = 0
        for names, layers in zip(self.terms, self.layers, strict=True):
            product = 1
            for name, layer in zip(names, layers, strict=True):
                product = product * ACTIVATIONS[name](layer(h))
            total = total + product
        total = self.after(total)
        return x + (total if self.scale is None else self.scale * total)


def without_gradient(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], steps: int = 4) -> list[str]:
    """Weights that no step of a short descent reaches."""
    left = {name for name, p in model.named_parameters() if p.ndim >= 2 or name.endswith("scale")}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
        left -= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    return sorted(left)


term = st.lists(st.sampled_from(sorted(ACTIVATIONS)), min_size=1, max_size=3)
block = st.builds(
    Block,
    st.lists(term, min_size=1, max_size=2),
    st.sampled_from([None, None, 0.0, 0.1, 1.0]),
    st.sampled_from(["before", "after", "none"]),
    st.booleans(),
)


@given(blocks=st.lists(block, min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_no_scheme_leaves_a_branch_dead(blocks, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, WIDTH), *copy.deepcopy(blocks), nn.Linear(WIDTH, 3))
    batch = (torch.randn(32, 5), torch.randn(32, 3))
    if without_gradient(copy.deepcopy(model), batch):
        return  # an unlucky draw of its author's
    for scheme in propose_from_spec(analyze(model, batch), model, batch):
        if scheme.name == CURRENT or scheme.calibrations:
            continue
        twin = copy.deepcopy(model)
        scheme.apply(twin, seed=seed, batch=batch)
        assert without_gradient(twin, batch) == [], scheme.name


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_one_factor_alone_answers_for_the_size_of_a_product(activation):
    """The gate keeps its own gain; what it multiplies is divided by the root of the branches, or zero."""
    torch.manual_seed(0)
    blocks = [Block([[activation, "none"]], None, "before", True) for _ in range(4)]
    model = nn.Sequential(nn.Linear(5, WIDTH), *blocks, nn.Linear(WIDTH, 3))
    batch = (torch.randn(32, 5), torch.randn(32, 3))
    schemes = {s.name: s for s in propose_from_spec(analyze(model, batch), model, batch)}
    paths = [f"1.layers.0.{i}.weight" for i in (0, 1)]
    for name, wanted in (("rules_orthogonal", "orthogonal"), ("rules_zero_last", "zeros")):
        fills = [p.fill for a in schemes[name].assignments if a.path in paths for p in a.parts]
        gains = sorted(0.0 if f.initializer == "zeros" else f.gain for f in fills)
        assert gains[1] >= 1.0
        assert gains[0] == (0.0 if wanted == "zeros" else pytest.approx(gains[1] / 2, rel=1e-3))
        if activation != "none":  # of two equal factors either may be the one
            assert fills[1].initializer == wanted
            assert fills[0].initializer == "orthogonal"
