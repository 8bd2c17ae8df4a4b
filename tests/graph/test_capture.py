"""The recording: what is seen, what is left untouched, how a failing model is told."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from initadvisor.errors import AnalysisError, InputError
from initadvisor.graph.analyze import analyze
from initadvisor.graph.capture import capture
from initadvisor.graph.opgraph import OpGraph, Source
from initadvisor.training.data import Batch


class Calls(nn.Module):
    """A model made of one function."""

    def __init__(self, function: Callable[[nn.Linear, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer, x)


def record(function: Callable[[nn.Linear, torch.Tensor], torch.Tensor]) -> OpGraph:
    return capture(Calls(function), Batch((torch.randn(3, 4),)))


def ancestors(graph: OpGraph, value: int) -> set[int]:
    todo, seen = [value], set()
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            made = graph.producer(current)
            todo += list(made.inputs) if made is not None else []
    return seen


def reaches_output(graph: OpGraph) -> bool:
    weight = graph.parameters["layer.weight"]
    return any(weight in ancestors(graph, out) for out in graph.outputs)


def write_slice(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(3, 4)
    out[:, 1:3] = layer(x)[:, 1:3]
    return out


def write_through_view(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(3, 4)
    column = out[:, 0]
    column += layer(x)[:, 0]
    return out


def write_to_base(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(3, 4)
    view = out.view(12)
    out.add_(layer(x))
    return view * 2


def into_out(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    out = torch.empty(3, 4)
    torch.add(layer(x), 1, out=out)
    return out


def through_data(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return x @ layer.weight.data.T.contiguous().to(torch.float32)


def unpacked(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    first, *_ = layer(x)
    return first


@pytest.mark.parametrize(
    "function",
    [write_slice, write_through_view, write_to_base, into_out, through_data, unpacked],
    ids=lambda f: f.__name__,
)
def test_signal_is_followed(function: Callable[[nn.Linear, torch.Tensor], torch.Tensor]) -> None:
    assert reaches_output(record(function))


def test_only_the_outermost_call_is_recorded() -> None:
    graph = record(lambda layer, x: nn.functional.gelu(layer(x)) + 1)
    assert [op.name for op in graph.ops] == ["linear", "gelu", "add"]
    assert graph.ops[0].module == "layer" and graph.ops[1].module == ""


def test_a_dead_tensor_is_not_mistaken_for_its_successor() -> None:
    def many(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        for _ in range(50):
            torch.zeros(3, 4)  # dies at once, and its address is used again
        return torch.ones(3, 4) * 2

    assert not reaches_output(record(many))


def test_sources_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    graph = capture(model, Batch((torch.randn(3, 4),)))
    assert {v.name for v in graph.sources(Source.PARAMETER)} == set(dict(model.named_parameters()))
    assert {v.name for v in graph.sources(Source.BUFFER)} == set(dict(model.named_buffers()))


def _state(model: nn.Module) -> list[object]:
    return [
        [(k, v.clone()) for k, v in model.state_dict().items()],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    ]


def _same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(1), random.random(), np.random.rand()
            x.mul_(2)
            y = self.layer(self.norm(x))
            if fails:
                raise ValueError("as planned")
            return y

    model, x = Model(), torch.randn(5, 4)
    model.layer.weight.grad = torch.ones(2, 4)
    model.norm.eval()
    kept, before = x.clone(), _state(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    hooks = len(torch.nn.modules.module._global_forward_hooks)
    if fails:
        with pytest.raises(AnalysisError, match="ValueError: as planned"):
            analyze(model, x)
    else:
        analyze(model, x)
    assert _same(_state(model), before)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert len(torch.nn.modules.module._global_forward_hooks) == hooks


def test_lazy_model_stays_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(2))
    spec = analyze(model, torch.randn(3, 5))
    assert spec["0.weight"].shape == (6, 5) and spec["2.weight"].fan_in == 6
    assert nn.parameter.is_lazy(model[0].weight)


def test_a_failing_model_is_quoted_on_one_line() -> None:
    with pytest.raises(AnalysisError) as caught:
        analyze(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 2)), torch.randn(3, 4))
    message = str(caught.value)
    assert "\n" not in message and '"1"' in message and "shapes cannot be multiplied" in message


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(4, 4).requires_grad_(False)])
def test_nothing_to_train(model: nn.Module) -> None:
    with pytest.raises(InputError, match="nothing to initialise"):
        analyze(model, torch.randn(3, 4))


def test_compiled_model_runs_as_written() -> None:
    model = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), backend="eager")
    assert [p.activation for p in analyze(model, torch.randn(3, 4)).params] == ["tanh", "tanh"]


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return swish(x)


@pytest.mark.parametrize("function", [torch.jit.script(swish), Own.apply], ids=["scripted", "autograd function"])
def test_functions_with_an_inside_of_their_own_are_seen(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Calls(lambda layer, x: layer(function(layer(x))))
    spec = analyze(model, torch.randn(3, 4))
    assert spec.depth == 2
    assert {spec["layer.weight"].activation, spec["layer.weight"].input_activation} & {"silu"}
    assert torch.equal(function(torch.zeros(2)), torch.zeros(2))


def test_a_scripted_module_is_refused_clearly() -> None:
    with pytest.raises(InputError, match='module "0" is scripted'):
        analyze(nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 4)), torch.randn(3, 4))
