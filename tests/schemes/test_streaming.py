"""Filling where the tensor lies: the numbers of drawing aside, whatever the threads, and nothing lost on the way."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
import torch
from handmade import gates, uniform_scheme
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.errors import SchemeError, VerificationError
from initadvisor.initializers.card import RUN_MULTIPLE, Declared
from initadvisor.initializers.registry import cards
from initadvisor.schemes import streaming, verify
from initadvisor.schemes.apply import apply_scheme, draw
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.seeding import stream
from initadvisor.schemes.slots import slots_of
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.schemes.verify import check_declared
from initadvisor.types import Fans, Role

SAMPLED = [card for card in cards() if card.sampler is not None]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FANS = Fans(40.0, 30.0)


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one(path: str, shape: tuple[int, ...], name: str = "kaiming_normal", **args) -> Assignment:
    return Assignment(path, shape, (Part(Fill(name, args=tuple(args.items())), FANS),), "r", "r")


def scheme_of(*assignments: Assignment) -> Scheme:
    return Scheme("s", SchemeKind.RULES, "", assignments)


@pytest.mark.parametrize("card", SAMPLED, ids=lambda card: card.name)
@given(
    dtype=st.sampled_from(DTYPES),
    count=st.integers(1, 3 * RUN_MULTIPLE) | st.integers(2 * streaming._RUN - 20, 4 * streaming._RUN + 20),
    gain=st.floats(0.1, 3.0),
)
@settings(max_examples=12, deadline=None)
def test_in_place_and_in_runs_gives_the_numbers_of_the_function(card, dtype, count, gain):
    wanted = card.fn((count, 1), FANS, gain=gain, generator=stream(3, "w"), dtype=dtype)
    part = Part(Fill(card.name, gain), FANS)
    got = torch.full((count,), float("nan"), dtype=dtype)
    streaming.Region(part, card, got, card.sampler(FANS, gain, {}), stream(3, "w")).fill()
    assert torch.equal(got, wanted.reshape(-1))


def test_the_laws_that_fill_transformers_are_streamed():
    names = {card.name for card in SAMPLED}
    assert {"normal", "uniform", "trunc_normal", "kaiming_normal", "xavier_uniform", "torch_linear"} <= names
    assert not {"orthogonal", "sparse", "identity"} & names


def large(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.ModuleDict({f"m{i}": nn.Linear(1100, 1000, dtype=dtype) for i in range(4)})


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_decide_no_number(dtype, monkeypatch):
    seen = set()
    original = streaming.Region.fill
    monkeypatch.setattr(streaming.Region, "fill", lambda self: (seen.add(threading.get_ident()), original(self))[1])
    alone, together = large(dtype), large(dtype)
    scheme = uniform_scheme(alone, std=0.02)
    with threads(1):
        apply_scheme(scheme, alone, seed=5)
    assert seen == {threading.get_ident()}
    seen.clear()
    with threads(2):
        result = apply_scheme(scheme, together, seed=5)
    assert threading.get_ident() not in seen
    for (path, a), b in zip(alone.named_parameters(), together.parameters(), strict=True):
        assert torch.equal(a, b), path
        assert torch.equal(a, draw(next(x for x in scheme.assignments if x.path == path), 5, dtype))
    assert [t.path for t in result.filled] == [n for n, _ in alone.named_parameters()]


def test_packed_rows_are_streamed_and_interleaved_ones_are_not():
    model = nn.Linear(40, 90, bias=False)
    rows = gates(30, 40, ("q", "k", "v"), Role.QKV)
    packed = Assignment("weight", (90, 40), tuple(Part(Fill("xavier_uniform"), FANS, s) for s in rows), "r", "r")
    assert streaming.streamable(slots_of(model)["weight"], packed)
    apply_scheme(scheme_of(packed), model, seed=2)
    assert torch.equal(model.weight.detach(), draw(packed, 2, torch.float32))
    transposed = nn.Parameter(torch.empty(40, 90).t())
    model.weight = transposed
    assert not streaming.streamable(slots_of(model)["weight"], packed)
    apply_scheme(scheme_of(packed), model, seed=2)
    assert torch.equal(model.weight.detach(), draw(packed, 2, torch.float32))


def test_two_parameters_over_one_memory_are_written_in_order():
    model = nn.ModuleDict({"a": nn.Linear(8, 8, bias=False), "b": nn.Linear(8, 8, bias=False)})
    model["b"].weight = nn.Parameter(model["a"].weight.data)
    assert streaming.sharing_memory(slots_of(model).values()) == {"a.weight", "b.weight"}
    last = one("b.weight", (8, 8))
    before = model["a"].weight.detach().clone()
    result = apply_scheme(scheme_of(one("a.weight", (8, 8)), last), model)
    assert len(result.filled) == 2
    assert torch.equal(model["a"].weight.detach(), draw(last, 0, torch.float32))
    assert not torch.equal(model["a"].weight.detach(), before)
    lstm = nn.LSTM(4, 4)
    assert streaming.sharing_memory(slots_of(lstm).values()) == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("count", [1, 2])
def test_what_goes_wrong_midway_loses_nothing(error, count, monkeypatch):
    model = large()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    original, done = streaming.Region.fill, []

    def fails(self):
        original(self)
        done.append(1)
        if len(done) == 3:
            raise error

    monkeypatch.setattr(streaming.Region, "fill", fails)
    with threads(count), pytest.raises(error):
        apply_scheme(uniform_scheme(model, std=0.02), model)
    assert len(done) >= 3
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]


def test_an_interrupt_of_the_waiting_thread_waits_for_the_others(monkeypatch):
    model = large()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    import concurrent.futures

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures.Future, "result", interrupted)
    with threads(2), pytest.raises(KeyboardInterrupt):
        apply_scheme(uniform_scheme(model, std=0.02), model)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_values_that_are_not_finite_are_found_outside_the_sample_too():
    values = torch.randn(verify._SAMPLE + 40_000)
    declared = Declared(0.0, 1.0)
    check_declared("w", "normal", values, declared, independent=True)
    step = (values.numel() - verify._SAMPLE // verify._SAMPLE_BLOCKS) // (verify._SAMPLE_BLOCKS - 1)
    values[verify._SAMPLE // verify._SAMPLE_BLOCKS + (step - verify._SAMPLE // verify._SAMPLE_BLOCKS) // 2] = torch.nan
    with pytest.raises(VerificationError, match="not finite"):
        check_declared("w", "normal", values, declared, independent=True)


@given(factor=st.sampled_from([0.97, 1.03]), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_a_sample_still_finds_a_scale_that_is_off_by_three_percent(factor, seed):
    values = torch.empty(2 * verify._SAMPLE).normal_(generator=torch.Generator().manual_seed(seed))
    check_declared("w", "normal", values, Declared(0.0, 1.0), independent=True)
    with pytest.raises(VerificationError, match="standard deviation"):
        check_declared("w", "normal", values * factor, Declared(0.0, 1.0), independent=True)


def test_an_impossible_argument_is_told_with_its_path():
    model = nn.Linear(40, 30, bias=False)
    with pytest.raises(SchemeError, match="weight"):
        apply_scheme(
            scheme_of(Assignment("weight", (30, 40), (Part(Fill("normal", args=(("std", -1.0),)), FANS),), "r", "r")),
            model,
        )
    nothing = Assignment("weight", (30, 40), (Part(Fill("kaiming_normal"), Fans(0.0, 0.0)),), "r", "r")
    with pytest.raises(SchemeError, match="connection count"):
        apply_scheme(scheme_of(nothing), model)


def test_a_large_backup_is_a_copy():
    for tensor in (torch.randn(1200, 1000), torch.randn(2100, 1000).bfloat16(), torch.randn(1200, 2000)[:, ::2]):
        saved = streaming.backup(tensor)
        assert torch.equal(saved, tensor)
        assert saved.data_ptr() != tensor.data_ptr()
