"""A reading without a batch: what module types alone tell. Fans and parts; no depth, neighbours or branches."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.graph.analyze import parameter_facts
from initadvisor.graph.layers import ATTENTION_MAPS, CONVOLUTIONS, NORMS, RECURRENT, layer_fans, layer_parts
from initadvisor.graph.roles import fingerprint_of, protection
from initadvisor.graph.spec import Confidence, Coverage, CoverageGap, ModelSpec, ParamSpec
from initadvisor.types import Fans, Role, Slice


@dataclass(frozen=True, slots=True)
class _Told:
    """What a module's type tells about one of its parameters."""

    role: Role
    op: str = ""
    fans: Fans | None = None
    slices: tuple[Slice, ...] = ()
    bias_of: str | None = None
    activation: str = "none"
    note: str = ""


_Telling = Iterator[tuple[str, _Told]]


def _mapped(module: nn.Module, name: str, role: Role, op: str, **more: Any) -> tuple[str, _Told]:
    """A tensor whose fans and parts its layer's type tells."""
    slices = tuple(
        Slice(part, dim, tuple(rows), Role(part) if role is Role.QKV else role, fans)
        for part, (dim, rows, fans) in layer_parts(module, name).items()
    )
    return name, _Told(role, op, None if role is Role.BIAS else layer_fans(module, name), slices, **more)


def _weight_and_bias(module: nn.Module, op: str) -> _Telling:
    yield _mapped(module, "weight", Role.HIDDEN, op)
    yield _mapped(module, "bias", Role.BIAS, op, bias_of="weight")


def _conv(module: nn.Module) -> _Telling:
    assert isinstance(module, CONVOLUTIONS)
    name = "conv_transpose" if module.transposed else "conv"
    return _weight_and_bias(module, f"{name}{len(module.kernel_size)}d")


def _linear(module: nn.Module) -> _Telling:
    return _weight_and_bias(module, "linear")


def _bilinear(module: nn.Module) -> _Telling:
    return _weight_and_bias(module, "bilinear")


def _embedding(module: nn.Module) -> _Telling:
    op = "embedding_bag" if isinstance(module, nn.EmbeddingBag) else "embedding"
    yield _mapped(module, "weight", Role.EMBEDDING, op)


def _norm(module: nn.Module) -> _Telling:
    yield "weight", _Told(Role.NORM_SCALE)
    yield "bias", _Told(Role.NORM_SHIFT)


def _prelu(module: nn.Module) -> _Telling:
    yield "weight", _Told(Role.ACTIVATION, "prelu")


def _recurrent(module: nn.Module) -> _Telling:
    kind = None
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        kind = "lstm"
    elif isinstance(module, (nn.GRU, nn.GRUCell)):
        kind = "gru"
    nonlinearity = getattr(module, "nonlinearity", "tanh") if kind is None else "none"
    op = kind or f"rnn_{nonlinearity}"
    for name, _ in module.named_parameters(recurse=False):
        stem, _, rest = name.partition("_")
        if name.startswith("weight_hr"):
            yield _mapped(module, name, Role.HIDDEN, op)
        elif stem == "weight":
            role = Role.RECURRENT_INPUT if rest.startswith("ih") else Role.RECURRENT_HIDDEN
            yield _mapped(module, name, role, op, activation=nonlinearity)
        else:
            yield _mapped(module, name, Role.BIAS, op, bias_of=f"weight_{rest}", activation=nonlinearity)


def _attention(module: nn.Module) -> _Telling:
    yield _mapped(module, "in_proj_weight", Role.QKV, "linear")
    for part in ATTENTION_MAPS:
        yield _mapped(module, f"{part[0]}_proj_weight", Role(part), "linear")
    packed = getattr(module, "in_proj_weight", None) is not None
    yield _mapped(module, "in_proj_bias", Role.BIAS, "linear", bias_of="in_proj_weight" if packed else "q_proj_weight")
    for name in ("bias_k", "bias_v"):
        yield name, _Told(Role.TOKEN, "cat")


_READERS: tuple[tuple[type | tuple[type, ...], Callable[[nn.Module], _Telling]], ...] = (
    (nn.Linear, _linear),
    (CONVOLUTIONS, _conv),
    (nn.Bilinear, _bilinear),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (NORMS, _norm),
    (RECURRENT, _recurrent),
    (nn.MultiheadAttention, _attention),
    (nn.PReLU, _prelu),
)


