"""INI40x: what happens to the signal and to its gradient on the way through the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from initadvisor.checks.context import CheckContext
from initadvisor.checks.figures import LayerFigures
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.graph.spec import NormStyle
from initadvisor.types import WEIGHT_ROLES, Role

CHANCE_DEAD = 0.5
"""Largest share of units that symmetric weights leave dead on average: one half, where all samples are alike."""

DEAD_ERRORS = 4.0
"""Standard errors above that from which it is no chance; the error is half over the root of the number of units."""

FEWEST_UNITS = 16

SATURATED = 0.5
"""Share of values in the flat ends of a bounded activation from which most of the gradient is lost; unit-variance
inputs leave 0.8% there for tanh, an edge-of-chaos sigmoid 7%."""

BY_BIAS = 0.7
"""Share of an output's RMS from which a bias makes at least half of its square."""

FEWEST_DEPTHS = 5
"""Depths below which a trend is not told from two unlike layers."""

TREND = 100.0
"""Factor from first to last layer that is told; wide nets at criticality drift by less than 3 over 50 layers."""

STEEP = 1.25
"""Factor per layer that goes with it; a batch-normalised ResNet-50 drifts by 1.12 a layer and trains."""

FAR = 1e4
"""Factor from first to last layer that is told however slowly it builds up."""

HOPELESS = 1e6
"""Factor from which single precision and any one learning rate lose the far end."""

CERTAIN = 5.0
"""Standard errors of the slope of log size over depth from which the trend is geometric and no jump."""

UNVARIED = 1e-3
"""Spread of the outputs over samples, relative to their size, below which the model says the same of everything."""

ONE_HOT = 0.9
"""Mean largest attention weight from which attention looks at one key only, and the softmax passes no gradient."""

FEWEST_KEYS = 8
"""Keys below which a large weight is no wonder."""

FLOAT16_MAX = 65504.0
FLOAT16_NORMAL = 6.1e-5
"""Largest number of float16, and the smallest it holds with full precision."""

DEEP_POST_NORM = 12
"""Branches (six blocks) from which gradients near the output of a post-norm model call for a warm-up (Xiong et al.)."""

MANY_BRANCHES = 8
STREAM_GROWTH = 4.0
"""Growth of the residual stream from first to last sum that is told: 94% of what the head reads is then the sum of the
branches, and each block near the end changes it by little."""

_OFF_THE_PATH = frozenset({Role.OUTPUT, Role.ROUTER, Role.MODULATION, Role.ADAPTER_IN, Role.ADAPTER_OUT})


def _dead(context: CheckContext) -> Iterator[Hit]:
    for layer in context.figures.layers:
        if layer.units < FEWEST_UNITS or not layer.dead or layer.samples < 2:
            continue
        share = layer.dead / layer.units
        if share <= CHANCE_DEAD + DEAD_ERRORS * 0.5 / math.sqrt(layer.units):
            continue
        every = layer.dead == layer.units and context.stuck(layer.path)
        yield Hit(
            (layer.path,),
            f"{layer.dead} of {layer.units} {layer.activation} units are zero on all {layer.samples} values of the "
            "batch" + (": no gradient passes, nor does any in the steps after" if every else ""),
            severity=Severity.ERROR if every else None,
            weight=share,
        )


def _saturated(context: CheckContext) -> Iterator[Hit]:
    for layer in context.figures.layers:
        if layer.saturated_share > SATURATED and not _by_bias(context, layer):
            yield Hit(
                (layer.path,),
                f"{layer.saturated_share:.0%} of its {layer.activation} outputs lie in the flat ends "
                f"(pre-activations of RMS {layer.rms:.3g})",
                weight=layer.saturated_share,
            )


