"""The plug point of checks: a code, a severity, and a pure function from the context to findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from initadvisor.checks.context import CheckContext
from initadvisor.checks.finding import Finding, Location, Severity
from initadvisor.registry import Registry
from initadvisor.schemes.folding import patterns_of


@dataclass(frozen=True, slots=True)
class Hit:
    """What a check saw at one place; the runner makes a :class:`Finding` of all hits that repeat in every block.

    Attributes:
        paths: parameters or buffers concerned; empty for the whole model.
        message: with the figure that proves it.
        severity: where it differs from the check's.
        remedy: where it differs from the check's.
        where: where it can be mended, if the check knows better than "the owner of the first path".
        weight: how far off it is; of the repeated hits, the one with the largest is quoted.
    """

    paths: tuple[str, ...]
    message: str
    severity: Severity | None = None
    remedy: str = ""
    where: Location | None = None
    weight: float = 0.0


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong.

    Attributes:
        code: stable, never reused; the hundreds are topics.
        name: slug for people.
        severity: of a typical hit.
        summary: one line: what it looks for.
        remedy: one sentence: what to do.
        run: pure function of the context.
        references: keys of :mod:`initadvisor.references`; empty where it is plain arithmetic.
        mends: filling the paths concerned anew mends it.
        cause: others follow from it, so it is told before them.
        grades: other severities a hit may have -> when.
    """

    code: str
    name: str
    severity: Severity
    summary: str
    remedy: str
    run: Callable[[CheckContext], Iterable[Hit]]
    references: tuple[str, ...] = ()
    mends: bool = field(default=False, kw_only=True)
    cause: bool = field(default=False, kw_only=True)
    grades: Mapping[Severity, str] = field(default_factory=dict, kw_only=True)

    @property
    def told(self) -> str:
        """What it looks for, and when it is worse or milder than usual."""
        return "; ".join([self.summary, *(f"{severity.value} {when}" for severity, when in self.grades.items())])

    def findings(self, context: CheckContext) -> list[Finding]:
        """Every finding of this check, repeated blocks told once."""
        return _fold(self, list(self.run(context)), context)


_LAYER_SUFFIX = re.compile(r"_l\d+(_reverse)?$")
"""How torch's recurrent layers name the parameters of their layers and directions."""


def template(path: str) -> str:
    """A path with the numbers of repeated blocks replaced.

    Example:
        >>> template("layers.3.mlp.weight")
        'layers.*.mlp.weight'
        >>> template("rnn.bias_ih_l1_reverse")
        'rnn.bias_ih_l*'
    """
    parts = ["*" if part.isdigit() else part for part in path.split(".")]
    return ".".join([*parts[:-1], _LAYER_SUFFIX.sub("_l*", parts[-1])])


def _fold(check: Check, hits: list[Hit], context: CheckContext) -> list[Finding]:
    groups: dict[tuple[tuple[str, ...], Severity], list[Hit]] = {}
    for hit in hits:
        key = (tuple(dict.fromkeys(template(p) for p in hit.paths)), hit.severity or check.severity)
        groups.setdefault(key, []).append(hit)
    findings = []
    every = (*context.tensors, *context.buffers)
    for (_, severity), group in groups.items():
        worst = max(group, key=lambda h: h.weight)
        paths = tuple(dict.fromkeys(p for hit in group for p in hit.paths))
        more = f" (the worst of {len(group)} alike)" if len(group) > 1 else ""
        findings.append(
            Finding(
                code=check.code,
                severity=severity,
                path=paths[0] if paths else "",
                paths=paths,
                message=worst.message + more,
                remedy=worst.remedy or check.remedy,
                where=worst.where or (context.location_of(paths[0]) if paths else None),
                references=check.references,
                name=check.name,
                patterns=tuple(patterns_of(paths, every)),
            )
        )
    return findings


_CHECKS: Registry[Check] = Registry("check", lambda check: (check.code, check.name))

register = _CHECKS.add
find = _CHECKS.get


def registered() -> Iterator[Check]:
    """All checks, by code."""
    return iter(_CHECKS)
