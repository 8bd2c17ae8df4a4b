"""`analyze`: what the graph says about each weight."""

from __future__ import annotations

from initadvisor.cli.outcome import tell, tell_json
from initadvisor.cli.target import open_target
from initadvisor.report.jsonout import spec_to_json
from initadvisor.report.tables import render_spec, summary


def run_analyze(target: str, *, full: bool, as_json: bool, quiet: bool, no_color: bool) -> None:
    """Read the target's model and tell it."""
    from initadvisor.graph.analyze import analyze

    with open_target(target) as opened:
        spec = analyze(opened.model, opened.sample_batch, loss=opened.arguments.get("loss"))
    if as_json:
        tell_json(spec_to_json(spec))
    elif quiet:
        tell(summary(spec))
    else:
        tell(render_spec(spec, color=False if no_color else None, full=full))
