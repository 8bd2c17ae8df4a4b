"""One table drives the rules: each fires where it should, proposes what its source says, and cites what exists."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from handmade import bias, gates, lstm, mlp, norm, spec_of, weight

from initadvisor.errors import RegistryError, SchemeError
from initadvisor.graph.spec import Branch, Confidence, ModelSpec, NormStyle, ParamSpec
from initadvisor.initializers.registry import get as card_of
from initadvisor.references import cite
from initadvisor.schemes import build
from initadvisor.schemes.blueprints import RULE_BLUEPRINTS, STRUCTURE, TEXTBOOK_BLUEPRINTS
from initadvisor.schemes.rules import reading, registry
from initadvisor.schemes.rules.rule import Context, Proposal
from initadvisor.schemes.values import SchemeKind
from initadvisor.types import Fans, Role

CONTEXT = Context()


@dataclass(frozen=True)
class Row:
    """A parameter a rule must speak for, and what must be true of what it says."""

    spec: ModelSpec
    path: str
    check: Callable[[Proposal], bool]
    context: Context = CONTEXT


def fill(p: Proposal, index: int = 0):
    return p.parts[index].fill


def is_(name: str, gain: float | None = None, **args) -> Callable[[Proposal], bool]:
    def check(p: Proposal) -> bool:
        got = fill(p)
        return (
            got.initializer == name
            and (gain is None or math.isclose(got.gain, gain, rel_tol=2e-3))
            and all(
                math.isclose(dict(got.args)[k], v, rel_tol=1e-4) if isinstance(v, float) else dict(got.args)[k] == v
                for k, v in args.items()
            )
        )

    return check


def kept(p: Proposal) -> bool:
    return p.parts == ()


def branch(entry: ParamSpec, count: int = 8, style: NormStyle = NormStyle.PRE_NORM, **more) -> ModelSpec:
    entry = replace(entry, branch=0, branch_last=entry.role in (Role.MLP_OUT, Role.ATTN_OUT, Role.RESIDUAL_OUT))
    last = (entry.path,) if entry.branch_last else ()
    made = tuple(Branch(i, (entry.path,), 3, last if i == 0 else (), style=style, **more) for i in range(count))
    return spec_of(entry, branches=made, residual_depth=count)


def last_norm(count: int = 4) -> ModelSpec:
    entry = norm("bn.weight", 8, branch=0)
    made = tuple(Branch(i, ("w",), 2, ("w",), last_norm="bn.weight", style=NormStyle.INNER_NORM) for i in range(count))
    return spec_of(entry, weight("w", (8, 8), branch=0, branch_last=True), branches=made, residual_depth=count)


OUT = weight("out", (8, 32), Role.MLP_OUT, input_activation="relu")
HIDDEN = weight("w", (8, 8), input_activation="relu")
QKV = weight(
    "qkv",
    (24, 8),
    Role.QKV,
    slices=tuple(replace(s, role=Role(s.name)) for s in gates(8, 8, ("query", "key", "value"))),
)
VISION = spec_of(
    replace(QKV, branch=0, heads=2, slices=tuple(replace(s, role=Role(s.name)) for s in QKV.slices)),
    weight("proj", (8, 8), Role.ATTN_OUT, branch=0, branch_last=True),
    weight("places", (1, 5, 8), Role.POSITION),
)
HEAD = weight("head", (10, 8), Role.OUTPUT)
SINE = weight("s", (16, 16), activation="sin", input_activation="sin", activation_args=(("omega", 20.0),))
TABLE = weight("table", (100, 16), Role.EMBEDDING, module_type="Embedding", op="embedding")
OFFSET = replace(TABLE, path="offset", shape=(100, 1))
TIED = spec_of(TABLE, weight("head", (100, 16), Role.OUTPUT, tied_to="table"))
UNTIED = spec_of(TABLE, HEAD)
SCALE = ParamSpec("scale", (), torch.float32, Role.BRANCH_SCALE, op="mul")
LSTM = lstm()[1]
GPT_RESIDUAL = branch(OUT, 24)
LN_2L = math.sqrt(math.log(8))


def lone(entry: ParamSpec, check, *others: ParamSpec, context: Context = CONTEXT) -> Row:
    return Row(spec_of(entry, *others), entry.path, check, context)


def at(spec: ModelSpec, path: str, check, context: Context = CONTEXT) -> Row:
    return Row(spec, path, check, context)


ROWS: dict[str, Row] = {
    "selu_weight": lone(
        weight("w", (8, 8), input_activation="selu"), is_("lecun_normal", 1.0), context=Context(family="normal")
    ),
    "stream_input": at(
        spec_of(weight("w", (32, 4), Role.INPUT), branches=(Branch(0, ("out",), 2, ("out",)),)),
        "w",
        is_("orthogonal", 1.0, scale="norm"),
    ),
    "shortcut": lone(weight("w", (8, 8), Role.SHORTCUT, input_activation="relu"), is_("orthogonal", 1.0)),
    "cautious_weight": lone(replace(HIDDEN, role=Role.UNKNOWN, confidence=Confidence.WEAK), is_("lecun_normal", 1.0)),
    "unused": lone(replace(HIDDEN, role=Role.UNUSED), kept),
    "linear_map": lone(HIDDEN, is_("orthogonal", math.sqrt(2), scale="fan_in")),
    "norm_scale": lone(norm("n", 4), is_("ones")),
    "norm_shift": lone(norm("n", 4, Role.NORM_SHIFT), is_("zeros")),
    "input_bias_spread": lone(
        bias("b", 8, "w"),
        lambda p: is_("torch_linear")(p) and p.parts[0].fans.fan_in == 2,
        weight("w", (8, 2), Role.INPUT, activation="relu"),
    ),
    "bias": lone(bias("b", 8), is_("zeros")),
    "constant_as_found": lone(SCALE, is_("constant", value=1e-5), context=Context(constants={"scale": 1e-5})),
    "recurrent_hidden": at(LSTM, "weight_hh_l0", lambda p: len(p.parts) == 4 and is_("orthogonal", 1.0)(p)),
    "recurrent_identity": lone(weight("w", (8, 8), Role.RECURRENT_HIDDEN, activation="relu"), is_("identity", 1.0)),
    "recurrent_input": at(
        LSTM,
        "weight_ih_l0",
        lambda p: (
            len(p.parts) == 4 and all(x.fans.fan_out == 16 for x in p.parts) and is_("orthogonal", scale="norm")(p)
        ),
    ),
    "forget_bias": at(
        LSTM, "bias_ih_l0", lambda p: [x.fill.initializer for x in p.parts] == ["zeros", "ones", "zeros", "zeros"]
    ),
    "second_bias": at(LSTM, "bias_hh_l0", is_("zeros")),
    "residual_sqrt": Row(branch(OUT, 8), "out", is_("orthogonal", math.sqrt(2 / 8))),
    "residual_norm_sqrt": at(last_norm(4), "bn.weight", is_("constant", value=0.5)),
    "zero_last_norm": at(last_norm(), "bn.weight", is_("zeros")),
    "zero_last_weight": Row(branch(OUT), "out", is_("zeros")),
    "fixup_inner": Row(
        branch(weight("w", (8, 8), Role.HIDDEN, input_activation="relu"), 16, NormStyle.NONE),
        "w",
        is_("orthogonal", math.sqrt(2) * 16 ** (-1 / 4)),  # m = 3 layers: L^(-1/(2m-2))
    ),
    "rezero": lone(SCALE, is_("zeros")),
    "deepnorm": Row(
        branch(OUT, 24, NormStyle.POST_NORM), "out", is_("variance_scaling", (8 * 12) ** -0.25, mode="fan_avg")
    ),
    "deepnorm_packed": Row(
        branch(QKV, 24), "qkv", lambda p: [round(x.fill.gain, 4) for x in p.parts] == [1.0, 1.0, round(96**-0.25, 4)]
    ),
    "deepnorm_query_key": Row(branch(replace(HIDDEN, role=Role.KEY)), "w", is_("variance_scaling", 1.0)),
    "tfixup": Row(branch(OUT, 12, NormStyle.NONE), "out", is_("variance_scaling", 0.67 * 6**-0.25)),
    "tfixup_packed": Row(
        branch(QKV, 12),
        "qkv",
        lambda p: [round(x.fill.gain, 4) for x in p.parts] == [1.0, 1.0, round(0.67 * 6**-0.25, 4)],
    ),
    "tfixup_table": at(UNTIED, "table", is_("normal", std=0.25)),
    "subln": Row(branch(OUT, 8, NormStyle.INNER_NORM), "out", is_("variance_scaling", LN_2L)),
    "embedding_unit": at(UNTIED, "table", is_("normal", std=1.0)),
    "embedding_product": at(spec_of(TABLE, OFFSET), "table", is_("normal", std=64**-0.25)),
    "embedding_tied": at(TIED, "table", is_("normal", std=0.25)),
    "embedding_factor": at(UNTIED, "table", is_("normal", std=0.01)),
    "embedding_offset": at(spec_of(TABLE, OFFSET), "offset", is_("normal", std=0.01)),
    "embedding_small": at(UNTIED, "table", is_("normal", std=0.02)),
    "embedding_row_norm": at(UNTIED, "table", is_("normal", std=0.25)),
    "position": lone(replace(TABLE, role=Role.POSITION), is_("trunc_normal", std=0.02)),
    "gpt2_position": lone(replace(TABLE, role=Role.POSITION), is_("normal", std=0.02)),
    "token": lone(weight("t", (1, 1, 8), Role.TOKEN), is_("normal", std=1e-6)),
    "relative_bias": lone(weight("t", (49, 4), Role.RELATIVE_BIAS), is_("trunc_normal", std=0.02)),
    "head_unit": lone(HEAD, is_("orthogonal", 1.0)),
    "head_small": lone(HEAD, is_("orthogonal", 0.1)),
    "head_zero": lone(HEAD, is_("zeros")),
    "head_policy": lone(HEAD, is_("orthogonal", 0.01), weight("value", (1, 8), Role.OUTPUT)),
    "brax_weight": lone(HIDDEN, is_("lecun_uniform")),
    "head_bias_prior": lone(
        bias("b", 2, "head"),
        is_("vector", values="-4.595 0.0"),
        weight("head", (2, 8), Role.OUTPUT),
        context=Context(output_bias=(-4.595, 0.0), output_bias_why="counted"),
    ),
    "gpt2_weight": lone(HIDDEN, is_("normal", std=0.02)),
    "gpt2_residual": Row(GPT_RESIDUAL, "out", is_("normal", std=0.02 / math.sqrt(24))),
    "mimetic": at(
        VISION,
        "qkv",
        lambda p: (
            [dict(fill(p, i).args)["part"] for i in range(3)] == ["query", "key", "value"]
            and [dict(fill(p, i).args)["pair"] for i in range(3)] == [0.0, 0.0, 1.0]
        ),
    ),
    "vit_weight": lone(HIDDEN, is_("trunc_normal", std=0.02)),
    "llama_residual": Row(branch(OUT), "out", is_("trunc_normal", std=0.02 / math.sqrt(2))),
    "llama_head": lone(HEAD, is_("trunc_normal", std=8**-0.5, cut=3.0)),
    "zero_query": lone(QKV, lambda p: fill(p).initializer == "zeros" and fill(p, 1).initializer == "orthogonal"),
    "dirac": lone(weight("k", (8, 8, 3, 3), input_activation="relu"), is_("dirac")),
    "sparse": lone(weight("w", (200, 200), activation="tanh"), is_("sparse")),
    "siren_first": lone(replace(SINE, role=Role.INPUT), is_("siren_first")),
    "siren_hidden": lone(SINE, is_("siren_hidden", omega=20.0)),
    "siren_bias": lone(bias("b", 16, "s"), lambda p: is_("torch_linear")(p) and p.parts[0].fans.fan_in == 16, SINE),
    "dcgan_weight": lone(weight("w", (8, 8, 4, 4)), is_("normal", std=0.02)),
    "dcgan_norm": lone(norm("n", 8), is_("normal", mean=1.0, std=0.02)),
    "diffusion_output": lone(weight("w", (3, 8, 3, 3), Role.OUTPUT), is_("zeros")),
    "modulation_zero": lone(replace(HIDDEN, role=Role.MODULATION), is_("zeros")),
    "modulation_small": lone(replace(HIDDEN, role=Role.MODULATION), is_("normal", std=0.02)),
    "router": lone(replace(HIDDEN, role=Role.ROUTER), is_("normal", std=0.02)),
    "expert": lone(
        weight("w", (4, 16, 8), fans=Fans(16, 8, 2, 1, batch_dims=(0,)), input_activation="relu"),
        is_("orthogonal", math.sqrt(2)),
    ),
    "graph_weight": lone(HIDDEN, is_("variance_scaling", 1.0, mode="fan_avg", law="uniform")),
    "adapter_in": lone(replace(HIDDEN, role=Role.ADAPTER_IN), is_("torch_linear")),
    "adapter_out": lone(replace(HIDDEN, role=Role.ADAPTER_OUT), is_("zeros")),
    "equilibrium": lone(replace(HIDDEN, uses=5), is_("normal", std=0.01)),
    "state_space": lone(weight("a", (16, 4), Role.STATE), is_("mamba_a_log")),
    "step_weight": lone(
        weight("w", (8, 2), activation="softplus"),
        is_("torch_linear"),
        replace(bias("b", 8, "w"), role=Role.STATE, activation="softplus"),
    ),
    "zero_hadamard": lone(HIDDEN, is_("zero_init")),
    "torch_default": lone(HIDDEN, is_("torch_linear")),
    "keep": lone(HIDDEN, kept),
    **{
        f"textbook_{name}": lone(HIDDEN, is_(name))
        for name in (
            "xavier_normal",
            "xavier_uniform",
            "kaiming_normal",
            "kaiming_uniform",
            "lecun_normal",
            "orthogonal",
            "normal",
        )
    },
}

EVERY = [rule.name for rule in registry.rules()]


def test_every_rule_has_a_row_and_every_row_a_rule():
    assert set(ROWS) == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_rule_fires_and_says_what_its_source_says(name):
    row, rule = ROWS[name], registry.get(name)
    spec = row.spec
    assert rule.match(spec[row.path], spec)
    proposal = rule.propose(spec[row.path], spec, row.context)
    assert row.check(proposal), proposal
    for part in proposal.parts:
        assert set(dict(part.fill.args)) <= set(card_of(part.fill.initializer).args)
    assert proposal.reason
    assert "\n" not in proposal.reason
    assert rule.summary
    for key in (*rule.references, *proposal.references):
        cite(key)


@pytest.mark.parametrize("name", EVERY)
def test_rule_is_pure(name):
    row, rule = ROWS[name], registry.get(name)
    first = rule.propose(row.spec[row.path], row.spec, row.context)
    torch.rand(3)
    assert rule.propose(row.spec[row.path], row.spec, row.context) == first


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("blueprint", [*RULE_BLUEPRINTS, *TEXTBOOK_BLUEPRINTS], ids=lambda b: b.name)
def test_nothing_uncertain_is_ever_zeroed(blueprint, modulated):
    entries = [
        replace(ROWS[name].spec[ROWS[name].path], path=f"p{i}", confidence=Confidence.WEAK, branch=0, branch_last=True)
        for i, name in enumerate(sorted(ROWS))
    ]
    modulations = {Role.MODULATION} if modulated else set()
    # A modulated net never has zero branches at all, so both kinds of net are asked.
    weights = [e for e in entries if len(e.shape) >= 2 and (e.role in modulations or e.role is not Role.MODULATION)]
    made = (Branch(0, tuple(e.path for e in weights), 2, tuple(e.path for e in weights)),)
    spec = spec_of(*weights, branches=made, residual_depth=1)
    scheme = build.scheme_from_rules("s", SchemeKind.RULES, "", spec, blueprint.order, context=blueprint.context)
    zeroed = [a.path for a in scheme.assignments if any(p.fill.initializer == "zeros" for p in a.parts)]
    assert zeroed == []


def test_every_rule_is_used_by_some_blueprint():
    used = {name for b in (*RULE_BLUEPRINTS, *TEXTBOOK_BLUEPRINTS) for name in b.order} | {"torch_default"}
    assert used == set(EVERY)
    assert set(STRUCTURE) <= set(EVERY)


def test_a_gate_and_the_weight_behind_it_are_never_both_zero():
    gated = replace(SCALE, shape=(), branch=0)
    last = weight(
        "w", (8, 8), Role.RESIDUAL_OUT, branch=0, branch_last=True, branch_scale="scale", input_activation="relu"
    )
    spec = spec_of(gated, last, branches=(Branch(0, ("w",), 1, ("w",), scale="scale"),), residual_depth=1)
    for blueprint in RULE_BLUEPRINTS:
        scheme = build.scheme_from_rules(
            "s", SchemeKind.RULES, "", spec, blueprint.order, context=Context(constants={"scale": 0.0})
        )
        assert build.dead_branches(scheme, spec, {"scale": 0.0}) == ()
    assert not registry.get("zero_last_weight").match(last, spec)


def test_a_scheme_that_would_kill_a_branch_is_refused():
    # A scale that came as zero and is kept, in front of a weight that a rule zeroes.
    entry = weight("w", (8, 8), Role.OUTPUT, branch=0, branch_last=True)
    spec = spec_of(replace(SCALE, branch=0), entry, branches=(Branch(0, ("w",), 1, ("w",), scale="scale"),))
    context = Context(constants={"scale": 0.0})
    with pytest.raises(SchemeError, match="no gradient"):
        build.scheme_from_rules("s", SchemeKind.RULES, "", spec, ("constant_as_found", "head_zero"), context=context)
    # Where any other rule has a say, it is asked instead.
    scheme = build.scheme_from_rules("s", SchemeKind.RULES, "", spec, ("head_zero", "keep"), context=context)
    assert [a.rule for a in scheme.assignments] == ["keep", "keep"]


def test_t_fixup_scales_decoders_by_their_own_number_and_law():
    """Two encoder layers of two branches, three decoder layers of three."""
    kinds = "AM" * 2 + "AAM" * 3
    entries = [
        weight(f"w{i}", (8, 8), Role.ATTN_OUT if kind == "A" else Role.MLP_OUT, branch=i, branch_last=True)
        for i, kind in enumerate(kinds)
    ]
    branches = tuple(Branch(i, (f"w{i}",), 2, (f"w{i}",), style=NormStyle.NONE) for i in range(len(kinds)))
    spec = spec_of(*entries, branches=branches, residual_depth=len(kinds))
    rule = registry.get("tfixup")
    got = [fill(rule.propose(spec[f"w{i}"], spec, CONTEXT)).gain for i in range(len(kinds))]
    assert got == pytest.approx([0.67 * 2**-0.25] * 4 + [27**-0.25] * 9, rel=1e-4)
    deep = [fill(registry.get("deepnorm").propose(spec[f"w{i}"], spec, CONTEXT)).gain for i in (0, 4)]
    assert deep == pytest.approx([0.87 * (2**4 * 3) ** (-1 / 16), 36**-0.25], rel=1e-4)
    sub = [fill(registry.get("subln").propose(spec[f"w{i}"], spec, CONTEXT)).gain for i in (0, 4)]
    assert sub == pytest.approx([math.sqrt(math.log(9) * math.log(4) / 3), math.sqrt(math.log(9))], rel=1e-4)
    table = replace(spec, params=(*spec.params, TABLE))
    made = fill(registry.get("tfixup_table").propose(TABLE, table, CONTEXT))
    assert dict(made.args)["std"] == pytest.approx(27**-0.25 / 4, rel=1e-4)


def test_modulated_branches_keep_their_weights():
    spec = branch(OUT)
    spec = replace(spec, params=(*spec.params, weight("mod", (8, 8), Role.MODULATION)))
    assert not registry.get("zero_last_weight").match(spec["out"], spec)


@pytest.mark.parametrize(
    ("activation", "constants", "filled"),
    [
        ("exp", {}, "mamba2_a_log"),
        ("exp", {"a": 1.0}, "ones"),  # an author's constant is no draw of Mamba-2's
        ("softplus", {}, "mamba_dt_bias"),
        ("none", {"a": 1.0}, "ones"),  # the skip around the state
        ("none", {}, None),
    ],
)
def test_one_value_per_head_of_a_state_is_told_by_what_it_passes(activation, constants, filled):
    spec = spec_of(ParamSpec("a", (8,), torch.float32, Role.STATE, op="mul", activation=activation))
    proposal = registry.get("state_space").propose(spec["a"], spec, Context(constants=constants))
    assert (fill(proposal).initializer if proposal.parts else None) == filled


def test_rules_never_ask_for_class_names():
    # torch_default follows the layer class by definition; nothing else may change with it.
    for name in EVERY:
        if name == "torch_default":
            continue
        row, rule = ROWS[name], registry.get(name)
        renamed = replace(row.spec, params=tuple(replace(p, module_type="Whatever") for p in row.spec.params))
        assert rule.propose(renamed[row.path], renamed, row.context) == rule.propose(
            row.spec[row.path], row.spec, row.context
        )


@pytest.mark.parametrize(
    ("entry", "init", "fan_in"),
    [
        (weight("w", (8, 6)), "torch_linear", 6),
        (weight("w", (8, 3, 5, 5), module_type="Conv2d"), "torch_linear", 75),
        # torch counts a transposed kernel's second axis, though the true fan-in is 6·4/2: the baseline repeats torch.
        (weight("w", (6, 8, 4), module_type="ConvTranspose1d", fans=Fans(12, 32, 1, 0)), "torch_linear", 32),
        (weight("w", (64, 8), Role.RECURRENT_INPUT, module_type="LSTM", slices=gates(16, 8)), "torch_linear", 16),
        (weight("in_proj_weight", (24, 8), Role.QKV, module_type="MultiheadAttention"), "xavier_uniform", 8),
    ],
)
def test_torch_default_is_what_torch_draws(entry, init, fan_in):
    spec = spec_of(entry)
    part = registry.get("torch_default").propose(entry, spec, CONTEXT).parts[0]
    assert (part.fill.initializer, part.fans.fan_in) == (init, fan_in)


def test_gains_follow_the_input_of_a_weight_and_its_kind():
    spec = mlp(activation="sigmoid")[1]
    gains = {}
    for kind in ("recommended", "forward", "backward", "variance", "unit"):
        made = registry.get("linear_map").propose(spec["2.weight"], spec, Context(gains=kind))
        gains[kind] = fill(made).gain
    assert gains["forward"] == pytest.approx(1.85, abs=0.01)
    assert gains["variance"] == pytest.approx(4.80, abs=0.01)
    assert gains["backward"] == gains["recommended"] == pytest.approx(4.72, abs=0.01)
    assert gains["unit"] == fill(registry.get("linear_map").propose(spec["0.weight"], spec, CONTEXT)).gain == 1.0


def test_deep_plain_tanh_starts_near_the_edge_of_chaos_and_normalised_does_not():
    made = {}
    for depth in (2, 30):
        spec = mlp(depth=depth)[1]
        scheme = build.scheme_from_rules("s", SchemeKind.RULES, "", spec, STRUCTURE[STRUCTURE.index("shortcut") :])
        made[depth] = {a.path: a for a in scheme.assignments}["2.weight"].parts[0].fill.gain
    assert made[30] < 1.2 < 1.5 < made[2] < 1.6
    normed = replace(spec, params=(*spec.params, norm("n", 8)))
    assert reading.plain_depth(spec) == 30
    assert reading.plain_depth(normed) == 1


def test_swiglu_output_takes_the_gain_of_the_product():
    gate = weight("gate", (16, 8), Role.MLP_GATE, activation="silu", branch=0)
    out = weight("out", (8, 16), Role.MLP_OUT, branch=0)
    spec = spec_of(gate, out, branches=(Branch(0, ("gate", "out"), 2, ()),))
    assert fill(registry.get("linear_map").propose(out, spec, CONTEXT)).gain == pytest.approx(1.677, abs=1e-3)


def test_packed_parts_cover_the_tensor_in_every_family():
    for family in ("orthogonal", "normal", "uniform", "trunc_normal"):
        made = registry.get("linear_map").propose(QKV, spec_of(QKV), Context(family=family))
        assert [p.slice.name for p in made.parts] == ["query", "key", "value"]
        assert {p.fans.fan_out for p in made.parts} == {8.0}


def test_registry_refuses_duplicates_and_suggests():
    with pytest.raises(RegistryError, match="twice"):
        registry.register(registry.get("bias"))
    with pytest.raises(RegistryError, match='did you mean "forget_bias"'):
        registry.get("forget_bais")
