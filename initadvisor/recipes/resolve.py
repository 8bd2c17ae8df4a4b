"""What a recipe means for one model: every parameter matched once, sizes and slices worked out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from initadvisor.errors import RecipeError, nearest
from initadvisor.graph.analyze import analyze
from initadvisor.graph.layers import is_called
from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.graph.static import read_static
from initadvisor.recipes.document import Document, rule_needs_analysis
from initadvisor.recipes.model import KEEP, FansModel, RuleModel, SliceModel, parse_depth, parse_spans
from initadvisor.recipes.symbols import gain_value
from initadvisor.schemes.paths import matches
from initadvisor.schemes.rules.fills import FAN_FREE, ONE_VALUE, default_fans, shape_fans, sliced_fans
from initadvisor.schemes.rules.reading import closes_branch
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Calibration, Fill, Part, SchemeKind
from initadvisor.types import Fans, Role, Slice


def resolve(recipe: Document, spec: ModelSpec) -> Scheme:
    """The scheme a recipe means for one model.

    Args:
        recipe: what the file says.
        spec: the model's reading (:func:`initadvisor.analyze`).

    Raises:
        RecipeError: a parameter is matched by no rule or by several, a rule matches nothing, or a slice misfits.
    """
    names = _names_of(spec)
    chosen: dict[str, int] = {}
    for index, rule in enumerate(recipe.rules):
        found = [p for p in spec.params if p.tied_to is None and _selects(rule, p, spec, names[p.path])]
        if not found and not rule.optional:
            known = [n for alias in names.values() for n in alias]
            hint = f"; {nearest(rule.match.path[0], known)}" if rule.match.path else ""
            raise RecipeError(f"{where(recipe, index)} matches no parameter{hint}; remove it or mark it optional: true")
        for param in found:
            if param.path in chosen and not rule.override:
                raise RecipeError(
                    f"{param.path} is matched by {where(recipe, chosen[param.path])} and by {where(recipe, index)}; "
                    "narrow one of them, or give the later one override: true"
                )
            chosen[param.path] = index
    assignments = []
    for param in spec.params:
        if param.tied_to is not None:
            continue
        if param.protected is not None:
            reason = f"protected: {param.protected}"
            assignments.append(Assignment(param.path, param.shape, (), "protected", reason))
            continue
        if param.path not in chosen:
            raise RecipeError(
                f'no rule of recipe "{recipe.name}" matches {param.path} {param.shape}; add one, or say init: keep'
            )
        assignments.append(_assignment(recipe, chosen[param.path], param, spec))
    calibrations = tuple(Calibration(c.method, tuple(sorted(c.args.items()))) for c in recipe.calibrations)
    return Scheme(
        recipe.name, SchemeKind.RECIPE, recipe.summary, tuple(assignments), calibrations, fingerprint=spec.fingerprint
    )


def where(recipe: Document, index: int) -> str:
    """Which rule of a recipe is meant, for messages."""
    rule = recipe.rules[index]
    selector = rule.match.model_dump(exclude_defaults=True, mode="json", by_alias=True)
    shown = ", ".join(f"{k}: {', '.join(v) if isinstance(v, list) else v}" for k, v in selector.items())
    return f"rule {index + 1} ({shown})"


def _assignment(recipe: Document, index: int, param: ParamSpec, spec: ModelSpec) -> Assignment:
    rule = recipe.rules[index]
    parts: tuple[Part, ...] = ()
    if rule.init != KEEP or any(s.init not in (None, KEEP) for s in rule.slices.values()):
        parts = _parts(rule, param, spec, f"{where(recipe, index)}: {param.path}")
    return Assignment(param.path, param.shape, parts, rule.rule, rule.reason, rule.references)


def read_model(model: nn.Module, sample_batch: Any = None) -> ModelSpec:
    """The model's reading: by one forward pass where there is a batch, else from its layers alone."""
    if sample_batch is None:
        return read_static(model)
    return analyze(model, sample_batch)


