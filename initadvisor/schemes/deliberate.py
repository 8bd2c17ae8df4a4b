"""Which tensors of a model its author set on purpose, so that no rule but one that knows the very thing fills them.

A value is no choice where it is what everybody starts from (biases at zero, norm scales at one, forget gates at one)
or a plain random draw. Everything else is: priors of a detector's head, gates held open or shut, decay rates, tables of
waves, logarithms of gains, scales of noise, means over a window, zeros behind a residual branch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.initializers.registry import get as card_of
from initadvisor.schemes.drawn import Deliberate, Found, Look, look_at
from initadvisor.schemes.regions import gather
from initadvisor.schemes.rules.fills import fans_of
from initadvisor.schemes.rules.gain import learns_from_zero
from initadvisor.schemes.rules.reading import is_weight, weight_of_bias
from initadvisor.types import Role

_ROUNDING = 1e-6
"""Relative room for values at the edge of what a draw may give."""

_ENOUGH = 24
"""Elements from which a draw off its centre shows itself (its mean lies 4.75 standard errors off); smaller biases are
taken for draws only inside the bounds of torch's own."""

FORGET = "forget_gate"
"""Name the analysis gives the forget gate's slice."""

_FORGET_VALUES = (0.0, 0.5, 1.0)
"""Usual starts of one of a forget gate's two biases (Jozefowicz et al. 2015): 1 on one of them, or a half on each."""

_OFFSETS = frozenset({Role.BIAS, Role.NORM_SHIFT})

_FREE = frozenset({Role.UNUSED, Role.SCALAR, Role.BRANCH_SCALE, Role.ACTIVATION, Role.ELEMENTWISE, Role.LATENT})
"""Roles whose rules look after the author's values themselves."""

_STATE_CARDS = ("mamba_a_log", "mamba2_a_log", "mamba_dt_bias")


