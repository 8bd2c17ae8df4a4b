"""Roles that depend on the surroundings, each in the smallest model that has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import Confidence, NormStyle
from initadvisor.types import Role

X, SEQUENCE = torch.randn(2, 8), torch.randn(2, 5, 8)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.h, self.o = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            h = torch.tanh(self.x(x[:, t]) + self.h(h))
        return self.o(h)


def test_a_recurrence_written_as_a_loop() -> None:
    spec = analyze(Loop(), SEQUENCE)
    assert spec["x.weight"].role is Role.RECURRENT_INPUT and spec["h.weight"].role is Role.RECURRENT_HIDDEN
    assert spec["h.weight"].activation == "tanh" and spec["h.weight"].uses == 5
    assert not spec.branches, "the sum of two maps is no residual branch"


class Blocks(nn.Module):
    """A residual block of every kind of branch end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)
        self.scale, self.zero, self.norm = (
            nn.Parameter(torch.full((8,), 1e-5)),
            nn.Parameter(torch.zeros(())),
            nn.LayerNorm(8),
        )
        self.project, self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(8, 24), nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale * self.b(F.gelu(self.a(x)))
        x = x + self.zero * F.relu(self.c(x)) * 0.5
        x = self.norm(x)
        return self.project(x) + self.narrow(F.silu(self.wide(x)))


def test_branch_ends() -> None:
    spec = analyze(Blocks(), X)
    layer_scale, re_zero, projected = spec.branches
    assert (layer_scale.scale, layer_scale.last, layer_scale.length) == ("scale", ("b.weight",), 2)
    assert (re_zero.scale, re_zero.last, re_zero.constant) == ("zero", ("c.weight",), 0.5)
    assert re_zero.style is NormStyle.POST_NORM and layer_scale.style is NormStyle.NONE
    assert projected.last == ("narrow.weight",)
    assert [spec[p].role for p in ("scale", "zero")] == [Role.BRANCH_SCALE] * 2
    assert spec["project.weight"].role is Role.SHORTCUT
    assert [spec[f"{n}.weight"].role for n in ("a", "b", "c", "wide", "narrow")] == [
        Role.MLP_IN, Role.MLP_OUT, Role.RESIDUAL_OUT, Role.MLP_IN, Role.MLP_OUT,
    ]  # fmt: skip
    assert spec["b.weight"].branch_last and spec["b.weight"].branch_scale == "scale"
    assert spec.residual_depth == 3


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        self.merged, self.a, self.b = nn.Linear(8, 8), nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.base(x) + 2 * self.up(self.down(x)))
        return F.linear(x, self.merged.weight + self.b @ self.a, self.merged.bias)


def test_adapters_beside_a_weight_and_inside_it() -> None:
    spec = analyze(Adapted(), X)
    assert [spec[p].role for p in ("down.weight", "up.weight", "a", "b")] == [
        Role.ADAPTER_IN, Role.ADAPTER_OUT, Role.ADAPTER_IN, Role.ADAPTER_OUT,
    ]  # fmt: skip
    assert (spec["a"].fan_in, spec["b"].fan_in) == (8, 2)
    assert spec["base.weight"].protected == "frozen" and spec["merged.weight"].protected is None
    assert not spec.branches


