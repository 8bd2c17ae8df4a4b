"""What a loss compares with what: seen at the call, or told by the gradient it sends back.

The same loss is given in many ways (inferred, a module, a function, ``loss(model, batch)``, made inside ``forward``).
Its call of ``cross_entropy``, ``mse_loss`` and the like is seen in all of them. Where it is written out by hand, the
gradient of the loss with respect to the model's output gives it away: that of cross-entropy is the difference between
probabilities and labels, that of a squared error the difference between output and target, each up to a factor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from initadvisor.checks.figures import TermFigures, TermKind
from initadvisor.checks.lineage import Lineage, Use, rms
from initadvisor.training.data import tensors_in
from initadvisor.training.sanity import is_distribution

COMPARING = {
    "cross_entropy": TermKind.CLASSES,
    "nll_loss": TermKind.CLASSES,
    "binary_cross_entropy_with_logits": TermKind.BINARY,
    "binary_cross_entropy": TermKind.BINARY,
    "mse_loss": TermKind.VALUES,
    "l1_loss": TermKind.OTHER,
    "smooth_l1_loss": TermKind.OTHER,
    "huber_loss": TermKind.OTHER,
}
"""Losses of torch by the name of their call."""

ELEMENTWISE = frozenset(
    {"sub", "__sub__", "rsub", "__rsub__", "mul", "__mul__", "dist", "abs_diff", "maximum", "minimum", "where", "lerp"}
    | {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "gaussian_nll_loss", "kl_div"}
)
"""Calls whose operands broadcast."""

IGNORED = -100
"""Label that torch's losses leave out by default."""

ALIKE = 1e-4
"""One minus the cosine between a gradient and that of a known loss up to which it is that loss; rounding costs 1e-6."""

