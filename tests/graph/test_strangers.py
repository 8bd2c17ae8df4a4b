"""Small models as people write them by hand, each with the one fact that is easily misread."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initadvisor import analyze
from initadvisor.graph.spec import ModelSpec
from initadvisor.types import Role


def _roles(spec: ModelSpec) -> dict[str, Role]:
    return {p.path.removesuffix(".weight"): p.role for p in spec.params if not p.path.endswith("bias")}


def test_a_value_beside_advantages_is_an_output() -> None:
    class Dueling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.value, self.advantage = nn.Linear(4, 16), nn.Linear(16, 1), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.relu(self.body(x))
            a = self.advantage(h)
            return self.value(h) + a - a.mean(1, keepdim=True)

    roles = _roles(analyze(Dueling(), torch.randn(2, 4)))
    assert roles == {"body": Role.INPUT, "value": Role.OUTPUT, "advantage": Role.OUTPUT}


def test_a_linear_reading_beside_a_deep_one_is_no_shortcut() -> None:
    class WideAndDeep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.first, self.last = nn.Linear(10, 1), nn.Linear(10, 8), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.wide(x) + self.last(F.relu(self.first(x))))

    spec = analyze(WideAndDeep(), torch.randn(3, 10))
    assert _roles(spec) == {"wide": Role.OUTPUT, "first": Role.INPUT, "last": Role.OUTPUT}
    assert not spec.branches and spec["last.weight"].activation == "sigmoid"


def test_a_factorisation_machine_beside_a_net_is_no_residual() -> None:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.first, self.last = nn.Embedding(40, 6), nn.Linear(24, 16), nn.Linear(16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            e = self.table(x)
            pairs = (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True) / 2
            return pairs + self.last(F.relu(self.first(e.flatten(1))))

    spec = analyze(Factors(), torch.randint(0, 40, (3, 4)))
    assert not spec.branches
    assert spec["last.weight"].role is Role.OUTPUT


def test_a_denoiser_begins_at_its_input() -> None:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            noise: torch.Tensor = self.last(F.relu(self.first(x)))
            return x - noise

    spec = analyze(Denoiser(), torch.randn(2, 1, 8, 8))
    assert _roles(spec) == {"first": Role.INPUT, "last": Role.RESIDUAL_OUT}
    assert len(spec.branches) == 1


def test_a_graph_convolution_is_seen_through_its_dense_and_sparse_neighbours() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Parameter(torch.randn(7, 16)), nn.Parameter(torch.randn(16, 3))
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor, adj: torch.Tensor) -> torch.Tensor:
            h = F.relu(torch.mm(adj, x @ self.one))
            return F.log_softmax(torch.mm(adj, h @ self.two) + self.shift, -1)

    dense = (torch.rand(6, 6) > 0.5).float()
    for adj in (dense, dense.to_sparse()):
        spec = analyze(Graph(), {"x": torch.randn(6, 7), "adj": adj})
        assert spec["one"].activation == "relu" and spec["one"].role is Role.INPUT
        assert spec["two"].role is Role.OUTPUT
        assert spec["shift"].role is Role.BIAS and spec["shift"].bias_of == "two"


def test_attention_over_the_data_itself_is_still_an_attention() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.score, self.head = nn.Linear(10, 8), nn.Linear(8, 1), nn.Linear(10, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            share = self.score(torch.tanh(self.read(x))).transpose(-1, -2).softmax(-1)
            return self.head((share @ x).squeeze(-2))  # type: ignore[no-any-return]

    roles = _roles(analyze(Bag(), torch.randn(2, 9, 10)))
    assert roles == {"read": Role.INPUT, "score": Role.HIDDEN, "head": Role.OUTPUT}


class Additive(nn.Module):
    """A decoder whose query is added to every key, and that reads what it chose last."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.encoder = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True)
        self.query, self.key, self.score = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.cell, self.head = nn.GRUCell(16, 8), nn.Linear(8, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys, state = self.encoder(self.table(x))
        state, word, made = state[0], torch.zeros(x.shape[0], dtype=torch.long), []
        for _ in range(3):
            scores = self.score(torch.tanh(self.query(state)[:, None] + self.key(keys))).transpose(1, 2)
            context = torch.bmm(scores.softmax(-1), keys)[:, 0]
            state = self.cell(torch.cat([self.table(word), context], -1), state)
            made.append(self.head(state))
            word = made[-1].argmax(-1)
        return F.log_softmax(torch.stack(made, 1), -1)


def test_additive_attention_is_no_residual_and_what_is_chosen_ends_the_model() -> None:
    spec = analyze(Additive(), torch.randint(0, 20, (2, 5)))
    roles = _roles(spec)
    assert not spec.branches
    assert roles["head"] is Role.OUTPUT
    assert not {roles["query"], roles["key"]} & {Role.MODULATION, Role.SHORTCUT, Role.RESIDUAL_OUT}


class PerClass(nn.Module):
    """A generator whose batch norm has a scale and a shift for every class."""

    def __init__(self, neutral: float, packed: bool) -> None:
        super().__init__()
        self.neutral, self.packed = neutral, packed
        self.first, self.norm = nn.Linear(8, 4 * 4 * 8), nn.BatchNorm2d(8, affine=False)
        self.rows = nn.ModuleList([nn.Embedding(5, 16)] if packed else [nn.Embedding(5, 8), nn.Embedding(5, 8)])
        self.last = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.first(z).view(-1, 8, 4, 4))
        rows = self.rows[0](y).chunk(2, 1) if self.packed else [table(y) for table in self.rows]
        scale, shift = (r[:, :, None, None] for r in rows)
        return torch.tanh(self.last(F.relu(h * (self.neutral + scale if self.neutral else scale) + shift)))


