"""Whatever a model and a loss do, everything of the user's is afterwards what it was: to the bit, by identity.

Models and losses are put together at random from parts that write where one does not expect it (`parts.py`), run
through every entry point, to the end, into an error and into Ctrl-C. What is compared is recorded without the
package's own means (`world.py`).
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import parts
import pytest
import torch
import world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import initadvisor

ROWS = 24


class BoomError(Exception):
    pass


def tiny(model: nn.Module, batch: Any, loss: Any) -> Any:
    return initadvisor.advise(
        model,
        batch,
        loss=loss,
        optimizer=torch.optim.SGD,
        lr=0.05,
        budget=40,
        candidates=["torch_default"],
        progress=False,
    )


def apply_current(model: nn.Module, batch: Any, loss: Any) -> Any:
    """A recipe that fills nothing."""
    current = initadvisor.propose(model, batch, loss=loss)[0]
    current.apply(model, batch=batch, loss=loss)


ENTRIES: dict[str, Callable[[nn.Module, Any, Any], Any]] = {
    "analyze": lambda model, batch, loss: initadvisor.analyze(model, batch, loss=loss),
    "check": lambda model, batch, loss: initadvisor.check(model, batch, loss=loss),
    "propose": lambda model, batch, loss: initadvisor.propose(model, batch, loss=loss),
    "apply": apply_current,
    "advise": tiny,
}


@dataclass(frozen=True)
class Case:
    """One model, one loss, one call, and where it fails."""

    names: tuple[str, ...]
    loss: str
    entry: str
    fails_at: int
    error: type[BaseException]
    training: bool
    with_gradients: bool

    def run(self) -> None:
        torch.manual_seed(0)
        calls: SimpleQueue[int] = SimpleQueue()  # no state of the model's: counted wherever a copy runs

        def fail() -> None:
            calls.put(1)
            if calls.qsize() == self.fails_at:
                raise self.error

        model = parts.Model(list(self.names), fail)
        loss = parts.LOSSES[self.loss](model)
        batch = (torch.randn(ROWS, parts.WIDTH), torch.randint(parts.CLASSES, (ROWS,)))
        if self.with_gradients and "lazy" not in self.names:
            with torch.random.fork_rng():
                copied = copy.deepcopy(model.head)
            copied(batch[0]).sum().backward()
            model.head.weight.grad = copied.weight.grad
        model.train(self.training)
        held = (model, loss, batch)
        before = world.record(held), world.process(), world.can_be_copied(model)
        ended = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ENTRIES[self.entry](model, batch, loss)
        except (initadvisor.InitAdvisorError, BoomError, KeyboardInterrupt) as error:
            ended = repr(error)
        after = world.record(held), world.process(), world.can_be_copied(model)
        assert difference(before[1], after[1]) == [], ended
        assert first_difference(before[0], after[0]) is None, ended
        assert before[2] == after[2], ended


def difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def first_difference(before: Any, after: Any, path: str = "") -> str | None:
    """Where two records differ first; None where they do not."""
    if type(before) is not type(after) or not isinstance(before, (tuple, list)) or len(before) != len(after):
        return None if before == after else f"{path}: {str(before)[:200]} -> {str(after)[:200]}"
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        label = f".{a[0]}" if isinstance(a, tuple) and a and isinstance(a[0], str) else f"[{index}]"
        if (found := first_difference(a, b, path + label)) is not None:
            return found
    return None


CASES = st.builds(
    Case,
    names=st.lists(st.sampled_from(sorted(parts.PARTS)), min_size=1, max_size=4).map(tuple),
    loss=st.sampled_from(sorted(parts.LOSSES)),
    # A race takes as long as twenty of the others.
    entry=st.sampled_from([name for name in sorted(ENTRIES) for _ in range(1 if name == "advise" else 5)]),
    fails_at=st.sampled_from([0] * 6 + [1, 2, 3, 5, 9, 30]),
    error=st.sampled_from([BoomError, KeyboardInterrupt]),
    training=st.booleans(),
    with_gradients=st.booleans(),
)

QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@given(case=CASES)
@settings(max_examples=30, deadline=None, suppress_health_check=QUIET)
def test_nothing_of_the_users_is_changed(case: Case) -> None:
    case.run()


@pytest.mark.slow
@given(case=CASES)
@settings(max_examples=2500, deadline=None, suppress_health_check=QUIET)
def test_nothing_of_the_users_is_changed_by_thousands(case: Case) -> None:
    case.run()


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("part", sorted(parts.PARTS))
def test_every_part_through_every_entry(part: str, entry: str) -> None:
    if entry == "advise" and part not in ("ActNorm", "OverParts", "Shadow", "Meddles"):
        pytest.skip("a few races are enough every day")
    Case((part,), "plain", entry, 0, BoomError, True, True).run()


@pytest.mark.parametrize("loss", sorted(parts.LOSSES))
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_loss_through_every_entry(loss: str, entry: str) -> None:
    Case(("linear", "tanh"), loss, entry, 0, BoomError, True, False).run()


@pytest.mark.parametrize("loss", ["plain", "teacher", "critic"])
def test_a_lazy_model_is_read_on_a_copy_that_shares_nothing(loss: str) -> None:
    """It cannot be run itself, for that would give its parameters their shapes; a deep copy shares its functions."""
    Case(("OverParts", "Holds", "lazy"), loss, "analyze", 0, BoomError, True, True).run()


def test_the_record_sees_what_it_is_there_to_see() -> None:
    """Each part and each loss leaves something behind when nobody guards it, but for those that change nothing."""
    silent = {"linear", "relu", "tanh", "Tied", "Nothing", "OverParts", "weight norm", "eval", "Global"}
    torch.manual_seed(0)
    for name in sorted(parts.PARTS):
        model = parts.Model([name], lambda: None)
        batch = (torch.randn(ROWS, parts.WIDTH), torch.randint(parts.CLASSES, (ROWS,)))
        held = (model, batch)
        before, process = world.record(held), world.process()
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(pytest.MonkeyPatch.context()).setenv("LANG", "C")
            with torch.no_grad():
                model(batch[0])
            changed = first_difference(before, world.record(held)) is not None
            changed = changed or bool(difference(process, world.process()))
        assert changed or name in silent, name
