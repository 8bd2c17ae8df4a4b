"""Further vision designs: sums of parts, gates behind norms, attention over channels, talking heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from families import IMAGE, Built
from oracles import Oracle
from torch import nn
from vision import C, Excite, head, say_excite, unit


class Scales(nn.Module):
    """Gao et al. 2019: each group of channels also reads what the group before it became."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.groups = unit(C, C), unit(C, C, 1, None), nn.ModuleList(unit(2, 2, 3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = self.a(x).chunk(4, 1)
        made = [first]
        for i, (group, part) in enumerate(zip(self.groups, rest, strict=True)):
            made.append(group(part if i == 0 else part + made[-1]))
        return F.relu(x + self.c(torch.cat(made, 1)))


def res2net() -> tuple[Built, Oracle]:
    # The inner sums add features that others were not computed from: no residual branches.
    o = Oracle(depth=1 + 5 + 1, residual_depth=1, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="relu")
    b = o.ends("inner_norm", 5, "1.c.0.weight", norm="1.c.1.weight")
    o.add("1.a.0.weight", "hidden", C, C, then="relu", norm="batch_norm", branch=b)
    for i in range(3):
        norm = "batch_norm" if i == 0 else None  # the others read a sum
        o.add(f"1.groups.{i}.0.weight", "hidden", 18, 18, then="relu", norm=norm, branch=b)
    o.add("1.c.0.weight", "residual_out", C, C, norm="batch_norm", branch=b)
    o.add("2.2.weight", "output", C, 5)
    return (nn.Sequential(unit(3, C, 3), Scales(), head(C)), (IMAGE, None)), o


class Excited(nn.Module):
    """Hu et al. 2018: the excitation weighs what comes out of the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.se = unit(C, C, 3), unit(C, C, 3, None), Excite(C, 2, nn.ReLU(), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.se(self.b(self.a(x))))


def se_resnet() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 4 * 2 + 1, residual_depth=2, classes=5)
    o.add("0.0.weight", "input", 27, C * 9, then="relu")
    for i in (1, 2):
        # A gate leaves zero what is zero, so the norm still ends the branch.
        b = o.ends("inner_norm", 4, f"{i}.b.0.weight", norm=f"{i}.b.1.weight")
        norm = "batch_norm" if i == 1 else None
        o.add(f"{i}.a.0.weight", "hidden", C * 9, C * 9, then="relu", norm=norm, branch=b)
        o.add(f"{i}.b.0.weight", "residual_out", C * 9, C * 9, norm="batch_norm", branch=b)
        say_excite(o, f"{i}.se", C, 2, ("relu", "sigmoid"), "batch_norm", b)
    o.add("3.2.weight", "output", C, 5)
    return (nn.Sequential(unit(3, C, 3), Excited(), Excited(), head(C)), (IMAGE, None)), o


class ChannelAttention(nn.Module):
    """El-Nouby et al. 2021: attention between channels, whose scores sum over places."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(C), nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.temperature, self.gamma = nn.Parameter(torch.ones(2, 1, 1)), nn.Parameter(torch.full((C,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        z = x.flatten(2).mT
        q, k, v = self.qkv(self.norm(z)).reshape(b, h * w, 3, 2, c // 2).permute(2, 0, 3, 4, 1)
        a = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature).softmax(-1)
        z = z + self.gamma * self.out((a @ v).permute(0, 3, 1, 2).reshape(b, h * w, c))
        return z.mT.reshape(b, c, h, w)


def xcit() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 2 + 1, residual_depth=1, classes=5)
    o.add("0.weight", "input", 3 * 16 * 32, C * 16 * 32)
    b = o.ends("pre_norm", 2, "1.out.weight", scale="1.gamma")
    # Two places: taken for the features of a head they would make four heads of two.
    parts = {"query": C, "key": C, "value": C}
    o.add("1.qkv.weight", "qkv", C, C, norm="layer_norm", branch=b, parts=parts)
    o.add("1.out.weight", "attn_out", C, C, branch=b)
    o.others = {"1.temperature": "scalar", "1.gamma": "branch_scale"}
    o.add("2.2.weight", "output", C, 5)
    return (nn.Sequential(nn.Conv2d(3, C, (16, 32), (16, 32)), ChannelAttention(), head(C)), (IMAGE, None)), o


class CaiT(nn.Module):
    """Touvron et al. 2021: heads talk around the softmax; a class token that reads all places is its own stream."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, C, 8, 8), nn.Linear(C, 5)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(C) for _ in range(3))
        self.qkv, self.talk1, self.talk2, self.out = (
            nn.Linear(C, 3 * C),
            nn.Linear(2, 3),
            nn.Linear(3, 2),
            nn.Linear(C, C),
        )
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((C,), 0.1)) for _ in range(2))
        self.token = nn.Parameter(torch.zeros(1, 1, C))
        self.q, self.k, self.v, self.collect = (nn.Linear(C, C) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).mT
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        a = self.talk1((q @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        a = self.talk2(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x + self.gamma1 * self.out((a @ v).transpose(1, 2).reshape(b, t, c))
        token = self.token.expand(b, -1, -1)
        both = self.norm2(torch.cat([token, x], 1))
        q, k, v = (z.unflatten(-1, (2, -1)).transpose(1, 2) for z in (self.q(both[:, :1]), self.k(both), self.v(both)))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.norm3(token + self.gamma2 * self.collect(y))[:, 0])


def cait() -> tuple[Built, Oracle]:
    o = Oracle(depth=1 + 4 + 2 + 1, residual_depth=2, classes=5)
    o.add("patch.weight", "input", 192, C * 64)
    b = o.ends("pre_norm", 4, "out.weight", scale="gamma1")
    parts = {"query": C, "key": C, "value": C}
    o.add("qkv.weight", "qkv", C, C, norm="layer_norm", heads=2, branch=b, parts=parts)
    o.add("talk1.weight", "hidden", 2, 3, branch=b)
    o.add("talk2.weight", "hidden", 3, 2, branch=b)
    o.add("out.weight", "attn_out", C, C, heads=2, branch=b)
    b = o.ends("pre_norm", 2, "collect.weight", scale="gamma2")
    for path, role in (("q", "query"), ("k", "key"), ("v", "value")):
        o.add(f"{path}.weight", role, C, C, norm="layer_norm", heads=2, branch=b)
    o.add("collect.weight", "attn_out", C, C, heads=2, branch=b)
    o.others = {"gamma1": "branch_scale", "gamma2": "branch_scale", "token": "token"}
    o.add("head.weight", "output", C, 5, norm="layer_norm")
    return (CaiT(), (IMAGE, None)), o


VARIANTS: dict[str, Callable[[], tuple[Built, Oracle]]] = {f.__name__: f for f in (res2net, se_resnet, xcit, cait)}
