"""`watch`, `run` and `try`: a training script as it is, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

import initadvisor.cli.options as options
from initadvisor.cli.outcome import ExitCode, complain, remark, tell_json
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
    app.command(
        name="try",
        context_settings=_AS_IS,
        epilog="""\b
Examples:
  initadvisor try -- python train.py --epochs 3
  initadvisor try --steps 20000 --out r.yaml -- python train.py
  initadvisor try --metric 'acc=Accuracy: ([0-9.]+)' --maximize -- python train.py
  initadvisor try --loss netG --scratch -- python gan.py""",
    )(try_)


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
    others: Annotated[
        list[Path] | None,
        typer.Option("--and", metavar="RECIPE", help="A recipe for another network; may be given several times."),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            "--network",
            metavar="NAME",
            help="The script's name for the network that is meant; a file r.NAME.yaml says it itself.",
        ),
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
            remark(f"{each.network}: {each.tensors} tensors filled{more}", quiet=quiet)

    named = [(recipe, network or _named_in(recipe)), *((file, _named_in(file)) for file in others or ())]
    return run_script(named, command or [], seed=seed or 0, tell=tell)


def _named_in(file: Path) -> str:
    """``netG`` of ``r.netG.yaml``."""
    parts = file.name.split(".")
    return parts[-2] if len(parts) > 2 else ""


def try_(
    command: Command = None,
    budget: options.Budget = None,
    steps: options.Steps = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME[=PATTERN]",
            help="Score what the script gives to initadvisor.report(NAME, value), or what it prints, by a pattern "
            "with one group. Without: the loss that is stepped on.",
        ),
    ] = None,
    maximize: Annotated[bool, typer.Option("--maximize", help="More of the metric is better.")] = False,
    loss: Annotated[
        str | None, typer.Option("--loss", metavar="NAME", help="Optimizer or network whose loss counts, of several.")
    ] = None,
    candidate: options.Candidates = None,
    seed: options.Seed = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time.")] = None,
    scratch: Annotated[bool, typer.Option("--scratch", help="Every run works in a copy of this folder.")] = False,
    storage: options.Storage = None,
    study_name: options.StudyName = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the recipe (YAML).", dir_okay=False)
    ] = None,
    html: options.Html = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> ExitCode:
    """Try initializations of a training script by running it as it is.

    Every run is the script in a process of its own, with a candidate's weights put in before its first step. It waits
    between the rungs of the race and is ended where it stops; nothing has to be written or edited.
    """
    from initadvisor.cli.advising import Outputs, recommends_nothing, tell_then_write
    from initadvisor.integrations.scripts.trying import try_script

    outputs = Outputs(out, html, as_json, quiet, no_color)
    files_tried(outputs.files(), inputs=[Path(word) for word in command or []])
    tried = try_script(
        command or [],
        metric=metric,
        maximize=maximize,
        loss=loss,
        steps=steps,
        budget="standard" if budget is None else options.read_budget(budget),
        candidates=candidate or None,
        seed=seed or 0,
        jobs=jobs,
        scratch=scratch,
        storage=storage,
        study_name=study_name,
        progress=not quiet,
        tell=lambda plan: remark(plan.text, quiet=quiet),
    )
    advice = tried.advice
    files: list[tuple[str, Path, Any]] = [] if html is None else [("report", html, advice.to_html)]
    kept = recommends_nothing(advice)
    recipes = {} if out is None or kept else _places(out, tried.recipes)
    files += [("recipe", file, tried.recipes[name].save) for name, file in recipes.items()]
    tell_then_write(advice.evidence, advice.recipe.to_yaml(), outputs, files)
    if kept:
        complain(f"{kept}; give it more: --budget standard, or a time such as --budget 5m")
        return ExitCode.NOTHING_TRIED
    if recipes:
        first, *others = recipes.values()
        more = "".join(f" --and {file}" for file in others)
        remark(f"run with it: initadvisor run {first}{more} -- {' '.join(command or [])}", quiet=quiet)
    return ExitCode.OK


def _places(out: Path, names: Iterable[str]) -> dict[str, Path]:
    """One file for one network; for several, one each, named after it."""
    several = list(names)
    return {name: out if len(several) == 1 else out.with_suffix(f".{name}{out.suffix}") for name in several}
