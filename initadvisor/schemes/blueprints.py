"""Which rules, in which order and with which choices, make one candidate scheme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from initadvisor.graph.spec import ModelSpec, NormStyle
from initadvisor.schemes.rules import reading
from initadvisor.schemes.rules.head import actor_critic
from initadvisor.schemes.rules.mimetic import in_vision_attention
from initadvisor.schemes.rules.recurrent import relu_recurrence
from initadvisor.schemes.rules.rule import Context
from initadvisor.schemes.rules.special import SINES, is_siren, is_wide_and_saturating, passes_through
from initadvisor.schemes.rules.weights import in_stack
from initadvisor.schemes.values import SchemeKind
from initadvisor.training.data import Batch
from initadvisor.types import Role

STRUCTURE = (
    "unused",
    "siren_first",
    "siren_hidden",
    "siren_bias",
    "cautious_weight",
    "selu_weight",
    "router",
    "modulation_small",
    "adapter_in",
    "adapter_out",
    "state_space",
    "step_weight",
    "recurrent_hidden",
    "recurrent_input",
    "forget_bias",
    "second_bias",
    "embedding_offset",
    "embedding_unit",
    "embedding_tied",
    "position",
    "token",
    "relative_bias",
    "head_unit",
    "stream_input",
    "residual_sqrt",
    "residual_norm_sqrt",
    "shortcut",
    "expert",
    "linear_map",
    "input_bias_spread",
    "norm_scale",
    "norm_shift",
    "bias",
    "constant_as_found",
    "keep",
)
"""What every scheme made of rules does, first match wins; a blueprint puts its own rules in front."""

_PLAIN = (
    "unused",
    "norm_scale",
    "norm_shift",
    "bias",
    "constant_as_found",
    "torch_default",
)


_FEW_KERNELS = 3
"""Kernels that can be the identity from which a net's depth is theirs."""

_FEW_LAYERS = 3
"""Saturating layers from which a stack is deep enough for a start of its own."""


@dataclass(frozen=True)
class Blueprint:
    """One candidate scheme before it meets a model.

    Attributes:
        name: of the scheme.
        summary: one line for the ranking table.
        prior: belief before any trial, between 0 and 1.
        front: rules tried before :data:`STRUCTURE`.
        rules: the whole order, where it is not front + structure.
        context: the choices.
        applies: whether it makes sense for a model and batch.
        kind: where the scheme comes from.
    """

    name: str
    summary: str
    prior: float
    front: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    context: Context = field(default_factory=Context)
    applies: Callable[[ModelSpec, Batch | None], bool] = lambda spec, batch: True
    kind: SchemeKind = SchemeKind.RULES

    @property
    def order(self) -> tuple[str, ...]:
        """Names of its rules, first match wins."""
        return self.rules or (*self.front, *STRUCTURE)


def _has(*roles: Role) -> Callable[[ModelSpec, Batch | None], bool]:
    return lambda spec, batch: bool(spec.with_role(*roles))


def _branches(spec: ModelSpec, batch: Batch | None) -> bool:
    return bool(spec.branches)


def _norm_free(spec: ModelSpec, batch: Batch | None) -> bool:
    return bool(spec.branches) and reading.has_style(spec, NormStyle.NONE)


def _transformer(style: NormStyle) -> Callable[[ModelSpec, Batch | None], bool]:
    return lambda spec, batch: reading.is_transformer(spec) and reading.has_style(spec, style)


def _language(spec: ModelSpec, batch: Batch | None) -> bool:
    return reading.is_transformer(spec) and bool(spec.with_role(Role.EMBEDDING))


def _tables(spec: ModelSpec, batch: Batch | None) -> bool:
    """Tables that start no transformer: factor models, recommenders, categories of tabular data, recurrent nets."""
    return not reading.is_transformer(spec) and bool(spec.with_role(Role.EMBEDDING))


def _plain_convolutions(spec: ModelSpec, batch: Batch | None) -> bool:
    kernels = [p for p in spec.params if reading.is_weight(p) and len(p.shape) > 2 and max(p.shape[2:]) > 1]
    return len(kernels) >= 4 and not spec.branches and not reading.has_norms(spec)


