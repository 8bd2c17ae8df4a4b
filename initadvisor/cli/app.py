"""What the user types: commands, their help, and one place where every error becomes one line and an exit code."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import initadvisor.cli.options as options
import initadvisor.cli.scripts as scripts
from initadvisor.cli.outcome import EXIT_CODES, PROGRAM, ExitCode, ReaderGone, complain, message_of, tell
from initadvisor.cli.settings import find_pyproject, read_defaults, working_folder
from initadvisor.cli.signals import Signals, silence
from initadvisor.errors import InitAdvisorError, nearest
from initadvisor.plaintext import plain

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The command-line parser's own complaint; its module is private in some versions, this base is not."""

app = typer.Typer(
    name=PROGRAM,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help reads well piped and at 60 columns
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"""\b
Start here:
  initadvisor new train_target.py
  initadvisor check train_target.py
  initadvisor advise train_target.py --out r.yaml

\b
A target is a file or module that gives (model, data):
  def target():
      return MyModel(), my_dataloader

{EXIT_CODES}

Defaults can stand in pyproject.toml under [tool.initadvisor]
(budget = "fast") or [tool.initadvisor.advise].""",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from initadvisor import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit()


WELCOME = f"""\
{PROGRAM}: how should I initialise this network?

Of a training script as it is:
  {PROGRAM} watch -- python train.py   what it trains, and how it begins

Or write your training down once, as a file that gives the model and its data:
  {PROGRAM} new train_target.py      a commented one that runs as it is
  {PROGRAM} check train_target.py    what is wrong with the weights now
  {PROGRAM} advise train_target.py   what to use instead, by short trainings

In Python it is one call: initadvisor.advise(model, batch)

Commands:
"""
"""What to do first, for a person who typed the program's name and nothing else."""


def _welcome(context: typer.Context) -> str:
    """How to begin, and every command in one line."""
    group: Any = context.command
    width = max(map(len, group.commands))
    lines = [f"  {name:<{width}}  {command.get_short_help_str(58)}" for name, command in group.commands.items()]
    return WELCOME + "\n".join(lines) + f"\n\n{PROGRAM} COMMAND --help tells more, with examples."


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How should I initialise this network?

    Reads a PyTorch model's graph, proposes initializers, tries them in short trainings and says what to use, or that it
    does not matter.
    """
    if context.invoked_subcommand is None:
        tell(_welcome(context))
        return
    file = find_pyproject(working_folder())
    if file is not None:
        context.default_map = read_defaults(file, _options_of_commands(context))


def _options_of_commands(context: typer.Context) -> dict[str, dict[str, bool]]:
    """Name of each command -> name of each option -> whether it may be given several times."""
    group: Any = context.command
    return {
        name: {p.name: bool(p.multiple) for p in command.params if p.param_type_name == "option" and p.name}
        for name, command in group.commands.items()
    }


@app.command(
    epilog="""\b
Examples:
  initadvisor new train_target.py
  initadvisor new train_target.py --kind language"""
)
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it (.py).", show_default=False)],
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="classifier, regression or language.")
    ] = "classifier",
    quiet: options.Quiet = False,
) -> None:
    """Write a target to begin with.

    A commented Python file with a small model and data of its own; it runs as it is. Put your model and data in.
    """
    from initadvisor.cli.beginning import run_new

    run_new(file, kind=kind, quiet=quiet)


@app.command(
    epilog="""\b
Examples:
  initadvisor advise examples/digits_mlp.py
  initadvisor advise train.py:build --lr 0.01,0.1 --out r.yaml
  initadvisor advise my.package:build --budget 5m
  initadvisor advise train.py --storage sqlite:///study.db
  initadvisor advise train.py --json > advice.json"""
)
def advise(
    target: options.TargetText,
    budget: options.Budget = None,
    lr: options.Rate = None,
    steps: options.Steps = None,
    candidate: options.Candidates = None,
    protect: options.Protect = None,
    seed: options.Seed = None,
    device: options.Device = None,
    storage: options.Storage = None,
    study_name: options.StudyName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and for how long, then stop.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the recipe (YAML).")] = None,
    html: options.Html = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> ExitCode:
    """Try initializations, say which to use and why.

    Candidates are trained for a few steps each, the better ones go on, and the leader is held against the weights as
    they are. A budget in words is a share of one full training (--steps), or what its seconds buy.
    Flags win over what the target gives. Ctrl-C stops the trials and gives the advice that the finished ones allow.
    """
    from initadvisor.cli.advising import Outputs, run_advise, run_dry

    given = {
        "budget": None if budget is None else options.read_budget(budget),
        "lr": None if lr is None else options.read_rate(lr),
        "steps": steps,
        "candidates": tuple(candidate) if candidate else None,
        "protect": list(protect) if protect else None,
        "seed": seed,
        "device": device,
        "storage": storage,
        "study_name": study_name,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    if dry_run:
        return run_dry(target, overrides)
    return run_advise(target, overrides, Outputs(out, html, as_json, quiet, no_color))


@app.command(
    epilog="""\b
Examples:
  initadvisor analyze examples/char_lm.py
  initadvisor analyze train.py:build --full
  initadvisor analyze train.py --json"""
)
def analyze(
    target: options.TargetText,
    full: Annotated[bool, typer.Option("--full", help="List biases and norm parameters too.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> None:
    """Read a model without training.

    Role, fans, activation and residual branch of every weight. What was not understood comes first.
    """
    from initadvisor.cli.reading import run_analyze

    run_analyze(target, full=full, as_json=as_json, quiet=quiet, no_color=no_color)


@app.command(
    epilog="""\b
Examples:
  initadvisor check examples/digits_mlp.py
  initadvisor check train.py --fail-on warning
  initadvisor check train.py --select INI2 --fix r.yaml
  initadvisor check train.py --format sarif > out.sarif"""
)
def check(
    target: options.TargetText,
    select: Annotated[
        list[str] | None, typer.Option("--select", metavar="CODE", help="Only checks whose code starts so (INI2).")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="CODE", help="All but these.")] = None,
    fail_on: Annotated[
        str,
        typer.Option("--fail-on", metavar="SEVERITY", help="Exit code 1 from here: error, warning, info or never."),
    ] = "error",
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="text, json, github or sarif.")] = "text",
    fix: Annotated[
        Path | None, typer.Option("--fix", metavar="FILE", help="Write the recipe that mends what was found.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> ExitCode:
    """Audit the weights as they are, without training.

    One pass forward and one back; every finding has a code, the figure that proves it, and a remedy.
    """
    from initadvisor.cli.auditing import run_check

    return run_check(
        target,
        select=select or (),
        ignore=ignore or (),
        fail_on=fail_on,
        form="json" if as_json else form,
        fix=fix,
        quiet=quiet,
        no_color=no_color,
    )


@app.command(
    epilog="""\b
Examples:
  initadvisor diff old.yaml new.yaml"""
)
def diff(
    old: Annotated[Path, typer.Argument(metavar="A", help="A recipe file (YAML).", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="B", help="Another.", show_default=False)],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> ExitCode:
    """Compare what two recipes fill.

    Reasons and provenance are not compared. The exit code is 1 where they differ.
    """
    from initadvisor.cli.recipes import run_diff

    return run_diff(old, new, as_json=as_json, quiet=quiet)


@app.command(
    epilog="""\b
Examples:
  initadvisor apply r.yaml train.py --out w.safetensors
  initadvisor apply r.yaml train.py:build --seed 3 --out w.pt"""
)
def apply(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (YAML).", show_default=False)],
    target: options.TargetText,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the filled weights (.safetensors, .pt or .pth)."),
    ] = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> None:
    """Fill a model as a recipe says.

    The same recipe, seed and architecture give the same weights, bit for bit.
    """
    from initadvisor.cli.recipes import run_apply

    run_apply(recipe, target, out=out, seed=seed, as_json=as_json, quiet=quiet, no_color=no_color)


@app.command(
    epilog="""\b
Examples:
  initadvisor report advice.json
  initadvisor report advice.json --html advice.html"""
)
def report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What advise --json wrote.", show_default=False)],
    html: options.Html = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> None:
    """Show a saved advice again."""
    from initadvisor.cli.advising import run_report

    run_report(file, html=html, as_json=as_json, quiet=quiet, no_color=no_color)


@app.command(
    epilog="""\b
Examples:
  initadvisor explain he_normal
  initadvisor explain rules_orthogonal
  initadvisor explain INI101 --json"""
)
def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Initializer (its alias will do), rule, scheme, step or check.", show_default=False
        ),
    ],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> None:
    """All about an initializer, rule, scheme or check.

    Formula, when it is right and wrong, a picture of a filled layer, source and BibTeX.
    """
    from initadvisor.cli.knowledge import run_explain

    run_explain(name, as_json=as_json, quiet=quiet, no_color=no_color)


@app.command(
    name="list",
    epilog="""\b
Examples:
  initadvisor list
  initadvisor list rules
  initadvisor list initializers --quiet""",
)
def list_names(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="initializers, steps, rules, schemes, checks.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> None:
    """Names of everything that can be explained."""
    from initadvisor.cli.knowledge import run_list

    run_list(kind, as_json=as_json, quiet=quiet, no_color=no_color)


@app.command(
    epilog="""\b
Examples:
  initadvisor schema advise > advice.schema.json
  initadvisor schema recipe > recipe.schema.json"""
)
def schema(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The command that writes the JSON, or recipe.", show_default=False)
    ],
) -> None:
    """Print the JSON schema of a document.

    Each command has one, of what it writes with --json; recipe is that of recipe files, for editors.
    """
    from initadvisor.cli.knowledge import run_schema

    run_schema(name)


scripts.register(app)


def run_words(argv: Sequence[str] | None, signals: Signals) -> int:
    """Run one command line; every error becomes one line and an exit code here.

    Args:
        argv: words after the program's name; None takes the process's.
        signals: whether the program was asked to stop, which outweighs whatever else is reported.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=words, prog_name=PROGRAM, standalone_mode=False)
    except typer.Abort as error:  # what the parser makes of Ctrl-C
        raise KeyboardInterrupt from error
    except ReaderGone:
        return ExitCode.OK
    except SystemExit as error:
        return _left(error, words)
    except Exception as error:
        if signals.received is not None:
            raise
        return _told(error, words)
    return int(code) if isinstance(code, int) else ExitCode.OK


