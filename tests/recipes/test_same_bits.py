"""One recipe, one meaning: applied with a batch, without one, and as code it writes the same bits, or asks for a batch.

Over a zoo of torch's layers in their rarer forms, and of layers that look like torch's and are not.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from initadvisor.errors import InitAdvisorError
from initadvisor.graph.analyze import analyze
from initadvisor.recipes.recipe import loads_recipe, recipe_from_scheme
from initadvisor.schemes.propose import propose


class First(nn.Module):
    """A layer whose first result is the output, and a head behind it."""

    def __init__(self, layer: nn.Module, width: int, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times
        self.out = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        got = self.layer(*[x] * self.times)
        got = got[0] if isinstance(got, tuple) else got
        if got.ndim > 2:
            got = got.flatten(2).mean(2) if got.ndim > 3 else got.mean(1)
        return self.out(got)


class Linear(nn.Module):
    """Called as torch's, laid out the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 5))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6, padding_idx=0)
        self.head = nn.Linear(6, 7)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(x).mean(1))


class Packed(nn.Module):
    """Query, key and value from one plain layer: only the ops show the three maps."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))


class OtherWidths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, kdim=6, vdim=5, batch_first=True, add_bias_kv=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.attention(x[..., :4], x[..., :6], x[..., :5])[0].mean(1))


ROWS, SEQUENCE, IMAGE = torch.randn(4, 8), torch.randn(4, 5, 8), torch.randn(4, 8, 6, 6)
WORDS = torch.randint(1, 7, (4, 5))
ZOO = {
    "linear": (lambda: First(nn.Linear(8, 6), 6), ROWS),
    "no bias": (lambda: First(nn.Linear(8, 6, bias=False), 6), ROWS),
    "bilinear": (lambda: First(nn.Bilinear(8, 8, 6), 6, 2), ROWS),
    "embedding": (lambda: First(nn.Embedding(7, 6, padding_idx=2), 6), WORDS),
    "bag": (lambda: First(nn.EmbeddingBag(7, 6), 6), WORDS),
    "tied": (Tied, WORDS),
    "conv": (lambda: First(nn.Conv2d(8, 6, 3), 6), IMAGE),
    "grouped": (lambda: First(nn.Conv2d(8, 6, (3, 1), stride=2, groups=2), 6), IMAGE),
    "depthwise": (lambda: First(nn.Conv2d(8, 16, 3, groups=8), 16), IMAGE),
    "transposed": (lambda: First(nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), 6), IMAGE),
    "conv1d": (lambda: First(nn.Conv1d(5, 6, 3), 6), SEQUENCE),
    "conv3d": (lambda: First(nn.Conv3d(2, 6, 3), 6), torch.randn(2, 2, 4, 4, 4)),
    "rnn": (lambda: First(nn.RNN(8, 6, 2, batch_first=True), 6), SEQUENCE),
    "lstm": (lambda: First(nn.LSTM(8, 6, bidirectional=True, batch_first=True), 12), SEQUENCE),
    "projected": (lambda: First(nn.LSTM(8, 6, proj_size=3, batch_first=True), 3), SEQUENCE),
    "gru": (lambda: First(nn.GRU(8, 6, bias=False, batch_first=True), 6), SEQUENCE),
    "lstm cell": (lambda: First(nn.LSTMCell(8, 6), 6), ROWS),
    "gru cell": (lambda: First(nn.GRUCell(8, 6), 6), ROWS),
    "attention": (lambda: First(nn.MultiheadAttention(8, 2, batch_first=True), 8, 3), SEQUENCE),
    "other widths": (OtherWidths, SEQUENCE),
    "encoder": (lambda: First(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 8), SEQUENCE),
    "packed by hand": (Packed, SEQUENCE),
    "norms": (lambda: First(nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.RMSNorm(6), nn.PReLU(6)), 6), ROWS),
    "batch norm": (lambda: First(nn.Sequential(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.GroupNorm(2, 6)), 6), IMAGE),
    "plain batch norm": (lambda: First(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False)), 6), ROWS),
    "weight norm": (lambda: First(parametrizations.weight_norm(nn.Linear(8, 6)), 6), ROWS),
    "spectral norm": (lambda: First(parametrizations.spectral_norm(nn.Linear(8, 6)), 6), ROWS),
    "older weight norm": (lambda: First(nn.utils.weight_norm(nn.Linear(8, 6)), 6), ROWS),
    "older spectral norm": (lambda: First(nn.utils.spectral_norm(nn.Linear(8, 6)), 6), ROWS),
    "not torch's": (lambda: First(Linear(), 5), ROWS),
}

FILLS = (
    "{init: xavier_normal, gain: 1.3}",
    "{init: kaiming_uniform, args: {mode: fan_out}}",
    "{init: lecun_normal}",
    "{init: normal, args: {std: 0.02}}",
    "{init: uniform}",
    "{init: zeros}",
    "{init: keep}",
    "{init: orthogonal}",
    "{init: xavier_normal, fans: {in: 3, out: 5}}",
    "{init: xavier_normal, whole: true}",
)


def written(rules: list[tuple[str, str]]) -> str:
    lines = [f"  - {{match: {m}, reason: r, override: true, optional: true, {fill[1:]}" for m, fill in rules]
    return "format: 1\nname: x\nrules:\n" + "\n".join(lines) + "\n"


def outcomes(text: str, make, batch) -> dict[str, dict[str, torch.Tensor] | str]:
    """What each way of using a recipe leaves in the model, or the words with which it declines."""

    def as_code(model: nn.Module, *given: object) -> None:
        names: dict = {}
        exec(compile(recipe.to_code(*given), "generated", "exec"), names)
        names["init_weights"](model, 3)

    recipe = loads_recipe(text)
    ways = {
        "with": lambda m: recipe.apply(m, batch, seed=3),
        "without": lambda m: recipe.apply(m, seed=3),
        "code": as_code,
        "code for it": lambda m: as_code(m, make(), batch),
    }
    found: dict[str, dict[str, torch.Tensor] | str] = {}
    for way, use in ways.items():
        torch.manual_seed(0)
        model = make()
        if any(isinstance(m, nn.BatchNorm1d) for m in model.modules()):
            model.train()(batch)
        try:
            use(model)
        except (InitAdvisorError, ValueError) as error:
            found[way] = str(error)
            continue
        found[way] = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return found


def agree(found: dict[str, dict[str, torch.Tensor] | str]) -> None:
    done = {way: state for way, state in found.items() if isinstance(state, dict)}
    for way, state in done.items():
        first_way, first = next(iter(done.items()))
        unequal = [k for k in first if not torch.equal(first[k], state[k])]
        assert not unequal, (first_way, way, unequal)
    if "with" in done:
        for way, words in found.items():
            asks = isinstance(words, str) and any(w in words for w in ("batch", "recipe.apply", "parametrized"))
            assert way in done or asks, (way, words)
    else:
        assert not done, found  # what is refused with a batch is not let through without one


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", ZOO)
def test_one_fill_for_everything(name: str, fill: str) -> None:
    make, batch = ZOO[name]
    agree(outcomes(written([('"**"', fill)]), make, batch))


MATCHES = (
    '"**"',
    '"**weight*"',
    '"**bias*"',
    '"layer.**"',
    '"out.*"',
    "{module: [Linear, LSTM, GRU]}",
    "{max_dims: 1}",
)


@pytest.mark.filterwarnings("ignore")
@given(
    st.sampled_from(sorted(ZOO)),
    st.lists(st.tuples(st.sampled_from(MATCHES), st.sampled_from(FILLS)), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_several_rules(name: str, rules: list[tuple[str, str]]) -> None:
    make, batch = ZOO[name]
    agree(outcomes(written([('"**"', FILLS[3]), *rules]), make, batch))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bilinear", "tied", "packed by hand", "other widths", "not torch's", "projected"])
def test_what_is_proposed_is_the_same_as_file_and_as_code(name: str) -> None:
    make, batch = ZOO[name]
    model = make()
    spec = analyze(model, batch)
    for scheme in propose(model, batch)[1:4]:
        if scheme.calibrations:
            continue
        found = outcomes(recipe_from_scheme(scheme, spec).to_yaml(), make, batch)
        torch.manual_seed(0)
        direct = make()
        scheme.apply(direct, seed=3)
        agree(
            {
                "with": {k: v.detach().clone() for k, v in direct.state_dict().items()},
                **{f"file {k}": v for k, v in found.items()},
            }
        )
        assert all(isinstance(v, dict) for v in found.values()), found


def test_a_name_that_is_torchs_means_torchs_layer() -> None:
    model = First(Linear(), 5)
    own = "format: 1\nname: x\nrules:\n  - {match: {module: Linear}, init: ones, reason: r}\n"
    rest = '  - {match: "layer.*", init: keep, reason: r}\n'
    filled = [t.path for t in loads_recipe(own + rest).apply(model).filled]
    assert filled == ["out.weight", "out.bias"]
    dotted = own.replace("module: Linear", f"module: {Linear.__module__}.Linear") + rest.replace("layer", "out")
    assert [t.path for t in loads_recipe(dotted).apply(model).filled] == ["layer.weight", "layer.bias"]
