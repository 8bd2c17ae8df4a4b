"""What a generated ``init_weights`` does when it runs; its functions are copied into the generated code as they stand.

What they use of this package is copied with them, so that a path, a layer's fans or a class name mean there what they
mean here. It must need torch and the standard library alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from initadvisor.graph.layers import class_name, is_called, layer_fans, layer_of, layer_parts
from initadvisor.schemes.paths import matches
from initadvisor.schemes.rules.fills import FAN_FREE
from initadvisor.types import Fans


def stream(seed: int, path: str, part: str) -> torch.Generator:
    """One generator per tensor (and packed part), so that no layer's numbers depend on another."""
    digest = hashlib.sha256(f"{seed}/{path}/{part}".encode("utf-8", "surrogatepass")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def select(model: nn.Module, patterns: list[str], exclude: list[str]) -> list[str]:
    """First names of the trainable parameters that fit a pattern under any of their names."""
    names: dict[int, list[str]] = {}
    for path, param in model.named_parameters(remove_duplicate=False):
        if param.requires_grad and not getattr(param, "_no_reinit", False):
            names.setdefault(id(param), []).append(path)
    return [
        every[0]
        for every in names.values()
        if any(matches(p, n) for p in patterns for n in every)
        and not any(matches(p, n) for p in exclude for n in every)
    ]


def part_fans(fans: Fans, shape: tuple[int, ...], dim: int, spans: list[tuple[int, int]]) -> Fans:
    """Connection counts of a packed part that owns some rows."""
    share = sum(stop - start for start, stop in spans) / shape[dim]
    if dim == fans.out_dim:
        return Fans(fans.fan_in, fans.fan_out * share, fans.out_dim, fans.in_dim, fans.groups, fans.batch_dims)
    if dim == fans.in_dim:
        return Fans(fans.fan_in * share, fans.fan_out, fans.out_dim, fans.in_dim, fans.groups, fans.batch_dims)
    return fans


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
    override: bool = False,
    parts: dict[str, Any] | None = None,
    rows: dict[str, Any] | None = None,
    counts: dict[str, Fans] | None = None,
) -> None:
    """Note what fills the parameters that fit a pattern; a later rule may replace an earlier one where it says so.

    ``init`` None keeps them. ``parts`` gives packed parts an initializer of their own, ``counts`` their fans, ``rows``
    says where each lies: name -> (axis, [(start, stop), ...]).
    """
    layers = dict(model.named_modules(remove_duplicate=False))
    for path in select(model, patterns, list(exclude)):
        param, kind = model.get_parameter(path), class_name(type(layer_of(layers, path)[0]))
        if (modules and not any(is_called(kind, m) for m in modules)) or not min_dims <= param.ndim <= max_dims:
            continue
        if path in plan and not override:
            raise ValueError(f"{path} is filled by two rules; the later one does not say that it overrides")
        if init is None and not parts:
            plan[path] = None
            continue
        layer, name = layer_of(layers, path)
        told = layer_fans(layer, name) if layer is not None else None
        packed = layer_parts(layer, name) if layer is not None else {}
        own = fans if fans is not None else told
        drawn = []
        places = {} if whole else rows or {part: place[:2] for part, place in packed.items()}
        for part, (dim, spans) in places.items():
            part_counts = (counts or {}).get(part)
            if part_counts is None and rows is None and fans is None:
                part_counts = packed[part][2]
            if part_counts is None and own is not None:
                part_counts = part_fans(own, tuple(param.shape), dim, spans)
            drawn.append((part, dim, spans, (parts or {}).get(part, init), part_counts))
        known = {piece[0] for piece in drawn}
        for part in {**(parts or {}), **(counts or {})}:
            if part not in known:
                raise ValueError(f"{path}: which rows are {part} cannot be told; generate the code with a batch")
        plan[path] = (init, seed, path, param, own, drawn)


def fill(
    init: Callable[..., torch.Tensor] | None,
    shape: tuple[int, ...],
    fans: Fans | None,
    path: str,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> torch.Tensor:
    """One call of an initializer; fans that nobody knows may be missing only where it does not look at them."""
    if init is None:
        raise ValueError(f"{path}: a packed tensor is kept or filled as a whole")
    function: Any = getattr(init, "func", init)
    if fans is None and function.__name__ not in FAN_FREE:
        raise ValueError(f"{path}: its fans cannot be told from the layer alone; generate the code with a batch")
    return init(shape, fans or Fans(1.0, 1.0), generator=generator, dtype=dtype)


def draw(
    init: Callable[..., torch.Tensor] | None,
    seed: int,
    path: str,
    param: torch.Tensor,
    fans: Fans | None,
    parts: list[tuple[str, int, list[tuple[int, int]], Any, Fans | None]],
) -> torch.Tensor:
    """The value of one tensor: drawn whole, or part by part and laid into its rows."""
    shape, dtype = tuple(param.shape), param.dtype
    if not parts:
        return fill(init, shape, fans, path, stream(seed, path, ""), dtype)
    rows = sorted(span for _, _, spans, _, _ in parts for span in spans)
    dims = {dim for _, dim, _, _, _ in parts}
    edges = [0, *(stop for _, stop in rows)]
    if len(dims) > 1 or edges[:-1] != [start for start, _ in rows] or edges[-1] != shape[min(dims)]:
        raise ValueError(f"{path} {shape}: its parts do not cover it row by row")
    value = torch.empty(shape, dtype=dtype)
    for name, dim, spans, part_init, counts in parts:
        size = sum(stop - start for start, stop in spans)
        piece = fill(part_init, (*shape[:dim], size, *shape[dim + 1 :]), counts, path, stream(seed, path, name), dtype)
        offset = 0
        for start, stop in spans:
            value.narrow(dim, start, stop - start).copy_(piece.narrow(dim, offset, stop - start))
            offset += stop - start
    return value


def write_plan(model: nn.Module, plan: dict[str, Any]) -> None:
    """Draw and write what was planned; every trainable parameter must have been spoken for."""
    layers = dict(model.named_modules(remove_duplicate=False))
    written, kept = set(), False
    for path in select(model, ["**"], []):
        if path not in plan:
            raise ValueError(f"no rule fills {path}")
        if plan[path] is None:
            kept = True
            continue
        home, _, name = path.rpartition(".")
        module = layers[home]
        if layer_of(layers, path)[1] != name:
            raise ValueError(f"{path} is recomputed in the forward pass; use recipe.apply, which knows how to set it")
        value = draw(*plan[path])
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.padding_idx is not None:
            value[module.padding_idx] = 0
        param = model.get_parameter(path)
        param.copy_(value)
        written.add(id(param))
    kept = kept or any(id(p) not in written for p in model.parameters())
    for module in model.modules():
        own = [id(p) for p in module.parameters(recurse=False)]
        reset: Any = getattr(module, "reset_running_stats", None)
        if reset is not None and (written.issuperset(own) if own else not kept):
            reset()