def _told(error: Exception, words: Sequence[str]) -> int:
    """One line for an error, and its exit code."""
    from initadvisor.cli.target import place_in_users_code

    if isinstance(error, InitAdvisorError):
        complain(message_of(error))
        return ExitCode.BAD_INPUT
    if isinstance(error, _UsageError):
        return _misused(error)
    if isinstance(error, OSError) and place_in_users_code(error, words) is None:
        silence(sys.stdout)
        complain(f"the system refused a file or a resource: {error}; free some space, or look who holds it")
        return ExitCode.BAD_INPUT
    if isinstance(error, MemoryError):
        complain("the memory is full; try --budget fast, smaller batches or another machine")
        return ExitCode.BAD_INPUT
    return _unexpected(error, words)


def _misused(error: Any) -> int:
    """The words on the command line make no sense: say so, and what would."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else PROGRAM
    message = error.format_message().rstrip(".")
    param = getattr(error, "param", None)
    if getattr(param, "name", None) == "target" and not getattr(error, "message", None):
        message += f"; {PROGRAM} new train_target.py writes one to begin with"
    group: Any = context.command if context is not None else None
    typed = re.fullmatch(r"No such command [\"'](.+)[\"']", message)
    if typed is not None and hasattr(group, "commands"):
        message += f"; {nearest(typed[1], group.commands)}"
    complain(f"{message} (see {path} --help)")
    return ExitCode.BAD_INPUT


def _left(error: SystemExit, words: Sequence[str]) -> int:
    """Something below ended the program by itself: the parser for a reader that has gone, or the user's own code."""
    from initadvisor.cli.target import place_in_users_code

    told = place_in_users_code(error, words)
    if told is None:
        silence(sys.stdout)
        return ExitCode.OK
    complain(told)
    return ExitCode.BAD_INPUT


def _unexpected(error: Exception, words: Sequence[str]) -> int:
    """The user's own code raised (one line), or ours did (a bug: the traceback is what helps)."""
    from initadvisor.cli.target import place_in_users_code

    told = place_in_users_code(error, words)
    if told is not None:
        complain(told)
        return ExitCode.BAD_INPUT
    if sys.stderr is not None:
        sys.stderr.write(plain("".join(traceback.format_exception(error))))
    complain(f"this is a bug in initadvisor ({type(error).__name__}); please report it with the lines above")
    return ExitCode.BUG
