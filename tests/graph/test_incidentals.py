"""Random stacks of blocks: names, order of registration, order of independent calls, wrapping, batch and dtype."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from describe import branch_line, param_line
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import ModelSpec

WIDTH = 8
Step = tuple[str, str]
"""Kind of a block and a key that tells its modules from others'."""

STEPS = ("plain", "mlp", "post", "gated", "attention", "packed", "scaled", "parallel", "conv")
_NEEDS: dict[str, dict[str, tuple[int, ...]]] = {
    "plain": {"a": (WIDTH, WIDTH)},
    "mlp": {"norm": (), "a": (WIDTH, 16), "b": (16, WIDTH)},
    "post": {"norm": (), "a": (WIDTH, 16), "b": (16, WIDTH)},
    "gated": {"norm": (), "gate": (WIDTH, 12), "up": (WIDTH, 12), "down": (12, WIDTH)},
    "attention": {"norm": (), **dict.fromkeys("qkvo", (WIDTH, WIDTH))},
    "packed": {"norm": (), "qkv": (WIDTH, 3 * WIDTH), "o": (WIDTH, WIDTH)},
    "scaled": {"a": (WIDTH, 16), "b": (16, WIDTH), "scale": (WIDTH,)},
    "parallel": {"norm": (), "qkv": (WIDTH, 3 * WIDTH), "o": (WIDTH, WIDTH), "a": (WIDTH, 16), "b": (16, WIDTH)},
    "conv": {"conv": (3,), "a": (WIDTH, WIDTH)},
}


