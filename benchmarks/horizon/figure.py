"""The picture: regret at the end against what was spent before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.horizon.methods import FREE, HALVING, HALVING_BY_RULES, ONE_RUNG_BY_RULES
from benchmarks.horizon.summary import Line

LEAST_COST = 0.012
"""Where what costs nothing stands on a logarithmic axis."""

CLIP = 1.3
"""Regret is drawn up to here."""

SHOWN = (HALVING, HALVING_BY_RULES, ONE_RUNG_BY_RULES, "one rung", "ASHA", "TPE + Hyperband")
"""Lines of the picture; the report has all."""


def draw(panels: Mapping[str, Sequence[Line]], advised: Mapping[str, Sequence[Line]], path: Path) -> None:
    """One panel for each choice: a line for every method, its mean regret over cost in full trainings.

    Args:
        panels: lines of the replayed methods by the panel's title.
        advised: lines of advice that was really asked for, by the same titles.
        path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels) + 3, 4.6), sharey=True, layout="constrained")
    for ax, (title, lines) in zip(axes if len(panels) > 1 else [axes], panels.items(), strict=True):
        for name in dict.fromkeys(x.method for x in lines):
            mine = [x for x in lines if x.method == name]
            if name in FREE:
                ax.axhline(mine[0].regret, color="0.5", lw=0.9, ls=":" if name == "torch default" else "--")
                ax.annotate(name, (LEAST_COST, mine[0].regret), fontsize=8, color="0.35", va="bottom")
            elif name in SHOWN:
                ax.plot([x.cost for x in mine], [x.regret for x in mine], "o-", ms=3.5, lw=1.4, label=name)
        for name in dict.fromkeys(x.method for x in advised.get(title, ())):
            mine = sorted((x for x in advised[title] if x.method == name), key=lambda x: x.cost)
            ax.plot([x.cost for x in mine], [x.regret for x in mine], "s-", ms=6, lw=2, label=name)
        ax.set_xscale("log")
        ax.set_xlim(LEAST_COST * 0.95, None)
        ax.set_ylim(0, CLIP)
        ax.set_xlabel("spent before the training, in full trainings")
        ax.set_title(f"{title} ({lines[0].tasks} tasks)", fontsize=10)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    first = axes[0] if len(panels) > 1 else axes
    first.set_ylabel("mean regret at the end\n(0 best of the pool, 1 torch's default)")
    handles = {label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, frameon=False, loc="outside right upper")
    figure.savefig(path, dpi=130)
    plt.close(figure)
