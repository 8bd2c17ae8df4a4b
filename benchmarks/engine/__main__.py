"""Time 32 members on every case, as a plain Optuna loop and through the engine, in one run.

    python -m benchmarks.engine [--only WORDS] [--repeats N] [--out benchmarks/engine/results/latest.json]

The plain loop is what a user would write: one candidate after another, torch's default threads. Both sides train the
same members for the same steps and score them once, at the end; the engine scores every draw untrained besides. Its
time holds everything: the probe that decides how to run, process starts, draws, scores. What of it does not grow with
the steps (``fixed``) is measured by the same members trained for a single step. Beside other programs the plain loop's
threads wait for each other at every operation, many times as long as alone; so its time on one thread is told, too:
where the two lie far apart, the machine was not quiet and the ratio says little.

The floor is the least time of the steps on all processors by the kernels torch has: matrix products at the rate of a
large one, tanh and its like at the rate of a warm cache, or, if that is longer, the traffic of the weights at the rate
of a large copy.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine.models import CASES, Case
from initadvisor.graph.spec import Coverage, ModelSpec
from initadvisor.training.engine.batched import batching_of, time_steps
from initadvisor.training.engine.engine import Engine, processors
from initadvisor.training.engine.loop import make_draw, trial_process
from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.stack import Stack
from initadvisor.training.engine.weights import NotBatchableError
from initadvisor.training.task import TrainingTask, make_task

MEMBERS = 32
GAINS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5)  # with the current weights: 8 schemes × 4 rates
RATES = (0.003, 0.005, 0.01, 0.02)
SHARE_SINGLE = 4  # the plain loop on one thread runs a part of the steps only: it is there for comparison
CHUNKS = (2, 4, 8, 16, 32, 64)
SPEC = ModelSpec((), (), 1, Coverage(0, 0), "benchmark")
aten = torch.ops.aten
TIMED = frozenset(
    {
        aten.tanh.default,
        aten.tanh_backward.default,
        aten.sigmoid.default,
        aten.sigmoid_backward.default,
        aten.gelu.default,
        aten.gelu_backward.default,
        aten._softmax.default,
        aten._softmax_backward_data.default,
    }
)
PASSES_OVER_WEIGHTS = 8  # read by forward and backward, gradient written and read, moment and weight read and written


class Xavier:
    def __init__(self, name: str, gain: float) -> None:
        self.name, self.gain = name, gain

    def apply(self, model: nn.Module, *, seed: int = 0, batch: Any = None, loss: Any = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    nn.init.xavier_normal_(p, self.gain, generator=generator)


SCHEMES = (Xavier("current", 1.0), *(Xavier(f"xavier × {g:g}", g) for g in GAINS))


def plain_loop(case: Case, task: TrainingTask, steps: int) -> float:
    """Seconds of the loop a user would write around Optuna."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_name = {s.name: s for s in SCHEMES}
    train = [b.raw for b in task.choosing.train]
    held = [b.raw for b in task.choosing.heldout]

    def objective(trial: optuna.Trial) -> float:
        scheme = by_name[trial.suggest_categorical("scheme", list(by_name))]
        rate = trial.suggest_categorical("lr", RATES)
        model = copy.deepcopy(task.model)
        if scheme.name != "current":
            scheme.apply(model, seed=0)
        optimizer = case.optimizer(model.parameters(), lr=rate)
        for step in range(steps):
            x, y = train[step % len(train)]
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            return sum(float(F.cross_entropy(model(x), y)) for x, y in held) / len(held)

    grid = {"scheme": list(by_name), "lr": list(RATES)}
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(grid, seed=0))
    began = time.perf_counter()
    study.optimize(objective, n_trials=MEMBERS)
    return time.perf_counter() - began


