"""Domains with starts of their own: SIREN, GAN, diffusion, graphs, experts, state spaces, adapters, equilibria."""

from __future__ import annotations

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules.fills import fans_of, matrix_parts, normal, short, whole, zeros
from initadvisor.schemes.rules.gain import learns_from_zero
from initadvisor.schemes.rules.norms import scales
from initadvisor.schemes.rules.reading import is_weight, sure, weight_of_bias
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.rules.weights import base_weight
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Role

SINES = frozenset({"sin", "sine"})
"""Names of the activation a SIREN uses."""

_OMEGA = 30.0
"""SIREN's frequency factor, where the graph shows none."""

_DCGAN_STD = 0.02
_ROUTER_STD = 0.02
_EQUILIBRIUM_STD = 0.01
_MODULATION_STD = 0.02


def omega_of(param: ParamSpec, *, of_input: bool = False) -> float:
    """Frequency factor of the sine after (or before) a weight, read from the graph; 30 where it shows none."""
    args = dict(param.input_activation_args if of_input else param.activation_args)
    return args.get("omega", _OMEGA)


def is_siren(spec: ModelSpec) -> bool:
    """At least half of the activations that follow weights are sines."""
    acts = [p.activation for p in spec.params if is_weight(p) and p.activation != "none"]
    return bool(acts) and 2 * sum(a in SINES for a in acts) >= len(acts)


def _siren_first(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        whole(param, Fill("siren_first")),
        f"first sine layer: U(±1/fan_in), so that ω = {omega_of(param):g} spans its frequencies",
    )


