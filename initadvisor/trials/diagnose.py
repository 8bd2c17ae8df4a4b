"""Where initialisation is not the problem: what the figures of a race point to instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from initadvisor.training.data import tensors_in
from initadvisor.training.engine.member import MemberState
from initadvisor.training.losses import LossKind, scores_of
from initadvisor.training.task import TrainingTask
from initadvisor.trials.result import Verdict
from initadvisor.trials.standings import Field, Standing
from initadvisor.types import CURRENT

SHORTEST_KEEP = 20
"""Steps below which a training has hardly begun, so that nothing follows from a loss that has not fallen."""

AT_CHANCE = 0.97
"""Share of the loss of guessing above which nothing was learnt: sampling a held-out set moves its loss by a few "
"percent."""

LEARNT = 0.9
"""Share of the loss of guessing below which the training loss has clearly fallen."""

LARGE_SCALE = 10.0
"""Standard deviation, or mean, of inputs from which they are far from the unit scale that initialisers assume."""

SMALL_SCALE = 0.03
"""Standard deviation of inputs below which the first layer hardly sees them."""

UNEVEN = 100.0
"""Ratio of the largest to the smallest standard deviation of features from which the small ones are hardly seen."""

TURNED_UP = 1.05
"""Last held-out loss over the best one from which over-fitting is told; less is noise of the held-out set."""

RATE_MATTERS = 3.0
"""Spread over learning rates in multiples of the spread over schemes from which the rate is what matters."""


FACTORS = 1.0, -8.0, 8.0
"""On all weights, to tell probabilities from scores that happen to lie between 0 and 1."""

ROUNDING = 1e-3
"""By which probabilities may miss a sum of 1."""


@dataclass(frozen=True)
class Figures:
    """What a diagnosis looks at.

    Attributes:
        task: the training.
        states: every member.
        field: who stood where.
        verdict: of the decision.
    """

    task: TrainingTask
    states: Sequence[MemberState]
    field: Field
    verdict: Verdict


def diagnose(figures: Figures) -> tuple[str, ...]:
    """Sentences that say what to look at instead, the most serious first; empty where nothing stands out."""
    found: list[str] = []
    rules = (
        _all_died, _squashed_twice, _at_chance, _no_gradient, _scale_of_data, _edge_of_grid, _rate_matters,
        _over_fitting,
    )  # fmt: skip
    for rule in rules:
        found += rule(figures)
    return tuple(found)


def _all_died(f: Figures) -> Iterator[str]:
    trained = [s for s in f.states if s.key.phase == "race" and (s.steps or s.status)]
    if trained and all(s.dead for s in trained):
        lowest = min(s.key.lr for s in trained)
        yield (
            f"every training diverged, whatever the weights: try learning rates below {lowest:g}, clip the gradient "
            "norm, "
            "or look for a loss that can overflow"
        )


def _squashed_twice(f: Figures) -> Iterator[str]:
    """Probabilities where the loss wants scores: it applies its own softmax or sigmoid to them."""
    loss, function = f.task.loss, f.task.loss.function
    over_classes = loss.kind in (LossKind.CROSS_ENTROPY_LAST, LossKind.CROSS_ENTROPY_SECOND)
    over_classes |= function is F.cross_entropy or isinstance(function, nn.CrossEntropyLoss)
    each = loss.kind is LossKind.BINARY
    each |= function is F.binary_cross_entropy_with_logits or isinstance(function, nn.BCEWithLogitsLoss)
    if not over_classes and not each:
        return
    outputs = list(_outputs(f.task))
    if len(outputs) < len(FACTORS) or any(not 0 <= float(p.min()) <= float(p.max()) <= 1 for p in outputs):
        return
    classes = -1 if loss.kind is LossKind.CROSS_ENTROPY_LAST else 1
    if over_classes and not any((p.sum(classes) - 1).abs().max() > ROUNDING for p in outputs if p.ndim > 1):
        yield (
            "the model ends in a softmax and the loss applies another one, which leaves it a fraction of the gradient "
            "and keeps it from small values: give the loss the scores before the softmax"
        )
    elif each:
        yield (
            "the model ends in a sigmoid and the loss applies another one, so that no output can go below 1/2: give "
            "the loss the scores before the sigmoid"
        )