LARGEST = 1 << 24
"""Elements of an output up to which its gradient is compared with those of known losses."""


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison, as tensors.

    Attributes:
        kind: what it is.
        scores: as they were given, detached; classes in axis ``dim``.
        target: what they are compared with.
        dim: of the classes.
        ignored: label that is left out.
        use: what made the scores, where a single weight did.
        squash: the last op, where it squashed them.
        wants: what the loss expects: ``"scores"``, ``"log"`` (logarithms of probabilities) or ``"probabilities"``.
    """

    kind: TermKind
    scores: torch.Tensor
    target: torch.Tensor
    dim: int = -1
    ignored: int = IGNORED
    use: Use | None = None
    squash: str = ""
    wants: str = "scores"


@dataclass(frozen=True, slots=True)
class Clash:
    """Shapes of an output and a target that broadcast against each other over the batch axis."""

    output: tuple[int, ...]
    target: tuple[int, ...]


def term_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], lineage: Lineage) -> Term | None:
    """The comparison that a call of one of :data:`COMPARING` makes; None where its operands are not tensors."""
    operands = dict(zip(("input", "target"), args, strict=False)) | dict(kwargs)
    scores, target = operands.get("input"), operands.get("target")
    if not isinstance(scores, torch.Tensor) or not isinstance(target, torch.Tensor) or not scores.is_floating_point():
        return None
    fact = lineage.of(scores)
    ignored = kwargs.get("ignore_index", IGNORED)
    return Term(
        COMPARING[name],
        scores.detach(),
        target.detach(),
        dim=1 if scores.ndim > 1 else 0,
        ignored=ignored if isinstance(ignored, int) else IGNORED,
        use=None if fact is None else fact.use,
        squash="" if fact is None else fact.squash,
        wants={"nll_loss": "log", "binary_cross_entropy": "probabilities"}.get(name, "scores"),
    )


def clash_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], lineage: Lineage) -> Clash | None:
    """Two operands of which each is spread along the batch axis of the other.

    Both begin with the batch, and one has fewer axes: aligned from the right, sample i of one meets every sample of
    the other, and the result is larger than both. Written ``a[:, None] - b`` that is meant, and told apart by its axis
    added on purpose; only what the model returned (or what is being trained) against a tensor of the batch is looked
    at, unless the call is one of torch's losses.
    """
    if name not in ELEMENTWISE:
        return None
    given = [*args[:2], *(kwargs[k] for k in ("input", "other", "target") if k in kwargs)]
    pair = [t for t in given if isinstance(t, torch.Tensor)][:2]
    if len(pair) < 2 or not _crossed(*(tuple(t.shape) for t in pair)):
        return None
    facts = [lineage.of(t) for t in pair]
    for (one, fact), (other, known) in (
        tuple(zip(pair, facts, strict=True)),
        tuple(zip(pair, facts, strict=True))[::-1],
    ):
        outputs = one.requires_grad and (name in COMPARING or (fact is not None and fact.output))
        targets = not other.requires_grad and (name in COMPARING or (known is not None and known.batch))
        if outputs and targets:
            return Clash(tuple(one.shape), tuple(other.shape))
    return None


def _crossed(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Aligned from the right, each is spread along an axis of the other, and both begin with one batch.

    Example:
        >>> _crossed((8, 1), (8,)), _crossed((8, 3), (8, 3)), _crossed((8, 1), (1,)), _crossed((8, 1, 8), (8, 8))
        (True, False, False, True)
    """
    if not a or not b or len(a) == len(b) or a[0] != b[0] or a[0] < 2:
        return False
    joined = broadcast(a, b)
    return joined is not None and all(math.prod(shape) < math.prod(joined) for shape in (a, b))


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of an elementwise result, None where the shapes do not fit.

    Example:
        >>> broadcast((8, 1), (8,)), broadcast((3,), (2,))
        ((8, 8), None)
    """
    length = max(len(a), len(b))
    pairs = list(zip((*(1,) * (length - len(a)), *a), (*(1,) * (length - len(b)), *b), strict=True))
    if any(x != y and 1 not in (x, y) for x, y in pairs):
        return None
    return tuple(max(pair) for pair in pairs)


def told_by_gradient(
    output: Any, batch: Any, gradients: Mapping[int, torch.Tensor], lineage: Lineage
) -> Iterator[Term]:
    """Comparisons of the model's outputs with tensors of the batch that explain the gradient an output received.

    Args:
        output: what the model returned.
        batch: where targets are looked for.
        gradients: of the loss, by the identity of an output's tensor.
        lineage: says which weight made an output.
    """
    targets = list(tensors_in(batch))
    for scores in tensors_in(output):
        grad = gradients.get(id(scores))
        if grad is None or not scores.is_floating_point() or not 1 < scores.numel() <= LARGEST:
            continue
        fact = lineage.of(scores)
        for target in targets:
            for kind, dim, expected in _expected(scores.detach().float(), target):
                if _parallel(grad.float(), expected):
                    yield Term(
                        kind,
                        scores.detach(),
                        target,
                        dim=dim,
                        use=None if fact is None else fact.use,
                        squash="" if fact is None else fact.squash,
                    )
                    return


def _expected(scores: torch.Tensor, target: torch.Tensor) -> Iterator[tuple[TermKind, int, torch.Tensor]]:
    """Gradients of the known losses, up to a factor, where the shapes allow them."""
    if not target.is_floating_point() and target.dtype is not torch.bool and scores.ndim >= 2:
        for dim in dict.fromkeys((scores.ndim - 1, 1)):
            shape = (*scores.shape[:dim], *scores.shape[dim + 1 :])
            count = scores.shape[dim]
            if tuple(target.shape) != tuple(shape) or count < 2:
                continue
            known = (target >= 0) & (target < count)
            hot = F.one_hot(target.long().clamp(0, count - 1), count).movedim(-1, dim)
            yield TermKind.CLASSES, dim, (scores.softmax(dim) - hot) * known.unsqueeze(dim)
    if tuple(target.shape) != tuple(scores.shape) and target.numel() != scores.numel():
        return
    if target.numel() == scores.numel() and not target.is_complex():
        value = target.reshape(scores.shape).float()
        if bool(((value == 0) | (value == 1)).all()):
            yield TermKind.BINARY, -1, scores.sigmoid() - value
        if target.is_floating_point():
            yield TermKind.VALUES, -1, scores - value


def _parallel(a: torch.Tensor, b: torch.Tensor) -> bool:
    sizes = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    return sizes > 0 and float((a * b).sum()) > (1 - ALIKE) * sizes


def figures_of(term: Term, path: str) -> TermFigures:
    """The numbers of a comparison.

    Args:
        term: as it was seen.
        path: of the weight that made its scores, ``""`` where that is not known.
    """
    if term.kind is TermKind.CLASSES:
        return _classes(term, path)
    target, squashed = term.target, ""
    if term.kind is TermKind.BINARY and term.wants == "scores" and term.squash == "sigmoid":
        squashed = "sigmoid"
    binary = bool(((target == 0) | (target == 1)).all())
    values = target.float()
    return TermFigures(
        term.kind,
        path,
        target_mean=float(values.mean()) if target.numel() else None,
        target_std=float(values.std()) if target.numel() > 1 else None,
        output_rms=float(rms(term.scores)),
        error=_error(term),
        squashed=squashed,
        positives=float(values.mean()) if binary and target.numel() else None,
    )


def _error(term: Term) -> float:
    if term.kind is not TermKind.VALUES or term.target.numel() != term.scores.numel():
        return math.nan
    return float((term.scores.float() - term.target.reshape(term.scores.shape).float()).square().mean())


def labels_outside(term: Term) -> tuple[int, int] | None:
    """Lowest and highest label that is no class and not left out; None where all are."""
    if term.kind is not TermKind.CLASSES or term.target.is_floating_point():
        return None
    wanted = term.target.reshape(-1)
    outside = wanted[(wanted != term.ignored) & ((wanted < 0) | (wanted >= term.scores.shape[term.dim]))]
    return (int(outside.min()), int(outside.max())) if outside.numel() else None


def _classes(term: Term, path: str) -> TermFigures:
    scores = term.scores.movedim(term.dim, -1).float()
    rows, target = scores.reshape(-1, scores.shape[-1]), term.target
    count = rows.shape[-1]
    if target.is_floating_point():  # probabilities of classes
        weights = target.movedim(term.dim, -1).reshape(-1, count).float() if target.shape == term.scores.shape else None
        each = None if weights is None else -(weights * rows.log_softmax(-1)).sum(-1)
        labels = None
    else:
        wanted, labels = target.reshape(-1).long(), labels_outside(term)
        if len(wanted) != len(rows):
            return TermFigures(term.kind, path, classes=count)
        inside = (wanted >= 0) & (wanted < count) & (wanted != term.ignored)
        rows, wanted = rows[inside], wanted[inside]
        each = F.cross_entropy(rows, wanted, reduction="none") if len(rows) else None
    if each is None or not len(rows):
        return TermFigures(term.kind, path, classes=count, labels=labels)
    proper = is_distribution(rows.exp() if term.wants == "log" else rows)
    return TermFigures(
        term.kind,
        path,
        cross_entropy=float(each.mean()),
        entropy_error=float(each.std()) / len(each) ** 0.5 if len(each) > 1 else 0.0,
        classes=count,
        score_rms=float(rms(rows - rows.mean(-1, keepdim=True))),
        output_rms=float(rms(rows)),
        squashed="softmax" if term.wants == "scores" and (proper or term.squash in ("softmax", "sigmoid")) else "",
        raw=term.wants == "log" and not proper,
        labels=labels,
    )
