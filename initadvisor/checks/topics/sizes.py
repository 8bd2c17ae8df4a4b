"""INI21x: weights whose size does not fit what they meet: what follows them, what they are added to, what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch

from initadvisor.checks.context import CheckContext
from initadvisor.checks.figures import LayerFigures
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.graph.spec import Confidence, ParamSpec
from initadvisor.initializers.gains import activation_fn, is_known
from initadvisor.types import NO_ACTIVATION, WEIGHT_ROLES, Role

FAINT = 0.01
"""Part of a signal that is left behind a layer and its activation from which the layer was drawn too small: N(0, .02)
over 64 inputs leaves a tenth, torch's default half."""

KILLED = 0.05
"""Part of a signal that an activation passes below which it swallows what comes (a square of small numbers); also asked
of the last layer, which may be small otherwise."""

SINE_FIRST = 3.0
"""How many times smaller than U(±1/fan_in) the first layer of a sine net must be to be told (SIREN, section 3.2)."""

SINE_SPEED = 5.0
"""Factor inside a sine from which its first layer is meant to span several periods."""

SINE_TURNS = 6.0
"""RMS of a sine's argument, in radians, from which neighbouring inputs land anywhere: SIREN's hidden layers have 1."""

LOST_GRADIENT = 1e-8
"""RMS of the largest gradient below which Adam's own constant (eps) is larger than what it divides."""

UNEQUAL = 5.0
"""Ratio of two summands from which the smaller one makes less than 4% of the energy of their sum."""

WIDE = 8
"""Features from which a sum is one of representations; a bias per user and a score are not."""

FEWEST_GAINS = 8
CENTRED = 3.0
"""Standard errors of their mean within which gains lie around zero, where half of them change the sign of a feature."""

UNIT_SPREAD = 12**-0.5
"""Standard deviation of U(0, 1)."""
FEWEST_UNIT = 24
"""Gains from which U(0, 1) is told from trained ones, which start at 1 and reach beyond it."""

FEWEST_BLOCKS = 6
"""Blocks from which a rule over depth is told from chance."""

_SMALL_ON_PURPOSE = frozenset({Role.ROUTER, Role.MODULATION, Role.ADAPTER_IN, Role.ADAPTER_OUT})
_POINTS = 2001


@lru_cache(maxsize=1)
def _normal() -> torch.Tensor:
    """Evenly likely values of a standard normal distribution."""
    share = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) / _POINTS
    return math.sqrt(2) * torch.erfinv(2 * share - 1)


def passed(fn: Callable[[torch.Tensor], torch.Tensor], size: float) -> float:
    """What an elementwise function leaves of the variation of a signal of that size: std φ(s·z)/s for normal z.

    Example:
        >>> round(passed(torch.tanh, 0.01), 3), round(passed(torch.square, 0.01), 3)
        (1.0, 0.014)
    """
    out = fn(size * _normal())
    out = out.abs() if out.is_complex() else out
    return float(out.double().std()) / size


def _activation(context: CheckContext, param: ParamSpec) -> Callable[[torch.Tensor], torch.Tensor] | None:
    custom = context.spec.custom_activations.get(param.activation)
    if custom is not None or param.activation == NO_ACTIVATION:
        return custom
    return activation_fn(param.activation, param.activation_args) if is_known(param.activation) else None


def _too_small(context: CheckContext) -> Iterator[Hit]:
    yield from _faint(context)
    yield from _slow_sine(context)
    yield from _lost_gradient(context)


def _faint(context: CheckContext) -> Iterator[Hit]:
    for layer in context.figures.layers:
        param = context.param_of(layer)
        if param is None or param.role not in WEIGHT_ROLES - _SMALL_ON_PURPOSE or not context.finite(layer.path):
            continue
        if param.confidence is not Confidence.CERTAIN or param.branch is not None or param.norm_after is not None:
            continue
        s, signal = context.statistics(layer.path), _signal(context, layer, param)
        if param.protected is not None or not 0 < signal < math.inf or not 0 < layer.entered < math.inf or s.rms == 0:
            continue
        left, behind = _left(context, param, signal)
        gain = signal / layer.entered
        if param.role is Role.OUTPUT and left >= KILLED:
            continue
        if not gain * left < FAINT:
            continue
        wanted = s.std / (signal if left < KILLED else gain)
        yield Hit(
            (layer.path,),
            f"std {s.std:.2g} leaves {gain:.2g} of its input's size{behind}; about {wanted:.2g} would keep it",
            weight=-math.log(gain * left),
        )


