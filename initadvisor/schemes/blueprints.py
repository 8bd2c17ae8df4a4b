"""Which rules, in which order and with which choices, make one candidate scheme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from initadvisor.graph.spec import ModelSpec, NormStyle
from initadvisor.schemes.beliefs import figure
from initadvisor.schemes.family import is_graph_batch
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
    "embedding_product",
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
    "embedding_tied",
    "torch_default",
)
"""What stands behind a classic. Of tables the classics say nothing: torch's draw, but of those that are the head."""


@dataclass(frozen=True)
class Blueprint:
    """One candidate scheme before it meets a model.

    Attributes:
        name: of the scheme.
        summary: one line for the ranking table.
        front: rules tried before :data:`STRUCTURE`.
        rules: the whole order, where it is not front + structure.
        context: the choices.
        applies: whether it makes sense for a model and batch.
        kind: where the scheme comes from.
    """

    name: str
    summary: str
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
    return is_graph_batch(batch)


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
_TFIXUP = ("tfixup_packed", "deepnorm_query_key", "tfixup", "tfixup_table")
_ZERO_LAST = ("zero_last_norm", "zero_last_weight", "modulation_zero")

SMALL_STACK = figure("small_stack")
"""What a plain stack multiplies its signal with where it starts small. Large starts fit with the features they were
drawn with (Chizat et al. 2019)."""

