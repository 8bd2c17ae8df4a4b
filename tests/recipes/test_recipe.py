"""Recipes: files that say what they mean, round trips to the bit, errors that name line and field."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "schemes"))
from handmade import bias, lstm, mlp, residual, spec_of, weight

from initadvisor.errors import InitAdvisorError, RecipeError
from initadvisor.initializers.gains import deep_gain
from initadvisor.initializers.registry import cards
from initadvisor.recipes import model as recipe_model
from initadvisor.recipes.recipe import (
    Provenance,
    Recipe,
    load_recipe,
    loads_recipe,
    recipe_from_scheme,
    recipe_schema,
    register_migration,
)
from initadvisor.recipes.yaml import number
from initadvisor.schemes.apply import apply_scheme
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.types import CURRENT, Fans, Role, Slice

MODELS = {"mlp": mlp, "residual": residual, "lstm": lstm}

SMALL = """\
format: 1
name: small
rules:
  - match: "*.weight"
    init: orthogonal
    gain: 1.4
    reason: ReLU layers
  - match: "*.bias"
    init: zeros
    reason: no offset
"""


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_scheme_recipe_scheme_is_the_identity_for_every_candidate(make):
    model, spec = make()
    for scheme in propose_from_spec(spec, model):
        recipe = recipe_from_scheme(scheme, spec, Provenance(seed=3, versions={"torch": "2"}, evidence={"effect": 0.1}))
        text = recipe.to_yaml()
        read = loads_recipe(text)
        assert read == recipe
        assert read.to_yaml() == text
        resolved = read.resolve(spec)
        if scheme.name == CURRENT:
            assert all(not a.parts for a in resolved.assignments)
        else:
            assert [(a.path, a.parts, a.rule) for a in resolved.assignments] == [
                (a.path, a.parts, a.rule) for a in scheme.assignments
            ]
        assert (
            recipe_from_scheme(resolved, spec, recipe.provenance).to_yaml().split("rules:")[1]
            == text.split("rules:")[1]
        )


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_generated_code_gives_the_same_bits(make):
    model, spec = make()
    for scheme in propose_from_spec(spec, model):
        by_code, by_scheme = make()[0], make()[0]
        by_scheme.load_state_dict(by_code.state_dict())
        names: dict = {}
        exec(compile(recipe_from_scheme(scheme, spec).to_code(seed=1), "generated", "exec"), names)
        names["init_weights"](by_code, seed=5)
        apply_scheme(scheme, by_scheme, seed=5)
        assert same_weights(by_code, by_scheme), scheme.name


def _every_card() -> list[str]:
    return [card.name for card in cards() if not card.name.startswith("test_")]


def _arguments(name: str) -> tuple[tuple[str, float | str], ...]:
    return (("values", " ".join(map(str, range(8 * 8)))),) if name == "vector" else ()


@pytest.mark.parametrize("name", _every_card())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_initializer_can_be_written_as_code_to_the_bit(name, dtype):
    shape = (8, 8, 3) if name in ("dirac", "delta_orthogonal") else (8, 8)
    layer = (nn.Conv1d(8, 8, 3, bias=False) if len(shape) == 3 else nn.Linear(8, 8, bias=False)).to(dtype)
    entry = replace(weight("weight", shape, module_type=type(layer).__name__), dtype=dtype)
    part = Part(Fill(name, gain=1.3, args=_arguments(name)), entry.fans)
    scheme = Scheme("one", SchemeKind.RULES, "", (Assignment("weight", shape, (part,), "r", "because"),))
    try:
        apply_scheme(scheme, layer, seed=2)
    except Exception as error:  # noqa: BLE001 (cards that need another shape have tests in their own room)
        pytest.skip(f"{name} does not fill {shape}: {error}")
    wanted = layer.weight.detach().clone()
    names: dict = {}
    recipe = loads_recipe(recipe_from_scheme(scheme, spec_of(entry)).to_yaml())
    exec(compile(recipe.to_code(), "generated", "exec"), names)
    layer.weight.data.fill_(float("nan"))
    names["init_weights"](layer, 2)
    assert torch.equal(layer.weight, wanted)


def test_generated_code_runs_where_initadvisor_is_not(tmp_path):
    model, spec = residual()
    scheme = propose_from_spec(spec, model)[2]
    code = recipe_from_scheme(scheme, spec).to_code()
    assert "import initadvisor" not in code
    assert "from initadvisor" not in code
    script = tmp_path / "weights.py"
    probe = (
        "\nlayer = nn.ModuleDict({'stem': nn.Linear(16, 16)})\nassert 'initadvisor' not in __import__('sys').modules\n"
    )
    script.write_text(code + probe)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_packed_rows_of_an_unknown_layer_are_in_the_file_and_in_the_code():
    fans = Fans(8.0, 8.0)
    parts = tuple(
        Slice(n, 0, spans, Role(n), fans)
        for n, spans in (("query", ((0, 4), (12, 16))), ("key", ((4, 8), (16, 20))), ("value", ((8, 12), (20, 24))))
    )
    entry = weight("weight", (24, 8), Role.QKV, slices=parts, fans=fans)
    spec = spec_of(replace(entry, fans=Fans(8.0, 24.0)))
    fills = tuple(Part(Fill("zeros" if s.name == "query" else "xavier_normal"), s.fans, s) for s in parts)
    scheme = Scheme("s", SchemeKind.RULES, "", (Assignment("weight", (24, 8), fills, "r", "because"),))
    recipe = recipe_from_scheme(scheme, spec)
    blind = spec_of(weight("weight", (24, 8), Role.UNKNOWN, fans=Fans(8.0, 24.0)))
    a, b, c = (nn.Linear(8, 24, bias=False) for _ in range(3))
    apply_scheme(scheme, a, seed=1)
    apply_scheme(loads_recipe(recipe.to_yaml()).resolve(blind), b, seed=1)
    names: dict = {}
    exec(compile(recipe.to_code(), "generated", "exec"), names)
    names["init_weights"](c, 1)
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(a.weight, c.weight)
    assert "at:" in recipe.to_yaml()


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=200, deadline=None)
def test_numbers_survive_yaml_to_the_bit(value):
    read = yaml.safe_load(number(value))
    assert isinstance(read, float)
    assert read.hex() == value.hex()


def test_repeated_blocks_are_one_rule_and_exceptions_override():
    model, spec = residual(blocks=5)
    scheme = propose_from_spec(spec, model)[2]
    odd = tuple(
        replace(a, parts=(Part(Fill("zeros"), a.parts[0].fans),), rule="odd") if a.path == "blocks.3.up.weight" else a
        for a in scheme.assignments
    )
    recipe = recipe_from_scheme(replace(scheme, assignments=odd), spec)
    assert len(recipe.rules) <= 8
    assert any("blocks.*.down.weight" in rule.match.path for rule in recipe.rules)
    assert recipe.resolve(spec).assignments[15].parts == odd[15].parts
    got = {a.path: a.parts for a in loads_recipe(recipe.to_yaml()).resolve(spec).assignments}
    assert got == {a.path: a.parts for a in odd}


BAD = [
    (
        "format: 1\nname: x\nrules:\n  - match: a\n    init: xavier_nromal\n    reason: r\n",
        5,
        'did you mean "xavier_normal"',
    ),
    ("format: 1\nname: x\nrules:\n  - match: a\n    init: zeros\n", 4, "rules[0].reason: is required"),
    ("format: 1\nname: x\nrules:\n  - match: a\n    intit: zeros\n    reason: r\n", 4, "init: is required"),
    (
        "format: 1\nname: x\nrules:\n  - match: a\n    init: zeros\n    reason: r\n    resaon: s\n",
        7,
        'did you mean "reason"',
    ),
    (
        "format: 1\nname: x\nrules:\n  - match: a\n    init: normal\n    args: {sdt: 1.0}\n    reason: r\n",
        4,
        'did you mean "std"',
    ),
    (
        "format: 1\nname: x\nrules:\n  - match: {role: hiden}\n    init: zeros\n    reason: r\n",
        4,
        'did you mean "hidden"',
    ),
    (
        "format: 1\nname: x\nrules:\n  - match: a\n    init: zeros\n    gain: activaton\n    reason: r\n",
        6,
        "activation",
    ),
    (
        "format: 1\nname: x\nrules:\n  - match: a\n    init: zeros\n    scale: 1/sqrt(brnches)\n    reason: r\n",
        6,
        "branches",
    ),
    ("format: 1\nname: x\nrules:\n  - match: a\n    init: zeros\n    gain: .inf\n    reason: r\n", 6, "finite"),
    (
        "format: 1\nname: x\nrules:\n  - match: a\n    init: zeros\n    references: [he2105]\n    reason: r\n",
        6,
        "he2015",
    ),
    ("format: 1\nname: x\nrules:\n  - match: {depth: deep}\n    init: zeros\n    reason: r\n", 4, "not a depth"),
    ("format: 9\nname: x\nrules: []\n", 1, "newer"),
    ("name: x\nrules: []\n", 1, '"format"'),
    ("format: 1\nname: x\nname: y\nrules: []\n", 3, "given twice"),
    ("format: 1\nname: x\nrules: [\n", 4, "not valid YAML"),
    ("- a\n", None, "mapping"),
    ("format: 1\nname: &a x\nrules: [*a]\n", 2, "anchors"),
    ("format: 1\nname: !!python/object/apply:os.system [echo]\nrules: []\n", 2, ""),
]


@pytest.mark.parametrize(("text", "line", "says"), BAD)
def test_bad_files_get_one_line_with_line_and_field(text, line, says, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert message.startswith(f"{path}:{line}:" if line is not None else str(path))


def test_missing_binary_and_directory_paths(tmp_path):
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path / "b.yaml", tmp_path):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert "\n" not in str(caught.value)


def test_an_older_format_is_brought_up_to_date_by_its_migration(monkeypatch):
    monkeypatch.setattr(recipe_model, "_MIGRATIONS", dict(recipe_model._MIGRATIONS))
    text = SMALL.replace("format: 1", "format: -1").replace("reason:", "why:")
    with pytest.raises(RecipeError, match="format -1 is unknown"):
        loads_recipe(text)
    register_migration(
        -1,
        lambda data: {
            **data,
            "rules": [{("reason" if k == "why" else k): v for k, v in r.items()} for r in data["rules"]],
        },
    )
    register_migration(0, lambda data: {**data, "summary": "was older"})
    read = loads_recipe(text)
    assert read.summary == "was older"
    assert read.rules == loads_recipe(SMALL).rules


def test_overlap_gap_and_idle_rule_are_errors_that_name_the_parameter():
    _, spec = mlp()
    good = loads_recipe(SMALL)
    good.resolve(spec)
    both = SMALL + '  - match: "0.weight"\n    init: ones\n    reason: r\n'
    with pytest.raises(RecipeError, match=r"0\.weight is matched by rule 1 .* and by rule 3"):
        loads_recipe(both).resolve(spec)
    later = loads_recipe(both + "    override: true\n").resolve(spec)
    assert later.assignments[0].parts[0].fill.initializer == "ones"
    with pytest.raises(RecipeError, match=r"matches 0\.weight"):
        loads_recipe(SMALL.replace('"*.weight"', '"{2..9}.weight"')).resolve(spec)
    idle = SMALL + '  - match: "9.weigth"\n    init: ones\n    reason: r\n'
    with pytest.raises(RecipeError, match="matches no parameter"):
        loads_recipe(idle).resolve(spec)
    loads_recipe(idle + "    optional: true\n").resolve(spec)


def test_selectors_by_role_depth_and_layer():
    _, spec = mlp(depth=5)
    text = """
