"""How the suite runs: workers of ``pytest -n`` share the processors, tests that take minutes run where asked for."""

import os

import pytest
import torch

os.environ.setdefault("INITADVISOR_STRICT", "1")  # what would be worked around and logged is raised

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless it is asked for by its marker."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run it with -m slow"))
