"""Small members of thirty families read as their own sources say; and nothing but the paths depends on incidentals."""

import importlib
import re
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import yaml
from describe import facts
from families import FAMILIES
from torch import nn

from initadvisor.data import map_tensors
from initadvisor.graph.analyze import analyze

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "facts.yaml").read_text(encoding="utf-8"))
QUICK = (
    "mlp",
    "plain_cnn",
    "unet",
    "mixer",
    "lstm_lm",
    "dit",
    "densenet",
    "dcgan_generator",
    "llama",
    "mixtral",
    "bert",
)
OWN = ("mlp", "siren", "plain_cnn", "unet", "mixer", "lstm_lm", "densenet", "dcgan_generator", "vae")


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


@pytest.mark.parametrize("name", QUICK)
def test_wrapping_changes_only_the_paths(name: str) -> None:
    model, batch, seen = _read(name)
    assert _without_prefix(facts(analyze(Wrapped(model), batch)), "something.else.") == seen


# torch's grouped product of experts has no float32 form on meta, so the bare model does not run there either.
@pytest.mark.parametrize("name", [n for n in QUICK if n != "mixtral"])
def test_meta_device_changes_nothing(name: str) -> None:
    _, _, seen = _read(name)
    with torch.device("meta"):
        model, batch = FAMILIES[name]()
    assert facts(analyze(model, batch)) == seen


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("change", ["batch size", "dtype", "evaluation"])
def test_incidentals_change_nothing(name: str, change: str) -> None:
    model, batch, seen = _read(name)
    if change == "dtype":
        model = model.double()
        batch = map_tensors(batch, lambda t: t.double() if t.is_floating_point() else t)
    elif change == "batch size":
        batch = map_tensors(batch, lambda t: torch.cat([t, t, t]))
    else:
        model = model.eval()
    assert facts(analyze(model, batch)) == seen


@pytest.mark.parametrize("name", ["mlp", "plain_cnn", "mixer", "densenet"])
def test_children_in_another_order_of_registration(name: str) -> None:
    model, batch, seen = _read(name)
    if isinstance(model, nn.Sequential):
        model = nn.Sequential(*model)  # order is meaning there: a copy of the container must do
    else:
        for child, module in reversed(list(model._modules.items())):
            del model._modules[child]
            model._modules[child] = module
    assert facts(analyze(model, batch)) == seen
