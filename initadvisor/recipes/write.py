"""From a scheme to a recipe, repeated blocks folded into patterns; and from a recipe to the text of its file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initadvisor.errors import RecipeError
from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.recipes.document import Document
from initadvisor.recipes.model import KEEP, CalibrationModel, FansModel, Provenance, RuleModel, Selector, SliceModel
from initadvisor.recipes.yaml import block, flow, number, scalar, text_field
from initadvisor.schemes.paths import fold, skeleton
from initadvisor.schemes.rules.fills import FAN_FREE, ONE_VALUE, default_fans, sliced_fans
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Part, SchemeKind
from initadvisor.types import Fans


def _fans_model(fans: Fans) -> FansModel:
    data = {
        "in": fans.fan_in,
        "out": fans.fan_out,
        "out_dim": fans.out_dim,
        "in_dim": fans.in_dim,
        "groups": fans.groups,
    }
    return FansModel.model_validate({**data, "batch_dims": fans.batch_dims})


def _stated_fans(part: Part, told: Fans | None) -> FansModel | None:
    """The fans a rule must state: those that its reader would not work out by itself."""
    if part.fill.initializer in FAN_FREE or part.fans == told:
        return None
    return _fans_model(part.fans) if part.fans.fan_in > 0 and part.fans.fan_out > 0 else None


def _spans(ranges: Iterable[tuple[int, int]]) -> str:
    return ",".join(f"{start}:{stop}" for start, stop in ranges)


def _fill_fields(part: Part) -> dict[str, Any]:
    fields: dict[str, Any] = {"init": part.fill.initializer}
    if part.fill.gain != 1.0:
        fields["gain"] = float(part.fill.gain)
    if part.fill.args:
        fields["args"] = dict(part.fill.args)
    return fields


def _body(param: ParamSpec, spec: ModelSpec, assignment: Assignment) -> dict[str, Any]:
    """Everything a rule says about one parameter but its match and reason.

    What torch's own layer tells by its type is left out, for any reader can work it out; all else is written down.
    """
    if not assignment.parts:
        return {"init": KEEP}
    layout, first = param.layout, assignment.parts[0]
    if first.slice is None:
        fields = _fill_fields(first)
        fans = _stated_fans(first, layout.fans if layout is not None else None)
        if fans is not None:
            fields["fans"] = fans
        if ((layout is not None and layout.slices) or param.slices) and first.fill.initializer not in ONE_VALUE:
            fields["whole"] = True
        return fields
    common, _ = Counter(json.dumps(_fill_fields(p), sort_keys=True) for p in assignment.parts).most_common(1)[0]
    fields = dict(json.loads(common))
    told = {(s.name, s.dim, s.ranges): s.fans for s in layout.slices} if layout is not None else {}
    pieces = [p.slice for p in assignment.parts if p.slice is not None]
    if len(pieces) != len(assignment.parts):
        raise RecipeError(f"{param.path}: a fill of the whole stands among fills of slices")
    by_layer = {(s.name, s.dim, s.ranges) for s in pieces} == set(told)
    whole = default_fans(param, spec)
    slices = {}
    for part, piece in zip(assignment.parts, pieces, strict=True):
        own: dict[str, Any] = {}
        if _fill_fields(part) != fields:
            own.update(_fill_fields(part))
        if by_layer:
            expected = told[piece.name, piece.dim, piece.ranges]
        else:
            own["at"] = _spans(piece.ranges)
            if piece.dim:
                own["dim"] = piece.dim
            expected = sliced_fans(whole, param.shape, piece.dim, piece.size)
        fans = _stated_fans(part, expected)
        if fans is not None:
            own["fans"] = fans
        if own:
            slices[piece.name] = own
    if slices:
        fields["slices"] = {name: SliceModel.model_validate(own) for name, own in slices.items()}
    if not by_layer and (layout is None or layout.fans != whole):
        shown = any(p.fill.initializer not in FAN_FREE for p in assignment.parts)
        if shown and whole.fan_in > 0 and whole.fan_out > 0:
            fields["fans"] = _fans_model(whole)
    return fields


@dataclass(frozen=True)
class _Entry:
    """One parameter on its way into a rule."""

    path: str
    key: str
    body: Mapping[str, Any]
    assignment: Assignment


def _key(body: Mapping[str, Any], assignment: Assignment) -> str:
    plain = {
        k: v.model_dump(by_alias=True) if hasattr(v, "model_dump") else v for k, v in body.items() if k != "slices"
    }
    slices = {k: v.model_dump(by_alias=True) for k, v in body.get("slices", {}).items()}
    return json.dumps([plain, slices, assignment.rule, assignment.references], sort_keys=True)


def _rule(patterns: Sequence[str], entries: Sequence[_Entry], *, override: bool) -> RuleModel:
    reason = Counter(e.assignment.reason for e in entries).most_common(1)[0][0]
    first = entries[0]
    return RuleModel(
        match=Selector(path=tuple(patterns)),
        **first.body,
        reason=reason,
        rule=first.assignment.rule,
        references=first.assignment.references,
        override=override,
    )


def _fold_entries(entries: Sequence[_Entry]) -> list[RuleModel]:
    """Rules in model order: per repeated name the commonest fill as a pattern, the exceptions as overrides."""
    everything = [e.path for e in entries]
    if len({e.key for e in entries}) == 1:
        return [_rule(["**"], entries, override=False)]
    buckets: dict[str, list[_Entry]] = {}
    for entry in entries:
        buckets.setdefault(skeleton(entry.path), []).append(entry)
    general: dict[str, tuple[list[str], list[_Entry]]] = {}
    special: dict[str, tuple[list[str], list[_Entry]]] = {}
    for bucket in buckets.values():
        groups: dict[str, list[_Entry]] = {}
        for entry in bucket:
            groups.setdefault(entry.key, []).append(entry)
        ranked = sorted(groups.values(), key=len, reverse=True)
        whole = fold([e.path for e in bucket], sorted(set(everything) - {e.path for e in bucket}))
        # One pattern for the whole bucket and exceptions after it, unless every group folds well by itself.
        apart = [fold([e.path for e in g], sorted(set(everything) - {e.path for e in g})) for g in ranked]
        as_exceptions = len(whole) == 1 and len(ranked) > 1 and sum(map(len, apart)) > len(ranked)
        for index, (group, patterns) in enumerate(zip(ranked, apart, strict=True)):
            exception = as_exceptions and index > 0
            used = list(whole) if as_exceptions and index == 0 else list(patterns)
            table = special if exception else general
            known = table.setdefault(group[0].key, ([], []))
            known[0].extend(used)
            known[1].extend(group)
    order = {path: index for index, path in enumerate(everything)}
    rules: list[RuleModel] = []
    for table, override in ((general, False), (special, True)):
        in_order = sorted(table.values(), key=lambda item: min(order[e.path] for e in item[1]))
        rules.extend(_rule(patterns, group, override=override) for patterns, group in in_order)
    return rules


def from_scheme(scheme: Scheme, spec: ModelSpec, provenance: Provenance) -> Document:
    """See :func:`initadvisor.recipes.recipe.recipe_from_scheme`."""
    if not provenance.fingerprint:
        provenance = provenance.model_copy(update={"fingerprint": spec.fingerprint})
    if scheme.kind is SchemeKind.CURRENT:
        keep = RuleModel(
            match=Selector(path=("**",)), init=KEEP, reason="the weights as they came are the best known", rule="keep"
        )
        return Document(name=scheme.name, summary=scheme.summary, rules=(keep,), provenance=provenance)
    by_path = {a.path: a for a in scheme.assignments}
    entries = []
    for param in spec.params:
        if param.tied_to is not None:
            continue
        assignment = by_path.get(param.path)
        if assignment is None:
            raise RecipeError(f'scheme "{scheme.name}" says nothing about {param.path}, so no recipe can be made of it')
        body = _body(param, spec, assignment)
        entries.append(_Entry(param.path, _key(body, assignment), body, assignment))
    calibrations = tuple(CalibrationModel(method=c.method, args=dict(c.args)) for c in scheme.calibrations)
    return Document(
        name=scheme.name,
        summary=scheme.summary,
        rules=tuple(_fold_entries(entries)),
        calibrations=calibrations,
        provenance=provenance,
    )


def _selector_lines(match: Selector, lead: str) -> list[str]:
    given = match.model_dump(exclude_defaults=True, by_alias=True, mode="json")
    given = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in given.items()}
    value: Any = given["path"] if set(given) == {"path"} else given
    if isinstance(value, str):
        return [f"{lead}match: {scalar(value)}"]
    inline = f"{lead}match: {flow(value)}"
    if len(inline) <= 110 or not isinstance(value, list):
        return [inline]
    indent = " " * len(lead)
    return [f"{lead}match:", *(f"{indent}  - {scalar(item)}" for item in value)]


def _slice_fields(model: SliceModel) -> dict[str, Any]:
    return {
        k: v for k, v in model.model_dump(exclude_defaults=True, by_alias=True, mode="json").items() if v is not None
    }


def _rule_lines(rule: RuleModel) -> list[str]:
    indent = "    "
    lines = _selector_lines(rule.match, "  - ")
    lines.append(f"{indent}init: {scalar(rule.init)}")
    if rule.gain != 1.0:
        lines.append(f"{indent}gain: {scalar(rule.gain) if isinstance(rule.gain, str) else number(rule.gain)}")
    if rule.scale is not None:
        lines.append(f"{indent}scale: {scalar(rule.scale)}")
    if rule.args:
        lines.extend(block("args", rule.args, indent))
    if rule.fans is not None:
        lines.extend(block("fans", rule.fans.model_dump(exclude_defaults=True, by_alias=True, mode="json"), indent))
    if rule.slices:
        lines.extend(block("slices", {k: _slice_fields(v) for k, v in rule.slices.items()}, indent))
    for flag in ("whole", "override", "optional"):
        if getattr(rule, flag):
            lines.append(f"{indent}{flag}: true")
    lines.extend(text_field("reason", rule.reason, indent))
    if rule.rule != "recipe":
        lines.append(f"{indent}rule: {scalar(rule.rule)}")
    if rule.references:
        lines.append(f"{indent}references: {flow(list(rule.references))}")
    return lines


def _provenance_lines(provenance: Provenance) -> list[str]:
    given = provenance.model_dump(exclude_defaults=True, mode="json")
    lines = []
    for key, value in given.items():
        if isinstance(value, dict):
            lines.extend(block(key, value, "  "))
        elif isinstance(value, str):
            lines.extend(text_field(key, value, "  "))
        else:
            lines.append(f"  {key}: {scalar(value)}")
    return ["provenance:", *lines] if lines else []


def write(recipe: Document) -> str:
    """Text of a recipe's file; reading it back gives an equal recipe."""
    lines = [
        "# Which weights are filled with what, and why. A path may hold * (one name), ** (any), {0..5} (a range).",
        f"# Use it with initadvisor.load_recipe(path).apply(model{', sample_batch' if recipe.needs_batch else ''}).",
        f"format: {recipe.format}",
        f"name: {scalar(recipe.name)}",
    ]
    if recipe.summary:
        lines.extend(text_field("summary", recipe.summary, ""))
    lines.extend(["", "rules:"])
    for index, rule in enumerate(recipe.rules):
        lines.extend(([""] if index else []) + _rule_lines(rule))
    if recipe.calibrations:
        lines.extend(["", "calibrations:"])
        for step in recipe.calibrations:
            lines.append(f"  - method: {scalar(step.method)}")
            if step.args:
                lines.extend(block("args", step.args, "    "))
    provenance = _provenance_lines(recipe.provenance)
    return "\n".join([*lines, *([""] if provenance else []), *provenance]) + "\n"
