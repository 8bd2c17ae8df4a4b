"""`advise` and `report`: run trials or read saved ones, and tell the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initadvisor.cli.outcome import remark, tell, tell_json
from initadvisor.cli.target import open_target
from initadvisor.errors import InputError
from initadvisor.report.console import render
from initadvisor.report.evidence import Evidence
from initadvisor.report.jsonout import evidence_to_json, load_advice
from initadvisor.report.sentences import headline


@dataclass(frozen=True)
class Outputs:
    """Where the result of `advise` goes."""

    recipe: Path | None
    html: Path | None
    as_json: bool
    quiet: bool
    no_color: bool


def run_advise(target: str, overrides: Mapping[str, Any], outputs: Outputs) -> None:
    """Advise on a target and tell it.

    Args:
        target: as typed.
        overrides: arguments of ``advise`` given as flags; they win over the target's.
        outputs: what to write and print.
    """
    from initadvisor.advisor import advise

    check_writable(outputs.recipe, outputs.html)  # before minutes of trials, not after
    with open_target(target) as opened:
        arguments = {"progress": not outputs.quiet, **opened.arguments, **overrides}
        if outputs.quiet:
            arguments["progress"] = False
        advice = advise(**arguments)
    recipe = advice.recipe.to_yaml()
    if outputs.recipe is not None:
        advice.save(outputs.recipe)
        remark(f"recipe written to {outputs.recipe}", quiet=outputs.quiet)
    tell_evidence(advice.evidence, recipe, outputs)


def run_report(file: Path, *, html: Path | None, as_json: bool, quiet: bool, no_color: bool) -> None:
    """Tell a saved advice again."""
    check_writable(html)
    saved = load_advice(file)
    tell_evidence(saved.evidence, saved.recipe, Outputs(None, html, as_json, quiet, no_color))


def tell_evidence(evidence: Evidence, recipe: str, outputs: Outputs) -> None:
    """Write and print an advice in the forms that were asked for."""
    if outputs.html is not None:
        from initadvisor.report.html import write_html

        write_html(evidence, outputs.html, recipe=recipe)
        remark(f"report written to {outputs.html}", quiet=outputs.quiet)
    if outputs.as_json:
        tell_json(evidence_to_json(evidence, recipe=recipe))
    elif outputs.quiet:
        tell(headline(evidence))
    else:
        tell(render(evidence, color=False if outputs.no_color else None))


def check_writable(*files: Path | None) -> None:
    """Raise where a file that is to be written has no folder, or is one.

    Raises:
        InputError: naming the file.
    """
    for file in files:
        if file is None:
            continue
        if file.is_dir():
            raise InputError(f'"{file}" is a folder; name a file in it')
        if not file.resolve().parent.is_dir():
            raise InputError(f'"{file}" cannot be written: there is no folder {file.resolve().parent}')
