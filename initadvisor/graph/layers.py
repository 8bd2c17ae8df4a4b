"""What torch's own layers tell of their tensors by their type alone: connection counts, and the maps packed in one.

A layer is torch's own where it is an instance of torch's class; a class of the same name from elsewhere tells nothing.
The functions are also copied into generated code, so that file, code and model agree to the bit; hence they need torch
and :class:`~initadvisor.types.Fans` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from initadvisor.types import Fans

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)

NORMS = (
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip

GATES = {
    "lstm": ("input_gate", "forget_gate", "cell_gate", "output_gate"),
    "gru": ("reset_gate", "update_gate", "new_gate"),
}
"""Gates of torch's recurrent layers, in the order in which their rows lie (torch.nn.LSTM, torch.nn.GRU)."""

ATTENTION_MAPS = ("query", "key", "value")
"""Maps of torch's attention, in the order in which their rows lie (torch.nn.MultiheadAttention)."""


def class_name(kind: type) -> str:
    """A module's class with the package it comes from; of a parametrized module the class that was parametrized.

    Example:
        >>> class_name(nn.Linear), class_name(type(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
        ('torch.nn.modules.linear.Linear', 'torch.nn.modules.linear.Linear')
    """
    if kind.__module__ == "torch.nn.utils.parametrize" and kind.__name__.startswith("Parametrized"):
        kind = kind.__mro__[1]
    return f"{kind.__module__}.{kind.__qualname__}"


def torch_layer(qualified: str) -> str:
    """The bare name of a class that is torch's own, empty for any other of whatever name.

    Example:
        >>> torch_layer("torch.nn.modules.linear.Linear"), torch_layer("mine.Linear")
        ('Linear', '')
    """
    return qualified.rpartition(".")[2] if qualified.startswith("torch.nn.") else ""


def is_called(qualified: str, wanted: str) -> bool:
    """Whether a class is the one that a recipe names.

    A dotted name is that very class. The bare name of a layer of torch's means torch's own, so that another library's
    ``Linear`` is not taken for it; any other bare name means a class of that name.

    Example:
        >>> is_called("torch.nn.modules.linear.Linear", "Linear"), is_called("mine.Linear", "Linear")
        (True, False)
        >>> is_called("mine.Linear", "mine.Linear"), is_called("mine.Block", "Block")
        (True, True)
    """
    if "." in wanted:
        return qualified == wanted
    return qualified.rpartition(".")[2] == wanted and (qualified.startswith("torch.") or not hasattr(nn, wanted))


def layer_of(modules: Mapping[str, nn.Module], path: str) -> tuple[nn.Module | None, str]:
    """The layer that a parameter belongs to, and the name there of the weight that it is or stands for.

    Of a weight that is recomputed (weight norm, spectral norm, any parametrization) it is the original that has the
    weight's shape; the name of a magnitude is empty, for no layer tells of it.

    Args:
        modules: of the model, by path.
        path: of the parameter.

    Example:
        >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)))
        >>> layer_of(dict(net.named_modules()), "0.parametrizations.weight.original1")[1]
        'weight'
    """
    home, _, name = path.rpartition(".")
    owner, marker, tensor = home.rpartition("parametrizations.")
    if marker:
        return modules.get(owner.removesuffix(".")), tensor if name in ("original", "original1") else ""
    module = modules.get(home)
    stem, _, kind = name.rpartition("_")
    recomputed = module is not None and stem not in module._parameters
    if kind in ("v", "g", "orig") and recomputed and isinstance(getattr(module, stem, None), torch.Tensor):
        return module, "" if kind == "g" else stem
    return module, name


def conv_fans(module: Any) -> Fans:
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


def layer_fans(module: nn.Module, name: str) -> Fans | None:
    """Fans of one of a layer's own tensors; of a packed one those of one part, of a bias those of its weight.

    Args:
        module: the layer.
        name: of the tensor in it.

    Returns:
        None where the type does not tell.

    Example:
        >>> layer_fans(nn.Linear(8, 16), "bias").fan_in, layer_fans(nn.LSTM(8, 4), "weight_ih_l0").fan_out
        (8.0, 4.0)
    """
    plain = name in ("weight", "bias")
    if isinstance(module, nn.Linear) and plain:
        return Fans(float(module.in_features), float(module.out_features))
    if isinstance(module, CONVOLUTIONS) and plain:
        return conv_fans(module)
    if isinstance(module, nn.Bilinear) and plain:
        return Fans(float(module.in1_features * module.in2_features), float(module.out_features))
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and plain:
        return Fans(1.0, float(module.embedding_dim), 1, 0)
    if isinstance(module, (*NORMS, nn.PReLU)) and plain:
        # One number for each feature, read by nothing else: as many connections as features, along no second axis.
        size = float(getattr(module, name).numel())
        return Fans(size, size, in_dim=0)
    if isinstance(module, RECURRENT):
        return recurrent_fans(module, name)
    if isinstance(module, nn.MultiheadAttention):
        return attention_fans(module, name)
    return None


def recurrent_fans(module: Any, name: str) -> Fans | None:
    """:func:`layer_fans` of a recurrent layer or cell."""
    kind, _, place = name.partition("_")
    weight = getattr(module, f"weight_{place}", None)
    if kind not in ("weight", "bias") or weight is None:
        return None
    # The projection of an LSTM is one map of its own; all others have the rows of each gate.
    rows = weight.shape[0] if place.startswith("hr") else module.hidden_size
    return Fans(float(weight.shape[1]), float(rows))


def attention_fans(module: Any, name: str) -> Fans | None:
    """:func:`layer_fans` of torch's attention."""
    width = float(module.embed_dim)
    sizes = {"q_proj_weight": width, "k_proj_weight": float(module.kdim), "v_proj_weight": float(module.vdim)}
    if name in ("in_proj_weight", "in_proj_bias"):
        return Fans(width, width)
    return Fans(sizes[name], width) if name in sizes else None


def layer_parts(module: nn.Module, name: str) -> dict[str, tuple[int, list[tuple[int, int]], Fans]]:
    """Maps packed in one of a layer's own tensors: name -> (axis, rows, fans); empty where none are.

    Example:
        >>> layer_parts(nn.GRU(8, 4), "bias_hh_l0")["new_gate"]
        (0, [(8, 12)], Fans(fan_in=4.0, fan_out=4.0, out_dim=0, in_dim=1, groups=1, batch_dims=()))
    """
    fans = layer_fans(module, name)
    names: tuple[str, ...] = ()
    if isinstance(module, nn.MultiheadAttention) and name in ("in_proj_weight", "in_proj_bias"):
        names = ATTENTION_MAPS
    elif isinstance(module, (nn.LSTM, nn.LSTMCell)) and "_hr_" not in name:
        names = GATES["lstm"]
    elif isinstance(module, (nn.GRU, nn.GRUCell)):
        names = GATES["gru"]
    if fans is None or not names:
        return {}
    size: Any = module.embed_dim if isinstance(module, nn.MultiheadAttention) else module.hidden_size
    return {part: (0, [(k * size, (k + 1) * size)], fans) for k, part in enumerate(names)}