format: 1
name: roles
rules:
  - {match: {role: input}, init: lecun_normal, reason: first}
  - {match: {role: hidden, depth: "2..3"}, init: orthogonal, gain: activation, reason: early}
  - {match: {role: [hidden, output], depth: "4.."}, init: normal, args: {std: 1e-2}, reason: late}
  - {match: {module: Linear, max_dims: 1}, init: zeros, reason: biases}
"""
    got = [a.parts[0].fill.initializer for a in loads_recipe(text).resolve(spec).assignments]
    assert got[::2] == ["lecun_normal", "orthogonal", "orthogonal", "normal", "normal"]
    assert set(got[1::2]) == {"zeros"}
    gains = [a.parts[0].fill.gain for a in loads_recipe(text).resolve(spec).assignments[2:4:2]]
    assert gains == [pytest.approx(deep_gain("tanh", 5), rel=1e-4)]
    with pytest.raises(RecipeError, match="pass sample_batch"):
        loads_recipe(text).apply(mlp(depth=5)[0])


def test_slices_inherit_what_they_do_not_say():
    _, spec = lstm()
    text = """
format: 1
name: gates
rules:
  - {match: "weight_*", init: orthogonal, gain: 0.5, slices: {cell_gate: {gain: 2.0}}, reason: candidate larger}
  - {match: bias_ih_l0, init: zeros, slices: {forget_gate: {init: ones}}, reason: forget}
  - {match: bias_hh_l0, init: zeros, reason: second}
