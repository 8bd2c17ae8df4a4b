"""INI10x: numbers that no initializer meant to write."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initadvisor.checks.context import CheckContext
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.checks.statistics import DISAGREES, FEWEST, HUGE
from initadvisor.types import WEIGHT_ROLES, Role

GARBAGE_SHARE = 1e-3
"""Share of near-subnormal elements that is no accident: pruned weights are exact zeros, drawn ones are never that
small."""

COMMON_MEAN = 0.5
"""Mean in units of the spread from which a weight's outputs are mostly one common sum: with 16 inputs of equal sign the
common part is then twice the rest."""

_TAUGHT = WEIGHT_ROLES | {Role.EMBEDDING}
"""What has to learn, whatever else does."""

LARGE_BIAS = 10.0
"""Beyond every bias with a reason: class priors reach −14 on output layers (left out), forget gates 7."""


def _non_finite(context: CheckContext) -> Iterator[Hit]:
    for path in context.tensors:
        s = context.statistics(path)
        if not s.finite:
            yield Hit(
                (path,), f"{s.nans} NaN and {s.infs} infinite of {s.count} values", weight=(s.nans + s.infs) / s.count
            )


def _garbage(context: CheckContext) -> Iterator[Hit]:
    for param in context.params:
        s = context.statistics(param.path)
        if not s.finite or s.count == 0:
            continue
        if s.largest > HUGE:
            yield Hit(
                (param.path,), f"a weight of size {s.largest:.3g}, which reads like memory never written", weight=1.0
            )
        elif s.tiny_share > GARBAGE_SHARE:
            share = f"{s.tiny_share:.1%} of the values lie below 1e-30 without being zero"
            yield Hit((param.path,), f"{share}, which reads like memory never written", weight=s.tiny_share)


def _buffers(context: CheckContext) -> Iterator[Hit]:
    for path in context.buffers:
        s = context.statistics(path)
        name = path.rpartition(".")[2]
        if s.nans:
            yield Hit((path,), f"{s.nans} NaN of {s.count} values")
        elif name.startswith("running_") and s.infs:  # masks hold infinities on purpose, averages do not
            yield Hit((path,), f"{s.infs} infinite of {s.count} running averages")
        elif name == "running_var" and s.count and s.low < 0:
            yield Hit((path,), f"a running variance of {s.low:.3g}")


def _common_mean(context: CheckContext) -> Iterator[Hit]:
    for param in context.params:
        if param.role not in WEIGHT_ROLES or len(param.shape) < 2 or param.fan_in < 8:
            continue
        s = context.statistics(param.path)
        if not s.finite or s.constant or s.count < FEWEST:
            continue
        ratio = abs(s.mean) / s.std
        if ratio > COMMON_MEAN and ratio * math.sqrt(s.count) > DISAGREES:
            share = ratio**2 * param.fan_in / (1 + ratio**2 * param.fan_in)
            yield Hit(
                (param.path,),
                f"the weights average {s.mean:.3g} with a spread of {s.std:.3g}: all {param.fan_out:g} outputs share "
                f"one sum, {share:.0%} of their size for inputs of one sign",
                weight=ratio,
            )


def _large_bias(context: CheckContext) -> Iterator[Hit]:
    for param in context.with_role(Role.BIAS):
        s = context.statistics(param.path)
        owner = context.weight_of(param)
        if not s.finite or (owner is not None and owner.role is Role.OUTPUT):
            continue
        if s.largest > LARGE_BIAS:
            yield Hit((param.path,), f"a bias of {s.largest:.3g}", weight=s.largest)


def _unused(context: CheckContext) -> Iterator[Hit]:
    # One hit for all: their number matters, not each.
    paths = tuple(p for p in context.spec.coverage.unused if p in context.tensors)
    if paths:
        count = sum(context.spec[p].numel for p in paths)
        yield Hit(paths, f"{len(paths)} parameters ({count:,} values) took no part in this forward pass")


def _no_gradient(context: CheckContext) -> Iterator[Hit]:
    figures = context.figures
    weights = [p.path for p in context.params if p.role in _TAUGHT and p.path in figures.gradients]
    if weights and not any(context.moves(path) for path in weights):
        cut = all(figures.gradients[path] is None for path in weights)
        after = "" if cut else ", and stays so in the steps after"
        yield Hit(
            tuple(weights),
            f"the gradient of all {len(weights)} weights is {'missing' if cut else 'exactly zero'}{after}",
        )
    # Where the pass itself is not finite, gradients follow from that.
    loss = figures.loss
    forward = all(layer.finite for layer in figures.layers) and (loss is None or math.isfinite(loss.value))
    for path in weights if forward and not context.broken else ():
        grad = figures.gradients[path]
        if grad is not None and not math.isfinite(grad):
            yield Hit((path,), f"the gradient is {grad} although the weight is finite")


CHECKS = (
    Check(
        "INI101",
        "non-finite-weights",
        Severity.ERROR,
        "a parameter holds NaN or infinity",
        "Fill it; a tensor made by torch.empty or to_empty must be written before use.",
        _non_finite,
        mends=True,
        cause=True,
    ),
    Check(
        "INI102",
        "uninitialised-memory",
        Severity.ERROR,
        "a parameter looks like memory that nobody wrote",
        "Fill it; a tensor made by torch.empty or to_empty must be written before use.",
        _garbage,
        mends=True,
        cause=True,
    ),
    Check(
        "INI103",
        "bad-buffer",
        Severity.ERROR,
        "a buffer holds NaN, or a running average that cannot be",
        "Reset the buffers (reset_running_stats, or build the module anew instead of to_empty).",
        _buffers,
        cause=True,
    ),
    Check(
        "INI109",
        "large-bias",
        Severity.WARNING,
        "a bias far larger than the signal it is added to",
        "Start biases at zero, unless they state a prior of the output.",
        _large_bias,
        mends=True,
    ),
    Check(
        "INI110",
        "common-mean",
        Severity.WARNING,
        "weights that are not centred, as torch.rand makes them",
        "Draw weights around zero (torch.randn or a symmetric uniform, scaled by the fan).",
        _common_mean,
        ("lecun1998",),
        mends=True,
    ),
    Check(
        "INI111",
        "unused-parameter",
        Severity.INFO,
        "a trained parameter that the forward pass does not touch",
        "Remove it, or freeze it; distributed training waits for its gradient.",
        _unused,
    ),
    Check(
        "INI112",
        "no-gradient",
        Severity.ERROR,
        "no weight receives a usable gradient",
        "Look at the first layer that another finding names: dead units, zero factors or a detached output.",
        _no_gradient,
    ),
)