def _generator(spec: ModelSpec, batch: Batch | None) -> bool:
    return any(p.op.startswith("conv_transpose") for p in spec.params)


def _image_output(spec: ModelSpec, batch: Batch | None) -> bool:
    return bool(spec.branches) and any(len(p.shape) > 2 for p in spec.with_role(Role.OUTPUT))


def _graph_batch(spec: ModelSpec, batch: Batch | None) -> bool:
    if batch is None:
        return False
    return "edge_index" in batch.kwargs or any(hasattr(item, "edge_index") for item in (batch.raw, *batch.args))


def _relu_recurrence(spec: ModelSpec, batch: Batch | None) -> bool:
    return any(relu_recurrence(p) for p in spec.params)


def _scalar_branches(spec: ModelSpec, batch: Batch | None) -> bool:
    return any(p.role is Role.BRANCH_SCALE and p.numel == 1 for p in spec.params)


def _iterated(spec: ModelSpec, batch: Batch | None) -> bool:
    return any(reading.is_weight(p) and p.uses >= 4 and p.role is Role.HIDDEN for p in spec.params)


def _unnormalised(spec: ModelSpec, batch: Batch | None) -> bool:
    return not reading.has_norms(spec) and spec.depth >= 3 and not is_siren(spec)


def _plain_dense(spec: ModelSpec, batch: Batch | None) -> bool:
    """Deep, dense, and nothing restores the signal's size; of convolutions zero padding makes it shrink anyway."""
    weights = [p for p in spec.params if reading.is_weight(p)]
    held = {"selu", *SINES}
    return (
        _unnormalised(spec, batch)
        and not spec.branches
        and not spec.with_role(Role.RECURRENT_HIDDEN)
        and all(len(p.shape) == 2 and not {p.activation, p.input_activation} & held for p in weights)
        and any(in_stack(p) and p.protected is None for p in weights)
    )


def _not_plain_dense(spec: ModelSpec, batch: Batch | None) -> bool:
    return _unnormalised(spec, batch) and not _plain_dense(spec, batch)


def _deep(spec: ModelSpec, batch: Batch | None) -> bool:
    return spec.depth >= 3


def _known_outputs(spec: ModelSpec, batch: Batch | None) -> bool:
    return batch is not None and batch.target is not None and bool(spec.with_role(Role.OUTPUT))


_DEEPNORM = ("deepnorm_packed", "deepnorm_query_key", "deepnorm")
_TFIXUP = ("tfixup_packed", "deepnorm_query_key", "tfixup", "embedding_row_norm")
_ZERO_LAST = ("zero_last_norm", "zero_last_weight", "modulation_zero")

SMALL_STACK = 0.25
"""What a plain stack multiplies its signal with where it starts small. Large starts fit with the features they were
drawn with (Chizat et al. 2019). Of 1, 1/2 and 1/4 on nine plain dense nets of the regret benchmark a quarter had the
lowest mean regret, also with any one family left out; three more nets, not looked at before, agreed."""

