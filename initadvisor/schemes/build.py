"""From rules to a scheme: the first rule that matches a parameter speaks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from initadvisor.errors import SchemeError
from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules import registry
from initadvisor.schemes.rules.fills import FAN_FREE, ONE_VALUE, default_fans
from initadvisor.schemes.rules.reading import plain_depth
from initadvisor.schemes.rules.rule import Context, Rule
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.slots import SlotKind, slots_of
from initadvisor.schemes.values import Assignment, Part, SchemeKind
from initadvisor.types import CURRENT, Role

PROTECTED = "protected"
"""``Assignment.rule`` of what is left alone because it is frozen, integer or the user's to keep."""

_WRITTEN_WITH = "parametrization"

_CONSTANT_ROLES = frozenset({Role.ACTIVATION, Role.SCALAR, Role.BRANCH_SCALE, Role.STATE, Role.UNKNOWN, Role.UNUSED})
"""Roles whose author's value is looked up, so that a recipe can write it to a model that has none yet."""


class DeadBranchError(SchemeError):
    """A scheme would zero both a gate and the weight behind it."""


def constants_of(model: nn.Module, spec: ModelSpec) -> dict[str, float]:
    """Path -> value of particular parameters (slopes, branch scales, temperatures) that hold one number throughout."""
    found = {}
    params = dict(model.named_parameters(remove_duplicate=False))
    for entry in spec.params:
        tensor = params.get(entry.path)
        if entry.role not in _CONSTANT_ROLES or tensor is None or tensor.is_meta or not tensor.is_floating_point():
            continue
        if tensor.numel() == 0:
            continue
        low, high = (float(v) for v in torch.aminmax(tensor.detach().float()))
        if low == high and abs(low) < float("inf"):
            found[entry.path] = low
    return found


def companions_of(model: nn.Module) -> frozenset[str]:
    """Paths that are written together with another (the magnitude of a weight norm)."""
    return frozenset(path for path, slot in slots_of(model).items() if slot.kind is SlotKind.COMPANION)


def _canonical(param: ParamSpec, spec: ModelSpec, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Equal fills in equal words.

    Arguments are sorted, fans are the default ones where the initializer does not look at them, and a packed tensor
    that holds one value throughout is filled as a whole.
    """
    fills = {part.fill for part in parts}
    if len(parts) > 1 and len(fills) == 1 and parts[0].fill.initializer in ONE_VALUE:
        parts = (Part(parts[0].fill, default_fans(param, spec)),)
    made = []
    for part in parts:
        fill = replace(part.fill, args=tuple(sorted(part.fill.args)))
        free = part.slice is None and fill.initializer in FAN_FREE
        made.append(replace(part, fill=fill, fans=default_fans(param, spec) if free else part.fans))
    return tuple(made)


def assign_rules(
    spec: ModelSpec, rules: Sequence[Rule], context: Context, companions: Iterable[str] = ()
) -> tuple[Assignment, ...]:
    """One assignment per parameter that is not a second name of another.

    Args:
        spec: reading of the model.
        rules: tried in order.
        context: the scheme's choices.
        companions: paths written together with others.

    Raises:
        SchemeError: no rule speaks for a parameter.
    """
    together = frozenset(companions)
    assignments = []
    for param in spec.params:
        if param.tied_to is not None:
            continue
        if param.protected is not None:
            assignments.append(Assignment(param.path, param.shape, (), PROTECTED, f"protected: {param.protected}"))
            continue
        if param.path in together:
            reason = "the magnitude of a weight norm follows from the weight it normalises"
            assignments.append(Assignment(param.path, param.shape, (), _WRITTEN_WITH, reason))
            continue
        assignments.append(_first(param, spec, rules, context))
    return tuple(assignments)


def _first(param: ParamSpec, spec: ModelSpec, rules: Sequence[Rule], context: Context) -> Assignment:
    for rule in rules:
        if rule.match(param, spec):
            made = rule.propose(param, spec, context)
            parts = _canonical(param, spec, made.parts)
            return Assignment(
                param.path, param.shape, parts, rule.name, made.reason, made.references or rule.references
            )
    raise SchemeError(f"no rule speaks for {param.path} {param.shape} (role {param.role}); add one or keep it")


def _is_zero(assignment: Assignment | None, constants: Mapping[str, float]) -> bool:
    if assignment is None:
        return False
    if not assignment.parts:
        return constants.get(assignment.path) == 0
    return all(part.fill.initializer == "zeros" or part.fill.gain == 0 for part in assignment.parts)


def dead_branches(scheme: Scheme, spec: ModelSpec, constants: Mapping[str, float]) -> tuple[str, ...]:
    """Weights that are zero behind a zero gate: no gradient ever reaches either.

    Args:
        scheme: to check.
        spec: it was made for.
        constants: values of parameters that are kept.
    """
    by_path = {a.path: a for a in scheme.assignments}
    found = []
    for branch in spec.branches:
        gates = [g for g in (branch.scale, branch.last_norm) if g is not None]
        zero_gates = [g for g in gates if _is_zero(by_path.get(g), constants)]
        zero_weights = [w for w in branch.last if _is_zero(by_path.get(w), constants)]
        if len(zero_gates) + bool(zero_weights) > 1:
            found.extend([*zero_gates, *zero_weights])
    found.extend(
        p.path
        for p in spec.params
        if p.gate_partner is not None
        and all(_is_zero(by_path.get(path), constants) for path in (p.path, p.gate_partner))
    )
    return tuple(dict.fromkeys(found))


def scheme_from_rules(
    name: str,
    kind: SchemeKind,
    summary: str,
    spec: ModelSpec,
    rule_names: Iterable[str],
    *,
    context: Context | None = None,
    prior: float = 0.0,
    companions: Iterable[str] = (),
) -> Scheme:
    """A scheme from the names of its rules, in order.

    Raises:
        SchemeError: a parameter is left out.
        DeadBranchError: a gate and the weight behind it would both be zero.
        RegistryError: unknown rule.
    """
    chosen = replace(context or Context(), plain_depth=plain_depth(spec))
    rules = [registry.get(rule) for rule in rule_names]
    assignments = assign_rules(spec, rules, chosen, companions)
    scheme = Scheme(name, kind, summary, assignments, prior=prior, fingerprint=spec.fingerprint)
    dead = dead_branches(scheme, spec, chosen.constants)
    if dead:
        raise DeadBranchError(
            f'scheme "{name}" zeroes both a gate and the weight behind it ({", ".join(dead)}); '
            "no gradient would reach either"
        )
    return scheme


def current_scheme(spec: ModelSpec) -> Scheme:
    """The scheme that leaves every weight exactly as it came."""
    return Scheme(
        CURRENT, SchemeKind.CURRENT, "the weights exactly as they came", prior=1.0, fingerprint=spec.fingerprint
    )