def _by_bias(context: CheckContext, layer: LayerFigures) -> bool:
    """The weight alone does not saturate: a bias of one value does, as a prior or an open gate is set on purpose."""
    biases = [context.statistics(b.path) for b in context.biases_of(layer.path) if context.finite(b.path)]
    set_to = sum(s.low for s in biases if s.constant)
    return abs(set_to) > BY_BIAS * layer.rms


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through log size over depth.

    Attributes:
        per_layer: factor from one depth to the next.
        total: factor from the first depth to the last.
        first, last: the depths.
        errors: the slope in units of its standard error.
    """

    per_layer: float
    total: float
    first: int
    last: int
    errors: float


def trend(depths: Sequence[int], sizes: Sequence[float]) -> Trend | None:
    """The geometric trend of positive sizes over depth; layers of equal depth count as one, by their log mean.

    Returns:
        None where there are fewer than five depths.

    Example:
        >>> t = trend([1, 2, 3, 4, 5], [1.0, 0.5, 0.25, 0.125, 0.0625])
        >>> round(t.per_layer, 6), round(t.total, 6)
        (0.5, 0.0625)
    """
    by_depth: dict[int, list[float]] = {}
    for depth, size in zip(depths, sizes, strict=True):
        if size > 0 and math.isfinite(size):
            by_depth.setdefault(depth, []).append(math.log(size))
    if len(by_depth) < FEWEST_DEPTHS:
        return None
    x = torch.tensor(sorted(by_depth), dtype=torch.float64)
    y = torch.tensor([sum(by_depth[int(d)]) / len(by_depth[int(d)]) for d in x], dtype=torch.float64)
    dx = x - x.mean()
    slope = float((dx * (y - y.mean())).sum() / dx.square().sum())
    rest = y - y.mean() - slope * dx
    error = math.sqrt(float(rest.square().sum()) / (len(x) - 2) / float(dx.square().sum()))
    reach = float(x[-1] - x[0])
    errors = abs(slope) / max(error, 1e-12)
    # Sizes near the limits of a double would overflow the exponential.
    total = math.exp(max(-700.0, min(700.0, slope * reach)))
    return Trend(math.exp(slope), total, int(x[0]), int(x[-1]), errors)


def _signal(layer: LayerFigures, normed: bool) -> float:
    """Size of a layer's output; what a norm behind it divides out is no signal."""
    return 0.0 if normed else layer.rms


def _gradient(layer: LayerFigures, normed: bool) -> float:
    """Size of the gradient at a layer's output; behind a norm, that at the normalised output."""
    return layer.grad_norm * layer.rms if normed else layer.grad_norm


def _trending(
    size: Callable[[LayerFigures, bool], float], told: Callable[[Trend], str]
) -> Callable[[CheckContext], Iterator[Hit]]:
    def run(context: CheckContext) -> Iterator[Hit]:
        on_path = [
            (layer, context.spec[layer.path])
            for layer in context.figures.layers
            if layer.path in context.spec and context.spec[layer.path].role in WEIGHT_ROLES - _OFF_THE_PATH
        ]
        sized = [(layer, param.depth, size(layer, param.norm_after is not None)) for layer, param in on_path]
        sized = [entry for entry in sized if entry[2] > 0]
        layers = [layer for layer, _, _ in sized]
        found = trend([depth for _, depth, _ in sized], [value for _, _, value in sized])
        if found is None or found.errors < CERTAIN:
            return
        factor = max(found.total, 1 / found.total)
        steep = max(found.per_layer, 1 / found.per_layer) > STEEP
        if factor < (TREND if steep else FAR):
            return
        yield Hit(
            tuple(layer.path for layer in layers),
            told(found),
            severity=Severity.ERROR if factor > HOPELESS else None,
            weight=factor,
        )

    return run


def _verb(factor: float) -> str:
    return "grow" if factor > 1 else "shrink"


def _forward(t: Trend) -> str:
    return (
        f"layer outputs {_verb(t.per_layer)} by ×{t.per_layer:.3g} per layer, ×{t.total:.3g} from depth {t.first} to "
        f"{t.last}"
    )


