"""From rules to a scheme: the first rule that matches a parameter speaks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from initadvisor.errors import SchemeError
from initadvisor.graph.spec import NORMALISED, ModelSpec, ParamSpec
from initadvisor.schemes.drawn import Deliberate
from initadvisor.schemes.rules import registry
from initadvisor.schemes.rules.fills import FAN_FREE, ONE_VALUE, default_fans, whole
from initadvisor.schemes.rules.reading import carrier_rank, is_head_too, is_weight, plain_depth
from initadvisor.schemes.rules.rule import Context, Rule
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.slots import SlotKind, slots_of
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.types import CURRENT, TORCH_DEFAULT, Role

PROTECTED = "protected"
"""``Assignment.rule`` of what is left alone because it is frozen, integer or the user's to keep."""

_WRITTEN_WITH = "parametrization"

AS_SET = "as_set"
"""``Assignment.rule`` of what keeps the values its author set on purpose."""


class DeadBranchError(SchemeError):
    """A scheme would zero both a gate and the weight behind it."""


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
        sized = param.acts_through == NORMALISED and not any(_beside(param.path, path) for path in together)
        assignments.append(_first(param, spec, rules, context, nonzero=sized))
    return tuple(assignments)


def _beside(one: str, other: str) -> bool:
    """Whether two paths belong to one module (a direction and its magnitude)."""
    return one.rpartition(".")[0] == other.rpartition(".")[0]


def _first(param: ParamSpec, spec: ModelSpec, rules: Sequence[Rule], context: Context, *, nonzero: bool) -> Assignment:
    """What is said of a parameter; with ``nonzero`` (it is divided by its own size) never zeros, which make NaN."""
    said = _speaks(param, spec, rules, context, nonzero=nonzero)
    if said is None:
        raise SchemeError(f"no rule speaks for {param.path} {param.shape} (role {param.role}); add one or keep it")
    return said


def _speaks(
    param: ParamSpec,
    spec: ModelSpec,
    rules: Sequence[Rule],
    context: Context,
    *,
    nonzero: bool = False,
    anyhow: bool = False,
) -> Assignment | None:
    """What the first rule that matches says; with ``nonzero`` the first that does not say zero.

    What its author set on purpose stays, but with ``anyhow``.
    """
    chosen = None if anyhow else context.deliberate.get(param.path)
    for rule in rules:
        if not rule.match(param, spec):
            continue
        made = rule.propose(param, spec, context)
        if nonzero and _all_zero(made.parts):
            continue
        if chosen is not None and made.parts and not rule.knows_values:
            return _as_set(param, spec, made.parts, chosen)
        parts, reason = made.parts, made.reason
        if rule.name != TORCH_DEFAULT:  # which is what torch draws, whatever becomes of it
            parts, reason = _as_it_acts(param, spec, parts, reason)
        parts = _canonical(param, spec, parts)
        return Assignment(param.path, param.shape, parts, rule.name, reason, made.references or rule.references)
    return None


def _as_it_acts(
    param: ParamSpec, spec: ModelSpec, parts: tuple[Part, ...], reason: str
) -> tuple[tuple[Part, ...], str]:
    """A proposal for the weight that acts, said of the tensor that it is made of."""
    # A shared table serves the head, too, which no factor of its rows reaches.
    weighs = is_weight(param) or (param.role is Role.EMBEDDING and not is_head_too(param, spec))
    if not parts or not weighs or _all_zero(parts):
        return parts, reason
    if param.acts_through not in (None, NORMALISED):
        return (), f"it acts behind {param.acts_through}, so its author's values are kept"
    size = abs(param.factor)
    if size in (0.0, 1.0):
        return parts, reason
    made = tuple(replace(part, fill=replace(part.fill, gain=float(f"{part.fill.gain / size:.6g}"))) for part in parts)
    return made, f"{reason}; divided by the {size:.3g} that the forward pass multiplies it with"


def _as_set(param: ParamSpec, spec: ModelSpec, proposed: tuple[Part, ...], chosen: Deliberate) -> Assignment:
    """The author's own values: written out where they are one number (so that a recipe can say it), else left alone."""
    parts: tuple[Part, ...] = ()
    if chosen.value is not None:
        parts = whole(param, _number(chosen.value))
    elif chosen.slices:
        parts = _with_slices(param, proposed, chosen.slices)
    reason = f"its author set it ({chosen.what}), so it is kept"
    return Assignment(param.path, param.shape, _canonical(param, spec, parts), AS_SET, reason)


