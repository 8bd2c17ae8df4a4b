"""Every shipped recipe on a model of its family; every candidate as file and as code, with and without the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recipe_families import FAMILIES, gpt_untied
from torch import nn

from initadvisor.errors import RecipeError
from initadvisor.graph.analyze import analyze
from initadvisor.initializers.registry import get as card_of
from initadvisor.recipes.recipe import Recipe, load_recipe, loads_recipe, recipe_from_scheme
from initadvisor.references import cite
from initadvisor.schemes.propose import propose
from initadvisor.types import Role

SHIPPED = Path(__file__).parents[2] / "recipes"
MODELS = {**FAMILIES, "gpt_untied": gpt_untied}
LIGHT = [name for name in MODELS if name not in ("t5", "mamba", "transfer_head")]
"""Families without a library import of seconds, for the tests that apply every candidate."""


def shipped(name: str) -> Recipe:
    return load_recipe(SHIPPED / f"{name}.yaml")


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_every_family_has_a_recipe_and_every_recipe_a_family():
    assert {p.stem for p in SHIPPED.glob("*.yaml")} == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_shipped_recipe_loads_applies_and_reads_back(name):
    torch.manual_seed(0)
    model, batch = FAMILIES[name]()
    recipe = shipped(name)
    assert recipe.provenance.source
    assert recipe.provenance.url.startswith("https://")
    assert loads_recipe(recipe.to_yaml()) == recipe
    for rule in recipe.rules:
        for key in rule.references:
            cite(key)
    before = weights(model)
    result = recipe.apply(model, batch, seed=3)
    after = weights(model)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {t.path for t in result.filled} | set(result.left) == {n for n, _ in model.named_parameters()}
    assert frozen <= set(result.left)
    assert all(torch.equal(before[n], after[n]) for n in result.left)
    again = FAMILIES[name]()[0]
    again.load_state_dict(before)
    recipe.apply(again, batch, seed=3)
    assert same(model, again)


def _every_role(name: str, *roles: Role) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model, batch = FAMILIES[name]()
    spec = analyze(model, batch)
    shipped(name).apply(model, batch)
    params = dict(model.named_parameters(remove_duplicate=False))
    return [params[p.path].detach() for p in spec.with_role(*roles)]


def test_gpt2_residual_outputs_are_smaller_by_the_root_of_their_number():
    outs = torch.cat([t.flatten() for t in _every_role("gpt2", Role.ATTN_OUT, Role.MLP_OUT)])
    others = torch.cat([t.flatten() for t in _every_role("gpt2", Role.MLP_IN, Role.QKV)])
    # Standard error of each deviation is σ/√(2n), and n is above 10⁴: 5% is seven of them.
    assert float(outs.std()) == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert float(others.std()) == pytest.approx(0.02, rel=0.05)


def test_dit_blocks_start_as_the_identity():
    torch.manual_seed(0)
    model, batch = FAMILIES["dit"]()
    shipped("dit").apply(model, batch)
    x, time, label, _ = batch
    c = model.labels(label) + torch.nn.functional.silu(model.time(time))
    hidden = model.patch(x)
    assert torch.equal(model.blocks[0](hidden, c), hidden)
    assert float(model.blocks[0].fc2.weight.detach().abs().sum()) > 0
    assert float(model(*batch[:3]).detach().abs().max()) == 0.0


def test_resnet_blocks_start_as_the_identity_and_shortcuts_do_not():
    torch.manual_seed(0)
    model, batch = FAMILIES["resnet"]()
    shipped("resnet").apply(model, batch)
    blocks = [m for m in model if type(m).__name__ == "Residual"]
    assert all(float(b.bn2.weight.detach().abs().sum()) == 0 for b in blocks)
    assert float(blocks[1].short[1].weight.detach().min()) == 1.0


def test_lstm_forget_gates_start_open_once():
    torch.manual_seed(0)
    model, batch = FAMILIES["lstm"]()
    shipped("lstm").apply(model, batch)
    for name, p in model.rnn.named_parameters():
        if "bias" in name:
            wanted = 1.0 if "_ih_" in name else 0.0
            assert p.detach()[16:32].unique().tolist() == [wanted]
            assert float(p.detach()[:16].abs().sum() + p.detach()[32:].abs().sum()) == 0.0


def test_lora_leaves_the_adapted_model_as_it_was():
    torch.manual_seed(0)
    model, (x, _) = FAMILIES["lora"]()
    shipped("lora").apply(model, (x, _))
    plain = torch.relu(model[0].base(x))
    plain = model[4](torch.relu(model[2].base(plain)))
    assert torch.equal(model(x), plain)


@pytest.mark.parametrize("name", LIGHT)
def test_leading_candidates_are_the_same_to_the_bit_as_file_and_as_code(name):
    torch.manual_seed(0)
    model, batch = MODELS[name]()
    spec = analyze(model, batch)
    start = weights(model)
    schemes = propose(model, batch)
    # The default, the first rules, and one textbook scheme take every path through files and code.
    for scheme in (*schemes[1:4], schemes[-2]):
        if scheme.calibrations:
            continue
        recipe = loads_recipe(recipe_from_scheme(scheme, spec).to_yaml())
        names: dict = {}
        exec(compile(recipe.to_code(), "generated", "exec"), names)
        filled = []
        for how in (
            lambda m, s=scheme: s.apply(m, seed=3),
            lambda m, r=recipe: r.apply(m, batch, seed=3),
            lambda m, r=recipe: r.apply(m, seed=3),
            lambda m, n=names: n["init_weights"](m, 3),
        ):
            fresh = MODELS[name]()[0]
            fresh.load_state_dict(start)
            how(fresh)
            filled.append(fresh)
        assert all(same(filled[0], other) for other in filled[1:]), scheme.name


@pytest.mark.parametrize("name", LIGHT)
def test_every_candidate_of_every_family_applies(name):
    torch.manual_seed(0)
    model, batch = MODELS[name]()
    schemes = propose(model, batch)
    assert 8 <= len(schemes) <= 24
    assert [s.name for s in schemes[:2]] == ["current", "torch_default"]
    for scheme in schemes:
        scheme.apply(model, seed=1, batch=batch)
        for assignment in scheme.assignments:
            assert assignment.reason
            for part in assignment.parts:
                card_of(part.fill.initializer)


def test_recipe_of_a_raw_parameter_asks_for_the_batch():
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 4))

        def forward(self, x):
            return x @ self.w

    text = "format: 1\nname: raw\nrules:\n  - {match: w, init: orthogonal, reason: r}\n"
    model = Raw()
    with pytest.raises(RecipeError, match=r"w: its fans cannot be told .* pass sample_batch"):
        loads_recipe(text).apply(model)
    result = loads_recipe(text).apply(model, torch.randn(3, 6))
    assert [t.path for t in result.filled] == ["w"]
    spec = analyze(model, torch.randn(3, 6))
    assert (spec["w"].fan_in, spec["w"].fan_out) == (6, 4)
    written = recipe_from_scheme(propose(model, torch.randn(3, 6))[2], spec)
    assert "fans" in written.to_yaml()
    one, two = Raw(), Raw()
    written.apply(one)
    written.apply(two, torch.randn(3, 6))
    assert torch.equal(one.w, two.w)


def test_roles_need_the_batch_and_code_needs_the_model():
    recipe = shipped("mlp")
    model, batch = FAMILIES["mlp"]()
    with pytest.raises(RecipeError, match="pass sample_batch"):
        recipe.apply(model)
    with pytest.raises(RecipeError, match="to_code\\(model, sample_batch\\)"):
        recipe.to_code()
    names: dict = {}
    exec(compile(recipe.to_code(model, batch), "generated", "exec"), names)
    other = FAMILIES["mlp"]()[0]
    names["init_weights"](other, 4)
    recipe.apply(model, batch, seed=4)
    assert same(model, other)
