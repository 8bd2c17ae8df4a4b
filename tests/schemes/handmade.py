"""Specs written by hand, so that rules and apply are tested without the analyzer."""

from __future__ import annotations

import torch
from torch import nn

from initadvisor.graph.spec import Branch, Coverage, ModelSpec, NormStyle, ParamSpec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.types import Fans, Role, Slice


def weight(path: str, shape: tuple[int, ...], role: Role = Role.HIDDEN, **more) -> ParamSpec:
    receptive = 1
    for size in shape[2:]:
        receptive *= size
    fans = more.pop("fans", Fans(float(shape[1] * receptive), float(shape[0] * receptive)))
    more.setdefault("op", "linear" if len(shape) == 2 else "conv2d")
    more.setdefault("module_type", "Linear" if len(shape) == 2 else "Conv2d")
    more.setdefault("torch_layer", more["module_type"])
    more.setdefault("module_class", f"torch.nn.{more['module_type']}")
    return ParamSpec(path, shape, torch.float32, role, fans.fan_in, fans.fan_out, fans=fans, **more)


def bias(path: str, size: int, of: str | None = None, **more) -> ParamSpec:
    more.setdefault("module_type", "Linear")
    more.setdefault("torch_layer", more["module_type"])
    more.setdefault("module_class", f"torch.nn.{more['module_type']}")
    return ParamSpec(path, (size,), torch.float32, Role.BIAS, bias_of=of, **more)


def norm(path: str, size: int, role: Role = Role.NORM_SCALE, **more) -> ParamSpec:
    return ParamSpec(
        path, (size,), torch.float32, role, module_type="LayerNorm", torch_layer="LayerNorm", op="layer_norm", **more
    )


def spec_of(*params: ParamSpec, branches: tuple[Branch, ...] = (), depth: int = 0, **more) -> ModelSpec:
    depth = depth or max((p.depth for p in params), default=0)
    return ModelSpec(tuple(params), branches, depth, Coverage(len(params), len(params)), "by-hand", **more)


def mlp(depth: int = 4, width: int = 32, activation: str = "tanh") -> tuple[nn.Sequential, ModelSpec]:
    layers: list[nn.Module] = []
    params = []
    for i in range(depth):
        last, first = i == depth - 1, i == 0
        out = 10 if last else width
        layers += [nn.Linear(width, out), *([] if last else [nn.Tanh()])]
        role = Role.INPUT if first else Role.OUTPUT if last else Role.HIDDEN
        path = f"{2 * i}.weight"
        params.append(
            weight(
                path,
                (out, width),
                role,
                depth=i + 1,
                activation="none" if last else activation,
                input_activation="none" if first else activation,
            )
        )
        params.append(bias(f"{2 * i}.bias", out, path, depth=i + 1))
    return nn.Sequential(*layers), spec_of(*params)


LSTM_GATES = ("input_gate", "forget_gate", "cell_gate", "output_gate")


def gates(
    size: int, columns: int, names: tuple[str, ...] = LSTM_GATES, role: Role = Role.RECURRENT_HIDDEN
) -> tuple[Slice, ...]:
    return tuple(
        Slice(n, 0, ((k * size, (k + 1) * size),), role, Fans(float(columns), float(size))) for k, n in enumerate(names)
    )


def lstm(size: int = 16, inputs: int = 8) -> tuple[nn.LSTM, ModelSpec]:
    params = []
    for stem, columns, role in (("ih", inputs, Role.RECURRENT_INPUT), ("hh", size, Role.RECURRENT_HIDDEN)):
        path = f"weight_{stem}_l0"
        params.append(
            weight(
                path,
                (4 * size, columns),
                role,
                fans=Fans(float(columns), float(size)),
                slices=gates(size, columns, role=role),
                op="lstm",
                module_type="LSTM",
                depth=1,
            )
        )
        params.append(
            bias(
                f"bias_{stem}_l0", 4 * size, path, slices=gates(size, 1, role=Role.BIAS), op="lstm", module_type="LSTM"
            )
        )
    order = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return nn.LSTM(inputs, size), spec_of(*sorted(params, key=lambda p: order.index(p.path)))


class PreNormBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def residual(blocks: int = 4, width: int = 16, style: NormStyle = NormStyle.PRE_NORM) -> tuple[nn.Module, ModelSpec]:
    """A residual MLP: stem, blocks, head."""
    model = nn.ModuleDict(
        {
            "stem": nn.Linear(width, width),
            "blocks": nn.ModuleList(PreNormBlock(width) for _ in range(blocks)),
            "head": nn.Linear(width, 4),
        }
    )
    params = [weight("stem.weight", (width, width), Role.INPUT, depth=1), bias("stem.bias", width, "stem.weight")]
    branches = []
    for i in range(blocks):
        p = f"blocks.{i}."
        params += [
            norm(p + "norm.weight", width, branch=i),
            norm(p + "norm.bias", width, Role.NORM_SHIFT, branch=i),
            weight(p + "up.weight", (2 * width, width), Role.MLP_IN, branch=i, activation="relu", depth=2 * i + 2),
            bias(p + "up.bias", 2 * width, p + "up.weight"),
            weight(
                p + "down.weight",
                (width, 2 * width),
                Role.MLP_OUT,
                branch=i,
                branch_last=True,
                input_activation="relu",
                depth=2 * i + 3,
            ),
            bias(p + "down.bias", width, p + "down.weight"),
        ]
        branches.append(Branch(i, (p + "up.weight", p + "down.weight"), 2, (p + "down.weight",), style=style))
    params += [
        weight("head.weight", (4, width), Role.OUTPUT, depth=2 * blocks + 2),
        bias("head.bias", 4, "head.weight"),
    ]
    return model, spec_of(*params, branches=tuple(branches), residual_depth=blocks)


def uniform_scheme(model: nn.Module, init: str = "normal", **args: float) -> Scheme:
    """One fill for everything, straight from the shapes."""
    assignments = []
    for path, p in model.named_parameters():
        fans = Fans(float(p.shape[-1]), float(p.shape[0]))
        part = Part(Fill(init, args=tuple(sorted(args.items()))), fans)
        assignments.append(Assignment(path, tuple(p.shape), (part,), "by_hand", "for the test"))
    return Scheme("by_hand", SchemeKind.TEXTBOOK, "for the test", tuple(assignments))
