"""One pass through a model for many members: torch's ``vmap``, with its slow or missing rules replaced.

Inside :func:`members_together` tensors of members look like those of one member. Linear maps, attention over short
sequences, layer norms and recurrent layers are computed here on the stacked tensors directly; everything else is left
to ``vmap``. What is computed here is held against the loop before it is used, as all of a stack is.

``torch.func.vmap`` takes its inputs apart and puts them together again for every call, in Python: a millisecond for a
model of sixty tensors, a tenth of a step. Here a tensor is marked when it is put into the model, by the same
primitives.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch._C import _functorch as functorch
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

SHORT = 32
"""Longest sequence whose attention is written out on a processor: up to there the fused kernel, made for long ones, is
up to twice as slow (measured, forward and backward, 4 heads of 8 to 16)."""

LSTM_GATES, GRU_GATES = 4, 3


@functools.cache
def _load_rules() -> None:
    """Have torch load the rules of ``vmap`` that it loads on first use."""
    vmap(torch.neg)(torch.zeros(1))


class Level:
    """Marks tensors as stacked over members, and takes the mark off."""

    def __init__(self, number: int, members: int) -> None:
        self._number, self._members = number, members

    def mark(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` of shape (members, …), as a tensor of one member."""
        marked: torch.Tensor = functorch._add_batch_dim(tensor, 0, self._number)
        return marked

    def unmark(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stacked tensor; one that is the same for all members is expanded."""
        if self.stacked(tensor):
            plain = functorch.get_unwrapped(tensor)
            axis = functorch.maybe_get_bdim(tensor)
            return plain.movedim(axis, 0) if axis else plain
        return tensor.expand(self._members, *tensor.shape)

    def stacked(self, *tensors: Any) -> bool:
        """Whether all of them are marked by this level."""
        for t in tensors:  # asked several times per operation: written for speed
            if not isinstance(t, torch.Tensor) or not functorch.is_batchedtensor(t):
                return False
            if functorch.maybe_get_level(t) != self._number:
                return False
        return True

    def usable(self, tensor: Any) -> bool:
        """Whether it is a plain tensor, or marked by this level and no other."""
        if self.stacked(tensor):
            tensor = functorch.get_unwrapped(tensor)
        return isinstance(tensor, torch.Tensor) and not functorch.is_functorch_wrapped_tensor(tensor)


@contextmanager
def members_together(members: int) -> Iterator[Level]:
    """A region in which tensors that :class:`Level` marks are computed with for all members at once.

    Random numbers are drawn once and are the same for all.

    Example:
        >>> weights, x = torch.randn(5, 3, 4), torch.randn(7, 4)
        >>> with members_together(5) as level:
        ...     out = level.unmark(F.linear(x, level.mark(weights)))
        >>> out.shape, bool(torch.allclose(out[2], F.linear(x, weights[2]), atol=1e-6))
        (torch.Size([5, 7, 3]), True)
    """
    _load_rules()
    level = Level(functorch._vmap_increment_nesting(members, "same"), members)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Rules(level):
            yield level
    finally:
        functorch._vmap_decrement_nesting()


class _Rules(TorchFunctionMode):
    """Sends calls that have a rule here to it, where their tensors are of this level."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self._level = level

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        out = NotImplemented if rule is None else rule(self._level, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if out is NotImplemented else out


def _linear(level: Level, x: Any, weight: Any, bias: Any = None) -> Any:
    """A product and a sum in one call: ``vmap`` makes two of them."""
    if not (level.stacked(weight) and (bias is None or level.stacked(bias)) and level.usable(x)):
        return NotImplemented
    x, weight = level.unmark(x), level.unmark(weight)
    rows = x if x.ndim == 3 else x.reshape(x.shape[0], -1, x.shape[-1])
    out = affine(rows, weight, None if bias is None else level.unmark(bias))
    return level.mark(out if x.ndim == 3 else out.view(*x.shape[:-1], -1))


def affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Stacked linear map: x (members, rows, in), weight (members, out, in), bias (members, out)."""
    if bias is None:
        return torch.bmm(x, weight.mT)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def _layer_norm(
    level: Level, x: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    if not level.stacked(x, weight, bias):
        return NotImplemented
    x, weight, bias = level.unmark(x), level.unmark(weight), level.unmark(bias)
    shape = (x.shape[0], *[1] * (x.ndim - weight.ndim), *weight.shape[1:])
    out = F.layer_norm(x, tuple(normalized_shape), eps=eps)
    return level.mark(torch.addcmul(bias.view(shape), out, weight.view(shape)))


def _attention(
    level: Level,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Members are more samples of a batch: no weight enters."""
    if attn_mask is not None or dropout_p or enable_gqa or not level.stacked(query, key, value):
        return NotImplemented
    q, k, v = (level.unmark(t) for t in (query, key, value))
    if q.ndim != 5 or q.shape[:-2] != k.shape[:-2] or k.shape[:-2] != v.shape[:-2]:
        return NotImplemented
    if q.device.type == "cpu" and max(q.shape[-2], k.shape[-2]) <= SHORT:
        return level.mark(_short_attention(q, k, v, is_causal, scale))
    rows = q.shape[:2]
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale)
    return level.mark(out.view(*rows, *out.shape[1:]))


def _short_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool, scale: float | None
) -> torch.Tensor:
    """Attention with the keys in the rows of the scores: a softmax over the last axis of few is four times as slow."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = torch.matmul(k * scale, q.mT)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(-1)
        scores = scores.masked_fill(later, -math.inf)
    return torch.matmul(torch.softmax(scores, -2).mT, v)


# -- recurrent layers -------------------------------------------------------------------------------------------------

Cell = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Takes a step's input gates (members, batch, gates), the state, the memory and the recurrent gates."""


