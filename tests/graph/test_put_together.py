"""Weights and biases that are concatenated, heads of keys put together from several maps, branches that are dropped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.types import Role

WIDTH = 8


def test_separate_projections_beside_an_empty_packed_one() -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias = torch.cat((self.q.bias, self.k.bias, self.v.bias))
            out: torch.Tensor = F.multi_head_attention_forward(
                x, x, x, WIDTH, 2, torch.empty(0), bias, None, None, False, 0.0, self.o.weight, self.o.bias,
                use_separate_proj_weight=True, q_proj_weight=self.q.weight, k_proj_weight=self.k.weight,
                v_proj_weight=self.v.weight,
            )[0]  # fmt: skip
            return out

    spec = analyze(Called(), torch.randn(5, 2, WIDTH))
    assert [spec[f"{n}.weight"].role.value for n in "qkvo"] == ["query", "key", "value", "attn_out"]
    assert [spec[f"{n}.bias"].role.value for n in "qkvo"] == ["bias"] * 4

    assert [spec[f"{n}.bias"].bias_of for n in "qkvo"] == [f"{n}.weight" for n in "qkvo"]


class Concatenated(nn.Module):
    """Projections kept apart and run as one product (or kept as queries beside packed keys and values)."""

    def __init__(self, heads: int, groups: int, width: int, packed: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.width = heads, groups, width
        total = heads * width
        self.q, self.o = nn.Linear(total, total), nn.Linear(total, total)
        self.rest = nn.ModuleList(
            nn.Linear(total, groups * width * (2 if packed else 1)) for _ in range(1 if packed else 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = (self.q, *self.rest)
        made = F.linear(x, torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps]))
        sizes = [n * self.width for n in (self.heads, self.groups, self.groups)]
        q, k, v = (z.unflatten(-1, (-1, self.width)).transpose(1, 2) for z in made.split(sizes, -1))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))


@settings(deadline=None, max_examples=12)
@given(st.sampled_from([1, 2]), st.sampled_from([1, 3]), st.booleans())
def test_concatenated_projections_keep_their_own_facts(groups: int, per: int, packed: bool) -> None:
    heads, width = groups * per, 4
    spec = analyze(Concatenated(heads, groups, width, packed), torch.randn(2, 5, heads * width))
    query = spec["q.weight"]
    assert (query.role, query.heads, query.fan_in, query.fan_out) == (
        Role.QUERY, heads, heads * width, heads * width,
    )  # fmt: skip
    size = groups * width
    if packed:
        rest = spec["rest.0.weight"]
        assert rest.role is Role.QKV
        assert {s.name: s.ranges for s in rest.slices} == {"key": ((0, size),), "value": ((size, 2 * size),)}
        assert {s.fans.fan_out for s in rest.slices} == {size}
    else:
        assert [spec[f"rest.{i}.weight"].role for i in (0, 1)] == [Role.KEY, Role.VALUE]
        assert {(spec[f"rest.{i}.weight"].heads, spec[f"rest.{i}.weight"].fan_out) for i in (0, 1)} == {(groups, size)}
    for path in ("q", "rest.0", *(() if packed else ("rest.1",))):
        assert spec[f"{path}.bias"].bias_of == f"{path}.weight"


def test_biases_beside_a_constant_part() -> None:
    """Bao et al. 2022: queries and values have a bias, keys have none, the projection is packed."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.o = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(WIDTH)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
            made = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(made[0], made[1], made[2])
            return self.o(y.transpose(1, 2).flatten(2))

    spec = analyze(Net(), torch.randn(2, 5, WIDTH))
    for path in ("q_bias", "v_bias"):
        assert (spec[path].role, spec[path].bias_of) == (Role.BIAS, "qkv.weight")
    assert [s.name for s in spec["qkv.weight"].slices] == ["query", "key", "value"]


