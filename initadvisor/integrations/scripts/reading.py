"""What `analyze`, `check` and the rules say of a network in the middle of its training."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from initadvisor.checks.finding import Finding
from initadvisor.checks.passes import measure
from initadvisor.checks.runner import audit, gather
from initadvisor.errors import InitAdvisorError
from initadvisor.graph.spec import ModelSpec
from initadvisor.integrations.scripts.autograd import LossGraph
from initadvisor.integrations.scripts.messages import WeightSeen
from initadvisor.integrations.scripts.networks import Network
from initadvisor.integrations.scripts.observer import Call
from initadvisor.integrations.scripts.stand_ins import stand_ins
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.protect import looks_trained, protect_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.training.data import Batch, tensors_in
from initadvisor.training.losses import Loss, LossKind, first_line

logger = logging.getLogger("initadvisor")


@dataclass(frozen=True)
class Reading:
    """One network, read at its first step.

    Attributes:
        spec: roles and fans; None where it could not be read.
        findings: of ``check``.
        weights: figures in execution order.
        schemes: candidates.
        loss_name: what the loss compares, in words.
        note: that the weights look trained, where they do.
        fault: why it could not be read.
    """

    spec: ModelSpec | None = None
    findings: tuple[Finding, ...] = ()
    weights: tuple[WeightSeen, ...] = ()
    schemes: tuple[Scheme, ...] = ()
    loss_name: str = ""
    note: str = ""
    fault: str = ""


def replayed(calls: Sequence[Call], value: float, graph: LossGraph | None) -> tuple[Batch, Loss]:
    """The calls of a network as a batch, and a loss with the gradient that arrived there.

    The loss is linear in the outputs: their product with the gradients that the script's own loss sent back. So the
    gradients of all layers are those of the training, whatever it makes of the outputs.

    Args:
        calls: of the whole, or of its parts in order.
        value: of the script's loss.
        graph: what that loss compares.
    """
    target = None if graph is None else graph.target
    if len(calls) == 1 and not calls[0].path:
        call = calls[0]
        batch = Batch(call.args, call.kwargs, target, None)
        kind = None if graph is None else graph.kind
        fits = target is not None and target.numel() == math.prod(call.shape)
        if kind in (LossKind.SQUARED, LossKind.BINARY) and fits:
            return batch, Loss(kind)
        return batch, Loss(LossKind.OUTPUT_TARGET, _named(lambda output, target: _linear([call], [output], value)))
    through = _calls_of(calls)
    # What the parts were called with, and nothing else: audits look at every tensor of a batch.
    batch = Batch((), {}, target, [(c.args, c.kwargs) for c in calls], through)

    def loss(model: nn.Module, raw: Any) -> torch.Tensor:
        return _linear(calls, through(model, raw), value)

    return batch, Loss(LossKind.MODEL_BATCH, _named(loss))


def _named(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    function.__name__ = "the script's own"
    return function


def _calls_of(calls: Sequence[Call]) -> Callable[[nn.Module, Any], list[Any]]:
    def through(model: nn.Module, raw: Any) -> list[Any]:
        return [model.get_submodule(call.path)(*call.args, **call.kwargs) for call in calls]

    return through


def _linear(calls: Sequence[Call], outputs: Sequence[Any], value: float) -> torch.Tensor:
    total: torch.Tensor | None = None
    for call, output in zip(calls, outputs, strict=True):
        tensors = list(tensors_in(output))
        for number in call.last:
            tensor, grad = tensors[number], call.grads.get(number)
            if grad is not None and grad.shape == tensor.shape and tensor.requires_grad:
                term = (tensor * grad.to(tensor.dtype)).sum().float()
                total = term if total is None else total + term
    if total is None:
        raise ValueError("no gradient of the loss arrived at its outputs")
    return total - total.detach() + value


def read_network(
    network: Network, calls: Sequence[Call], value: float, graph: LossGraph | None, *, propose: bool
) -> Reading:
    """Read a network in place, at the weights it has now; the training does not notice.

    Args:
        network: whose parameters carry the gradients of the first step.
        calls: recorded.
        value: of the loss.
        graph: what that loss compares.
        propose: candidates, too.
    """
    left = network.left  # by identity of the parameters, which have stand-ins below
    gradients = {name: _rms(p.grad) for name, p in network.module.named_parameters() if network.is_held(p)}
    if not calls:
        return Reading(weights=_bare(gradients), fault="it was not called under grad before its first step")
    batch, loss = replayed(calls, value, graph)
    autocast = calls[0].autocast
    device = next(network.module.parameters()).device
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(stand_ins(network.module))
            if autocast is not None:
                stack.enter_context(torch.autocast(device.type, dtype=autocast))
            return _read(network.module, batch, loss, gradients, left, propose)
    except (InitAdvisorError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        logger.debug("reading %s", type(network.module).__name__, exc_info=True)
        return Reading(weights=_bare(gradients), fault=first_line(error))


def _read(
    module: nn.Module,
    batch: Batch,
    loss: Loss,
    gradients: dict[str, float | None],
    left: tuple[str, ...],
    propose: bool,
) -> Reading:
    spec, figures = measure(module, batch, loss)
    figures = replace(figures, gradients={**figures.gradients, **gradients})
    findings = audit(gather(module, spec, figures))
    spec = protect_spec(spec, module, left or None)
    # The replayed loss has the gradient of these weights alone: steps that descend on a loss infer theirs.
    seen = replace(batch, target=None) if batch.through is not None else batch
    schemes = propose_from_spec(spec, module, seen) if propose else ()
    layers = {layer.path: layer for layer in figures.layers}
    order = [*layers, *(name for name in gradients if name not in layers)]
    weights = tuple(
        WeightSeen(path, grad_rms=gradients.get(path))
        if path not in layers
        else WeightSeen(path, layers[path].rms, gradients.get(path), None, layers[path].units, layers[path].dead)
        for path in order
    )
    return Reading(spec, findings, weights, schemes, loss.text, looks_trained(module, spec) or "")


def _bare(gradients: dict[str, float | None]) -> tuple[WeightSeen, ...]:
    return tuple(WeightSeen(path, grad_rms=grad) for path, grad in gradients.items())


def _rms(grad: torch.Tensor | None) -> float | None:
    if grad is None:
        return None
    values = grad.detach()
    values = values.coalesce().values() if values.is_sparse else values
    if not values.numel():
        return 0.0
    return float(torch.linalg.vector_norm(values.float())) / math.sqrt(values.numel())
