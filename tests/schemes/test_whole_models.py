"""Facts that show only on whole models: from reading the graph, through the rules, to the numbers in the weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.propose import propose, propose_from_spec
from initadvisor.schemes.rules import registry
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import SchemeKind
from initadvisor.types import CURRENT, TORCH_DEFAULT

VOCABULARY, WIDTH = 256, 64
TOKENS = torch.randint(VOCABULARY, (16, 16), generator=torch.Generator().manual_seed(1))


class Gated(nn.Module):
    """Pre-norm decoder block with separate projections and a gated feed-forward, as Llama's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, 4 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        q, k, v = (m(h).unflatten(-1, (4, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    def __init__(self, layers: int = 4, width: int = WIDTH, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Gated(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("table", torch.sin(torch.arange(16.0)[:, None] * torch.arange(width)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.table
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def read(model: nn.Module, x: torch.Tensor) -> tuple[ModelSpec, dict[str, Scheme]]:
    spec = analyze(model, x)
    return spec, {s.name: s for s in propose_from_spec(spec, model, x)}


def stds(model: nn.Module, x: torch.Tensor, name: str) -> dict[str, float]:
    read(model, x)[1][name].apply(model, seed=0)
    return {path: float(p.detach().std()) for path, p in model.named_parameters()}


def close(value: float, wanted: float, count: int) -> bool:
    """Within six standard errors of a standard deviation from ``count`` draws."""
    return abs(value / wanted - 1) < 6 / math.sqrt(2 * count)


def test_llama_scales_what_writes_to_the_stream_by_its_own_layer():
    model = Decoder()
    got = stds(model, TOKENS, "llama")
    for layer in range(4):
        wanted = 0.02 / math.sqrt(2 * (layer + 1))
        assert close(got[f"blocks.{layer}.o.weight"], wanted, WIDTH**2)
        assert close(got[f"blocks.{layer}.down.weight"], wanted, 4 * WIDTH**2)
        assert close(got[f"blocks.{layer}.up.weight"], 0.02, 4 * WIDTH**2)
    assert close(got["embed.weight"], 1.0, VOCABULARY * WIDTH)
    assert close(got["head.weight"], WIDTH**-0.5, VOCABULARY * WIDTH)
    assert float(model.head.weight.detach().abs().max()) <= 3 * WIDTH**-0.5 / 0.9866 * 1.001


@pytest.mark.parametrize("name", ["rules_orthogonal", "rules_gaussian", "gpt2"])
def test_of_a_gated_feed_forward_only_the_matrix_that_writes_to_the_stream_is_scaled_down(name):
    shallow, deep = stds(Decoder(2), TOKENS, name), stds(Decoder(8), TOKENS, name)
    ratio = {part: deep[f"blocks.1.{part}.weight"] / shallow[f"blocks.1.{part}.weight"] for part in ("gate", "up")}
    assert all(close(value, 1, 2 * WIDTH**2) for value in ratio.values())
    for part in ("down", "o"):
        # 16 branches instead of 4: half the size.
        assert close(deep[f"blocks.1.{part}.weight"] / shallow[f"blocks.1.{part}.weight"], 0.5, WIDTH**2 // 2)


def test_a_tied_table_starts_at_the_loss_of_no_opinion_where_torchs_does_not():
    model = Decoder(2, tied=True)

    def loss() -> float:
        with torch.no_grad():
            # Predicting a token from itself, which a tied head does by heart: the others' logits decide.
            return float(F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(1, 1).flatten()))

    schemes = read(model, TOKENS)[1]
    schemes[TORCH_DEFAULT].apply(model)
    assert loss() > 4 * math.log(VOCABULARY)
    for name, scheme in schemes.items():
        if scheme.kind is SchemeKind.RULES:
            scheme.apply(model)
            assert loss() < 1.5 * math.log(VOCABULARY), name
            assert model.head.weight is model.embed.weight


