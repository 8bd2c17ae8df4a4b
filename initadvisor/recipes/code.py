"""A recipe as Python source that needs torch alone: its rules as calls, the initializers copied from this package.

Everything that comes from the recipe goes into the code as a literal (``repr`` of a value, an escaped docstring, one
line of a comment): recipes are files of strangers, and no text of theirs may become code.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from initadvisor.errors import RecipeError
from initadvisor.initializers import scaling
from initadvisor.initializers.registry import get as card_of
from initadvisor.plaintext import plain
from initadvisor.recipes import runtime as recipe_runtime
from initadvisor.recipes.document import Document
from initadvisor.recipes.model import KEEP, FansModel, FillModel, RuleModel, parse_spans
from initadvisor.recipes.resolve import read_model, resolve
from initadvisor.recipes.sources import Sources
from initadvisor.recipes.write import from_scheme
from initadvisor.schemes.rules.fills import ONE_VALUE
from initadvisor.types import Fans


def _function(init: str) -> tuple[Callable[..., Any], dict[str, Any], float]:
    """The function to copy for an initializer, arguments to bind and a factor on the gain.

    The variance-scaling cards are closures of one function, which is what is copied.
    """
    function = card_of(init).fn
    if not inspect.isfunction(function) or not function.__closure__:
        return function, {}, 1.0
    bound = inspect.getclosurevars(function).nonlocals
    return scaling.variance_scaling, {"mode": bound["mode"], "law": bound["law"]}, float(bound["factor"])


def _call(fill: FillModel, collector: Sources) -> str:
    """Source of a partial: the initializer with all but shape, fans and stream bound."""
    if fill.init in (None, KEEP):
        raise RecipeError("a packed tensor is kept or filled as a whole; give every slice an init")
    function, bound, factor = _function(str(fill.init))
    collector.add(function.__name__, function, sys.modules[function.__module__])
    collector.imports.add("from functools import partial")
    arguments = {"gain": float(fill.gain) * factor, **bound, **fill.args}
    listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"partial({function.__name__}, {listed})"


def _fans_source(given: FansModel) -> str:
    axes = f"{given.out_dim}, {given.in_dim}, {given.groups}, {given.batch_dims!r}"
    return f"Fans({given.fan_in!r}, {given.fan_out!r}, {axes})"


def _options(rule: RuleModel, collector: Sources) -> dict[str, str]:
    """Keyword arguments of one ``rule(...)`` call, as source."""
    options: dict[str, str] = {}
    match = rule.match
    if match.exclude:
        options["exclude"] = repr(match.exclude)
    if match.module:
        options["modules"] = repr(match.module)
    if match.min_dims:
        options["min_dims"] = repr(match.min_dims)
    if match.max_dims is not None:
        options["max_dims"] = repr(match.max_dims)
    if rule.fans is not None:
        options["fans"] = _fans_source(rule.fans)
    if rule.whole or (rule.init in ONE_VALUE and not rule.slices):
        options["whole"] = "True"
    if rule.override:
        options["override"] = "True"
    special = {n: _call(rule.filling(s), collector) for n, s in rule.slices.items() if _differs(s)}
    if special:
        options["parts"] = "{" + ", ".join(f"{n!r}: {c}" for n, c in special.items()) + "}"
    placed = {n: (s.dim, list(parse_spans(s.at))) for n, s in rule.slices.items() if s.at is not None}
    if placed:
        options["rows"] = repr(placed)
    counted = {n: s.fans for n, s in rule.slices.items() if s.fans is not None}
    if counted:
        options["counts"] = "{" + ", ".join(f"{n!r}: {_fans_source(f)}" for n, f in counted.items()) + "}"
    return options


def _differs(part: FillModel) -> bool:
    return bool(part.model_fields_set & {"init", "gain", "args"})


def _rule_source(rule: RuleModel, collector: Sources) -> list[str]:
    """One call, with the reason above it; on several lines where it is long."""
    init = "None" if rule.init in (None, KEEP) else _call(rule, collector)
    patterns = list(rule.match.path) or ["**"]
    arguments = [repr(patterns), init, *(f"{k}={v}" for k, v in _options(rule, collector).items())]
    lines = [f"# {line}" for line in textwrap.wrap(plain(rule.reason), _WIDTH)]
    call = f"rule({', '.join(arguments)})"
    if len(call) <= _WIDTH:
        return [*lines, call]
    if len(arguments[0]) > _WIDTH:
        arguments[0] = "[\n" + "".join(f"        {p!r},\n" for p in patterns) + "    ]"
    return [*lines, "rule(", *textwrap.indent(",\n".join(arguments) + ",", "    ").split("\n"), ")"]


_WIDTH = 100

_BODY = """
@torch.no_grad()
def init_weights(model, seed=%(seed)s):
    %(docstring)s
    plan = {}
    rule = partial(plan_rule, plan, model, seed)
