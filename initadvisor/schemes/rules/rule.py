"""The plug point of rules: ``match`` and ``propose``, both pure, with the sources that back them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.drawn import Deliberate
from initadvisor.schemes.values import Part


@dataclass(frozen=True)
class Context:
    """What a proposal may depend on beside the parameter: the choices that make one scheme of a family.

    Attributes:
        family: distribution of weight matrices: ``"orthogonal"``, ``"normal"``, ``"uniform"``, ``"trunc_normal"`` or
            ``"delta_orthogonal"``.
        mode: connection count the variance is divided by: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        gains: which gain follows an activation: ``"recommended"``, ``"forward"``, ``"backward"``, ``"variance"``
            or ``"unit"``.
        scale: factor on every gain of a hidden weight.
        stack: factor of a plain stack of layers as a whole, to which each hidden layer contributes evenly.
        scaling: what an orthogonal map that widens keeps: the size of a feature (``"fan_in"``) or the length of the
            vector (``"norm"``).
        plain_depth: layers in a row without norm or residual sum, where saturating activations need smaller gains.
        constants: path -> value of parameters that came as one constant (LayerScale, PReLU slopes, temperatures).
        deliberate: path -> what the author set there on purpose; only rules that know the very thing fill it.
        output_bias: what each output should say before anything is learned (log class shares, mean targets), in order.
        output_bias_why: where these numbers come from, in a sentence.
    """

    family: str = "orthogonal"
    mode: str = "fan_in"
    gains: str = "recommended"
    scale: float = 1.0
    stack: float = 1.0
    scaling: str = "fan_in"
    plain_depth: int = 1
    constants: Mapping[str, float] = field(default_factory=dict)
    deliberate: Mapping[str, Deliberate] = field(default_factory=dict)
    output_bias: tuple[float, ...] = ()
    output_bias_why: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """How one parameter is filled and why.

    Attributes:
        parts: regions and their fills; empty to leave the tensor as it is.
        reason: one sentence on why it fits this layer.
        references: keys that back this very proposal, instead of the rule's where there are any.
    """

    parts: tuple[Part, ...]
    reason: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One piece of expert knowledge.

    Attributes:
        name: unique.
        match: whether it speaks for a parameter; reads nothing but the specs.
        propose: what it says.
        summary: one line for ``initadvisor list``.
        references: keys of :mod:`initadvisor.references`; empty where it is plain arithmetic.
        knows_values: speaks also for a tensor that its author set on purpose: such values are what it is about, or it
            keeps them anyway.
    """

    name: str
    match: Callable[[ParamSpec, ModelSpec], bool]
    propose: Callable[[ParamSpec, ModelSpec, Context], Proposal]
    summary: str
    references: tuple[str, ...] = ()
    knows_values: bool = False
