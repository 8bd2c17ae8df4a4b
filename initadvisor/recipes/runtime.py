"""What a generated ``init_weights`` does when it runs; its functions are copied into the generated code as they stand.

Hence nothing here may import anything but torch and the standard library. The layouts repeat, for torch's own layers,
what :mod:`initadvisor.graph.static` reads; a test holds the two together to the bit.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from initadvisor.types import Fans


def stream(seed: int, path: str, part: str) -> torch.Generator:
    """One generator per tensor (and packed part), so that no layer's numbers depend on another."""
    digest = hashlib.sha256(f"{seed}/{path}/{part}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def select(model: nn.Module, patterns: list[str], exclude: list[str]) -> list[str]:
    """First names of the trainable parameters that fit a pattern under any of their names."""

    def fits(pattern: str, path: str) -> bool:
        regex = ""
        for token in re.split(r"(\*\*|\*|\?|\{[^{}]*\})", pattern):
            span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", token)
            if span:
                regex += "(?:" + "|".join(str(n) for n in range(int(span[1]), int(span[2]) + 1)) + ")"
            elif token.startswith("{"):
                regex += "(?:" + "|".join(re.escape(item.strip()) for item in token[1:-1].split(",")) + ")"
            else:
                regex += {"**": ".*", "*": "[^.]*", "?": "[^.]"}.get(token, re.escape(token))
        return re.fullmatch(regex, path) is not None

    names: dict[int, list[str]] = {}
    for path, param in model.named_parameters(remove_duplicate=False):
        if param.requires_grad and not getattr(param, "_no_reinit", False):
            names.setdefault(id(param), []).append(path)
    return [
        every[0]
        for every in names.values()
        if any(fits(p, n) for p in patterns for n in every) and not any(fits(p, n) for p in exclude for n in every)
    ]


def where(model: nn.Module, path: str) -> tuple[torch.Tensor, nn.Module, str]:
    """A parameter, the module that owns it and its name there."""
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    return getattr(module, name), module, name


def layer_fans(module: nn.Module, name: str, shape: tuple[int, ...]) -> Fans:
    """Connection counts of a parameter by the torch layer that owns it; a bias has those of its weight."""
    weight = getattr(module, "weight", None)
    if len(shape) < 2 and name.startswith("bias") and isinstance(weight, torch.Tensor) and weight.ndim >= 2:
        shape = tuple(weight.shape)
    if len(shape) < 2:
        size = float(shape[0]) if shape else 1.0
        return Fans(size, size, in_dim=0)
    taps = math.prod(shape[2:])
    groups = int(getattr(module, "groups", 1))
    if getattr(module, "transposed", False):
        stride: Any = module.stride
        return Fans(shape[0] / groups * taps / math.prod(stride), float(shape[1] * taps), 1, 0, groups)
    return Fans(float(shape[1] * taps), shape[0] * taps / groups, groups=groups)


def part_fans(fans: Fans, shape: tuple[int, ...], dim: int, spans: list[tuple[int, int]]) -> Fans:
    """Connection counts of a packed part that owns some rows."""
    share = sum(stop - start for start, stop in spans) / shape[dim]
    if dim == fans.out_dim:
        return Fans(fans.fan_in, fans.fan_out * share, fans.out_dim, fans.in_dim, fans.groups, fans.batch_dims)
    if dim == fans.in_dim:
        return Fans(fans.fan_in * share, fans.fan_out, fans.out_dim, fans.in_dim, fans.groups, fans.batch_dims)
    return fans


def layer_parts(module: nn.Module, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Name, axis and rows of each map packed in a recurrent or attention layer of torch; empty where none is."""
    if isinstance(module, nn.MultiheadAttention) and name.startswith("in_proj"):
        names = ["query", "key", "value"]
    elif isinstance(module, (nn.LSTM, nn.LSTMCell)) and "_hr" not in name:
        names = ["input_gate", "forget_gate", "cell_gate", "output_gate"]
    elif isinstance(module, (nn.GRU, nn.GRUCell)):
        names = ["reset_gate", "update_gate", "new_gate"]
    else:
        return {}
    size = shape[0] // len(names)
    return {part: (0, [(k * size, (k + 1) * size)], None) for k, part in enumerate(names)}


def plan_rule(
    plan: dict[str, Any],
    model: nn.Module,
    seed: int,
    patterns: list[str],
    init: Callable[..., torch.Tensor] | None,
    *,
    exclude: tuple[str, ...] = (),
    modules: tuple[str, ...] = (),
    min_dims: int = 0,
    max_dims: int = 99,
    fans: Fans | None = None,
    whole: bool = False,
    parts: dict[str, Any] | None = None,
    rows: dict[str, Any] | None = None,
) -> None:
    """Note what fills the parameters that fit a pattern; a later rule replaces an earlier one.

    ``init`` None keeps them. ``parts`` gives packed parts an initializer of their own, ``rows`` says where each lies:
    name -> (axis, [(start, stop), ...], fans or None).
    """
    for path in select(model, patterns, list(exclude)):
        param, module, name = where(model, path)
        kind = type(module).__name__.removeprefix("Parametrized")
        if (modules and kind not in modules) or not min_dims <= param.ndim <= max_dims:
            continue
        own = fans if fans is not None else layer_fans(module, name, tuple(param.shape))
        places = {} if whole else dict(rows or layer_parts(module, name, tuple(param.shape)))
        drawn = []
        for part, (dim, spans, part_fan) in places.items():
            counts = part_fan if part_fan is not None else part_fans(own, tuple(param.shape), dim, spans)
            drawn.append((part, dim, spans, (parts or {}).get(part, init), counts))
        plan[path] = None if init is None and not parts else (init, seed, path, param, own, drawn)


def draw(
    init: Callable[..., torch.Tensor],
    seed: int,
    path: str,
    param: torch.Tensor,
    fans: Fans,
    parts: list[tuple[str, int, list[tuple[int, int]], Callable[..., torch.Tensor], Fans]],
) -> torch.Tensor:
    """The value of one tensor: drawn whole, or part by part and laid into its rows."""
    shape, dtype = tuple(param.shape), param.dtype
    if not parts:
        return init(shape, fans, generator=stream(seed, path, ""), dtype=dtype)
    value = torch.empty(shape, dtype=dtype)
    for name, dim, spans, part_init, counts in parts:
        size = sum(stop - start for start, stop in spans)
        part_shape = (*shape[:dim], size, *shape[dim + 1 :])
        piece = part_init(part_shape, counts, generator=stream(seed, path, name), dtype=dtype)
        offset = 0
        for start, stop in spans:
            value.narrow(dim, start, stop - start).copy_(piece.narrow(dim, offset, stop - start))
            offset += stop - start
    return value


def write_plan(model: nn.Module, plan: dict[str, Any]) -> None:
    """Draw and write what was planned; every trainable parameter must have been spoken for."""
    written = set()
    for path in select(model, ["**"], []):
        if path not in plan:
            raise ValueError(f"no rule fills {path}")
        if plan[path] is None:
            continue
        value = draw(*plan[path])
        param, module, _ = where(model, path)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.padding_idx is not None:
            value[module.padding_idx] = 0
        param.copy_(value)
        written.add(id(param))
    for module in model.modules():
        own = [id(p) for p in module.parameters(recurse=False)]
        reset: Any = getattr(module, "reset_running_stats", None)
        if reset is not None and own and written.issuperset(own):
            reset()