"""
    by_path = {a.path: a for a in loads_recipe(text).resolve(spec).assignments}
    assert [(p.slice.name, p.fill.initializer, p.fill.gain) for p in by_path["weight_hh_l0"].parts] == [
        ("input_gate", "orthogonal", 0.5),
        ("forget_gate", "orthogonal", 0.5),
        ("cell_gate", "orthogonal", 2.0),
        ("output_gate", "orthogonal", 0.5),
    ]
    with pytest.raises(RecipeError, match='no slice "z"'):
        loads_recipe(text.replace("cell_gate: {gain", "z: {gain")).resolve(spec)


def test_protected_parameters_are_left_whatever_the_recipe_says():
    model, spec = mlp()
    frozen = replace(spec, params=(replace(spec.params[0], protected="frozen"), *spec.params[1:]))
    scheme = loads_recipe(SMALL).resolve(frozen)
    assert scheme.assignments[0].parts == ()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    assert "0.weight" in apply_scheme(scheme, model).left
    assert torch.equal(model[0].weight, before)


def test_a_bias_of_its_own_width_keeps_its_fans_in_the_file():
    entry = weight("w", (6, 4), module_type="Odd")
    spec = spec_of(entry, bias("b", 6, "w", module_type="Odd"))
    parts = (Part(Fill("torch_linear"), Fans(4.0, 6.0)),)
    scheme = Scheme(
        "s",
        SchemeKind.RULES,
        "",
        (Assignment("w", (6, 4), parts, "r", "because"), Assignment("b", (6,), parts, "r", "because")),
    )
    recipe = recipe_from_scheme(scheme, spec)
    assert [a.parts for a in loads_recipe(recipe.to_yaml()).resolve(spec).assignments] == [parts, parts]
    assert "fans" in recipe.to_yaml()


def test_schema_is_published_and_names_the_fields():
    schema = recipe_schema()
    assert {"format", "name", "rules"} <= set(schema["properties"])
    assert {"match", "init", "reason"} <= set(schema["$defs"]["RuleModel"]["required"])


def test_calibrations_survive_the_file():
    text = SMALL + "calibrations:\n  - method: lsuv\n    args: {target: 1.0}\n"
    read = loads_recipe(text)
    _, spec = mlp()
    scheme = read.resolve(spec)
    assert [(c.method, dict(c.args)) for c in scheme.calibrations] == [("lsuv", {"target": 1.0})]
    assert loads_recipe(read.to_yaml()) == read
    with pytest.raises(RecipeError, match="measures on data"):
        read.to_code()


def test_recipe_is_frozen_and_equal_by_content():
    read = loads_recipe(SMALL)
    assert read == loads_recipe(SMALL)
    with pytest.raises(Exception, match="frozen"):
        read.name = "other"
    assert isinstance(read, Recipe)


def test_the_header_says_how_it_is_used():
    """A recipe that measures or speaks of roles is of no use without a batch, and its first lines say so."""
    plain = loads_recipe(SMALL)
    measuring = loads_recipe(SMALL + "calibrations: [{method: lsuv}]\n")
    speaking = loads_recipe(SMALL.replace('match: "*.weight"', "match: {role: [input, hidden, output]}"))
    model, batch = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 4)
    for recipe, call in (
        (plain, "apply(model)."),
        (measuring, "apply(model, sample_batch)."),
        (speaking, "apply(model, sample_batch)."),
    ):
        assert call in recipe.to_yaml().splitlines()[1]
        if recipe is plain:
            recipe.apply(model)
        else:
            with pytest.raises(InitAdvisorError, match="sample_batch"):
                recipe.apply(model)
            recipe.apply(model, batch)
