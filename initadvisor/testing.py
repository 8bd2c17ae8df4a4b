"""For the user's own tests: a model whose weights have no known fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from initadvisor.checks.formats import render_findings
from initadvisor.checks.runner import check
from initadvisor.checks.settings import exit_code, filter_findings


def assert_healthy(
    model: nn.Module,
    sample_batch: Any,
    *,
    loss: Callable[..., Any] | None = None,
    ignore: Iterable[str] = (),
    fail_on: str = "error",
) -> None:
    """Fail a test where the audit finds something.

    Args:
        model: with the weights it starts training from; left as it is.
        sample_batch: ``(x, y)``, a dict, or an iterable of batches.
        loss: as for :func:`initadvisor.check`.
        ignore: codes, code prefixes or names of checks to leave out.
        fail_on: least severity that fails: ``"error"``, ``"warning"`` or ``"info"``.

    Raises:
        AssertionError: with the findings and their remedies.
        InputError: ``ignore`` or ``fail_on`` name nothing known, or the model or batch cannot be used.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        >>> assert_healthy(model, (torch.randn(16, 8), torch.randint(3, (16,))))
        >>> _ = nn.init.zeros_(model[0].weight), nn.init.zeros_(model[0].bias)
        >>> assert_healthy(model, (torch.randn(16, 8), torch.randint(3, (16,))))
        Traceback (most recent call last):
        AssertionError: ...
    """
    findings = filter_findings(check(model, sample_batch, loss=loss), ignore=ignore)
    bad = [f for f in findings if exit_code((f,), fail_on)]
    if bad:
        raise AssertionError("the weights are not healthy:\n\n" + render_findings(bad))