def _left(context: CheckContext, param: ParamSpec, signal: float) -> tuple[float, str]:
    """What is left of a layer's signal behind what follows it, and the clause that says so.

    A linear map on its own may be small (it may make another map's weights); one that multiplies another is judged so.
    """
    fn = _activation(context, param)
    if fn is not None:
        left = passed(fn, signal)
        return left, f", and {param.activation} passes {left:.2g} of that"
    partner = None if param.gate_partner is None else context.figures.layer(param.gate_partner)
    if partner is None:
        return math.inf, ""
    left = min(1.0, partner.rms)
    return left, f", and {partner.path} multiplies that by {left:.2g}"


def _signal(context: CheckContext, layer: LayerFigures, param: ParamSpec) -> float:
    """RMS of what a layer makes of its input, its bias left out."""
    biases = [context.statistics(b.path) for b in context.biases_of(layer.path) if context.finite(b.path)]
    offset = math.sqrt(sum(s.rms**2 for s in biases))
    if offset == 0 or param.fan_in <= 0:
        return layer.rms
    # Where the bias makes nearly all of it, the difference of two measurements is noise, and arithmetic tells more.
    drawn = context.statistics(layer.path).rms * math.sqrt(param.fan_in) * layer.entered
    rest = layer.rms**2 - offset**2
    return drawn if rest < 0.1 * offset**2 else math.sqrt(rest)


def _slow_sine(context: CheckContext) -> Iterator[Hit]:
    for param in context.with_role(Role.INPUT):
        speed = dict(param.activation_args).get("omega", 1.0)
        if param.activation != "sin" or abs(speed) < SINE_SPEED or not context.finite(param.path):
            continue
        s, wanted = context.statistics(param.path), 1 / (math.sqrt(3) * param.fan_in)
        if 0 < s.std * SINE_FIRST < wanted:
            yield Hit(
                (param.path,),
                f"std {s.std:.2g} in front of the first sine spans no period of the inputs' range: "
                f"{wanted / s.std:.2g} times smaller than the {wanted:.2g} of U(±1/fan_in)",
                remedy="Draw the first layer of a sine net from U(±1/fan_in), the others from U(±√(6/fan_in)/ω).",
            )


def _lost_gradient(context: CheckContext) -> Iterator[Hit]:
    sizes = {
        p.path: size
        for p in context.params
        if p.role in WEIGHT_ROLES and (size := context.figures.gradients.get(p.path)) is not None
    }
    largest = max(sizes.values(), default=0.0)
    loss = context.figures.loss
    if 0 < largest < LOST_GRADIENT and loss is not None and loss.value > LOST_GRADIENT:
        yield Hit(
            tuple(sizes),
            f"no weight has a gradient of RMS above {largest:.2g}, which is less than Adam's eps of 1e-8; the outputs "
            f"have RMS {context.figures.output_rms:.2g}",
        )


def _fast_sine(context: CheckContext) -> Iterator[Hit]:
    for layer in context.figures.layers:
        param = context.param_of(layer)
        if param is None or param.activation != "sin" or param.role is Role.INPUT or param.role not in WEIGHT_ROLES:
            continue
        speed = abs(dict(param.activation_args).get("omega", 1.0))
        turns = speed * layer.rms
        if SINE_TURNS < turns < math.inf and context.finite(layer.path):
            s = context.statistics(layer.path)
            yield Hit(
                (layer.path,),
                f"std {s.std:.2g} turns the argument of the sine by {turns:.3g} radians (RMS); about "
                f"{s.std / turns:.2g} would turn it by one",
                weight=turns,
            )


def _unequal_summands(context: CheckContext) -> Iterator[Hit]:
    content = {Role.EMBEDDING, Role.INPUT}
    for found in context.figures.sums:
        if any(p not in context.spec or context.spec[p].role not in content for p in found.paths):
            continue
        params = [context.spec[p] for p in found.paths]
        if any(p.shape[-1] < WIDE and p.fan_out < WIDE for p in params) or min(found.rms) <= 0:
            continue
        ratio = max(found.rms) / min(found.rms)
        large, small = sorted(zip(found.rms, found.paths, strict=True), reverse=True)
        if ratio > UNEQUAL and not all(p.protected for p in params):
            yield Hit(
                (small[1], large[1]),
                f"{large[1]} adds a signal of RMS {large[0]:.3g} and {small[1]} one of {small[0]:.3g}: "
                f"{ratio:.2g} times less, {1 / (1 + ratio**2):.1%} of the energy of their sum",
                weight=ratio,
            )


def _drawn_gains(context: CheckContext) -> Iterator[Hit]:
    scales = [p for p in context.with_role(Role.NORM_SCALE) if _is_gain(context, p)]
    unit = _is_unit([context.tensors[p.path] for p in scales])
    for param in scales:
        s = context.statistics(param.path)
        around_zero = s.count >= FEWEST_GAINS and abs(s.mean) < CENTRED * s.std / math.sqrt(s.count)
        if around_zero or unit:
            law = f"N(0, {s.std:.2g}) or alike" if around_zero else "U(0, 1)"
            yield Hit(
                (param.path,),
                f"{s.count} norm scales of mean {s.mean:.2g} and std {s.std:.2g}, as {law} draws them",
                weight=s.std,
            )


