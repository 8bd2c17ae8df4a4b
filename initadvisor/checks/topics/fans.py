"""INI20x: weights scaled by connection counts that are not theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from initadvisor.checks.context import CheckContext, rows_of, units_first
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.checks.variance_rules import Match, misfit, torch_fans
from initadvisor.graph.spec import ParamSpec
from initadvisor.types import WEIGHT_ROLES, Role

ISOMETRY = 1e-3
"""Relative disagreement of ‖Wv‖/‖v‖ between random vectors below which columns are orthonormal; for a random matrix of
64 rows it is 9%."""

PROBES = 8
"""Random vectors per matrix; a random matrix passes all of them with probability zero for practical purposes."""

AMPLIFIES = 8.0
"""Factor on the size of its input, √(fan_in)·std, from which a weight was not scaled by its fan at all: published gains
stay below 5 (sigmoid's 4.8), N(0, 1) over 64 inputs gives 8."""

SELU_GAIN = 0.75
"""What ``torch.nn.init.calculate_gain("selu")`` returns; self-normalising nets need 1."""


def _true_parts(context: CheckContext, param: ParamSpec) -> list[Match]:
    """Misfit of every part, or nothing where some part fits."""
    if param.slices:
        found = [misfit(context.statistics(param.path, s), param.shape, s.fans) for s in param.slices]
    elif param.fans is not None:
        exchanged = _kind(param) == "swapped"
        found = [misfit(context.statistics(param.path), param.shape, param.fans, exchanged=exchanged)]
    else:
        return []
    return [m for m in found if m is not None] if all(m is not None for m in found) else []


def _kind(param: ParamSpec) -> str:
    """Which of the reasons applies for torch's fans to be wrong."""
    fans = param.fans
    if param.slices:
        return "packed"
    if fans is None:
        return ""
    if fans.batch_dims:
        return "experts"
    if param.op.startswith("conv_transpose") or (fans.out_dim != 0 and len(param.shape) == 2):
        return "swapped"
    return "grouped" if fans.groups > 1 else ""


def _misfits(kind: str, told: Callable[[ParamSpec, Match], str]) -> Callable[[CheckContext], Iterator[Hit]]:
    def run(context: CheckContext) -> Iterator[Hit]:
        for param in context.params:
            if param.role not in WEIGHT_ROLES or len(param.shape) < 2 or _kind(param) != kind:
                continue
            if not context.finite(param.path) or _orthogonal(context, param):
                continue
            matches = _true_parts(context, param)
            if not matches or len({m.rule for m in matches}) > 1:
                continue
            match = matches[0]
            size = f"{match.factor:.3g}× the variance" if match.factor > 1 else f"1/{1 / match.factor:.3g} of it"
            s = context.statistics(param.path)
            yield Hit(
                (param.path,),
                f"std {s.std:.4g} is {match.rule} {told(param, match)}: {size} that rule means",
                severity=Severity.INFO if match.by_default else None,
                weight=abs(math.log(match.factor)),
            )

    return run


def _packed(param: ParamSpec, match: Match) -> str:
    fan_in, fan_out = torch_fans(param.shape)
    return f"over the packed {fan_out:g}×{fan_in:g}, not over each of its {len(param.slices)} parts"


def _grouped(param: ParamSpec, match: Match) -> str:
    groups = param.fans.groups if param.fans is not None else 1
    return f"with fan_out {torch_fans(param.shape)[1]:g}, though {groups} groups leave {param.fan_out:g}"


def _swapped(param: ParamSpec, match: Match) -> str:
    fan_in, fan_out = torch_fans(param.shape)
    return f"with fans ({fan_in:g}, {fan_out:g}), though by use they are ({param.fan_in:g}, {param.fan_out:g})"


def _experts(param: ParamSpec, match: Match) -> str:
    return f"over the whole tensor with fan_in {torch_fans(param.shape)[0]:g}, though each map has {param.fan_in:g}"


def isometric(matrix: torch.Tensor) -> bool:
    """All columns (or, of a wide matrix, rows) are orthogonal and of one length.

    Example:
        >>> isometric(torch.eye(4) * 3), isometric(torch.ones(4, 4))
        (True, False)
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if tall.shape[1] < 2:
        return False
    tall = tall.float()
    probes = torch.randn(tall.shape[1], PROBES, generator=torch.Generator().manual_seed(0)).to(tall)
    ratios = (tall @ probes).norm(dim=0) / probes.norm(dim=0)
    return bool(ratios.max() - ratios.min() <= ISOMETRY * ratios.mean()) and float(ratios.mean()) > 0


def _orthogonal(context: CheckContext, param: ParamSpec) -> bool:
    """The tensor was made orthogonal, by its first axis or by its units: its variance speaks of no fan rule."""
    tensor = context.tensors[param.path]
    return isometric(tensor.flatten(1)) or isometric(units_first(tensor, param))


def _stacked_isometry(context: CheckContext, param: ParamSpec) -> str | None:
    """The whole of a packed matrix is orthogonal and its parts are not."""
    if len(param.slices) < 2 or len(param.shape) != 2 or context.statistics(param.path).constant:
        return None
    tensor = context.tensors[param.path]
    if not isometric(tensor):
        return None
    parts = [rows_of(tensor, s) for s in param.slices]
    if all(isometric(part) for part in parts):
        return None
    norm = torch.linalg.matrix_norm(parts[0].float(), ord="fro") / math.sqrt(min(parts[0].shape))
    return f"RMS singular value {float(norm):.3g} per part instead of 1"


def _orthogonal_stack(context: CheckContext) -> Iterator[Hit]:
    for param in context.params:
        if param.role not in WEIGHT_ROLES or not context.finite(param.path):
            continue
        figure = _stacked_isometry(context, param)
        if figure is not None:
            rows, columns = param.shape
            names = ", ".join(s.name for s in param.slices)
            yield Hit(
                (param.path,), f"the stacked {rows}×{columns} is orthogonal, its parts ({names}) are not: {figure}"
            )


def _selu(context: CheckContext) -> Iterator[Hit]:
    for param in context.params:
        if param.activation != "selu" or param.role not in WEIGHT_ROLES or not context.finite(param.path):
            continue
        s = context.statistics(param.path)
        for name, fan in (("fan_in", param.fan_in), ("fan_out", param.fan_out)):
            if fan and s.agrees(SELU_GAIN**2 / fan) and s.contradicts(1 / param.fan_in):
                yield Hit(
                    (param.path,),
                    f"std {s.std:.4g} is .75/√{name}: torch's 'selu' gain; self-normalising nets need 1/√fan_in = "
                    f"{param.fan_in**-0.5:.4g}",
                )
                break


def _unscaled(context: CheckContext) -> Iterator[Hit]:
    for param in context.params:
        # Two axes at least and a map: scales, tokens and tables have no fan to be scaled by.
        if param.role not in WEIGHT_ROLES or len(param.shape) < 2 or not context.finite(param.path):
            continue
        if param.activation in ("sin", "cos") or param.role is Role.INPUT:
            continue  # SIREN and random Fourier features are large on purpose
        if param.acts_through is not None:
            continue  # its size plays no part, or is not what acts
        s = context.statistics(param.path)
        gain = abs(param.factor) * s.std * math.sqrt(param.fan_in)
        if gain > AMPLIFIES:
            normed = param.norm_after is not None
            yield Hit(
                (param.path,),
                f"std {s.std:.3g} over {param.fan_in:g} inputs multiplies the signal by {gain:.3g}"
                + (f", which {param.norm_after} behind it hides in the forward pass" if normed else ""),
                severity=Severity.INFO if normed else None,
                weight=gain,
            )


CHECKS = (
    Check(
        "INI201",
        "packed-fan",
        Severity.WARNING,
        "a packed projection (QKV, LSTM gates) filled over the fan of the whole stack",
        "Fill every part by its own fans.",
        _misfits("packed", _packed),
        ("glorot2010", "vaswani2017"),
        mends=True,
        grades={Severity.INFO: "where it is torch's own default"},
    ),
    Check(
        "INI202",
        "undivided-fan-out",
        Severity.WARNING,
        "a grouped or depthwise convolution filled over a fan-out not divided by its groups",
        "Divide the fan-out by the number of groups (torch.nn.init does not), or use fan_in.",
        _misfits("grouped", _grouped),
        ("he2015",),
        mends=True,
        grades={Severity.INFO: "where it is torch's own default"},
    ),
    Check(
        "INI203",
        "swapped-fans",
        Severity.WARNING,
        "a transposed convolution, or a weight used as x @ W, filled with fan-in and fan-out exchanged",
        "Use the fans of the map as it is applied: C_in/groups·∏kernel/∏stride inputs per output for a transposed one.",
        _misfits("swapped", _swapped),
        ("he2015",),
        mends=True,
        grades={Severity.INFO: "where it is torch's own default"},
    ),
    Check(
        "INI204",
        "experts-as-one",
        Severity.WARNING,
        "a stack of experts or heads filled as if it were one convolution",
        "Fill every expert by its own fans.",
        _misfits("experts", _experts),
        ("fedus2022",),
        mends=True,
        grades={Severity.INFO: "where it is torch's own default"},
    ),
    Check(
        "INI205",
        "selu-gain",
        Severity.WARNING,
        "a weight before SELU filled with torch's gain of 3/4",
        'Use variance 1/fan_in (nonlinearity="linear").',
        _selu,
        ("klambauer2017",),
        mends=True,
    ),
    Check(
        "INI206",
        "unscaled-weight",
        Severity.WARNING,
        "a weight drawn without regard to its fan, as nn.Parameter(torch.randn(…)) is",
        "Divide by √fan_in, times the gain of the activation.",
        _unscaled,
        ("lecun1998", "he2015"),
        mends=True,
        grades={Severity.INFO: "where a norm behind it hides it"},
    ),
    Check(
        "INI301",
        "orthogonal-stack",
        Severity.WARNING,
        "a stack of gates or projections made orthogonal as a whole",
        "Make every H×H block orthogonal on its own.",
        _orthogonal_stack,
        ("saxe2014", "henaff2016"),
        mends=True,
    ),
)
