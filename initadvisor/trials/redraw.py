"""Are the weights as they came already what a scheme would draw? Then another draw of the same is no candidate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

MOST_ELEMENTS = 4096
"""Elements of each tensor that are compared: enough to tell scales apart that differ by a twentieth."""

ALPHA = 0.01
"""Chance that equal distributions are taken for different ones; then the redraw merely takes part in the race."""


def is_redraw(current: nn.Module, drawn: nn.Module) -> bool:
    """Whether two models' trainable weights differ by their random draw alone, as far as the elements show it.

    Tensors that are constant in one model must be equal in both; single numbers tell nothing unless one is zero. Of the
    others the distributions are compared by the two-sample Kolmogorov-Smirnov test, each alone and all together in
    units of their size, so that many small tensors count like one large one.

    Independent draws only: an orthogonal and a Gaussian matrix of one size have equal elements.

    Args:
        current: the weights as they came.
        drawn: a draw of the scheme in question.

    Returns:
        False also where nothing differs: that is no draw.

    Example:
        >>> import torch
        >>> def layer(seed, std):
        ...     made = nn.Linear(32, 32, bias=False)
        ...     nn.init.normal_(made.weight, std=std, generator=torch.Generator().manual_seed(seed))
        ...     return made
        >>> is_redraw(layer(0, 1.0), layer(1, 1.0)), is_redraw(layer(0, 1.0), layer(1, 1.5))
        (True, False)
    """
    from scipy.stats import ks_2samp

    pairs = []
    for (name, a), (other, b) in zip(current.named_parameters(), drawn.named_parameters(), strict=False):
        if name != other or a.shape != b.shape:
            return False
        if not a.requires_grad:
            continue
        x, y = _elements(a), _elements(b)
        if np.array_equal(x, y):
            continue
        if x.size == 1 and x.all() and y.all():
            continue  # one number tells no distribution (the bias of a scalar head), unless it is zero
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return False
        pairs.append((x, y))
    if not pairs:
        return False
    sizes = [float(np.sqrt(np.mean(y**2))) for _, y in pairs]
    sides = zip(*pairs, strict=True)
    together = [np.concatenate([v / size for v, size in zip(side, sizes, strict=True)]) for side in sides]
    # Half of the level for each question, the first spread over all tensors.
    alone = all(ks_2samp(x, y).pvalue >= ALPHA / 2 / len(pairs) for x, y in pairs)
    return alone and bool(ks_2samp(*together).pvalue >= ALPHA / 2)


def _elements(p: nn.Parameter) -> NDArray[np.float64]:
    return np.asarray(p.detach().reshape(-1)[:MOST_ELEMENTS].double().cpu().numpy(), dtype=np.float64)