def _is_gain(context: CheckContext, param: ParamSpec) -> bool:
    """A norm's scale for certain that is not one number; where its weight's own op reads it, it is a weight norm's."""
    if param.confidence is not Confidence.CERTAIN or param.offset != 0 or not context.finite(param.path):
        return False
    owner = context.weight_of(param)
    return not context.statistics(param.path).constant and (owner is None or owner.op != param.op)


def _is_unit(scales: list[torch.Tensor]) -> bool:
    """All scales of a model together are drawn from U(0, 1); trained ones start at 1 and reach beyond it."""
    if not scales:
        return False
    values = torch.cat([t.flatten().float() for t in scales])
    count = len(values)
    error = CENTRED * UNIT_SPREAD / math.sqrt(count)
    inside = count >= FEWEST_UNIT and bool(((values >= 0) & (values <= 1)).all())
    return inside and abs(float(values.mean()) - 0.5) < error and abs(float(values.std()) - UNIT_SPREAD) < error / 2


def _depth_rule_off_stream(context: CheckContext) -> Iterator[Hit]:
    """A weight inside the branches follows 1/√depth although another weight writes to the stream."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    ends = {w for b in context.spec.branches for w in b.last}
    for branch in context.spec.branches:
        for path in branch.params:
            if path not in ends and context.finite(path) and context.statistics(path).std > 0:
                names = tuple("*" if part.isdigit() else part for part in path.split("."))
                groups.setdefault((".".join(names), context.spec[path].shape), []).append(path)
    for paths in groups.values():
        if len(paths) < FEWEST_BLOCKS or len({context.spec[p].branch for p in paths}) < len(paths):
            continue
        stds = [context.statistics(p).std for p in paths]
        errors = [context.statistics(p).log_error() / 2 for p in paths]
        if _follows_root(stds, errors):
            yield Hit(
                tuple(paths),
                f"std falls as 1/√(block) from {stds[0]:.3g} to {stds[-1]:.3g} over {len(paths)} blocks, though its "
                "output is not what a branch adds to the stream",
            )


def _follows_root(stds: list[float], errors: list[float]) -> bool:
    """Sizes fall as 1/√(l + 1) for blocks l = 0, 1, …, and are not equal."""
    away = [math.log(s / stds[0]) + math.log(i + 1) / 2 for i, s in enumerate(stds)]
    near = all(abs(a) <= 4.5 * math.hypot(e, errors[0]) for a, e in zip(away[1:], errors[1:], strict=True))
    return near and math.log(stds[0] / stds[-1]) > 9 * math.hypot(errors[0], errors[-1])


def _lost_write(context: CheckContext) -> Iterator[Hit]:
    for lost in context.figures.lost:
        yield Hit(
            (lost.source,),
            f"std {lost.written:.3g} was written to {lost.path}, but every pass makes it anew from {lost.source} "
            f"(and what belongs to it): {lost.acting:.3g} acts",
        )


CHECKS = (
    Check(
        "INI210",
        "start-too-small",
        Severity.WARNING,
        "weights so small that next to nothing of the signal is left behind them",
        "Draw them with the std that keeps the signal: the gain of the activation over √fan_in.",
        _too_small,
        ("lecun1998", "sitzmann2020"),
        mends=True,
    ),
    Check(
        "INI211",
        "sine-too-fast",
        Severity.WARNING,
        "a hidden layer whose sine turns many times over the spread of its input",
        "Draw hidden layers of a sine net from U(±√(6/fan_in)/ω).",
        _fast_sine,
        ("sitzmann2020",),
        mends=True,
    ),
    Check(
        "INI212",
        "unequal-summands",
        Severity.WARNING,
        "two representations of the input that are added although one is several times smaller",
        "Give both one scale, by their weights or by a factor.",
        _unequal_summands,
        mends=True,
    ),
    Check(
        "INI213",
        "drawn-norm-scales",
        Severity.WARNING,
        "norm scales drawn at random, as a loop over all parameters leaves them",
        "Start norm scales at one; let the loop leave out what has one axis, or go by the type of module.",
        _drawn_gains,
        mends=True,
    ),
    Check(
        "INI214",
        "depth-rule-off-stream",
        Severity.WARNING,
        "a weight scaled by depth although it does not write to the residual stream",
        "Scale by depth only what a branch adds to the stream (its last weight).",
        _depth_rule_off_stream,
        ("radford2019",),
        mends=True,
    ),
    Check(
        "INI215",
        "write-without-effect",
        Severity.WARNING,
        "a weight that was written although each pass makes it anew from others (weight norm)",
        "Fill the tensors it is made of (weight_v and weight_g), or fill it before weight norm is applied.",
        _lost_write,
    ),
)
