"""All rules by name. Importing this module loads every topic, so that a listing is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from initadvisor.errors import RegistryError, nearest
from initadvisor.schemes.rules import (
    default,
    embedding,
    head,
    mimetic,
    norms,
    recurrent,
    residual,
    special,
    transformer,
    weights,
)
from initadvisor.schemes.rules.rule import Rule
from initadvisor.schemes.scheme import Scheme

_RULES: dict[str, Rule] = {}


def register(rule: Rule) -> Rule:
    """Add a rule.

    Raises:
        RegistryError: the name is taken.
    """
    if rule.name in _RULES:
        raise RegistryError(f'rule "{rule.name}" is registered twice')
    _RULES[rule.name] = rule
    return rule


for _topic in (weights, recurrent, transformer, mimetic, residual, embedding, head, norms, special, default):
    for _rule in _topic.RULES:
        register(_rule)


def get(name: str) -> Rule:
    """The rule called ``name``.

    Raises:
        RegistryError: unknown; the nearest is named.

    Example:
        >>> get("forget_bias").references
        ('gers2000', 'jozefowicz2015')
    """
    if name not in _RULES:
        raise RegistryError(f'unknown rule "{name}"; {nearest(name, _RULES)}')
    return _RULES[name]


def rules() -> Iterator[Rule]:
    """All rules, by name."""
    return iter(sorted(_RULES.values(), key=lambda r: r.name))


def unfired(schemes: Iterable[Scheme]) -> tuple[str, ...]:
    """Names of the rules that no assignment of ``schemes`` came from, sorted; a report can tell them.

    Example:
        >>> len(unfired(())) == len(list(rules()))
        True
    """
    fired = {assignment.rule for scheme in schemes for assignment in scheme.assignments}
    return tuple(sorted(set(_RULES) - fired))
