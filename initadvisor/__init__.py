"""How should I initialise this network? Ask :func:`advise`; read with :func:`analyze`; audit with :func:`check`.

Names are loaded when first used, so that ``import initadvisor`` costs little beside ``import torch``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initadvisor.advisor import Advice, advise
    from initadvisor.checks.runner import check
    from initadvisor.errors import InitAdvisorError
    from initadvisor.graph.analyze import analyze
    from initadvisor.recipes.recipe import Recipe, load_recipe
    from initadvisor.report.metrics import report_metric as report
    from initadvisor.schemes.propose import propose

__version__ = "0.1.0"

_HOME = {
    "Advice": "initadvisor.advisor",
    "InitAdvisorError": "initadvisor.errors",
    "Recipe": "initadvisor.recipes.recipe",
    "advise": "initadvisor.advisor",
    "analyze": "initadvisor.graph.analyze",
    "check": "initadvisor.checks.runner",
    "load_recipe": "initadvisor.recipes.recipe",
    "propose": "initadvisor.schemes.propose",
    "report": "initadvisor.report",
}

__all__ = [
    "Advice",
    "InitAdvisorError",
    "Recipe",
    "__version__",
    "advise",
    "analyze",
    "check",
    "load_recipe",
    "propose",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOME[name])
    value = module if name == "report" else getattr(module, name)  # a package that can be called
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
