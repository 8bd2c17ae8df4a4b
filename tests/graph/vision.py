"""Vision architectures written out small, each with what its paper's design says about its weights.

The models are this file's own; the oracles were written from the designs before the analysis was run on them. A weight
that meets its reader through a pooled or concatenated value has been through that value's norm and activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from families import IMAGE, Built
from oracles import Oracle
from torch import nn

C = 8


def unit(a: int, b: int, kernel: int = 1, act: type[nn.Module] | None = nn.ReLU, **more: Any) -> nn.Sequential:
    """Convolution, BatchNorm and an activation."""
    made = [nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False, **more), nn.BatchNorm2d(b)]
    return nn.Sequential(*made, *([act()] if act else []))


def head(width: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Excite(nn.Module):
    """Hu et al. 2018: channels are weighed by two maps of their means."""

    def __init__(self, width: int, inner: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.act, self.gate = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1), act, gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))


def say_excite(o: Oracle, path: str, width: int, inner: int, acts: tuple[str, str], norm: str | None, b: Any) -> None:
    o.add(f"{path}.down.weight", "hidden", width, inner, then=acts[0], norm=norm, branch=b)
    o.add(f"{path}.up.weight", "hidden", inner, width, then=acts[1], branch=b)


class Inverted(nn.Module):
    """Tan & Le 2019: expansion, depthwise map, excitation, linear bottleneck; the branch is dropped at random."""

    def __init__(self, width: int, kernel: int, act: type[nn.Module], excite: nn.Module) -> None:
        super().__init__()
        wide = 4 * width
        self.expand, self.depth = unit(width, wide, 1, act), unit(wide, wide, kernel, act, groups=wide)
        self.excite, self.project = excite, unit(wide, width, 1, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.excite(self.depth(self.expand(x))))
        return x + y / 0.9 * torch.rand(y.shape[0], 1, 1, 1).add(0.9).floor()


def say_inverted(o: Oracle, path: str, kernel: int, act: str, norm: str | None, acts: tuple[str, str]) -> None:
    wide, last = 4 * C, f"{path}.project"
    b = o.ends("inner_norm", 5, f"{last}.0.weight", norm=f"{last}.1.weight")
    o.add(f"{path}.expand.0.weight", "hidden", C, wide, then=act, norm=norm, branch=b)
    o.add(f"{path}.depth.0.weight", "hidden", kernel**2, kernel**2, then=act, norm="batch_norm", branch=b)
    say_excite(o, f"{path}.excite", wide, 4, acts, "batch_norm", b)
    o.add(f"{last}.0.weight", "residual_out", wide, C, norm="batch_norm", branch=b)


def efficientnet() -> tuple[Built, Oracle]:
    blocks = [Inverted(C, 3, nn.SiLU, Excite(4 * C, 4, nn.SiLU(), nn.Sigmoid())) for _ in range(2)]
    net = nn.Sequential(unit(3, C, 3, nn.SiLU, stride=2), *blocks, unit(C, 20, 1, nn.SiLU), head(20))
    o = Oracle(depth=1 + 5 * 2 + 1 + 1, residual_depth=2, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="silu")
    say_inverted(o, "1", 3, "silu", "batch_norm", ("silu", "sigmoid"))
    say_inverted(o, "2", 3, "silu", None, ("silu", "sigmoid"))
    o.add("3.0.weight", "hidden", C, 20, then="silu")
    o.add("4.2.weight", "output", 20, 5, norm="batch_norm")
    return (net, (IMAGE, None)), o


def mobilenet_v3() -> tuple[Built, Oracle]:
    """Howard et al. 2019: hard swish, hard sigmoid, and a last map behind the pooling."""
    block = Inverted(C, 5, nn.Hardswish, Excite(4 * C, 4, nn.ReLU(), nn.Hardsigmoid()))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 20, 1), nn.Hardswish(), nn.Flatten(), nn.Linear(20, 5))
    net = nn.Sequential(unit(3, C, 3, nn.Hardswish, stride=2), block, last)
    o = Oracle(depth=1 + 5 + 2, residual_depth=1, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="hardswish")
    say_inverted(o, "1", 5, "hardswish", "batch_norm", ("relu", "hardsigmoid"))
    o.add("2.1.weight", "hidden", C, 20, then="hardswish")
    o.add("2.4.weight", "output", 20, 5)
    return (net, (IMAGE, None)), o


class Aggregated(nn.Module):
    """Xie et al. 2017 and Radosavovic et al. 2020: a bottleneck whose middle is grouped, with or without excitation."""

    def __init__(self, a: int, b: int, groups: int, stride: int, excite: bool) -> None:
        super().__init__()
        self.a, self.b = unit(a, b), unit(b, b, 3, groups=groups, stride=stride)
        self.se = Excite(b, 2, nn.ReLU(), nn.Sigmoid()) if excite else nn.Identity()
        self.c = unit(b, b, 1, None)
        self.skip = unit(a, b, 1, None, stride=stride) if (a, stride) != (b, 1) else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.skip(x) + self.c(self.se(self.b(self.a(x)))))


def _aggregated(excite: bool) -> tuple[Built, Oracle]:
    net = nn.Sequential(unit(3, C, 3), Aggregated(C, 16, 4, 2, excite), Aggregated(16, 16, 4, 1, excite), head(16))
    length = 5 if excite else 3
    o = Oracle(depth=1 + 2 * length + 1, residual_depth=2, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="relu")
    for i, before, norm in ((1, C, "batch_norm"), (2, 16, None)):
        b = o.ends("inner_norm", length, f"{i}.c.0.weight", norm=f"{i}.c.1.weight")
        o.add(f"{i}.a.0.weight", "hidden", before, 16, then="relu", norm=norm, branch=b)
        o.add(f"{i}.b.0.weight", "hidden", 4 * 9, 4 * 9, then="relu", norm="batch_norm", branch=b)
        if excite:
            say_excite(o, f"{i}.se", 16, 2, ("relu", "sigmoid"), "batch_norm", b)
        o.add(f"{i}.c.0.weight", "residual_out", 16, 16, norm="batch_norm", branch=b)
    o.add("1.skip.0.weight", "shortcut", C, 16, norm="batch_norm")
    o.add("3.2.weight", "output", 16, 5)
    return (net, (IMAGE, None)), o


def resnext() -> tuple[Built, Oracle]:
    return _aggregated(excite=False)


def regnet_y() -> tuple[Built, Oracle]:
    return _aggregated(excite=True)


class Response(nn.Module):
    """Woo et al. 2023, section 3: features by their norm over places, relative to the mean of all channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, 1, 1, width)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (g / (g.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class NextBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(C, C, 7, padding=3, groups=C), nn.LayerNorm(C)
        self.wide, self.response, self.narrow = nn.Linear(C, 4 * C), Response(4 * C), nn.Linear(4 * C, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return x + self.narrow(self.response(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def convnext_v2() -> tuple[Built, Oracle]:
    net = nn.Sequential(nn.Conv2d(3, C, 4, 4), NextBlock(), NextBlock(), head(C))
    o = Oracle(depth=1 + 3 * 2 + 1, residual_depth=2, classes=5)
    o.add("0.weight", "input", 48, C * 16)
    for i in (1, 2):
        b = o.ends("inner_norm", 3, f"{i}.narrow.weight")
        o.add(f"{i}.depth.weight", "hidden", 49, 49, branch=b)
        o.add(f"{i}.wide.weight", "hidden", C, 4 * C, then="gelu", norm="layer_norm", branch=b)
        o.add(f"{i}.narrow.weight", "residual_out", 4 * C, C, branch=b)
        # The factor of what is added to the features themselves, zero in the paper: no norm's scale.
        o.others |= {f"{i}.response.gamma": "branch_scale", f"{i}.response.beta": "bias"}
    o.add("3.2.weight", "output", C, 5)
    return (net, (IMAGE, None)), o


class Windows(nn.Module):
    """Tu et al. 2022: attention within windows, or over the grid of like places, with a table of relative biases."""

    def __init__(self, heads: int, size: int, grid: bool) -> None:
        super().__init__()
        self.heads, self.size, self.grid = heads, size, grid
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc1, self.fc2 = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        y = torch.arange(size)
        at = torch.stack(torch.meshgrid(y, y, indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None] + size - 1
        self.register_buffer("index", apart[0] * (2 * size - 1) + apart[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        n = self.size
        shape = (b, c, n, h // n, n, w // n) if self.grid else (b, c, h // n, n, w // n, n)
        order = (0, 3, 5, 2, 4, 1) if self.grid else (0, 2, 4, 3, 5, 1)
        z = x.view(shape).permute(order)
        laid = z.shape
        z = z.reshape(-1, n * n, c)
        q, k, v = self.qkv(self.norm1(z)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].permute(2, 0, 1)  # type: ignore[index]
        a = (q * (c // self.heads) ** -0.5) @ k.mT + bias
        z = z + self.out((a.softmax(-1) @ v).transpose(1, 2).flatten(2))
        z = z + self.fc2(F.gelu(self.fc1(self.norm2(z))))
        back = [order.index(i) for i in range(6)]
        return z.view(laid).permute(back).reshape(b, c, h, w)


class EarlyConvolution(nn.Module):
    """Dai et al. 2021: MBConv with the norm first and a pooled, projected shortcut."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.norm, self.expand = nn.BatchNorm2d(a), unit(a, 4 * a, 1, nn.GELU)
        self.depth = unit(4 * a, 4 * a, 3, nn.GELU, groups=4 * a, stride=2)
        self.project, self.skip = nn.Conv2d(4 * a, b, 1), nn.Conv2d(a, b, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.skip(F.max_pool2d(x, 3, 2, 1)) + self.project(self.depth(self.expand(self.norm(x))))


def maxvit() -> tuple[Built, Oracle]:
    net = nn.Sequential(
        unit(3, 6, 3, nn.GELU, stride=2), EarlyConvolution(6, C), Windows(2, 4, False), Windows(4, 4, True), head(C)
    )
    o = Oracle(depth=1 + 3 + 4 + 4 + 1, residual_depth=1 + 2 + 2, classes=5)
    o.add("0.0.weight", "input", 27, 6 * 9, then="gelu")
    b = o.ends("pre_norm", 3, "1.project.weight")
    o.add("1.expand.0.weight", "hidden", 6, 24, then="gelu", norm="batch_norm", branch=b)
    o.add("1.depth.0.weight", "hidden", 9, 9, then="gelu", norm="batch_norm", branch=b)
    o.add("1.project.weight", "residual_out", 24, C, norm="batch_norm", branch=b)
    o.add("1.skip.weight", "shortcut", 6, C, norm="batch_norm")
    parts = {"query": C, "key": C, "value": C}
    for i, heads in ((2, 2), (3, 4)):
        b = o.ends("pre_norm", 2, f"{i}.out.weight")
        o.add(f"{i}.qkv.weight", "qkv", C, C, norm="layer_norm", heads=heads, branch=b, parts=parts)
        o.add(f"{i}.out.weight", "attn_out", C, C, heads=heads, branch=b)
        o.others[f"{i}.table"] = "relative_bias"
        b = o.ends("pre_norm", 2, f"{i}.fc2.weight")
        o.add(f"{i}.fc1.weight", "mlp_in", C, 4 * C, then="gelu", norm="layer_norm", branch=b)
        o.add(f"{i}.fc2.weight", "mlp_out", 4 * C, C, branch=b)
    o.add("4.2.weight", "output", C, 5)
    return (net, (IMAGE, None)), o


class Inception(nn.Module):
    """Szegedy et al. 2015: maps of several sizes side by side, concatenated."""

    def __init__(self, a: int) -> None:
        super().__init__()
        self.one, self.three = unit(a, 4), nn.Sequential(unit(a, 3), unit(3, 5, 3))
        self.five, self.pool = nn.Sequential(unit(a, 2), unit(2, 3, 3), unit(3, 3, 3)), unit(a, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pool(F.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1)


def say_inception(o: Oracle, path: str, a: int) -> None:
    bn = {"then": "relu", "norm": "batch_norm"}
    o.add(f"{path}.one.0.weight", "hidden", a, 4, **bn)
    o.add(f"{path}.three.0.0.weight", "hidden", a, 3, **bn)
    o.add(f"{path}.three.1.0.weight", "hidden", 27, 45, **bn)
    o.add(f"{path}.five.0.0.weight", "hidden", a, 2, **bn)
    o.add(f"{path}.five.1.0.weight", "hidden", 18, 27, **bn)
    o.add(f"{path}.five.2.0.weight", "hidden", 27, 27, **bn)
    o.add(f"{path}.pool.0.weight", "hidden", a, 4, **bn)


class GoogLeNet(nn.Module):
    """With the auxiliary classifier that training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = unit(3, C, 3, stride=2), Inception(C), Inception(16), head(16)
        self.side = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), unit(16, 6), nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Dropout(0.7),
            nn.Linear(12, 5),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.a(self.stem(x))
        return self.head(self.b(x)), self.side(x)


def googlenet() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 3 + 3 + 1, classes=5)
    o.add("stem.0.weight", "input", 27, C * 9, then="relu")
    say_inception(o, "a", C)
    say_inception(o, "b", 16)
    o.add("head.2.weight", "output", 16, 5, norm="batch_norm")
    o.add("side.1.0.weight", "hidden", 16, 6, then="relu", norm="batch_norm")
    o.add("side.3.weight", "hidden", 24, 12, then="relu", norm="batch_norm")
    o.add("side.6.weight", "output", 12, 5)
    return (GoogLeNet(), (IMAGE, None)), o


class Shuffled(nn.Module):
    """Ma et al. 2018: half of the channels pass, half are mapped; both are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = unit(4, 4), unit(4, 4, 3, None, groups=4), unit(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, x = x.chunk(2, 1)
        x = torch.cat([kept, self.c(self.b(self.a(x)))], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 3 + 3 + 1, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="relu")
    for i in (1, 2):
        o.add(f"{i}.a.0.weight", "hidden", 4, 4, then="relu", norm="batch_norm")
        o.add(f"{i}.b.0.weight", "hidden", 9, 9, norm="batch_norm")  # no activation behind depthwise maps
        o.add(f"{i}.c.0.weight", "hidden", 4, 4, then="relu", norm="batch_norm")
    o.add("3.2.weight", "output", C, 5, norm="batch_norm")
    return (nn.Sequential(unit(3, C, 3), Shuffled(), Shuffled(), head(C)), (IMAGE, None)), o


class Ghost(nn.Module):
    """Han et al. 2020: half of the features are made by cheap depthwise maps of the other half."""

    def __init__(self, a: int, b: int, act: type[nn.Module] | None) -> None:
        super().__init__()
        self.primary, self.cheap = unit(a, b // 2, 1, act), unit(b // 2, b // 2, 3, act, groups=b // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


class GhostBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = Ghost(C, 24, nn.ReLU), Ghost(24, C, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(self.wide(x))


def ghostnet() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 4 + 1, residual_depth=1, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="relu")
    # Both halves are added to the stream, each behind its own norm: no one norm ends the branch.
    b = o.ends("inner_norm", 4, "1.narrow.primary.0.weight", "1.narrow.cheap.0.weight")
    bn = {"norm": "batch_norm", "branch": b}
    o.add("1.wide.primary.0.weight", "hidden", C, 12, then="relu", **bn)
    o.add("1.wide.cheap.0.weight", "hidden", 9, 9, then="relu", **bn)
    o.add("1.narrow.primary.0.weight", "residual_out", 24, 4, **bn)
    o.add("1.narrow.cheap.0.weight", "residual_out", 9, 9, **bn)
    o.add("2.2.weight", "output", C, 5)
    return (nn.Sequential(unit(3, C, 3), GhostBlock(), head(C)), (IMAGE, None)), o


class Scaled(nn.Module):
    """Bao et al. 2022: pre-norm blocks with factors on both branches; keys have no bias; a table of relative biases."""

    def __init__(self, heads: int, places: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(C)) for _ in range(2))
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((C,), 0.1)) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.table = nn.Parameter(torch.zeros(2 * places - 1, heads))
        self.register_buffer("index", torch.arange(places)[:, None] - torch.arange(places) + places - 1)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        near = self.table[self.index.view(-1)].view(t, t, -1).permute(2, 0, 1).unsqueeze(0)  # type: ignore[operator]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
        return self.out(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.gamma1 * self.attend(self.norm1(x))
        return x + self.gamma2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Beit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, C, 8, 8), nn.Parameter(torch.zeros(1, 1, C))
        self.blocks, self.norm, self.head = (
            nn.ModuleList([Scaled(2, 17), Scaled(2, 17)]),
            nn.LayerNorm(C),
            nn.Linear(C, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 1:].mean(1)))


def beit() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 8 + 1, residual_depth=4, classes=5)
    o.add("patch.weight", "input", 192, C * 64)
    o.others["token"] = "token"
    parts = {"query": C, "key": C, "value": C}
    for i in range(2):
        path = f"blocks.{i}"
        b = o.ends("pre_norm", 2, f"{path}.out.weight", scale=f"{path}.gamma1")
        o.add(f"{path}.qkv.weight", "qkv", C, C, norm="layer_norm", heads=2, branch=b, parts=parts)
        o.add(f"{path}.out.weight", "attn_out", C, C, heads=2, branch=b)
        b = o.ends("pre_norm", 2, f"{path}.fc2.weight", scale=f"{path}.gamma2")
        o.add(f"{path}.fc1.weight", "mlp_in", C, 4 * C, then="gelu", norm="layer_norm", branch=b)
        o.add(f"{path}.fc2.weight", "mlp_out", 4 * C, C, branch=b)
        o.others |= {f"{path}.gamma1": "branch_scale", f"{path}.gamma2": "branch_scale"}
        o.others |= {f"{path}.q_bias": "bias", f"{path}.v_bias": "bias", f"{path}.table": "relative_bias"}
    o.add("head.weight", "output", C, 5, norm="layer_norm")
    return (Beit(), (IMAGE, None)), o


class CosineBlock(nn.Module):
    """Liu et al. 2022: scores are cosines by a learned temperature, positions come from a net, norms come last."""

    def __init__(self, heads: int, places: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc1, self.fc2 = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), 2.3))
        self.near1, self.near2 = nn.Linear(1, 16), nn.Linear(16, heads, bias=False)
        self.register_buffer("apart", torch.linspace(-1, 1, 2 * places - 1)[:, None])
        self.register_buffer("index", torch.arange(places)[:, None] - torch.arange(places) + places - 1)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT) * self.temperature.clamp(max=4.6).exp()
        near = self.near2(F.relu(self.near1(self.apart)))[self.index.view(-1)]  # type: ignore[operator]
        scores = scores + 16 * torch.sigmoid(near.view(t, t, -1).permute(2, 0, 1))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.norm1(self.attend(x))
        return x + self.norm2(self.fc2(F.gelu(self.fc1(x))))


class SwinV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.enter = nn.Conv2d(3, C, 8, 8), nn.LayerNorm(C)
        self.blocks, self.norm, self.head = (
            nn.ModuleList([CosineBlock(2, 16), CosineBlock(2, 16)]),
            nn.LayerNorm(C),
            nn.Linear(C, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(self.patch(x).flatten(2).mT)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def swin_v2() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 8 + 1, residual_depth=4, classes=5)
    o.add("patch.weight", "input", 192, C * 64)
    parts = {"query": C, "key": C, "value": C}
    for i in range(2):
        path, norm = f"blocks.{i}", "layer_norm" if i == 0 else None  # behind the first block's input only
        b = o.ends("inner_norm", 2, f"{path}.out.weight", norm=f"{path}.norm1.weight")
        o.add(f"{path}.qkv.weight", "qkv", C, C, norm=norm, heads=2, branch=b, parts=parts)
        o.add(f"{path}.out.weight", "attn_out", C, C, heads=2, branch=b)
        o.add(f"{path}.near1.weight", "hidden", 1, 16, then="relu", branch=b)
        o.add(f"{path}.near2.weight", "hidden", 16, 2, then="sigmoid", branch=b)
        b = o.ends("inner_norm", 2, f"{path}.fc2.weight", norm=f"{path}.norm2.weight")
        o.add(f"{path}.fc1.weight", "mlp_in", C, 4 * C, then="gelu", branch=b)
        o.add(f"{path}.fc2.weight", "mlp_out", 4 * C, C, branch=b)
        o.others[f"{path}.temperature"] = "scalar"
    o.add("head.weight", "output", C, 5, norm="layer_norm")
    return (SwinV2(), (IMAGE, None)), o


class Pooling(nn.Module):
    """Li et al. 2022, Yu et al. 2022: places are mixed by pooling; both branches have a factor per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = unit(C, 4 * C, 1, nn.GELU), unit(4 * C, C, 1, None)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((C, 1, 1), 0.1)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale1 * (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)
        return x + self.scale2 * self.b(self.a(x))


def efficientformer() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 2 * 2 + 1, residual_depth=2, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="relu")
    for i in (1, 2):
        b = o.ends("inner_norm", 2, f"{i}.b.0.weight", norm=f"{i}.b.1.weight", scale=f"{i}.scale2")
        o.add(f"{i}.a.0.weight", "mlp_in", C, 4 * C, then="gelu", branch=b)
        o.add(f"{i}.b.0.weight", "mlp_out", 4 * C, C, norm="batch_norm", branch=b)
        # The pooling branch holds no weight, so it is none that weights lie on; its factor is one all the same.
        o.others |= {f"{i}.scale1": "branch_scale", f"{i}.scale2": "branch_scale"}
    o.add("3.2.weight", "output", C, 5)
    return (nn.Sequential(unit(3, C, 3), Pooling(), Pooling(), head(C)), (IMAGE, None)), o


class Standardised(nn.Conv2d):
    """Brock et al. 2021: weights of mean zero and variance one over the fan-in, by a learned gain."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        spread, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True)
        scale = torch.rsqrt(torch.clamp(spread * w[0].numel(), min=1e-4)) * self.gain
        return F.conv2d(x, w * scale - mean * scale, self.bias, self.stride, self.padding, self.dilation, self.groups)


def vp(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x) * 1.7015


class FreeBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Standardised(C, 4, 1), Standardised(4, 4, 3, padding=1, groups=2)
        self.c, self.se = Standardised(4, C, 1), Excite(C, 2, nn.ReLU(), nn.Sigmoid())
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.c(vp(self.b(vp(self.a(vp(x) * 0.9)))))
        return x + 2 * self.se(y) * self.gain * 0.2


def nfnet() -> tuple[Built, Oracle]:
    net = nn.Sequential(Standardised(3, C, 3, stride=2, padding=1), FreeBlock(), FreeBlock(), head(C))
    # The excitation's maps come last on the way, though what they weigh is what is added.
    o = Oracle(depth=1 + 5 * 2 + 1, residual_depth=2, classes=5)
    o.add("0.weight", "input", 27, C * 9)
    o.others["0.gain"] = "norm_scale"
    for i in (1, 2):
        b = o.ends("none", 5, f"{i}.c.weight", scale=f"{i}.gain")
        o.add(f"{i}.a.weight", "hidden", C, 4, then="gelu", branch=b)
        o.add(f"{i}.b.weight", "hidden", 18, 18, then="gelu", branch=b)
        o.add(f"{i}.c.weight", "residual_out", 4, C, branch=b)
        say_excite(o, f"{i}.se", C, 2, ("relu", "sigmoid"), None, b)
        o.others |= {f"{i}.{n}.gain": "norm_scale" for n in "abc"} | {f"{i}.gain": "branch_scale"}
    o.add("3.2.weight", "output", C, 5)
    return (net, (IMAGE, None)), o


def vgg() -> tuple[Built, Oracle]:
    """Simonyan & Zisserman 2015; AlexNet is the same but for sizes: convolutions, pooling, three maps."""
    net = nn.Sequential(
        nn.Conv2d(3, C, 3, padding=1), nn.ReLU(True), nn.Conv2d(C, C, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Conv2d(C, 16, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(64, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 20), nn.ReLU(True), nn.Dropout(),
        nn.Linear(20, 5),
    )  # fmt: skip
    o = Oracle(depth=6, classes=5)
    o.add("0.weight", "input", 27, C * 9, then="relu")
    o.add("2.weight", "hidden", C * 9, C * 9, then="relu")
    o.add("5.weight", "hidden", C * 9, 16 * 9, then="relu")
    o.add("10.weight", "hidden", 64, 20, then="relu")
    o.add("13.weight", "hidden", 20, 20, then="relu")
    o.add("16.weight", "output", 20, 5)
    return (net, (IMAGE, None)), o


class Fire(nn.Module):
    """Iandola et al. 2016: a squeeze, then two widths of maps side by side."""

    def __init__(self, a: int, squeezed: int, b: int) -> None:
        super().__init__()
        self.squeeze, self.one = nn.Conv2d(a, squeezed, 1), nn.Conv2d(squeezed, b, 1)
        self.three = nn.Conv2d(squeezed, b, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet() -> tuple[Built, Oracle]:
    net = nn.Sequential(
        nn.Conv2d(3, C, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(C, 4, C), Fire(16, 4, C),
        nn.Dropout(), nn.Conv2d(16, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    o = Oracle(depth=1 + 2 + 2 + 1, classes=5)
    o.add("0.weight", "input", 27, C * 9, then="relu")
    for i, before in ((3, C), (4, 16)):
        o.add(f"{i}.squeeze.weight", "hidden", before, 4, then="relu")
        o.add(f"{i}.one.weight", "hidden", 4, C, then="relu")
        o.add(f"{i}.three.weight", "hidden", 36, C * 9, then="relu")
    o.add("6.weight", "output", 16, 5, then="relu")
    return (net, (IMAGE, None)), o


VISION: dict[str, Callable[[], tuple[Built, Oracle]]] = {
    f.__name__: f
    for f in (
        efficientnet, mobilenet_v3, resnext, regnet_y, convnext_v2, maxvit, googlenet, shufflenet, ghostnet, beit,
        swin_v2, efficientformer, nfnet, vgg, squeezenet,
    )
}  # fmt: skip