class Added(nn.Module):
    """A fixed table of positions, kept as a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        fixed = torch.cos(torch.arange(16.0)[:, None] * torch.arange(WIDTH))
        self.table = nn.Parameter(fixed, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table


def test_fixed_tables_are_never_touched():
    model = Decoder(1)
    model.embed = nn.Sequential(model.embed, Added())
    buffer, frozen = model.table.clone(), model.embed[1].table.detach().clone()
    for scheme in read(model, TOKENS)[1].values():
        scheme.apply(model, seed=3)
        assert torch.equal(model.table, buffer)
        assert torch.equal(model.embed[1].table.detach(), frozen)


def test_layers_that_torch_cloned_are_drawn_one_by_one():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    )
    x = torch.randn(2, 5, 16)
    first, second = model.layers
    assert torch.equal(first.linear1.weight, second.linear1.weight)
    drawn = ("linear1.weight", "self_attn.in_proj_weight")
    for name, scheme in read(model, x)[1].items():
        if name == CURRENT:
            continue
        scheme.apply(model)
        one, two = dict(first.named_parameters()), dict(second.named_parameters())
        random = [p for p in drawn if one[p].detach().std() > 0]
        assert random
        if "hadamard" not in name:
            assert all(not torch.equal(one[p], two[p]) for p in random), name


def test_a_packed_projection_has_the_fans_of_one_chunk_and_torchs_output_keeps_its_linear_default():
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(64, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(x, x, x)[0]

    model, x = Attending(), torch.randn(2, 5, 64)
    schemes = read(model, x)[1]
    schemes["rules_gaussian"].apply(model)
    chunks = model.mix.in_proj_weight.detach().chunk(3)
    assert all(close(float(c.std()), 64**-0.5, 64 * 64) for c in chunks)
    schemes[TORCH_DEFAULT].apply(model)
    # Over the packed fan: 2/(64 + 192), half the variance.
    assert close(float(model.mix.in_proj_weight.detach().std()), 128**-0.5, 3 * 64 * 64)
    assert close(float(model.mix.out_proj.weight.detach().std()), (3 * 64) ** -0.5, 64 * 64)


def test_every_layer_and_direction_of_an_lstm_opens_one_forget_gate():
    model = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
    read(model, torch.randn(2, 5, 8))[1]["rules_orthogonal"].apply(model)
    seen = 0
    for name, p in model.named_parameters():
        if "bias" in name:
            seen += 1
            gates = [float(g.unique().item()) for g in p.detach().chunk(4)]
            assert gates == [0.0, 1.0 if "_ih_" in name else 0.0, 0.0, 0.0], name
        elif "hh" in name:
            for gate in p.detach().chunk(4):
                torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
    assert seen == 8


def test_a_grus_second_bias_lies_inside_its_reset_gate_and_is_a_bias_of_its_own():
    model, x = nn.GRU(8, 16, batch_first=True), torch.randn(2, 5, 8)
    schemes = read(model, x)[1]
    rules = {a.path: a.rule for a in schemes["rules_orthogonal"].assignments}
    assert rules["bias_hh_l0"] == rules["bias_ih_l0"] == "bias"
    schemes[TORCH_DEFAULT].apply(model)
    inner = model.bias_hh_l0.detach()[32:]
    assert float(inner.abs().max()) <= 16**-0.5
    assert len(inner.unique()) == 16
    # Unlike an LSTM's, it cannot be moved into the other one.
    out = model(x)[0]
    with torch.no_grad():
        model.bias_ih_l0[32:] += model.bias_hh_l0[32:]
        model.bias_hh_l0[32:] = 0
    assert not torch.allclose(model(x)[0], out, atol=1e-3)


def test_what_a_recurrent_state_adds_up_keeps_its_length():
    model, x = nn.RNN(2, 64, batch_first=True), torch.randn(4, 5, 2)
    schemes = read(model, x)[1]
    schemes["rules_orthogonal"].apply(model)
    inward = model.weight_ih_l0.detach()
    torch.testing.assert_close(inward.T @ inward, torch.eye(2), atol=1e-5, rtol=0)
    schemes["rules_gaussian"].apply(model)
    assert close(float(model.weight_ih_l0.detach().std()), math.sqrt(2 / 66), 128)


def test_a_patch_keeps_its_length_where_it_starts_a_stream():
    class Patched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 32, 2, stride=2)
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, norm_first=True) for _ in range(2))
            self.head = nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).permute(2, 0, 1)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(0))

    model = Patched()
    read(model, torch.randn(4, 1, 8, 8))[1]["rules_orthogonal"].apply(model)
    kernel = model.patch.weight.detach().flatten(1)
    torch.testing.assert_close(kernel.T @ kernel, torch.eye(4), atol=1e-5, rtol=0)


class Ending(nn.Module):
    """Post-activation branches that end with a norm, learned or not."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16, elementwise_affine=affine)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.norm(self.outer(torch.relu(self.inner(x)))))


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_that_ends_a_branch_is_zeroed_only_where_it_can_be_and_nothing_else_is(affine):
    model, x = Ending(affine), torch.randn(8, 16)
    schemes = read(model, x)[1]
    assert affine == ("rules_zero_last" in schemes)
    for scheme in schemes.values():
        scheme.apply(model)
        assert float(model.outer.weight.detach().abs().sum()) > 0, scheme.name
    if affine:
        schemes["rules_zero_last"].apply(model)
        assert float(model.norm.weight.detach().abs().sum()) == 0


