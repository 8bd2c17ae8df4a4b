"""INI207–209: initialisations that were meant and did not happen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from initadvisor.checks.context import CheckContext
from initadvisor.checks.finding import Severity
from initadvisor.checks.intentions import Truncation, name_rules, truncations
from initadvisor.checks.plugin import Check, Hit
from initadvisor.checks.statistics import AGREES, FEWEST
from initadvisor.checks.writes import GENERIC, ConstantWrite, constant_writes, filled_names
from initadvisor.graph.spec import Branch
from initadvisor.types import Role

NO_CUT = 5.0
"""Standard deviations from which a cut removes one value in two million: nothing was truncated."""

TAIL = 3.0
"""Standard deviations a drawn value must exceed to prove that nobody cut at two."""

FEWEST_BRANCHES = 6
"""Branches of one stream from which 1/√branches is told from other ratios: with four it is ½, which a feed-forward of
four times the width makes by itself."""


def _written_by(context: CheckContext, call: Truncation) -> Iterator[str]:
    """Weights inside instances of the class that look drawn by the call and were not cut."""
    prefixes = tuple(f"{path}." if path else "" for path in context.instances_of(call.source.cls))
    for param in context.params:
        if not param.path.startswith(prefixes) or len(param.shape) < 2 or not context.finite(param.path):
            continue
        s = context.statistics(param.path)
        if s.count < FEWEST or not s.is_normal or s.std <= 0 or s.largest < TAIL * s.std:
            continue
        if call.std is not None and s.agrees(call.std**2) and s.centred:
            yield param.path


def _no_op_cut(context: CheckContext) -> Iterator[Hit]:
    told: set[str] = set()
    for call in truncations(context.sources, context.settings):
        if call.std is None or call.cut < NO_CUT * call.std:
            continue
        paths = tuple(p for p in _written_by(context, call) if p not in told)
        if not paths:
            continue
        told.update(paths)
        tail = max(context.statistics(p).largest for p in paths) / call.std
        yield Hit(
            paths,
            f"trunc_normal_(std={call.std:g}) cuts at ±{call.cut:g}, which is {call.cut / call.std:.0f}σ: the largest "
            f"weight lies at {tail:.2g}σ",
            where=call.where,
        )


def _never_ran(context: CheckContext) -> Iterator[Hit]:
    names = [p.path for p in context.spec.params]
    # Base classes of a library keep rules for every model there is; those of the model's own files are for it.
    concrete = {classes[0] for classes in context.module_classes.values()}
    files = {s.file for s in context.sources if s.cls in concrete}
    for rule in name_rules(s for s in context.sources if s.file in files):
        if all("bias" in text for text in rule.texts):
            continue  # many models are built with biases and without
        if any(rule.meets(name) for name in names):
            continue
        texts = " or ".join(f'"{t}"' for t in rule.texts)
        ends = tuple(dict.fromkeys(w for b in context.spec.branches for w in b.last))
        yield Hit(
            ends,
            f"{rule.where}: {rule.action} is for names that match {texts} ({rule.kind}); none of {len(names)} does",
            where=rule.where,
        )


@dataclass(frozen=True, slots=True)
class _End:
    """A weight that writes to the residual stream, its size compared with the other weights of its branch.

    Attributes:
        path: of the weight.
        role: what it does.
        ratios: std over that of the branch's other weights: plain, and both times the root of their fan-in.
        errors: standard error of the logarithm of either.
    """

    path: str
    role: Role
    ratios: tuple[float, float]
    errors: float

    def is_near(self, which: int, value: float) -> bool:
        return abs(math.log(self.ratios[which] / value)) < AGREES * self.errors


def _end_of(context: CheckContext, branch: Branch) -> _End | None:
    others = [w for w in branch.params if w not in branch.last]
    if len(branch.last) != 1 or not others or branch.scale or branch.last_norm:
        return None
    end, other = branch.last[0], others[0]
    if not (context.finite(end) and context.finite(other)):
        return None
    a, b = context.statistics(end), context.statistics(other)
    fans = context.spec[end].fan_in, context.spec[other].fan_in
    if min(a.std, b.std, *fans) <= 0 or min(a.count, b.count) < FEWEST:
        return None
    plain = a.std / b.std
    errors = math.hypot(a.log_error(), b.log_error()) / 2
    return _End(end, context.spec[end].role, (plain, plain * math.sqrt(fans[0] / fans[1])), errors)


def _scaled_by(count: int) -> tuple[float, ...]:
    """Factors that a depth-scaled residual output may have: 1/√(branches), counted as branches or as blocks."""
    return (count**-0.5, (2 * count) ** -0.5, (count / 2) ** -0.5)


def stream_of(path: str) -> str:
    """Where the blocks of a stream lie: the path up to the first name with a number in it.

    Example:
        >>> stream_of("text.blocks.3.attn.out.weight"), stream_of("block3.out.weight"), stream_of("out.weight")
        ('text.blocks', '', '')
    """
    names = path.split(".")
    numbered = next((i for i, name in enumerate(names) if any(c.isdigit() for c in name)), 0)
    return ".".join(names[:numbered])


def _partly_scaled(context: CheckContext) -> Iterator[Hit]:
    streams: dict[str, list[_End]] = {}
    counts: dict[str, int] = {}
    for branch in context.spec.branches:
        for path in branch.last[:1]:
            counts[stream_of(path)] = counts.get(stream_of(path), 0) + 1
        end = _end_of(context, branch)
        if end is not None:
            streams.setdefault(stream_of(end.path), []).append(end)
    for stream, ends in streams.items():
        if counts[stream] >= FEWEST_BRANCHES:
            yield from _partly_scaled_stream(ends, counts[stream])


def _partly_scaled_stream(ends: list[_End], count: int) -> Iterator[Hit]:
    factors = _scaled_by(count)
    # A rule that explains every weight of the stream the same way leaves nothing to explain.
    if any(all(e.is_near(which, factor) for e in ends) for which in (0, 1) for factor in (1.0, *factors)):
        return
    for which in (0, 1):
        for factor in factors:
            scaled = [e for e in ends if e.is_near(which, factor) and not e.is_near(which, 1.0)]
            plain = [e for e in ends if e.is_near(which, 1.0) and not e.is_near(which, factor)]
            # A rule that matches by name takes all weights of a kind or none.
            if not scaled or not plain or {e.role for e in scaled} & {e.role for e in plain}:
                continue
            yield Hit(
                tuple(e.path for e in plain),
                f"{scaled[0].path} is scaled by {factor:.3g} for depth, {plain[0].path} is not "
                f"(×{plain[0].ratios[which]:.3g})",
            )
            return


def _overwritten(context: CheckContext) -> Iterator[Hit]:
    """A constant that a constructor writes and of which nothing is left: something filled it afterwards."""
    by_class = {source.cls: source for source in context.sources}
    elsewhere = filled_names(context.sources)
    groups: dict[ConstantWrite, list[str]] = {}
    for prefix, classes in context.module_classes.items():
        told: set[str] = set()
        for cls in classes:
            for target, write in (constant_writes(by_class[cls]) if cls in by_class else {}).items():
                path = f"{prefix}.{target}" if prefix else target
                # A parameter of its own called "weight" is made of zeros to be filled by whoever fills weights.
                if target in told or target.rpartition(".")[2] in elsewhere or target in GENERIC:
                    continue
                told.add(target)
                if path in context.spec and _was_lost(context, path, write.value):
                    groups.setdefault(write, []).append(path)
    for write, paths in groups.items():
        s = context.statistics(paths[0])
        now = f"{s.low:.3g} everywhere" if s.constant else f"std {s.std:.3g} around {s.mean:.2g}"
        yield Hit(tuple(paths), f"{write.where} sets it to {write.value:g}, but it holds {now}", where=write.where)


def _was_lost(context: CheckContext, path: str, value: float) -> bool:
    """No element is what was written, and what is there looks fresh: trained weights have come a long way, too."""
    if not context.finite(path) or (path.endswith("bias") and value == 0.0):
        return False  # a bias of zero and torch's small one serve alike
    s, tensor = context.statistics(path), context.tensors[path]
    fresh = s.constant or s.is_normal or s.is_uniform
    return bool(tensor.numel()) and fresh and not bool((tensor == value).any())


CHECKS = (
    Check(
        "INI207",
        "truncation-without-effect",
        Severity.INFO,
        "a truncated normal whose cut lies far outside the distribution",
        "Give the cut in units of the std (a=-2*std, b=2*std) and divide the std by .8796.",
        _no_op_cut,
        ("touvron2021",),
    ),
    Check(
        "INI208",
        "partly-scaled-residuals",
        Severity.WARNING,
        "some residual outputs are scaled by depth and others are not",
        "Scale every weight that writes to the residual stream, attention's and the feed-forward's.",
        _partly_scaled,
        ("radford2019",),
        mends=True,
    ),
    Check(
        "INI209",
        "name-rule-never-ran",
        Severity.WARNING,
        "an initialisation chosen by name that matches no parameter of this model",
        "Correct the name in that condition, or remove it.",
        _never_ran,
        ("radford2019",),
    ),
    Check(
        "INI216",
        "start-overwritten",
        Severity.WARNING,
        "a constant set in a constructor that a later initialisation has overwritten",
        "Set it after that (post_init, apply, from_pretrained), or give its module a branch of its own in it.",
        _overwritten,
    ),
)