def through_engine(case: Case, task: TrainingTask, steps: int) -> tuple[float, float, str]:
    """Seconds of the same members through the engine, seconds its probe took of these, and what it chose."""
    states = [MemberState(MemberKey("rung", s.name, 0, lr)) for s in SCHEMES for lr in RATES]
    assert len(states) == MEMBERS
    with Engine(task, SCHEMES, SPEC) as engine:
        engine.measured = (-1,)
        began = time.perf_counter()
        engine.choose(0, MEMBERS * case.steps, MEMBERS)
        probed = time.perf_counter() - began
        done = [s for group in engine.advance(states, steps, (steps,)) for s in group]
        seconds = time.perf_counter() - began
        assert sorted(s.steps for s in done)[MEMBERS // 2] == steps
        return seconds, probed, engine.description


def chunk_sizes(task: TrainingTask) -> dict[str, float]:
    """Milliseconds per member and step of stacks of several sizes, on one thread."""
    found: dict[str, float] = {}
    with trial_process():
        try:
            batching = batching_of(task)
            draw = make_draw(task, SCHEMES[3], 0, None)
            for size in CHUNKS:
                rates = sorted(RATES[i % len(RATES)] for i in range(size))
                states = [MemberState(MemberKey("probe", draw.scheme, 0, rate)) for rate in rates]
                stack = Stack(task, batching, states, [draw.tensors] * size)
                found[str(size)] = 1e3 * time_steps(stack, 3)[0] / size
        except (NotBatchableError, RuntimeError) as error:
            found["reason: " + str(error).splitlines()[0][:100]] = 0.0
    return found


def machine() -> tuple[float, float]:
    """Floating-point operations per second and bytes per second of one processor, at its best."""
    with trial_process():
        a, big = torch.randn(768, 768), torch.randn(16 << 20)
        other = torch.empty_like(big)
        compute, copy_time = 1e9, 1e9
        for _ in range(8):
            began = time.perf_counter()
            a @ a
            compute = min(compute, time.perf_counter() - began)
            began = time.perf_counter()
            other.copy_(big)
            copy_time = min(copy_time, time.perf_counter() - began)
    return 2 * 768**3 / compute, 2 * big.numel() * 4 / copy_time


class Functions(TorchDispatchMode):
    """Seconds that the elementwise functions of a pass take at the least, by their rates in a warm cache."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._rates: dict[Any, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TIMED:
            self.seconds += args[0].numel() * self._rates.setdefault(
                func, seconds_per_element(func, args, kwargs or {})
            )
        return func(*args, **(kwargs or {}))


def seconds_per_element(func: Any, args: Any, kwargs: Any) -> float:
    count = 1 << 14
    plain = [torch.randn(count // 8, 8) if isinstance(a, torch.Tensor) else a for a in args]
    if func in (aten._softmax.default, aten._softmax_backward_data.default):
        plain = [0 if isinstance(a, int) and not isinstance(a, bool) else a for a in plain]
    best = 1e9
    for _ in range(20):
        began = time.perf_counter()
        func(*plain, **kwargs)
        best = min(best, time.perf_counter() - began)
    return best / count


def floor_of(task: TrainingTask, rates: tuple[float, float]) -> dict[str, float]:
    """Least milliseconds of one member's step on one processor: products, functions, and traffic of the weights.

    Counted on a stack of one where the model can be stacked: torch's counter does not know recurrent layers, the stack
    writes them out.
    """
    model = task.member()
    with trial_process(), FlopCounterMode(display=False) as counter, Functions() as functions:
        try:
            draw = make_draw(task, SCHEMES[0], 0, None)
            stack = Stack(
                task, batching_of(task), [MemberState(MemberKey("floor", "current", 0, RATES[0]))], [draw.tensors]
            )
            before, spent = counter.get_total_flops(), functions.seconds
            stack.step(0)
        except (NotBatchableError, RuntimeError):
            before, spent = counter.get_total_flops(), functions.seconds
            task.compute_loss(model, task.sample).backward()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "products": 1e3 * (counter.get_total_flops() - before) / rates[0],
        "functions": 1e3 * (functions.seconds - spent),
        "memory": 1e3 * PASSES_OVER_WEIGHTS * weights / rates[1],
    }


def measure(case: Case, rates: tuple[float, float], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    task = make_task(case.build(), case.data(), optimizer=case.optimizer, lr=RATES, steps=1000)
    plain, engine, probes, fixed, single, texts = [], [], [], [], [], []
    # In turns, so that whatever else the machine does meets both.
    for _ in range(repeats):
        plain.append(plain_loop(case, task, case.steps))
        seconds, probed, text = through_engine(case, task, case.steps)
        engine.append(seconds)
        probes.append(probed)
        texts.append(text)
        seconds, probed, _ = through_engine(case, task, 1)
        fixed.append(seconds - probed)
        with trial_process(threads=1):
            single.append(plain_loop(case, task, case.steps // SHARE_SINGLE))
    steps = MEMBERS * case.steps
    ratios = sorted(p / e for p, e in zip(plain, engine, strict=True))
    floor = {name: value / processors() for name, value in floor_of(task, rates).items()}
    return {
        "case": case.name,
        "steps": case.steps,
        "plain_seconds": plain,
        "engine_seconds": engine,
        "probe_seconds": probes,
        "fixed_seconds": fixed,
        "chosen": texts,
        "ratio": ratios[len(ratios) // 2],
        "ratios": ratios,
        "target": case.target,
        "plain_ms": 1e3 * min(plain) / steps,
        "plain_single_ms": 1e3 * min(single) * SHARE_SINGLE / steps,
        "engine_ms": 1e3 * min(engine) / steps,
        "floor_ms": floor,
        "chunk_ms": chunk_sizes(task),
    }


def table(results: list[dict[str, Any]]) -> str:
    heads = (
        "model",
        "plain loop, ms/step (one thread)",
        "engine, ms/step",
        "ratio (range)",
        "target",
        "probe + fixed, s of s",
        "floor, ms/step",
        "over floor",
    )
    lines = [
        "| " + " | ".join(heads) + " |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        floor = max(r["floor_ms"]["products"] + r["floor_ms"]["functions"], r["floor_ms"]["memory"])
        once = f"{min(r['probe_seconds']):.1f} + {min(r['fixed_seconds']):.1f} of {min(r['engine_seconds']):.1f}"
        spread = f"{r['ratio']:.1f}× ({r['ratios'][0]:.1f}–{r['ratios'][-1]:.1f})"
        lines.append(
            f"| {r['case']} | {r['plain_ms']:.2f} ({r['plain_single_ms']:.2f}) | {r['engine_ms']:.2f} | {spread} "
            f"| ≥ {r['target']:g}× | {once} | {floor:.2f} | {r['engine_ms'] / floor:.1f}× |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latest.json")
    parser.add_argument("--repeats", type=int, default=3, help="times each side is run, in turns")
    given = parser.parse_args()
    rates = machine()
    results: list[dict[str, Any]] = []
    for case in CASES:
        if given.only in case.name:
            results.append(measure(case, rates, given.repeats))
            print(json.dumps(results[-1]), flush=True)
    about = {
        "members": MEMBERS,
        "processors": processors(),
        "threads_of_the_plain_loop": torch.get_num_threads(),
        "gflops_per_processor": rates[0] / 1e9,
        "gigabytes_per_second": rates[1] / 1e9,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    print(json.dumps(about))
    print(table(results))


if __name__ == "__main__":
    main()