def _backward(t: Trend) -> str:
    """Told the way gradients run, from the last layer to the first."""
    return (
        f"gradients {_verb(1 / t.per_layer)} by ×{1 / t.per_layer:.3g} per layer on the way back, ×{1 / t.total:.3g} "
        f"from depth {t.last} to {t.first}"
    )


def _collapse(context: CheckContext) -> Iterator[Hit]:
    figures = context.figures
    heads = [p for p in context.spec.params if p.role is Role.OUTPUT]
    if not figures.varied or figures.samples < 2 or not figures.output_rms > 0:
        return
    if any(context.is_zero(context.spec.first_name(h.path)) for h in heads):
        return  # a head at zero says the same of everything, on purpose
    if figures.output_variation < UNVARIED:
        flat = next(
            (layer.path for layer in figures.layers if layer.variation < UNVARIED), heads[0].path if heads else ""
        )
        depth = context.spec[flat].depth if flat in context.spec else 0
        # It is every layer up to there that wears the differences down.
        before = [x.path for x in figures.layers if x.path in context.spec and context.spec[x.path].depth <= depth]
        yield Hit(
            tuple(dict.fromkeys([flat, *before])) if flat else (),
            f"outputs differ between the {figures.samples} samples by {figures.output_variation:.2g} of their size",
        )


def _sharp_attention(context: CheckContext) -> Iterator[Hit]:
    for seen in context.figures.attentions:
        if seen.keys >= FEWEST_KEYS and seen.largest_weight > ONE_HOT:
            near = context.spec[seen.path]
            sharp = [
                p.path
                for p in context.with_role(Role.QUERY, Role.KEY)
                if p.branch == near.branch and abs(p.depth - near.depth) <= 1
            ]
            yield Hit(
                tuple(sharp) or (seen.path,),
                f"attention puts {seen.largest_weight:.0%} on one of {seen.keys} keys (logits spread by "
                f"{seen.logit_std:.3g})",
                weight=seen.largest_weight,
            )


def _not_finite(context: CheckContext) -> Iterator[Hit]:
    first = next((layer for layer in context.figures.layers if not layer.finite), None)
    if first is not None and not context.broken:  # what comes behind it follows
        yield Hit(
            (first.path,), "its output is the first to hold NaN or infinity, although no weight and no input does"
        )


def _range(context: CheckContext) -> Iterator[Hit]:
    if any(not layer.finite for layer in context.figures.layers):
        return
    for layer in context.figures.layers:
        if layer.largest > FLOAT16_MAX:
            yield Hit((layer.path,), f"its output reaches {layer.largest:.3g}", weight=layer.largest)
    for param in context.params:
        if param.dtype is torch.float16 and param.role in WEIGHT_ROLES and context.finite(param.path):
            s = context.statistics(param.path)
            if 0 < s.std < FLOAT16_NORMAL:
                yield Hit((param.path,), f"a float16 weight of std {s.std:.2g}")


def _unscaled_residuals(context: CheckContext) -> Iterator[Hit]:
    branches = [b for b in context.spec.branches if b.style is NormStyle.PRE_NORM and b.last]
    stream = context.figures.stream
    if len(branches) < MANY_BRANCHES or len(stream) < MANY_BRANCHES or stream[0] <= 0:
        return
    if any(b.scale or b.last_norm or b.constant != 1.0 for b in branches):
        return
    ratios = []
    for branch in branches:
        ends = [w for w in branch.last if context.finite(w)]
        others = [w for w in branch.params if w not in branch.last and context.finite(w)]
        if not ends or not others:
            return
        end, other = (min(context.statistics(w).std for w in group) for group in (ends, others))
        ratios.append(end / other if other > 0 else math.inf)
    scaled = 2 / math.sqrt(len(branches))
    growth = stream[-1] / stream[0]
    if min(ratios) > scaled and growth > STREAM_GROWTH:
        yield Hit(
            tuple(dict.fromkeys(w for b in branches for w in b.last)),
            f"none of {len(branches)} residual branches writes less than its own weights' scale; the stream grows "
            f"×{growth:.3g} (RMS {stream[0]:.3g} to {stream[-1]:.3g})",
        )


