"""What was seen of a script's training, as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from initadvisor.checks.formats import as_json, counted, render_findings
from initadvisor.integrations.scripts.messages import NetworkSeen, OptimizerSeen, TrainingSeen, WeightSeen
from initadvisor.report.numbers import plural, size
from initadvisor.report.page import terminal_width
from initadvisor.report.sentences import coverage_gaps
from initadvisor.report.tables import summary
from initadvisor.schemes.folding import fold_paths

WEIGHTS_SHOWN = 12
"""Lines of the table of weights; of more, evenly spaced ones are shown."""

SCHEMES_SHOWN = 3
"""Candidates named: the rules' first choices."""

NOT_RULES = ("current", "torch_default")


def tell_training(seen: TrainingSeen, *, command: Sequence[str], colour: bool = False, width: int | None = None) -> str:
    """A page on one script's training.

    Args:
        seen: by its process.
        command: as the user typed it, for what to ask next.
        colour: ANSI colours.
        width: columns; None takes the terminal's.
    """
    width = terminal_width() if width is None else width
    blocks = [headline(seen)]
    blocks += [_network(n, seen, colour, width) for n in seen.networks]
    if seen.others:
        blocks.append("Also called, held by no optimizer: " + ", ".join(dict.fromkeys(seen.others)) + ".")
    blocks += seen.notes
    typed = " ".join(command)
    blocks.append(f"NEXT   initadvisor try -- {typed}")
    return "\n\n".join(blocks)


def headline(seen: TrainingSeen) -> str:
    """What is trained, by what, in a sentence per optimizer.

    Example:
        >>> headline(TrainingSeen((OptimizerSeen("opt", "SGD()", ((0.1,),), (2.3,), 4),), ()))
        'This script trains nothing that was seen, by opt: SGD(), lr 0.1, loss 2.3.'
    """
    networks = plural(len(seen.networks), "network") if seen.networks else "nothing that was seen"
    told = [f"{o.name + ': ' if o.name else ''}{o.text}{_rates(o)}{_losses(o)}" for o in seen.optimizers]
    return f"This script trains {networks}, by " + ("; ".join(told) if told else "no optimizer that took a step") + "."


def _rates(optimizer: OptimizerSeen) -> str:
    if not optimizer.rates or not optimizer.rates[0]:
        return ""
    first, last = optimizer.rates[0], optimizer.rates[-1]
    text = ", lr " + " and ".join(dict.fromkeys(f"{r:g}" for r in first))
    if first != last:
        text += " → " + " and ".join(dict.fromkeys(f"{r:g}" for r in last))
        text += f" by step {len(optimizer.rates)} (scheduled)"
    return text


def _losses(optimizer: OptimizerSeen) -> str:
    losses = [v for v in optimizer.losses if v is not None]
    if not losses:
        return ", no loss was seen"
    return ", loss " + " → ".join(f"{v:.4g}" for v in losses[:5])


def _network(network: NetworkSeen, seen: TrainingSeen, colour: bool, width: int) -> str:
    title = f"{network.name}: {network.kind}" if network.name else network.kind
    holders = [seen.optimizers[i].name or seen.optimizers[i].text for i in network.optimizers]
    trained = f", trained by {' and '.join(holders)}" if holders and len(seen.optimizers) > 1 else ""
    lines = [f"{title} ({size(network.parameters)} parameters{trained})"]
    if network.inputs:
        parts = f"; called in parts: {', '.join(network.parts)}" if network.parts else ""
        lines.append(f"  called with {network.inputs}{parts}")
    if network.copies:
        lines.append(f"  equal to it at the start: {', '.join(network.copies)}")
    if network.left:
        labels = fold_paths(network.left)
        lines.append(
            f"  held by no optimizer, so never trained: {', '.join(labels[:4])}{', …' if len(labels) > 4 else ''}"
        )
    if network.spec is not None:
        lines.append(f"  {summary(network.spec)}")
        lines += [f"  {gap}" for gap in coverage_gaps(network.spec.coverage)]
    if network.note:
        lines.append(f"  {network.note}")
    if network.fault:
        lines.append(f"  not read: {network.fault}")
    blocks = ["\n".join(lines)]
    table = weights_table(network.weights)
    if table:
        blocks.append(table)
    if network.spec is not None:
        blocks.append(render_findings(network.findings, "text", colour=colour, width=width))
    tried = [s for s in network.schemes if s.name not in NOT_RULES][:SCHEMES_SHOWN]
    if tried:
        lines = ["The rules would try:"]
        lines += [f"  {s.name}: {s.summary}" for s in tried]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def weights_table(weights: Sequence[WeightSeen]) -> str:
    """Figures of the first step, a line for each of a few weights.

    Example:
        >>> print(weights_table([WeightSeen("0.weight", 0.5, 0.01, 1e-3, 64, 2)]))
        first step     output RMS   gradient RMS   update / weight   dead units
        0.weight              0.5           0.01             0.001        2 / 64
    """
    if not weights:
        return ""
    step = max(1, math.ceil(len(weights) / WEIGHTS_SHOWN))
    shown = [*weights[::step]]
    if shown[-1] is not weights[-1]:
        shown.append(weights[-1])
    rows = [("first step", "output RMS", "gradient RMS", "update / weight", "dead units")]
    for w in shown:
        dead = f"{w.dead} / {w.units}" if w.units else "–"
        rows.append((w.path, _figure(w.output_rms), _figure(w.grad_rms), _figure(w.update), dead))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(widths[i]) for i, cell in enumerate(row[1:], start=1))]
        lines.append("   ".join(cells).rstrip())
    if len(shown) < len(weights):
        lines.append(f"({len(shown)} of {len(weights)} weights)")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.2g}"


def training_json(seen: TrainingSeen) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "optimizers": [
            {
                "name": o.name,
                "optimizer": o.text,
                "rates": [list(r) for r in o.rates],
                "losses": [_number(v) for v in o.losses],
                "tensors": o.tensors,
            }
            for o in seen.optimizers
        ],
        "networks": [_network_json(n) for n in seen.networks],
        "others": list(seen.others),
        "device": seen.device,
        "seeded": seen.seeded,
        "notes": list(seen.notes),
    }


def _network_json(network: NetworkSeen) -> dict[str, Any]:
    return {
        "name": network.name,
        "class": network.kind,
        "optimizers": list(network.optimizers),
        "parameters": network.parameters,
        "inputs": network.inputs,
        "parts": list(network.parts),
        "copies": list(network.copies),
        "untrained": list(network.left),
        "loss": network.loss_name,
        "fault": network.fault,
        "fingerprint": None if network.spec is None else network.spec.fingerprint,
        "summary": "" if network.spec is None else summary(network.spec),
        "check": as_json(network.findings),
        "found": counted(network.findings),
        "schemes": [{"name": s.name, "summary": s.summary} for s in network.schemes],
        "weights": [
            {
                "path": w.path,
                "output_rms": _number(w.output_rms),
                "grad_rms": _number(w.grad_rms),
                "update": _number(w.update),
                "units": w.units,
                "dead": w.dead,
            }
            for w in network.weights
        ],
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
