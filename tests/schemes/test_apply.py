"""Apply: plan first, write once, prove it, leave everything else alone."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from handmade import gates, lstm, uniform_scheme
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.errors import RegistryError, SchemeError, VerificationError
from initadvisor.initializers.card import Card, Declared, register
from initadvisor.initializers.registry import get as card_of
from initadvisor.schemes.apply import FROZEN, KEPT, NO_REINIT, WRITTEN_WITH, apply_scheme, draw
from initadvisor.schemes.regions import coverage_fault, gather, scatter, slice_shape
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.seeding import stream_seed
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.types import CURRENT, Fans, Role, Slice


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    return {k: v.detach().cpu().numpy().tobytes() for k, v in model.state_dict().items()}


def filled(model: nn.Module, path: str) -> torch.Tensor:
    return dict(model.named_parameters(remove_duplicate=False))[path].detach()


def test_same_seed_same_bits_other_seed_other_bits():
    a, b, c = (nn.Linear(8, 8) for _ in range(3))
    scheme = uniform_scheme(a, std=0.5)
    apply_scheme(scheme, a, seed=3)
    apply_scheme(scheme, b, seed=3)
    apply_scheme(scheme, c, seed=4)
    assert bytes_of(a) == bytes_of(b) != bytes_of(c)


def test_numbers_depend_on_path_only_not_on_order_or_number_of_layers():
    small = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6)})
    large = nn.ModuleDict({"new": nn.Linear(3, 3), "b": nn.Linear(6, 6), "a": nn.Linear(6, 6)})
    for model in (small, large):
        scheme = uniform_scheme(model, std=1.0)
        apply_scheme(replace(scheme, assignments=scheme.assignments[::-1]), model, seed=1)
    for path in ("a.weight", "b.bias"):
        assert torch.equal(filled(small, path), filled(large, path))
    assert not torch.equal(filled(small, "a.weight"), filled(small, "b.weight"))


def test_global_random_state_is_neither_read_nor_moved():
    a, b = nn.Linear(5, 5), nn.Linear(5, 5)
    scheme = uniform_scheme(a, std=1.0)
    torch.manual_seed(1)
    apply_scheme(scheme, a)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    apply_scheme(scheme, b)
    assert torch.equal(before, torch.get_rng_state())
    assert bytes_of(a) == bytes_of(b)


def test_stream_seed_is_pinned():
    # A published recipe must give the same weights for ever: changing this number breaks every saved recipe.
    assert stream_seed(0, "fc.weight") == 701079632469440688
    assert stream_seed(0, "fc.weight", "q") == 3574947215861008555


def test_packed_slices_equal_separately_filled_tensors():
    fans = Fans(8.0, 8.0)
    pieces = gates(8, 8, ("q", "k", "v"), Role.QKV)
    packed = Assignment("w", (24, 8), tuple(Part(Fill("orthogonal"), fans, s) for s in pieces), "t", "t")
    value = draw(packed, 7, torch.float32)
    for piece in pieces:
        rows = gather(value, piece)
        assert torch.allclose(rows @ rows.T, torch.eye(8), atol=1e-5)
    # Renaming or dropping one slice leaves the others' numbers alone.
    other = Assignment("w", (16, 8), tuple(Part(Fill("orthogonal"), fans, s) for s in pieces[:2]), "t", "t")
    assert torch.equal(draw(other, 7, torch.float32)[:8], value[:8])


@given(
    cuts=st.lists(st.integers(1, 11), unique=True, max_size=5),
    order=st.randoms(use_true_random=False),
    dim=st.integers(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_scatter_undoes_gather(cuts, order, dim):
    edges = [0, *sorted(cuts), 12]
    spans = list(pairwise(edges))
    order.shuffle(spans)
    half = max(1, len(spans) // 2)
    parts = [Slice("a", dim, tuple(spans[:half]), Role.HIDDEN, Fans(1, 1))]
    if spans[half:]:
        parts.append(Slice("b", dim, tuple(spans[half:]), Role.HIDDEN, Fans(1, 1)))
    whole = torch.arange(144.0).reshape(12, 12)
    back = torch.full_like(whole, float("nan"))
    for part in parts:
        region = gather(whole, part)
        assert tuple(region.shape) == slice_shape((12, 12), part)
        scatter(back, part, region)
    assert torch.equal(whole, back)
    assert coverage_fault((12, 12), parts) is None
    assert coverage_fault((12, 12), [*parts, parts[0]]) is not None
    if len(parts) == 2:
        assert coverage_fault((12, 12), parts[:1]) is not None


def _scheme(*assignments: Assignment) -> Scheme:
    return Scheme("s", SchemeKind.RULES, "", assignments)


ONE = (Part(Fill("normal", args=(("std", 1.0),)), Fans(3, 2)),)


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        ([Assignment("weight", (2, 3), ONE, "r", "r")], "bias"),
        ([Assignment("weigth", (2, 3), ONE, "r", "r")], 'did you mean "weight"'),
        ([Assignment("weight", (3, 2), ONE, "r", "r"), Assignment("bias", (2,), ONE, "r", "r")], "(2, 3) in the model"),
        ([Assignment("weight", (2, 3), ONE, "r", "r")] * 2, "assigned twice"),
        ([Assignment("weight", (2, 3), ONE * 2, "r", "r"), Assignment("bias", (2,), ONE, "r", "r")], "filled 2 times"),
        (
            [
                Assignment("weight", (2, 3), ONE, "r", "r"),
                Assignment("bias", (2,), (Part(Fill("normal", args=(("sdt", 1.0),)), Fans(1, 1)),), "r", "r"),
            ],
            'did you mean "std"',
        ),
        (
            [
                Assignment("weight", (2, 3), ONE, "r", "r"),
                Assignment("bias", (2,), (Part(Fill("orthogonal"), Fans(1, 1)),), "r", "r"),
            ],
            "axes",
        ),
    ],
)
def test_a_scheme_that_does_not_fit_changes_nothing(assignments, says):
    model = nn.Linear(3, 2)
    before = bytes_of(model)
    with pytest.raises(SchemeError) as caught:
        apply_scheme(_scheme(*assignments), model)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert bytes_of(model) == before


def test_failure_midway_puts_everything_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[1].running_mean.fill_(3.0)
    good = uniform_scheme(model, std=1.0)
    # float32 cannot hold this: the last tensor fails its read-back after the others were written.
    bad = replace(good.assignments[-1], parts=(Part(Fill("normal", args=(("std", 1e38),), gain=1e38), Fans(4, 4)),))
    before = bytes_of(model)
    with pytest.raises((SchemeError, VerificationError)):
        apply_scheme(replace(good, assignments=(*good.assignments[:-1], bad)), model)
    assert bytes_of(model) == before
    assert float(model[1].running_mean[0]) == 3.0


def test_without_undo_no_copy_is_made_and_the_numbers_are_the_same(monkeypatch):
    model, other = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    scheme = uniform_scheme(model, std=1.0)
    apply_scheme(scheme, other, seed=3)

    def refuse(tensor):
        raise AssertionError("the old weights were copied")

    monkeypatch.setattr("initadvisor.schemes.apply.backup", refuse)
    apply_scheme(scheme, model, seed=3, undo=False)
    assert bytes_of(model) == bytes_of(other)
    with pytest.raises(AssertionError, match="copied"):
        apply_scheme(scheme, model, seed=3)


def test_running_statistics_of_refilled_norms_are_reset_and_of_frozen_ones_kept():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    for m in model[1:]:
        m.running_mean.fill_(3.0)
        m.requires_grad_(m is model[1])
    apply_scheme(uniform_scheme(model, std=1.0), model)
    assert float(model[1].running_mean[0]) == 0.0
    assert float(model[2].running_mean[0]) == 3.0


@given(frozen=st.sets(st.integers(0, 5)))
@settings(max_examples=20, deadline=None)
def test_protected_tensors_are_byte_identical(frozen):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    scheme = uniform_scheme(model, std=1.0)
    paths = [p for p, _ in model.named_parameters()]
    kept = {paths[i] for i in frozen}
    for i, (_, p) in enumerate(model.named_parameters()):
        p.requires_grad_(i not in frozen or i % 2 == 0)  # half of them are frozen, half kept by the scheme
    assignments = tuple(replace(a, parts=()) if a.path in kept else a for a in scheme.assignments)
    before = bytes_of(model)
    result = apply_scheme(replace(scheme, assignments=assignments), model)
    after = bytes_of(model)
    assert {p for p in paths if before[p] == after[p]} == kept == set(result.left)
    assert {result.left[p] for p in kept} <= {FROZEN, KEPT}


def test_integer_and_marked_tensors_are_left():
    model = nn.Linear(3, 2)
    model.codes = nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False)
    model.bias._no_reinit = True
    scheme = _scheme(Assignment("weight", (2, 3), ONE, "r", "r"), Assignment("bias", (2,), ONE, "r", "r"))
    result = apply_scheme(scheme, model)
    assert dict(result.left) == {"bias": NO_REINIT, "codes": "integer"}


def test_current_changes_nothing_and_says_so():
    model = nn.Linear(3, 2)
    before = bytes_of(model)
    result = apply_scheme(Scheme(CURRENT, SchemeKind.CURRENT, ""), model)
    assert bytes_of(model) == before
    assert result.filled == ()
    assert set(result.left.values()) == {KEPT}


def test_tied_tensors_are_written_once_under_their_first_name():
    embedding = nn.Embedding(10, 4)
    model = nn.ModuleDict({"embed": embedding, "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = embedding.weight
    part = (Part(Fill("normal", args=(("std", 0.1),)), Fans(4, 10)),)
    first = Assignment("embed.weight", (10, 4), part, "r", "r")
    second = replace(first, path="head.weight")
    assert [t.path for t in apply_scheme(_scheme(first), model).filled] == ["embed.weight"]
    assert model["head"].weight is embedding.weight
    with pytest.raises(SchemeError, match="same tensor"):
        apply_scheme(_scheme(first, second), model)


def test_padding_row_stays_zero():
    model = nn.Embedding(50, 8, padding_idx=3)
    apply_scheme(uniform_scheme(model, std=1.0), model)
    assert float(model.weight[3].detach().abs().sum()) == 0.0
    assert float(model.weight[4].detach().abs().sum()) > 0.0


def test_meta_model_is_refused_and_filled_after_to_empty():
    plain = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    scheme = uniform_scheme(plain, std=0.3)
    with pytest.raises(SchemeError, match="to_empty"):
        apply_scheme(scheme, model)
    model.to_empty(device="cpu")
    for p in model.parameters():
        p.data.fill_(float("nan"))
    result = apply_scheme(scheme, model)
    apply_scheme(scheme, plain)
    assert bytes_of(model) == bytes_of(plain)
    assert {t.path for t in result.filled} == {n for n, _ in model.named_parameters()}


def test_lazy_model_is_refused_with_what_to_do():
    model = nn.LazyLinear(3)
    with pytest.raises(SchemeError, match="run one batch"):
        apply_scheme(
            _scheme(Assignment("weight", (3, 2), ONE, "r", "r"), Assignment("bias", (3,), ONE, "r", "r")), model
        )


def _normed(make) -> nn.Module:
    torch.manual_seed(0)
    return make(nn.Linear(12, 8))


def _weight_normed(style: str) -> tuple[nn.Module, str, str]:
    """A layer under weight norm, and the names of its direction and magnitude."""
    if style == "hook":
        return _normed(lambda m: torch.nn.utils.weight_norm(m)), "weight_v", "weight_g"
    model = _normed(lambda m: torch.nn.utils.parametrizations.weight_norm(m))
    return model, "parametrizations.weight.original1", "parametrizations.weight.original0"


def _weight_scheme(path: str, shape: tuple[int, ...], *companions: tuple[str, tuple[int, ...]]) -> Scheme:
    fills = [Assignment(path, shape, (Part(Fill("normal", args=(("std", 0.5),)), Fans(12, 8)),), "r", "r")]
    fills.append(Assignment("bias", (8,), (Part(Fill("zeros"), Fans(12, 8)),), "r", "r"))
    fills.extend(Assignment(name, s, (), "r", "r") for name, s in companions)
    return _scheme(*fills)


@pytest.mark.parametrize("style", ["parametrization", "hook"])
def test_weight_norm_recomputes_to_the_drawn_weight(style):
    model, path, companion = _weight_normed(style)
    scheme = _weight_scheme(path, (8, 12), (companion, (8, 1)))
    plain = nn.Linear(12, 8)
    result = apply_scheme(scheme, model, seed=5)
    wanted = draw(scheme.assignments[0], 5, torch.float32)
    x = torch.randn(3, 12)
    with torch.no_grad():
        plain.weight.copy_(wanted)
        plain.bias.zero_()
        assert torch.allclose(model(x), plain(x), atol=1e-5)
    assert result.left[companion] == WRITTEN_WITH
    broken = replace(scheme, assignments=(*scheme.assignments[:2], replace(scheme.assignments[2], parts=ONE)))
    with pytest.raises(SchemeError, match="follows from"):
        apply_scheme(broken, model)


@pytest.mark.parametrize("style", ["parametrization", "hook"])
def test_a_zero_weight_under_weight_norm_is_zero_and_can_learn(style):
    model, path, companion = _weight_normed(style)
    zero = Assignment(path, (8, 12), (Part(Fill("zeros"), Fans(12, 8)),), "r", "r")
    bias = Assignment("bias", (8,), (Part(Fill("zeros"), Fans(12, 8)),), "r", "r")
    scheme = _scheme(zero, bias, Assignment(companion, (8, 1), (), "r", "r"))
    apply_scheme(scheme, model, seed=5)
    directions = dict(model.named_parameters())[path].detach().clone()
    apply_scheme(scheme, model, seed=5)
    assert torch.equal(dict(model.named_parameters())[path].detach(), directions)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(64, 12, generator=generator)
    y = x @ torch.randn(12, 8, generator=generator)
    assert torch.equal(model(x), torch.zeros(64, 8))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).sum(1).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) == 1:  # independent directions: one step of the magnitudes alone makes a map of full rank
            model(x)  # the hook recomputes its weight only then
            assert int(torch.linalg.matrix_rank(model.weight.detach())) == 8
    assert all(math.isfinite(v) for v in losses) and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("style", ["parametrization", "hook"])
def test_spectral_norm_is_one_at_once(style):
    if style == "hook":
        model = _normed(lambda m: torch.nn.utils.spectral_norm(m))
        path = "weight_orig"
    else:
        model = _normed(lambda m: torch.nn.utils.parametrizations.spectral_norm(m))
        path = "parametrizations.weight.original"
    apply_scheme(_weight_scheme(path, (8, 12)), model)
    model.eval()  # no power iteration of its own
    with torch.no_grad():
        model(torch.zeros(1, 12))
        top = float(torch.linalg.svdvals(model.weight)[0])
    assert top == pytest.approx(1.0, abs=1e-3)


def test_a_parametrization_without_an_inverse_is_found_by_reading_back_and_undone():
    class Square(nn.Module):
        def forward(self, w):
            return w.square()

    model = nn.Linear(12, 8)
    torch.nn.utils.parametrize.register_parametrization(model, "weight", Square())
    before = bytes_of(model)
    with pytest.raises(VerificationError, match="no inverse"):
        apply_scheme(_weight_scheme("parametrizations.weight.original", (8, 12)), model)
    assert bytes_of(model) == before


def _lying_card() -> None:
    def fn(shape, fans, *, gain, generator, dtype, **args):
        return torch.empty(shape, dtype=dtype).normal_(0, 2.0 * gain, generator=generator)

    def declare(shape, fans, gain, args):
        return Declared(mean=0.0, std=gain)

    try:
        card_of("test_lying")
    except RegistryError:
        register(Card("test_lying", fn, declare, "declares half of what it draws", "", "", ""))


def test_a_scaling_that_did_not_run_is_caught():
    _lying_card()
    model = nn.Linear(32, 32, bias=False)
    before = bytes_of(model)
    scheme = _scheme(Assignment("weight", (32, 32), (Part(Fill("test_lying"), Fans(32, 32)),), "r", "r"))
    with pytest.raises(VerificationError, match="standard deviation"):
        apply_scheme(scheme, model)
    assert bytes_of(model) == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_float_dtype(dtype):
    model = nn.Linear(64, 64).to(dtype)
    fills = uniform_scheme(model, std=0.02)
    result = apply_scheme(fills, model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(t.std == pytest.approx(0.02, rel=0.6) for t in result.filled)


def test_lstm_stacks_are_filled_gate_by_gate():
    model, spec = lstm()
    assignments = []
    for p in spec.params:
        fill = Fill("orthogonal") if len(p.shape) == 2 else Fill("zeros")
        assignments.append(Assignment(p.path, p.shape, tuple(Part(fill, s.fans, s) for s in p.slices), "r", "r"))
    apply_scheme(_scheme(*assignments), model)
    for block in model.weight_hh_l0.detach().split(16):
        assert torch.allclose(block @ block.T, torch.eye(16), atol=1e-5)


def test_calibration_without_batch_is_refused_before_anything_changes():
    from initadvisor.schemes.values import Calibration

    model = nn.Linear(3, 3)
    before = bytes_of(model)
    with pytest.raises(SchemeError, match="sample_batch"):
        apply_scheme(replace(uniform_scheme(model, std=1.0), calibrations=(Calibration("lsuv"),)), model)
    assert bytes_of(model) == before


def test_optimizer_and_gradient_references_survive():
    model = nn.Linear(3, 3)
    kept = copy.copy(list(model.parameters()))
    apply_scheme(uniform_scheme(model, std=1.0), model)
    assert all(a is b for a, b in zip(kept, model.parameters(), strict=True))
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_sharded_parameters_hold_what_plain_ones_hold(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        plain, sharded = nn.Linear(6, 4), nn.Linear(6, 4)
        scheme = uniform_scheme(plain, std=1.0)
        for name in ("weight", "bias"):
            local = distribute_tensor(getattr(sharded, name).detach(), mesh, [Shard(0)])
            setattr(sharded, name, nn.Parameter(local))
        apply_scheme(scheme, plain, seed=2)
        apply_scheme(scheme, sharded, seed=2)
        assert torch.equal(sharded.weight.full_tensor(), plain.weight)
    finally:
        dist.destroy_process_group()
