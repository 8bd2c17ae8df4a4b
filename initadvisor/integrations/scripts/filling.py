"""Puts a candidate's weights into a network before its first step, and makes what was equal to it equal again."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from initadvisor.errors import InitAdvisorError, InputError, RecipeError
from initadvisor.integrations.scripts.messages import Filled, Filling
from initadvisor.integrations.scripts.networks import Network, NetworkKey, key_of, live_modules, unwrapped
from initadvisor.recipes.recipe import Recipe, loads_recipe
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.data import Batch

FEWEST_EQUAL = 4
"""Elements from which equal tensors are equal because one was copied from the other; two that hold one constant are
not."""


def fill(
    fillings: Sequence[Filling], networks: Sequence[Network], optimizers: Sequence[Optimizer], call: Batch | None
) -> tuple[Filled, ...]:
    """Fill the networks of a training in place.

    Args:
        fillings: what to put in.
        networks: of the training, before their first step.
        optimizers: that hold them.
        call: what the network at hand is about to be called with, for recipes that speak of roles.

    Returns:
        What was done, one entry per filling.
    """
    return tuple(_fill(filling, networks, optimizers, call) for filling in fillings)


def _fill(filling: Filling, networks: Sequence[Network], optimizers: Sequence[Optimizer], call: Batch | None) -> Filled:
    if filling.key is not None:
        module = find(filling.key, networks, optimizers)
        if module is None:
            return Filled(filling.key.kind, 0, fault=f"no {filling.key.kind} with these parameters is trained here")
        scheme: Scheme = pickle.loads(filling.scheme or b"")
        return _write(
            type(module).__name__, module, lambda: scheme.apply(module, seed=filling.seed, batch=scheme.batch)
        )
    recipe = loads_recipe(filling.recipe or "")
    try:
        module, batch = _fitting(recipe, filling.network, networks, call)
    except InputError as error:
        return Filled(filling.network or recipe.name, 0, fault=str(error))
    name = next((n.name for n in networks if module in n.same), "") or type(module).__name__
    return _write(name, module, lambda: recipe.apply(module, batch, seed=filling.seed))


def _write(name: str, module: nn.Module, write: Any) -> Filled:
    """Write, and carry over what was written to copies of it."""
    before = {p: p.detach().clone() for p in module.parameters()}
    try:
        result = write()
    except (InitAdvisorError, RuntimeError, ValueError, TypeError) as error:
        return Filled(name, 0, fault=" ".join(str(error).split()))
    return Filled(name, len(result.filled), copies_follow(module, before))


def find(key: NetworkKey, networks: Sequence[Network], optimizers: Sequence[Optimizer]) -> nn.Module | None:
    """The module that a key was made of, in this process."""
    around = [m for n in networks for m in (*n.same, *n.module.modules())]
    for module in dict.fromkeys(around):
        if type(module).__qualname__ == key.kind and key_of(module, optimizers) == key:
            return module
    return None


def _fitting(
    recipe: Recipe, name: str, networks: Sequence[Network], call: Batch | None
) -> tuple[nn.Module, Batch | None]:
    """The network and the level of wrapping that a recipe's paths fit.

    Raises:
        InputError: none, or several.
    """
    named = [n for n in networks if not name or n.name == name]
    if not named:
        known = ", ".join(n.name or type(n.module).__name__ for n in networks)
        raise InputError(f'the script trains no network called "{name}"; it trains {known}')
    faults: list[str] = []
    fitting: list[tuple[nn.Module, Batch | None]] = []
    for network in named:
        for module in network.same:
            batch = call if call is not None and _takes(module, call) else None
            try:
                _resolve(recipe, module, batch)
            except (InitAdvisorError, RuntimeError, ValueError, TypeError) as error:
                faults.append(str(error))
                continue
            fitting.append((module, batch))
            break
    if not fitting:
        raise InputError(f"the recipe fits no network of the script: {faults[0] if faults else 'none is trained'}")
    if len(fitting) > 1:
        known = ", ".join(n.name or type(n.module).__name__ for n in named)
        raise InputError(f"the recipe fits several networks ({known}); name one with --network")
    return fitting[0]


def _takes(module: nn.Module, call: Batch) -> bool:
    return call.through is None and call.raw is module


def _resolve(recipe: Recipe, module: nn.Module, batch: Batch | None) -> None:
    """Prove that a recipe fits, on a copy on the meta device where it needs no values.

    Raises:
        RecipeError: it does not.
    """
    from initadvisor.recipes.resolve import read_model

    scheme = recipe.resolve(read_model(module, batch))
    if not scheme.assignments:
        raise RecipeError("the recipe fills nothing of it")


def copies_follow(module: nn.Module, before: Mapping[nn.Parameter, torch.Tensor]) -> int:
    """Make copies that were equal to a network before it was filled equal to it again.

    Averaged weights, target networks and reference policies are made before the first step and must start where the
    network starts. Modules of the same parameters are found by their values, and so are lone tensors (averages kept in
    a dict), if they are no constant.

    Args:
        module: filled.
        before: parameter -> what it held.

    Returns:
        How many tensors followed.

    Example:
        >>> import copy
        >>> net = nn.Linear(8, 8); target = copy.deepcopy(net)
        >>> before = {p: p.detach().clone() for p in net.parameters()}
        >>> _ = nn.init.ones_(net.weight)
        >>> copies_follow(net, before) >= 1, bool((target.weight == 1).all())
        (True, True)
    """
    own = {id(p) for p in module.parameters()}
    followed: set[int] = set()
    with torch.no_grad():
        for twin in _twins(module, before):
            for name, theirs in twin.named_parameters():
                mine = module.get_parameter(name)
                if id(theirs) not in own and id(theirs) not in followed:
                    theirs.data.copy_(mine)
                    followed.add(id(theirs))
        kept = own | followed | {id(t) for t in before.values()}
        followed |= _lone_tensors_follow(before, kept)
    return len(followed)


def twins_of(module: nn.Module) -> list[nn.Module]:
    """Modules with the parameters of ``module`` in name, shape and value, that are not it or a wrapper of it."""
    return _twins(module, {p: p.detach() for p in module.parameters()})


def _twins(module: nn.Module, before: Mapping[nn.Parameter, torch.Tensor]) -> list[nn.Module]:
    mine = dict(module.named_parameters())
    if any(is_lazy(p) for p in mine.values()):
        return []
    shapes = {name: p.shape for name, p in mine.items()}
    found = []
    for other in live_modules():
        if other is module or unwrapped(other) is module:
            continue
        theirs = dict(other.named_parameters())
        if any(is_lazy(p) for p in theirs.values()):
            continue
        if {name: p.shape for name, p in theirs.items()} != shapes or any(theirs[n] is mine[n] for n in mine):
            continue
        if all(theirs[n].device == p.device and torch.equal(theirs[n].detach(), before[p]) for n, p in mine.items()):
            found.append(other)
    return found


def _lone_tensors_follow(before: Mapping[nn.Parameter, torch.Tensor], kept: Iterable[int]) -> set[int]:
    by_shape: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for p, old in before.items():
        if old.numel() >= FEWEST_EQUAL and not bool((old == old.flatten()[0]).all()):
            by_shape.setdefault((tuple(p.shape), p.dtype, p.device), []).append(p)
    storages = {p.data_ptr() for p in before}
    done: set[int] = set()
    kept = set(kept)
    for other in gc.get_objects():
        # Subclasses (fake tensors of a compiler, distributed ones) hold no values of their own to compare.
        if type(other) not in (torch.Tensor, nn.Parameter) or id(other) in kept:
            continue
        if other.is_meta or other.layout is not torch.strided:
            continue
        for p in by_shape.get((tuple(other.shape), other.dtype, other.device), ()):
            if other.data_ptr() not in storages and torch.equal(other.detach(), before[p]):
                other.detach().copy_(p.detach())
                done.add(id(other))
                break
    return done
