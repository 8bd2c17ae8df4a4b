"""Nothing of the user's is harmed: each guarded thing is disturbed under the guard and must come back."""

from __future__ import annotations

import itertools
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import initadvisor
from initadvisor.errors import InputError
from initadvisor.guard import preserve_model, preserve_process


class BoomError(Exception):
    pass


def is_flushing() -> bool:
    return bool((torch.tensor([1e-30]) * 1e-10 == 0).item())


PROCESS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "torch rng": (lambda: torch.get_rng_state().tolist(), lambda: torch.rand(3)),
    "numpy rng": (lambda: np.random.get_state()[1].tolist(), lambda: np.random.seed(3)),
    "python rng": (random.getstate, random.random),
    "default dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "subnormals": (is_flushing, lambda: torch.set_flush_denormal(not is_flushing())),
    "grad mode": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(not torch.is_grad_enabled())),
    "determinism": (
        torch.are_deterministic_algorithms_enabled,
        lambda: torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled()),
    ),
    "matrix products": (
        torch.get_float32_matmul_precision,
        lambda: torch.set_float32_matmul_precision("medium"),
    ),
    "warning filters": (lambda: list(warnings.filters), lambda: warnings.simplefilter("error", UnicodeWarning)),
    "a variable of the environment": (lambda: os.environ.get("GUARDED"), lambda: os.environ.update(GUARDED="1")),
    "a removed one": (lambda: os.environ.get("PATH"), lambda: os.environ.pop("PATH")),
    "numpy's errors": (np.geterr, lambda: np.seterr(over="raise")),
    "folder": (os.getcwd, lambda: os.chdir("/")),
    "signal handler": (
        lambda: signal.getsignal(signal.SIGTERM),
        lambda: signal.signal(signal.SIGTERM, lambda *_: None),
    ),
    "cudnn": (
        lambda: torch.backends.cudnn.benchmark,
        lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    ),
}


@pytest.mark.parametrize("error", [None, BoomError, KeyboardInterrupt])
@pytest.mark.parametrize("what", PROCESS)
def test_process_state_comes_back(what: str, error: type[BaseException] | None) -> None:
    read, disturb = PROCESS[what]
    before = read()
    try:
        with preserve_process():
            disturb()
            assert read() != before, "the test must disturb what it guards"
            if error:
                raise error
    except (BoomError, KeyboardInterrupt):
        pass
    assert read() == before


@pytest.mark.parametrize("flushing", [True, False])
def test_subnormal_mode_of_the_user_is_kept_either_way(flushing: bool) -> None:
    was = is_flushing()
    try:
        torch.set_flush_denormal(flushing)
        with preserve_process():
            torch.set_flush_denormal(not flushing)
        assert is_flushing() is flushing
    finally:
        torch.set_flush_denormal(was)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    model[2].eval()
    model(torch.randn(5, 3)).sum().backward()
    model[0].register_forward_hook(lambda *_: None)
    return model


def hooks(model: nn.Module) -> list[object]:
    return [list(v.items()) for m in model.modules() for k, v in sorted(vars(m).items()) if "hook" in k and v]


DISTURB: dict[str, Callable[[nn.Sequential], object]] = {
    "buffers": lambda m: m(torch.randn(50, 3) + 9),
    "training flag": lambda m: m.train(not m.training),
    "one flag": lambda m: m[2].train(),
    "requires_grad": lambda m: m[0].bias.requires_grad_(True),
    "grad replaced": lambda m: setattr(m[3].weight, "grad", torch.zeros(2, 4)),
    "grad cleared": lambda m: m.zero_grad(set_to_none=True),
    "grad in place": lambda m: m[3].weight.grad.zero_(),
    "weights": lambda m: m[3].weight.data.zero_(),
    "weight replaced": lambda m: setattr(m[3], "weight", nn.Parameter(torch.zeros(2, 4))),
    "new buffer": lambda m: m.register_buffer("extra", torch.zeros(1)),
    "new hook": lambda m: m[1].register_forward_hook(lambda *_: None),
    "removed hook": lambda m: m[0]._forward_hooks.clear(),
    "new child": lambda m: m.add_module("extra", nn.Linear(1, 1)),
    "cast": lambda m: m[1].running_mean.fill_(7),
}


