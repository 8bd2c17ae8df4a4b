"""A model spec as lines a person can check against a model's source."""

from __future__ import annotations

from typing import Any

from initadvisor.graph.spec import Branch, Confidence, ModelSpec, ParamSpec


def _ranges(ranges: tuple[tuple[int, int], ...]) -> str:
    return "+".join(f"{a}-{b}" for a, b in ranges)


def _sibling(path: str) -> str:
    return path.rpartition(".")[0] + ".weight"


def param_line(p: ParamSpec) -> str:
    """Everything about one parameter but its path."""
    parts = [p.role.value]
    if p.fan_in:
        parts.append(f"{p.fan_in:g}>{p.fan_out:g}")
        if p.fans is not None and (p.fans.out_dim, p.fans.in_dim) != (0, 1):
            parts.append(f"axes={p.fans.out_dim},{p.fans.in_dim}")
        if p.fans is not None and p.fans.batch_dims:
            parts.append(f"each={','.join(map(str, p.fans.batch_dims))}")
    parts.append(f"d{p.depth}")
    if p.heads is not None:
        parts.append(f"heads={p.heads}")
    if p.activation != "none":
        parts.append("then=" + p.activation + "".join(f"({v:g})" for _, v in p.activation_args))
    if p.input_activation != "none":
        parts.append(f"behind={p.input_activation}")
    parts += [f"{key}={value}" for key, value in (("norm<", p.norm_before), ("norm>", p.norm_after)) if value]
    if p.branch is not None:
        parts.append(f"b{p.branch}" + ("!" if p.branch_last else ""))
    parts += [f"{s.name}[{s.dim}]:{_ranges(s.ranges)}" for s in p.slices]
    parts += [f"gate={p.gate_partner}"] if p.gate_partner else []
    parts += [f"of={p.bias_of}"] if p.bias_of not in (None, _sibling(p.path)) else []
    parts += [f"scale={p.branch_scale}"] if p.branch_scale else []
    parts += [f"tied={p.tied_to}"] if p.tied_to else []
    parts += [f"offset={p.offset:g}"] if p.offset else []
    parts += [p.protected] if p.protected else []
    parts += ["?"] if p.confidence is not Confidence.CERTAIN else []
    return " ".join(parts)


def branch_line(b: Branch) -> str:
    """Everything about one branch but its members."""
    parts = [b.style.value, f"length={b.length}", "last=" + ",".join(b.last)]
    parts += [f"norm={b.last_norm}"] if b.last_norm else []
    parts += [f"scale={b.scale}"] if b.scale else []
    parts += [f"times={b.constant:g}"] if b.constant != 1.0 else []
    parts += [f"beside={','.join(map(str, b.parallel))}"] if b.parallel else []
    return " ".join(parts)


def facts(spec: ModelSpec) -> dict[str, Any]:
    """The whole reading."""
    return {
        "depth": spec.depth,
        "residual_depth": spec.residual_depth,
        "classes": spec.output_classes,
        "branches": [branch_line(b) for b in spec.branches],
        "params": {p.path: param_line(p) for p in spec.params},
    }