def _module(sizes: tuple[int, ...]) -> nn.Module | nn.Parameter:
    if not sizes:
        return nn.LayerNorm(WIDTH)
    if sizes == (WIDTH,):
        return nn.Parameter(torch.full(sizes, 0.1))
    return nn.Conv1d(WIDTH, WIDTH, 3, padding=1) if len(sizes) == 1 else nn.Linear(*sizes)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    def heads(z: torch.Tensor) -> torch.Tensor:
        return z.unflatten(-1, (2, WIDTH // 2)).transpose(1, 2)

    return F.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).flatten(2)


class Program(nn.Module):
    """A stack of blocks whose parts bear the given names and were registered in the given order."""

    def __init__(self, towers: list[list[Step]], names: dict[str, str], order: list[str], first: int = 0) -> None:
        super().__init__()
        self.towers, self.names, self.first = towers, names, first
        wanted = {f"{key}.{n}": s for tower in towers for kind, key in tower for n, s in _NEEDS[kind].items()}
        wanted |= {"enter": (5, WIDTH), "leave": (WIDTH * len(towers), 3)}
        for key in sorted(wanted, key=order.index):
            made = _module(wanted[key])
            if isinstance(made, nn.Parameter):
                self.register_parameter(names[key], made)
            else:
                self.add_module(names[key], made)

    def get(self, key: str) -> Any:
        return getattr(self, self.names[key])

    def step(self, kind: str, key: str, x: torch.Tensor) -> torch.Tensor:
        part = {n: self.get(f"{key}.{n}") for n in _NEEDS[kind]}
        if kind == "plain":
            return torch.tanh(part["a"](x))
        if kind == "mlp":
            return x + part["b"](F.gelu(part["a"](part["norm"](x))))
        if kind == "post":
            return part["norm"](x + part["b"](F.relu(part["a"](x))))
        if kind == "gated":
            h = part["norm"](x)
            return x + part["down"](F.silu(part["gate"](h)) * part["up"](h))
        if kind == "attention":
            h = part["norm"](x)
            return x + part["o"](_attend(part["q"](h), part["k"](h), part["v"](h)))
        if kind == "packed":
            return x + part["o"](_attend(*part["qkv"](part["norm"](x)).chunk(3, -1)))
        if kind == "scaled":
            return x + part["scale"] * part["b"](F.gelu(part["a"](x)))
        if kind == "parallel":
            h = part["norm"](x)
            return x + part["o"](_attend(*part["qkv"](h).chunk(3, -1))) + part["b"](F.gelu(part["a"](h)))
        return F.elu(part["a"](F.elu(part["conv"](x.mT)).mT))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.get("enter")(x)
        ends: dict[int, torch.Tensor] = {}
        for i in [self.first, *(k for k in range(len(self.towers)) if k != self.first)]:
            y = x
            for kind, key in self.towers[i]:
                y = self.step(kind, key, y)
            ends[i] = y
        return self.get("leave")(torch.cat([ends[i] for i in range(len(self.towers))], -1))


def _keys(towers: list[list[Step]]) -> list[str]:
    return ["enter", "leave", *(f"{key}.{n}" for tower in towers for kind, key in tower for n in _NEEDS[kind])]


def _told(spec: ModelSpec, names: dict[str, str]) -> tuple[dict[str, str], list[str], tuple[Any, ...]]:
    """Facts under the keys the program knows its parts by."""
    back = {name: key for key, name in names.items()}

    def known(text: str) -> str:
        return re.sub(r"\w+", lambda m: back.get(m.group(), m.group()), text)

    params = {known(p.path): known(param_line(p)) for p in spec.params}
    return (
        params,
        [known(branch_line(b)) for b in spec.branches],
        (spec.depth, spec.residual_depth, spec.output_classes),
    )


def _plain_names(towers: list[list[Step]]) -> dict[str, str]:
    return {key: key.replace(".", "_") for key in _keys(towers)}


X = torch.linspace(-1, 1, 2 * 6 * 5).view(2, 6, 5)
_TOWER = st.lists(st.sampled_from(STEPS), min_size=1, max_size=4)


def _steps(kinds: list[str], tower: int = 0) -> list[Step]:
    return [(kind, f"t{tower}s{i}") for i, kind in enumerate(kinds)]


@settings(deadline=None, max_examples=40)
@given(kinds=_TOWER, data=st.data())
def test_names_and_order_of_registration(kinds: list[str], data: st.DataObject) -> None:
    towers = [_steps(kinds)]
    keys = _keys(towers)
    plain = _plain_names(towers)
    order = data.draw(st.permutations(keys))
    # Names that suggest another role must not be believed.
    words = [f"{w}{i}" for i, w in enumerate(["bias", "norm", "head", "q_proj", "embed", "gate", "z"] * 8)]
    names = dict(zip(keys, data.draw(st.permutations(words))[: len(keys)], strict=True))
    expected = _told(analyze(Program(towers, plain, keys), X), plain)
    assert _told(analyze(Program(towers, names, order), X), names) == expected


@settings(deadline=None, max_examples=30)
@example(first=["mlp"], second=["parallel", "mlp"])
@given(first=_TOWER, second=_TOWER)
def test_order_of_independent_calls(first: list[str], second: list[str]) -> None:
    """Two towers that read the same value: whichever runs first, only the numbering of branches may change."""
    towers = [_steps(first, 0), _steps(second, 1)]
    names, keys = _plain_names(towers), _keys(towers)
    seen = []
    for start in (0, 1):
        spec = analyze(Program(towers, names, keys, start), X)
        number = {b.index: f"[{b.params}]" for b in spec.branches}

        def numbered(text: str, number: dict[int, str] = number) -> str:
            text = re.sub(r"\bb(\d+)(!?)( |$)", lambda m: number[int(m[1])] + m[2] + m[3], text)
            beside = re.compile(r"beside=([\d,]+)")
            return beside.sub(lambda m: "beside=" + str(sorted(number[int(n)] for n in m[1].split(","))), text)

        params, branches, whole = _told(spec, names)
        assert whole[1] == max(sum(kind not in ("plain", "conv") for kind in tower) for tower in (first, second))
        seen.append(({p: numbered(t) for p, t in params.items()}, sorted(numbered(b) for b in branches), whole))
    assert seen[0] == seen[1]


@settings(deadline=None, max_examples=30)
@given(kinds=_TOWER, change=st.sampled_from(["batch", "length", "double", "meta", "evaluation", "sequential"]))
def test_surroundings(kinds: list[str], change: str) -> None:
    towers = [_steps(kinds)]
    names, keys = _plain_names(towers), _keys(towers)
    expected = _told(analyze(Program(towers, names, keys), X), names)
    model: nn.Module = Program(towers, names, keys)
    x = {"batch": torch.cat([X, X, X]), "length": X[:, :4], "double": X.double()}.get(change, X)
    if change == "meta":
        with torch.device("meta"):
            model = Program(towers, names, keys)
    model = {"double": model.double, "evaluation": model.eval}.get(change, lambda: model)()
    if change == "sequential":
        model = nn.Sequential(nn.Sequential(model), nn.Identity())
    params, branches, whole = _told(analyze(model, x), names)
    if change == "sequential":
        params = {p.replace("0.0.", ""): t.replace("0.0.", "") for p, t in params.items()}
        branches = [b.replace("0.0.", "") for b in branches]
    assert (params, branches, whole) == expected


class Attending(nn.Module):
    """Pre-norm attention whose keys and values may come from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        y = self.norm(x)
        read = y if context is None else context
        return x + self.o(_attend(self.q(y), self.k(read), self.v(read)))


class Translating(nn.Module):
    """An encoder and a decoder of which either may run first, up to where one reads the other."""

    def __init__(self, encoder_first: bool) -> None:
        super().__init__()
        self.encoder_first = encoder_first
        self.source, self.target, self.leave = nn.Linear(3, WIDTH), nn.Linear(4, WIDTH), nn.Linear(WIDTH, 2)
        self.encoder, self.decoder, self.cross, self.norm = Attending(), Attending(), Attending(), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.encoder_first:
            read = self.norm(self.encoder(self.source(x)))
            stream = self.decoder(self.target(y))
        else:
            stream = self.decoder(self.target(y))
            read = self.norm(self.encoder(self.source(x)))
        return self.leave(self.cross(stream, read))


def test_a_stream_that_is_read_once_is_its_own_whenever_it_runs() -> None:
    batch = {"x": torch.randn(2, 5, 3), "y": torch.randn(2, 6, 4)}
    seen = []
    for first in (True, False):
        spec = analyze(Translating(first), batch)
        told = {b.index: b.last for b in spec.branches}
        ends = {p.path: p.branch is not None and told[p.branch] for p in spec.params}
        facts = {p.path: re.sub(r"\bb\d+(!?)", r"b\1", param_line(p)) for p in spec.params}
        seen.append((facts, ends, sorted(branch_line(b) for b in spec.branches)))
        assert spec["encoder.o.weight"].branch_last and spec["norm.weight"].branch is None
        assert told[spec["cross.k.weight"].branch or 0] == ("cross.o.weight",)
    assert seen[0] == seen[1]