def _number(value: float) -> Fill:
    """A number under the name that calibrations leave alone, also where it is 0 or 1."""
    return Fill("constant", args=(("value", value),))


def _with_slices(param: ParamSpec, proposed: tuple[Part, ...], values: Mapping[str, float]) -> tuple[Part, ...]:
    """The proposal for the parts of a packed tensor that nobody set, and the author's number for the others."""
    by_name = {part.slice.name: part for part in proposed if part.slice is not None}
    whole_fill = proposed[0] if proposed[0].slice is None else None
    parts = []
    for piece in param.slices:
        if piece.name in values:
            parts.append(Part(_number(values[piece.name]), piece.fans, piece))
        elif piece.name in by_name:
            parts.append(by_name[piece.name])
        elif whole_fill is not None:
            parts.append(Part(whole_fill.fill, piece.fans, piece))
    return tuple(parts)


def _all_zero(parts: tuple[Part, ...]) -> bool:
    return bool(parts) and all(
        part.fill.initializer == "zeros" or part.fill.gain == 0 or part.fill == _number(0.0) for part in parts
    )


def _is_zero(assignment: Assignment | None, constants: Mapping[str, float]) -> bool:
    if assignment is None:
        return False
    return _all_zero(assignment.parts) if assignment.parts else constants.get(assignment.path) == 0


def _products(spec: ModelSpec, constants: Mapping[str, float]) -> tuple[tuple[str, ...], ...]:
    """Groups of tensors whose outputs are multiplied with each other; two zeros in a group leave it without gradient.

    The order is that in which a zero is kept: factors of a branch first, then what has no activation of its own.
    """
    groups: dict[str, list[str]] = {}
    for param in spec.params:
        if param.gate_partner is None:
            continue
        merged = [*groups.get(param.path, [param.path]), *groups.get(param.gate_partner, [param.gate_partner])]
        merged = list(dict.fromkeys(merged))
        groups.update(dict.fromkeys(merged, merged))
    found: dict[object, tuple[str, ...]] = {}
    found |= {id(group): tuple(sorted(group, key=lambda p: carrier_rank(p, spec))) for group in groups.values()}
    for branch in spec.branches:
        gates = tuple(g for g in (branch.scale, branch.last_norm) if g is not None)
        found.update({(branch.index, w): (*gates, w) for w in branch.last if gates})
    return (*found.values(), *_loose_factors(spec, constants))


def _loose_factors(spec: ModelSpec, constants: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Factors at zero that the analysis ties to no branch: any branch may lie behind them, so each is taken to do so.

    Learned numbers, and weights that came as zeros beside a branch or on it (the modulation of a gated block).
    """
    known = {branch.scale for branch in spec.branches}.union(*(branch.last for branch in spec.branches))
    for param in spec.params:
        factor = param.role in (Role.SCALAR, Role.BRANCH_SCALE) or is_weight(param)
        if not factor or constants.get(param.path) != 0 or param.path in known or param.role is Role.OUTPUT:
            continue
        behind = (b for b in spec.branches if param.branch is None or param.branch == b.index)
        yield from ((param.path, weight) for branch in behind for weight in branch.last)


def dead_branches(scheme: Scheme, spec: ModelSpec, constants: Mapping[str, float]) -> tuple[str, ...]:
    """Weights that are zero behind a zero gate: no gradient ever reaches either.

    Args:
        scheme: to check.
        spec: it was made for.
        constants: values of parameters that are kept.
    """
    by_path = {a.path: a for a in scheme.assignments}
    found: list[str] = []
    for group in _products(spec, constants):
        zero = [path for path in group if _is_zero(by_path.get(path), constants)]
        if len(zero) > 1:
            found.extend(zero)
    return tuple(dict.fromkeys(found))


def _alive(
    assignments: tuple[Assignment, ...], spec: ModelSpec, rules: Sequence[Rule], context: Context
) -> tuple[Assignment, ...]:
    """The same, with at most one zero among the factors of a product: the others take the next rule that says more."""
    by_path = {a.path: a for a in assignments}
    for group in _products(spec, context.constants):
        zero = [path for path in group if _is_zero(by_path.get(path), context.constants)]
        # What its author set to zero is the zero that stays.
        zero.sort(key=lambda path: by_path[path].rule != AS_SET)
        for path in zero[1:]:
            other = (
                _speaks(spec[path], spec, rules, context, nonzero=True, anyhow=True) if by_path[path].parts else None
            )
            by_path[path] = other or by_path[path]
    return tuple(by_path[a.path] for a in assignments)


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
    assignments = _alive(assign_rules(spec, rules, chosen, companions), spec, rules, chosen)
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