def _outputs(task: TrainingTask) -> Iterator[torch.Tensor]:
    """What the model makes of the sample by its weights, and by large ones of either sign: scores then leave [0, 1]."""
    for factor in FACTORS:
        twin = task.member().eval()
        try:
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.mul_(factor)
                yield scores_of(task.sample.call(twin)).float()
        except Exception:  # noqa: BLE001 - what cannot be called so is not told
            return


def guessing_loss(task: TrainingTask) -> float | None:
    """Loss of the best answer that ignores the inputs; None where the loss is the user's own."""
    targets = [b.target for b in task.choosing.train if isinstance(b.target, torch.Tensor)]
    if not targets:
        return None
    if task.loss.kind in (LossKind.CROSS_ENTROPY_LAST, LossKind.CROSS_ENTROPY_SECOND, LossKind.BINARY):
        values = torch.cat([t.reshape(-1) for t in targets]).cpu()
        shares = torch.unique(values[values >= 0], return_counts=True)[1].double()
        shares = shares / shares.sum()
        return float(-(shares * shares.log()).sum())
    if task.loss.kind is LossKind.SQUARED:
        return float(torch.cat([t.reshape(-1) for t in targets]).double().var(unbiased=False))
    return None


def _at_chance(f: Figures) -> Iterator[str]:
    steps = max((s.steps for s in f.states), default=0)
    if steps < SHORTEST_KEEP:
        return  # nothing can be learnt that fast, and nothing follows
    best = _best_heldout(f.states)
    chance = guessing_loss(f.task)
    if chance is None or chance <= 0 or not math.isfinite(best) or best < AT_CHANCE * chance:
        return
    lowest = min((_tail_mean(s) for s in f.states if s.train), default=math.inf)
    if lowest < LEARNT * chance:
        yield (
            f"the training loss falls ({lowest:.3g}) but the held-out loss stays at that of guessing ({chance:.3g}) "
            "for every "
            "scheme: are labels shuffled against inputs, or is there too little data to generalise?"
        )
    else:
        yield (
            f"no scheme gets below the loss of guessing ({chance:.3g}) in {steps} steps: check that labels belong to "
            "their "
            "inputs, that the learning rates are right, and whether this task shows progress this early"
        )


def _best_heldout(states: Iterable[MemberState]) -> float:
    """Best held-out loss of any scheme: its mean over fresh seeds where there are some.

    On few rows the lowest of many scores is low by luck; rows and seeds no choice was made on know nothing of it.
    """
    confirming: dict[str, list[float]] = {}
    everything = math.inf
    for s in states:
        lowest = min((loss for _, loss in s.heldout), default=math.inf)
        everything = min(everything, lowest)
        if s.key.phase == "fresh":
            confirming.setdefault(s.key.scheme, []).append(lowest)
    return min((math.fsum(v) / len(v) for v in confirming.values()), default=everything)


