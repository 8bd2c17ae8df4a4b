"""All rules by name. Importing this module loads every topic, so that a listing is complete."""

from __future__ import annotations

from collections.abc import Iterator

from initadvisor.registry import Registry
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

_RULES: Registry[Rule] = Registry("rule", lambda rule: (rule.name,))

register = _RULES.add
get = _RULES.get

for _topic in (weights, recurrent, transformer, mimetic, residual, embedding, head, norms, special, default):
    for _rule in _topic.RULES:
        register(_rule)


def rules() -> Iterator[Rule]:
    """All rules, by name."""
    return iter(_RULES)
