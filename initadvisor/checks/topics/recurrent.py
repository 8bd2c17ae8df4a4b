"""INI30x: recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from initadvisor.checks.context import CheckContext
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.graph.spec import ParamSpec
from initadvisor.types import Role

FORGET = "forget_gate"
"""Name of the slice the analysis gives to an LSTM's forget gate."""

LARGE_STEP = 0.3
"""Median step size above which states whose rates start at 1 to 16 (Mamba) forget nearly all within one step; three
times the largest that is drawn."""

SMALL_STEP = 1e-5
"""Median step size below which the input changes the state by nothing; a hundredth of the smallest that is drawn."""

OPEN = 0.5
"""Forget bias above which the gate is meant to be open at the start: σ(.5) = .62."""


def _forget_means(context: CheckContext) -> Iterator[tuple[tuple[ParamSpec, ...], tuple[float, ...], float]]:
    """Per LSTM and direction: its biases, the mean of each forget slice, and the spread within them."""
    layers: dict[str, list[ParamSpec]] = {}
    for param in context.with_role(Role.BIAS):
        if any(s.name == FORGET for s in param.slices) and context.finite(param.path):
            # torch's two biases differ in "ih" and "hh" alone.
            layers.setdefault(param.path.replace("bias_ih", "bias").replace("bias_hh", "bias"), []).append(param)
    for biases in layers.values():
        means, spreads = [], []
        for param in biases:
            part = next(s for s in param.slices if s.name == FORGET)
            s = context.statistics(param.path, part)
            means.append(s.mean)
            spreads.append(s.std)
        yield tuple(biases), tuple(means), max(spreads)


def _both_biases(context: CheckContext) -> Iterator[Hit]:
    for biases, means, _ in _forget_means(context):
        if len(biases) == 2 and all(m >= OPEN for m in means):
            yield Hit(
                tuple(b.path for b in biases),
                f"both biases open the forget gate: {means[0]:.3g} + {means[1]:.3g} = {sum(means):.3g}",
            )


def _no_forget_bias(context: CheckContext) -> Iterator[Hit]:
    for biases, means, _ in _forget_means(context):
        if sum(means) < OPEN:
            yield Hit(
                tuple(b.path for b in biases),
                f"the forget gate starts at σ({sum(means):.2g}): half of the memory is gone after one step",
            )


def _step_sizes(context: CheckContext) -> Iterator[Hit]:
    for param in context.with_role(Role.STATE):
        if param.activation != "softplus" or len(param.shape) != 1 or not context.finite(param.path):
            continue
        values = torch.nn.functional.softplus(context.tensors[param.path].float())
        low, middle, high = (float(v) for v in (values.min(), values.median(), values.max()))
        if middle > LARGE_STEP or middle < SMALL_STEP:
            yield Hit(
                (param.path,),
                f"step sizes start from {low:.2g} to {high:.2g} (softplus of it, median {middle:.2g}): "
                + ("the state forgets within a few steps" if middle > LARGE_STEP else "nothing enters the state"),
            )


CHECKS = (
    Check(
        "INI302",
        "both-forget-biases",
        Severity.WARNING,
        "the forget gate's bias is set in both of torch's two bias vectors, which add up",
        "Set the forget slice of one bias to 1 and of the other to 0.",
        _both_biases,
        ("gers2000", "jozefowicz2015"),
        mends=True,
    ),
    Check(
        "INI303",
        "no-forget-bias",
        Severity.INFO,
        "an LSTM whose forget gate starts half closed",
        "Set the forget slice of one bias to 1 where memory over many steps matters.",
        _no_forget_bias,
        ("gers2000", "jozefowicz2015"),
        mends=True,
    ),
    Check(
        "INI304",
        "step-size-out-of-range",
        Severity.WARNING,
        "a state-space layer whose step sizes start far from .001 to .1",
        "Draw step sizes dt log-uniformly from .001 to .1 and set the bias to their inverse softplus, log(e^dt − 1).",
        _step_sizes,
        ("gu2023",),
        mends=True,
    ),
)
