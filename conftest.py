"""Workers of ``pytest -n`` share the processors: threads of several processes that wait for each other's are slow."""

import os

import torch

os.environ.setdefault("INITADVISOR_STRICT", "1")  # what would be worked around and logged is raised

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
