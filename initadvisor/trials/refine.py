"""Variants of a leading scheme: every group of roles with a gain of its own, to be searched by a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, SchemeKind
from initadvisor.types import Role

LOWEST, HIGHEST = 0.25, 4.0
"""Range of a multiplier: two octaves either way hold every gain that sources disagree about."""

GROUPS: Mapping[str, frozenset[Role]] = {
    "first": frozenset({Role.INPUT, Role.EMBEDDING, Role.POSITION, Role.TOKEN}),
    "attention": frozenset({Role.QUERY, Role.KEY, Role.VALUE, Role.QKV}),
    "branch_out": frozenset({Role.ATTN_OUT, Role.MLP_OUT, Role.RESIDUAL_OUT}),
    "recurrent": frozenset({Role.RECURRENT_HIDDEN, Role.RECURRENT_INPUT}),
    "hidden": frozenset({Role.HIDDEN, Role.MLP_IN, Role.MLP_GATE, Role.SHORTCUT}),
    "output": frozenset({Role.OUTPUT}),
}
"""Roles that share a multiplier: a dozen short trainings can search two to four dimensions, not one per layer."""


def refinable(scheme: Scheme, spec: ModelSpec) -> tuple[str, ...]:
    """Groups of roles whose gain a scheme decides, in a fixed order; empty where there is nothing to multiply.

    Data-driven steps after the fills rescale the weights by themselves, so schemes that have any are left out.
    """
    if not isinstance(scheme, Scheme) or scheme.calibrations:
        return ()
    filled = {_group(a, spec) for a in scheme.assignments if a.parts and any(p.fill.gain for p in a.parts)}
    return tuple(name for name in GROUPS if name in filled)


def _group(assignment: Assignment, spec: ModelSpec) -> str:
    if assignment.path not in spec:
        return ""
    role = spec[assignment.path].role
    return next((name for name, roles in GROUPS.items() if role in roles), "")


def refined(scheme: Scheme, spec: ModelSpec, multipliers: Mapping[str, float], number: int) -> Scheme:
    """The scheme with the gains of each group multiplied.

    Args:
        scheme: the leader.
        spec: the reading of the model.
        multipliers: by group.
        number: distinguishes variants of one leader.

    Example:
        >>> from initadvisor.graph.spec import Coverage
        >>> leader = Scheme("rules", SchemeKind.RULES, "")
        >>> refined(leader, ModelSpec((), (), 1, Coverage(0, 0), ""), {"hidden": 2.0}, 1).name
        'rules×1'
    """

    def scaled(assignment: Assignment) -> Assignment:
        factor = multipliers.get(_group(assignment, spec), 1.0)
        if factor == 1.0:
            return assignment
        parts = tuple(replace(p, fill=replace(p.fill, gain=p.fill.gain * factor)) for p in assignment.parts)
        reason = f"{assignment.reason}; gain multiplied by {factor:.3g}, found by search"
        return replace(assignment, parts=parts, reason=reason)

    told = ", ".join(f"{name} × {value:.3g}" for name, value in multipliers.items())
    return replace(
        scheme,
        name=f"{scheme.name}×{number}",
        kind=SchemeKind.REFINED,
        summary=f"{scheme.name} with gains refined by search: {told}",
        assignments=tuple(scaled(a) for a in scheme.assignments),
    )
