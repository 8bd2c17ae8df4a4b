"""Beliefs are data: one dated file, a source for every figure, and nothing in it that nobody reads."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from initadvisor.errors import RegistryError
from initadvisor.graph.analyze import analyze
from initadvisor.schemes import beliefs as module
from initadvisor.schemes.beliefs import Belief, beliefs, figure, prior
from initadvisor.schemes.blueprints import RULE_BLUEPRINTS, TEXTBOOK_BLUEPRINTS
from initadvisor.schemes.data_driven.registry import cards
from initadvisor.schemes.family import FACTS, Family, facts_of, family_of
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.types import TORCH_DEFAULT

ROOT = Path(__file__).parents[2]


def every_belief() -> list[tuple[str, Belief]]:
    shipped = beliefs()
    named = [*shipped.figures.items(), *shipped.priors.items()]
    return [pair for name, b in named for pair in ((name, b), *((name, other) for _, other in b.unless))]


def test_every_scheme_has_a_prior_and_every_prior_a_scheme():
    schemes = {b.name for b in (*RULE_BLUEPRINTS, *TEXTBOOK_BLUEPRINTS)} | {c.name for c in cards()} | {TORCH_DEFAULT}
    assert set(beliefs().priors) == schemes


def test_every_figure_is_read_somewhere():
    code = "\n".join(p.read_text() for p in (ROOT / "initadvisor").rglob("*.py"))
    assert set(re.findall(r'figure\("(\w+)"\)', code)) == set(beliefs().figures)


def test_every_value_names_its_source_and_the_file_its_day():
    assert datetime.date.fromisoformat(beliefs().dated) <= datetime.date.today() + datetime.timedelta(days=1)
    for name, belief in every_belief():
        assert belief.source == "judgement" or (ROOT / belief.source).exists(), name
        if belief.source != "judgement":
            assert belief.why or name in beliefs().priors, name


def test_conditions_name_facts_that_exist():
    for name, belief in {**beliefs().figures, **beliefs().priors}.items():
        for needed, _ in belief.unless:
            assert needed, name
            assert needed <= FACTS, name


def test_the_last_condition_that_holds_counts():
    belief = Belief(
        0.5,
        "judgement",
        unless=(
            (frozenset({"mlp"}), Belief(0.6, "judgement")),
            (frozenset({"mlp", "long"}), Belief(0.9, "judgement")),
        ),
    )
    assert belief.given(set()).value == 0.5
    assert belief.given({"mlp", "short"}).value == 0.6
    assert belief.given({"mlp", "long"}).value == 0.9


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(RegistryError, match='did you mean "fixup"'):
        prior("fixupp")
    with pytest.raises(RegistryError, match="small_stack"):
        figure("smal_stack")


class Attending(nn.Module):
    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.enter = nn.Embedding(20, 16) if tokens else nn.Linear(6, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.layer(self.enter(x)))


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, 8), nn.Embedding(30, 8)

    def forward(self, ids):
        return (self.users(ids[:, 0]) * self.items(ids[:, 1])).sum(-1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def dense(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


MODELS = {
    Family.MLP: (lambda: dense(12), torch.randn(4, 12)),
    Family.FIELD: (lambda: dense(2), torch.randn(4, 2)),
    Family.CONV: (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)), torch.randn(2, 1, 8, 8)),
    Family.RECURRENT: (Recurrent, torch.randn(2, 5, 8)),
    Family.TRANSFORMER: (lambda: Attending(False), torch.randn(2, 5, 6)),
    Family.LANGUAGE: (lambda: Attending(True), torch.randint(20, (2, 5))),
    Family.TABLES: (Tables, torch.randint(30, (4, 2))),
}


@pytest.mark.parametrize("family", MODELS)
def test_families_are_told_by_what_the_ops_do(family):
    make, batch = MODELS[family]
    spec = analyze(make(), batch)
    assert family_of(spec) is family
    assert facts_of(spec) <= FACTS
    assert "long" in facts_of(spec, steps=100_000)
    assert not {"long", "short"} & facts_of(spec)


def test_the_order_of_the_proposals_is_what_the_file_says(monkeypatch):
    model, batch = dense(12), torch.randn(16, 12)
    spec = analyze(model, batch)

    def order(**given) -> list[str]:
        return [s.name for s in propose_from_spec(spec, model, **given)][2:]

    assert order()[:2] == ["rules_small_stack", "rules_orthogonal"]
    shipped = beliefs()
    zero = replace(
        shipped.priors["rules_zero_head"],
        unless=((frozenset({"mlp", "long"}), Belief(2.0, "benchmarks/horizon")),),
    )
    changed = replace(shipped, priors={**shipped.priors, "rules_zero_head": zero})
    monkeypatch.setattr(module, "beliefs", lambda: changed)
    assert order(steps=50_000)[0] == "rules_zero_head"
    assert order(steps=500)[0] == order()[0] == "rules_small_stack"
