"""`advise` and `report`: run trials or read saved ones, and tell the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initadvisor.cli.outcome import ExitCode, complain, remark, tell, tell_json
from initadvisor.cli.places import files_tried, has_content, try_outputs
from initadvisor.cli.target import open_target
from initadvisor.errors import InitAdvisorError, InputError
from initadvisor.plaintext import excerpt
from initadvisor.report.console import render
from initadvisor.report.evidence import Evidence
from initadvisor.report.jsonout import evidence_to_json, load_advice
from initadvisor.report.progress import PLANNED, Progress
from initadvisor.report.sentences import headline

if TYPE_CHECKING:
    from initadvisor.advisor import Advice


@dataclass(frozen=True)
class Outputs:
    """Where the result of `advise` goes."""

    recipe: Path | None
    html: Path | None
    as_json: bool
    quiet: bool
    no_color: bool

    def files(self) -> dict[str, Path | None]:
        """Files by the option that names them."""
        return {"--out": self.recipe, "--html": self.html}


def run_advise(target: str, overrides: Mapping[str, Any], outputs: Outputs) -> ExitCode:
    """Advise on a target and tell it, then write what was asked for.

    Args:
        target: as typed.
        overrides: arguments of ``advise`` given as flags; they win over the target's.
        outputs: what to write and print.
    """
    from initadvisor.advisor import advise

    try_outputs(target, outputs.files(), storage=overrides.get("storage"))  # before minutes of trials, not after
    with open_target(target) as opened:
        arguments = {"progress": not outputs.quiet, **opened.arguments, **overrides}
        if outputs.quiet:
            arguments["progress"] = False
        try_outputs(target, outputs.files(), inputs=opened.sources, storage=arguments.get("storage"))
        advice = advise(**arguments)
    kept = recommends_nothing(advice)
    files: list[tuple[str, Path, Callable[[Path], object]]] = []
    if outputs.recipe is not None and kept and has_content(outputs.recipe):
        remark(f"{outputs.recipe} was left as it is: {kept}")
    elif outputs.recipe is not None:
        files.append(("recipe", outputs.recipe, advice.save))
    if outputs.html is not None:
        files.append(("report", outputs.html, advice.to_html))
    tell_then_write(advice.evidence, advice.recipe.to_yaml(), outputs, files)
    if kept:
        complain(f"{kept}; give it more: --budget standard, or a time such as --budget 5m")
        return ExitCode.NOTHING_TRIED
    return ExitCode.OK


class PlannedError(Exception):
    """The plan is known; raised out of the first event that tells it."""


def run_dry(target: str, overrides: Mapping[str, Any]) -> ExitCode:
    """Say what would run, for how long and at what share of one training; nothing is written or recorded.

    A few optimizer steps of the current weights are timed for that.
    """
    from initadvisor.advisor import advise

    def until_planned(event: Progress) -> None:
        if event.phase == PLANNED:
            raise PlannedError(event.message)

    with open_target(target) as opened:
        arguments = {**opened.arguments, **overrides, "progress": until_planned, "storage": None, "study_name": None}
        try:
            advise(**arguments)
        except PlannedError as planned:
            tell(str(planned))
    return ExitCode.OK


def recommends_nothing(advice: Advice) -> str:
    """Why an advice says nothing that an earlier one did not; empty where it says something."""
    if not advice.recipe.fills_nothing:
        return ""
    if advice.decision.interrupted:
        return "this run ended before it could recommend anything"
    tried = any(entry.steps > 0 for entry in advice.ranking)
    return "" if tried else "the budget ended before a single training"


def run_report(file: Path, *, html: Path | None, as_json: bool, quiet: bool, no_color: bool) -> None:
    """Tell a saved advice again."""
    from initadvisor.report.html import write_html

    outputs = Outputs(None, html, as_json, quiet, no_color)
    files_tried({"--html": html}, inputs=(file,))
    saved = load_advice(file)
    files: list[tuple[str, Path, Callable[[Path], object]]] = []
    if html is not None:
        files.append(("report", html, lambda path: write_html(saved.evidence, path, recipe=saved.recipe)))
    try:
        tell_then_write(saved.evidence, saved.recipe, outputs, files)
    except _DOES_NOT_FIT as error:
        # Every field is of its type, and yet they are not of one advice: the file was edited or cut together.
        told = f"{type(error).__name__}: {excerpt(str(error))}"
        raise InputError(f'"{file}" holds figures that do not fit together ({told}); ask again') from error


_DOES_NOT_FIT = (LookupError, ArithmeticError, ValueError, TypeError, AttributeError, AssertionError)
"""What telling a saved advice can raise whose parts contradict each other."""


def tell_then_write(
    evidence: Evidence,
    recipe: str,
    outputs: Outputs,
    files: Sequence[tuple[str, Path, Callable[[Path], object]]],
) -> None:
    """Print first: an answer that took minutes must not be lost to a full disk; nor the files to a closed pipe."""
    try:
        _print(evidence, recipe, outputs)
    finally:
        failed: list[InitAdvisorError] = []
        for what, path, write in files:
            try:
                write(path)
            except InitAdvisorError as error:
                failed.append(error)
            else:
                remark(f"{what} written to {path}", quiet=outputs.quiet)
        for other in failed[1:]:
            complain(str(other))
        if failed:
            raise failed[0]


def _print(evidence: Evidence, recipe: str, outputs: Outputs) -> None:
    if outputs.as_json:
        tell_json(evidence_to_json(evidence, recipe=recipe))
    elif outputs.quiet:
        tell(headline(evidence))
    else:
        tell(render(evidence, color=False if outputs.no_color else None))
