"""Where a live tensor comes from: the use of a weight, the model's output, the batch. Nothing is kept alive for it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace

import torch

SQUASHES = frozenset({"softmax", "log_softmax", "sigmoid", "logsigmoid"})
"""Ops after which values are probabilities, or their logarithms."""

LAYOUT = frozenset(
    {"view", "reshape", "transpose", "permute", "squeeze", "unsqueeze", "flatten", "unflatten", "contiguous", "expand"}
    | {"movedim", "swapaxes", "t", "clone", "chunk", "split", "unbind", "select", "narrow", "__getitem__", "view_as"}
    | {"reshape_as", "expand_as", "index_select", "ravel", "type_as"}
)
"""Ops that move, copy or select values."""

ALIKE = frozenset(
    {"float", "double", "half", "bfloat16", "long", "int", "to", "type", "dropout", "neg", "detach", "cpu", "cuda"}
    | {"clamp", "abs", "requires_grad_", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "__neg__"}
)
"""Ops that leave every value at its place, and about what it is."""

SCALINGS = frozenset({"mul", "div", "add", "sub", "true_divide", "__mul__", "__rmul__", "__add__", "__radd__"})
"""Ops that do so where the other operand is a number, a bias or a buffer."""


@dataclass(eq=False)
class Use:
    """An op that uses weights, and what came out; figures are tensors until they are asked for.

    Attributes:
        names: per weight among the arguments, the parameters it is made of.
        size: values that came out.
        norm: their length.
        largest: the largest of them.
        entered: root mean square of the data that went in, None where no data did.
        variation: their spread over the samples, None where it was not measured.
        grads: lengths of the gradients that arrived, filled in the backward pass.
    """

    names: tuple[tuple[str, ...], ...]
    size: int
    norm: torch.Tensor
    largest: torch.Tensor
    entered: torch.Tensor | None = None
    variation: torch.Tensor | None = None
    grads: list[torch.Tensor] = field(default_factory=list)

    def add_grad(self, grad: torch.Tensor | None) -> None:
        """A gradient that arrived at the output."""
        if grad is None:  # one of several results of an op (an LSTM's states), which nothing reads
            return
        self.grads.append(torch.linalg.vector_norm(grad.detach(), dtype=wide(grad)))


def wide(tensor: torch.Tensor) -> torch.dtype | None:
    """Type to sum in: float32 for what is stored in half precision."""
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None


def length(value: torch.Tensor) -> torch.Tensor:
    """Root of the sum of squares."""
    norm: torch.Tensor = torch.linalg.vector_norm(value, dtype=wide(value))
    return norm


def rms(value: torch.Tensor) -> torch.Tensor:
    """Root mean square; 0 for no values."""
    size: torch.Tensor = length(value) / max(1, value.numel()) ** 0.5
    return size


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of a tensor.

    Attributes:
        use: of the weight that made it, None where none is known or several did.
        squash: one of :data:`SQUASHES`, where it was the last to act.
        output: it is what the model returned, value by value.
        batch: it is a tensor of the batch, value by value.
    """

    use: Use | None = None
    squash: str = ""
    output: bool = False
    batch: bool = False


class Lineage:
    """Facts of tensors by identity, forgotten with them.

    Example:
        >>> seen, x = Lineage(), torch.zeros(3)
        >>> seen.tell(x, Fact(batch=True))
        >>> seen.of(x), seen.of(torch.zeros(3))
        (Fact(use=None, squash='', output=False, batch=True), None)
    """

    def __init__(self) -> None:
        self._facts: dict[int, tuple[weakref.ref[torch.Tensor], Fact]] = {}

    def tell(self, tensor: torch.Tensor, fact: Fact) -> None:
        """Note what is known of a tensor."""
        self._facts[id(tensor)] = (weakref.ref(tensor), fact)

    def of(self, tensor: torch.Tensor) -> Fact | None:
        """What is known of a tensor, None where nothing is."""
        found = self._facts.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def carry(self, name: str, source: torch.Tensor, alone: bool, made: list[torch.Tensor]) -> None:
        """Follow a tensor through an op that changes its form, its type or its scale, or squashes it.

        Args:
            name: of the op, without a trailing underscore.
            source: its first operand.
            alone: every other operand is a number, a bias or a buffer.
            made: what came out.
        """
        fact = self.of(source)
        if fact is None or not made:
            return
        if name in SQUASHES:
            fact = replace(fact, squash=name)
        elif name == "log" and fact.squash == "softmax":
            fact = replace(fact, squash="log_softmax")
        elif name in SCALINGS and alone:
            fact = replace(fact, squash="")
        elif name not in LAYOUT and name not in ALIKE:
            return
        for tensor in made:
            # An axis that was added on purpose is there to broadcast along.
            opened = tensor.ndim > source.ndim
            self.tell(tensor, replace(fact, output=fact.output and not opened, batch=fact.batch and not opened))