RULE_BLUEPRINTS: tuple[Blueprint, ...] = (
    Blueprint(
        "rules_orthogonal",
        "orthogonal weights at each layer's own gain; residual outputs, gates, tables and heads by their roles",
    ),
    Blueprint(
        "rules_gaussian",
        "Gaussian weights at each layer's own gain; residual outputs, gates, tables and heads by their roles",
        context=Context(family="normal"),
    ),
    Blueprint(
        "rules_zero_last",
        "as rules_orthogonal, with every residual block the identity at the start",
        front=_ZERO_LAST,
        applies=_branches,
    ),
    Blueprint(
        "rules_small_head",
        "as rules_orthogonal, with an output layer a tenth as large",
        front=("head_small",),
        applies=_has(Role.OUTPUT),
    ),
    Blueprint(
        "rules_zero_head",
        "as rules_orthogonal, with a zero output layer",
        front=("head_zero",),
        applies=_has(Role.OUTPUT),
    ),
    Blueprint(
        "rules_output_prior",
        "a small output layer whose bias says what the batch's targets are on average",
        front=("head_bias_prior", "head_small"),
        applies=_known_outputs,
    ),
    Blueprint(
        "rules_backward",
        "orthogonal weights at the gain that keeps gradients instead of the signal",
        context=Context(gains="backward"),
        applies=_deep,
    ),
    Blueprint(
        "rules_forward",
        "orthogonal weights at the gain that keeps the second moment at unit variance",
        context=Context(gains="forward"),
        applies=_deep,
    ),
    Blueprint(
        "rules_gaussian_average",
        "Gaussian weights at each layer's gain over the mean of both fans",
        context=Context(family="normal", mode="fan_avg"),
        applies=_deep,
    ),
    Blueprint(
        "rules_larger",
        "as rules_orthogonal, hidden weights a quarter larger",
        context=Context(scale=1.25),
        applies=_unnormalised,
    ),
    Blueprint(
        "rules_smaller",
        "as rules_orthogonal, hidden weights a fifth smaller",
        context=Context(scale=0.8),
        applies=_not_plain_dense,
    ),
    Blueprint(
        "rules_small_stack",
        "as rules_orthogonal, a plain stack a quarter as large, evenly over its layers; its input keeps its length",
        context=Context(stack=SMALL_STACK),
        applies=_plain_dense,
    ),
    Blueprint(
        "rules_small_tables",
        "as rules_orthogonal, with tables N(0, .01), as in factor models",
        front=("embedding_factor",),
        applies=_tables,
    ),
    Blueprint(
        "rules_unit_rows",
        "as rules_orthogonal, with tables whose rows have norm 1",
        front=("embedding_offset", "embedding_row_norm"),
        applies=_tables,
    ),
    Blueprint(
        "delta_orthogonal",
        "each convolution an isometry: orthogonal at its centre tap, zero elsewhere",
        context=Context(family="delta_orthogonal"),
        applies=_plain_convolutions,
    ),
    Blueprint(
        "dirac",
        "each convolution that keeps its channels the identity at first",
        front=("dirac",),
        applies=lambda spec, batch: (
            _plain_convolutions(spec, batch) and sum(passes_through(p) for p in spec.params) >= figure("few_kernels")
        ),
    ),
    Blueprint(
        "sparse",
        "wide layers of a plain net that saturates: 15 connections a unit",
        front=("sparse",),
        applies=lambda spec, batch: (
            _plain_dense(spec, batch) and sum(is_wide_and_saturating(p) for p in spec.params) >= figure("few_layers")
        ),
    ),
    Blueprint(
        "fixup",
        "Fixup: branches scaled by their number and depth, their last weights and the output layer zero",
        front=("zero_last_weight", "fixup_inner", "head_zero"),
        context=Context(family="normal"),
        applies=_norm_free,
    ),
    Blueprint("rezero", "branch factors at zero", front=("rezero",), applies=_scalar_branches),
    Blueprint(
        "gpt2",
        "GPT-2: N(0, .02) everywhere, residual outputs divided by √(number of branches)",
        front=("embedding_small", "gpt2_position", "gpt2_residual", "gpt2_weight"),
        applies=_language,
    ),
    Blueprint(
        "llama",
        "Llama: truncated N(0, .02), residual outputs smaller with depth, unit embeddings, head 1/√d",
        front=("llama_head", "llama_residual", "vit_weight"),
        applies=lambda spec, batch: _language(spec, batch) and reading.has_style(spec, NormStyle.PRE_NORM),
    ),
    Blueprint(
        "vit",
        "ViT: truncated N(0, .02) everywhere",
        front=("embedding_small", "vit_weight"),
        applies=lambda spec, batch: reading.is_transformer(spec),
    ),
    Blueprint(
        "mimetic",
        "mimetic attention: queries and keys near the identity, values and outputs near its negative",
        front=("mimetic",),
        applies=lambda spec, batch: any(in_vision_attention(p, spec) for p in spec.params),
    ),
    Blueprint(
        "deepnorm",
        "DeepNorm's β for post-norm transformers",
        front=_DEEPNORM,
        applies=_transformer(NormStyle.POST_NORM),
    ),
    Blueprint("t_fixup", "T-Fixup: transformers without norms", front=_TFIXUP, applies=_transformer(NormStyle.NONE)),
    Blueprint(
        "sub_ln",
        "Sub-LN: transformers with a norm inside the branch",
        front=("deepnorm_query_key", "subln"),
        applies=_transformer(NormStyle.INNER_NORM),
    ),
    Blueprint(
        "mup_zero",
        "queries and the output layer at zero, as in muP",
        front=("zero_query", "head_zero"),
        applies=lambda spec, batch: reading.is_transformer(spec),
    ),
    Blueprint(
        "adaln_zero",
        "adaLN-Zero: modulation and the output layer at zero",
        front=("modulation_zero", "head_zero"),
        applies=_has(Role.MODULATION),
    ),
    Blueprint(
        "diffusion_zero",
        "branches and the last convolution at zero, as in denoising U-Nets",
        front=("diffusion_output", *_ZERO_LAST),
        applies=_image_output,
    ),
    Blueprint(
        "dcgan",
        "DCGAN: N(0, .02) convolutions, N(1, .02) norm scales",
        front=("dcgan_weight", "dcgan_norm"),
        applies=_generator,
    ),
    Blueprint(
        "graph_glorot",
        "Glorot uniform before neighbour aggregation",
        front=("graph_weight",),
        applies=_graph_batch,
    ),
    Blueprint(
        "identity_rnn",
        "recurrence at the identity (ReLU)",
        front=("recurrent_identity",),
        applies=_relu_recurrence,
    ),
    Blueprint(
        "actor_critic",
        "orthogonal, policy head .01, value head 1",
        front=("head_policy",),
        applies=lambda spec, batch: actor_critic(spec),
    ),
    Blueprint(
        "actor_critic_uniform",
        "LeCun uniform everywhere, as Brax builds policies and values",
        front=("brax_weight",),
        applies=lambda spec, batch: actor_critic(spec),
    ),
    Blueprint("equilibrium", "N(0, .01) where a weight is iterated", front=("equilibrium",), applies=_iterated),
    Blueprint(
        "zero_hadamard",
        "ZerO: identities and Hadamard matrices, no randomness",
        front=("zero_hadamard",),
        applies=lambda spec, batch: not spec.branches and _deep(spec, batch),
    ),
    Blueprint(
        "zero_hadamard_residual",
        "ZerO: identities and Hadamard matrices, no randomness, last weights of branches at zero",
        front=("zero_hadamard", *_ZERO_LAST),
        applies=_branches,
    ),
)
"""Candidates made of rules; ``beliefs.json`` says in which order they are proposed."""

_TEXTBOOKS = (
    "kaiming_normal",
    "xavier_uniform",
    "orthogonal",
    "xavier_normal",
    "kaiming_uniform",
    "lecun_normal",
    "normal",
)

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
        rules=(f"textbook_{name}", *_PLAIN),
        kind=SchemeKind.TEXTBOOK,
    )
    for name in _TEXTBOOKS
)
"""What people try by hand: one classic everywhere."""
