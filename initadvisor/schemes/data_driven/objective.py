"""A model's loss as a function of one factor per tensor: what MetaInit and GradInit descend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from initadvisor.errors import SchemeError
from initadvisor.schemes.data_driven.card import ModelLoss, Site
from initadvisor.schemes.slots import Slot, SlotKind
from initadvisor.training.data import Batch, map_tensors, tensors_in
from initadvisor.training.losses import Loss, LossKind, choose_loss

Weights = dict[str, torch.Tensor]
"""Path -> a tensor that gradients are taken with respect to."""

_MAY_BE_SMALL = 8
"""Below this many samples a half says nothing, and the whole batch is used for both purposes."""


class _Task(nn.Module):
    """The loss as a module, so that ``functional_call`` can replace weights wherever the loss calls the model."""

    def __init__(self, model: nn.Module, loss: ModelLoss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> torch.Tensor:
        return self._loss(self.model, batch)


class Objective:
    """The loss of a model whose tensors are multiplied by factors e^s, one s per tensor.

    Attributes:
        paths: tensors that have a factor, in model order: plain ones that are neither zero nor biases.
    """

    def __init__(self, site: Site, *, norms: bool) -> None:
        """Read off what can be scaled.

        Args:
            site: what to work on.
            norms: scale the factors of norms too, which are told by being constant. Biases are never scaled: a few
                factors on them would fit how frequent each target is, and nothing else.

        Raises:
            SchemeError: nothing can be scaled.
            InputError: the loss cannot be inferred.
        """
        loss: ModelLoss = site.loss if site.loss is not None else choose_loss(None, site.model, site.batch)
        self._task = _Task(site.model, loss)
        self._batch = site.batch
        # A loss of the model and the batch may read the batch as it came, which nobody here knows how to divide.
        self._divisible = isinstance(loss, Loss) and loss.kind is not LossKind.MODEL_BATCH
        self._plain = {p: s.param.detach().clone() for p, s in site.slots.items() if s.kind is SlotKind.PLAIN}
        self.paths = tuple(
            path
            for path, value in self._plain.items()
            if bool(value.any()) and (value.ndim > 1 or (norms and _flat(value)))
        )
        if not self.paths:
            raise SchemeError("no tensor can be rescaled: all are zero, frozen or recomputed from others")

    def weights(self, logs: torch.Tensor) -> Weights:
        """All plain tensors at factors e^logs, as leaves that require gradients."""
        factors = dict(zip(self.paths, logs.exp().tolist(), strict=True))
        return {path: (value * factors.get(path, 1.0)).requires_grad_(True) for path, value in self._plain.items()}

    def loss(self, weights: Mapping[str, torch.Tensor], batch: Batch | None = None) -> torch.Tensor:
        """The loss with these weights, differentiable twice."""
        named = {f"model.{path}": value for path, value in weights.items()}
        value: torch.Tensor = functional_call(self._task, named, (batch if batch is not None else self._batch,))
        return value

    def by_factor(self, value: torch.Tensor, weights: Weights) -> torch.Tensor:
        """Derivative of ``value`` with respect to every s: ⟨w, ∂value/∂w⟩ of each scaled tensor."""
        chosen = [weights[path] for path in self.paths]
        slopes = torch.autograd.grad(value, chosen, allow_unused=True, materialize_grads=True)
        return torch.stack([(w.detach() * g).sum().double() for w, g in zip(chosen, slopes, strict=True)])

    def halves(self, generator: torch.Generator) -> tuple[Batch, Batch]:
        """Two random halves of the batch; twice the whole where it cannot be divided."""
        count = self._batch.size
        parts = (self._batch.args, dict(self._batch.kwargs), self._batch.target)
        divisible = all(t.ndim > 0 and t.shape[0] == count for t in tensors_in(parts))
        if not self._divisible or count is None or count < _MAY_BE_SMALL or not divisible:
            return self._batch, self._batch
        order = torch.randperm(count, generator=generator)
        return self._rows(order[: count // 2]), self._rows(order[count // 2 :])

    def _rows(self, index: torch.Tensor) -> Batch:
        def pick(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[index.to(tensor.device)]

        batch = self._batch
        return Batch(
            tuple(map_tensors(a, pick) for a in batch.args),
            {k: map_tensors(v, pick) for k, v in batch.kwargs.items()},
            map_tensors(batch.target, pick),
        )

    def write(self, slots: Mapping[str, Slot], logs: torch.Tensor) -> None:
        """Multiply the model's tensors by e^logs."""
        with torch.no_grad():
            for path, factor in zip(self.paths, logs.exp().tolist(), strict=True):
                slots[path].write((self._plain[path] * factor).cpu())


def _flat(value: torch.Tensor) -> bool:
    return bool((value == value.reshape(-1)[0]).all())


def gradients(value: torch.Tensor, weights: Weights) -> list[torch.Tensor]:
    """Gradients of ``value`` that can be differentiated further; zero where a weight plays no part."""
    if not value.requires_grad:  # a constant, as the squared gradient of a linear loss is
        return [torch.zeros_like(w) for w in weights.values()]
    return list(
        torch.autograd.grad(value, list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True)
    )


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use only kernels that have second derivatives: plain attention, no fused recurrences."""
    flags: Callable[..., Any] = torch.backends.cudnn.flags
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), flags(enabled=False):
        yield


def told_factors(name: str, logs: torch.Tensor) -> str:
    """The note on what was done."""
    factors = logs.exp()
    return f"{name}: {len(factors)} tensors rescaled by {float(factors.min()):.3g} to {float(factors.max()):.3g}"
