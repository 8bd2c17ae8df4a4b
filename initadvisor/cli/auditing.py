"""`check`: what is wrong with the weights as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from initadvisor.cli.outcome import ExitCode, remark, tell
from initadvisor.cli.places import try_outputs
from initadvisor.cli.target import open_target


def run_check(
    target: str,
    *,
    select: Sequence[str],
    ignore: Sequence[str],
    fail_on: str,
    form: str,
    fix: Path | None,
    quiet: bool,
    no_color: bool,
) -> ExitCode:
    """Audit the target's model and tell what was found.

    Args:
        target: as typed.
        select: code prefixes or names of checks to tell; empty tells all.
        ignore: likewise, not to tell.
        fail_on: least severity that makes the exit code 1, or ``"never"``.
        form: ``"text"``, ``"json"``, ``"github"`` or ``"sarif"``.
        fix: where to write the recipe that mends what was found.
        quiet: only the count.
        no_color: as for every command.
    """
    from initadvisor.checks.fix import mend, mendable
    from initadvisor.checks.formats import counted, render_findings
    from initadvisor.checks.runner import check
    from initadvisor.checks.settings import exit_code, filter_findings, read_fail_on
    from initadvisor.report.page import terminal_width, wants_color

    try_outputs(target, {"--fix": fix})
    read_fail_on(fail_on)
    render_findings((), form)  # so is a format
    filter_findings((), select=select, ignore=ignore)  # a mistyped code is told before the work
    recipe = None
    with open_target(target) as opened:
        try_outputs(target, {"--fix": fix}, inputs=opened.sources)
        found = check(opened.model, opened.sample_batch, loss=opened.arguments.get("loss"))
        found = filter_findings(found, select=select, ignore=ignore)
        if fix is not None and mendable(found):
            recipe = mend(opened.model, opened.sample_batch, found, loss=opened.arguments.get("loss"))
    try:
        if quiet and form == "text":
            tell(counted(found) or "no findings")
        else:
            colour = wants_color() and not no_color
            file = target.partition(":")[0]
            tell(render_findings(found, form, colour=colour, width=terminal_width(), file=file))
    finally:  # also where nobody reads what is told
        if recipe is not None and fix is not None:
            recipe.save(fix)
            remark(f"recipe that mends {counted(mendable(found))} written to {fix}", quiet=quiet)
        elif fix is not None:
            remark("nothing found that filling weights could mend; no recipe written", quiet=quiet)
    return ExitCode(exit_code(found, fail_on))