def _siren_hidden(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    omega = omega_of(param, of_input=param.activation not in SINES)
    return Proposal(
        whole(param, Fill("siren_hidden", args=(("omega", short(omega)),))),
        f"its input has been through sin, so U(±√(6/fan_in)/{omega:g}) keeps every layer's argument N(0, 1)",
    )


def _siren_bias(param: ParamSpec, spec: ModelSpec) -> bool:
    weight = weight_of_bias(param, spec)
    return param.role is Role.BIAS and weight is not None and bool({weight.activation, weight.input_activation} & SINES)


def _spread_phase(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    weight = weight_of_bias(param, spec)
    fans = fans_of(weight if weight is not None else param)
    return Proposal(
        (Part(Fill("torch_linear"), fans),), "random phases of the sines, as in the authors' code: U(±1/√fan_in)"
    )


def _dcgan(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        normal(param, _DCGAN_STD), "DCGAN's N(0, .02) for all convolutions, judged with both networks together"
    )


def _dcgan_norm(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    fill = Fill("normal", args=(("mean", 1.0 - param.offset), ("std", _DCGAN_STD)))
    return Proposal(scales(param, fill), "DCGAN's norm scales: N(1, .02)")


def _zero_conv_head(param: ParamSpec, spec: ModelSpec) -> bool:
    kernel = is_weight(param) and param.role is Role.OUTPUT and len(param.shape) > 2
    return kernel and sure(param) and learns_from_zero(param, spec)


def _zero_output(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(zeros(param), "diffusion: a zero last convolution predicts no noise first, which is its mean")


def _zero_modulation(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        zeros(param), "adaLN-Zero: the modulation starts as the identity; the weights it gates are not zero"
    )


def _small_modulation(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    if len(param.shape) < 2:
        return Proposal(zeros(param), "no modulation before anything was learned")
    return Proposal(
        normal(param, _MODULATION_STD), "it writes scales and shifts of the stream: small, so that norms stay norms"
    )


def _router(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(normal(param, _ROUTER_STD), "a small router: experts start with equal load")


def _expert(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    base = base_weight(param, spec, context)
    return Proposal(base.parts, f"stacked experts, each with its own fans; {base.reason}")


def _graph(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    glorot = Context(family="uniform", mode="fan_avg")
    return Proposal(
        matrix_parts(param, glorot, 1.0), "neighbours are averaged after this map: Glorot over its last two axes"
    )


def _adapter_in(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(whole(param, Fill("torch_linear")), "LoRA's A: torch's default draw, since B starts at zero")


def _adapter_out(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(zeros(param), "LoRA's B at zero: the adapted model starts as the model it adapts; A is not zero")


def _equilibrium(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        normal(param, _EQUILIBRIUM_STD),
        f"the forward pass uses it {param.uses} times: N(0, .01) makes the iteration contract",
    )


def _state(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    if len(param.shape) == 2:
        return Proposal(
            whole(param, Fill("mamba_a_log")), f"A = −(1 … {param.shape[1]}): decay rates from slow to fast"
        )
    if param.activation == "softplus":
        return Proposal(
            whole(param, Fill("mamba_dt_bias")), "softplus of it is a step size, log-uniform from .001 to .1"
        )
    value = context.constants.get(param.path)
    if value is None and param.activation == "exp":
        return Proposal(
            whole(param, Fill("mamba2_a_log")),
            "one decay rate per head, from 1 to 16, as Mamba-2 draws them",
            ("dao2024",),
        )
    if value is not None:
        return Proposal(whole(param, Fill("ones")) if value == 1 else zeros(param), f"its author's constant, {value:g}")
    return Proposal((), "part of a state-space layer whose use is not certain, so its own values are kept")


def _makes_steps(param: ParamSpec, spec: ModelSpec) -> bool:
    """A projection whose softplus is the step size of a state: its bias was read as part of that layer."""
    steps = any(p.role is Role.STATE and p.bias_of == param.path for p in spec.params)
    return is_weight(param) and len(param.shape) == 2 and param.activation == "softplus" and steps


def _step_weight(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        whole(param, Fill("torch_linear")),
        "it varies a step size around its bias: U(±1/√rank), so that the bias decides how long the memory is",
    )


def _hadamard(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(whole(param, Fill("zero_init")), "ZerO: identity where it keeps width, Hadamard where it grows")


_SPARSE_FROM = 128
"""Inputs from which 15 connections are few: about one in ten."""

_SATURATING = frozenset({"tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid"})


def passes_through(param: ParamSpec) -> bool:
    """A kernel that can hand every channel on as it is: as many channels out as in, with a centre tap."""
    fans = fans_of(param)
    square = len(param.shape) > 2 and param.shape[0] == param.shape[1] * fans.groups
    return is_weight(param) and square and all(n % 2 for n in param.shape[2:]) and not param.op.count("transpose")


def _dirac(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        whole(param, Fill("dirac")),
        "as many channels as come in, each handed on as it is: at first depth neither shrinks nor mixes the signal",
    )


def is_wide_and_saturating(param: ParamSpec) -> bool:
    """A dense weight with many inputs before an activation that saturates."""
    fans = fans_of(param)
    return (
        is_weight(param) and len(param.shape) == 2 and fans.fan_in >= _SPARSE_FROM and param.activation in _SATURATING
    )


def _sparse(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    return Proposal(
        whole(param, Fill("sparse")),
        "15 strong connections a unit instead of many weak ones: units differ, and none saturates for the sum of all",
    )


RULES = (
    Rule(
        "dirac",
        lambda p, s: passes_through(p) and p.role is Role.HIDDEN and sure(p),
        _dirac,
        "convolutions that keep the number of channels: the identity",
        ("zagoruyko2017",),
    ),
    Rule(
        "sparse",
        lambda p, s: is_wide_and_saturating(p) and sure(p) and not p.slices,
        _sparse,
        "wide layers before an activation that saturates: 15 connections a unit",
        ("martens2010",),
    ),
    Rule(
        "siren_first",
        lambda p, s: is_weight(p) and p.activation in SINES and p.role is Role.INPUT,
        _siren_first,
        "first layer of a sine network: U(±1/n)",
        ("sitzmann2020",),
    ),
    Rule(
        "siren_hidden",
        lambda p, s: is_weight(p) and bool({p.activation, p.input_activation} & SINES) and p.role is not Role.INPUT,
        _siren_hidden,
        "further layers of a sine network: U(±√(6/n)/ω), ω read from the graph",
        ("sitzmann2020",),
    ),
    Rule("siren_bias", _siren_bias, _spread_phase, "biases of sines: random phases", ("sitzmann2020",)),
    Rule(
        "dcgan_weight",
        lambda p, s: is_weight(p) and len(p.shape) > 2,
        _dcgan,
        "convolutions of a GAN: N(0, .02)",
        ("radford2016",),
    ),
    Rule(
        "dcgan_norm",
        lambda p, s: p.role is Role.NORM_SCALE and p.norm_after is None,
        _dcgan_norm,
        "norm scales of a GAN: N(1, .02)",
        ("radford2016",),
    ),
    Rule("diffusion_output", _zero_conv_head, _zero_output, "last convolution of a denoiser: zeros", ("ho2020",)),
    Rule(
        "modulation_zero",
        lambda p, s: p.role is Role.MODULATION and sure(p) and learns_from_zero(p, s),
        _zero_modulation,
        "adaLN modulation: zeros",
        ("peebles2023",),
    ),
    Rule(
        "modulation_small",
        lambda p, s: p.role is Role.MODULATION,
        _small_modulation,
        "modulation of norms: small",
        ("perez2018",),
    ),
    Rule(
        "router",
        lambda p, s: p.role is Role.ROUTER and is_weight(p),
        _router,
        "router of experts: N(0, .02)",
        ("fedus2022",),
    ),
    Rule(
        "expert",
        lambda p, s: is_weight(p) and p.fans is not None and bool(p.fans.batch_dims),
        _expert,
        "stacked expert weights: each map by itself",
        ("fedus2022",),
    ),
    Rule(
        "graph_weight",
        lambda p, s: is_weight(p) and p.role in (Role.HIDDEN, Role.INPUT),
        _graph,
        "maps before neighbour aggregation: Glorot uniform",
        ("kipf2017",),
    ),
    Rule(
        "adapter_in",
        lambda p, s: p.role is Role.ADAPTER_IN,
        _adapter_in,
        "LoRA A: torch's linear default",
        ("hu2022",),
    ),
    Rule(
        "adapter_out", lambda p, s: p.role is Role.ADAPTER_OUT and sure(p), _adapter_out, "LoRA B: zeros", ("hu2022",)
    ),
    Rule(
        "equilibrium",
        lambda p, s: is_weight(p) and p.uses >= 4 and p.role is Role.HIDDEN,
        _equilibrium,
        "weights iterated to a fixed point: N(0, .01)",
        ("bai2019",),
    ),
    Rule("state_space", lambda p, s: p.role is Role.STATE, _state, "Mamba's decay rates and step sizes", ("gu2023",)),
    Rule(
        "step_weight",
        _makes_steps,
        _step_weight,
        "projection to a state-space layer's step sizes: U(±1/√rank)",
        ("gu2023",),
    ),
    Rule(
        "zero_hadamard",
        lambda p, s: is_weight(p) and p.role in (Role.HIDDEN, Role.INPUT) and not p.slices and sure(p) and p.fan_in > 1,
        _hadamard,
        "identity and Hadamard instead of random weights (ZerO)",
        ("zhao2022zero",),
    ),
)
