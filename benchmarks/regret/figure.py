"""The picture: where every method's regret lies, task by task."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.regret.methods import ORACLE
from benchmarks.regret.summary import ADVISED, Results

CLIP = 2.0
"""Regret is drawn up to here; beyond twice the default's loss gap it hardly matters how bad a pick is."""


def draw(results: Results, path: Path) -> None:
    """Distribution of normalised regret by method, best median first; dots are tasks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {label: np.array(list(by.values())) for label, by in results.regrets.items() if by and label != ORACLE}
    if not shown:
        return
    order = sorted(shown, key=lambda label: float(shown[label].mean()), reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.34 * len(order) + 1.4), layout="constrained")
    jitter = np.random.default_rng(0)
    for row, label in enumerate(order):
        values = np.clip(shown[label], -0.5, CLIP)
        colour = "#c0392b" if label == ADVISED else "#4a6fa5"
        axes.scatter(values, row + jitter.uniform(-0.15, 0.15, len(values)), s=14, color=colour, alpha=0.55, lw=0)
        axes.plot([np.median(values)] * 2, [row - 0.32, row + 0.32], color=colour, lw=2.5)
    axes.axvline(0, color="0.4", lw=0.8)
    axes.axvline(1, color="0.4", lw=0.8, ls="--")
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel(f"regret after full training: 0 best of the pool, 1 torch's default (clipped at {CLIP:g})")
    axes.set_title(f"{len(results.tables) - len(results.null)} tasks that are not null; bars are medians", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
