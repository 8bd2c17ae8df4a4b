"""Tries one architecture in a forked process of its own, under limits of time and memory, and says what came of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import time
import traceback
import warnings
from typing import Any

import torch

from benchmarks.coverage.entry import Entry
from initadvisor.errors import InitAdvisorError
from initadvisor.graph.analyze import analyze
from initadvisor.training.data import map_tensors, split_batch
from initadvisor.types import Role

_REPEATS = 3
_SLOW = 1.0
"""Seconds above which one timing is taken instead of three."""
_REASON = 240
_OWN_ERRORS = (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError)


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _median(call: Any) -> float:
    """Median of three timings, or a single one where that takes long."""
    first = _seconds(call)
    if first > _SLOW:
        return first
    return statistics.median([first, *(_seconds(call) for _ in range(_REPEATS - 1))])


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_REASON]


def attempt_all(entry: Entry) -> dict[str, Any]:
    """Run the first way of building and feeding the architecture that works, then analyse it."""
    reasons = []
    for device, build, batches in entry.attempts:
        try:
            model = build()
        except Exception as error:  # noqa: BLE001 - any failure to build is the architecture's own
            reasons.append(f"build: {_line(error)}")
            continue
        if not any(p.requires_grad for p in model.parameters()):
            reasons.append("no trainable parameter")
            continue
        for batch in batches(model):
            moved = map_tensors(batch, lambda t, d=device: t.to(d))
            try:
                read = split_batch(model, moved)
                with torch.no_grad():
                    read.call(model)
            except Exception as error:  # noqa: BLE001 - it does not run on this batch by itself
                reasons.append(f"forward: {_line(error)}")
                continue
            return _analysed(entry.name, device, model, read)
    return {"name": entry.name, "status": "not run", "reason": reasons[0] if reasons else "no batch fits"}


def _analysed(name: str, device: str, model: torch.nn.Module, batch: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"name": name, "device": device, "class": type(model).__name__}
    with torch.no_grad():
        bare = _median(lambda: batch.call(model))
    try:
        started = time.perf_counter()
        spec = analyze(model, batch)
        took = time.perf_counter() - started
    except InitAdvisorError as error:
        return result | {"status": "failed", "reason": _line(error)}
    except Exception as error:  # noqa: BLE001 - a bug of the analyser, told with its place
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119
        return result | {"status": "failed", "reason": f"{_line(error)} at {place}"}
    if took < _SLOW:
        took = statistics.median([took, *(_seconds(lambda: analyze(model, batch)) for _ in range(_REPEATS - 1))])
    roles: dict[str, int] = {}
    for p in spec.params:
        roles[p.role.value] = roles.get(p.role.value, 0) + 1
    trainable = [p for p in spec.params if p.role not in (Role.UNKNOWN, Role.UNUSED)]
    return result | {
        "status": "analysed",
        "parameters": spec.coverage.total,
        "unknown": [[g.path, g.op] for g in spec.coverage.unknown],
        "unused": len(spec.coverage.unused),
        "weak": len(spec.coverage.weak),
        "inferred": sum(p.confidence.value == "inferred" for p in trainable),
        "opaque": list(spec.coverage.opaque_ops),
        "depth": spec.depth,
        "branches": len(spec.branches),
        "residual_depth": spec.residual_depth,
        "roles": roles,
        "bare_seconds": bare,
        "analyze_seconds": took,
    }


def in_child(entry: Entry, *, seconds: int, gigabytes: float) -> dict[str, Any]:
    """The result of one architecture, whatever happens to the process that tries it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        warnings.simplefilter("ignore")
        limit = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(seconds)
        torch.manual_seed(0)
        try:
            result = attempt_all(entry)
        except BaseException as error:  # noqa: BLE001 - the child must always answer
            result = {"name": entry.name, "status": "not run", "reason": _line(error)}
        with os.fdopen(write_end, "w") as out:
            json.dump(result, out)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        return {"name": entry.name, "status": "not run", "reason": f"over {seconds} s or {gigabytes:g} GB"}
    found: dict[str, Any] = json.loads(text)
    return found
