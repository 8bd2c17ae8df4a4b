"""Private names of torch and of Python: one file relies on them, and each is still there."""

from __future__ import annotations

import ast
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from initadvisor.private import (
    NAMES,
    executor_workers,
    frames_of_other_threads,
    hooks_of,
    owner_of,
    scripted_functions_seen,
    version_of,
)

PACKAGE = Path(__file__).parents[2] / "initadvisor"
LAST = {name.rpartition(".")[2] for name in NAMES}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_names_are_used_in_one_file(path: Path) -> None:
    if path.name == "private.py":
        return
    used = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert not used & (LAST - {"__call__"} | {"_processes", "_at_fork_reinit", "ScriptFunction"})


def test_each_still_gives_what_it_is_for() -> None:
    """Where this fails after an update, `initadvisor.private.NAMES` says what stands in for it."""
    t = torch.zeros(3, requires_grad=True)
    assert hooks_of(t) is None
    t.register_hook(lambda g: g)
    assert len(hooks_of(t)) == 1
    base = torch.zeros(3)
    assert owner_of(base[1:]) is base
    before = version_of(base)
    base[1:].add_(1)
    assert version_of(base) > before
    with torch.inference_mode():
        assert version_of(torch.zeros(1)) == -1
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2) as processes:
        assert (executor_workers(threads), executor_workers(processes)) == (3, 2)


def test_other_threads_are_seen() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        assert thread.ident in frames_of_other_threads()
        assert threading.get_ident() not in frames_of_other_threads()
    finally:
        go.set()
        thread.join()


def test_scripted_functions_are_seen_in_this_thread_alone() -> None:
    @torch.jit.script
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    del twice._torchdynamo_inline
    seen: list[object] = []
    original = torch._C.ScriptFunction.__call__
    with scripted_functions_seen(lambda args, kwargs, out: seen.append(out)):
        twice(torch.ones(1))
        thread = threading.Thread(target=twice, args=(torch.ones(1),))
        thread.start()
        thread.join()
    assert len(seen) == 1
    assert torch._C.ScriptFunction.__call__ is original
