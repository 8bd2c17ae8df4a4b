"""Inputs and models that are not a dense batch through a plain module: each works, or says in one line what to do."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import initadvisor
from initadvisor.errors import InputError
from initadvisor.training.data import batches_of
from initadvisor.training.engine.member import load_tensors
from initadvisor.types import Role

ENTRIES: dict[str, Callable[..., Any]] = {
    "analyze": initadvisor.analyze,
    "check": initadvisor.check,
    "propose": initadvisor.propose,
    "advise": lambda m, b: initadvisor.advise(m, b, lr=0.01, budget=20, progress=False),
}
X, Y = torch.randn(24, 6), torch.randint(3, (24,))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Packed(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int, *, both: bool, projected: int = 0) -> None:
        super().__init__()
        more = {"proj_size": projected} if projected else {}
        self.rnn = kind(6, 16, layers, batch_first=True, bidirectional=both, **more)
        self.head = nn.Linear((projected or 16) * (2 if both else 1), 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        out, _ = self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return self.head(pad_packed_sequence(out, batch_first=True)[0].mean(1))


@pytest.mark.parametrize(("kind", "projected"), [(nn.RNN, 0), (nn.GRU, 0), (nn.LSTM, 0), (nn.LSTM, 5)])
@pytest.mark.parametrize(("layers", "both"), list(itertools.product((1, 2), (False, True))))
def test_a_packed_sequence_is_read_as_a_padded_one(
    kind: type[nn.RNNBase], projected: int, layers: int, both: bool
) -> None:
    model = Packed(kind, layers, both=both, projected=projected)
    lengths = torch.tensor([5, 7, 3, 2])

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = model.rnn, model.head

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0].mean(1))

    batch = (torch.randn(4, 7, 6), lengths, torch.randint(3, (4,)))
    packed, padded = (initadvisor.analyze(m, batch) for m in (model, Padded()))
    told = [[(p.path, p.role, p.fans, p.slices, p.depth) for p in spec.params] for spec in (packed, padded)]
    assert told[0] == told[1]


class LastStates(nn.Module):
    """An encoder whose last states a decoder goes on from: of the LSTM's results one or none is read."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = kind(6, 8, 2), kind(6, 8, 2), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, made = self.encoder(x)[1], []
        for step in range(2):
            y, state = self.decoder(x[step : step + 1], state)
            made.append(self.head(y[0]))
        return torch.stack(made, 1).mean(1)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_states_that_nothing_reads_have_no_gradient_to_watch(kind: type[nn.RNNBase]) -> None:
    findings = initadvisor.check(LastStates(kind), (torch.randn(5, 8, 6), torch.randint(3, (8,))))
    assert not [f for f in findings if f.severity.value == "error"]


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        return neighbours @ self.b(torch.relu(neighbours @ self.a(x)))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_sparse_adjacency_works_as_a_dense_one(entry: str, layout: torch.layout) -> None:
    dense = torch.eye(24) + torch.eye(24).roll(1, 0)
    ENTRIES[entry](GraphNet(), (X, dense.to_sparse(layout=layout), Y))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_rows_are_held_out_like_dense_ones(layout: torch.layout) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(6, 3) * 0.4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.a

    x = (X * (X > 0)).to_sparse(layout=layout)
    advice = initadvisor.advise(Counts(), (x, Y), lr=0.01, budget=20, progress=False)
    assert any("held out" in line for line in advice.report().splitlines())


class Leaky(nn.Module):
    """Keeps its state in a buffer that is empty at first and takes the batch's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("held", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.held = x if self.held.shape != x.shape else 0.9 * self.held.detach() + x
        return torch.sigmoid(self.held)


def test_a_buffer_that_takes_the_shape_of_a_batch_is_carried_from_draw_to_training() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Leaky(), nn.Linear(8, 3))
    advice = initadvisor.advise(
        model, list(zip(X.split(8), Y.split(8), strict=True)), lr=0.01, budget=30, progress=False
    )
    assert advice.cost.model_steps > 0
    ran, fresh = copy.deepcopy(model), copy.deepcopy(model)
    ran(X)
    load_tensors(fresh, {n: t.detach() for n, t in (*ran.named_parameters(), *ran.named_buffers())})
    assert torch.equal(fresh[1].held, ran[1].held) and fresh[1].held is not ran[1].held
    load_tensors(ran, {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())})
    assert ran[1].held.shape == (0,)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


UNREADABLE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "no samples": (_net, lambda: (X[:0], Y[:0]), "no samples"),
    "no samples in the first": (_net, lambda: [(X[:0], Y[:0]), (X, Y)], "no samples"),
    "scripted": (lambda: torch.jit.script(_net()), lambda: (X, Y), "scripted"),
    "traced": (lambda: torch.jit.trace(_net(), X), lambda: (X, Y), "scripted"),
    "a scripted part": (lambda: nn.Sequential(torch.jit.script(nn.Linear(6, 6)), _net()), lambda: (X, Y), '"0"'),
    "nested": (_net, lambda: (torch.nested.nested_tensor([X[:2], X[:3]]), Y[:2]), "pad it"),
    "jagged": (_net, lambda: (torch.nested.nested_tensor([X[:2], X[:3]], layout=torch.jagged), Y[:2]), "pad it"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_in_one_line(name: str, entry: str) -> None:
    model, batch, said = UNREADABLE[name]
    with pytest.raises(InputError, match=said) as caught:
        ENTRIES[entry](model(), batch())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_number_types_are_read(dtype: torch.dtype) -> None:
    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3, dtype=dtype) * 0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.to(dtype) @ self.weight).abs().float()

    model = Map()
    spec = initadvisor.analyze(model, (X, Y))
    assert (spec["weight"].role, spec["weight"].fan_in) == (Role.OUTPUT, 6)
    assert not [f for f in initadvisor.check(model, (X, Y)) if f.severity.value == "error"]


def test_more_arguments_than_named_ones_say_nothing_of_a_list_of_batches() -> None:
    class Star(nn.Module):
        def forward(self, x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
            return x

    class Stars(nn.Module):
        def forward(self, *xs: torch.Tensor) -> torch.Tensor:
            return torch.stack(xs).sum(0)

    batches = list(X.split(8))
    assert [b.size for b in batches_of(Star(), batches, limit=9)] == [8, 8, 8]
    assert len(batches_of(Stars(), batches, limit=9)) == 1
