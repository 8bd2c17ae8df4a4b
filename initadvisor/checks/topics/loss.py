"""INI50x: the loss before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initadvisor.checks.context import CheckContext
from initadvisor.checks.figures import TermFigures, TermKind
from initadvisor.checks.finding import Severity
from initadvisor.checks.plugin import Check, Hit
from initadvisor.checks.terms import broadcast
from initadvisor.types import Role

EXCESS = 1.0
"""Nats above ln C that are told: scores of spread √2, sure of things nobody has learned. torch's default head costs
about 0.2."""

FAR = 5.0
"""Nats above ln C from which the first hundred steps only undo the start."""

CHANCE = 3.0
"""Standard errors of the mean loss that are allowed for."""

OFFSET = 3.0
"""Mean of the targets in units of their spread from which the loss is nearly all offset (90% of it)."""

TOO_LARGE = 10.0
"""Output over target in size from which the first steps only shrink the output."""


RARE = 0.02
"""Share of ones among the targets from which the easy zeros drown them at the start (RetinaNet: 1 in 1,000)."""

FAR_OFF = 5.0
"""Ratio of the predicted to the true share from which the first loss is mostly this error."""

POLICY = 0.1
"""Output of a policy's head, relative to the spread of its actions, up to which all states are explored alike
(Andrychowicz et al. 2021 start the head a hundred times smaller)."""

PRIOR = -2.0
"""Bias from which on it is a prior: less than one in eight."""


def _heads(context: CheckContext, term: TermFigures | None = None) -> tuple[str, ...]:
    """The weight that makes what the loss compares; where several do, or none is known, every output weight."""
    if term is not None and term.path in context.spec:
        return (context.spec.first_name(term.path),)
    return tuple(p.path for p in context.spec.params if p.role is Role.OUTPUT)


def _trained(context: CheckContext, heads: tuple[str, ...]) -> bool:
    return not heads or any(context.spec[h].protected is None for h in heads)


def _classifier(context: CheckContext) -> Iterator[Hit]:
    for term in _terms(context):
        if term.cross_entropy is None or term.classes < 2 or not math.isfinite(term.cross_entropy):
            continue
        excess = term.cross_entropy - math.log(term.classes)
        if excess <= EXCESS + CHANCE * term.entropy_error:
            continue
        heads = _heads(context, term)
        trained = _trained(context, heads)
        yield Hit(
            heads,
            f"cross-entropy starts at {term.cross_entropy:.4g}, ln {term.classes} is {math.log(term.classes):.3g}: "
            f"the scores spread by {term.score_rms:.3g} over the classes" + _follows(context),
            severity=Severity.INFO if not trained else Severity.ERROR if excess > FAR else None,
            remedy="" if trained else "Train the output layer too, or replace it: it is frozen as it is.",
        )


def _follows(context: CheckContext) -> str:
    """What else was found that this may follow from."""
    return "; look at the scale of the inputs first" if any(d.remark for d in context.figures.data) else ""


def _terms(context: CheckContext) -> tuple[TermFigures, ...]:
    loss = context.figures.loss
    return () if loss is None else loss.terms


def _not_finite(context: CheckContext) -> Iterator[Hit]:
    loss = context.figures.loss
    if loss is None or math.isfinite(loss.value) or any(t.labels for t in loss.terms):
        return
    cause = context.broken
    yield Hit(
        (),
        f"the loss is {loss.value} before the first step" + (f"; what is not finite first: {cause}" if cause else ""),
        remedy=f"Mend what is not finite first: {cause}." if cause else "",
    )


def _regression(context: CheckContext) -> Iterator[Hit]:
    for term in _terms(context):
        if term.kind is not TermKind.VALUES or term.target_mean is None or term.target_std is None:
            continue
        mean, std = term.target_mean, term.target_std
        size = math.hypot(mean, std)
        if not math.isfinite(size):
            continue
        heads = _heads(context, term)
        if size > 0 and term.output_rms > TOO_LARGE * size:
            yield Hit(
                heads,
                f"outputs have RMS {term.output_rms:.3g}, targets {size:.3g}" + _follows(context),
                severity=Severity.WARNING,
                remedy="Scale the output layer down to the size of the targets.",
            )
        elif std > 0 and abs(mean) > OFFSET * std and term.error > 0.5 * mean**2:
            yield Hit(
                heads,
                f"targets average {mean:.3g} with a spread of {std:.3g}; the mean squared error starts at "
                f"{term.error:.3g}",
            )


def _shapes_clash(context: CheckContext) -> Iterator[Hit]:
    loss = context.figures.loss
    for output, target in () if loss is None else loss.clashes:
        joined = broadcast(output, target)
        yield Hit(
            (),
            f"the loss compares an output of shape {output} with a target of shape {target}: they broadcast to "
            f"{joined}, so that every sample is compared with the targets of all, and the mean is the best answer",
            remedy=f"Give both one shape: target.reshape(output.shape), or output.squeeze(-1) for {target}.",
        )


def _reshaped(context: CheckContext) -> Iterator[Hit]:
    loss = context.figures.loss
    if loss is not None and loss.reshaped is not None:
        output, target = loss.reshaped
        yield Hit(
            (),
            f"no loss was given, and the inferred one gives the target of shape {target} the output's shape {output}; "
            "nn.MSELoss() would broadcast them against each other",
            remedy="Make sure that your own loss compares equal shapes: target.reshape(output.shape).",
        )


def _squashed(context: CheckContext) -> Iterator[Hit]:
    for term in _terms(context):
        heads = _heads(context, term)
        if term.squashed == "softmax":
            yield Hit(
                heads,
                f"cross-entropy is given probabilities of {term.classes} classes and applies its own softmax to them: "
                f"the loss cannot fall below {math.log(1 + (term.classes - 1) / math.e):.3g}",
            )
        elif term.squashed:
            yield Hit(
                heads,
                "binary cross-entropy with logits is given the output of a sigmoid and applies its own: no prediction "
                "can go below 0.5",
                remedy="Give the loss the scores before the sigmoid.",
            )
        if term.raw:
            yield Hit(
                heads,
                f"nll_loss wants logarithms of probabilities, and the {term.classes} values it is given do not sum to "
                "1 as exponentials: it has no lower bound",
                severity=Severity.ERROR,
                remedy="Use cross_entropy on the scores, or log_softmax before nll_loss.",
            )


def _labels(context: CheckContext) -> Iterator[Hit]:
    for term in _terms(context):
        if term.labels is not None:
            low, high = term.labels
            shown = f"label {low}" if low == high else f"labels from {low} to {high}"
            yield Hit(
                _heads(context, term), f"{shown} among the targets, but the output has classes 0 to {term.classes - 1}"
            )


def _no_prior(context: CheckContext) -> Iterator[Hit]:
    for prior in context.figures.priors:
        if not 0 < prior.positives < RARE or prior.predicted < FAR_OFF * prior.positives:
            continue
        path = _bias_path(context, prior.path)
        if path is not None and context.spec[path].protected is not None:
            continue
        wanted = math.log(prior.positives / (1 - prior.positives))
        yield Hit(
            (path,) if path else (),
            f"{prior.positives:.2g} of the targets are ones and {prior.predicted:.2g} is predicted for all: the first "
            "steps only learn that they are rare",
            severity=None if prior.dense else Severity.INFO,
            remedy=f"Start the output's bias at log(p/(1 − p)) = {wanted:.3g}.",
        )


def _bias_path(context: CheckContext, weight: str) -> str | None:
    biases = context.biases_of(context.spec.first_name(weight)) if weight in context.spec else ()
    return biases[0].path if biases else None


def _wrong_head(context: CheckContext) -> Iterator[Hit]:
    """A constant negative bias on an output that is compared as values, beside rare events without one."""
    rare = [p for p in context.figures.priors if 0 < p.positives < RARE and p.predicted > FAR_OFF * p.positives]
    for term in _terms(context):
        path = _bias_path(context, term.path)
        if term.kind not in (TermKind.VALUES, TermKind.OTHER) or path is None or not rare:
            continue
        s = context.statistics(path)
        if s.constant and s.low <= PRIOR and term.target_mean is not None and term.target_mean - s.low > abs(s.low) / 2:
            other = _bias_path(context, rare[0].path)
            yield Hit(
                (path, *([other] if other else [])),
                f"{path} starts at {s.low:.3g}, a prior of {1 / (1 + math.exp(-s.low)):.2g}, but its output meets "
                f"values that average {term.target_mean:.3g}; {other or 'the output of rare events'} has none",
            )


def _large_policy(context: CheckContext) -> Iterator[Hit]:
    for path, size in context.figures.policies.items():
        if path in context.spec and context.spec[path].protected is None and size > POLICY:
            yield Hit(
                (context.spec.first_name(path),),
                f"the first actions depend on an untrained head: its output has {size:.2g} of their spread (RMS)",
            )


CHECKS = (
    Check(
        "INI501",
        "loss-above-chance",
        Severity.WARNING,
        "a classifier whose first loss is far above ln C",
        "Scale the output layer down (or start it at zero) so that the first scores are nearly equal.",
        _classifier,
        ("karpathy2019",),
        mends=True,
        grades={Severity.ERROR: "from 5 nats above", Severity.INFO: "where the head is frozen"},
    ),
    Check(
        "INI502",
        "output-off-target",
        Severity.INFO,
        "a regression whose outputs start far from the targets in mean or size",
        "Set the output bias to the mean of the targets, or standardise them.",
        _regression,
        ("karpathy2019",),
        grades={Severity.WARNING: "where the outputs are ten times too large"},
    ),
    Check(
        "INI503",
        "loss-not-finite",
        Severity.ERROR,
        "a loss that is NaN or infinite before the first step",
        "Look at the first layer that another finding names, and at the data.",
        _not_finite,
    ),
    Check(
        "INI504",
        "shapes-clash",
        Severity.ERROR,
        "a loss whose output and target broadcast against each other",
        "Give output and target one shape before the loss.",
        _shapes_clash,
        cause=True,
    ),
    Check(
        "INI505",
        "squashed-twice",
        Severity.WARNING,
        "a loss that is given probabilities where it wants scores",
        "Give the loss the scores before the softmax.",
        _squashed,
        grades={Severity.ERROR: "where nll_loss is given no logarithms"},
    ),
    Check(
        "INI506",
        "label-out-of-range",
        Severity.ERROR,
        "labels that are no class of the output",
        "Widen the output, or number the labels from 0.",
        _labels,
        cause=True,
    ),
    Check(
        "INI507",
        "target-reshaped",
        Severity.INFO,
        "an inferred loss that gives the target the output's shape",
        "Make sure that your own loss compares equal shapes.",
        _reshaped,
    ),
    Check(
        "INI508",
        "no-prior",
        Severity.WARNING,
        "rare events whose probability starts far above their share",
        "Start the output's bias at log(p/(1 − p)).",
        _no_prior,
        ("lin2017focal",),
        grades={Severity.INFO: "where each sample has few of them"},
    ),
    Check(
        "INI509",
        "prior-on-wrong-head",
        Severity.WARNING,
        "a prior of rare events set on an output that is compared as values",
        "Move the prior to the bias of the output that predicts the events.",
        _wrong_head,
        ("lin2017focal",),
    ),
    Check(
        "INI510",
        "large-policy-head",
        Severity.INFO,
        "a policy whose first actions depend on its untrained head",
        "Start the policy's last layer a hundred times smaller (orthogonal with gain .01).",
        _large_policy,
        ("andrychowicz2021",),
    ),
)
