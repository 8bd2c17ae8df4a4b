"""What a recipe file may say: the published schema, its versions, and errors that give line and field."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from initadvisor.errors import InitAdvisorError, RecipeError, RegistryError, nearest
from initadvisor.initializers.registry import get as card_of
from initadvisor.plaintext import excerpt
from initadvisor.recipes.symbols import GAINS, SCALES
from initadvisor.recipes.yaml import Lines
from initadvisor.references import cite
from initadvisor.schemes.paths import pattern_tokens
from initadvisor.types import Role

FORMAT = 1
"""Version of the recipe format that this code writes; older ones are brought up to it on loading."""

KEEP = "keep"
"""``init`` of a rule that leaves its tensors as they are."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SPAN = re.compile(r"(\d{1,18}) ?: ?(\d{1,18})", re.ASCII)
_DEPTH = re.compile(r"(\d{0,9}) ?(\.\.)? ?(\d{0,9})", re.ASCII)

_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def register_migration(from_format: int, migrate: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Say how a recipe of one older format becomes one of the next; loading runs them in turn.

    Args:
        from_format: the older version.
        migrate: takes the file's values and gives those of version ``from_format + 1``.

    Raises:
        RegistryError: that version has a migration.
    """
    if from_format in _MIGRATIONS:
        raise RegistryError(f"recipe format {from_format} has a migration already")
    _MIGRATIONS[from_format] = migrate


def _as_number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-6`` as text; a person who writes it means the number."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


Argument = Annotated[float | str, BeforeValidator(_as_number)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FansModel(_Strict):
    """Connection counts given by hand, for tensors whose use cannot be read from the layer that owns them."""

    fan_in: float = Field(alias="in", gt=0)
    fan_out: float = Field(alias="out", gt=0)
    out_dim: int = Field(0, ge=0)
    in_dim: int = Field(1, ge=0)
    groups: int = Field(1, ge=1)
    batch_dims: tuple[int, ...] = ()


class FillModel(_Strict):
    """How a region is filled."""

    init: str | None = None
    gain: Argument = 1.0
    scale: str | None = None
    args: dict[str, float | str] = Field(default_factory=dict)
    fans: FansModel | None = None

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, data: Any) -> Any:
        """Text such as ``1e-6`` as a number, but for arguments that are text by nature (the values of ``vector``)."""
        if not isinstance(data, dict) or not isinstance(data.get("args"), dict):
            return data
        textual: set[str] = set()
        with suppress(RegistryError):
            textual = {k for k, h in card_of(str(data.get("init"))).args.items() if isinstance(h.default, str)}
        return {**data, "args": {k: v if k in textual else _as_number(v) for k, v in data["args"].items()}}

    @field_validator("gain")
    @classmethod
    def _known_gain(cls, value: float | str) -> float | str:
        if isinstance(value, str) and value not in GAINS:
            raise ValueError(f"a gain is a number or one of {', '.join(GAINS)}; {nearest(value, GAINS)}")
        return value

    @field_validator("scale")
    @classmethod
    def _known_scale(cls, value: str | None) -> str | None:
        if value is not None and value not in SCALES:
            raise ValueError(f'unknown scale "{value}"; {nearest(value, SCALES)}')
        return value

    @field_validator("init")
    @classmethod
    def _known_initializer(cls, value: str | None) -> str | None:
        if value is not None and value != KEEP:
            try:
                card_of(value)
            except RegistryError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _known_arguments(self) -> Self:
        self.check_arguments()
        return self

    def check_arguments(self) -> None:
        """Whether the initializer takes these arguments.

        Raises:
            ValueError: it does not, or not these values.
        """
        if self.init in (None, KEEP):
            if self.init == KEEP and self.args:
                raise ValueError("keep takes no args")
            return
        card = card_of(str(self.init))
        for name, value in self.args.items():
            if name not in card.args:
                raise ValueError(f'{card.name} takes no argument "{name}"; {nearest(name, card.args)}')
            allowed = card.args[name]
            if isinstance(value, str) and isinstance(allowed.default, str):
                if allowed.choices and value not in allowed.choices:
                    raise ValueError(f'{card.name}: {name} is "{value}"; {nearest(value, allowed.choices)}')
            elif isinstance(value, str) != isinstance(allowed.default, str):
                wanted = "text" if isinstance(allowed.default, str) else "a number"
                raise ValueError(f"{card.name}: {name} must be {wanted}, not {value!r}")
            elif not isinstance(value, str):
                low, high = allowed.low, allowed.high
                if (low is not None and value < low) or (high is not None and value > high):
                    raise ValueError(f"{card.name}: {name} is {value:g}, allowed is {low} to {high}")


class SliceModel(FillModel):
    """One packed part; what it does not say it takes from its rule.

    ``at`` gives its rows (``"0:64"``, ``"0:8,24:32"``) along ``dim`` where the layer's class does not tell them.
    """

    at: str | None = None
    dim: int = Field(0, ge=0)

    @field_validator("at")
    @classmethod
    def _spans(cls, value: str | None) -> str | None:
        if value is not None:
            parse_spans(value)
        return value


def parse_spans(text: str) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of ``"0:8,24:32"``.

    Raises:
        ValueError: not of this form, or empty ranges.

    Example:
        >>> parse_spans("0:8,24:32")
        ((0, 8), (24, 32))
    """
    spans = []
    for item in text.split(","):
        found = _SPAN.fullmatch(item.strip())
        if found is None or int(found[1]) >= int(found[2]):
            raise ValueError(f'"{text}" is not a list of ranges like "0:64" or "0:8,24:32"')
        spans.append((int(found[1]), int(found[2])))
    return tuple(spans)


class Selector(_Strict):
    """Which parameters: all given conditions must hold. Roles, depth and branches need the sample batch to be read.

    ``ends_branch`` is true of what scales a residual branch: its last weight, or the norm scale behind that.
    """

    path: tuple[str, ...] = ()
    role: tuple[Role, ...] = ()
    depth: str | None = None
    module: tuple[str, ...] = ()
    exclude: tuple[str, ...] = Field((), alias="except")
    min_dims: int = Field(0, ge=0)
    max_dims: int | None = Field(None, ge=0)
    ends_branch: bool | None = None

    @field_validator("path", "module", "exclude", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("role", mode="before")
    @classmethod
    def _known_role(cls, value: Any) -> Any:
        value = (value,) if isinstance(value, str) else value
        known = {role.value for role in Role}
        for name in value if isinstance(value, (list, tuple)) else ():
            if isinstance(name, str) and name not in known:
                raise ValueError(f'unknown role "{name}"; {nearest(name, known)}')
        return value

    @field_validator("path", "exclude")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            pattern_tokens(pattern)
        return value

    @field_validator("depth")
    @classmethod
    def _span(cls, value: str | None) -> str | None:
        if value is not None:
            parse_depth(value)
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        ends, most = self.ends_branch, self.max_dims
        if not (self.path or self.role or self.depth or self.module or self.min_dims) and ends is None and most is None:
            raise ValueError('a match names at least one of path, role, depth, module; "**" matches everything')
        return self

    @property
    def needs_analysis(self) -> bool:
        """Whether only the executed graph can tell what it matches."""
        return bool(self.role) or self.depth is not None or self.ends_branch is not None


def parse_depth(text: str) -> tuple[int, int | None]:
    """Inclusive bounds of ``"3"``, ``"2..5"``, ``"4.."`` or ``"..3"``.

    Raises:
        ValueError: not of this form.

    Example:
        >>> parse_depth("2..5"), parse_depth("4.."), parse_depth("3")
        ((2, 5), (4, None), (3, 3))
    """
    found = _DEPTH.fullmatch(text.strip())
    if found is None or not (found[1] or found[3]):
        raise ValueError(f'"{text}" is not a depth like "3", "2..5" or "4.."')
    if found[2] is None:
        return int(found[1]), int(found[1])
    return int(found[1] or 0), int(found[3]) if found[3] else None


class RuleModel(FillModel):
    """One line of a recipe: what it matches, how that is filled, and why."""

    match: Selector
    init: str | None = Field(...)
    slices: dict[str, SliceModel] = Field(default_factory=dict)
    whole: bool = False
    reason: str = Field(min_length=1)
    rule: str = "recipe"
    references: tuple[str, ...] = ()
    override: bool = False
    optional: bool = False

    @field_validator("match", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, (str, list)) else value

    @model_validator(mode="after")
    def _fills_something(self) -> Self:
        if self.init is None and not (self.slices and all(s.init is not None for s in self.slices.values())):
            raise ValueError("init is null; name an initializer, or keep")
        for part in self.slices.values():
            self.filling(part).check_arguments()
        return self

    def filling(self, part: SliceModel | None) -> FillModel:
        """What fills a slice: itself where it names an initializer; else the rule, but for what the slice says."""
        own = part if part is not None and part.init is not None else self
        given = part.model_fields_set if part is not None and own is self else frozenset()
        values = {k: getattr(part if k in given else own, k) for k in ("gain", "scale", "args")}
        return FillModel.model_construct(init=own.init, **values)

    @field_validator("references", mode="before")
    @classmethod
    def _one_reference(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("references")
    @classmethod
    def _known_references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            try:
                cite(key)
            except RegistryError as error:
                raise ValueError(str(error)) from error
        return value


class CalibrationModel(_Strict):
    """A data-driven step after the fills."""

    method: str
    args: dict[str, Argument] = Field(default_factory=dict)


class Provenance(_Strict):
    """Where a recipe comes from: what ran, from which seed, for which model, and what was measured."""

    made_by: str = ""
    source: str = ""
    url: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    fingerprint: str = ""
    evidence: dict[str, Argument] = Field(default_factory=dict)


def migrate(data: dict[str, Any], source: str, lines: Lines) -> dict[str, Any]:
    """Values of a file of any known format as the current format has them.

    Raises:
        RecipeError: no format is given, or it is newer than this code or of an unknown age.
    """
    version = data.get("format")
    where = f"{source}:{lines.get(('format',), 1)}"
    if isinstance(version, bool) or not isinstance(version, int):
        raise RecipeError(f'{where}: "format" must be the number of the recipe format, now {FORMAT}')
    if version > FORMAT:
        raise RecipeError(
            f"{where}: format {version} is newer than this initadvisor knows ({FORMAT}); upgrade initadvisor"
        )
    while version < FORMAT:
        if version not in _MIGRATIONS:
            raise RecipeError(f"{where}: format {version} is unknown; known: {FORMAT}")
        data = _MIGRATIONS[version](dict(data))
        version += 1
        data["format"] = version
    return data


def explain(error: ValidationError, source: str, lines: Lines) -> RecipeError:
    """The first fault of a validation as one line with file, line and field."""
    faults = error.errors()
    first = faults[0]
    location = tuple(
        part for part in first["loc"] if not (isinstance(part, str) and part.startswith(("function-", "float", "str")))
    )
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), 1)
    field = "".join(f"[{p}]" if isinstance(p, int) else (f".{p}" if i else str(p)) for i, p in enumerate(location))
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown field; {nearest(str(location[-1]), _fields_at(location))}"
    elif first["type"] == "missing":
        message = "is required"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return RecipeError(f"{source}:{line}: {excerpt(field) or 'recipe'}: {excerpt(message)}{more}")


def _fields_at(location: tuple[Any, ...]) -> set[str]:
    """Fields that a mapping at ``location``'s parent may have, by the name used in files."""
    names = [p for p in location[:-1] if isinstance(p, str)]
    model: type[BaseModel]
    if "slices" in names:
        model = SliceModel
    elif names[-1:] == ["match"]:
        model = Selector
    elif names[-1:] == ["fans"]:
        model = FansModel
    elif names[:1] == ["rules"]:
        model = RuleModel
    elif names[:1] == ["calibrations"]:
        model = CalibrationModel
    elif names[:1] == ["provenance"]:
        model = Provenance
    else:
        return {"format", "name", "summary", "rules", "calibrations", "provenance"}
    return {field.alias or name for name, field in model.model_fields.items()}


__all__ = ["FORMAT", "KEEP", "InitAdvisorError", "RuleModel", "explain", "migrate", "register_migration"]
