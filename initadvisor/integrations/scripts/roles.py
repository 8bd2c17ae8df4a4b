"""The work of a watched process, by what its command wants."""

from __future__ import annotations

from typing import Any

from initadvisor.integrations.scripts.messages import Task
from initadvisor.integrations.scripts.trialling import Running, Trialling
from initadvisor.integrations.scripts.watching import Watching


def role_of(agent: Any) -> Any:
    """What an agent does when the training tells it something."""
    return {Task.WATCH: Watching, Task.RUN: Running, Task.TRIAL: Trialling}[agent.job.task](agent)
