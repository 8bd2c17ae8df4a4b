"""What is believed before any trial, read from one dated file: ``beliefs.json``, which benchmarks can rewrite.

Nothing here is computed. Each value names its source, a benchmark or judgement, so that nobody takes the one for the
other.
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from initadvisor.errors import RegistryError, nearest


@dataclass(frozen=True, slots=True)
class Belief:
    """One value and where it comes from.

    Attributes:
        value: the figure.
        source: ``"judgement"``, or the benchmark it was measured by.
        why: what it means or rests on, in a sentence; may be empty.
        unless: facts that must hold together -> the belief that then takes this one's place; the last one counts.
    """

    value: float
    source: str
    why: str = ""
    unless: tuple[tuple[frozenset[str], Belief], ...] = ()

    def given(self, facts: Set[str]) -> Belief:
        """The belief where these facts hold.

        Example:
            >>> deep = Belief(0.2, "judgement")
            >>> Belief(0.9, "judgement", unless=((frozenset({"long"}), deep),)).given({"mlp", "long"}).value
            0.2
        """
        fitting = [other for needed, other in self.unless if needed <= facts]
        return fitting[-1] if fitting else self


@dataclass(frozen=True, slots=True)
class Beliefs:
    """The whole file.

    Attributes:
        dated: day of its last change, ISO.
        figures: name -> what decides which schemes are proposed.
        priors: scheme -> how early it is proposed, higher first.
    """

    dated: str
    figures: dict[str, Belief]
    priors: dict[str, Belief]


def _belief(data: dict[str, Any]) -> Belief:
    unless = tuple((frozenset(other["if"]), _belief(other)) for other in data.get("unless", ()))
    return Belief(float(data["value"]), data["source"], data.get("why", ""), unless)


@cache
def beliefs() -> Beliefs:
    """What the package ships, read once."""
    text = resources.files("initadvisor.schemes").joinpath("beliefs.json").read_text(encoding="utf-8")
    data = json.loads(text)
    figures, priors = ({k: _belief(v) for k, v in data[part].items()} for part in ("figures", "priors"))
    return Beliefs(data["dated"], figures, priors)


def prior(scheme: str, facts: Set[str] = frozenset()) -> float:
    """How early a scheme is proposed on a model of which ``facts`` hold.

    Raises:
        RegistryError: the file says nothing about it.

    Example:
        >>> prior("torch_default") < prior("rules_orthogonal") < prior("torch_default", {"pre_norm_language"})
        True
    """
    return _named(scheme, beliefs().priors, "prior of a scheme").given(facts).value


def figure(name: str) -> float:
    """One of the file's figures.

    Raises:
        RegistryError: there is none of this name.

    Example:
        >>> int(figure("most_candidates"))
        24
    """
    return _named(name, beliefs().figures, "figure").value


def _named(name: str, known: dict[str, Belief], what: str) -> Belief:
    if name not in known:
        raise RegistryError(f'beliefs.json holds no {what} called "{name}"; {nearest(name, known)}')
    return known[name]