@pytest.mark.parametrize("omega", [17.0, 30.0])
def test_the_frequency_of_sines_is_read_from_the_graph(omega):
    class Sine(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(omega * x)

    layers = [nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 1)]
    model = nn.Sequential(*layers)
    read(model, torch.rand(32, 2))[1]["rules_orthogonal"].apply(model)
    bound = math.sqrt(6 / 64) / omega
    for index in (2, 4):
        largest = float(model[index].weight.detach().abs().max())
        # The largest of n uniform draws falls short of the bound by bound/n on average.
        assert bound * (1 - 20 / 64**2) < largest <= bound * (1 + 1e-6)
    assert float(model[0].weight.detach().abs().max()) <= 0.5 * (1 + 1e-6)


def test_of_an_integer_layer_only_the_adapter_is_filled():
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.randint(-8, 8, (16, 16), dtype=torch.int8), requires_grad=False)
            self.a, self.b = nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.codes.float() * 0.01) + self.b(self.a(x))

    model, x = Quantised(), torch.randn(8, 16)
    codes = model.codes.clone()
    for name, scheme in read(model, x)[1].items():
        result = scheme.apply(model, seed=1)
        assert torch.equal(model.codes, codes), name
        assert "codes" in result.left, name
    read(model, x)[1]["rules_orthogonal"].apply(model)
    assert float(model.b.weight.detach().abs().sum()) == 0
    assert float(model.a.weight.detach().abs().sum()) > 0


def test_a_learned_state_matrix_marked_by_its_author_is_left():
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), torch.randn(4, 8)
    model[0].weight._no_reinit = True
    before = copy.deepcopy(model[0].weight.detach())
    for scheme in read(model, x)[1].values():
        scheme.apply(model, seed=2)
        assert torch.equal(model[0].weight.detach(), before)


def test_sixteen_rare_labels_start_at_their_odds():
    model, x = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16)), torch.randn(480, 8)
    target = F.one_hot(torch.arange(480) % 16, 16).float()
    spec = analyze(model, x)
    scheme = {s.name: s for s in propose_from_spec(spec, model, (x, target))}["rules_output_prior"]
    scheme.apply(model)
    assert model[2].bias.detach().tolist() == pytest.approx([-math.log(15)] * 16, abs=1e-3)