def _lstm_cell(
    given: torch.Tensor, state: torch.Tensor, memory: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    i, f, g, o = (given + own).chunk(LSTM_GATES, -1)
    memory = torch.addcmul(torch.sigmoid(f) * memory, torch.sigmoid(i), torch.tanh(g))
    return torch.sigmoid(o) * torch.tanh(memory), memory


def _gru_cell(
    given: torch.Tensor, state: torch.Tensor, memory: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    width = state.shape[-1]
    r, z = torch.sigmoid(given[..., : 2 * width] + own[..., : 2 * width]).chunk(2, -1)
    n = torch.tanh(torch.addcmul(given[..., 2 * width :], r, own[..., 2 * width :]))
    return torch.lerp(n, state, z), memory


def _plain_cell(
    bend: Callable[[torch.Tensor], torch.Tensor],
    given: torch.Tensor,
    state: torch.Tensor,
    memory: torch.Tensor,
    own: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return bend(given + own), memory


def _recurrent(
    cell: Cell,
    with_memory: bool,
    level: Level,
    x: Any,
    hx: Any,
    params: Any,
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = True,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> Any:
    """Recurrent layers, for which ``vmap`` has no rule; the steps are written out, each for all members.

    Packed sequences, projections and dropout between layers (whose random numbers torch draws inside) have none here
    either.
    """
    sides = 2 if bidirectional else 1
    per_side = 4 if has_biases else 2
    plain = isinstance(params, (tuple, list)) and isinstance(num_layers, int) and not (dropout and train)
    if not plain or len(params) != num_layers * sides * per_side or not level.stacked(*params):
        return NotImplemented
    begin = list(hx) if with_memory else [hx]
    if not all(level.usable(t) for t in (x, *begin)):
        return NotImplemented
    sequence = level.unmark(x)  # (members, time, batch, features) from here on
    sequence = sequence.transpose(1, 2) if batch_first else sequence
    begin = [level.unmark(t) for t in begin]
    weights = [level.unmark(p) for p in params]
    ends: list[list[torch.Tensor]] = [[], []]
    for layer in range(num_layers):
        outputs = []
        for side in range(sides):
            place = layer * sides + side
            first = [t[:, place] for t in begin]
            of_side = weights[place * per_side : (place + 1) * per_side]
            out, *last = _run_cell(cell, sequence, first[0], first[-1], of_side, backwards=side == 1)
            outputs.append(out)
            for end, found in zip(ends, last, strict=True):
                end.append(found)
        sequence = torch.cat(outputs, -1) if sides == 2 else outputs[0]
    out = sequence.transpose(1, 2) if batch_first else sequence
    states = [level.mark(torch.stack(end, 1)) for end in (ends if with_memory else ends[:1])]
    return level.mark(out), *states


def _run_cell(
    cell: Cell,
    x: torch.Tensor,
    state: torch.Tensor,
    memory: torch.Tensor,
    weights: Sequence[torch.Tensor],
    *,
    backwards: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One direction of one layer: states of every step, the last state and the last memory."""
    members, steps, batch, _ = x.shape
    inward, inner, *biases = weights
    own_bias = biases[1] if biases else None
    given = affine(x.reshape(members, steps * batch, -1), inward, biases[0] if biases else None)
    by_step = given.view(members, steps, batch, -1).unbind(1)
    states: list[torch.Tensor] = []
    for gates in reversed(by_step) if backwards else by_step:
        state, memory = cell(gates, state, memory, affine(state, inner, own_bias))
        states.append(state)
    return torch.stack(states[::-1] if backwards else states, 1), state, memory


_RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    torch.lstm: functools.partial(_recurrent, _lstm_cell, True),
    torch.gru: functools.partial(_recurrent, _gru_cell, False),
    torch.rnn_tanh: functools.partial(_recurrent, functools.partial(_plain_cell, torch.tanh), False),
    torch.rnn_relu: functools.partial(_recurrent, functools.partial(_plain_cell, torch.relu), False),
}