def test_tables_of_a_conditional_norm_are_its_scales_and_shifts() -> None:
    batch = {"z": torch.randn(3, 8), "y": torch.tensor([0, 1, 2])}
    for neutral in (0.0, 1.0):
        spec = analyze(PerClass(neutral, packed=False), batch)
        scale, shift = spec["rows.0.weight"], spec["rows.1.weight"]
        assert (scale.role, scale.offset, shift.role) == (Role.NORM_SCALE, neutral, Role.NORM_SHIFT)
        packed = analyze(PerClass(neutral, packed=True), batch)["rows.0.weight"]
        assert packed.offset == neutral
        parts = [(s.role, s.dim, s.ranges) for s in packed.slices]
        assert parts == [(Role.NORM_SCALE, 1, ((0, 8),)), (Role.NORM_SHIFT, 1, ((8, 16),))]


def test_centres_that_signals_are_compared_with_are_named_not_guessed() -> None:
    class Centres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres, self.head = nn.Parameter(torch.randn(12, 4)), nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.exp(-((x[:, None] - self.centres) ** 2).sum(-1)))  # type: ignore[no-any-return]

    spec = analyze(Centres(), torch.randn(3, 4))
    assert spec["centres"].role is Role.LATENT
    assert spec["centres"].fans is None and spec.coverage.complete


