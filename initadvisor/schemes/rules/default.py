"""The baselines: what torch's own layers draw, what people try by hand, and leaving things alone."""

from __future__ import annotations

import math

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules.fills import constant, normal, whole, zeros
from initadvisor.schemes.rules.reading import is_weight
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Fans, Role

_ATTENTION_OUT = "NonDynamicallyQuantizableLinear"
"""Class of ``nn.MultiheadAttention``'s output projection: a linear layer whose bias the attention sets to zero."""

_LINEAR = frozenset({"Linear", _ATTENTION_OUT, "LazyLinear"})
_CONV = frozenset({f"{lazy}Conv{t}{n}d" for lazy in ("", "Lazy") for t in ("", "Transpose") for n in (1, 2, 3)})
_PARAMETRIZED = "ParametrizationList"
"""Owner of the originals behind a parametrization, which torch registers after the layer was drawn."""

_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"})
_NORMS = frozenset(
    {
        *(f"{lazy}{kind}Norm{n}d" for lazy in ("", "Lazy") for kind in ("Batch", "Instance") for n in (1, 2, 3)),
        "SyncBatchNorm",
        "LayerNorm",
        "GroupNorm",
        "RMSNorm",
    }
)
_PRELU = 0.25
"""``nn.PReLU``'s default slope."""


def _torch_fan_in(shape: tuple[int, ...]) -> float:
    """Fan-in as torch's layers count it: everything but the first axis, also where that is wrong (ConvTranspose)."""
    return float(math.prod(shape[1:]))


def _uniform(param: ParamSpec, fan_in: float, why: str) -> Proposal:
    # The fans of the draw, not of the layer: torch's own counting is what defines this baseline.
    fans = Fans(fan_in, float(param.shape[0]) if param.shape else 1.0)
    return Proposal((Part(Fill("torch_linear"), fans),), why)


def _bias_bound(param: ParamSpec, spec: ModelSpec) -> float | None:
    weight = spec[param.bias_of] if param.bias_of is not None and param.bias_of in spec else None
    return _torch_fan_in(weight.shape) if weight is not None and len(weight.shape) >= 2 else None


def _linear_default(param: ParamSpec, spec: ModelSpec) -> Proposal:
    if len(param.shape) >= 2:
        fan = _torch_fan_in(param.shape)
        return _uniform(param, fan, "torch draws U(±1/√fan_in), a variance of 1/(3·fan_in): six times below He's")
    bound = _bias_bound(param, spec)
    if bound is None:
        return Proposal((), "torch draws this bias from its weight's fan-in, which is not known here, so it is kept")
    return _uniform(param, bound, "torch draws biases U(±1/√fan_in) of their weight")


def _attention_default(param: ParamSpec) -> Proposal:
    if len(param.shape) == 2:
        fans = Fans(float(param.shape[1]), float(param.shape[0]))
        return Proposal((Part(Fill("xavier_uniform"), fans),), "torch draws Xavier over the whole packed matrix")
    if len(param.shape) == 1:
        return Proposal(zeros(param), "torch starts attention biases at zero")
    return Proposal((), "torch's appended key and value rows are kept")


def _recurrent_hidden_size(param: ParamSpec) -> float:
    """H, from the number of stacked gates: weights and biases of one layer have gates × H rows."""
    gates = (
        max(1, len(param.slices)) if param.slices else {"LSTM": 4, "GRU": 3}.get(param.torch_layer[:4].rstrip("C"), 1)
    )
    return param.shape[0] / gates


def _default(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    kind = param.torch_layer
    if kind == _ATTENTION_OUT and len(param.shape) == 1:
        return Proposal(zeros(param), "torch starts attention biases at zero")
    if param.module_type == _PARAMETRIZED and not is_weight(param) and param.role is not Role.BIAS:
        return Proposal((), "it is written together with the weight it belongs to")
    if kind in _LINEAR or kind in _CONV:
        return _linear_default(param, spec)
    if kind == "Bilinear" and len(param.shape) == 3:
        return _uniform(param, float(param.shape[1]), "torch draws U(±1/√in1_features)")
    if kind in ("Embedding", "EmbeddingBag"):
        return Proposal(normal(param, 1.0), "torch draws embeddings N(0, 1)")
    if kind in _NORMS:
        one = param.role is Role.NORM_SCALE
        return Proposal(constant(param, 1.0 if one else 0.0), "torch starts norms neutral")
    if kind in _RECURRENT:
        size = _recurrent_hidden_size(param)
        return _uniform(param, size, "torch draws everything of a recurrent layer U(±1/√hidden_size)")
    if kind == "MultiheadAttention":
        return _attention_default(param)
    if kind == "PReLU":
        value = context.constants.get(param.path, _PRELU)
        return Proposal(constant(param, value), f"the slope its author chose, {value:g}")
    found = context.constants.get(param.path)
    if found is not None:
        return Proposal(
            constant(param, found), f"its author set it to {found:g}, and torch has no draw of its own for it"
        )
    return Proposal(
        (), f"{param.module_type or 'its module'} is no layer of torch's; the values its author gave it are kept"
    )


_TEXTBOOK = {
    "xavier_normal": (
        "N(0, 2/(fan_in+fan_out)): signal and gradients at once, for symmetric activations",
        ("glorot2010",),
    ),
    "xavier_uniform": ("Xavier's variance, uniform", ("glorot2010",)),
    "kaiming_normal": ("N(0, 2/fan_in), made for ReLU", ("he2015",)),
    "kaiming_uniform": ("He's variance, uniform", ("he2015",)),
    "lecun_normal": ("N(0, 1/fan_in), made for scaled tanh and SELU", ("lecun1998",)),
    "orthogonal": ("orthogonal at gain 1", ("saxe2014",)),
    "normal": ("N(0, .02), from GPT-2 and BERT", ("radford2019",)),
}
"""Classics that people try by hand: initializer, what they say of it, source."""


def _textbook_fill(name: str) -> Fill:
    if name == "normal":
        return Fill("normal", args=(("std", 0.02),))
    if name.startswith("kaiming"):
        return Fill(name, gain=float(f"{math.sqrt(2):.6g}"))
    return Fill(name)


def _textbook_rule(name: str, summary: str, references: tuple[str, ...]) -> Rule:
    fill = _textbook_fill(name)

    def propose(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
        if param.slices:
            return Proposal(
                tuple(Part(fill, piece.fans, piece) for piece in param.slices), f"{summary}; every packed map by itself"
            )
        return Proposal(whole(param, fill), summary)

    return Rule(
        f"textbook_{name}", lambda p, s: is_weight(p), propose, f"the classic everywhere: {summary}", references
    )


def _keep(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal((), "left exactly as it came")


RULES = (
    Rule(
        "torch_default",
        lambda p, s: True,
        _default,
        "what torch's own reset_parameters draws, by layer class",
        ("paszke2019",),
    ),
    Rule("keep", lambda p, s: True, _keep, "leave the tensor as it is"),
    *(_textbook_rule(name, summary, references) for name, (summary, references) in _TEXTBOOK.items()),
)
