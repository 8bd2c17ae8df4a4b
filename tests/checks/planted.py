"""Small models with one bug each, and the same models without it: one row per check."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Made = tuple[nn.Module, Any]


@dataclass(frozen=True)
class Planted:
    """A bug: its code, the model with it and without it, a path that must be named (``""``: any), the loss of both."""

    code: str
    name: str
    sick: Callable[[], Made]
    healthy: Callable[[], Made]
    path: str = ""
    loss: Callable[..., Any] | None = None


def classes(count: int, n: int) -> torch.Tensor:
    return torch.randint(n, (count,), generator=torch.Generator().manual_seed(5))


def rows(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(6))


def mlp(
    width: int = 64, layers: int = 3, activation: Callable[[], nn.Module] = nn.ReLU, gain: float = 2**0.5
) -> nn.Sequential:
    """A plain net, every weight drawn with std gain/√fan_in, biases zero."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*modules, nn.Linear(width, 10))
    for m in net:
        if isinstance(m, nn.Linear):
            last = m.out_features == 10
            nn.init.normal_(m.weight, std=(0.3 if last else gain) / math.sqrt(width))
            nn.init.zeros_(m.bias)
    return net


def on_rows(net: nn.Module, width: int = 64) -> Made:
    return net, (rows(64, width), classes(64, 10))


def changed(build: Callable[[], Made], change: Callable[[nn.Module], object]) -> Callable[[], Made]:
    def make() -> Made:
        model, batch = build()
        with torch.no_grad():
            change(model)
        return model, batch

    return make


def plain() -> Made:
    return on_rows(mlp())


class Block(nn.Module):
    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = (p.view(b, t, 4, d // 4).transpose(1, 2) for p in self.attn(self.ln_1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(mixed)
        return x + self.out(F.gelu(self.fc(self.ln_2(x))))


class LanguageModel(nn.Module):
    """GPT-2's initialisation: N(0, .02), residual outputs divided by √(2·layers)."""

    scaled = ("proj.weight", "out.weight")

    def __init__(self, layers: int = 4, width: int = 64, vocabulary: int = 100, tied: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                std = 0.02 / math.sqrt(2 * layers) if name.endswith(self.scaled) else 0.02
                nn.init.normal_(p, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class HalfScaled(LanguageModel):
    scaled = ("out.weight",)


class NeverScaled(LanguageModel):
    """The rule that scales residual outputs looks for GPT-2's name of them, which this model does not use."""

    def __init__(self) -> None:
        super().__init__()
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * len(self.blocks)))


class AlwaysScaled(LanguageModel):
    def __init__(self) -> None:
        super().__init__()
        for name, p in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * len(self.blocks)))


def language(cls: type[LanguageModel] = LanguageModel, **settings: Any) -> Callable[[], Made]:
    def make() -> Made:
        ids = torch.randint(100, (4, 16), generator=torch.Generator().manual_seed(7))
        following = torch.randint(100, (4, 16), generator=torch.Generator().manual_seed(8))
        return cls(**settings), (ids, following)

    return make


def unscaled_deep() -> Made:
    model, batch = language(layers=8)()
    for block in model.blocks:  # type: ignore[union-attr]
        for linear in (block.proj, block.out):
            nn.init.normal_(linear.weight, std=0.2)
        for linear in (block.attn, block.fc):
            nn.init.normal_(linear.weight, std=0.2)
    return model, batch


class Cut(nn.Module):
    def __init__(self, cut: float | None) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 10)
        for linear in (self.up, self.down):
            if cut is None:
                nn.init.trunc_normal_(linear.weight, std=0.02)
            else:
                nn.init.trunc_normal_(linear.weight, std=0.02, a=-cut, b=cut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.up(x)))


class CutRight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 10)
        for linear in (self.up, self.down):
            nn.init.trunc_normal_(linear.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.up(x)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(16, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 10)
        for name, p in self.body.named_parameters():
            if name.startswith("weight_hh"):
                for gate in p.data.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias"):
                nn.init.zeros_(p)
                if "ih" in name:
                    p.data[32:64] = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[0][:, -1])


