"""The user's optimizer, however it was given, as one plan that can be carried out on any copy of the model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from initadvisor.errors import InputError
from initadvisor.training.losses import quoted

SEARCH = "search"
"""Value of ``lr`` that asks for a grid even where the optimizer carries a rate of its own."""

GRID_FACTORS = (1 / 10, 1 / 3, 1.0, 10 / 3)
"""Rates of a chosen grid relative to its centre: half decades, two below and one above, since the centres are what
people use on shallow or normalised nets and deep plain ones want less."""

GRID_CENTRES: Mapping[str, float] = {
    "SGD": 0.1,
    "Adam": 3e-3,
    "AdamW": 3e-3,
    "NAdam": 3e-3,
    "RAdam": 3e-3,
    "Adamax": 5e-3,
    "RMSprop": 3e-3,
    "Adagrad": 3e-2,
    "Adadelta": 3.0,
    "Muon": 3e-2,
}
"""Rate that works on most small trainings, by class name; other classes take the default of their own signature."""

MOMENTUM_CENTRE = 0.03
"""Centre for SGD with momentum: the effective rate is larger by 1/(1−momentum), ten at the usual 0.9, in part made up
for by a finer grid."""

MOMENTUM_MATTERS = 0.5
"""Momentum from which that centre is used."""

FALLBACK_CENTRE = 1e-3
"""Centre for classes that name no default."""

Params = Sequence[Any]


@dataclass(frozen=True)
class Group:
    """One parameter group of an optimizer the user has built: names instead of tensors.

    Attributes:
        names: dotted paths of its parameters.
        options: its hyperparameters but for the rate.
        ratio: its rate over the base rate.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    ratio: float = 1.0


@dataclass(frozen=True)
class OptimizerPlan:
    """How to build the user's optimizer over the parameters of a member.

    Attributes:
        factory: what is called with parameters (and ``lr`` where ``takes_lr``).
        name: class name and settings, for the report.
        kind: the optimizer's class.
        takes_lr: the rate is an argument; otherwise the rates of the built groups are scaled.
        own_lr: the rate it carries, None where it has none of its own.
        groups: groups of an instance, empty otherwise.
        momentum: for the choice of a grid.
    """

    factory: Callable[..., Optimizer]
    name: str
    kind: type[Optimizer]
    takes_lr: bool
    own_lr: float | None
    groups: tuple[Group, ...] = ()
    momentum: float = 0.0

    def build(self, model: nn.Module, lr: float) -> Optimizer:
        """A fresh optimizer over ``model``'s parameters at base rate ``lr``."""
        if self.groups:
            by_name = dict(model.named_parameters(remove_duplicate=False))
            params: list[Any] = [
                {**dict(g.options), "params": [by_name[n] for n in g.names], "lr": lr * g.ratio} for g in self.groups
            ]
        else:
            params = list(model.parameters())
        if self.takes_lr:
            return self.factory(params, lr=lr)
        optimizer = self.factory(params)
        for group in optimizer.param_groups:
            if self.own_lr and "lr" in group:
                group["lr"] = float(group["lr"]) * lr / self.own_lr
        return optimizer

    @property
    def needs_closure(self) -> bool:
        """True for optimizers (L-BFGS) whose step evaluates the loss by itself, several times."""
        closure = inspect.signature(self.kind.step).parameters.get("closure")
        return closure is not None and closure.default is inspect.Parameter.empty


def normalise_optimizer(given: Any, model: nn.Module) -> OptimizerPlan:
    """Read an optimizer given as a class, a partial of one, an instance bound to ``model``, or a callable.

    Args:
        given: as in :func:`initadvisor.advise`; None is AdamW.
        model: the user's model: an instance's parameters are looked up in it by identity.

    Raises:
        InputError: it is none of these, is bound to other parameters, or cannot be built.

    Example:
        >>> plan = normalise_optimizer(partial(torch.optim.SGD, momentum=0.9), nn.Linear(2, 1))
        >>> plan.name, plan.own_lr
        ('SGD(momentum=0.9)', None)
    """
    if given is None:
        given = torch.optim.AdamW
    if isinstance(given, Optimizer):
        return _from_instance(given, model)
    if isinstance(given, type) and issubclass(given, Optimizer):
        return _from_class(given, {}, given, model)
    if isinstance(given, partial) and isinstance(given.func, type) and issubclass(given.func, Optimizer):
        if given.args:
            raise InputError(
                "optimizer= is a partial with parameters already in it; give partial(Class, momentum=…) only"
            )
        return _from_class(given.func, given.keywords, given, model)
    if callable(given) and not isinstance(given, nn.Module):
        return _from_callable(given, model)
    raise InputError(
        f"optimizer= is {type(given).__name__}; give a torch.optim class, functools.partial of one, an optimizer "
        "built on the model, or a callable params -> Optimizer"
    )


