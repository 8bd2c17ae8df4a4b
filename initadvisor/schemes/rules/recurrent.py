"""Recurrent nets: every gate is a map of its own, and what is multiplied at each time step must be an isometry."""

from __future__ import annotations

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules.fills import fans_of, keeping_length, matrix_fill, zeros
from initadvisor.schemes.rules.reading import weight_of_bias
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Role

_FORGET = "forget_gate"
"""Name the analysis gives the forget gate's slice."""


def _per_gate(param: ParamSpec, fill: Fill | None, context: Context) -> tuple[Part, ...]:
    pieces = param.slices or (None,)
    return tuple(
        Part(
            fill or matrix_fill(context, piece.fans if piece else fans_of(param), 1.0),
            piece.fans if piece else fans_of(param),
            piece,
        )
        for piece in pieces
    )


def _hidden(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    gates = f"each of its {len(param.slices)} gates " if param.slices else ""
    return Proposal(
        _per_gate(param, Fill("orthogonal"), context),
        f"{gates}orthogonal by itself: it acts at every time step, and only an isometry neither explodes nor vanishes",
    )


def _input(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    gates = "with the fans of one gate, not of all" if param.slices else "at gain 1"
    return Proposal(
        _per_gate(param, None, keeping_length(context)),
        f"input weights {gates}: what enters at each step keeps its length, since the state adds it up over the steps",
    )


def relu_recurrence(param: ParamSpec) -> bool:
    """Hidden-to-hidden weight of a plain recurrent net whose state passes a ReLU."""
    relu = param.activation == "relu" or param.op == "rnn_relu"
    return param.role is Role.RECURRENT_HIDDEN and relu and not param.slices and len(param.shape) == 2


def _identity(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        _per_gate(param, Fill("identity"), context),
        "a recurrent ReLU net with the identity remembers its state exactly at the start",
    )


def _has_forget(param: ParamSpec) -> bool:
    return param.role is Role.BIAS and any(s.name == _FORGET for s in param.slices)


def _forget_bias(param: ParamSpec, spec: ModelSpec) -> bool:
    """The one of the two added biases that carries the offset: that of the input weights."""
    weight = weight_of_bias(param, spec)
    return _has_forget(param) and (weight is None or weight.role is not Role.RECURRENT_HIDDEN)


def _forget(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    parts = tuple(
        Part(Fill("ones") if piece.name == _FORGET else Fill("zeros"), piece.fans, piece) for piece in param.slices
    )
    return Proposal(
        parts, "the forget gate starts open (σ(1) = .73), so that early gradients reach back; the other bias adds 0"
    )


def _second_bias(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        zeros(param), "torch adds two biases per gate; the input one carries the forget offset, so this is 0"
    )


RULES = (
    Rule(
        "recurrent_hidden",
        lambda p, s: p.role is Role.RECURRENT_HIDDEN and len(p.shape) == 2,
        _hidden,
        "hidden-to-hidden weights: orthogonal per gate",
        ("saxe2014", "henaff2016"),
    ),
    Rule(
        "recurrent_identity",
        lambda p, s: relu_recurrence(p) and p.shape[0] == p.shape[1],
        _identity,
        "hidden-to-hidden weights of a ReLU recurrent net: the identity",
        ("le2015",),
    ),
    Rule(
        "recurrent_input",
        lambda p, s: p.role is Role.RECURRENT_INPUT and len(p.shape) == 2,
        _input,
        "input-to-hidden weights: the length of the vector is kept, by the fans of one gate",
        ("glorot2010",),
    ),
    Rule(
        "forget_bias",
        _forget_bias,
        _forget,
        "forget gate's bias 1, on one of torch's two biases",
        ("gers2000", "jozefowicz2015"),
    ),
    Rule(
        "second_bias",
        lambda p, s: _has_forget(p) and not _forget_bias(p, s),
        _second_bias,
        "the recurrent bias of an LSTM stays 0",
        ("jozefowicz2015",),
    ),
)
