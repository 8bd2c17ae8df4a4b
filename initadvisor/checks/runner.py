"""``check``: what is wrong with the weights as they are now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.checks.context import CheckContext
from initadvisor.checks.figures import Figures
from initadvisor.checks.finding import Finding
from initadvisor.checks.passes import measure
from initadvisor.checks.plugin import Check
from initadvisor.checks.registry import checks
from initadvisor.checks.source import owners_of, sources_of
from initadvisor.checks.topics.remarks import failed
from initadvisor.errors import InputError, swallowed
from initadvisor.graph.analyze import require_trainable
from initadvisor.graph.spec import ModelSpec
from initadvisor.training.calls import read_training
from initadvisor.training.data import Batch, check_finite, first_batch
from initadvisor.training.losses import Loss, LossKind

Value = TypeVar("Value")


def check(model: nn.Module, sample_batch: Any, *, loss: Callable[..., Any] | None = None) -> tuple[Finding, ...]:
    """Audit the weights of a model as they are, without training.

    One forward and one backward pass on the batch, in training mode, both read the model and measure it; only a loss
    that calls the model itself is run once more, to see what it calls it with, and then read in a pass of its own.
    Afterwards weights, gradients, buffers, flags, hooks, random states and the batch are what they were.

    Args:
        model: any module with weights on a real device.
        sample_batch: ``(x, y)``, a dict, or an iterable of batches, of which the first is taken.
        loss: ``(output, target) -> scalar`` or ``(model, batch) -> scalar``; inferred where it is None. Where none can
            be inferred the checks of the loss keep silent, and a finding says so.

    Returns:
        Findings, the worst first, causes before what follows from them, then by code. Parameters of repeated blocks
        are told in one finding.

    Raises:
        InputError: no module, nothing to train, a batch the model does not take, weights on ``meta``, or a loss that
            cannot be called.
        AnalysisError: the forward pass failed; the model's own error is quoted.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
        >>> _ = nn.init.constant_(model[0].weight, 0.1)
        >>> found = check(model, (torch.randn(32, 8), torch.randint(3, (32,))))
        >>> [(f.code, f.severity.value, f.path) for f in found][0]
        ('INI104', 'error', '0.weight')
    """
    return check_training(model, sample_batch, loss)


def check_training(
    model: nn.Module, sample_batch: Any, loss: Callable[..., Any] | None, *, warms_up: bool | None = None
) -> tuple[Finding, ...]:
    """What :func:`check` does, where more is known of the training.

    Args:
        model: as for :func:`check`.
        sample_batch: likewise.
        loss: likewise.
        warms_up: the learning rate rises from a small one; None where that is not known.

    Raises:
        InputError, AnalysisError: as :func:`check` does.
    """
    model = require_trainable(model)
    lazy = any(is_lazy(t) for t in (*model.parameters(), *model.buffers()))
    if lazy:
        raise InputError(
            f"{type(model).__name__} has lazy parameters, which have no values yet; call the model once first"
        )
    if any(p.is_meta for p in model.parameters()):
        raise InputError(f"{type(model).__name__} has weights on the meta device, which hold no values; fill it first")
    batch, chosen = _read(model, sample_batch, loss)
    check_finite(batch, infinite=False)  # an infinite value is a finding, told with what follows from it
    spec, figures = measure(model, batch, chosen)
    return audit(replace(gather(model, spec, figures), warms_up=warms_up))


def _read(model: nn.Module, sample: Any, loss: Callable[..., Any] | None) -> tuple[Batch, Loss | None]:
    """The batch and the loss; one that fails on a label is kept, since the audit says what is wrong with the label."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using a target size")
        try:
            return read_training(model, sample, loss)
        except InputError as error:
            if loss is None or not isinstance(error.__cause__, IndexError):
                raise
            return first_batch(model, sample, whole=True), Loss(LossKind.MODEL_BATCH, loss)


def gather(model: nn.Module, spec: ModelSpec, figures: Figures) -> CheckContext:
    """Everything the checks look at.

    Args:
        model: as for :func:`check`.
        spec: reading of the model.
        figures: of its passes.
    """
    floating = {path: p.detach() for path, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
    buffers = {path: b.detach() for path, b in model.named_buffers() if b is not None and b.is_floating_point()}
    return CheckContext(
        spec=spec,
        tensors=floating,
        buffers={path: b for path, b in buffers.items() if not b.is_meta},
        figures=figures,
        padding=_padding_rows(model),
        owners=_tried("owners of parameters", lambda: owners_of(model), {}),
        sources=_tried("sources of the model", lambda: tuple(sources_of(model)), ()),
        module_classes={name: type(m).__mro__ for name, m in model.named_modules(remove_duplicate=False)},
        settings=_tried("the model's configuration", lambda: _settings(model), {}),
    )


def audit(context: CheckContext, codes: Iterable[str] | None = None) -> tuple[Finding, ...]:
    """Run the checks on what was gathered.

    Args:
        context: as :func:`gather` makes it.
        codes: those to run; None runs all.
    """
    wanted = None if codes is None else set(codes)
    with torch.no_grad():
        found = [f for c in checks() if wanted is None or c.code in wanted for f in _run(c, context)]
    order = {p.path: i for i, p in enumerate(context.spec.params)}
    causes = {c.code for c in checks() if c.cause}
    return tuple(sorted(found, key=lambda f: (f.severity.rank, f.code not in causes, f.code, order.get(f.path, -1))))


def _run(check: Check, context: CheckContext) -> list[Finding]:
    """What a check finds; one that fails is told as a remark, and the others go on."""
    try:
        return check.findings(context)
    except Exception as error:  # noqa: BLE001 - logged, and told by its code
        told = swallowed(f"check {check.code}", error)
        return failed(f"{check.code} ({check.name}) could not be run: {told}", context)


def _tried(what: str, take: Callable[[], Value], otherwise: Value) -> Value:
    """What a check may look at beside the numbers; where the user's code refuses to tell it, the audit goes on."""
    try:
        return take()
    except Exception as error:  # noqa: BLE001 - logged; the checks that look at it find nothing
        swallowed(what, error)
        return otherwise


def _padding_rows(model: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        row = getattr(module, "padding_idx", None)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and isinstance(row, int):
            found[f"{name}.weight" if name else "weight"] = row
    return found


def _settings(model: nn.Module) -> dict[str, float]:
    """Numbers of the configuration a model carries, which its source speaks of by name."""
    config: Any = getattr(model, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else config if isinstance(config, dict) else {}
    return {
        str(k): float(v) for k, v in dict(values).items() if isinstance(v, (int, float)) and not isinstance(v, bool)
    }