def _describe(kind: type[Optimizer], settings: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{k}={v}" for k, v in settings.items() if k != "lr")
    return f"{kind.__name__}({shown})"


def _from_class(
    kind: type[Optimizer], settings: Mapping[str, Any], factory: Callable[..., Optimizer], model: nn.Module
) -> OptimizerPlan:
    if "lr" not in inspect.signature(kind).parameters:
        return _from_callable(factory, model)
    own = settings.get("lr")
    plan = OptimizerPlan(
        factory,
        _describe(kind, settings),
        kind,
        takes_lr=True,
        own_lr=None if own is None else float(own),
        momentum=float(settings.get("momentum", 0.0)),
    )
    _try(lambda: plan.build(model, plan.own_lr or _centre(plan)))
    return plan


def _from_callable(factory: Callable[..., Any], model: nn.Module) -> OptimizerPlan:
    built = _try(lambda: factory(list(model.parameters())))
    if not isinstance(built, Optimizer):
        raise InputError(f"the optimizer callable returns {type(built).__name__}, not a torch.optim.Optimizer")
    first = built.param_groups[0]
    # An optimizer that has no rate at all is trained once, "at 1".
    own = float(first.get("lr", 1.0)) or None
    return OptimizerPlan(
        factory,
        _describe(type(built), _settings(type(built), first)),
        type(built),
        takes_lr=False,
        own_lr=own,
        momentum=float(first.get("momentum", 0.0) or 0.0),
    )


def _from_instance(given: Optimizer, model: nn.Module) -> OptimizerPlan:
    # Every name of a tied tensor maps back to one; the first is as good as any.
    names: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), name)
    kind = type(given)
    accepted = inspect.signature(kind).parameters
    # A scheduler keeps the rate it started from in "initial_lr"; "lr" has moved on by then.
    rates = [float(g.get("initial_lr", g.get("lr", math.nan))) for g in given.param_groups]
    base = next((r for r in rates if r > 0), math.nan)
    if not base > 0 or "lr" not in accepted:
        raise InputError(
            f"the optimizer {kind.__name__} has no positive lr; give a class, a partial or a callable instead"
        )
    groups = []
    for index, (group, rate) in enumerate(zip(given.param_groups, rates, strict=True)):
        foreign = [tuple(p.shape) for p in group["params"] if id(p) not in names]
        if foreign:
            raise InputError(
                f"group {index} of the optimizer holds a tensor of shape {foreign[0]} that is no parameter of this "
                "model; build the optimizer on the model you pass, or give its class"
            )
        options = {
            k: v
            for k, v in group.items()
            if k not in ("params", "lr", "initial_lr", "param_names") and (k in accepted or k not in given.defaults)
        }
        groups.append(Group(tuple(names[id(p)] for p in group["params"]), options, rate / base))
    settings = _settings(kind, given.param_groups[0])
    plan = OptimizerPlan(
        kind,
        _describe(kind, settings) + (f" in {len(groups)} groups" if len(groups) > 1 else ""),
        kind,
        takes_lr=True,
        own_lr=base,
        groups=tuple(groups),
        momentum=float(given.param_groups[0].get("momentum", 0.0) or 0.0),
    )
    _try(lambda: plan.build(model, base))
    return plan


def _settings(kind: type[Optimizer], group: Mapping[str, Any]) -> dict[str, Any]:
    """The group's settings that differ from the class's defaults: what a user would have typed."""
    try:
        defaults = {k: p.default for k, p in inspect.signature(kind).parameters.items()}
    except (TypeError, ValueError):
        return {}
    return {k: v for k, v in group.items() if k in defaults and k not in ("params", "lr") and _differs(v, defaults[k])}


def _differs(value: Any, default: Any) -> bool:
    """Whether a setting is another than the default; tensors and other large values are no text of a setting."""
    plain = isinstance(value, (bool, int, float, str, tuple, type(None)))
    return plain and value != default


def _try(build: Callable[[], Any]) -> Any:
    try:
        return build()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the optimizer cannot be built on the model's parameters: {quoted(error)}") from error


def _centre(plan: OptimizerPlan) -> float:
    if plan.kind.__name__ == "SGD" and plan.momentum >= MOMENTUM_MATTERS:
        return MOMENTUM_CENTRE
    if plan.kind.__name__ in GRID_CENTRES:
        return GRID_CENTRES[plan.kind.__name__]
    default = inspect.signature(plan.kind).parameters.get("lr")
    value = default.default if default is not None else None
    return float(value) if isinstance(value, (int, float)) and value > 0 else FALLBACK_CENTRE


def _rounded(rate: float) -> float:
    """A rate as people write it: one significant digit."""
    return float(f"{rate:.0e}")


def choose_rates(lr: Any, plan: OptimizerPlan) -> tuple[tuple[float, ...], bool]:
    """The learning rates to try, ascending, and whether there is only the user's own.

    Args:
        lr: a float (locked), a sequence (the grid), None (the optimizer's own, else a chosen grid), or ``"search"``.
        plan: the optimizer.

    Raises:
        InputError: not positive, not finite, or of another type.

    Example:
        >>> plan = normalise_optimizer(torch.optim.AdamW, nn.Linear(2, 1))
        >>> choose_rates(None, plan), choose_rates(0.01, plan)
        (((0.0003, 0.001, 0.003, 0.01), False), ((0.01,), True))
    """
    if lr is None and plan.own_lr is not None:
        lr = plan.own_lr
    if lr is None or (isinstance(lr, str) and lr == SEARCH):
        centre = plan.own_lr if plan.own_lr is not None else _centre(plan)
        return tuple(sorted({_rounded(centre * f) for f in GRID_FACTORS})), False
    if isinstance(lr, (bool, str, bytes)):
        raise InputError(f'lr={lr!r}; give a positive number, a sequence of them, None, or "{SEARCH}"')
    values = (lr,) if isinstance(lr, (int, float)) or (isinstance(lr, torch.Tensor) and lr.ndim == 0) else lr
    try:
        rates = tuple(sorted({float(v) for v in values}))
    except (TypeError, ValueError) as error:
        raise InputError(f'lr={lr!r}; give a positive number, a sequence of them, None, or "{SEARCH}"') from error
    if not rates or not all(math.isfinite(r) and r > 0 for r in rates):
        raise InputError(f"lr={lr!r}; every rate must be positive and finite")
    if plan.own_lr is None and not plan.takes_lr:
        raise InputError(
            f"{plan.kind.__name__} is built with lr=0, which cannot be scaled; build it with a positive lr"
        )
    return rates, len(rates) == 1
