"""Recipe files of strangers: text stays text, work grows with the file alone, and what loads can be trusted."""

from __future__ import annotations

import ast
import contextlib
import gc
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.errors import InitAdvisorError, RecipeError
from initadvisor.plaintext import unprintable
from initadvisor.recipes.code import _docstring
from initadvisor.recipes.document import Document
from initadvisor.recipes.model import FORMAT, RuleModel, Selector
from initadvisor.recipes.recipe import Recipe, load_recipe, loads_recipe
from initadvisor.schemes.paths import matches

HANGS = 10.0
"""Seconds of this process' own work after which a file counts as hanging; the worst known takes a hundredth."""

SMALL = """\
format: 1
name: small
summary: weights as they should be
rules:
  - match: "**.weight"
    init: orthogonal
    gain: 1.4
    args: {scale: fan_in}
    reason: ReLU layers
    references: [he2015]
  - {match: {path: "*.{0..3}.bias", except: "2.*", module: [Linear, LSTM], max_dims: 1}, init: zeros, reason: b,
     optional: true}
  - {match: "rnn.*", init: xavier_normal, slices: {forget_gate: {gain: 2, fans: {in: 3, out: 4}}}, override: true,
     optional: true, reason: gates}
  - {match: "**", init: normal, args: {std: 1e-2}, slices: {a: {at: "0:2"}, b: {at: "2:4,4:8"}}, override: true,
     optional: true, reason: rows}
calibrations: []
provenance: {made_by: me, seed: 3, versions: {torch: "2"}, evidence: {effect: 0.1, loss: cross_entropy}}
"""

SHIPPED = [p.read_text(encoding="utf-8") for p in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))]


@contextlib.contextmanager
def no_hanging() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def model() -> nn.Module:
    return nn.ModuleDict({"net": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)), "rnn": nn.LSTM(4, 2)})


def calls_of(code: str) -> set[str]:
    """Names of what generated code calls while it is imported, decorators and constants of this package's aside."""
    tree = ast.parse(code)
    top = [n for n in tree.body if not isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))]
    return {ast.unparse(n.func) for s in top for n in ast.walk(s) if isinstance(n, ast.Call)}


def sound(text: str) -> None:
    """The text is refused in one line, or it is a recipe that can be written, told, applied and turned into code."""
    with no_hanging():
        try:
            recipe = loads_recipe(text, "r.yaml")
        except RecipeError as error:
            assert len(str(error)) < 1000
            assert str(error).startswith("r.yaml")
            assert not unprintable(str(error).replace("\n", " "))
            return
        assert loads_recipe(recipe.to_yaml()) == recipe
        with contextlib.suppress(InitAdvisorError):
            code = recipe.to_code()
            compile(code, "generated", "exec")
            assert calls_of(code) <= {"re.compile", "frozenset", "nn.Linear"}, calls_of(code)
        fresh = model()
        before = {k: v.clone() for k, v in fresh.state_dict().items()}
        try:
            recipe.apply(fresh)
        except InitAdvisorError as error:
            assert len(str(error)) < 2000
            assert all(torch.equal(before[k], v) for k, v in fresh.state_dict().items())
        else:
            assert all(bool(torch.isfinite(v).all()) for v in fresh.state_dict().values())


PIECES = (
    *(
        "**",
        "*",
        "**a" * 40,
        "{0..99999}" * 9,
        "{9..0}",
        "{a,b}",
        "[",
        "]" * 5,
        "[" * 200,
        "{" * 200,
        "- " * 200,
        "? " * 50,
    ),
    *(
        "&a ",
        "*a",
        "<<: *a",
        "!!python/object/apply:os.system [x]",
        "!!int ",
        "!!binary |",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
    ),
    *(
        "9" * 5000,
        "1:" * 500 + "0",
        "0x" + "f" * 5000,
        "1e999",
        "-1e308",
        ".inf",
        ".nan",
        "0b_",
        "2001-99-99",
        "~",
        "1_0",
    ),
    *(
        '"\\x1b[2J"',
        '"\\ud800"',
        '"\\u202e"',
        "\x00",
        "\x85",
        "\u2028",
        "\ufeff",
        '"""',
        "\\",
        "'''",
        "\n# coding: x\n",
    ),
    *("init: keep", "init: vector", "init: dirac", "init: zeros", "init: sparse", "gain: activation", "scale: fixup"),
    *(
        "whole: true",
        "fans: {in: 1e-300, out: 1e300}",
        "at: 0:4",
        "dim: 7",
        "args: {std: -1}",
        "format: 0",
        "optional: true",
    ),
    *(
        "depth: '" + " " * 3000 + "x'",
        "role: qkv",
        "calibrations: [{method: lsuv}]",
        "\t",
        "  ",
        "\n",
        ": ",
        ", ",
        "a" * 3000,
    ),
)


def mutated(rng: random.Random) -> str:
    """A recipe with a few parts cut, doubled, moved, overwritten by pieces that mean something, or by noise."""
    text = rng.choice((SMALL, SMALL, SMALL, rng.choice(SHIPPED)))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
        lines = text.split("\n")
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        row, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif kind == 1:
            text = text[:at] + rng.choice(PIECES) + text[min(end, at + 9) :]
        elif kind == 2:
            lines[row] = lines[row].partition(":")[0] + ": " + rng.choice(PIECES)
            text = "\n".join(lines)
        elif kind == 3:
            lines[row], lines[other] = lines[other], lines[row]
            text = "\n".join(lines)
        elif kind == 4:
            text = "\n".join([*lines[:row], *lines[other : other + 4], *lines[row:]])
        elif kind == 5:
            text = text[:at] + text[min(end, at + 40) :]
        elif kind == 6:
            text = text[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000)))) + text[at + 1 :]
        else:
            words = text.split(" ")
            words[rng.randrange(len(words))] = rng.choice(words)
            text = " ".join(words)
        text = text[:20_000]
    return text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(10))