def test_a_bias_cut_from_the_middle_of_a_concatenation() -> None:
    """Cuts that do not fall on the seams: a bias belongs to every map that adds some of it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.parts = nn.ParameterList(torch.zeros(n) for n in (2, 6, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            both = torch.cat(list(self.parts))
            return F.linear(torch.relu(F.linear(x, self.a.weight, both[:6])), self.b.weight, both[6:])

    spec = analyze(Net(), torch.randn(3, 4))
    assert [spec[f"parts.{i}"].uses for i in range(3)] == [1, 2, 1]
    assert [spec[f"parts.{i}"].bias_of for i in (0, 2)] == ["a.weight", "b.weight"]


class LatentAttention(nn.Module):
    """DeepSeek-AI 2024, section 2.1: keys of a part per head and a rotary part that all heads share."""

    def __init__(self, heads: int, plain: int, rotary: int, value: int, written: bool) -> None:
        super().__init__()
        self.heads, self.plain, self.rotary, self.value, self.written = heads, plain, rotary, value, written
        self.down, self.k_rotary = nn.Linear(WIDTH, 6), nn.Linear(WIDTH, rotary)
        self.q_plain, self.q_rotary = nn.Linear(WIDTH, heads * plain), nn.Linear(WIDTH, heads * rotary)
        self.k_plain, self.v, self.o = (
            nn.Linear(6, heads * plain),
            nn.Linear(6, heads * value),
            nn.Linear(heads * value, 5),
        )

    def turn(self, z: torch.Tensor) -> torch.Tensor:
        half = z.shape[-1] // 2
        angle = torch.arange(z.shape[-2])[:, None] * torch.ones(z.shape[-1])
        return z * angle.cos() + torch.cat([-z[..., half:], z[..., :half]], -1) * angle.sin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def split(z: torch.Tensor) -> torch.Tensor:
            return z.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        low = self.down(x)
        q = torch.cat([split(self.q_plain(x)), self.turn(split(self.q_rotary(x)))], -1)
        plain, shared = split(self.k_plain(low)), self.turn(self.k_rotary(x)[:, None]).expand(-1, self.heads, -1, -1)
        if self.written:
            k = plain.new_empty(*plain.shape[:-1], self.plain + self.rotary)
            k[..., : self.plain].copy_(plain)
            k[..., self.plain :] = shared
        else:
            k = torch.cat([plain, shared], -1)
        y = (q @ k.mT).softmax(-1) @ split(self.v(low))
        return self.o(y.transpose(1, 2).flatten(2))


@settings(deadline=None, max_examples=16)
@given(st.sampled_from([2, 4, 6]), st.sampled_from([2, 4, 6]), st.sampled_from([2, 4, 6]), st.sampled_from([3, 8]),
       st.booleans())  # fmt: skip
def test_heads_of_keys_put_together(heads: int, plain: int, rotary: int, value: int, written: bool) -> None:
    spec = analyze(LatentAttention(heads, plain, rotary, value, written), torch.randn(2, 7, WIDTH))
    found = {n: spec[f"{n}.weight"].heads for n in ("q_plain", "q_rotary", "k_plain", "k_rotary", "v", "o")}
    assert found == {n: 1 if n == "k_rotary" else heads for n in found}


@pytest.mark.parametrize("training", [True, False])
def test_a_branch_that_is_dropped_at_random_has_no_factor(training: bool) -> None:
    """Huang et al. 2016: what survives is divided by how often it does, which is no scale of the branch."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = 0.5 * self.b(F.gelu(self.a(self.norm(x))))
            if self.training:
                y = y.div(0.8) * torch.floor(torch.rand(x.shape[0], 1) + 0.8)
            return x + y

    model = nn.Sequential(nn.Linear(3, WIDTH), Block(), nn.Linear(WIDTH, 2)).train(training)
    (branch,) = analyze(model, torch.randn(4, 3)).branches
    assert branch.constant == 0.5 and branch.last == ("1.b.weight",)


def test_the_bias_of_a_tied_head_has_the_heads_fans() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 20)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    spec = analyze(Net(), torch.zeros(2, 3, dtype=torch.long))
    assert spec["head.bias"].bias_of == "head.weight"
    assert spec["head.weight"].fan_in == WIDTH and spec["embed.weight"].fan_in == 1
