"""All tasks by name. :data:`TASKS` keeps the order they are trained in: round-robin over families, unseen ones last."""

from __future__ import annotations

from benchmarks.regret.task import Task, round_robin
from benchmarks.regret.tasks import attention, convolutional, dense, other, own_losses, recurrent, unseen

TASKS: dict[str, Task] = {}
_SUITE = (*dense.TASKS, *convolutional.TASKS, *recurrent.TASKS, *attention.TASKS, *other.TASKS)
for _task in (*round_robin(_SUITE), *round_robin((*unseen.TASKS, *own_losses.TASKS))):
    if _task.name in TASKS:
        raise ValueError(f'task "{_task.name}" is registered twice')
    TASKS[_task.name] = _task
