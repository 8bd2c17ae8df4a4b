"""Which modules are trained together, told by what the optimizers hold."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

INNER = ("_orig_mod", "module", "_fsdp_wrapped_module")
"""Where wrappers keep what they wrap: compiled modules, data-parallel ones, sharded ones."""

WRAPPERS = ("OptimizedModule", "DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
"""Classes of wrappers that compute what the module in them computes."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside compiled and parallel wrappers.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(net)) is net
        True
    """
    while type(module).__name__ in WRAPPERS:
        inner = next((m for m in map(module._modules.get, INNER) if isinstance(m, nn.Module)), None)
        if inner is None:
            return module
        module = inner
    return module


def held_by(optimizer: Optimizer) -> list[torch.Tensor]:
    """What an optimizer holds, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def live_modules() -> list[nn.Module]:
    """Every module of the process but wrappers, outer ones before those in them."""
    # `type` rather than `isinstance`, which asks proxies for their class and so may run code of theirs.
    found = [o for o in gc.get_objects() if issubclass(type(o), nn.Module) and "_modules" in vars(o)]
    plain = [m for m in found if unwrapped(m) is m]
    return sorted(plain, key=lambda m: -sum(1 for _ in m.modules()))


@dataclass(frozen=True, slots=True)
class NetworkKey:
    """What tells a network again in another process of the same script.

    Attributes:
        kind: name of its class.
        digest: of the names and shapes of its parameters.
        optimizer: which of the script's optimizers holds it, in the order they were made.
        place: where its first held parameter stands among what that one holds.
    """

    kind: str
    digest: str
    optimizer: int
    place: int


@dataclass(eq=False)
class Network:
    """Modules that are trained together.

    Attributes:
        module: the smallest one that holds all of it; of several that hold the same, the one that is called.
        same: those several, outer ones first.
        optimizers: numbers of the optimizers that hold it.
        held: identities of the parameters they hold.
        name: what the script calls it.
    """

    module: nn.Module
    same: tuple[nn.Module, ...]
    optimizers: tuple[int, ...]
    held: frozenset[int]
    name: str = ""
    tensors: tuple[torch.Tensor, ...] = field(default=(), repr=False)  # keeps the identities in `held` theirs

    def is_held(self, parameter: torch.Tensor) -> bool:
        """Whether an optimizer holds it."""
        return id(parameter) in self.held

    @property
    def left(self) -> tuple[str, ...]:
        """Trainable parameters of the module that no optimizer holds."""
        return tuple(n for n, p in self.module.named_parameters() if p.requires_grad and not self.is_held(p))

    def key(self, optimizers: Sequence[Optimizer]) -> NetworkKey:
        """What tells it again in another process."""
        return key_of(self.module, optimizers)