def recurrent() -> Made:
    return Recurrent(), (rows(32 * 12, 16).view(32, 12, 16), classes(32, 10))


def stack_orthogonally(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(p)


def set_forget(values: tuple[float, float]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if ".bias_" in name:
                p[32:64] = values["_hh" in name]

    return change


class Attention(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        return self.head((x + self.mix(h, h, h, need_weights=False)[0]).mean(1))


def attention() -> Made:
    return Attention(), (rows(8 * 12, 64).view(8, 12, 64), classes(8, 10))


def per_chunk(model: nn.Module) -> None:
    for chunk in model.mix.in_proj_weight.chunk(3):  # type: ignore[union-attr,operator]
        nn.init.xavier_uniform_(chunk)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean(1))


def encoder() -> Made:
    return Encoder(), (rows(8 * 12, 32).view(8, 12, 32), classes(8, 10))


def redraw(model: nn.Module) -> None:
    for p in model.parameters():
        if p.ndim == 2:
            nn.init.xavier_uniform_(p)


def depthwise(mode: str) -> Callable[[], Made]:
    def make() -> Made:
        net = nn.Sequential(
            nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
        nn.init.kaiming_normal_(net[3].weight, mode=mode, nonlinearity="relu")
        return net, (rows(8, 3 * 144).view(8, 3, 12, 12), classes(8, 10))

    return make


def transposed(std: float | None) -> Callable[[], Made]:
    def make() -> Made:
        up = nn.ConvTranspose2d(256, 16, 4, stride=2, padding=1)
        if std is None:
            nn.init.kaiming_normal_(up.weight, nonlinearity="relu")
        else:
            nn.init.normal_(up.weight, std=std)
        net = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(16, 3, 1))
        return net, (rows(4, 3 * 64).view(4, 3, 8, 8), rows(4, 3 * 256).view(4, 3, 16, 16))

    return make


class Experts(nn.Module):
    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(4, 32, 64))
        self.down = nn.Parameter(torch.empty(4, 64, 32))
        self.head = nn.Linear(32, 10)
        for p in (self.up, self.down):
            if whole:
                nn.init.kaiming_normal_(p)
            else:
                nn.init.normal_(p, std=math.sqrt(2 / p.shape[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.einsum("bd,edf->ebf", x, self.up).relu()
        return self.head(torch.einsum("ebf,efd->ebd", h, self.down).mean(0))


def selu(gain: float) -> Callable[[], Made]:
    return lambda: on_rows(mlp(activation=nn.SELU, gain=gain))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 64), nn.Linear(64, 64, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.head(x + self.gate * self.down(F.relu(self.up(x))))


def tables(pad: float = 0.0, place: float = 0.02) -> Callable[[], Made]:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(50, 32, padding_idx=0)
            self.places = nn.Embedding(16, 32)
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)
            nn.init.normal_(self.tokens.weight, std=0.02)
            nn.init.normal_(self.places.weight, std=place)
            self.tokens.weight.data[0] = pad

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
            return self.head(self.norm(x).mean(1))

    return lambda: (
        Tables(),
        (torch.randint(1, 50, (16, 12), generator=torch.Generator().manual_seed(9)), classes(16, 10)),
    )


class Sharp(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
        self.head = nn.Linear(64, 10)
        nn.init.normal_(self.q.weight, std=size)
        nn.init.normal_(self.k.weight, std=size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (m(x).unsqueeze(1) for m in (self.q, self.k, self.v))
        return self.head((x + F.scaled_dot_product_attention(q, k, v).squeeze(1)).mean(1))


def sharp(size: float) -> Callable[[], Made]:
    return lambda: (Sharp(size), (rows(8 * 16, 64).view(8, 16, 64), classes(8, 10)))


class Unused(nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        self.body, self.spare, self.used = mlp(), nn.Linear(64, 64), used

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.spare(x) if self.used else x)


class Detached(nn.Module):
    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.body, self.detached = mlp(), detached
        self.shift = nn.Parameter(torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return (y.detach() if self.detached else y) + self.shift


class Odd(nn.Module):
    """A parameter used by an op whose effect on it is not known."""

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.body, self.odd = mlp(), odd
        self.strange = nn.Parameter(torch.randn(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(torch.float_power(x.abs() + 1, self.strange).float() if self.odd else x + self.strange)


def regression(offset: float) -> Callable[[], Made]:
    def make() -> Made:
        net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
        return net, (rows(64, 16), rows(64, 1) + offset)

    return make


def normed(scale: float) -> Callable[[], Made]:
    def make() -> Made:
        net = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10))
        nn.init.constant_(net[1].weight, scale)
        return on_rows(net)

    return make


class Response(nn.Module):
    """A zero norm scale with its input added: nothing is blocked."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 64), nn.Linear(64, 10)
        self.scale = nn.Parameter(torch.zeros(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.up(x))
        return self.down(self.scale * (h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()) + h)


def response() -> Made:
    return on_rows(Response())


def batch_normed() -> Made:
    return on_rows(nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)))


def fill(path: str, value: float) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        dict(model.named_parameters())[path].fill_(value)

    return change


def put(path: str, fill_with: Callable[[torch.Tensor], object]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        fill_with({**dict(model.named_parameters()), **dict(model.named_buffers())}[path])

    return change


def both_zero(model: nn.Module) -> None:
    model.gate.zero_()  # type: ignore[union-attr,operator]
    model.down.weight.zero_()  # type: ignore[union-attr,operator]


def as_memory(p: torch.Tensor) -> None:
    """What freshly allocated bytes look like: zeros, subnormals, huge numbers."""
    flat = p.view(-1)
    flat[::3] = 0.0
    flat[1::3] = 4.6e-41
    flat[2::7] = 3.1e12


def overflowing(model: nn.Module) -> None:
    model[0].weight.mul_(1e5)  # type: ignore[index,union-attr,operator]


def experts(whole: bool) -> Callable[[], Made]:
    return lambda: (Experts(whole), (rows(16, 32), classes(16, 10)))


def stack(activation: Callable[[], nn.Module], gain: float, layers: int = 3) -> Callable[[], Made]:
    return lambda: on_rows(mlp(layers=layers, activation=activation, gain=gain))


def tied() -> Made:
    return language(tied=True)()


def one_nan(p: torch.Tensor) -> None:
    p.view(-1)[3] = math.nan


def one_row(p: torch.Tensor) -> None:
    p.copy_(p[:1].expand_as(p).clone())


def gated() -> Made:
    return on_rows(Gated())


def double_loss(model: nn.Module) -> None:
    model[-1].weight.mul_(20)  # type: ignore[index,union-attr,operator]


def infinite(model: nn.Module) -> None:
    model[-1].bias.fill_(math.inf)  # type: ignore[index,union-attr,operator]


def values(shape: tuple[int, ...]) -> Callable[[], Made]:
    return lambda: (
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1)),
        (rows(64, 16), rows(64, 1).view(shape)),
    )


def by_hand(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().mean()


def ended(end: nn.Module) -> Callable[[], Made]:
    return lambda: on_rows(mlp().append(end))


def one_output(*end: nn.Module) -> Callable[[], Made]:
    return lambda: (nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1), *end), (rows(64, 16), classes(64, 2)))


def labelled(label: int) -> Callable[[], Made]:
    def make() -> Made:
        target = classes(64, 10)
        target[3] = label
        return mlp(), (rows(64, 64), target)

    return make


def data(value: float) -> Callable[[], Made]:
    def make() -> Made:
        x = rows(64, 64)
        x[3, 2] = value
        return mlp(), (x, classes(64, 10))

    return make


class Root(nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.sign * x.square()).sqrt()


def rooted(sign: float) -> Callable[[], Made]:
    return lambda: on_rows(nn.Sequential(Root(sign), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))


def scaled(factor: float) -> Callable[[], Made]:
    return lambda: (mlp(), (rows(64, 64) * factor, classes(64, 10)))


class Summed(nn.Module):
    """A table and a linear map of coordinates, added (the fault of a public font model)."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.kind, self.place = nn.Embedding(8, 64), nn.Linear(6, 64, bias=False)
        nn.init.normal_(self.kind.weight, std=size)
        self.rest = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, kind: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return self.rest(self.kind(kind) + self.place(place)).mean(1)


def summed(size: float) -> Callable[[], Made]:
    return lambda: (
        Summed(size),
        (classes(64 * 9, 8).view(64, 9), 0.2 * rows(64 * 9, 6).view(64, 9, 6), classes(64, 5)),
    )


class Sines(nn.Module):
    """SIREN, with its own bounds or with others."""

    def __init__(self, first: float, hidden: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 1)])
        for i, layer in enumerate(self.layers):
            bound = first if i == 0 else hidden
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


def sines(first: float = 0.5, hidden: float = math.sqrt(6 / 64) / 30) -> Callable[[], Made]:
    return lambda: (Sines(first, hidden), (rows(256, 2).clamp(-1, 1), rows(256, 1)))


class Gate(nn.Module):
    """A gated feed-forward whose weights may be scaled by the number of the block."""

    def __init__(self, layer: int, scaled: tuple[str, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.gate, self.up = nn.Linear(32, 64, bias=False), nn.Linear(32, 64, bias=False)
        self.down = nn.Linear(64, 32, bias=False)
        for name in ("gate", "up", "down"):
            std = 0.02 / math.sqrt(layer + 1) if name in scaled else 0.02
            nn.init.normal_(getattr(self, name).weight, std=std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


def gates(*scaled: str) -> Callable[[], Made]:
    def make() -> Made:
        blocks = (Gate(i, scaled) for i in range(8))
        net = nn.Sequential(nn.Embedding(50, 32), *blocks, nn.LayerNorm(32), nn.Linear(32, 50, bias=False))
        ids = classes(8 * 12, 50).view(8, 12)
        return net, (ids, ids.flip(0))

    return make


def weight_normed(written: bool) -> Callable[[], Made]:
    def make() -> Made:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old way is what is looked at
            conv = nn.utils.weight_norm(nn.Conv1d(4, 8, 3))
        target = conv.weight if written else conv.weight_v
        nn.init.normal_(target.data, std=0.01)
        net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10, 10))
        return net, (rows(16, 4 * 12).view(16, 4, 12), classes(16, 10))

    return make


class Factors(nn.Module):
    def __init__(self, equal: bool) -> None:
        super().__init__()
        self.p, self.q = nn.Embedding(30, 8), nn.Embedding(20, 8)
        for table in (self.p, self.q):
            nn.init.normal_(table.weight, std=0.1)
            if equal:
                table.weight.data = table.weight.data[:, :1].repeat(1, 8)

    def forward(self, u: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return (self.p(u) * self.q(i)).sum(-1)


def factors(equal: bool) -> Callable[[], Made]:
    return lambda: (Factors(equal), (classes(64, 30), classes(64, 20), rows(64, 1)[:, 0]))


class Selective(nn.Module):
    """A selective state-space layer, its step bias wiped to zero by a general initialisation or not."""

    def __init__(self, wiped: bool, width: int = 16, state: int = 4) -> None:
        super().__init__()
        self.table, self.read = nn.Embedding(32, width), nn.Linear(width, 2 * state)
        self.step, self.head = nn.Linear(width, width), nn.Linear(width, 32)
        self.a_log = nn.Parameter(torch.log(torch.arange(1.0, state + 1).repeat(width, 1)))
        nn.init.normal_(self.step.weight, std=0.02)
        dt = torch.exp(torch.linspace(math.log(1e-3), math.log(0.1), width))
        self.step.bias.data = torch.zeros(width) if wiped else torch.log(torch.expm1(dt))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        u = self.table(ids)
        b, c = self.read(u).chunk(2, -1)
        dt, a = F.softplus(self.step(u)), -torch.exp(self.a_log)
        h, out = torch.zeros(len(u), *a.shape), []
        for t in range(u.shape[1]):
            h = torch.exp(dt[:, t, :, None] * a) * h + dt[:, t, :, None] * b[:, t, None, :] * u[:, t, :, None]
            out.append((h * c[:, t, None, :]).sum(-1))
        return self.head(u + torch.stack(out, 1))


def selective(wiped: bool) -> Callable[[], Made]:
    ids = classes(8 * 6, 32).view(8, 6)
    return lambda: (Selective(wiped), (ids, ids.flip(1)))


class Detector(nn.Module):
    def __init__(self, scores: float, boxes: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.scores, self.boxes = nn.Linear(32, 8), nn.Linear(32, 4)
        nn.init.constant_(self.scores.bias, scores)
        nn.init.constant_(self.boxes.bias, boxes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(x)
        return self.scores(h), self.boxes(h)


def detector(scores: float, boxes: float) -> Callable[[], Made]:
    rare = (torch.arange(256 * 8).view(256, 8) % 100 == 0).float()
    return lambda: (Detector(scores, boxes), (rows(256, 16), (rare, rows(256, 4))))


def detect(output: Any, target: Any) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(output[0], target[0]) + F.smooth_l1_loss(output[1], target[1])


def redraw_gains(model: nn.Module) -> None:
    for p in model.parameters():
        nn.init.normal_(p, std=0.02)


def unit_gains(model: nn.Module) -> None:
    for p in model.parameters():
        nn.init.xavier_uniform_(p) if p.ndim > 1 else nn.init.uniform_(p)


class Adaptive(nn.Module):
    """Starts at zero on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(64, 64), nn.Linear(64, 64)
        self.scale = nn.Parameter(1e-4 * torch.ones(64))
        nn.init.zeros_(self.out.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * F.relu(self.inner(x)) + self.out(F.relu(x))


class Whole(nn.Module):
    """Goes over all its parts at the end, as post_init does, and may leave those alone that know better."""

    def __init__(self, careful: bool) -> None:
        super().__init__()
        self.first, self.special, self.head = nn.Linear(64, 64), Adaptive(), nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear) and not (careful and module is self.special.out):
                module.weight.data.normal_(std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.special(self.first(x)))


def whole(careful: bool) -> Callable[[], Made]:
    return lambda: on_rows(Whole(careful))


class Actor(nn.Module):
    def __init__(self, gain: float, discrete: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(16, 64), nn.Tanh()), nn.Linear(64, 4)
        nn.init.orthogonal_(self.head.weight, gain)
        nn.init.zeros_(self.head.bias)
        self.discrete = discrete
        if not discrete:
            self.log_std = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.distributions.Distribution:
        out = self.head(self.body(x))
        if self.discrete:
            return torch.distributions.Categorical(logits=out)
        return torch.distributions.Normal(out, self.log_std.exp().expand_as(out))


def actor(gain: float, discrete: bool) -> Callable[[], Made]:
    def make() -> Made:
        return Actor(gain, discrete), (rows(64, 16), classes(64, 4) if discrete else rows(64, 4))

    return make


def act(model: nn.Module, batch: Any) -> torch.Tensor:
    return -model(batch[0]).log_prob(batch[1]).mean()


BUGS: tuple[Planted, ...] = (
    Planted("INI101", "nan", changed(plain, put("2.weight", one_nan)), plain, "2.weight"),
    Planted("INI102", "memory", changed(plain, put("2.weight", as_memory)), plain, "2.weight"),
    Planted("INI103", "buffer", changed(batch_normed, put("1.running_mean", one_nan)), batch_normed, "1.running_mean"),
    Planted("INI104", "all constant", changed(plain, fill("2.weight", 0.05)), plain, "2.weight"),
    Planted("INI104", "all zero before ReLU", changed(plain, fill("2.weight", 0.0)), plain, "2.weight"),
    Planted("INI105", "equal units", changed(plain, put("2.weight", one_row)), plain, "2.weight"),
    Planted("INI106", "cloned encoder", encoder, changed(encoder, redraw), "body.layers.0.linear1.weight"),
    Planted("INI107", "gate and weight", changed(gated, both_zero), gated, "gate"),
    Planted("INI108", "norm scale", normed(0.0), normed(1.0), "1.weight"),
    Planted("INI108", "norm scale with a way around", normed(0.0), response, "1.weight"),
    Planted("INI109", "bias", changed(plain, fill("2.bias", 30.0)), plain, "2.bias"),
    Planted("INI110", "torch.rand", changed(plain, put("2.weight", lambda p: p.uniform_(0, 0.1))), plain, "2.weight"),
    Planted("INI111", "unused", lambda: on_rows(Unused(False)), lambda: on_rows(Unused(True)), "spare.weight"),
    Planted("INI112", "detached", lambda: on_rows(Detached(True)), lambda: on_rows(Detached(False))),
    Planted("INI201", "packed QKV", attention, changed(attention, per_chunk), "mix.in_proj_weight"),
    Planted("INI202", "depthwise", depthwise("fan_out"), depthwise("fan_in"), "3.weight"),
    Planted("INI203", "transposed", transposed(None), transposed(math.sqrt(2 / (256 * 4))), "2.weight"),
    Planted("INI204", "experts", experts(True), experts(False), "up"),
    Planted("INI205", "selu", selu(0.75), selu(1.0), "0.weight"),
    Planted("INI206", "randn", changed(plain, put("2.weight", lambda p: p.normal_(std=1.5))), plain, "2.weight"),
    Planted("INI207", "no-op cut", lambda: on_rows(Cut(None)), lambda: on_rows(CutRight()), "up.weight"),
    Planted("INI208", "half of the residual outputs", language(HalfScaled), language(), "blocks.0.proj.weight"),
    Planted("INI209", "wrong name", language(NeverScaled), language(AlwaysScaled)),
    Planted("INI210", "tanh of 1e-4", stack(nn.Tanh, 1e-3), stack(nn.Tanh, 1.0), "0.weight"),
    Planted("INI210", "two of 1e-5", stack(nn.ReLU, 1e-4, 2), stack(nn.ReLU, 1.0, 2), "2.weight"),
    Planted("INI210", "first sine", sines(first=0.05), sines(), "layers.0.weight"),
    Planted("INI211", "torch's default", sines(0.7, 0.125), sines(), "layers.1.weight"),
    Planted("INI212", "table and map", summed(1.0), summed(0.12), "place.weight"),
    Planted("INI213", "normal over all", changed(batch_normed, redraw_gains), batch_normed, "1.weight"),
    Planted("INI213", "uniform over vectors", changed(batch_normed, unit_gains), batch_normed, "1.weight"),
    Planted("INI214", "factor on the gate's input", gates("up", "down"), gates("down"), "1.up.weight"),
    Planted("INI215", "weight norm", weight_normed(True), weight_normed(False), "0.weight_v"),
    Planted("INI216", "zeros overwritten", whole(False), whole(True), "special.out.weight"),
    Planted("INI301", "stacked orthogonal", changed(recurrent, stack_orthogonally), recurrent, "body.weight_hh_l0"),
    Planted("INI302", "both biases", changed(recurrent, set_forget((1.0, 1.0))), recurrent, "body.bias_ih_l0"),
    Planted("INI303", "no forget bias", changed(recurrent, set_forget((0.0, 0.0))), recurrent, "body.bias_ih_l0"),
    Planted("INI304", "steps wiped", selective(True), selective(False), "step.bias"),
    Planted("INI311", "padding row", tables(pad=0.1), tables(), "tokens.weight"),
    Planted("INI312", "tied table", changed(tied, put("tokens.weight", lambda p: p.normal_())), tied, "tokens.weight"),
    Planted("INI313", "positions", tables(place=1.0), tables(), "places.weight"),
    Planted("INI314", "equal factors", factors(True), factors(False), "p.weight"),
    Planted("INI401", "dead", changed(plain, fill("2.bias", -9.0)), plain, "2.weight"),
    Planted("INI402", "saturated", stack(nn.Tanh, 7.0), stack(nn.Tanh, 1.0), "0.weight"),
    Planted("INI403", "shrinking", stack(nn.ReLU, 0.577, 10), stack(nn.ReLU, 2**0.5, 10)),
    Planted("INI403", "growing", stack(nn.ReLU, 3.0, 10), stack(nn.ReLU, 2**0.5, 10)),
    Planted("INI404", "vanishing gradient", stack(nn.ReLU, 0.577, 10), stack(nn.ReLU, 2**0.5, 10)),
    Planted("INI405", "collapsed", stack(nn.Sigmoid, 0.577, 8), stack(nn.Sigmoid, 4.8, 8)),
    Planted("INI406", "one-hot attention", sharp(1.0), sharp(0.1)),
    Planted("INI407", "overflow in float16", changed(plain, overflowing), plain, "0.weight"),
    Planted("INI408", "never scaled", unscaled_deep, language(layers=8), "blocks.0.proj.weight"),
    Planted("INI409", "root of a negative", rooted(-1.0), rooted(1.0), "1.weight"),
    Planted("INI501", "far from ln C", changed(plain, double_loss), plain, "6.weight"),
    Planted("INI502", "offset", regression(50.0), regression(0.0)),
    Planted("INI503", "infinite loss", changed(plain, infinite), plain),
    Planted("INI504", "column against row", values((64,)), values((64, 1)), loss=nn.MSELoss()),
    Planted("INI504", "by hand", values((64,)), values((64, 1)), loss=by_hand),
    Planted("INI505", "softmax twice", ended(nn.Softmax(1)), plain, "6.weight"),
    Planted("INI505", "sigmoid twice", one_output(nn.Sigmoid()), one_output()),
    Planted("INI505", "nll of scores", plain, ended(nn.LogSoftmax(1)), loss=F.nll_loss),
    Planted("INI506", "label 12 of 10", labelled(12), labelled(9)),
    Planted("INI506", "label -1", labelled(-1), labelled(-100), loss=F.cross_entropy),
    Planted("INI507", "target reshaped", values((64,)), values((64, 1))),
    Planted("INI508", "one in a hundred", detector(0.0, 0.0), detector(-4.6, 0.0), "scores.bias", detect),
    Planted("INI509", "on the boxes", detector(0.0, -4.6), detector(-4.6, 0.0), "boxes.bias", detect),
    Planted("INI510", "continuous", actor(1.0, False), actor(0.01, False), "head.weight", act),
    Planted("INI510", "discrete", actor(1.0, True), actor(0.01, True), "head.weight", act),
    Planted("INI601", "infinite", data(math.inf), data(1.0)),
    Planted("INI602", "large inputs", scaled(1e6), scaled(1.0)),
    Planted("INI602", "small inputs", scaled(1e-3), scaled(1.0)),
    Planted("INI901", "no loss", lambda: (mlp(), rows(16, 64)), plain),
    Planted("INI902", "not understood", lambda: on_rows(Odd(True)), lambda: on_rows(Odd(False)), "strange"),
)
"""The bugs of large public projects and others known to be real. Every registered check has a row."""


def fresh(make: Callable[[], Made], seed: int = 0) -> Made:
    torch.manual_seed(seed)
    return make()
