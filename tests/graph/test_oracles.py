"""The reading of every family, and of vision designs written out, against what source or paper say by formula."""

from __future__ import annotations

import re

import pytest
import torch
from oracles import ORACLES, Oracle
from torch import nn
from vision import VISION
from vision_variants import VARIANTS

from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import ModelSpec
from initadvisor.types import Role

ALL = ORACLES | VISION | VARIANTS


def _norm_parameters(model: nn.Module) -> dict[str, str]:
    """Scales and shifts by the names of the classes that own them, which the analysis never asks."""
    found = {}
    for name, module in model.named_modules():
        if re.search(r"Norm(\dd)?$", type(module).__name__):
            roles = {"weight": "norm_scale", "bias": "norm_shift"}
            found |= {f"{name}.{p}".lstrip("."): roles[p] for p, _ in module.named_parameters(recurse=False)}
    return found


def _said(model: nn.Module, oracle: Oracle) -> dict[str, str]:
    """Role of every parameter of the model."""
    said = {path: w.role for path, w in oracle.weights.items()} | oracle.others | _norm_parameters(model)
    for path in dict(model.named_parameters(remove_duplicate=False)):
        stem, _, name = path.rpartition(".")
        if name == "bias" and f"{stem}.weight" in oracle.weights:
            said.setdefault(path, "bias")
    return said


@pytest.fixture(scope="module", params=ALL)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, ModelSpec, Oracle]:
    torch.manual_seed(0)
    (model, batch), oracle = ALL[request.param]()
    return model, analyze(model, batch), oracle


def test_roles_of_every_parameter(case: tuple[nn.Module, ModelSpec, Oracle]) -> None:
    model, spec, oracle = case
    assert {p.path: p.role.value for p in spec.params} == _said(model, oracle)
    assert {p.path: p.tied_to for p in spec.params if p.tied_to} == oracle.tied


def test_weights(case: tuple[nn.Module, ModelSpec, Oracle]) -> None:
    _, spec, oracle = case
    seen = {
        p: (s.fan_in, s.fan_out, s.activation, s.norm_before, s.heads, s.branch)
        for p, s in ((p, spec[p]) for p in oracle.weights)
    }
    assert seen == {
        p: (float(w.fan_in), float(w.fan_out), w.then, w.norm, w.heads, w.branch) for p, w in oracle.weights.items()
    }


def test_parts(case: tuple[nn.Module, ModelSpec, Oracle]) -> None:
    _, spec, oracle = case
    seen = {p: {s.name: sum(b - a for a, b in s.ranges) for s in spec[p].slices} for p in oracle.weights}
    assert seen == {p: w.parts or {} for p, w in oracle.weights.items()}
    for path in oracle.weights:
        for part in spec[path].slices:
            covered = {i for s in spec[path].slices for a, b in s.ranges for i in range(a, b)}
            assert len(covered) == spec[path].shape[part.dim], "every row in one part"


def test_branches_and_depth(case: tuple[nn.Module, ModelSpec, Oracle]) -> None:
    _, spec, oracle = case
    seen = [(b.style.value, b.length, b.last, b.last_norm, b.scale, b.parallel) for b in spec.branches]
    assert seen == oracle.branches
    assert (spec.depth, spec.residual_depth, spec.output_classes) == (
        oracle.depth, oracle.residual_depth, oracle.classes,
    )  # fmt: skip
    ending = {p.path for p in spec.params if p.branch_last and p.role not in (Role.BIAS, Role.NORM_SHIFT)}
    said = {x for _, _, last, norm, scale, _ in oracle.branches for x in (*last, norm, scale) if x}
    assert ending == said
    assert spec.coverage.complete


def test_biases_belong_to_their_weights(case: tuple[nn.Module, ModelSpec, Oracle]) -> None:
    _, spec, oracle = case
    for path in oracle.weights:
        bias = path.removesuffix("weight") + "bias"
        if bias in spec and spec[bias].role is Role.BIAS and spec[path].tied_to is None:
            assert spec[bias].bias_of == path
            assert spec[bias].branch == oracle.weights[path].branch
            assert spec[bias].activation == oracle.weights[path].then