def snapshot(model: nn.Sequential) -> dict[str, object]:
    return {
        "state": {k: v.tolist() for k, v in model.state_dict().items()},
        "ids": {k: id(v) for k, v in model.named_parameters()},
        "flags": [m.training for m in model.modules()],
        "requires": {k: v.requires_grad for k, v in model.named_parameters()},
        "grads": {k: None if v.grad is None else (id(v.grad), v.grad.tolist()) for k, v in model.named_parameters()},
        "hooks": hooks(model),
        "children": [n for n, _ in model.named_modules()],
    }


@pytest.mark.parametrize("error", [None, BoomError, KeyboardInterrupt])
@pytest.mark.parametrize("what", DISTURB)
def test_model_comes_back(what: str, error: type[BaseException] | None) -> None:
    model = make_model()
    before = snapshot(model)
    try:
        with preserve_model(model):
            DISTURB[what](model)
            assert snapshot(model) != before, "the test must disturb what it guards"
            if error:
                raise error
    except (BoomError, KeyboardInterrupt):
        pass
    assert snapshot(model) == before


def test_ctrl_c_while_things_are_put_back_waits() -> None:
    """Half restored would be worse than late."""
    model = make_model()
    before = snapshot(model)

    class Presses(dict):  # type: ignore[type-arg]
        """A table that is interrupted when it is looked at."""

        def __iter__(self) -> Iterator[Any]:
            signal.raise_signal(signal.SIGINT)
            return super().__iter__()

    table = Presses()
    with pytest.raises(KeyboardInterrupt), preserve_model(model, {"held": table, "model": model}):
        model[3].weight.data.zero_()
        dict.__setitem__(table, "new", 1)
    assert snapshot(model) == before


def test_what_a_loss_reaches_comes_back() -> None:
    critic, counts = make_model(), {"calls": 0}
    before = snapshot(critic)

    def loss(model: nn.Module) -> None:
        counts["calls"] += 1
        DISTURB["weights"](critic)
        DISTURB["new hook"](critic)

    with preserve_model(nn.Linear(1, 1), loss):
        loss(critic)
        assert counts["calls"] == 1
    assert counts == {"calls": 0}
    assert snapshot(critic) == before


def test_changing_tensors_keep_what_they_are_given() -> None:
    model = make_model()
    with preserve_model(model, changing=[model[0].weight]):
        model[0].weight.data.fill_(7)
        model[3].weight.data.fill_(7)
    assert bool((model[0].weight == 7).all())
    assert not bool((model[3].weight == 7).any())


@pytest.mark.parametrize("make", [lambda: iter([1]), lambda: (i for i in range(3)), lambda: itertools.cycle([1])])
def test_a_loss_that_reads_from_an_iterator_is_refused_by_name(make: Callable[[], Iterator[int]]) -> None:
    """Reading uses it up: the next real batch would be another one."""
    batches = make()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean() * next(batches)

    for call in (initadvisor.check, initadvisor.advise):
        with pytest.raises(InputError, match=r"loss\.batches is an iterator"):
            call(nn.Linear(3, 2), (torch.zeros(8, 3), torch.zeros(8, 2)), loss=loss)
    initadvisor.analyze(nn.Linear(3, 2), (torch.zeros(8, 3), torch.zeros(8, 2)), loss=loss)  # does not run it
    assert next(batches) in (0, 1)


def test_lazy_and_meta_models_pass_through() -> None:
    for model in (nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()), nn.Linear(3, 3, device="meta")):
        with preserve_model(model):
            pass
