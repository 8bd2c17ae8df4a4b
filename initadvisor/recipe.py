"""Recipes: which initializer goes where, as a file a person would write, read, edit and publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from torch import nn

from initadvisor.calls import trained_batch
from initadvisor.errors import RecipeError, nearest
from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.recipe_model import (
    FORMAT,
    KEEP,
    CalibrationModel,
    FansModel,
    FillModel,
    Provenance,
    RuleModel,
    SliceModel,
    _Strict,
    explain,
    migrate,
    parse_depth,
    parse_spans,
    register_migration,
)
from initadvisor.recipe_symbols import NEED_ANALYSIS, gain_value
from initadvisor.recipe_yaml import parse, read_text
from initadvisor.schemes.apply import apply_scheme
from initadvisor.schemes.paths import matches
from initadvisor.schemes.rules.fills import FAN_FREE, ONE_VALUE, default_fans, sliced_fans
from initadvisor.schemes.rules.reading import closes_branch
from initadvisor.schemes.scheme import ApplyResult, Assignment, Calibration, Fill, Part, Scheme, SchemeKind
from initadvisor.types import Fans, Role, Slice

__all__ = [
    "FORMAT",
    "Provenance",
    "Recipe",
    "load_recipe",
    "loads_recipe",
    "recipe_from_scheme",
    "recipe_schema",
    "register_migration",
]


class Recipe(_Strict):
    """An ordered list of rules ``match → init``, each with its reason, and where it comes from.

    Every trainable parameter must be matched by exactly one rule; a later rule may replace an earlier one only where it
    says ``override: true``. A rule that matches nothing is an error unless it says ``optional: true``: a rule that
    silently never runs is how scaling bugs are shipped.

    Example:
        >>> recipe = loads_recipe('''
        ... format: 1
        ... name: orthogonal
        ... rules:
        ...   - {match: "**.weight", init: orthogonal, gain: 1.4, reason: ReLU layers}
        ...   - {match: "**.bias", init: zeros, reason: no offset at the start}
        ... ''')
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [t.path for t in recipe.apply(model).filled]
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    format: int = FORMAT
    name: str = Field(min_length=1)
    summary: str = ""
    rules: tuple[RuleModel, ...] = Field(min_length=1)
    calibrations: tuple[CalibrationModel, ...] = ()
    provenance: Provenance = Provenance()

    @property
    def needs_analysis(self) -> bool:
        """Whether it speaks of roles, depth, activations or branches, which only a forward pass can tell."""
        return any(_rule_needs_analysis(rule) for rule in self.rules)

    def resolve(self, spec: ModelSpec) -> Scheme:
        """The scheme this recipe means for one model.

        Args:
            spec: the model's reading (:func:`initadvisor.analyze`).

        Raises:
            RecipeError: a parameter is matched by no rule or by several, a rule matches nothing, or a slice misfits.
        """
        names = _names_of(spec)
        chosen: dict[str, int] = {}
        for index, rule in enumerate(self.rules):
            found = [p for p in spec.params if p.tied_to is None and _selects(rule, p, spec, names[p.path])]
            if not found and not rule.optional:
                known = [n for alias in names.values() for n in alias]
                hint = f"; {nearest(rule.match.path[0], known)}" if rule.match.path else ""
                raise RecipeError(
                    f"{self._where(index)} matches no parameter{hint}; remove it or mark it optional: true"
                )
            for param in found:
                if param.path in chosen and not rule.override:
                    raise RecipeError(
                        f"{param.path} is matched by {self._where(chosen[param.path])} and by {self._where(index)}; "
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
                    f'no rule of recipe "{self.name}" matches {param.path} {param.shape}; add one, or say init: keep'
                )
            assignments.append(self._assignment(chosen[param.path], param, spec))
        calibrations = tuple(Calibration(c.method, tuple(sorted(c.args.items()))) for c in self.calibrations)
        return Scheme(
            self.name, SchemeKind.RECIPE, self.summary, tuple(assignments), calibrations, fingerprint=spec.fingerprint
        )

    def _where(self, index: int) -> str:
        rule = self.rules[index]
        selector = rule.match.model_dump(exclude_defaults=True, mode="json", by_alias=True)
        shown = ", ".join(f"{k}: {', '.join(v) if isinstance(v, list) else v}" for k, v in selector.items())
        return f"rule {index + 1} ({shown})"

    def _assignment(self, index: int, param: ParamSpec, spec: ModelSpec) -> Assignment:
        rule = self.rules[index]
        parts: tuple[Part, ...] = ()
        if rule.init != KEEP or any(s.init not in (None, KEEP) for s in rule.slices.values()):
            parts = _parts(rule, param, spec, f"{self._where(index)}: {param.path}")
        return Assignment(param.path, param.shape, parts, rule.rule, rule.reason, rule.references)

    def apply(
        self,
        model: nn.Module,
        sample_batch: Any = None,
        *,
        seed: int = 0,
        loss: Callable[..., Any] | None = None,
    ) -> ApplyResult:
        """Fill a model in place, with every protection and check of :func:`initadvisor.schemes.apply.apply_scheme`.

        Args:
            model: of the architecture the recipe is for; changed in place.
            sample_batch: one batch or a loader. Needed where the recipe speaks of roles, depth, activations or
                branches, or measures on data; the same seed gives the same weights with it and without.
            seed: any integer.
            loss: of the training, as in ``advise``: for steps that descend on it, and for how it calls the model; None
                infers it from the batch.

        Raises:
            RecipeError: it does not fit the model, or needs the batch.
            SchemeError: see :func:`initadvisor.schemes.apply.apply_scheme`. Nothing was changed.
            VerificationError: a tensor reads back wrong. Everything was put back.
        """
        for index, rule in enumerate(self.rules):
            if sample_batch is None and _rule_needs_analysis(rule):
                raise RecipeError(
                    f"{self._where(index)} speaks of what only a forward pass can tell (role, depth, activation or "
                    "branches); pass sample_batch"
                )
        batch = trained_batch(model, sample_batch, loss) if sample_batch is not None else None
        scheme = self.resolve(read_model(model, batch))
        return apply_scheme(scheme, model, seed=seed, batch=batch, loss=loss)

    def to_yaml(self) -> str:
        """The file's text: what a careful person would write, and to the bit what this recipe means."""
        from initadvisor.recipe_write import write

        return write(self)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_yaml` to a file.

        Raises:
            RecipeError: the file cannot be written.
        """
        try:
            Path(path).write_text(self.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{path}: cannot be written: {error.strerror or error}") from error

    def to_code(
        self,
        model: nn.Module | None = None,
        sample_batch: Any = None,
        *,
        seed: int = 0,
        loss: Callable[..., Any] | None = None,
    ) -> str:
        """Python source of ``init_weights(model, seed)`` that needs torch alone and gives the same weights to the bit.

        Args:
            model: needed only where the recipe speaks of roles, depth, activations or branches: the code is for its
                architecture.
            sample_batch: the batch to read that model with.
            seed: default of the function's ``seed``.
            loss: of the training, where that calls the model otherwise than with the batch.

        Raises:
            RecipeError: the recipe needs a model to be resolved, or measures on data.
        """
        from initadvisor.recipe_code import code

        if model is not None and sample_batch is not None:
            sample_batch = trained_batch(model, sample_batch, loss)
        return code(self, model, sample_batch, seed=seed)


def read_model(model: nn.Module, sample_batch: Any = None) -> ModelSpec:
    """The model's reading: by one forward pass where there is a batch, else from its layers alone."""
    if sample_batch is None:
        from initadvisor.graph.static import read_static

        return read_static(model)
    from initadvisor.graph.analyze import analyze

    return analyze(model, sample_batch)


def _names_of(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Canonical path -> every name of the tensor."""
    names: dict[str, list[str]] = {p.path: [p.path] for p in spec.params if p.tied_to is None}
    for param in spec.params:
        if param.tied_to is not None:
            names.setdefault(param.tied_to, [param.tied_to]).append(param.path)
    return {path: tuple(every) for path, every in names.items()}


def _rule_needs_analysis(rule: RuleModel) -> bool:
    fills: Sequence[FillModel] = (rule, *rule.slices.values())
    return rule.match.needs_analysis or any(isinstance(f.gain, str) or f.scale in NEED_ANALYSIS for f in fills)


def _selects(rule: RuleModel, param: ParamSpec, spec: ModelSpec, names: tuple[str, ...]) -> bool:
    match = rule.match
    if match.path and not any(matches(pattern, name) for pattern in match.path for name in names):
        return False
    if any(matches(pattern, name) for pattern in match.exclude for name in names):
        return False
    if match.role and param.role not in match.role:
        return False
    if match.module and param.module_type.removeprefix("Parametrized") not in match.module:
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
    own = part if part is not None and part.init is not None else rule
    if own.init in (None, KEEP):
        raise RecipeError(f"{what}: a packed tensor is kept or filled as a whole; give every slice an init")
    given = part.model_fields_set if part is not None else set()
    gain = part.gain if part is not None and ("gain" in given or part.init is not None) else rule.gain
    scale = part.scale if part is not None and ("scale" in given or part.init is not None) else rule.scale
    args = part.args if part is not None and ("args" in given or part.init is not None) else rule.args
    number = gain_value(gain, scale, param, spec)
    return Fill(str(own.init), number, tuple(sorted(args.items())))


def _parts(rule: RuleModel, param: ParamSpec, spec: ModelSpec, what: str) -> tuple[Part, ...]:
    own = _fans(rule.fans, default_fans(param, spec))
    if rule.whole or not (param.slices or rule.slices) or (rule.init in ONE_VALUE and not rule.slices):
        if rule.slices:
            raise RecipeError(f"{what}: whole and slices exclude each other")
        _demand_fans(rule, param, what)
        return (Part(_fill(rule, None, param, spec, what), own),)
    known = {s.name: s for s in param.slices}
    if rule.slices and any(s.at is not None for s in rule.slices.values()):
        known = {}
        for name, model in rule.slices.items():
            if model.at is None:
                raise RecipeError(f'{what}: slice "{name}" has no "at", though another has')
            known[name] = _placed(name, model, param, own)
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


def _placed(name: str, model: SliceModel, param: ParamSpec, own: Fans) -> Slice:
    """The slice a recipe describes by its rows, with the analysis's own slice where it is the same."""
    ranges = parse_spans(str(model.at))
    for known in param.slices:
        if known.name == name and known.ranges == ranges and known.dim == model.dim:
            return known
    role = Role(name) if name in {r.value for r in Role} else param.role
    size = sum(stop - start for start, stop in ranges)
    return Slice(name, model.dim, ranges, role, sliced_fans(own, param.shape, model.dim, size))


def _demand_fans(rule: RuleModel, param: ParamSpec, what: str) -> None:
    # A layer called Linear that is not torch's: the fans are written out where it is laid out otherwise.
    guessed = param.module_type == "Linear" and len(param.shape) == 2
    if rule.fans is None and param.fans is None and len(param.shape) >= 2 and rule.init not in FAN_FREE and not guessed:
        raise RecipeError(
            f"{what}: its fans cannot be told from the layer alone; pass sample_batch, or give fans in the recipe"
        )


def loads_recipe(text: str, source: str = "recipe") -> Recipe:
    """A recipe from its text.

    Args:
        text: YAML.
        source: name of the file, for messages.

    Raises:
        RecipeError: with line and field.

    Example:
        >>> loads_recipe('''format: 1
        ... name: x
        ... rules: [{match: "**", init: xavier_nromal, reason: typo}]''')
        Traceback (most recent call last):
        initadvisor.errors.RecipeError: recipe:3: rules[0].init: unknown initializer "xavier_nromal"; did you mean ...
    """
    data, lines = parse(text, source)
    data = migrate(data, source, lines)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, source, lines) from error


def load_recipe(path: str | Path) -> Recipe:
    """A recipe from a file. Its content is data: nothing in it is ever run.

    Raises:
        RecipeError: unreadable or invalid, with line and field.
    """
    return loads_recipe(read_text(path), str(path))


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe file, for editors and other tools.

    Example:
        >>> recipe_schema()["title"]
        'Recipe'
    """
    return Recipe.model_json_schema(by_alias=True)


def recipe_from_scheme(scheme: Scheme, spec: ModelSpec, provenance: Provenance | None = None) -> Recipe:
    """The recipe of a scheme, repeated blocks folded into patterns.

    Args:
        scheme: fully resolved; ``current`` becomes a recipe that keeps everything.
        spec: of the model it was made for.
        provenance: where it comes from; the spec's fingerprint is filled in where it names none.

    Raises:
        RecipeError: the scheme says nothing about a parameter of the spec.
    """
    from initadvisor.recipe_write import from_scheme

    return from_scheme(scheme, spec, provenance or Provenance())
