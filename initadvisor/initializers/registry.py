"""All initializers: importing this module registers every family once."""

from __future__ import annotations

from initadvisor.initializers import orthogonal, random, scaling, structured
from initadvisor.initializers.card import Card, cards, get

FAMILIES = (random, scaling, orthogonal, structured)
"""The modules whose cards are registered."""

__all__ = ["FAMILIES", "Card", "cards", "get"]