class Excited(nn.Module):
    """Squeeze and excitation in a residual branch, and a condition added to every place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 2), nn.Linear(2, 8)
        self.last, self.time = nn.Conv1d(8, 8, 1), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.conv(x) + self.time(t)[..., None])
        h = h * torch.sigmoid(self.excite(F.relu(self.squeeze(h.mean(-1)))))[..., None]
        return x + self.last(h)


def test_gates_of_a_stream_and_conditions_on_it() -> None:
    spec = analyze(Excited(), (torch.randn(2, 8, 6), torch.randn(2, 4), None))
    assert spec["time.weight"].role is Role.MODULATION
    assert spec["time.weight"].confidence is Confidence.INFERRED, "it is added, not gating: no reason to start at zero"
    assert spec["excite.weight"].role is Role.HIDDEN and spec["excite.weight"].activation == "sigmoid"
    assert spec["last.weight"].role is Role.RESIDUAL_OUT and spec["last.weight"].input_activation == "silu"
    (branch,) = spec.branches
    assert branch.last == ("last.weight",)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4, bias=False)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 8, 16)), nn.Parameter(torch.randn(4, 16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, index = self.router(x).softmax(-1).topk(2, -1)
        every = torch.einsum("bteh,ehd->bted", torch.einsum("btd,edh->bteh", x, self.w1).relu(), self.w2)
        picked = torch.gather(every, 2, index[..., None].expand(*index.shape, x.shape[-1]))
        return x + (weight[..., None] * picked).sum(2)


def test_router_and_experts() -> None:
    spec = analyze(Experts(), SEQUENCE)
    assert spec["router.weight"].role is Role.ROUTER
    assert (spec["w1"].role, spec["w2"].role) == (Role.MLP_IN, Role.MLP_OUT)
    assert [(spec[p].fans.batch_dims, spec[p].fan_in, spec[p].fan_out) for p in ("w1", "w2")] == [  # type: ignore[union-attr]
        ((0,), 8, 16), ((0,), 16, 8),
    ]  # fmt: skip


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.never, self.head = nn.Embedding(11, 8), nn.Linear(3, 3), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.codes = nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False)
        self.gain = nn.Parameter(torch.zeros(8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head((1 + self.gain) * F.rms_norm(self.embed(ids), (8,)))


def test_ties_unused_protected_and_offsets() -> None:
    spec = analyze(Odd(), torch.randint(11, (2, 5)))
    assert spec["head.weight"].tied_to == "embed.weight" and spec["embed.weight"].tied_to is None
    assert (spec["embed.weight"].role, spec["head.weight"].role) == (Role.EMBEDDING, Role.OUTPUT)
    assert spec.coverage.unused == ("never.weight", "never.bias") and not spec.coverage.complete
    assert spec["codes"].protected == "integer"
    assert (spec["gain"].role, spec["gain"].offset) == (Role.NORM_SCALE, 1.0)
    assert spec.output_classes == 11


def test_an_op_that_is_not_understood_is_named() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w = nn.Linear(8, 8), nn.Parameter(torch.randn(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.solve(self.w, self.a(x)[:, :3].mT)

    spec = analyze(Strange(), torch.randn(3, 8))
    assert [(g.path, g.op) for g in spec.coverage.unknown] == [("w", "linalg_solve")]
    assert spec.coverage.opaque_ops == ("linalg_solve",)


@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, nn.functional.nll_loss])
def test_the_loss_a_model_computes_itself_is_understood(loss: Callable[..., torch.Tensor]) -> None:
    class WithLabels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = self.head(self.body(x).relu()).log_softmax(-1)
            return loss(scores, labels), scores

    spec = analyze(WithLabels(), {"x": torch.randn(4, 8), "labels": torch.tensor([0, 1, 2, 0])})
    assert spec.coverage.opaque_ops == () and spec.coverage.complete
    assert [p.path for p in spec.params if p.role is Role.OUTPUT] == ["head.weight"]


@pytest.mark.parametrize(
    "ending",
    [
        lambda s: s.log_softmax(-1),
        lambda s: s.softmax(-1).clamp(min=1e-6).log(),
        lambda s: s.argmax(-1),
        lambda s: s.sigmoid(),
        lambda s: nn.functional.normalize(s, dim=-1),
    ],
    ids=["log-probabilities", "probabilities", "choice", "sigmoid", "unit"],
)
def test_what_is_made_of_the_scores_leaves_the_last_layer_the_output(
    ending: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ending(self.head(self.body(x).relu()))

    assert analyze(Ends(), torch.randn(4, 8))["head.weight"].role is Role.OUTPUT


def test_scores_that_weigh_signals_are_no_output() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.first, self.second = nn.Linear(8, 2), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            share = self.gate(x).softmax(-1)
            return share[:, :1] * self.first(x) + share[:, 1:] * self.second(x)

    spec = analyze(Mixture(), torch.randn(4, 8))
    assert spec["gate.weight"].role is not Role.OUTPUT
    assert spec["first.weight"].role is Role.OUTPUT and spec["second.weight"].role is Role.OUTPUT


def test_fingerprint_depends_on_architecture_only() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))

    first, again, other = (analyze(build(w), X).fingerprint for w in (16, 16, 17))
    assert first == again != other
