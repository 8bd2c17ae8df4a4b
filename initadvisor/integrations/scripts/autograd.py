"""What a loss depends on and what it compares, read off the graph that its backward pass will walk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from initadvisor.training.losses import LossKind

MOST_NODES = 200_000
"""Nodes that are walked; a graph of that size belongs to a step of minutes; its loss is told without a target."""

COMPARING = {
    "NllLossBackward0": LossKind.OUTPUT_TARGET,
    "NllLoss2DBackward0": LossKind.OUTPUT_TARGET,
    "BinaryCrossEntropyWithLogitsBackward0": LossKind.BINARY,
    "MseLossBackward0": LossKind.SQUARED,
}
"""Nodes of losses that keep the target they compare with, and how such a loss is computed from an output."""


@dataclass(frozen=True)
class LossGraph:
    """What was found below a loss.

    Attributes:
        reached: identities of the parameters its gradient reaches.
        kind: the kind of loss, where one node alone compares with a target.
        target: what that compares with, as it was.
    """

    reached: frozenset[int]
    kind: LossKind | None = None
    target: torch.Tensor | None = None


def walk(roots: Sequence[torch.Tensor]) -> LossGraph:
    """Read the graph behind some tensors; to be called before the backward pass frees it.

    Example:
        >>> net, x, y = torch.nn.Linear(3, 2), torch.zeros(4, 3), torch.tensor([0, 1, 1, 0])
        >>> graph = walk([torch.nn.functional.cross_entropy(net(x), y)])
        >>> graph.reached == {id(net.weight), id(net.bias)}, graph.target
        (True, tensor([0, 1, 1, 0]))
    """
    reached: set[int] = set()
    comparing: list[Any] = []
    for node in _nodes(roots):
        variable = getattr(node, "variable", None)
        if isinstance(variable, torch.Tensor):
            reached.add(id(variable))
        elif node.name() in COMPARING:
            comparing.append(node)
    for tensor in roots:
        if tensor.is_leaf and tensor.requires_grad:
            reached.add(id(tensor))
    if len(comparing) != 1:
        return LossGraph(frozenset(reached))
    return LossGraph(frozenset(reached), COMPARING[comparing[0].name()], _target(comparing[0]))


def _nodes(roots: Sequence[torch.Tensor]) -> Iterator[Any]:
    todo = [t.grad_fn for t in roots if t.grad_fn is not None]
    seen: set[Any] = set(todo)
    while todo and len(seen) < MOST_NODES:
        node: Any = todo.pop()
        yield node
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                todo.append(after)


def _target(node: Any) -> torch.Tensor | None:
    try:
        target = node._saved_target
    except RuntimeError:  # freed already, or changed in place since
        return None
    return target.detach().clone() if isinstance(target, torch.Tensor) else None
