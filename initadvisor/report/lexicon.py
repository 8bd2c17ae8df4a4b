"""Everything this program knows by name: initializers, data-driven steps, rules and schemes, one entry each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from initadvisor.errors import RegistryError, nearest
from initadvisor.initializers.card import Hyperparameter
from initadvisor.initializers.registry import Card, cards
from initadvisor.report.numbers import number
from initadvisor.schemes.blueprints import RULE_BLUEPRINTS, TEXTBOOK_BLUEPRINTS
from initadvisor.schemes.data_driven.registry import cards as steps
from initadvisor.schemes.rules.registry import rules


@dataclass(frozen=True)
class Entry:
    """One name and what is known about it.

    Attributes:
        kind: ``"initializers"``, ``"steps"``, ``"rules"``, ``"schemes"`` or ``"checks"``.
        name: as it is typed.
        summary: one line.
        aliases: other names.
        facts: headings and what stands under them, a line each.
        references: keys of :mod:`initadvisor.references`.
        card: of an initializer, so that it can be drawn; None of everything else.
    """

    kind: str
    name: str
    summary: str
    aliases: tuple[str, ...] = ()
    facts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    references: tuple[str, ...] = ()
    card: Card | None = None


def lexicon() -> Iterator[Entry]:
    """All entries, kind by kind."""
    for card in cards():
        facts = [("Formula", (card.formula,)), _when(card.right_when, card.wrong_when), *_arguments(card.args)]
        if card.deviation:
            facts.append(("Where we deviate from the source", (card.deviation,)))
        yield Entry("initializers", card.name, card.summary, card.aliases, tuple(facts), card.references, card)
    for step in steps():
        facts = [_when(step.right_when, step.wrong_when), *_arguments(step.args)]
        if step.deviation:
            facts.append(("Where we deviate from the source", (step.deviation,)))
        yield Entry("steps", step.name, step.summary, (), tuple(facts), step.references)
    for rule in rules():
        yield Entry("rules", rule.name, rule.summary, references=rule.references)
    known = {rule.name: rule.summary for rule in rules()}
    for blueprint in (*RULE_BLUEPRINTS, *TEXTBOOK_BLUEPRINTS):
        order = tuple(f"{name}: {known[name]}" for name in blueprint.order)
        facts = [("Rules, the first that matches decides", order)]
        yield Entry("schemes", blueprint.name, blueprint.summary, facts=tuple(facts))


def _when(right: str, wrong: str) -> tuple[str, tuple[str, ...]]:
    return "When", (f"right: {right}", f"wrong: {wrong}")


def _arguments(args: Mapping[str, Hyperparameter]) -> list[tuple[str, tuple[str, ...]]]:
    return [("Arguments", tuple(argument_in_words(name, args[name]) for name in args))] if args else []


def look_up(name: str, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries of that name or alias; a scheme may be called as the initializer it uses.

    Raises:
        RegistryError: there is none; the nearest is named.
    """
    known = list(entries)
    found = tuple(e for e in known if name == e.name or name in e.aliases)
    if not found:
        names = [n for e in known for n in (e.name, *e.aliases)]
        raise RegistryError(f'nothing is called "{name}"; {nearest(name, names)}')
    return found


def argument_in_words(name: str, argument: Hyperparameter) -> str:
    """An argument, its default, what it may be and what it means.

    Example:
        >>> argument_in_words("std", Hyperparameter(0.02, low=0.0, meaning="spread"))
        'std = 0.02, from 0 to ∞: spread'
    """
    allowed = ""
    if argument.choices:
        allowed = f", one of {', '.join(argument.choices)}"
    elif argument.low is not None or argument.high is not None:
        low = number(argument.low) if argument.low is not None else "−∞"
        high = number(argument.high) if argument.high is not None else "∞"
        allowed = f", from {low} to {high}"
    default = argument.default if isinstance(argument.default, str) else f"{argument.default:g}"
    return f"{name} = {default}{allowed}" + (f": {argument.meaning}" if argument.meaning else "")
