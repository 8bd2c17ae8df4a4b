"""Are a model's weights already what a scheme would draw? Then another draw of the same is no candidate.

A race between two draws of one distribution has a winner, but no meaning: fresh seeds would reverse it every other
time. That holds for every scheme (an author may have filled by one of the textbooks) and for tensors of every kind.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from initadvisor.errors import InitAdvisorError, VerificationError
from initadvisor.initializers.registry import get as card_of
from initadvisor.schemes.apply import draw, plan_scheme
from initadvisor.schemes.regions import gather, slice_shape
from initadvisor.schemes.slots import Slot
from initadvisor.schemes.values import Assignment, Part, SchemeKind, SchemeValues
from initadvisor.schemes.verify import check_declared

MOST_ELEMENTS = 4096
"""Elements of each tensor whose distribution is compared: enough to tell sizes apart that differ by a twentieth."""

ALPHA = 0.01
"""Chance that equal distributions are taken for different ones; then the redraw merely takes part in the race."""

_MOST_DRAWS = 64
"""Draws of a small tensor that its numbers are compared with: of one number, all that can be asked is whether it lies
where such numbers do."""

_ALIKE = 0.1
"""Rows whose mean squared cosine is below this share of the other matrix's are orthogonal where those are not."""

_ORTHOGONAL = 1e-5
"""Mean squared cosine of rows that are orthogonal up to the rounding of half precision."""

_FEWEST_ROWS = 3

Values = NDArray[np.float64]


def is_another_draw(scheme: SchemeValues, model: nn.Module, seed: int = 0) -> bool:
    """Whether filling ``model`` by ``scheme`` would change nothing but the random numbers.

    Tensors that the scheme fills with fixed values must hold them. Of the others the first two moments and bounds must
    be those that the initializer declares, the distribution that of its draws (two-sample Kolmogorov-Smirnov test,
    each alone and all together in units of their size), and rows must be orthogonal in both or in neither.

    Args:
        scheme: a candidate; one with data-driven steps never is another draw, since they measure.
        model: with the weights as they came; only read.
        seed: of the draws it is compared with.

    Returns:
        False also where nothing is drawn at all.

    Example:
        >>> from initadvisor.schemes.values import Fill
        >>> from initadvisor.types import Fans
        >>> def by(std):
        ...     part = Part(Fill("normal", args=(("std", std),)), Fans(32, 32))
        ...     return SchemeValues("s", SchemeKind.TEXTBOOK, "", (Assignment("weight", (32, 32), (part,), "r", "r"),))
        >>> layer = nn.Linear(32, 32, bias=False)
        >>> _ = nn.init.normal_(layer.weight, std=1.0, generator=torch.Generator().manual_seed(0))
        >>> is_another_draw(by(1.0), layer), is_another_draw(by(1.5), layer)
        (True, False)
    """
    if scheme.kind is SchemeKind.CURRENT or scheme.calibrations:
        return False
    try:
        plan = plan_scheme(scheme, model)
        pairs: list[tuple[Values, Values]] = []
        # Small tensors first: they are drawn in no time, and mostly decide.
        for slot, assignment in sorted(plan.fills, key=lambda f: f[0].param.numel()):
            for part, found, drawn in _regions(slot, assignment, seed):
                if not _could_be(assignment, part, found, drawn):
                    return False
                if not torch.equal(found, drawn[0]):
                    pairs.append((_flat([found]), _flat(drawn)))
    except VerificationError:
        return False  # mean, standard deviation or bounds are not what the initializer declares
    except InitAdvisorError:
        return False  # it does not fit this model, which the race finds out for itself
    return bool(pairs) and _one_distribution(pairs)


def _regions(slot: Slot, assignment: Assignment, seed: int) -> Iterator[tuple[Part, torch.Tensor, list[torch.Tensor]]]:
    """Every part with its values as they came and as drawn; the moments of what came are checked before any draw."""
    found = slot.read()
    keep = [i for i in range(found.shape[0]) if i != slot.padding_idx] if slot.padding_idx is not None else None
    for part in assignment.parts:
        region = gather(found, part.slice)
        region = region[keep] if keep is not None and part.slice is None else region
        if not region.numel():
            continue
        card = card_of(part.fill.initializer)
        shape = slice_shape(assignment.shape, part.slice)
        declared = card.declare(shape, part.fans, part.fill.gain, dict(part.fill.args))
        check_declared(assignment.path, card.name, region, declared)
        count = 1 if declared.exact or region.numel() >= MOST_ELEMENTS else -(-MOST_ELEMENTS // region.numel())
        drawn = []
        for k in range(min(count, _MOST_DRAWS)):
            value = gather(draw(assignment, seed + k, found.dtype), part.slice)
            drawn.append(value[keep] if keep is not None and part.slice is None else value)
        yield part, region, drawn


def _could_be(assignment: Assignment, part: Part, found: torch.Tensor, drawn: list[torch.Tensor]) -> bool:
    card = card_of(part.fill.initializer)
    declared = card.declare(slice_shape(assignment.shape, part.slice), part.fans, part.fill.gain, dict(part.fill.args))
    one_value = drawn[0].numel() > 1 and bool((drawn[0] == drawn[0].reshape(-1)[0]).all())
    if declared.exact or one_value:
        return torch.allclose(found.float(), drawn[0].float(), rtol=1e-6, atol=1e-12)
    if bool((found == 0).all()):
        return False
    if found.ndim >= 2 and min(found.shape[0], found[0].numel()) >= _FEWEST_ROWS:
        a, b = _cosine(found), _cosine(drawn[0])
        return max(a, b) < _ORTHOGONAL or min(a, b) >= _ALIKE * max(a, b)
    return True


def _cosine(values: torch.Tensor) -> float:
    """Mean squared cosine between rows (or columns, where those are fewer): about 1/n of n independent elements."""
    matrix = values.detach().float().flatten(1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    matrix = torch.nn.functional.normalize(matrix[:MOST_ELEMENTS], dim=1)
    rows = matrix[: min(len(matrix), 64)]
    squares = (rows @ rows.T).square()
    pairs = len(rows) * (len(rows) - 1)
    return float((squares.sum() - squares.diagonal().sum()) / pairs) if pairs else 0.0


def _flat(values: list[torch.Tensor]) -> Values:
    joined = torch.cat([v.detach().reshape(-1)[:MOST_ELEMENTS].double().cpu() for v in values])
    return np.asarray(joined[:MOST_ELEMENTS].numpy(), dtype=np.float64)


def _one_distribution(pairs: list[tuple[Values, Values]]) -> bool:
    from scipy.stats import ks_2samp

    # Half of the level for each question, the first spread over all tensors.
    if any(ks_2samp(x, y).pvalue < ALPHA / 2 / len(pairs) for x, y in pairs):
        return False
    sizes = [float(np.sqrt(np.mean(y**2))) or 1.0 for _, y in pairs]
    # As many of the drawn numbers as came, so that no tensor counts for more than its size.
    came = np.concatenate([x / size for (x, _), size in zip(pairs, sizes, strict=True)])
    drawn = np.concatenate([y[: len(x)] / size for (x, y), size in zip(pairs, sizes, strict=True)])
    return bool(ks_2samp(came, drawn).pvalue >= ALPHA / 2)
