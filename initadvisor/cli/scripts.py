"""`watch`, `run` and `try`: a training script as it is, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import initadvisor.cli.options as options
from initadvisor.cli.outcome import ExitCode, remark, tell_json
from initadvisor.cli.places import files_tried
from initadvisor.files import write_text

Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- COMMAND", help="Your own command: python train.py --any args.", show_default=False),
]
_AS_IS = {"allow_interspersed_args": False}
"""What follows the first word that is no option is the user's command, options and all."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(
        context_settings=_AS_IS,
        epilog="""\b
Examples:
  initadvisor watch -- python train.py --epochs 3
  initadvisor watch --steps 1 -- python train.py
  initadvisor watch -- -m my.package.train""",
    )(watch)
    app.command(
        epilog="""\b
Examples:
  initadvisor run r.yaml -- python train.py --epochs 3
  initadvisor run g.yaml --network netG -- python gan.py""",
    )(run)


def watch(
    command: Command = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Watch so many steps and end the script then.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write what was seen (JSON).", dir_okay=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> int:
    """Run a training script as it is, and say how its training begins.

    Reads the networks it trains at their first step, with its own batch, loss and gradients: what check, analyze and
    the rules say of them. Then the script goes on untouched. What is told goes to standard error, what the script
    prints stays where it is.
    """
    from initadvisor.integrations.scripts.commands import WATCHED
    from initadvisor.integrations.scripts.commands import watch as watch_script
    from initadvisor.integrations.scripts.telling import headline, tell_training, training_json

    words = command or []
    files_tried({"--out": out}, inputs=[Path(word) for word in words])
    colour = sys.stderr.isatty() and not no_color

    def tell(seen: Any) -> None:
        if out is not None:
            import json

            write_text(out, json.dumps(training_json(seen), indent=2, allow_nan=False))
        if as_json:
            tell_json(training_json(seen))
        else:
            text = headline(seen) if quiet else tell_training(seen, command=words, colour=colour)
            print(f"\n{text}\n", file=sys.stderr, flush=True)

    watched = watch_script(words, steps=steps or WATCHED, stop=steps is not None, tell=tell)
    if watched.seen is None:
        remark("nothing was seen: no torch optimizer of this script took a step")
        return watched.code or ExitCode.BAD_INPUT
    return watched.code


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (YAML).", show_default=False)],
    command: Command = None,
    network: Annotated[
        str, typer.Option("--network", metavar="NAME", help="The script's name for the network that is meant.")
    ] = "",
    seed: options.Seed = None,
    quiet: options.Quiet = False,
) -> int:
    """Run a training script with a recipe put in before its first step.

    The weights are filled at the first call of a network that an optimizer holds; copies made of it before (averages,
    target networks) are made equal again. Then the script runs on untouched.
    """
    from initadvisor.integrations.scripts.commands import run as run_script

    def tell(filled: Any) -> None:
        for each in filled:
            more = f", and {each.copies} tensors that were copies of them" if each.copies else ""
            remark(f"{each.network}: {each.tensors} tensors filled by {recipe}{more}", quiet=quiet)

    return run_script(recipe, command or [], network=network, seed=seed or 0, tell=tell)
