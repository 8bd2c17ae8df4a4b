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

from initadvisor import recipe_runtime
from initadvisor.errors import InitAdvisorError, RecipeError
from initadvisor.initializers import scaling
from initadvisor.initializers.registry import get as card_of
from initadvisor.recipe import Recipe, recipe_from_scheme
from initadvisor.recipe_model import KEEP, FansModel, FillModel, RuleModel, parse_spans
from initadvisor.schemes.rules.fills import ONE_VALUE
from initadvisor.types import Fans

_PACKAGE = "initadvisor"

_SCALES = {"1/sqrt(width)": "p.shape[-1] ** -0.5", "1/sqrt(fan_in)": "fans.fan_in ** -0.5"}


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
    gain = repr(float(fill.gain) * factor)
    if fill.scale is not None:
        # A computed gain is rounded as the recipe's reader rounds it.
        gain = f"float(f'{{{gain} * {_SCALES[fill.scale]}:.6g}}')"
    arguments = {**bound, **fill.args}
    listed = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return f"partial({function.__name__}, gain={gain}{listed})"


def _fans_source(given: FansModel | None, fallback: str) -> str:
    if given is None:
        return fallback
    axes = f"{given.out_dim}, {given.in_dim}, {given.groups}, {given.batch_dims!r}"
    return f"Fans({given.fan_in!r}, {given.fan_out!r}, {axes})"


def _part_sources(rule: RuleModel, collector: _Collector) -> list[str]:
    """Lines that build ``parts`` for one parameter of a rule."""
    if rule.whole or (rule.init in ONE_VALUE and not rule.slices):
        return ["parts = []"]
    own = _call(rule, collector) if rule.init not in (None, KEEP) else None
    if not rule.slices:
        return [
            f"draws = {own}",
            "parts = [(n, 0, spans, draws, part_fans(fans, p.shape, 0, spans)) "
            "for n, spans in layer_parts(module, name, p.shape)]",
        ]
    if all(s.at is None for s in rule.slices.values()):
        calls = {n: _call(_inherit(rule, s), collector) for n, s in rule.slices.items()}
        table = ", ".join(f"{n!r}: {c}" for n, c in calls.items())
        return [
            f"special = {{{table}}}",
            f"parts = [(n, 0, spans, special.get(n, {own}), part_fans(fans, p.shape, 0, spans)) "
            "for n, spans in layer_parts(module, name, p.shape)]",
        ]
    lines = ["parts = ["]
    for name, part in rule.slices.items():
        spans = [list(span) for span in parse_spans(str(part.at))]
        fans = _fans_source(part.fans, f"part_fans(fans, p.shape, {part.dim}, {spans})")
        lines.append(f"    ({name!r}, {part.dim}, {spans}, {_call(_inherit(rule, part), collector)}, {fans}),")
    return [*lines, "]"]


def _inherit(rule: RuleModel, part: FillModel) -> FillModel:
    """A slice with what it does not say taken from its rule."""
    if part.init is not None:
        return part
    given = part.model_fields_set
    values = {k: getattr(part if k in given else rule, k) for k in ("gain", "scale", "args")}
    return FillModel.model_validate({"init": rule.init, **values})


def _rule_source(rule: RuleModel, collector: _Collector) -> list[str]:
    lines = [f"# {line}" for line in textwrap.wrap(rule.reason, 100)]
    patterns, exclude = list(rule.match.path) or ["**"], list(rule.match.exclude)
    lines.append(f"for path in select(model, {patterns!r}, {exclude!r}):")
    if rule.init == KEEP and not rule.slices:
        return [*lines, "    plan[path] = None"]
    body = [
        "p, module, name = where(model, path)",
        f"fans = {_fans_source(rule.fans, 'layer_fans(module, name, tuple(p.shape))')}",
        *_part_sources(rule, collector),
    ]
    whole = _call(rule, collector) if rule.init not in (None, KEEP) else "None"
    body.append(f"plan[path] = partial(draw, {whole}, seed, path, p, fans, parts)")
    conditions = []
    if rule.match.module:
        conditions.append(f"type(module).__name__ in {list(rule.match.module)!r}")
    if rule.match.min_dims:
        conditions.append(f"p.ndim >= {rule.match.min_dims}")
    if rule.match.max_dims is not None:
        conditions.append(f"p.ndim <= {rule.match.max_dims}")
    if conditions:
        body = [body[0], f"if not ({' and '.join(conditions)}):", "    continue", *body[1:]]
    return [*lines, *(f"    {line}" for line in body)]


_BODY = '''
@torch.no_grad()
def init_weights(model, seed=%(seed)d):
    """Fill the model's weights in place; every tensor has a random stream of its own, named by its path.

    %(title)s
    """
    plan, written = {}, set()
%(rules)s
    for path in select(model, ["**"], []):
        if path not in plan:
            raise ValueError(f"no rule fills {path}")
        if plan[path] is None:
            continue
        p, module, name = where(model, path)
        value = plan[path]()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.padding_idx is not None:
            value[module.padding_idx] = 0
        p.copy_(value)
        written.add(id(p))
    for module in model.modules():
        own = [id(p) for p in module.parameters(recurse=False)]
        if hasattr(module, "reset_running_stats") and own and written.issuperset(own):
            module.reset_running_stats()
    return model
'''


def _concrete(recipe: Recipe, model: nn.Module | None, sample_batch: Any) -> Recipe:
    """The recipe with nothing left that only a forward pass can tell."""
    if not recipe.needs_analysis:
        return recipe
    if model is None or sample_batch is None:
        raise RecipeError(
            f'recipe "{recipe.name}" speaks of roles, depth, activations or branches; its code is for one model: '
            "pass to_code(model, sample_batch)"
        )
    from initadvisor.graph.analyze import analyze

    spec = analyze(model, sample_batch)
    return recipe_from_scheme(recipe.resolve(spec), spec, recipe.provenance)


def code(recipe: Recipe, model: nn.Module | None, sample_batch: Any, *, seed: int) -> str:
    """See :meth:`initadvisor.recipe.Recipe.to_code`."""
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
    for helper in ("stream", "select", "where", "layer_fans", "part_fans", "layer_parts", "draw"):
        collector.add(helper, getattr(recipe_runtime, helper), recipe_runtime)
    collector.add("Fans", Fans, sys.modules[Fans.__module__])
    rules: list[str] = []
    for rule in recipe.rules:
        rules.extend(["", *_rule_source(rule, collector)])
    collector.imports.add("from torch import nn")
    title = " ".join(textwrap.wrap(recipe.summary or recipe.name, 100)[:1])
    main = _BODY % {"seed": seed, "title": title, "rules": textwrap.indent("\n".join(rules), "    ")}
    header = f'"""Weights by the recipe "{recipe.name}": init_weights(model). Needs torch alone."""'
    imports = "\n".join(_sorted(collector.imports))
    return "\n\n\n".join([f"{header}\n\n{imports}", main.strip(), *collector.sources.values()]) + "\n"


def _sorted(imports: Iterable[str]) -> list[str]:
    return sorted(imports, key=lambda line: ("torch" in line, line.startswith("from"), line))
