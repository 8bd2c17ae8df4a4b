"""One registry for all plug points: names are taken once, found by any of them, listed in order."""

from __future__ import annotations

import pytest

from initadvisor.checks import plugin
from initadvisor.checks.registry import checks, get
from initadvisor.errors import RegistryError
from initadvisor.initializers import card
from initadvisor.initializers import registry as initializers
from initadvisor.registry import Registry
from initadvisor.schemes.data_driven import card as step_card
from initadvisor.schemes.data_driven import registry as steps
from initadvisor.schemes.rules import registry as rules


def words() -> Registry[tuple[str, ...]]:
    made: Registry[tuple[str, ...]] = Registry("word", lambda entry: entry)
    made.add(("kaiming_normal", "he_normal"))
    made.add(("dirac",))
    return made


def test_entries_are_found_by_any_name_and_listed_once_in_order():
    made = words()
    assert made.get("he_normal") is made.get("kaiming_normal")
    assert "he_normal" in made
    assert "he" not in made
    assert [entry[0] for entry in made] == ["dirac", "kaiming_normal"]


@pytest.mark.parametrize("entry", [("dirac",), ("new", "he_normal"), ("he_normal",)])
def test_a_name_is_taken_once_and_nothing_of_a_refused_entry_stays(entry):
    made = words()
    with pytest.raises(RegistryError, match="twice"):
        made.add(entry)
    assert "new" not in made
    assert len(list(made)) == 2


def test_unknown_names_are_told_with_the_nearest_of_all_names():
    with pytest.raises(RegistryError, match='unknown word "he_norml"; did you mean "he_normal"'):
        words().get("he_norml")


@pytest.mark.parametrize(
    ("register", "entries"),
    [
        (card.register, initializers.cards),
        (rules.register, rules.rules),
        (step_card.register, steps.cards),
        (plugin.register, checks),
    ],
    ids=["initializers", "rules", "data-driven steps", "checks"],
)
def test_every_plug_point_refuses_what_it_has(register, entries):
    listed = list(entries())
    assert len(listed) > 3
    for entry in listed:
        with pytest.raises(RegistryError, match="registered twice"):
            register(entry)


def test_checks_are_found_by_code_and_by_slug():
    assert get("INI106") is get("cloned-layers")