def _with_values(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by path, but for lazy ones, which hold nothing yet."""
    return {path: p for path, p in model.named_parameters(remove_duplicate=False) if not is_lazy(p)}


def deliberate_values(model: nn.Module, spec: ModelSpec, renew: Iterable[str] = ()) -> dict[str, Deliberate]:
    """Path -> what its author set there, for every tensor that a scheme could fill.

    Args:
        model: with its weights; those on the meta device are taken for unset.
        spec: its reading.
        renew: paths whose values are known to be at fault, and count as unset.
    """
    params = _with_values(model)
    faulty = frozenset(renew)
    found: dict[str, Deliberate] = {}
    for entry in spec.fillable:
        tensor = params.get(entry.path)
        if tensor is None or entry.role in _FREE or entry.path in faulty or tuple(tensor.shape) != entry.shape:
            continue
        chosen = _read(entry, spec, tensor)
        if chosen is not None:
            found[entry.path] = chosen
    for path in {*_symmetric(spec, found), *_asleep(spec, found, params)}:
        del found[path]
    return found


def constants_of(model: nn.Module, spec: ModelSpec) -> dict[str, float]:
    """Path -> value of every tensor that holds one finite number throughout, so that a recipe can say it."""
    params = _with_values(model)
    found = {}
    for entry in spec.params:
        tensor = params.get(entry.path)
        if tensor is None or tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        low, high = (float(v) for v in torch.aminmax(tensor.detach()))
        if low == high and abs(low) < float("inf"):
            found[entry.path] = low
    return found


def _read(entry: ParamSpec, spec: ModelSpec, tensor: torch.Tensor) -> Deliberate | None:
    if not entry.slices:
        found = _chosen(entry, spec, tensor, entry.role, "")
        return None if found is None else Deliberate(found.what, found.value)
    parts = {
        piece.name: _chosen(entry, spec, gather(tensor.detach(), piece), piece.role, piece.name)
        for piece in entry.slices
    }
    chosen = {name: found for name, found in parts.items() if found is not None}
    if not chosen:
        return None
    if len(chosen) == len(parts) and len({x.value for x in chosen.values()}) == 1:
        only = next(iter(chosen.values()))
        return Deliberate(only.what, only.value)
    what = "; ".join(f"of its {name.replace('_', ' ')}, {found.what}" for name, found in chosen.items())
    values = {name: found.value for name, found in chosen.items() if found.value is not None}
    return Deliberate(what, slices=values if len(values) == len(chosen) else {})


def _chosen(entry: ParamSpec, spec: ModelSpec, tensor: torch.Tensor, role: Role, part: str) -> Found | None:
    """The reading of a tensor (or of a packed part) that was set on purpose; None for what everybody starts from."""
    scale = role is Role.NORM_SCALE or (entry.role is Role.NORM_SCALE and role is not Role.NORM_SHIFT)
    centre = 1.0 - entry.offset if scale else 0.0
    found = look_at(tensor, centre)
    if scale and found.look is Look.STRUCTURED and look_at(tensor).look is Look.DRAWN:
        return None  # a table of a norm's scales as nn.Embedding draws it: nobody chose these either
    if found.look in (Look.BROKEN, Look.UNSEEN):
        return None
    if entry.role is Role.STATE:
        return None if _known_state(entry, tensor, found) else found
    if found.look is Look.CONSTANT:
        return None if found.value in _usual(entry, role, part, centre, scale) else found
    if found.look is Look.STRUCTURED:
        return found
    return _beyond_draws(entry, spec, tensor) if entry.role is Role.BIAS else None


def _usual(entry: ParamSpec, role: Role, part: str, centre: float, scale: bool) -> tuple[float, ...]:
    """Numbers that a tensor of this kind holds when nobody chose any."""
    if scale:
        return (centre,)
    if part == FORGET and entry.role is Role.BIAS:
        return _FORGET_VALUES
    offset = role in _OFFSETS or entry.role in _OFFSETS
    return (0.0,) if offset or (entry.role is Role.MODULATION and len(entry.shape) < 2) else ()


def _beyond_draws(entry: ParamSpec, spec: ModelSpec, tensor: torch.Tensor) -> Found | None:
    """A few numbers that torch's own draw of such a bias, U(±1/√fan_in), could not give, too few to show their own."""
    weight = weight_of_bias(entry, spec)
    if tensor.numel() >= _ENOUGH or weight is None or len(weight.shape) < 2:
        return None
    # Recurrent layers draw by their hidden size, which is the fan-out of a gate.
    fans = [math.prod(weight.shape[1:]), fans_of(weight).fan_in]
    if weight.role in (Role.RECURRENT_INPUT, Role.RECURRENT_HIDDEN):
        fans.append(fans_of(weight).fan_out)
    bound = 1 / math.sqrt(max(1.0, min(fans)))
    largest = float(tensor.detach().abs().max())
    if largest <= bound * (1 + _ROUNDING):
        return None
    return Found(Look.STRUCTURED, what=f"it reaches {largest:.3g}, where a plain draw ends at {bound:.3g}")


def _known_state(entry: ParamSpec, tensor: torch.Tensor, found: Found) -> bool:
    """Values that the rule for state-space layers would draw itself, or plain draws about zero that say nothing yet."""
    if found.look is Look.DRAWN:
        return True
    values = tensor.detach().float()
    if len(entry.shape) == 2:
        rates = torch.arange(1, entry.shape[1] + 1, dtype=torch.float32, device=values.device).log()
        return bool(torch.allclose(values, rates.expand_as(values), atol=1e-5))
    name = "mamba_dt_bias" if entry.activation == "softplus" else "mamba2_a_log"
    if found.look is Look.CONSTANT:
        return False
    declared = card_of(name).declare(entry.shape, fans_of(entry), 1.0, {})
    low, high = declared.low, declared.high
    return low is not None and high is not None and bool((values >= low - 1e-4).all() and (values <= high + 1e-4).all())


def _symmetric(spec: ModelSpec, found: Mapping[str, Deliberate]) -> list[str]:
    """Constant weights all whose fellows at their depth and at the next (or the one before) are constant, too.

    Units that compute the same and are read the same get the same gradient for ever: that is a fault, no choice. One
    constant layer before or behind a drawn one learns.
    """
    flat: dict[int, bool] = {}
    weights = [p for p in spec.fillable if is_weight(p) and p.depth > 0]
    for p in weights:
        constant = p.path in found and found[p.path].value is not None
        flat[p.depth] = flat.get(p.depth, True) and constant
    blocked = {d for d in flat if flat[d] and (flat.get(d + 1, False) or flat.get(d - 1, False))}
    return [p.path for p in weights if p.depth in blocked and p.path in found]


def _asleep(spec: ModelSpec, found: Mapping[str, Deliberate], params: Mapping[str, torch.Tensor]) -> list[str]:
    """Weights of zeros, without a bias, behind which the activation has no slope: no gradient ever gets to them."""
    biases = [p for p in spec.params if p.role is Role.BIAS and p.path in params and not params[p.path].is_meta]
    awake = {p.bias_of for p in biases if bool(params[p.path].any())}
    return [
        p.path
        for p in spec.fillable
        if is_weight(p)
        and p.path in found
        and found[p.path].value == 0
        and p.path not in awake
        and not learns_from_zero(p, spec)
    ]
