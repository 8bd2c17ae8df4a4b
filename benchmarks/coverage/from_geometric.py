"""Convolutions and models of torch_geometric on a small random graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.coverage.entry import Entry

_NODES, _EDGES, _IN, _OUT = 12, 40, 8, 16
_SETTINGS: dict[str, Any] = {
    "in_channels": _IN, "out_channels": _OUT, "hidden_channels": 16, "channels": _IN, "num_layers": 2, "edge_dim": 4,
    "num_relations": 3, "num_bases": 2, "K": 2, "heads": 2, "dim": 3, "kernel_size": 2, "hidden_size": 16,
    "num_nodes": _NODES, "embedding_dim": 8, "num_features": _IN, "num_classes": 3, "num_heads": 2, "alpha": 0.1,
    "theta": 0.5, "layer": 1, "num_timesteps": 2, "channels_in": _IN, "channels_out": _OUT, "num_segments": 2,
    "nin": _IN, "nout": _OUT, "eps": 0.1, "space_dimensions": 3, "propagate_dimensions": 4, "k": 3,
    "aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.tensor([0, 4, 4, 4]), "order": 2,
    "num_units": 8, "num_bilinear": 4, "num_spherical": 3, "num_radial": 4, "depth": 2, "pool_ratios": 0.5,
    "act": "relu", "dropout": 0.0, "nhead": 2, "walk_length": 2, "size": 8, "num_stages": 1,
}  # fmt: skip


def _graph(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(_NODES, (2, _EDGES), generator=generator)
    return {
        "x": torch.randn(_NODES, _IN, generator=generator),
        "edge_index": edges,
        "pos": torch.randn(_NODES, 3, generator=generator),
        "batch": torch.zeros(_NODES, dtype=torch.long),
        "edge_attr": torch.randn(_EDGES, 4, generator=generator),
        "edge_weight": torch.rand(_EDGES, generator=generator),
        "edge_type": torch.randint(3, (_EDGES,), generator=generator),
        "pseudo": torch.rand(_EDGES, 3, generator=generator),
        "norm": torch.randn(_NODES, 3, generator=generator),
        "x_0": torch.randn(_NODES, _IN, generator=generator),
        "z": torch.randint(1, 9, (_NODES,), generator=generator),
        "h": torch.randn(_NODES, _IN, generator=generator),
        "hyperedge_index": torch.stack([edges[0], edges[1] % 5]),
        "pos_edge_index": edges[:, :20],
        "neg_edge_index": edges[:, 20:],
    }


def _build(cls: type[nn.Module]) -> nn.Module:
    """The class with settings of usual names; inner networks where it asks for one."""
    parameters = inspect.signature(cls.__init__).parameters
    settings = {}
    for name, parameter in list(parameters.items())[1:]:
        required = parameter.default is inspect.Parameter.empty
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name in ("nn", "net", "mlp", "local_nn", "global_nn", "node_model") and required:
            settings[name] = nn.Sequential(nn.Linear(_inner_width(cls), 16), nn.ReLU(), nn.Linear(16, _inner_out(cls)))
        elif name in _SETTINGS and (required or name == "edge_dim"):
            settings[name] = _SETTINGS[name]
    model = cls(**settings)
    return model.train()


def _inner_width(cls: type[nn.Module]) -> int:
    widths = {"EdgeConv": 2 * _IN, "DynamicEdgeConv": 2 * _IN, "NNConv": 4, "ECConv": 4}
    return widths.get(cls.__name__, _IN)


def _inner_out(cls: type[nn.Module]) -> int:
    return _IN * _OUT if cls.__name__ in ("NNConv", "ECConv") else _OUT


def _batches(model: nn.Module) -> Iterator[Any]:
    data = _graph()
    parameters = inspect.signature(model.forward).parameters
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    required = {n for n in names if parameters[n].default is inspect.Parameter.empty}
    optional = [n for n in ("edge_attr", "edge_weight", "edge_type", "pos", "batch", "x_0") if n in names]
    choices = (required, required | set(optional), *(required | {n} for n in optional))
    for chosen in choices:
        kwargs = {n: data[n] for n in names if n in chosen and n in data}
        if required <= set(kwargs):
            yield kwargs
            if "edge_weight" in kwargs and "edge_attr" in kwargs:
                yield {k: v for k, v in kwargs.items() if k != "edge_weight"}


def _maker(cls: type[nn.Module]) -> Callable[[], nn.Module]:
    return lambda: _build(cls)


def entries() -> list[Entry]:
    """All convolutions, and all models that are modules."""
    import torch_geometric.nn as geometric
    from torch_geometric.nn import conv, models

    found = []
    for module, names in ((conv, conv.__all__), (models, models.__all__)):
        for name in names:
            cls = getattr(module, name, None) or getattr(geometric, name, None)
            if isinstance(cls, type) and issubclass(cls, nn.Module):
                found.append(Entry(f"geometric/{name}", (("cpu", _maker(cls), _batches),)))
    return found
