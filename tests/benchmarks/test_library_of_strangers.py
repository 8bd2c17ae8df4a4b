"""Strangers are read as was checked by hand, and a wrong reading would be told."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

import benchmarks.strangers.run as strangers
from benchmarks.strangers.entry import STRANGERS, Stranger, stranger
from initadvisor import analyze, check
from initadvisor.graph.spec import ModelSpec


def _read(name: str) -> tuple[Stranger, ModelSpec]:
    torch.manual_seed(0)
    it = STRANGERS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return it, analyze(it.model, it.batch)


@pytest.mark.parametrize("name", STRANGERS)
def test_facts(name: str) -> None:
    it, spec = _read(name)
    outcome = strangers.Outcome()
    strangers.tell_facts(it, spec, outcome)
    assert outcome.facts and not outcome.wrong


@pytest.mark.parametrize("name", STRANGERS)
def test_sound_models_raise_no_error(name: str) -> None:
    it, _ = _read(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check(it.model, it.batch, loss=it.loss)
    assert not [f for f in found if f.severity.value == "error"]


def test_there_are_enough_and_no_name_twice() -> None:
    assert len(STRANGERS) >= 40
    with pytest.raises(ValueError, match="two strangers"):
        stranger(STRANGERS["two_towers"])


@pytest.mark.parametrize(
    ("path", "fact"),
    [
        ("head.weight", "output 12>2"),
        ("head.weight", "hidden"),
        ("head.weight", "kept"),
        ("head.weight", "output 8>2 × 2"),
        ("freq", "map"),
    ],
)
def test_a_wrong_fact_is_told(path: str, fact: str) -> None:
    it, spec = _read("learned_frequencies")
    outcome = strangers.Outcome()
    strangers.tell_facts(replace(it, facts={path: fact}), spec, outcome)
    assert len(outcome.wrong) == 1


def test_the_table_names_what_was_found() -> None:
    found = strangers.Outcome(facts=2, wrong=["a.weight: hidden 3>3, not output"], crashes=["check: KeyError: x"])
    text = strangers.table({"sound": strangers.Outcome(facts=3, schemes=4), "odd": found})
    assert "| odd | 2 | 1 | 0 | 0 | 0 | 1 |" in text and "- odd: a.weight" in text and "Of 5 facts" in text
