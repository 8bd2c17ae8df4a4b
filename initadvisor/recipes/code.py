"""A recipe as Python source that needs torch alone: its rules as calls, the initializers copied from this package.

The functions in the generated code are taken from the package's own source, so that they cannot drift apart; their
annotations and docstrings are left out and this package's errors become ``ValueError``.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from torch import nn

from initadvisor.errors import InitAdvisorError, RecipeError
from initadvisor.initializers import scaling
from initadvisor.initializers.registry import get as card_of
from initadvisor.recipes import runtime as recipe_runtime
from initadvisor.recipes.document import Document
from initadvisor.recipes.model import KEEP, FansModel, FillModel, RuleModel, parse_spans
from initadvisor.recipes.resolve import read_model, resolve
from initadvisor.recipes.write import from_scheme
from initadvisor.schemes.rules.fills import ONE_VALUE
from initadvisor.types import Fans

_PACKAGE = "initadvisor"


class _Bare(ast.NodeTransformer):
    """Leaves out annotations and docstrings."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs, node.args.kwarg, node.args.vararg):
            if argument is not None:
                argument.annotation = None
        if ast.get_docstring(node) is not None and len(node.body) > 1:
            node.body = node.body[1:]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def _names_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


class _Collector:
    """Source of functions and of everything of this package that they use, in an order that runs."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self.imports: set[str] = {"import torch"}

    def add(self, name: str, value: Any, module: ModuleType) -> None:
        """Copy ``value``, which ``module`` calls ``name``, with all it needs."""
        if name in self.sources:
            return
        if isinstance(value, type) and issubclass(value, InitAdvisorError):
            self.sources[name] = f"{name} = ValueError"
            return
        if name == "nearest":
            self.sources[name] = "def nearest(name, known):\n    return 'known: ' + ', '.join(known)"
            return
        home = sys.modules[value.__module__] if isinstance(value, type) or inspect.isfunction(value) else module
        if isinstance(value, type):
            tree: ast.AST = ast.parse(textwrap.dedent(inspect.getsource(value)))
            self.imports.add("from dataclasses import dataclass")
            _drop_docstrings(tree)
        elif inspect.isfunction(value):
            tree = _Bare().visit(ast.parse(textwrap.dedent(inspect.getsource(value))))
        else:
            tree = _Bare().visit(_assignment(name, home))
        self.sources[name] = ""  # breaks recursion
        self._needs(tree, home)
        del self.sources[name]
        self.sources[name] = ast.unparse(ast.fix_missing_locations(tree))

    def _needs(self, tree: ast.AST, home: ModuleType) -> None:
        for used in sorted(_names_in(tree)):
            if used not in vars(home) or hasattr(builtins, used):
                continue
            value = vars(home)[used]
            if isinstance(value, ModuleType):
                alias = f" as {used}" if used != value.__name__ else ""
                self.imports.add(
                    "from torch import nn" if value.__name__ == "torch.nn" else f"import {value.__name__}{alias}"
                )
            elif getattr(value, "__module__", _PACKAGE).startswith(_PACKAGE):
                self.add(used, value, _defining(used, home))


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]


def _defining(name: str, module: ModuleType) -> ModuleType:
    """The module in which a constant that ``module`` uses is assigned."""
    tree = ast.parse(inspect.getsource(module))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and any((a.asname or a.name) == name for a in node.names):
            return sys.modules[node.module]
    return module


def _assignment(name: str, module: ModuleType) -> ast.Module:
    """The statement that assigns a module's constant."""
    for node in ast.parse(inspect.getsource(module)).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return ast.Module(body=[node], type_ignores=[])
    raise RecipeError(f"{module.__name__} has no constant {name} to copy into the generated code")


def _function(init: str) -> tuple[Callable[..., Any], dict[str, Any], float]:
    """The function to copy for an initializer, arguments to bind and a factor on the gain.

    The variance-scaling cards are closures of one function, which is what is copied.
    """
    function = card_of(init).fn
    if not inspect.isfunction(function) or not function.__closure__:
        return function, {}, 1.0
    bound = inspect.getclosurevars(function).nonlocals
    return scaling.variance_scaling, {"mode": bound["mode"], "law": bound["law"]}, float(bound["factor"])


