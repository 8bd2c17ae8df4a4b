"""Steps that descend on a loss descend on the training's: the user's function reaches them by every way in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from models import mlp, state, vectors
from torch import nn

from initadvisor.advisor import advise
from initadvisor.errors import InputError
from initadvisor.graph.analyze import analyze
from initadvisor.recipes.recipe import recipe_from_scheme
from initadvisor.schemes.apply import apply_scheme
from initadvisor.schemes.data_driven.registry import cards
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Calibration
from initadvisor.training.engine.loop import drawn_model
from initadvisor.training.losses import choose_loss
from initadvisor.training.task import make_task

LEARNED = tuple(card.name for card in cards() if card.descends)
X = vectors(64).args[0]
PAIRS = (X, X[:, :2])


def pull_apart(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss that no output and target of these shapes would let anyone infer: (64, 4) against (64, 2)."""
    return F.mse_loss(output[:, :2] * output[:, 2:], target)


def reconstruct(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(batch), batch[:, :4])


def scheme_with(method: str) -> Scheme:
    model = mlp()
    base = next(s for s in propose_from_spec(analyze(model, X), model) if s.assignments)
    return replace(base, calibrations=(Calibration(method, (("steps", 4.0),)),))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, state(b)[k]) for k, v in state(a).items())


def applied(scheme: Scheme, **given) -> tuple[nn.Module, tuple[str, ...]]:
    model = mlp()
    return model, apply_scheme(scheme, model, **given).notes


def bare(scheme: Scheme, **given) -> nn.Module:
    return applied(replace(scheme, calibrations=()), **given)[0]


def test_the_steps_that_descend_are_known():
    assert set(LEARNED) == {"gradinit", "metainit"}


@pytest.mark.parametrize("method", LEARNED)
def test_a_loss_that_nobody_can_infer_reaches_the_step(method):
    scheme = scheme_with(method)
    without, notes = applied(scheme, batch=PAIRS)
    assert same(without, bare(scheme))
    assert any("undone" in note and "loss" in note for note in notes)
    model, notes = applied(scheme, batch=PAIRS, loss=pull_apart)
    assert not same(model, bare(scheme)), notes
    # Resolved before, it gives the same numbers.
    loss = choose_loss(pull_apart, mlp(), replace(vectors(64), target=PAIRS[1], raw=PAIRS))
    assert same(applied(scheme, batch=PAIRS, loss=loss)[0], model)


@pytest.mark.parametrize("method", LEARNED)
def test_a_loss_of_model_and_batch_reaches_the_step(method):
    scheme = scheme_with(method)
    model, notes = applied(scheme, batch=X, loss=reconstruct)
    assert not same(model, bare(scheme)), notes


@pytest.mark.parametrize("method", LEARNED)
def test_the_users_loss_goes_before_the_one_that_could_be_inferred(method):
    scheme, batch = scheme_with(method), (X, vectors(64).target)
    given, _ = applied(scheme, batch=batch, loss=lambda output, target: output.square().mean())
    assert not same(applied(scheme, batch=batch)[0], given)


@pytest.mark.parametrize("method", LEARNED)
def test_an_inferred_loss_given_again_changes_no_number(method):
    """Trials hand on the loss that they inferred, and the step would have inferred the same."""
    scheme, batch = scheme_with(method), (X, vectors(64).target)
    loss = choose_loss(None, mlp(), replace(vectors(64), raw=batch))
    assert same(applied(scheme, batch=batch)[0], applied(scheme, batch=batch, loss=loss)[0])


def test_a_loss_that_cannot_be_called_changes_nothing():
    model = mlp()
    before = state(model)
    with pytest.raises(InputError, match="loss="):
        apply_scheme(scheme_with("gradinit"), model, batch=PAIRS, loss=lambda a, b: a)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", ["lsuv", "analytic"])
def test_steps_that_need_no_loss_never_call_it(method):
    def refuse(output, target):
        raise AssertionError("called")

    scheme = replace(scheme_with(method), calibrations=(Calibration(method),))
    assert same(applied(scheme, batch=X, loss=refuse)[0], applied(scheme, batch=X)[0])


@pytest.mark.parametrize("method", LEARNED)
def test_trials_hand_their_loss_on(method):
    task = make_task(mlp(), PAIRS, loss=pull_apart)
    scheme = scheme_with(method)
    drawn = drawn_model(task, scheme, 3)
    told, _ = applied(scheme, seed=3, batch=task.sample, loss=task.loss)
    assert same(drawn, told)
    assert not same(drawn, bare(scheme, seed=3))


@pytest.mark.parametrize("method", LEARNED)
def test_recipes_take_a_loss(method):
    scheme, model = scheme_with(method), mlp()
    recipe = recipe_from_scheme(scheme, analyze(model, X))
    recipe.apply(model, PAIRS, loss=pull_apart)
    assert same(model, applied(scheme, batch=PAIRS, loss=pull_apart)[0])
    assert not same(model, bare(scheme))


def test_a_known_loss_makes_learned_candidates_of_a_batch_without_target():
    model = mlp()
    task = make_task(model, X, loss=reconstruct)
    spec = analyze(model, X)

    def learned(**given) -> set[str]:
        found = propose_from_spec(spec, model, X, **given)
        return {c.method for s in found for c in s.calibrations} & set(LEARNED)

    assert not learned()
    assert learned(loss=task.loss) == set(LEARNED)


def test_the_advised_scheme_is_applied_with_the_loss_it_was_tried_with():
    model = mlp()
    advice = advise(model, X, loss=reconstruct, lr=0.1, budget=64, candidates=["metainit"], progress=False)
    evidence = advice.evidence
    metainit = evidence.scheme("metainit")
    forced = replace(advice, evidence=replace(evidence, race=_decided(evidence.race, "metainit")))
    told, without = mlp(), mlp()
    forced.apply(told)
    apply_scheme(metainit, without, seed=evidence.seed)
    expected = mlp()
    apply_scheme(metainit, expected, seed=evidence.seed, loss=reconstruct)
    assert same(told, expected)
    assert not same(told, without)


def _decided(race, name: str):
    return replace(race, decision=replace(race.decision, scheme=name))