def test_a_mutated_file_is_refused_or_sound(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        sound(mutated(rng))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_twenty_thousand_mutated_files_and_no_growth() -> None:
    rng = random.Random(2024)
    counts = []
    for _ in range(4):
        for _ in range(5_000):
            sound(mutated(rng))
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[-1] - counts[1] < 5_000, counts  # less than one object for two files: nothing is kept of them


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("field", ["name", "match", "init", "format", "made_by"])
def test_every_piece_in_every_field(field: str) -> None:
    for piece in PIECES:
        sound(
            "\n".join(
                f"{line.partition(':')[0]}: {piece}" if line.strip(" -").startswith(f"{field}:") else line
                for line in SMALL.split("\n")
            )
        )


DEPTHS = (1_000, 100_000)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("opened", ["[", "{", "[{", "- ", "? ", "- - ? ", "{a: ", "[a, ", "!!seq ["])
def test_nesting_is_refused_while_it_is_read(opened: str, depth: int) -> None:
    with no_hanging(), pytest.raises(RecipeError, match=r"nested more than|tags|valid YAML"):
        loads_recipe(SMALL.replace("weights as they should be", "\n    " + opened * depth))


@pytest.mark.parametrize("bomb", ["a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "<<: &a {x: 1}\n", "a: !!set {x}\n"])
def test_what_refers_or_builds_is_refused(bomb: str) -> None:
    with pytest.raises(RecipeError, match="not part of a recipe"):
        loads_recipe(bomb + SMALL)


@given(st.text(alphabet="*?{}.,a0129", max_size=24), st.text(alphabet=".a0129", max_size=40))
def test_matching_follows_its_definition(pattern: str, path: str) -> None:
    import functools

    from initadvisor.schemes.paths import pattern_tokens

    try:
        tokens = pattern_tokens(pattern)
    except ValueError:
        return

    @functools.cache
    def fits(index: int, rest: str) -> bool:
        if index == len(tokens):
            return not rest
        kind, value = tokens[index]
        if kind in ("any", "name", "one"):
            lengths = range(len(rest) + 1) if kind != "one" else (1,)
            heads = [rest[:n] for n in lengths if n <= len(rest)]
            heads = heads if kind == "any" else [h for h in heads if "." not in h]
        elif kind == "range":
            heads = [rest[:n] for n in range(1, len(rest) + 1)]
            heads = [h for h in heads if h.isdigit() and str(int(h)) == h and value[0] <= int(h) <= value[1]]
        else:
            heads = [h for h in (value if kind == "choice" else (value,)) if rest.startswith(h)]
        return any(fits(index + 1, rest[len(h) :]) for h in heads)

    assert matches(pattern, path) == fits(0, path)


@pytest.mark.parametrize(
    "pattern", ["**a" * 300 + "!", "*a" * 400 + "!", "**" * 450 + "!", "{0..99999}" * 90, "{a,aa}" * 150, "?*" * 450]
)
def test_no_pattern_hangs(pattern: str) -> None:
    with no_hanging():
        for path in ("a" * 400, "1" * 400, ".".join("a1" * 150)):
            matches(pattern, path)


EVIL = st.lists(
    st.sampled_from([*"\"'\\\n\r\x0c\x1b\u2028\x85%{}#()a \x00", "run()", '"""', "# coding: x"]), max_size=12
).map("".join)


@given(EVIL, EVIL, EVIL)
@settings(deadline=None)
def test_text_stays_text_in_code_and_files(name: str, summary: str, pattern: str) -> None:
    rule = RuleModel.model_construct(
        set(), match=Selector.model_construct({"path"}, path=(pattern,)), init="zeros", reason=f"r {summary}"
    )
    recipe = Recipe.model_construct(
        set(Document.model_fields), format=FORMAT, name=name or "n", summary=summary, rules=(rule,)
    )
    tree = ast.parse(recipe.to_code())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "init_weights")
    called = [ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)]
    assert sorted(called) == ["partial", "partial", "rule", "torch.no_grad", "write_plan"]
    patterns = [
        ast.literal_eval(n.args[0])
        for n in ast.walk(function)
        if isinstance(n, ast.Call) and ast.unparse(n.func) == "rule"
    ]
    assert patterns == [[pattern]]
    text = recipe.to_yaml()
    bad = unprintable(name + summary + pattern)
    if bad or not pattern:
        return
    read = loads_recipe(text)
    assert (read.name, read.summary, read.rules[0].match.path) == (name or "n", summary, (pattern,))


@given(st.text())
def test_a_docstring_ends_where_it_should(text: str) -> None:
    tree = ast.parse(_docstring(text) + "\nx = 1\n")
    assert len(tree.body) == 2


def test_the_name_of_a_file_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = f"he\\\"\\\"\\\"\\nopen('{mark}','w').write('x')\\n\\\"\\\"\\\"x"
    file = tmp_path / "evil.yaml"
    for field in ("name: small", "summary: weights as they should be", "reason: ReLU layers"):
        key = field.partition(":")[0]
        file.write_text(SMALL.replace(field, f'{key}: "{evil}"'))
        exec(compile(load_recipe(file).to_code(), "generated", "exec"), {})
        assert not mark.exists()
