"""Linear maps: which gain, which fan, which distribution; and what is done where nothing is certain."""

from __future__ import annotations

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules.fills import fans_of, fitting, keeping_length, matrix_fill, matrix_parts, scaled
from initadvisor.schemes.rules.gain import weight_gain
from initadvisor.schemes.rules.reading import is_weight, size_is_a_rate
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.values import Part
from initadvisor.types import NO_ACTIVATION, Role

_FAMILY_WHY = {
    "orthogonal": "orthogonal, so that no direction grows or dies with depth",
    "delta_orthogonal": "orthogonal at the kernel's centre, so that the whole stack is an isometry",
    "normal": "Gaussian, as the theory of the gain assumes",
    "uniform": "uniform, whose tails are bounded",
    "trunc_normal": "Gaussian without tails",
}

_MODE_WHY = {
    "fan_in": "fan-in, which keeps the forward signal",
    "fan_out": "fan-out, which keeps the gradients",
    "fan_avg": "the mean of both fans, a compromise of signal and gradients",
}


_STACK_REFERENCES = ("he2015", "saxe2014", "chizat2019")
"""What backs a hidden layer's gain in a stack that starts small as a whole."""


def in_stack(param: ParamSpec) -> bool:
    """A hidden layer: its input has been through a nonlinearity, and its scale is not chosen for what it feeds."""
    hidden = param.role not in (Role.INPUT, Role.OUTPUT) and param.input_activation != NO_ACTIVATION
    return is_weight(param) and hidden


def stack_factor(param: ParamSpec, context: Context) -> tuple[float, str]:
    """A hidden layer's even share of what the whole stack is multiplied with, and the clause that says so."""
    if context.stack == 1.0 or not in_stack(param):
        return 1.0, ""
    factor = context.stack ** (1 / context.plain_depth)
    return factor, (
        f", times {factor:.3g} since {context.plain_depth} layers together start at {context.stack:g}: "
        "a small start learns features, a large one fits with those it was drawn with"
    )


def base_weight(param: ParamSpec, spec: ModelSpec, context: Context, factor: float = 1.0) -> Proposal:
    """The family's fill at this layer's gain, times ``factor`` where the structure asks for one."""
    gain, why = weight_gain(param, spec, context)
    fitted = fitting(param, context)
    evenly, quiet = stack_factor(param, context)
    if context.stack != 1.0 and param.role is Role.INPUT:
        context, quiet = keeping_length(context), ", and a sample keeps its length, since the whole stack starts small"
    parts = matrix_parts(param, context, gain * factor * context.scale * evenly)
    counted = "" if fitted.family.endswith("orthogonal") else f" over {_MODE_WHY[fitted.mode]}"
    packed = f", each of its {len(param.slices)} packed maps by itself" if param.slices else ""
    sources = _STACK_REFERENCES if quiet else ()
    rate = "; a norm divides its size out again, which acts as a learning rate only" if size_is_a_rate(param) else ""
    return Proposal(parts, f"{why}{quiet}{counted}; {_FAMILY_WHY[fitted.family]}{packed}{rate}", sources)


def _hidden_weight(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return base_weight(param, spec, context)


def _cautious(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    """Variance-preserving Gaussian at gain 1: it neither silences nor floods whatever this tensor feeds."""
    if len(param.shape) < 2:
        return Proposal((), "nothing is known of its use, so its own values are kept")
    careful = Context(family="normal")
    parts = tuple(
        Part(
            matrix_fill(careful, piece.fans if piece else fans_of(param), 1.0),
            piece.fans if piece else fans_of(param),
            piece,
        )
        for piece in (param.slices or (None,))
    )
    return Proposal(
        parts, f"its role is not certain ({param.note or param.op or 'no op recognised'}), so only its variance is kept"
    )


def _kept_unused(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal((), "no executed op used it, so its own values are kept")


def _selu_weight(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    family = "orthogonal" if context.family == "orthogonal" else "normal"
    return Proposal(
        matrix_parts(param, Context(family=family), 1.0),
        "SELU holds mean 0 and variance 1 only if weights have variance 1/fan_in; torch's gain of 3/4 breaks that",
    )


def _writes_to_stream(param: ParamSpec, spec: ModelSpec) -> bool:
    """A linear map of the data that is what the residual stream starts from."""
    alone = param.branch is None and param.norm_after is None and param.activation == NO_ACTIVATION
    return is_weight(param) and param.role is Role.INPUT and bool(spec.branches) and alone and not param.slices


def _stream_input(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    read = "a patch" if len(param.shape) > 2 else "what it reads"
    return Proposal(
        matrix_parts(param, keeping_length(context), 1.0),
        f"it writes what the residual stream starts from: {read} keeps its length, so that branches weigh beside it",
    )


def _shortcut(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    parts = matrix_parts(param, context, 1.0)
    return Proposal(parts, "it carries the residual stream itself, which must pass at its own size: gain 1")


def scaled_weight(param: ParamSpec, spec: ModelSpec, context: Context, factor: float, why: str) -> Proposal:
    """The base fill with every gain times ``factor`` and a reason of its own in front."""
    base = base_weight(param, spec, context)
    return Proposal(scaled(base.parts, factor), f"{why}; {base.reason}")


RULES = (
    Rule(
        "selu_weight",
        lambda p, s: is_weight(p) and "selu" in (p.input_activation, p.activation) and p.role is not Role.OUTPUT,
        _selu_weight,
        "weights around SELU: variance exactly 1/fan_in",
        ("klambauer2017",),
    ),
    Rule(
        "stream_input",
        _writes_to_stream,
        _stream_input,
        "patch embeddings and other linear inputs of a residual stream: the length of the vector is kept",
        ("peebles2023", "glorot2010"),
    ),
    Rule(
        "shortcut",
        lambda p, s: is_weight(p) and p.role is Role.SHORTCUT,
        _shortcut,
        "projections on the skip path: gain 1",
        ("he2016",),
    ),
    Rule(
        "cautious_weight",
        lambda p, s: p.role is Role.UNKNOWN or (is_weight(p) and p.confidence == "weak"),
        _cautious,
        "anything not understood: Gaussian at gain 1, never zeros",
    ),
    Rule("unused", lambda p, s: p.role is Role.UNUSED, _kept_unused, "parameters no op touched keep their values"),
    Rule(
        "linear_map",
        lambda p, s: is_weight(p),
        _hidden_weight,
        "every linear map: the gain of the activation its input has been through, in the scheme's distribution",
        ("he2015", "saxe2014", "poole2016"),
    ),
)
