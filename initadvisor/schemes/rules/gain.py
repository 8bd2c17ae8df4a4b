"""Which gain a weight needs: that of the nonlinearity its *input* has been through."""

from __future__ import annotations

import torch

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.initializers import gains
from initadvisor.schemes.rules.fills import short
from initadvisor.schemes.rules.reading import gate_weight_of
from initadvisor.schemes.rules.rule import Context
from initadvisor.types import NO_ACTIVATION, Role


def activation_gain(name: str, args: tuple[tuple[str, float], ...], spec: ModelSpec, context: Context) -> float:
    """The context's kind of gain for one activation; 1 where the name is not an elementwise function we can integrate.

    Args:
        name: as in ``ParamSpec.activation``.
        args: its constants.
        spec: for activations without a standard name.
        context: which kind of gain.
    """
    fn = None if gains.is_known(name) else spec.custom_activations.get(name)
    if fn is None and not gains.is_known(name):
        return 1.0
    if context.gains == "recommended":
        # The deeper a plain net of saturating activations, the nearer to the edge of chaos it starts: 24 tanh layers
        # on digits reach .152 ± .005 so, .216 ± .013 with the gain for unit variance (4 draws, best of 3 rates).
        return short(gains.deep_gain(name, context.plain_depth, args, fn))
    return short(getattr(gains.gains_for(name, args, fn), context.gains))


def learns_from_zero(param: ParamSpec, spec: ModelSpec) -> bool:
    """Whether a gradient reaches a weight of zeros through the activation behind it.

    Torch's ReLU has the slope 0 at 0, and so have its square, shrinkage and |z|^p: what ends in them never leaves zero.
    """
    fn = spec.custom_activations.get(param.activation)
    if param.activation == NO_ACTIVATION or (fn is None and not gains.is_known(param.activation)):
        return True
    if fn is None:
        fn = gains.activation_fn(param.activation, param.activation_args)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        out = fn(zero)
        if not out.requires_grad:
            return False
        (slope,) = torch.autograd.grad(out.sum(), zero)
    return bool(torch.isfinite(slope).all()) and bool(slope.any())


def weight_gain(param: ParamSpec, spec: ModelSpec, context: Context) -> tuple[float, str]:
    """Gain of a weight and the clause that explains it.

    A weight sees φ(z) where z is the pre-activation before it. Its output keeps the size of z when it is multiplied by
    1/√E[φ(z)²] (He et al. 2015, section 2.2, for ReLU; any φ by quadrature). The same weight carries gradients back
    to φ′(z), which is the backward gain. The first layer sees data and the head's scale is chosen on its own.
    """
    if context.gains == "unit":
        return 1.0, "gain 1"
    gate = gate_weight_of(param, spec)
    if gate is not None and gate.activation != NO_ACTIVATION:
        known = gains.is_known(gate.activation)
        fn = None if known else spec.custom_activations.get(gate.activation)
        gain = short(gains.gated_gain(gate.activation, gate.activation_args, fn)) if known or fn is not None else 1.0
        return gain, f"its input is the product {gate.activation}(a)·b, whose gain is {gain:.4g}"
    if param.role is Role.INPUT or param.input_activation == NO_ACTIVATION:
        source = (
            "comes from data" if param.role is Role.INPUT else "has passed no nonlinearity since it was last scaled"
        )
        return 1.0, f"its input {source}, so gain 1"
    gain = activation_gain(param.input_activation, param.input_activation_args, spec, context)
    kind = "" if context.gains == "recommended" else f"{context.gains} "
    return gain, f"its input has been through {param.input_activation}, whose {kind}gain is {gain:.4g}"