def _tail_mean(state: MemberState) -> float:
    """Mean of the last tenth of the training losses: single steps are noise."""
    tail = state.train[-max(1, len(state.train) // 10) :]
    return math.fsum(tail) / len(tail)


def _no_gradient(f: Figures) -> Iterator[str]:
    flows = [s.flow_after for s in f.states if s.flow_after is not None]
    if not flows:
        return
    starved = set.intersection(*({w.layers[i - 1] for i, g in w.course("backward_norm") if g == 0.0} for w in flows))
    if starved:
        first = next(p for p in flows[0].layers if p in starved)
        more = f" and {len(starved) - 1} more" if len(starved) > 1 else ""
        yield (
            f"no gradient reaches {first}{more} under any scheme: is its output detached, cut off by a dead "
            "activation, or "
            "without effect on the loss?"
        )


def _scale_of_data(f: Figures) -> Iterator[str]:
    for index, first in enumerate(tensors_in((f.task.sample.args, dict(f.task.sample.kwargs)))):
        dense = first.layout is torch.strided  # an adjacency is no measurement
        if first is f.task.sample.target or not dense or not first.is_floating_point() or first.numel() < 2:
            continue
        if index > 0 and first.ndim < 2:
            continue  # a number a sample beside the data: a time, a noise level
        value = first.detach().double()
        mean, std = float(value.mean()), float(value.std())
        if not (math.isfinite(mean) and math.isfinite(std)) or std == 0:
            continue
        what = "the inputs" if index == 0 else f"input tensor {index}"
        if std > LARGE_SCALE or std < SMALL_SCALE or abs(mean) > max(LARGE_SCALE, 3 * std):
            yield (
                f"{what} are not standardised (mean {mean:.3g}, standard deviation {std:.3g}): subtract the mean and "
                "divide "
                "by the standard deviation; initialisers assume inputs of unit scale"
            )
        elif value.ndim == 2 and value.shape[0] > 1:
            spread = value.std(dim=0)
            spread = spread[spread > 0]
            if spread.numel() > 1 and float(spread.max() / spread.min()) > UNEVEN:
                yield (
                    f"the features of {what} have very different scales (standard deviations "
                    f"{float(spread.min()):.2g} to "
                    f"{float(spread.max()):.2g}): standardise each"
                )


def _finalists(f: Figures) -> tuple[Standing, Standing] | None:
    controls, challengers = f.field.controls(), f.field.challengers()
    return (controls[0], challengers[0]) if controls and challengers else None


def _edge_of_grid(f: Figures) -> Iterator[str]:
    rates = f.task.rates
    finalists = _finalists(f)
    if len(rates) < 2 or finalists is None:
        return
    best = {s.lr for s in finalists}
    for edge, word, where in ((rates[0], "lowest", "below"), (rates[-1], "highest", "above")):
        if best == {edge}:
            yield f"the {word} learning rate tried ({edge:g}) is the best for every finalist: try rates {where} it"


def _rate_matters(f: Figures) -> Iterator[str]:
    """At the first rung, where every scheme has every rate."""
    if f.verdict is Verdict.SWITCH or len(f.task.rates) < 2:
        return
    first: dict[str, list[float]] = {}
    horizon = min((s.horizon for s in f.field.latest.values()), default=0)
    for s in f.states:
        if s.key.phase == "race":
            first.setdefault(s.key.scheme, []).append(s.best(horizon))
    finite = [[v for v in values if math.isfinite(v)] for values in first.values()]
    bests = [min(v) for v in finite if v]
    if len(bests) < 3:
        return
    across_rates = sorted(max(v) - min(v) for v in finite if v)[len(bests) // 2]
    across_schemes = sorted(bests)[(3 * len(bests)) // 4] - sorted(bests)[len(bests) // 4]
    if across_rates > RATE_MATTERS * across_schemes and across_rates > 0:
        yield (
            f"the learning rate matters more than the scheme here: over rates the held-out loss differs by "
            f"{across_rates:.2g}, "
            f"over schemes by {across_schemes:.2g}"
        )


def _over_fitting(f: Figures) -> Iterator[str]:
    turned, looked, where = 0, 0, []
    for s in f.states:
        if s.key.phase != "fresh" or len(s.heldout) < 3 or (s.key.scheme == CURRENT and f.verdict is Verdict.SWITCH):
            continue
        looked += 1
        step, best = min(s.heldout, key=lambda pair: pair[1])
        last = s.heldout[-1][1]
        if 0 < step < s.heldout[-1][0] and best > 0 and last > TURNED_UP * best:
            turned += 1
            where.append(step)
    if looked and turned > looked / 2:
        middle = sorted(where)[len(where) // 2]
        yield (
            f"the held-out loss turns up after about step {middle}: the model over-fits, so the best checkpoint was "
            "scored; "
            "regularisation, more data or stopping early will bring more than other weights"
        )
