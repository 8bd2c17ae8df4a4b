"""Small members of thirty families read as their own sources say; and nothing but the paths depends on incidentals."""

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import yaml
from describe import facts
from families import FAMILIES
from torch import nn

from initadvisor.graph.analyze import analyze, parameter_facts
from initadvisor.graph.capture import capture
from initadvisor.graph.opgraph import OpGraph
from initadvisor.graph.roles import read_roles
from initadvisor.training.data import first_batch, map_tensors

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "facts.yaml").read_text(encoding="utf-8"))
_SCATTERED = "a graph's edges are sorted by their values, and say where nodes are"
_GROUPED = "torch's grouped product of experts runs in one type, and on no meta tensors: the bare model does not either"
_LOOKS = "the model looks for padding among its input's values"
_TIED = "of tied tensors the first registered gives the name"

EXCEPT: dict[str, dict[str, str]] = {
    "wrapping": {},
    "evaluation": {},
    "meta": {"gpt2": _LOOKS}
    | dict.fromkeys(("gcn", "gat"), _SCATTERED)
    | dict.fromkeys(("mixtral", "deepseek_v3"), _GROUPED),
    "batch size": dict.fromkeys(("gcn", "gat"), _SCATTERED),
    "dtype": dict.fromkeys(("mixtral", "deepseek_v3"), _GROUPED),
    "registration": dict.fromkeys(("gpt2", "gemma2", "bert", "t5", "mamba", "lstm_lm"), _TIED),
    "names": {},
}
"""What may not change a reading, and for which families it cannot be tried."""


def _read(name: str) -> tuple[nn.Module, Any, dict[str, Any]]:
    torch.manual_seed(0)
    model, batch = FAMILIES[name]()
    return model, batch, facts(analyze(model, batch))


def test_every_family_is_in_the_table() -> None:
    assert set(TABLE) == set(FAMILIES)
    assert len(TABLE) >= 20


def test_every_family_names_the_classes_it_was_derived_from() -> None:
    """And they are still there: a library that moves them asks for the facts to be read again."""
    for name, told in TABLE.items():
        where, _, classes = told["source"].partition(": ")
        library, _, path = where.partition(", ")
        if library == "families.py":
            module: Any = families
        else:
            package, _, version = library.partition(" ")
            assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
            module = importlib.import_module(f"{package}.{path.removesuffix('.py').replace('/', '.')}")
        missing = [c for c in classes.split(", ") if not hasattr(module, c)]
        assert classes and not missing, f"{name}: {missing}"


@pytest.mark.parametrize("name", FAMILIES)
def test_facts(name: str) -> None:
    _, _, seen = _read(name)
    told = {k: v for k, v in TABLE[name].items() if k != "source"}
    assert seen["params"] == told["params"]
    assert seen == told


class Wrapped(nn.Module):
    """The same model under another name, called through another module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.something = nn.ModuleDict({"else": model})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.something["else"](*args, **kwargs)


def _without_prefix(value: Any, prefix: str) -> Any:
    if isinstance(value, str):
        return value.replace(prefix, "")
    if isinstance(value, list):
        return [_without_prefix(v, prefix) for v in value]
    if isinstance(value, dict):
        return {_without_prefix(k, prefix): _without_prefix(v, prefix) for k, v in value.items()}
    return value


def _registered_backwards(model: nn.Module) -> nn.Module:
    """The same modules, registered in the opposite order wherever order has no meaning."""
    for module in model.modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList)):
            for child, part in reversed(list(module._modules.items())):
                del module._modules[child]
                module._modules[child] = part
    return model


def _changed(name: str, change: str, model: nn.Module, batch: Any) -> tuple[nn.Module, Any]:
    if change == "wrapping":
        return Wrapped(model), batch
    if change == "evaluation":
        return model.eval(), batch
    if change == "registration":
        return _registered_backwards(model), batch
    if change == "dtype":
        return model.double(), map_tensors(batch, lambda t: t.double() if t.is_floating_point() else t)
    if change == "batch size":
        return model, map_tensors(batch, lambda t: torch.cat([t, t, t]))
    with torch.device("meta"):
        return FAMILIES[name]()


@pytest.mark.parametrize(
    ("name", "change"), [(n, c) for c, but in EXCEPT.items() for n in FAMILIES if c != "names" and n not in but]
)
def test_nothing_but_the_paths_changes(name: str, change: str) -> None:
    model, batch, seen = _read(name)
    found = facts(analyze(*_changed(name, change, model, batch)))
    assert (_without_prefix(found, "something.else.") if change == "wrapping" else found) == seen


@pytest.mark.parametrize("name", FAMILIES)
def test_names_are_not_asked(name: str) -> None:
    """Every part of every path another word: the recorded pass is read the same."""
    torch.manual_seed(0)
    model, batch = FAMILIES[name]()
    graph, known = capture(model, first_batch(model, batch)), parameter_facts(model)
    words: dict[str, str] = {}

    def renamed(path: str) -> str:
        return ".".join(words.setdefault(part, f"w{len(words)}") for part in path.split(".")) if path else path

    other = OpGraph(
        tuple(replace(op, module=renamed(op.module)) for op in graph.ops),
        tuple(replace(v, name=renamed(v.name)) for v in graph.values),
        graph.outputs,
        {renamed(p): v for p, v in graph.parameters.items()},
        {renamed(p): v for p, v in graph.buffers.items()},
        graph.input_count,
    )
    back = {new: old for old, new in words.items()}
    spec = read_roles(other, {renamed(p): replace(f, module_type="") for p, f in known.items()}, lambda _: None)
    restored = replace(
        spec,
        params=tuple(_paths_back(p, back) for p in spec.params),
        branches=tuple(_paths_back(b, back) for b in spec.branches),
    )
    assert facts(restored) == facts(read_roles(graph, known, lambda _: None))


def _paths_back(told: Any, back: dict[str, str]) -> Any:
    """A spec's entry with the words in its paths replaced by what they stood for."""

    def restored(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"\bw\d+\b", lambda m: back[m.group()], value)
        return tuple(restored(v) for v in value) if isinstance(value, tuple) else value

    named = ("path", "tied_to", "gate_partner", "bias_of", "branch_scale", "last", "last_norm", "scale", "params")
    return replace(told, **{n: restored(getattr(told, n)) for n in named if hasattr(told, n)})
