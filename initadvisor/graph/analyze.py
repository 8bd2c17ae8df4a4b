"""``analyze``: what one forward pass shows about every weight of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initadvisor.errors import AnalysisError, InputError
from initadvisor.graph.capture import capture, has_lazy
from initadvisor.graph.layers import class_name, layer_fans, layer_of, layer_parts, torch_layer
from initadvisor.graph.opgraph import OpGraph
from initadvisor.graph.roles import Facts, read_roles
from initadvisor.graph.spec import Layout, ModelSpec
from initadvisor.training.calls import trained_batch
from initadvisor.types import Role, Slice
from initadvisor.wrapped import unspread


def parameter_facts(model: nn.Module, graph: OpGraph | None = None) -> dict[str, Facts]:
    """What is known of every parameter without a forward pass, by path, tied names included.

    Args:
        model: any module.
        graph: where lazy parameters find the shapes they got.
    """
    owners = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        lazy: bool = is_lazy(parameter)
        if lazy:
            shape = () if graph is None else graph.values[graph.parameters[path]].shape
        else:
            shape = tuple(parameter.shape)
        kind = class_name(type(layer_of(owners, path)[0]))
        found[path] = Facts(
            shape=shape,
            dtype=parameter.dtype,
            requires_grad=parameter.requires_grad,
            quantized=bool(getattr(parameter, "is_quantized", False)),
            module_type=type(owners[path.rpartition(".")[0]]).__name__,
            torch_layer=torch_layer(kind),
            module_class=kind,
            layout=None if lazy else _layout(owners, path),
        )
    return found


def _layout(modules: Mapping[str, nn.Module], path: str) -> Layout | None:
    module, name = layer_of(modules, path)
    fans = layer_fans(module, name) if module is not None and name else None
    if module is None or fans is None:
        return None
    parts = layer_parts(module, name).items()
    roles = {r.value: r for r in Role}
    slices = (Slice(part, dim, tuple(rows), roles.get(part, Role.UNKNOWN), own) for part, (dim, rows, own) in parts)
    return Layout(fans, tuple(slices))


def require_trainable(model: Any) -> nn.Module:
    """The model itself, or what is inside a wrapper that spreads it over processes.

    Raises:
        InputError: it is no module, is scripted, has no parameter, or none that is trained.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}, not a torch.nn.Module; pass the module itself")
    scripted = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        where = f'module "{scripted[0]}"' if scripted[0] else type(model).__name__
        raise InputError(f"{where} is scripted, so its ops cannot be seen; pass the Python module it was made of")
    parameters = list(model.parameters())
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters; there is nothing to initialise")
    if not any(p.requires_grad for p in parameters):
        raise InputError(
            f"all {len(parameters)} parameters of {type(model).__name__} are frozen (requires_grad=False); "
            "there is nothing to initialise: unfreeze those to be trained"
        )
    return unspread(model)


def analyze(model: nn.Module, sample_batch: Any, *, loss: Callable[..., Any] | None = None) -> ModelSpec:
    """Read every weight of a model from one forward pass, without gradient.

    Nothing of the user's is changed: weights, buffers, flags, hooks, random states and the batch are afterwards what
    they were. On ``meta`` the pass costs no memory.

    Args:
        model: any ``nn.Module``, on any device.
        sample_batch: ``(x, y)``, a dict, or an iterable of such batches, of which the first is taken.
        loss: of the training. One of ``(model, batch)`` is run once, to see what it calls the model with; where it
            calls only methods and parts of it, all that leads to their results is read. Not on ``meta``.

    Returns:
        One :class:`~initadvisor.graph.spec.ParamSpec` per parameter name, the residual branches and the coverage.

    Raises:
        InputError: no module, nothing to train, or a batch the model does not take.
        AnalysisError: the forward pass failed; the model's own error is quoted.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> spec = analyze(net, (torch.zeros(4, 8), torch.zeros(4, dtype=torch.long)))
        >>> [(p.path, p.role.value, p.fan_in, p.activation) for p in spec.params if p.path.endswith("weight")]
        [('0.weight', 'input', 8.0, 'tanh'), ('2.weight', 'output', 16.0, 'none')]
        >>> spec.depth, spec.output_classes, spec.coverage.complete
        (2, 3, True)
    """
    model = require_trainable(model)
    batch = trained_batch(model, sample_batch, loss)
    return read(model, capture(model, batch))


def read(model: nn.Module, graph: OpGraph) -> ModelSpec:
    """Read every weight of a model from a pass that was recorded.

    Args:
        model: whose pass it was.
        graph: of the pass.

    Raises:
        AnalysisError: a parameter changed its name during the pass.
    """
    named = {} if has_lazy(model) else dict(model.named_parameters(remove_duplicate=False))

    def mean(path: str) -> float | None:
        parameter = named.get(path)
        if parameter is None or parameter.is_meta or not parameter.is_floating_point() or not parameter.numel():
            return None
        return float(parameter.detach().double().mean())

    facts = parameter_facts(model, graph)
    missing = [path for path in facts if path not in graph.parameters]
    if missing:
        raise AnalysisError(
            f'parameter "{missing[0]}" changed its name during the forward pass; analyse the model again'
        )
    return read_roles(graph, facts, mean)
