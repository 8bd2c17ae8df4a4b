from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from initadvisor.training.schedule import Schedule, read_schedule

Make = Callable[[torch.optim.Optimizer], Any]


def warmup_cosine(optimizer: torch.optim.Optimizer) -> Any:
    rise = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=50)
    return lr_scheduler.SequentialLR(optimizer, [rise, lr_scheduler.CosineAnnealingLR(optimizer, 450)], [50])


@pytest.mark.parametrize(
    ("make", "warmup", "ends"),
    [
        (lambda o: lr_scheduler.LinearLR(o, 0.01, total_iters=100), 100, None),
        (warmup_cosine, 50, None),
        (lambda o: lr_scheduler.LambdaLR(o, lambda s: min(1.0, (s + 1) / 30)), 29, None),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 500), 0, None),
        (lambda o: lr_scheduler.StepLR(o, 10), 0, None),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o), 0, None),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=24), 6, 24),
        (lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=400, cycle_momentum=False), 0, None),
    ],
)
def test_warmups_and_ends_are_read(make: Make, warmup: int, ends: int | None) -> None:
    """A rise over most of the training is the training itself; a schedule that ends says after how many steps."""
    found = read_schedule(lambda lr: build(make, lr), 0.1, 500)
    assert (found.warmup, found.ends) == (pytest.approx(warmup, abs=1), ends)


def build(make: Make, lr: float) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    return optimizer, make(optimizer)


def test_as_many_steps_as_it_says_can_be_taken() -> None:
    found = read_schedule(lambda lr: build(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=24), lr), 0.1, 500)
    optimizer, scheduler = build(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=24), 0.1)
    assert found.ends is not None
    for _ in range(found.ends):
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match="step"):
        scheduler.step()


def test_every_group_is_held_at_its_own_peak() -> None:
    def two(lr: float) -> tuple[torch.optim.Optimizer, Any]:
        a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": lr / 10}], lr=lr)
        return optimizer, lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)

    found = read_schedule(two, 0.5, 200)
    assert found.held(3, 0.5) == pytest.approx((0.5, 0.05))
    assert found.held(20, 0.5) is None
    assert Schedule().held(0, 0.5) is None