def _call(fill: FillModel, collector: _Collector) -> str:
    """Source of a partial: the initializer with all but shape, fans and stream bound."""
    function, bound, factor = _function(str(fill.init))
    collector.add(function.__name__, function, sys.modules[function.__module__])
    collector.imports.add("from functools import partial")
    arguments = {"gain": float(fill.gain) * factor, **bound, **fill.args}
    listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"partial({function.__name__}, {listed})"


def _fans_source(given: FansModel | None) -> str:
    if given is None:
        return "None"
    axes = f"{given.out_dim}, {given.in_dim}, {given.groups}, {given.batch_dims!r}"
    return f"Fans({given.fan_in!r}, {given.fan_out!r}, {axes})"


def _inherit(rule: RuleModel, part: FillModel) -> FillModel:
    """A slice with what it does not say taken from its rule."""
    if part.init is not None:
        return part
    given = part.model_fields_set
    values = {k: getattr(part if k in given else rule, k) for k in ("gain", "scale", "args")}
    return FillModel.model_validate({"init": rule.init, **values})


def _options(rule: RuleModel, collector: _Collector) -> dict[str, str]:
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
    special = {n: _call(_inherit(rule, s), collector) for n, s in rule.slices.items() if _differs(s)}
    if special:
        options["parts"] = "{" + ", ".join(f"{n!r}: {c}" for n, c in special.items()) + "}"
    placed = {n: s for n, s in rule.slices.items() if s.at is not None}
    if placed:
        places = (
            f"{n!r}: ({s.dim}, {list(parse_spans(str(s.at)))}, {_fans_source(s.fans)})" for n, s in placed.items()
        )
        options["rows"] = "{" + ", ".join(places) + "}"
    return options


def _differs(part: FillModel) -> bool:
    return bool(part.model_fields_set & {"init", "gain", "args"})


def _rule_source(rule: RuleModel, collector: _Collector) -> list[str]:
    """One call, with the reason above it; on several lines where it is long."""
    init = "None" if rule.init in (None, KEEP) else _call(rule, collector)
    patterns = list(rule.match.path) or ["**"]
    arguments = [repr(patterns), init, *(f"{k}={v}" for k, v in _options(rule, collector).items())]
    lines = [f"# {line}" for line in textwrap.wrap(rule.reason, _WIDTH)]
    call = f"rule({', '.join(arguments)})"
    if len(call) <= _WIDTH:
        return [*lines, call]
    if len(arguments[0]) > _WIDTH:
        arguments[0] = "[\n" + "".join(f"        {p!r},\n" for p in patterns) + "    ]"
    return [*lines, "rule(", *textwrap.indent(",\n".join(arguments) + ",", "    ").split("\n"), ")"]


_WIDTH = 100

_BODY = '''
@torch.no_grad()
def init_weights(model, seed=%(seed)d):
    """%(title)s

    Fills the model in place and returns it. Every tensor has a random stream of its own, named by its path, so the same
    seed gives the same weights to the bit, whatever the order or number of layers.
    """
    plan = {}
    rule = partial(plan_rule, plan, model, seed)
%(rules)s

    write_plan(model, plan)
    return model
'''


def _concrete(recipe: Document, model: nn.Module | None, sample_batch: Any) -> Document:
    """The recipe with nothing left that depends on the model's sizes or graph."""
    scaled = any(f.scale is not None for rule in recipe.rules for f in (rule, *rule.slices.values()))
    if not recipe.needs_analysis and not scaled:
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
    collector = _Collector()
    for helper in ("plan_rule", "write_plan"):
        collector.add(helper, getattr(recipe_runtime, helper), recipe_runtime)
    collector.add("Fans", Fans, sys.modules[Fans.__module__])
    collector.imports.add("from functools import partial")
    rules: list[str] = []
    for rule in recipe.rules:
        rules.extend(["", *_rule_source(rule, collector)])
    collector.imports.add("from torch import nn")
    title = textwrap.shorten(recipe.summary or recipe.name, _WIDTH, placeholder=" …").replace('"""', "'")
    main = _BODY % {"seed": seed, "title": title, "rules": textwrap.indent("\n".join(rules), "    ")}
    header = f'"""Weights by the recipe "{recipe.name}": init_weights(model). Needs torch alone."""'
    imports = "\n".join(_sorted(collector.imports))
    return "\n\n\n".join([f"{header}\n\n{imports}", main.strip(), *collector.sources.values()]) + "\n"


def _sorted(imports: Iterable[str]) -> list[str]:
    return sorted(imports, key=lambda line: ("torch" in line, line.startswith("from"), line))