def test_the_size_of_a_policys_noise_keeps_its_authors_value() -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean = nn.Linear(4, 16), nn.Linear(16, 2)
            self.log_std = nn.Parameter(torch.full((2,), -0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = self.mean(torch.tanh(self.body(x)))
            return torch.distributions.Normal(mean, self.log_std.exp()).rsample()

    spec = analyze(Policy(), torch.randn(3, 4))
    assert spec.coverage.opaque_ops == () and spec.coverage.complete
    assert spec["log_std"].role is Role.SCALAR and spec["mean.weight"].role is Role.OUTPUT


def test_what_a_scan_multiplies_and_sums_is_no_modulation() -> None:
    class Scan(nn.Module):
        """A selective state space written out: an outer product in, an inner product out."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.step = nn.Linear(2, 8), nn.Linear(8, 8)
            self.write, self.read = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
            self.decay, self.head = nn.Parameter(torch.zeros(8, 4)), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = self.first(x)
            dt, state, made = F.softplus(self.step(u)), torch.zeros(x.shape[0], 8, 4), []
            for t in range(u.shape[1]):
                entering = dt[:, t, :, None] * self.write(u)[:, t, None] * u[:, t, :, None]
                state = state * torch.exp(-dt[:, t, :, None] * self.decay.exp()) + entering
                made.append((state * self.read(u)[:, t, None]).sum(-1))
            return self.head(torch.stack(made, 1))  # type: ignore[no-any-return]

    roles = _roles(analyze(Scan(), torch.randn(2, 5, 2)))
    assert Role.MODULATION not in (roles["write"], roles["read"], roles["step"])


@pytest.mark.parametrize("name", ["erf", "expit", "arcsinh", "special_log1p", "fix"])
def test_other_spellings_of_an_elementwise_function_are_understood(name: str) -> None:
    module, _, short = name.rpartition("_")
    bend = getattr(torch.special, short) if module or not hasattr(torch, short) else getattr(torch, short)

    class Bent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(bend(self.first(x)))  # type: ignore[no-any-return]

    spec = analyze(Bent(), torch.randn(4, 8))
    assert spec.coverage.opaque_ops == () and spec["first.weight"].activation not in ("none", "unknown")


def test_maps_picked_for_every_token_are_experts_and_their_biases_no_shortcut() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.router = nn.Linear(3, 8), nn.Linear(8, 4, bias=False)
            self.up, self.down = nn.Parameter(torch.randn(4, 8, 16)), nn.Parameter(torch.randn(4, 16, 8))
            self.shift, self.head = nn.Parameter(torch.zeros(4, 8)), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            share, picked = self.router(h).softmax(-1).max(-1)
            made = torch.bmm(F.silu(torch.bmm(h[:, None], self.up[picked])), self.down[picked])[:, 0]
            return self.head(h + (made + self.shift[picked]) * share[:, None])  # type: ignore[no-any-return]

    spec = analyze(Experts(), torch.randn(16, 3))
    assert len(spec.branches) == 1 and spec.branches[0].last == ("down",)
    up, down = spec["up"], spec["down"]
    assert (up.role, up.fan_in, up.fan_out, up.activation) == (Role.MLP_IN, 8, 16, "silu")
    assert (down.role, down.fan_in, down.fan_out) == (Role.MLP_OUT, 16, 8)
    assert up.fans is not None and up.fans.batch_dims == (0,)
    assert spec["router.weight"].role is Role.ROUTER


def test_gathered_experts_joined_by_einsum_are_packed_gates_and_ups() -> None:
    class Gathered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.router = nn.Linear(3, 8), nn.Linear(8, 4, bias=False)
            self.up, self.down = nn.Parameter(torch.randn(4, 32, 8)), nn.Parameter(torch.randn(4, 8, 16))
            self.up_bias, self.down_bias = nn.Parameter(torch.zeros(4, 32)), nn.Parameter(torch.zeros(4, 8))
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            share, picked = self.router(h).topk(2, -1)
            t = torch.einsum("beck,bk->bec", self.up[picked], h) + self.up_bias[picked]
            t = F.silu(t[..., ::2]) * (t[..., 1::2] + 1)
            t = torch.einsum("beck,bek->bec", self.down[picked], t) + self.down_bias[picked]
            return self.head(h + torch.einsum("bec,be->bc", t, share.softmax(-1)))  # type: ignore[no-any-return]

    spec = analyze(Gathered(), torch.randn(16, 3))
    up, down = spec["up"], spec["down"]
    assert (up.fan_in, up.fan_out, up.activation) == (8, 16, "silu")
    assert [(s.name, s.dim) for s in up.slices] == [("gate", 1), ("up", 1)]
    assert (down.role, down.fan_in, down.fan_out, down.branch_last) == (Role.MLP_OUT, 16, 8, True)
    assert spec["router.weight"].role is Role.ROUTER
    for bias, weight in (("up_bias", "up"), ("down_bias", "down")):
        assert spec[bias].role is Role.BIAS and spec[bias].bias_of == weight
