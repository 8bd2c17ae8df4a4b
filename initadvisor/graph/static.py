"""A reading without a batch: what module types alone tell. Fans and parts; no depth, neighbours or branches."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.graph.analyze import parameter_facts
from initadvisor.graph.roles import fingerprint_of, protection
from initadvisor.graph.spec import Confidence, Coverage, CoverageGap, ModelSpec, ParamSpec
from initadvisor.graph.uses import GATE_NAMES
from initadvisor.types import Fans, Role, Slice

_NORMS = (
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase, nn.LocalResponseNorm,
)  # fmt: skip
_CONVS = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_ATTENTION_PARTS = (Role.QUERY, Role.KEY, Role.VALUE)


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


def conv_fans(module: nn.modules.conv._ConvNd) -> Fans:
    """Fans of a convolution, transposed ones with their stride.

    Example:
        >>> f = conv_fans(nn.ConvTranspose1d(64, 16, 4, stride=2))
        >>> f.fan_in, f.fan_out
        (128.0, 64.0)
    """
    kernel, groups = math.prod(module.kernel_size), module.groups
    inputs, outputs = module.in_channels / groups, module.out_channels / groups
    if module.transposed:
        return Fans(inputs * kernel / math.prod(module.stride), outputs * kernel, 1, 0, groups)
    return Fans(inputs * kernel, outputs * kernel, 0, 1, groups)


def _weight_and_bias(role: Role, op: str, fans: Fans) -> _Telling:
    yield "weight", _Told(role, op, fans)
    yield "bias", _Told(Role.BIAS, op, bias_of="weight")


def _conv(module: nn.Module) -> _Telling:
    assert isinstance(module, _CONVS)
    name = "conv_transpose" if isinstance(module, _TRANSPOSED) else "conv"
    return _weight_and_bias(Role.HIDDEN, f"{name}{len(module.kernel_size)}d", conv_fans(module))


def _linear(module: nn.Module) -> _Telling:
    assert isinstance(module, nn.Linear)
    return _weight_and_bias(Role.HIDDEN, "linear", Fans(float(module.in_features), float(module.out_features)))


def _bilinear(module: nn.Module) -> _Telling:
    assert isinstance(module, nn.Bilinear)
    fans = Fans(float(module.in1_features * module.in2_features), float(module.out_features))
    return _weight_and_bias(Role.HIDDEN, "bilinear", fans)


def _embedding(module: nn.Module) -> _Telling:
    assert isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    op = "embedding_bag" if isinstance(module, nn.EmbeddingBag) else "embedding"
    yield "weight", _Told(Role.EMBEDDING, op, Fans(1.0, float(module.embedding_dim), 1, 0))


def _norm(module: nn.Module) -> _Telling:
    yield "weight", _Told(Role.NORM_SCALE)
    yield "bias", _Told(Role.NORM_SHIFT)


def _prelu(module: nn.Module) -> _Telling:
    yield "weight", _Told(Role.ACTIVATION, "prelu")


def _gate_slices(op: str, role: Role, fans: Fans, hidden: int) -> tuple[Slice, ...]:
    names = GATE_NAMES.get(f"{op}_layer", ())
    return tuple(Slice(n, 0, ((i * hidden, (i + 1) * hidden),), role, fans) for i, n in enumerate(names))


def _recurrent(module: nn.Module) -> _Telling:
    assert isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    hidden = module.hidden_size
    kind = None
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        kind = "lstm"
    elif isinstance(module, (nn.GRU, nn.GRUCell)):
        kind = "gru"
    nonlinearity = getattr(module, "nonlinearity", "tanh") if kind is None else "none"
    op = kind or f"rnn_{nonlinearity}"
    for name, parameter in module.named_parameters(recurse=False):
        stem, _, rest = name.partition("_")
        if name.startswith("weight_hr"):
            yield name, _Told(Role.HIDDEN, op, Fans(float(parameter.shape[1]), float(parameter.shape[0])))
            continue
        inputs = rest.startswith("ih")
        role = Role.RECURRENT_INPUT if inputs else Role.RECURRENT_HIDDEN
        if stem == "weight":
            fans = Fans(float(parameter.shape[1]), float(hidden))
            yield name, _Told(role, op, fans, _gate_slices(op, role, fans, hidden), activation=nonlinearity)
        else:
            weight = f"weight_{rest}"
            columns = float(module.get_parameter(weight).shape[1])
            slices = _gate_slices(op, Role.BIAS, Fans(columns, float(hidden)), hidden)
            yield name, _Told(Role.BIAS, op, slices=slices, bias_of=weight, activation=nonlinearity)


def _attention(module: nn.Module) -> _Telling:
    assert isinstance(module, nn.MultiheadAttention)
    width = module.embed_dim
    bias_of = "in_proj_weight" if module._qkv_same_embed_dim else "q_proj_weight"
    fans = Fans(float(width), float(width))
    names = [r.value for r in _ATTENTION_PARTS]
    ranges = [((i * width, (i + 1) * width),) for i in range(3)]
    packed = tuple(Slice(n, 0, r, role, fans) for n, r, role in zip(names, ranges, _ATTENTION_PARTS, strict=True))
    yield "in_proj_weight", _Told(Role.QKV, "linear", fans, packed)
    for role, size in zip(_ATTENTION_PARTS, (width, module.kdim, module.vdim), strict=True):
        yield f"{role.value[0]}_proj_weight", _Told(role, "linear", Fans(float(size), float(width)))
    yield (
        "in_proj_bias",
        _Told(Role.BIAS, "linear", slices=tuple(replace(s, role=Role.BIAS) for s in packed), bias_of=bias_of),
    )
    for name in ("bias_k", "bias_v"):
        yield name, _Told(Role.TOKEN, "cat")


_READERS: tuple[tuple[type | tuple[type, ...], Callable[[nn.Module], _Telling]], ...] = (
    (nn.Linear, _linear),
    (_CONVS, _conv),
    (nn.Bilinear, _bilinear),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (_NORMS, _norm),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
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