class Vision(nn.Module):
    """One attention over patches, packed or not, with learned places; with words in place of patches for contrast."""

    def __init__(self, packed: bool = True, words: bool = False, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Embedding(30, width) if words else nn.Linear(12, width)
        self.places = nn.Parameter(torch.randn(1, 7, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.maps = nn.ModuleList(nn.Linear(width, n * width) for n in ((3,) if packed else (1, 1, 1)))
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.patches(x) + self.places
        made = torch.cat([m(self.norm(h)) for m in self.maps], -1) if len(self.maps) == 1 else None
        parts = made.chunk(3, -1) if made is not None else [m(self.norm(h)) for m in self.maps]
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        h = h + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(h.mean(1))


@pytest.mark.parametrize("packed", [True, False])
def test_attention_of_a_vision_transformer_may_start_mimetic(packed):
    model, x = Vision(packed), torch.randn(8, 7, 12)
    schemes = read(model, x)[1]
    schemes["mimetic"].apply(model, seed=3)
    with torch.no_grad():
        q, k, v = torch.cat([m.weight for m in model.maps]).chunk(3)
        for head in range(3):  # cut to rank 8 of 24: the sum over heads of query·key keeps a positive trace
            rows = slice(8 * head, 8 * head + 8)
            assert float((q[rows].T @ k[rows]).trace()) > 0
        product = model.out.weight @ v  # what a token writes about itself
        # trace = −.4·24 plus noise of deviation .4 (24 entries of variance 1/24): six deviations either way.
        assert abs(float(product.trace()) + 0.4 * 24) < 6 * 0.4


def test_mimetic_attention_is_proposed_for_no_words_and_only_where_heads_pair():
    assert "mimetic" not in read(Vision(words=True), torch.randint(0, 30, (8, 7)))[1]
    plain = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4))
    assert "mimetic" not in read(plain, torch.randn(8, 12))[1]


def test_a_plain_cnn_may_start_as_the_identity_and_a_wide_saturating_stack_sparse():
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    cnn = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 36, 4))
    x = torch.randn(4, 3, 6, 6)
    read(cnn, x)[1]["dirac"].apply(cnn, seed=0)
    with torch.no_grad():
        first = cnn[1](cnn[0](x))
        assert torch.equal(cnn[:10](x), first)  # four more layers hand on what the first one gave
    wide = nn.Sequential(*(m for n in (64, 200, 200, 200) for m in (nn.Linear(n, 200), nn.Tanh())), nn.Linear(200, 4))
    schemes = read(wide, torch.randn(4, 64))[1]
    schemes["sparse"].apply(wide, seed=0)
    assert [int((wide[i].weight != 0).sum(1).max()) for i in (2, 4, 6)] == [15, 15, 15]
    narrow = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(32, 32), nn.Tanh())), nn.Linear(32, 4))
    assert "sparse" not in read(narrow, torch.randn(4, 32))[1]
    assert "dirac" not in read(narrow, torch.randn(4, 32))[1]


class Factors(nn.Module):
    """Users times items, and what each adds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(300, width), nn.Embedding(200, width)
        self.user_offset, self.item_offset = nn.Embedding(300, 1), nn.Embedding(200, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        product = (self.users(user) * self.items(item)).sum(-1)
        return product + (self.user_offset(user) + self.item_offset(item)).squeeze(-1)


@pytest.mark.parametrize("width", [8, 64])
def test_a_factor_model_may_start_with_small_tables_where_torchs_products_grow_with_the_width(width):
    draw = torch.Generator().manual_seed(0)
    batch = torch.randint(300, (4000,), generator=draw), torch.randint(200, (4000,), generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Factors(width)
    by_name = read(model, batch)[1]
    size = {}
    for name in (CURRENT, "rules_orthogonal", "rules_unit_rows", "rules_small_tables"):
        copied = copy.deepcopy(model)
        by_name[name].apply(copied, seed=1)
        size[name] = float(copied(*batch).detach().std())
    # Variance of the output: width products of the two variances, and two offsets; rows repeat, so a tenth is allowed.
    assert size[CURRENT] == pytest.approx(math.sqrt(width + 2), rel=0.1)
    assert size["rules_orthogonal"] == pytest.approx(0.5, rel=0.1), "products sum to half of unit size"
    assert size["rules_unit_rows"] == pytest.approx(width**-0.5, rel=0.1)
    assert size["rules_small_tables"] < 0.02


def test_tables_of_one_number_are_not_taken_for_offsets_where_there_is_nothing_wider():
    spec = analyze(nn.Embedding(10, 1), torch.arange(10))
    assert not registry.get("embedding_offset").match(spec.params[0], spec)


def test_of_a_normalised_weight_it_is_said_that_its_size_acts_as_a_rate_only():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    scheme = read(model, torch.randn(2, 3, 8, 8))[1]["rules_orthogonal"]
    said = {a.path: "learning rate only" in a.reason for a in scheme.assignments if a.path.endswith("weight")}
    assert said["0.weight"]
    assert not said["3.weight"]


@pytest.mark.parametrize(
    "loss",
    [
        None,
        lambda net, batch: nn.functional.mse_loss(net(batch[0]), batch[1]),
        lambda output, target: (output - target).abs().mean(),
    ],
    ids=["inferred", "of the model", "of the output"],
)
def test_a_prior_on_the_output_bias_does_not_ask_for_a_certain_loss(loss):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(128, 8)
    batch = (x, 25 + x[:, :1])
    scheme = {s.name: s for s in propose(model, batch, loss=loss)}["rules_output_prior"]
    scheme.apply(model, batch=batch)
    assert float(model[2].bias.detach()) == pytest.approx(float(batch[1].mean()), rel=1e-4)