def _cold_post_norm(context: CheckContext) -> Iterator[Hit]:
    branches = [b for b in context.spec.branches if b.style is NormStyle.POST_NORM]
    if context.warms_up is False and len(branches) >= DEEP_POST_NORM:
        yield Hit(
            tuple(dict.fromkeys(w for b in branches for w in b.last)),
            f"{len(branches)} residual branches are normalised after their sum, and the learning rate starts at its "
            "full height",
        )


CHECKS = (
    Check(
        "INI401",
        "dead-units",
        Severity.WARNING,
        "units whose activation is zero on the whole batch",
        "Centre the biases at zero and scale the weights by the activation's gain.",
        _dead,
        ("he2015",),
        mends=True,
        grades={Severity.ERROR: "where all units are dead and stay so"},
    ),
    Check(
        "INI402",
        "saturated-units",
        Severity.WARNING,
        "a bounded activation that sits in its flat ends",
        "Scale the weights before it down to its gain over √fan_in.",
        _saturated,
        ("glorot2010",),
        mends=True,
    ),
    Check(
        "INI403",
        "signal-trend",
        Severity.WARNING,
        "forward signals that grow or shrink geometrically with depth",
        "Use the gain that belongs to the activation (He for ReLU), or normalise.",
        _trending(_signal, _forward),
        ("he2015", "poole2016"),
        mends=True,
        grades={Severity.ERROR: "from a factor of a million"},
    ),
    Check(
        "INI404",
        "gradient-trend",
        Severity.WARNING,
        "gradients that grow or shrink geometrically with depth",
        "Use the gain that belongs to the activation's slope, orthogonal weights, or residual connections.",
        _trending(_gradient, _backward),
        ("glorot2010", "schoenholz2017"),
        mends=True,
        grades={Severity.ERROR: "from a factor of a million"},
    ),
    Check(
        "INI405",
        "collapsed-output",
        Severity.WARNING,
        "an output that hardly depends on the input",
        "Raise the gain of the hidden layers (sigmoid needs about 4.8), or normalise.",
        _collapse,
        ("schoenholz2017",),
        mends=True,
    ),
    Check(
        "INI406",
        "one-hot-attention",
        Severity.WARNING,
        "attention that looks at a single key before it has learned anything",
        "Scale queries and keys down, or divide the logits by √head size.",
        _sharp_attention,
        ("vaswani2017",),
        mends=True,
    ),
    Check(
        "INI407",
        "number-range",
        Severity.INFO,
        "numbers beyond what float16 holds",
        "Scale the weights before it down; under float16 autocast this becomes infinite.",
        _range,
    ),
    Check(
        "INI409",
        "output-not-finite",
        Severity.ERROR,
        "a layer whose output is NaN or infinite although weights and inputs are not",
        "Scale the weights before it down, or look for a division by zero, a logarithm or a root in front of it.",
        _not_finite,
        cause=True,
    ),
    Check(
        "INI408",
        "unscaled-residual-outputs",
        Severity.INFO,
        "a deep pre-norm model none of whose residual outputs is scaled by depth",
        "Divide the weights that write to the residual stream by √(number of branches), as GPT-2 does.",
        _unscaled_residuals,
        ("radford2019", "zhang2019fixup"),
        mends=True,
    ),
    Check(
        "INI410",
        "post-norm-without-warm-up",
        Severity.WARNING,
        "a deep post-norm model whose learning rate does not warm up (known to advise, which sees the schedule)",
        "Raise the rate from zero over the first few percent of steps, or normalise before the branches.",
        _cold_post_norm,
        ("xiong2020",),
    ),
)