def _told(model: nn.Module) -> dict[str, _Told]:
    """What types tell, by parameter path; parametrised tensors under the names of their originals."""
    found: dict[str, _Told] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        reader = next((read for types, read in _READERS if isinstance(module, types)), None)
        if reader is None or any(is_lazy(p) for p in module.parameters(recurse=False)):
            continue
        dot = f"{prefix}." if prefix else ""
        for name, told in reader(module):
            told = replace(told, bias_of=None if told.bias_of is None else dot + told.bias_of)
            found[dot + name] = told
            if told.fans is not None:
                magnitude = _Told(
                    Role.NORM_SCALE,
                    told.op,
                    note="multiplies the weight it belongs to (the magnitude of a weight norm)",
                )
                original = f"{dot}parametrizations.{name}.original"
                found |= {original: told, f"{original}1": told, f"{original}0": magnitude}
                found |= {f"{dot}{name}_v": told, f"{dot}{name}_g": magnitude, f"{dot}{name}_orig": told}
    return found


def read_static(model: nn.Module) -> ModelSpec:
    """Read a model by its modules' types only, without running it.

    Weights of standard modules have the fans and parts that :func:`~initadvisor.graph.analyze.analyze` finds, with role
    ``hidden`` and confidence ``inferred``; what no standard module owns is ``unknown`` and named in the coverage.

    Args:
        model: any module; lazy parameters are unknown.

    Example:
        >>> spec = read_static(nn.Sequential(nn.Linear(8, 16), nn.LSTM(16, 4)))
        >>> spec["1.weight_hh_l0"].fan_in, [s.name for s in spec["1.weight_hh_l0"].slices][:2]
        (4.0, ['input_gate', 'forget_gate'])
    """
    told, facts = _told(model), parameter_facts(model)
    told = {path: replace(t, bias_of=_present(t.bias_of, facts)) for path, t in told.items()}
    first: dict[int, str] = {}
    params = []
    for path, parameter in model.named_parameters(remove_duplicate=False):
        original = first.setdefault(id(parameter), path)
        params.append(_param(path, told.get(path), facts[path].shape, None if original == path else original))
        params[-1] = replace(
            params[-1],
            dtype=facts[path].dtype,
            protected=protection(facts[path]),
            module_type=facts[path].module_type,
            torch_layer=facts[path].torch_layer,
            module_class=facts[path].module_class,
            layout=facts[path].layout,
        )
    found = tuple(params)
    own = [p for p in found if p.protected != "frozen" and p.tied_to is None]
    unknown = tuple(CoverageGap(p.path, p.module_type, p.note) for p in own if p.role is Role.UNKNOWN)
    coverage = Coverage(total=len(own), understood=len(own) - len(unknown), unknown=unknown)
    return ModelSpec(found, (), 0, coverage, fingerprint_of(found))


def _present(weight: str | None, paths: Container[str]) -> str | None:
    """The name under which a weight is kept: itself, or the original behind a parametrization."""
    if weight is None or weight in paths:
        return weight
    prefix, dot, name = weight.rpartition(".")
    originals = [f"{prefix}{dot}parametrizations.{name}.original{i}" for i in ("1", "")]
    return next((p for p in (*originals, f"{weight}_v", f"{weight}_orig") if p in paths), None)


def _param(path: str, told: _Told | None, shape: tuple[int, ...], tied_to: str | None) -> ParamSpec:
    if told is None:
        note = "no standard module owns it; a sample batch would show how it is used"
        return ParamSpec(
            path, shape, torch.float32, Role.UNKNOWN, tied_to=tied_to, confidence=Confidence.WEAK, note=note
        )
    certain = told.role in (Role.NORM_SCALE, Role.NORM_SHIFT, Role.BIAS, Role.ACTIVATION) and not told.note
    fans = told.fans
    return ParamSpec(
        path,
        shape,
        torch.float32,
        told.role,
        fan_in=0.0 if fans is None else fans.fan_in,
        fan_out=0.0 if fans is None else fans.fan_out,
        slices=told.slices,
        fans=fans,
        op=told.op,
        bias_of=told.bias_of,
        activation=told.activation,
        tied_to=tied_to,
        confidence=Confidence.CERTAIN if certain else Confidence.INFERRED,
        note=told.note or ("read from the module's type alone" if fans is not None else ""),
    )
