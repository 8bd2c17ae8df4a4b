"""Time 32 members on every case, as a plain Optuna loop and through the engine, in one run.

    python -m benchmarks.engine [--only WORDS] [--repeats N] [--out benchmarks/engine/results/latest.json]

The plain loop is what a user would write: one candidate after another, torch's default threads. Both sides train the
same members for the same steps and score them once. The floor is what the arithmetic or the memory traffic of the
steps takes at the rates this machine reaches in large products and copies on all its processors.
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
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine.models import CASES, Case
from initadvisor.graph.spec import Coverage, ModelSpec
from initadvisor.trials.batched import batching_of, step_seconds
from initadvisor.trials.engine import Engine, processors
from initadvisor.trials.loop import make_draw, trial_process
from initadvisor.trials.member import MemberKey, MemberState
from initadvisor.trials.stack import NotBatchableError
from initadvisor.trials.task import TrainingTask, make_task

MEMBERS = 32
GAINS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5)  # with the current weights: 8 schemes × 4 rates
RATES = (0.003, 0.005, 0.01, 0.02)
CHUNKS = (2, 4, 8, 16, 32, 64)
SPEC = ModelSpec((), (), 1, Coverage(0, 0), "benchmark")
PASSES_OVER_WEIGHTS = 8  # read by forward and backward, gradient written and read, moment and weight read and written


class Xavier:
    def __init__(self, name: str, gain: float) -> None:
        self.name, self.gain = name, gain

    def apply(self, model: nn.Module, *, seed: int = 0, batch: Any = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    nn.init.xavier_normal_(p, self.gain, generator=generator)


SCHEMES = (Xavier("current", 1.0), *(Xavier(f"xavier × {g:g}", g) for g in GAINS))


def plain_loop(case: Case, task: TrainingTask) -> float:
    """Seconds of the loop a user would write around Optuna."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_name = {s.name: s for s in SCHEMES}
    train = [b.raw for b in task.train]
    held = [b.raw for b in task.heldout]

    def objective(trial: optuna.Trial) -> float:
        scheme = by_name[trial.suggest_categorical("scheme", list(by_name))]
        rate = trial.suggest_categorical("lr", RATES)
        model = copy.deepcopy(task.model)
        if scheme.name != "current":
            scheme.apply(model, seed=0)
        optimizer = case.optimizer(model.parameters(), lr=rate)
        for step in range(case.steps):
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


def through_engine(case: Case, task: TrainingTask) -> tuple[float, float, str]:
    """Seconds of the same members through the engine, seconds its probe took, and what it chose."""
    states = [MemberState(MemberKey("rung", s.name, 0, lr)) for s in SCHEMES for lr in RATES]
    assert len(states) == MEMBERS
    with Engine(task, SCHEMES, SPEC) as engine:
        engine.measured = (-1,)
        began = time.perf_counter()
        engine.choose(0, 10**6)
        probed = time.perf_counter() - began
        began = time.perf_counter()
        done = [s for group in engine.advance(states, case.steps, (case.steps,)) for s in group]
        seconds = time.perf_counter() - began
        assert sorted(s.steps for s in done)[MEMBERS // 2] == case.steps
        return seconds, probed, engine.description


def chunk_sizes(task: TrainingTask) -> dict[str, float]:
    """Milliseconds per member and step of stacks of several sizes, on one thread."""
    found: dict[str, float] = {}
    with trial_process():
        try:
            batching = batching_of(task)
            draw = make_draw(task, SCHEMES[3], 0, None)
            for size in CHUNKS:
                states = [MemberState(MemberKey("probe", draw.scheme, 0, RATES[i % len(RATES)])) for i in range(size)]
                found[str(size)] = 1e3 * step_seconds(task, batching, states, [draw] * size, 3)[0] / size
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


def floor_of(task: TrainingTask, rates: tuple[float, float]) -> tuple[float, float]:
    """Least milliseconds of one member's step on one processor: by arithmetic and by memory traffic of the weights."""
    model = task.member()
    with FlopCounterMode(display=False) as counter:
        task.compute_loss(model, task.sample).backward()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return 1e3 * counter.get_total_flops() / rates[0], 1e3 * PASSES_OVER_WEIGHTS * weights / rates[1]


def measure(case: Case, rates: tuple[float, float], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    task = make_task(case.build(), case.data(), optimizer=case.optimizer, lr=RATES, steps=1000)
    plain, engine, probes, texts = [], [], [], []
    # In turns, so that whatever else the machine does meets both.
    for _ in range(repeats):
        plain.append(plain_loop(case, task))
        seconds, probed, text = through_engine(case, task)
        engine.append(seconds)
        probes.append(probed)
        texts.append(text)
    steps = MEMBERS * case.steps
    arithmetic, memory = floor_of(task, rates)
    ratios = sorted(p / e for p, e in zip(plain, engine, strict=True))
    return {
        "case": case.name,
        "steps": case.steps,
        "plain_seconds": plain,
        "engine_seconds": engine,
        "probe_seconds": probes,
        "chosen": texts,
        "ratio": ratios[len(ratios) // 2],
        "ratios": ratios,
        "target": case.target,
        "plain_ms": 1e3 * min(plain) / steps,
        "engine_ms": 1e3 * min(engine) / steps,
        "floor_arithmetic_ms": arithmetic / processors(),
        "floor_memory_ms": memory / processors(),
        "chunk_ms": chunk_sizes(task),
    }


def table(results: list[dict[str, Any]]) -> str:
    heads = (
        "model",
        "plain loop, ms/step",
        "engine, ms/step",
        "ratio (range)",
        "target",
        "floor, ms/step",
        "over floor",
    )
    lines = [
        "| " + " | ".join(heads) + " |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        floor = max(r["floor_arithmetic_ms"], r["floor_memory_ms"])
        spread = f"{r['ratio']:.1f}× ({r['ratios'][0]:.1f}–{r['ratios'][-1]:.1f})"
        lines.append(
            f"| {r['case']} | {r['plain_ms']:.2f} | {r['engine_ms']:.2f} | {spread} | ≥ {r['target']:g}× "
            f"| {floor:.2f} | {r['engine_ms'] / floor:.1f}× |"
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