RULE_BLUEPRINTS: tuple[Blueprint, ...] = (
    Blueprint(
        "rules_orthogonal",
        "orthogonal weights at each layer's own gain; residual outputs, gates, tables and heads by their roles",
        1.0,
    ),
    Blueprint(
        "rules_gaussian",
        "Gaussian weights at each layer's own gain; residual outputs, gates, tables and heads by their roles",
        0.92,
        context=Context(family="normal"),
    ),
    Blueprint(
        "rules_zero_last",
        "as rules_orthogonal, with every residual block the identity at the start",
        0.9,
        front=_ZERO_LAST,
        applies=_branches,
    ),
    Blueprint(
        "rules_small_head",
        "as rules_orthogonal, with an output layer a tenth as large",
        0.88,
        front=("head_small",),
        applies=_has(Role.OUTPUT),
    ),
    Blueprint(
        "rules_zero_head",
        "as rules_orthogonal, with a zero output layer",
        0.8,
        front=("head_zero",),
        applies=_has(Role.OUTPUT),
    ),
    Blueprint(
        "rules_output_prior",
        "a small output layer whose bias says what the batch's targets are on average",
        0.86,
        front=("head_bias_prior", "head_small"),
        applies=_known_outputs,
    ),
    Blueprint(
        "rules_backward",
        "orthogonal weights at the gain that keeps gradients instead of the signal",
        0.78,
        context=Context(gains="backward"),
        applies=_deep,
    ),
    Blueprint(
        "rules_forward",
        "orthogonal weights at the gain that keeps the second moment at unit variance",
        0.74,
        context=Context(gains="forward"),
        applies=_deep,
    ),
    Blueprint(
        "rules_gaussian_average",
        "Gaussian weights at each layer's gain over the mean of both fans",
        0.7,
        context=Context(family="normal", mode="fan_avg"),
        applies=_deep,
    ),
    Blueprint(
        "rules_larger",
        "as rules_orthogonal, hidden weights a quarter larger",
        0.68,
        context=Context(scale=1.25),
        applies=_unnormalised,
    ),
    Blueprint(
        "rules_smaller",
        "as rules_orthogonal, hidden weights a fifth smaller",
        0.66,
        context=Context(scale=0.8),
        applies=_not_plain_dense,
    ),
    Blueprint(
        "rules_small_stack",
        "as rules_orthogonal, a plain stack a quarter as large, evenly over its layers; its input keeps its length",
        1.02,
        context=Context(stack=SMALL_STACK),
        applies=_plain_dense,
    ),
    Blueprint(
        "rules_small_tables",
        "as rules_orthogonal, with tables N(0, .01), as in factor models",
        0.89,
        front=("embedding_factor",),
        applies=_tables,
    ),
    Blueprint(
        "rules_unit_rows",
        "as rules_orthogonal, with tables whose rows have norm 1",
        0.81,
        front=("embedding_offset", "embedding_row_norm"),
        applies=_tables,
    ),
    Blueprint(
        "delta_orthogonal",
        "each convolution an isometry: orthogonal at its centre tap, zero elsewhere",
        0.87,
        context=Context(family="delta_orthogonal"),
        applies=_plain_convolutions,
    ),
    Blueprint(
        "dirac",
        "each convolution that keeps its channels the identity at first",
        0.53,
        front=("dirac",),
        applies=lambda spec, batch: (
            _plain_convolutions(spec, batch) and sum(passes_through(p) for p in spec.params) >= _FEW_KERNELS
        ),
    ),
    Blueprint(
        "sparse",
        "wide layers of a plain net that saturates: 15 connections a unit",
        0.51,
        front=("sparse",),
        applies=lambda spec, batch: (
            _plain_dense(spec, batch) and sum(is_wide_and_saturating(p) for p in spec.params) >= _FEW_LAYERS
        ),
    ),
    Blueprint(
        "fixup",
        "Fixup: branches scaled by their number and depth, their last weights and the output layer zero",
        0.89,
        front=("zero_last_weight", "fixup_inner", "head_zero"),
        context=Context(family="normal"),
        applies=_norm_free,
    ),
    Blueprint("rezero", "branch factors at zero", 0.84, front=("rezero",), applies=_scalar_branches),
    Blueprint(
        "gpt2",
        "GPT-2: N(0, .02) everywhere, residual outputs divided by √(number of branches)",
        0.85,
        front=("embedding_small", "gpt2_position", "gpt2_residual", "gpt2_weight"),
        applies=_language,
    ),
    Blueprint(
        "llama",
        "Llama: truncated N(0, .02), residual outputs smaller with depth, unit embeddings, head 1/√d",
        0.82,
        front=("llama_head", "llama_residual", "vit_weight"),
        applies=lambda spec, batch: _language(spec, batch) and reading.has_style(spec, NormStyle.PRE_NORM),
    ),
    Blueprint(
        "vit",
        "ViT: truncated N(0, .02) everywhere",
        0.76,
        front=("embedding_small", "vit_weight"),
        applies=lambda spec, batch: reading.is_transformer(spec),
    ),
    Blueprint(
        "mimetic",
        "mimetic attention: queries and keys near the identity, values and outputs near its negative",
        0.84,
        front=("mimetic",),
        applies=lambda spec, batch: any(in_vision_attention(p, spec) for p in spec.params),
    ),
    Blueprint(
        "deepnorm",
        "DeepNorm's β for post-norm transformers",
        # Made for them, where the rules' division by √(branches) is of pre-norm nets, whose branches add up unscaled.
        1.01,
        front=_DEEPNORM,
        applies=_transformer(NormStyle.POST_NORM),
    ),
    Blueprint(
        "t_fixup", "T-Fixup: transformers without norms", 0.83, front=_TFIXUP, applies=_transformer(NormStyle.NONE)
    ),
    Blueprint(
        "sub_ln",
        "Sub-LN: transformers with a norm inside the branch",
        0.79,
        front=("deepnorm_query_key", "subln"),
        applies=_transformer(NormStyle.INNER_NORM),
    ),
    Blueprint(
        "mup_zero",
        "queries and the output layer at zero, as in muP",
        0.72,
        front=("zero_query", "head_zero"),
        applies=lambda spec, batch: reading.is_transformer(spec),
    ),
    Blueprint(
        "adaln_zero",
        "adaLN-Zero: modulation and the output layer at zero",
        0.95,
        front=("modulation_zero", "head_zero"),
        applies=_has(Role.MODULATION),
    ),
    Blueprint(
        "diffusion_zero",
        "branches and the last convolution at zero, as in denoising U-Nets",
        0.86,
        front=("diffusion_output", *_ZERO_LAST),
        applies=_image_output,
    ),
    Blueprint(
        "dcgan",
        "DCGAN: N(0, .02) convolutions, N(1, .02) norm scales",
        0.8,
        front=("dcgan_weight", "dcgan_norm"),
        applies=_generator,
    ),
    Blueprint(
        "graph_glorot",
        "Glorot uniform before neighbour aggregation",
        0.9,
        front=("graph_weight",),
        applies=_graph_batch,
    ),
    Blueprint(
        "identity_rnn",
        "recurrence at the identity (ReLU)",
        0.85,
        front=("recurrent_identity",),
        applies=_relu_recurrence,
    ),
    Blueprint(
        "actor_critic",
        "orthogonal, policy head .01, value head 1",
        0.95,
        front=("head_policy",),
        applies=lambda spec, batch: actor_critic(spec),
    ),
    Blueprint(
        "actor_critic_uniform",
        "LeCun uniform everywhere, as Brax builds policies and values",
        0.55,
        front=("brax_weight",),
        applies=lambda spec, batch: actor_critic(spec),
    ),
    Blueprint("equilibrium", "N(0, .01) where a weight is iterated", 0.8, front=("equilibrium",), applies=_iterated),
    Blueprint(
        "zero_hadamard",
        "ZerO: identities and Hadamard matrices, no randomness",
        # Best or second best of the pool on four of eight deep plain nets of the regret benchmark.
        0.85,
        front=("zero_hadamard",),
        applies=lambda spec, batch: not spec.branches and _deep(spec, batch),
    ),
    Blueprint(
        "zero_hadamard_residual",
        "ZerO: identities and Hadamard matrices, no randomness, last weights of branches at zero",
        0.45,
        front=("zero_hadamard", *_ZERO_LAST),
        applies=_branches,
    ),
)
"""Candidates made of rules, best belief first where several fit."""

_TEXTBOOK_PRIORS = {
    "kaiming_normal": 0.58,
    "xavier_uniform": 0.57,
    "orthogonal": 0.56,
    "xavier_normal": 0.54,
    "kaiming_uniform": 0.52,
    "lecun_normal": 0.5,
    "normal": 0.42,
}

_TEXTBOOK_TITLES = {
    "kaiming_normal": "he_normal",
    "kaiming_uniform": "he_uniform",
    "normal": "normal_002",
    "orthogonal": "orthogonal_unit",
}

TEXTBOOK_BLUEPRINTS: tuple[Blueprint, ...] = tuple(
    Blueprint(
        _TEXTBOOK_TITLES.get(name, name),
        f"{name.replace('_', ' ')} for every weight, zero biases",
        prior,
        rules=(f"textbook_{name}", *_PLAIN),
        kind=SchemeKind.TEXTBOOK,
    )
    for name, prior in _TEXTBOOK_PRIORS.items()
)
"""What people try by hand: one classic everywhere."""
