"""All initializers: importing this module registers every family once."""

from __future__ import annotations

import initadvisor.initializers.attention as attention
import initadvisor.initializers.orthogonal as orthogonal
import initadvisor.initializers.random as random
import initadvisor.initializers.scaling as scaling
import initadvisor.initializers.statespace as statespace
import initadvisor.initializers.structured as structured
from initadvisor.initializers.card import Card, cards, get

FAMILIES = (random, scaling, orthogonal, structured, attention, statespace)
"""The modules whose cards are registered."""

__all__ = ["FAMILIES", "Card", "cards", "get"]