def _names_of(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Canonical path -> every name of the tensor."""
    names: dict[str, list[str]] = {p.path: [p.path] for p in spec.params if p.tied_to is None}
    for param in spec.params:
        if param.tied_to is not None:
            names.setdefault(param.tied_to, [param.tied_to]).append(param.path)
    return {path: tuple(every) for path, every in names.items()}


def _selects(rule: RuleModel, param: ParamSpec, spec: ModelSpec, names: tuple[str, ...]) -> bool:
    match = rule.match
    if match.path and not any(matches(pattern, name) for pattern in match.path for name in names):
        return False
    if any(matches(pattern, name) for pattern in match.exclude for name in names):
        return False
    if match.role and param.role not in match.role:
        return False
    if match.module and not any(is_called(param.module_class, wanted) for wanted in match.module):
        return False
    if len(param.shape) < match.min_dims or (match.max_dims is not None and len(param.shape) > match.max_dims):
        return False
    if match.ends_branch is not None and match.ends_branch != closes_branch(param, spec):
        return False
    if match.depth is not None:
        low, high = parse_depth(match.depth)
        return param.depth >= low and (high is None or param.depth <= high)
    return True


def _fans(given: FansModel | None, fallback: Fans) -> Fans:
    if given is None:
        return fallback
    return Fans(given.fan_in, given.fan_out, given.out_dim, given.in_dim, given.groups, given.batch_dims)


def _fill(rule: RuleModel, part: SliceModel | None, param: ParamSpec, spec: ModelSpec, what: str) -> Fill:
    own = rule.filling(part)
    if own.init in (None, KEEP):
        raise RecipeError(f"{what}: a packed tensor is kept or filled as a whole; give every slice an init")
    return Fill(str(own.init), gain_value(own.gain, own.scale, param, spec), tuple(sorted(own.args.items())))


@dataclass(frozen=True)
class _Layout:
    """How a rule sees one tensor: fans of the whole (None where nobody knows them) and the maps packed in it."""

    fans: Fans | None
    slices: tuple[Slice, ...]


def _layout(rule: RuleModel, param: ParamSpec, spec: ModelSpec) -> _Layout:
    """What torch's own layer tells by its type, so that a batch changes nothing; else what the ops show.

    The ops decide, too, where the rule speaks of what only they can tell: such a rule is refused without a batch.
    """
    by_ops = _Layout(None if param.role is Role.UNKNOWN and param.fans is None else default_fans(param, spec), ())
    if param.slices:
        by_ops = replace(by_ops, slices=param.slices)
    names = {name for name, own in rule.slices.items() if own.at is None}
    if rule_needs_analysis(rule):
        return by_ops
    if param.layout is not None:
        told = _Layout(param.layout.fans, tuple(_of_ops(s, param) for s in param.layout.slices))
        return replace(told, slices=by_ops.slices) if names - {s.name for s in told.slices} else told
    if names or _needs_fans(rule):
        return by_ops
    return replace(by_ops, slices=())


def _of_ops(told: Slice, param: ParamSpec) -> Slice:
    """A slice with the role that the ops show, where they show it."""
    known = {(s.name, s.dim, s.ranges): s.role for s in param.slices}
    return replace(told, role=known.get((told.name, told.dim, told.ranges), told.role))


def _needs_fans(rule: RuleModel) -> bool:
    """Whether some fill of the rule looks at fans that the rule does not give."""
    fills = [rule, *rule.slices.values()] if rule.slices else [rule]
    return rule.fans is None and any(
        (f.init or rule.init) not in (*FAN_FREE, KEEP) and (f is rule or f.fans is None) for f in fills
    )


def _parts(rule: RuleModel, param: ParamSpec, spec: ModelSpec, what: str) -> tuple[Part, ...]:
    layout = _layout(rule, param, spec)
    if layout.fans is None and _needs_fans(rule):
        raise RecipeError(
            f"{what}: its fans cannot be told from the layer alone; pass sample_batch, or give fans in the recipe"
        )
    own = _fans(rule.fans, layout.fans or shape_fans(param.shape))
    if rule.whole or not (layout.slices or rule.slices) or (rule.init in ONE_VALUE and not rule.slices):
        if rule.slices:
            raise RecipeError(f"{what}: whole and slices exclude each other")
        return (Part(_fill(rule, None, param, spec, what), own),)
    known = {s.name: s for s in layout.slices}
    if rule.fans is not None:
        known = {n: replace(s, fans=sliced_fans(own, param.shape, s.dim, s.size)) for n, s in known.items()}
    if any(s.at is not None for s in rule.slices.values()):
        known = {}
        for name, model in rule.slices.items():
            if model.at is None:
                raise RecipeError(f'{what}: slice "{name}" has no "at", though another has')
            known[name] = _placed(name, model, param, own, what)
    for name in rule.slices:
        if name not in known:
            if not known:
                raise RecipeError(
                    f'{what}: which rows are "{name}" cannot be told from the layer alone; pass sample_batch'
                )
            raise RecipeError(f'{what} has no slice "{name}"; {nearest(name, known)}')
    parts = []
    for name, piece in known.items():
        chosen = rule.slices.get(name)
        fans = _fans(chosen.fans if chosen is not None else None, piece.fans)
        parts.append(Part(_fill(rule, chosen, param, spec, what), fans, piece))
    return tuple(parts)


def _placed(name: str, model: SliceModel, param: ParamSpec, own: Fans, what: str) -> Slice:
    """The slice a recipe describes by its rows, with the analysis's own slice where it is the same."""
    ranges = parse_spans(str(model.at))
    if model.dim >= len(param.shape) or ranges[-1][1] > param.shape[model.dim]:
        raise RecipeError(f'{what}: slice "{name}" lies outside of a tensor of shape {param.shape}')
    for known in param.slices:
        if known.name == name and known.ranges == ranges and known.dim == model.dim:
            return known
    role = Role(name) if name in {r.value for r in Role} else param.role
    size = sum(stop - start for start, stop in ranges)
    return Slice(name, model.dim, ranges, role, sliced_fans(own, param.shape, model.dim, size))