def key_of(module: nn.Module, optimizers: Sequence[Optimizer]) -> NetworkKey:
    """The key of a module that an optimizer holds something of."""
    names = ";".join(f"{n}:{tuple(p.shape)}" for n, p in module.named_parameters(remove_duplicate=False))
    mine = {id(p) for p in module.parameters()}
    for number, optimizer in enumerate(optimizers):
        places = (place for place, p in enumerate(held_by(optimizer)) if id(p) in mine)
        place = next(places, None)
        if place is not None:
            return NetworkKey(type(module).__qualname__, _digest(names), number, place)
    return NetworkKey(type(module).__qualname__, _digest(names), -1, -1)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Tree:
    """The live modules and what each holds."""

    def __init__(self, modules: Iterable[nn.Module], held: frozenset[int]) -> None:
        holding: dict[nn.Module, frozenset[int]] = {}
        for module in modules:
            mine = frozenset(id(p) for p in module.parameters())
            if mine & held:
                holding[module] = mine
        self.holding = holding

    def smallest(self, held: frozenset[int]) -> nn.Module | None:
        """The smallest module that holds all of ``held``."""
        around = [m for m, mine in self.holding.items() if held <= mine]
        return min(around, key=lambda m: len(self.holding[m]), default=None)

    def pieces(self, held: frozenset[int]) -> list[nn.Module]:
        """Largest modules whose trainable parameters are all in ``held``, until all of it is in one."""
        found: list[nn.Module] = []
        left = held
        for module in sorted(self.holding, key=lambda m: -len(self.holding[m])):
            mine = frozenset(id(p) for p in module.parameters() if p.requires_grad)
            if mine & left and mine <= held:
                found.append(module)
                left -= mine
        return found

    def around(self, module: nn.Module, called: nn.Module | None) -> nn.Module:
        """A lone layer is read as a part of what is called, if it is one."""
        if _has_layers(module) or called is None or not self.holding[module] <= self.holding.get(called, frozenset()):
            return module
        return called

    def same(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """Modules that hold exactly what this one holds: what wraps it and what it wraps."""
        mine = self.holding[module]
        return tuple(m for m, theirs in self.holding.items() if theirs == mine)


@dataclass
class _Group:
    held: frozenset[int]
    roots: list[nn.Module]
    optimizers: list[int]


def find_networks(
    optimizers: Sequence[Optimizer], modules: Sequence[nn.Module], around: nn.Module | None = None
) -> tuple[Network, ...]:
    """The networks that these optimizers train.

    A network is the smallest module that holds all that an optimizer holds. Where no module does, or where that module
    holds another optimizer's network as well, it is the largest modules that the optimizer holds whole; unless these
    are single layers: optimizers that share a network layer by layer (matrices for one, tables and biases for another)
    train one network.

    Args:
        optimizers: of the script, in the order they were made.
        modules: live ones, outer ones first.
        around: the module called first from outside; a lone layer that is trained inside of it is read as part of it.

    Example:
        >>> g, d = nn.Sequential(nn.Linear(2, 3), nn.Tanh()), nn.Sequential(nn.Linear(3, 1))
        >>> opts = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (g, d)]
        >>> [n.module is m for n, m in zip(find_networks(opts, [g, d, *g, *d]), (g, d))]
        [True, True]
    """
    keep = tuple(p for o in optimizers for p in held_by(o))
    everything = frozenset(map(id, keep))
    tree = _Tree(modules, everything)
    known = frozenset().union(*tree.holding.values()) if tree.holding else frozenset()
    holdings = [frozenset(id(p) for p in held_by(o)) & known for o in optimizers]
    groups: list[_Group] = []
    for number, held in enumerate(holdings):
        if not held:
            continue
        others = frozenset().union(*(h for h in holdings if not h & held))
        smallest = tree.smallest(held)
        roots = [smallest] if smallest is not None else tree.pieces(held)
        if smallest is not None and tree.holding[smallest] & others:
            pieces = tree.pieces(held)
            roots = pieces if pieces and all(_has_layers(m) for m in pieces) else roots
        groups.append(_Group(held, [tree.around(r, around) for r in roots], [number]))
    networks = [n for g in _joined(groups, tree) for n in _networks_of(g, tree, everything, keep)]
    return tuple(sorted(networks, key=lambda n: n.optimizers[0]))


def _has_layers(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _joined(groups: list[_Group], tree: _Tree) -> list[_Group]:
    """Groups whose networks overlap are one."""
    joined: list[_Group] = []
    for group in groups:
        mine = frozenset().union(*(tree.holding[r] for r in group.roots))
        for other in [o for o in joined if mine & frozenset().union(*(tree.holding[r] for r in o.roots))]:
            joined.remove(other)
            held = group.held | other.held
            smallest = tree.smallest(held)
            roots = [smallest] if smallest is not None else _outermost([*other.roots, *group.roots], tree)
            group = _Group(held, roots, [*other.optimizers, *group.optimizers])
            mine = frozenset().union(*(tree.holding[r] for r in roots))
        joined.append(group)
    return joined


def _outermost(roots: list[nn.Module], tree: _Tree) -> list[nn.Module]:
    distinct = list(dict.fromkeys(roots))
    return [r for r in distinct if not any(o is not r and tree.holding[r] < tree.holding[o] for o in distinct)]


def _networks_of(
    group: _Group, tree: _Tree, everything: frozenset[int], keep: tuple[torch.Tensor, ...]
) -> Iterable[Network]:
    for module in group.roots:
        mine = tree.holding[module]
        yield Network(module, tree.same(module), tuple(sorted(group.optimizers)), mine & everything, tensors=keep)
