"""The weight that acts is what counts, and arrays that nothing sums over are no maps: generated models."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import initadvisor
from initadvisor import analyze, propose
from initadvisor.graph.spec import NORMALISED, ModelSpec, ParamSpec
from initadvisor.types import WEIGHT_ROLES, Role

FACTORS = st.floats(0.01, 50.0)


class Scaled(nn.Module):
    """A map whose weight passes something before it acts."""

    def __init__(self, i: int, o: int, acts: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight, self.acts = nn.Parameter(torch.randn(o, i)), acts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.acts(self.weight))


def _net(acts: Callable[[torch.Tensor], torch.Tensor], width: int = 24) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), Scaled(width, width, acts), nn.ReLU(), nn.Linear(width, 3))


BATCH = (torch.randn(16, 6), torch.randint(3, (16,)))

SPELLINGS: dict[str, Callable[[float], Callable[[torch.Tensor], torch.Tensor]]] = {
    "number": lambda c: lambda w: w * c,
    "number before": lambda c: lambda w: c * w,
    "divided": lambda c: lambda w: w / (1 / c),
    "tensor": lambda c: lambda w: w * torch.tensor(c),
    "in two": lambda c: lambda w: (w * math.sqrt(c)) * math.sqrt(c),
    "after a view": lambda c: lambda w: (w.t() * c).t(),
    "cast": lambda c: lambda w: w.double().mul(c).float(),
}


@pytest.mark.parametrize("name", SPELLINGS)
@settings(deadline=None, max_examples=5)
@given(factor=FACTORS)
def test_a_factor_on_a_weight_is_read_however_it_is_spelt(name: str, factor: float) -> None:
    model = _net(SPELLINGS[name](factor))
    p = analyze(model, BATCH)["2.weight"]
    assert p.factor == pytest.approx(factor, rel=1e-4) and p.acts_through is None
    assert (p.role, p.fan_in, p.fan_out) == (Role.HIDDEN, 24, 24)


@settings(deadline=None, max_examples=8)
@given(factor=FACTORS)
def test_what_acts_is_as_large_with_a_factor_as_without(factor: float) -> None:
    """The same draw, up to the rounding of the gain to six digits."""
    acting = []
    for given_factor in (1.0, factor):
        torch.manual_seed(0)
        model = _net(lambda w, c=given_factor: w * c)  # type: ignore[misc]
        scheme = next(s for s in propose(model, BATCH) if s.name == "rules_orthogonal")
        scheme.apply(model, seed=0)
        acting.append(model[2].weight.detach() * given_factor)
    torch.testing.assert_close(acting[0], acting[1], rtol=1e-4, atol=1e-5)


SIZELESS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "its length": lambda w: w / w.norm(),
    "lengths of its rows": lambda w: w / w.norm(dim=1, keepdim=True),
    "normalize": lambda w: F.normalize(w, dim=1),
    "standardised": lambda w: (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5),
    "layer_norm": lambda w: F.layer_norm(w, w.shape[1:]),
    "largest": lambda w: w / w.abs().amax(),
    "a power step": lambda w: w / (F.normalize(torch.ones(len(w)) @ w.detach(), dim=0) @ w.t()).norm(),
    "its square": lambda w: w * torch.rsqrt(w.square().sum(1, keepdim=True)),
}


@pytest.mark.parametrize("name", SIZELESS)
def test_a_weight_divided_by_its_own_size_is_never_zero(name: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), Scaled(16, 16, SIZELESS[name])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), Block(), Block(), nn.Linear(16, 3))
    assert analyze(model, BATCH)["1.b.weight"].acts_through == NORMALISED
    for scheme in propose(model, BATCH):
        twin = copy.deepcopy(model)
        scheme.apply(twin, seed=0, batch=BATCH)
        assert torch.isfinite(twin(BATCH[0])).all(), scheme.name


@pytest.mark.parametrize("function", [F.softplus, torch.exp, torch.sigmoid, torch.tanh])
def test_a_weight_behind_a_function_keeps_its_values(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = _net(function)
    p = analyze(model, BATCH)["2.weight"]
    assert p.acts_through == function.__name__ and (p.fan_in, p.fan_out) == (24, 24)
    for scheme in propose(model, BATCH):
        assert all(not a.parts for a in scheme.assignments if a.path == "2.weight"), scheme.name


@settings(deadline=None, max_examples=6)
@given(st.integers(2, 6), st.integers(2, 6), st.sampled_from([1, 3]), st.booleans())
def test_a_kernel_that_every_sample_scales_has_the_fans_of_one(inputs: int, outputs: int, k: int, demod: bool) -> None:
    class Modulated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.style = nn.Parameter(torch.randn(1, outputs, inputs, k, k)), nn.Linear(5, inputs)

        def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            b, c, h, w = x.shape
            kernel = 0.3 * self.weight * self.style(s).view(b, 1, c, 1, 1)
            if demod:
                kernel = kernel * torch.rsqrt(kernel.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
            kernel = kernel.view(b * outputs, c, k, k)
            return F.conv2d(x.reshape(1, b * c, h, w), kernel, padding=k // 2, groups=b).view(b, outputs, h, w)

    p = analyze(Modulated(), (torch.randn(3, inputs, 4, 4), torch.randn(3, 5)))["weight"]
    assert (p.fan_in, p.fan_out) == (inputs * k * k, outputs * k * k)
    assert p.fans is not None and (p.fans.out_dim, p.fans.in_dim, p.fans.groups) == (1, 2, 1)
    assert p.factor == pytest.approx(0.3) and p.acts_through == (NORMALISED if demod else None)


def _kept(spec: ModelSpec, path: str) -> ParamSpec:
    p = spec[path]
    assert p.role in (Role.ELEMENTWISE, Role.LATENT) and p.role not in WEIGHT_ROLES
    assert p.fans is None and p.fan_in == p.fan_out == 0
    return p


class Multiplied(nn.Module):
    """A signal that meets an array of any number of axes, by any op that sums nothing."""

    def __init__(self, shape: tuple[int, ...], meets: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.enter, self.array, self.head, self.meets = (
            nn.Linear(4, 8),
            nn.Parameter(torch.randn(shape)),
            nn.Linear(8, 2),
            meets,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.meets(torch.tanh(self.enter(x)), self.array))


MEETS: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "mul": ((5, 8), lambda x, a: x * a),
    "mul, spread": ((1, 5, 8), lambda x, a: a.expand(len(x), -1, -1) * x),
    "div": ((5, 8), lambda x, a: x / a),
    "einsum": ((5, 8), lambda x, a: torch.einsum("btd,td->btd", x, a)),
    "behind exp": ((5, 8), lambda x, a: x * a.exp()),
    "a vector behind exp": ((8,), lambda x, a: x * torch.exp(a)),
    "added behind sin": ((5, 8), lambda x, a: x + torch.sin(a)),
    "repeated": ((1, 5, 8), lambda x, a: x * torch.tanh(a).repeat(len(x), 1, 1)),
    "a filter": ((5, 8), lambda x, a: torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.fft.rfft(a, dim=0), n=5, dim=1)),
    "started": ((8,), lambda x, a: torch.stack([a.expand(len(x), -1) * x[:, 0, :1]] * 5, 1)),
    "distances": ((8, 8), lambda x, a: torch.cdist(x, a)),
}


@pytest.mark.parametrize("name", MEETS)
def test_what_nothing_sums_over_is_no_map_and_stays(name: str) -> None:
    shape, meets = MEETS[name]
    torch.manual_seed(0)
    model, batch = Multiplied(shape, meets), (torch.randn(6, 5, 4), torch.randn(6, 5, 2))
    _kept(analyze(model, batch), "array")
    assert not [f for f in initadvisor.check(model, batch) if f.severity.value == "error"]
    for scheme in propose(model, batch):
        twin = copy.deepcopy(model)
        scheme.apply(twin, seed=0, batch=batch)
        torch.testing.assert_close(twin.array, model.array, msg=scheme.name)


@pytest.mark.parametrize("spelt", ["parameter", "embedding"])
def test_a_learned_array_that_is_the_stream_is_no_token(spelt: str) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(5, 16) if spelt == "embedding" else nn.Parameter(torch.randn(5, 16))
            self.enter, self.read, self.head = (
                nn.Linear(4, 16),
                nn.MultiheadAttention(16, 2, batch_first=True),
                nn.Linear(16, 2),
            )
            self.cls = nn.Parameter(torch.randn(1, 1, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.rows.weight if isinstance(self.rows, nn.Embedding) else self.rows
            x = torch.cat([self.cls.expand(len(x), -1, -1), self.enter(x)], 1)
            return self.head(self.read(rows.expand(len(x), -1, -1), x, x)[0])

    spec = analyze(Reader(), torch.randn(3, 6, 4))
    _kept(spec, "rows.weight" if spelt == "embedding" else "rows")
    assert spec["cls"].role is Role.TOKEN


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 3), st.integers(2, 4), st.booleans())
def test_branches_that_are_averaged_are_one_step_of_the_stream(levels: int, count: int, stacked: bool) -> None:
    class Res(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.c(F.leaky_relu(x, 0.1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
            self.mid, self.res = (nn.ModuleList() for _ in range(2))
            for _ in range(levels):
                self.mid.append(nn.Linear(8, 8))
                self.res.append(nn.ModuleList(Res() for _ in range(count)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.enter(x)
            for mid, branches in zip(self.mid, self.res, strict=True):
                made = [r(mid(F.leaky_relu(x, 0.1))) for r in branches[:1]]
                x = mid(F.leaky_relu(x, 0.1))
                made = [r(x) for r in branches]
                x = torch.stack(made).mean(0) if stacked else sum(made) / len(made)
            return self.head(F.leaky_relu(x, 0.1))

    spec = analyze(Net(), torch.randn(3, 4))
    weights = [p for p in spec.params if p.role in WEIGHT_ROLES]
    assert {p.activation for p in weights} <= {"leaky_relu", "none"}
    assert spec.residual_depth == levels
    assert all(spec[f"res.0.{i}.c.weight"].branch_last for i in range(count))


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 3), st.sampled_from(["learned", "plain", "half"]))
def test_a_skip_inside_a_branch_is_no_branch_of_the_stream(blocks: int, skip: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b, self.o = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.d = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = F.silu(self.a(self.norm(x)))
            beside = {"learned": u * self.d, "plain": u, "half": u * 0.5}[skip]
            return x + self.o(torch.tanh(self.b(u)) + beside)

    spec = analyze(
        nn.Sequential(nn.Linear(4, 8), *(Block() for _ in range(blocks)), nn.Linear(8, 2)), torch.randn(3, 4)
    )
    assert spec.residual_depth == blocks
    assert [b.last for b in spec.branches] == [(f"{i + 1}.o.weight",) for i in range(blocks)]


def test_a_long_skip_around_blocks_leaves_them_on_the_stream() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(torch.relu(self.a(x)))

    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.end = nn.Sequential(Block(), Block(), Block()), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.end(self.blocks(x))

    spec = analyze(nn.Sequential(nn.Linear(4, 8), Long(), nn.Linear(8, 2)), torch.randn(3, 4))
    assert len(spec.branches) == 4


def test_a_function_with_a_gradient_of_its_own_leads_the_signal_on() -> None:
    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, v: torch.Tensor) -> torch.Tensor:
            return (v > 0).float()

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, v: torch.Tensor) -> torch.Tensor:
            return torch.relu(v)

    class Net(nn.Module):
        def __init__(self, act: type[torch.autograd.Function]) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 8), nn.Linear(8, 2), act

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.act.apply(self.a(x)))

    lost, seen = (analyze(Net(f), torch.randn(3, 4)) for f in (Step, Seen))
    assert (lost["b.weight"].depth, lost.coverage.opaque_ops) == (2, ("Step",))
    assert (seen["a.weight"].activation, seen.coverage.opaque_ops) == ("relu", ())


def test_the_fingerprint_tells_roles_apart() -> None:
    class Same(nn.Module):
        def __init__(self, *, added: bool) -> None:
            super().__init__()
            self.a, self.v, self.added = nn.Linear(4, 4), nn.Parameter(torch.randn(4)), added

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            return h + self.v if self.added else h * self.v

    one, two = (analyze(Same(added=added), torch.randn(3, 4)) for added in (True, False))
    assert [(p.path, p.shape) for p in one.params] == [(p.path, p.shape) for p in two.params]
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint == analyze(Same(added=True), torch.randn(5, 4)).fingerprint
