"""Candidates: distinct by effect, ordered by belief, each with its reasons; protection of what the user named."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from handmade import bias, lstm, mlp, residual, spec_of, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from initadvisor.errors import InputError
from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import Branch, ParamSpec
from initadvisor.references import cite
from initadvisor.schemes.distinct import distinct
from initadvisor.schemes.paths import fold, matches, pattern_tokens
from initadvisor.schemes.propose import MOST_CANDIDATES, propose_from_spec
from initadvisor.schemes.protect import looks_trained, protect_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.targets import output_bias
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.training.data import Batch
from initadvisor.types import CURRENT, TORCH_DEFAULT, Fans, Role

MODELS = {"mlp": mlp, "residual": residual, "lstm": lstm}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_candidates_are_distinct_ordered_and_explained(make):
    model, spec = make()
    schemes = propose_from_spec(spec, model)
    names = [s.name for s in schemes]
    assert names[:2] == [CURRENT, TORCH_DEFAULT]
    assert 8 <= len(schemes) <= MOST_CANDIDATES
    assert len(set(names)) == len(names)
    priors = [s.prior for s in schemes[2:]]
    assert priors == sorted(priors, reverse=True)
    assert distinct(schemes) == schemes
    for a in schemes:
        assert a.kind is SchemeKind.CURRENT or len(a.assignments) == len(spec.params)
        assert all(x.reason and x.rule for x in a.assignments)
        for key in a.references:
            cite(key)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_candidate_applies_and_reads_back(make):
    model, spec = make()
    for scheme in propose_from_spec(spec, model):
        result = scheme.apply(model, seed=4)
        assert len(result.filled) + len(result.left) == len(spec.params)


def test_proposing_leaves_the_model_as_it_was():
    model, spec = mlp()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batch = (torch.randn(32, 32), torch.randint(0, 10, (32,)))
    state = torch.get_rng_state()
    propose_from_spec(spec, model, batch)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def _one(fill: Fill) -> Scheme:
    fans = Fans(100, 100)
    return Scheme("s", SchemeKind.RULES, "", (Assignment("w", (100, 100), (Part(fill, fans),), "r", "r"),))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (Fill("lecun_normal"), Fill("normal", args=(("std", 0.1),)), True),
        (Fill("xavier_normal"), Fill("lecun_normal"), True),  # a square map
        (Fill("xavier_uniform"), Fill("lecun_uniform"), True),
        (Fill("torch_linear"), Fill("uniform", args=(("bound", 0.1),)), True),
        (Fill("lecun_normal"), Fill("lecun_uniform"), False),
        (Fill("lecun_normal"), Fill("orthogonal"), False),
        (Fill("lecun_normal"), Fill("lecun_normal", gain=1.1), False),
        (Fill("zeros"), Fill("constant", args=(("value", 0.0),)), True),
        (Fill("ones"), Fill("zeros"), False),
        (Fill("lecun_normal"), Fill("trunc_normal", args=(("std", 0.1),)), False),
    ],
)
def test_schemes_are_compared_by_what_they_draw(a, b, same):
    assert len(distinct((_one(a), _one(b)))) == (1 if same else 2)


def test_protection_by_pattern_module_name_and_state_dict():
    model, spec = residual()
    for protect, count in (("blocks.0.**", 6), ("blocks.0", 6), (["blocks.*.up", "head"], 10)):
        marked = protect_spec(spec, model, protect)
        assert sum(p.protected == "user" for p in marked.params) == count
    pretrained = {k: v for k, v in model.state_dict().items() if not k.startswith("head")} | {
        "head.weight": torch.zeros(99, 16)
    }
    left = [p.path for p in protect_spec(spec, model, pretrained).params if p.protected is None]
    assert left == ["head.weight", "head.bias"]
    for wrong in ("encoder", {"module.stem.weight": torch.zeros(16, 16)}):
        with pytest.raises(InputError):
            protect_spec(spec, model, wrong)


def test_only_the_new_head_is_filled_and_the_rest_is_byte_identical():
    model, spec = residual()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for scheme in propose_from_spec(spec, model, protect=["stem", "blocks"]):
        scheme.apply(model, seed=1)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed <= {"head.weight", "head.bias"}
    assert changed


def test_trained_weights_are_noticed_and_fresh_ones_are_not():
    torch.manual_seed(0)
    model, spec = mlp(depth=4, width=64)
    for seed, scheme in enumerate(propose_from_spec(spec, model)):
        scheme.apply(model, seed=seed)
        assert looks_trained(model, spec) is None, scheme.name
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(torch.logspace(-1, 1, p.shape[0])[:, None])
    assert "protect=" in str(looks_trained(model, spec))


@pytest.mark.parametrize("norm", [weight_norm, old_weight_norm])
def test_the_magnitudes_of_a_fresh_weight_norm_are_not_taken_for_trained_scales(norm):
    net = nn.Sequential(norm(nn.Linear(16, 64)), nn.ReLU(), norm(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 3))
    spec = analyze(net, torch.randn(8, 16))
    assert looks_trained(net, spec) is None
    scaled = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 3))
    with torch.no_grad():
        scaled[1].weight.copy_(torch.rand(64))
    assert "norm scales" in str(looks_trained(scaled, analyze(scaled, torch.randn(8, 16))))


@given(
    shares=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6),
    count=st.integers(200, 400),
)
@settings(max_examples=30, deadline=None)
def test_class_priors_are_log_shares_or_nothing(shares, count):
    classes = len(shares)
    spec = spec_of(weight("w", (classes, 8), Role.OUTPUT), bias("b", classes, "w"))
    labels = torch.multinomial(
        torch.tensor(shares), count, replacement=True, generator=torch.Generator().manual_seed(count)
    )
    values, why = output_bias(spec, Batch((), {}, labels))
    seen = torch.bincount(labels, minlength=classes).double() / count
    if values:
        assert "shares" in why
        assert torch.softmax(torch.tensor(values), 0).tolist() == pytest.approx(
            seen.clamp(0.5 / count).tolist(), abs=0.02
        )
    else:
        assert float((seen - 1 / classes).abs().max()) < 4 * math.sqrt(1 / classes / count) + 1e-9


@pytest.mark.parametrize(
    ("target", "outputs", "wanted"),
    [
        (torch.cat([torch.ones(10, 1), torch.zeros(990, 1)]), 1, (-4.595,)),
        (torch.cat([torch.ones(10), torch.zeros(990)]).long(), 1, (-4.595,)),
        (torch.linspace(9, 11, 101).reshape(-1, 1), 1, (10.0,)),
        (torch.linspace(-1, 1, 101).reshape(-1, 1), 1, ()),
        (torch.arange(300) % 3, 3, ()),
        (torch.zeros(4, dtype=torch.long), 3, ()),  # too few to say anything
        (torch.full((50,), -100), 3, ()),  # all ignored
        (torch.zeros(500, dtype=torch.long), 999, ()),  # more outputs than a batch can speak of
        (None, 3, ()),
    ],
)
def test_output_bias_from_targets(target, outputs, wanted):
    spec = spec_of(weight("w", (outputs, 8), Role.OUTPUT), bias("b", outputs, "w"))
    values, _ = output_bias(spec, Batch((), {}, target))
    assert values == pytest.approx(wanted, abs=1e-3)


def test_uneven_targets_make_a_candidate_that_starts_at_the_entropy_of_the_classes():
    model, spec = mlp()
    x, y = torch.randn(400, 32), (torch.arange(400) % 20 == 0).long()
    scheme = {s.name: s for s in propose_from_spec(spec, model, (x, y))}["rules_output_prior"]
    scheme.apply(model, seed=0)
    loss = float(nn.functional.cross_entropy(model(x).detach(), y))
    entropy = -(0.05 * math.log(0.05) + 0.95 * math.log(0.95))
    assert loss == pytest.approx(entropy, abs=0.1)
    assert "rules_output_prior" not in {s.name for s in propose_from_spec(spec, model, (x, torch.arange(400) % 10))}


@given(st.sets(st.tuples(st.integers(0, 12), st.sampled_from(["w", "b"])), min_size=1), st.data())
@settings(max_examples=80, deadline=None)
def test_fold_matches_exactly_what_it_was_given(cells, data):
    everything = sorted(f"net.{i}.{n}" for i, n in cells)
    stem = data.draw(st.sampled_from(["w", "b"]))
    family = [p for p in everything if p.endswith(stem)]
    if not family:
        return
    chosen = sorted(data.draw(st.sets(st.sampled_from(family), min_size=1)))
    patterns = fold(chosen, sorted(set(everything) - set(chosen)))
    assert [p for p in everything if any(matches(g, p) for g in patterns)] == sorted(chosen)


def test_patterns():
    assert matches("a.*.w", "a.b.w")
    assert not matches("a.*.w", "a.b.c.w")
    assert matches("a.**.w", "a.b.c.w")
    assert matches("l.{0..9}.w", "l.7.w")
    assert not matches("l.{0..9}.w", "l.10.w")
    assert matches("l.{q,k}.w", "l.k.w")
    assert not matches("a.w", "axw")
    with pytest.raises(ValueError, match="backwards"):
        pattern_tokens("a.{9..0}")


def test_current_equals_no_scheme_not_even_a_copy_of_itself():
    control = Scheme(CURRENT, SchemeKind.CURRENT, "")
    assert len(distinct((control, replace(control, name="again"), _one(Fill("zeros"))))) == 3


def test_a_combination_that_would_block_its_own_gradient_is_not_proposed():
    # The head of this net lies behind a branch scale that its author left at zero.
    scale = ParamSpec("scale", (), torch.float32, Role.BRANCH_SCALE, op="mul")
    head = weight("w", (8, 8), Role.OUTPUT, branch=0, branch_last=True)
    spec = spec_of(scale, head, branches=(Branch(0, ("w",), 1, ("w",), scale="scale"),), depth=1)
    model = nn.Module()
    model.scale, model.w = nn.Parameter(torch.zeros(())), nn.Parameter(torch.randn(8, 8))
    names = {s.name for s in propose_from_spec(spec, model)}
    assert "rules_orthogonal" in names
    assert "rules_zero_head" not in names


@pytest.mark.parametrize("seed", range(3))
def test_norm_scales_drawn_alike_in_all_layers_are_fresh(seed: int) -> None:
    """DCGAN draws them from N(1, .02); training gives every layer a mean and a spread of its own."""
    torch.manual_seed(seed)
    net = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())))
    norms = [m for m in net if isinstance(m, nn.BatchNorm1d)]
    for m in norms:
        nn.init.normal_(m.weight, 1.0, 0.02)
    spec = analyze(net, torch.randn(8, 16))
    assert looks_trained(net, spec) is None
    for i, m in enumerate(norms):
        m.weight.data.mul_(1 + 0.1 * i).sub_(0.05 * i)
    assert "norm scales" in str(looks_trained(net, spec))