%(rules)s

    write_plan(model, plan)
    return model
"""

_PROMISE = """
    Fills the model in place and returns it. Every tensor has a random stream of its own, named by its path, so the same
    seed gives the same weights to the bit, whatever the order or number of layers.
    """


def _docstring(text: str, rest: str = "") -> str:
    r"""A docstring that ends where it should, whatever the text: names and summaries come from files of strangers.

    Example:
        >>> evil = "a name " + 3 * '"' + " + run()"
        >>> eval(_docstring(evil)) == evil
        True
    """
    line = " ".join(plain(text).split())
    escaped = line.replace("\\", "\\\\")
    if 3 * '"' in escaped or escaped.endswith('"'):
        escaped = escaped.replace('"', '\\"')
    return f'"""{escaped}{chr(10) if rest else ""}{rest}"""'


def _concrete(recipe: Document, model: nn.Module | None, sample_batch: Any) -> Document:
    """The recipe with nothing left that depends on the model's sizes or graph."""
    scaled = any(f.scale is not None for rule in recipe.rules for f in (rule, *rule.slices.values()))
    if not recipe.needs_analysis and not scaled and sample_batch is None:
        return recipe
    if model is None or (recipe.needs_analysis and sample_batch is None):
        raise RecipeError(
            f'recipe "{recipe.name}" speaks of roles, depth, activations, branches or sizes; code is for one model: '
            "pass to_code(model, sample_batch)"
        )
    spec = read_model(model, sample_batch)
    return from_scheme(resolve(recipe, spec), spec, recipe.provenance)


def code(recipe: Document, model: nn.Module | None, sample_batch: Any, *, seed: int) -> str:
    """See :meth:`initadvisor.recipes.recipe.Recipe.to_code`."""
    if recipe.calibrations:
        steps = ", ".join(c.method for c in recipe.calibrations)
        raise RecipeError(
            f'recipe "{recipe.name}" measures on data ({steps}), which code for torch alone cannot repeat'
        )
    recipe = _concrete(recipe, model, sample_batch)
    if any("parametrizations" in pattern for rule in recipe.rules for pattern in rule.match.path):
        raise RecipeError(
            f'recipe "{recipe.name}" fills parametrized weights, which code for torch alone does not cover'
        )
    collector = Sources()
    for helper in ("plan_rule", "write_plan"):
        collector.add(helper, getattr(recipe_runtime, helper), recipe_runtime)
    collector.add("Fans", Fans, sys.modules[Fans.__module__])
    collector.imports.add("from functools import partial")
    rules: list[str] = []
    for rule in recipe.rules:
        rules.extend(["", *_rule_source(rule, collector)])
    collector.imports.add("from torch import nn")
    title = textwrap.shorten(recipe.summary or recipe.name, _WIDTH, placeholder=" …")
    main = _BODY % {
        "seed": repr(int(seed)),
        "docstring": _docstring(title, _PROMISE),
        "rules": textwrap.indent("\n".join(rules), "    "),
    }
    header = _docstring(f'Weights by the recipe "{recipe.name}": init_weights(model). Needs torch alone.')
    imports = "\n".join(_sorted(collector.imports))
    return "\n\n\n".join([f"{header}\n\n{imports}", main.strip(), *collector.texts()]) + "\n"


def _sorted(imports: Iterable[str]) -> list[str]:
    return sorted(imports, key=lambda line: ("torch" in line, line.startswith("from"), line))
