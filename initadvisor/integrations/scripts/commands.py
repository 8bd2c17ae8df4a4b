"""`watch` and `run` as functions: a command, what to do with it, what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from initadvisor.errors import InputError
from initadvisor.integrations.scripts.launch import Script, python_command
from initadvisor.integrations.scripts.messages import Filled, Filling, Job, Task, TrainingSeen
from initadvisor.recipes.recipe import load_recipe

WATCHED = 3
"""Steps that are watched: the first shows gradients and updates, three whether a schedule moves and the loss falls."""


@dataclass(frozen=True)
class Watched:
    """How a watched script ended.

    Attributes:
        seen: of its training; None where no optimizer took a step.
        code: its exit code.
    """

    seen: TrainingSeen | None
    code: int


def watch(
    words: Sequence[str],
    *,
    steps: int = WATCHED,
    stop: bool = False,
    propose: bool = True,
    tell: Callable[[TrainingSeen], None] = lambda seen: None,
) -> Watched:
    """Run a script as it is and see what it trains.

    Nothing of its run changes: the same seeds give the same losses to the bit, and after the watched steps every hook
    is gone.

    Args:
        words: the command, as typed: ``["python", "train.py", "--epochs", "3"]``.
        steps: of each optimizer that are watched.
        stop: end the script after these.
        propose: also name what the rules would try.
        tell: given what was seen while the script waits; it goes on when this returns.

    Raises:
        InputError: the command cannot be started.
    """
    command = python_command(words)
    script = Script(command, Job(Task.WATCH, steps, stop, propose))
    seen = None
    try:
        seen = script.receive()
        if isinstance(seen, TrainingSeen):
            tell(seen)
        script.answer(True)
        code = script.wait()
    except KeyboardInterrupt:
        # The script was interrupted by the same key, and decides for itself what that means.
        code = script.wait()
    finally:
        script.close()
    return Watched(seen, 1 if code is None else code)


def run(
    recipes: Sequence[tuple[Path, str]],
    words: Sequence[str],
    *,
    seed: int = 0,
    tell: Callable[[tuple[Filled, ...]], None] = lambda filled: None,
) -> int:
    """Run a script with a recipe put in before its first step.

    Args:
        recipes: files, each with the script's name for the network that is meant; ``""`` where it fits only one.
        words: the command, as typed.
        seed: of the draw.
        tell: given what was filled, before the first step.

    Returns:
        The script's exit code.

    Raises:
        RecipeError: the file is no recipe.
        InputError: the command cannot be started, or the recipe fits nothing that the script trains.
    """
    fillings = tuple(Filling(recipe=load_recipe(p).to_yaml(), network=name, seed=seed) for p, name in recipes)
    command = python_command(words)
    script = Script(command, Job(Task.RUN, fillings=fillings))
    try:
        filled = script.receive()
        if filled is None:
            code = script.wait()
            raise InputError(f"the script ended (exit code {code}) before an optimizer held anything that was called")
        faults = [f.fault for f in filled if f.fault]
        if faults:
            raise InputError(faults[0])
        tell(filled)
        script.answer(True)
        code = script.wait()
    except KeyboardInterrupt:
        code = script.wait()
    finally:
        script.close()
    return 1 if code is None else code
