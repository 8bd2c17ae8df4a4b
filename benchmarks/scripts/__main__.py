"""``python -m benchmarks.scripts``: asks every script of ``examples/scripts`` and writes the table.

Nothing in the scripts knows of initadvisor, and nothing is edited. ``--budget`` is that of each ``try``; names of
scripts ask these only and leave the other rows as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initadvisor.errors import InitAdvisorError
from initadvisor.integrations.scripts.trying import Tried, try_script

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "scripts"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Asked:
    """A script, its own length in optimizer steps, and what it is scored by where the loss says little."""

    name: str
    steps: int
    metric: str | None = None
    maximize: bool = False
    loss: str | None = None


ASKED = (
    Asked("nanogpt", 200),
    Asked("ppo", 192, "return=episodic_return=", maximize=True),
    Asked("dcgan", 56, loss="netG"),
    Asked("word_lm", 25),
    Asked("mnist", 72),
    Asked("lightning_autoencoder", 87),
    Asked("run_glm", 30),
    Asked("siren", 200),
    Asked("gcn", 60),
    Asked("pinn", 150, loss="optimizer_adam"),
)


def watched(script: str) -> dict[str, Any]:
    """What `watch --steps 1` says, and whether the script prints what it prints unwatched."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seen.json"
        command = [sys.executable, "-m", "initadvisor", "watch", "--steps", "1", "-o", str(out), "-q", "--"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
        began = time.perf_counter()
        done = subprocess.run(
            [*command, f"{script}.py"], cwd=SCRIPTS, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        if not out.is_file():
            return {"fault": done.stderr.strip().splitlines()[-1], "seconds": seconds}
        return {**json.loads(out.read_text()), "seconds": seconds}


def tried(asked: Asked, budget: float) -> dict[str, Any]:
    """What `try` says."""
    os.chdir(SCRIPTS)
    began = time.perf_counter()
    try:
        found = try_script(
            [f"{asked.name}.py"],
            metric=asked.metric,
            maximize=asked.maximize,
            loss=asked.loss,
            steps=asked.steps,
            budget=budget,
            progress=False,
        )
    except InitAdvisorError as error:
        return {"fault": str(error), "seconds": time.perf_counter() - began}
    return {**told(found), "seconds": time.perf_counter() - began}


def told(found: Tried) -> dict[str, Any]:
    """The figures of the table."""
    decision = found.advice.decision
    return {
        "verdict": decision.verdict.value,
        "scheme": decision.scheme,
        "challenger": decision.challenger,
        "current": decision.current_loss,
        "best": decision.challenger_loss,
        "better": decision.p_better,
        "worse": decision.p_worse,
        "horizon": decision.horizon,
        "seeds": decision.seeds,
        "arms": sum(r.steps > 0 for r in found.advice.ranking),
        "runs": found.advice.cost.members,
        "steps": found.advice.cost.model_steps,
        "networks": list(found.recipes),
    }


def trained(seen: dict[str, Any]) -> str:
    """What was seen to be trained."""
    if "fault" in seen:
        return seen["fault"]
    optimizers = [o["optimizer"].partition("(")[0] for o in seen["optimizers"]]
    networks = [f"`{n['name'] or n['class']}`" + (" (in parts)" if n["parts"] else "") for n in seen["networks"]]
    return f"{', '.join(networks)} by {', '.join(optimizers)}"


def findings(seen: dict[str, Any]) -> str:
    """Codes of what was found."""
    found = [f["code"] for n in seen.get("networks", ()) for f in n["check"]["findings"]]
    faults = [n["fault"] for n in seen.get("networks", ()) if n["fault"]]
    return ", ".join(faults or found) or "nothing"


def row(record: dict[str, Any]) -> str:
    """One line of the table."""
    seen, race = record["watch"], record["try"]
    start = f"| {record['script']} | {trained(seen)} | {findings(seen)} | {seen['seconds']:.0f} s |"
    if "fault" in race:
        return f"{start} {race['fault']} | | | {race['seconds']:.0f} s |"
    if not race["horizon"]:
        start += f" {race['verdict']} by the rules alone ({race['challenger']}): {record['budget']:g} s start no second"
        return f"{start} process | | {race['better']:.2f} / {race['worse']:.2f} | {race['seconds']:.0f} s |"
    best = "" if race["challenger"] == "current" else f" → {race['best']:.3g} ({race['challenger']})"
    return (
        f"{start} {race['verdict']} | {race['current']:.3g}{best} after {race['horizon']} steps, {race['seeds']} seeds "
        f"| {race['better']:.2f} / {race['worse']:.2f} | {race['runs']} runs of {race['arms']} starts, "
        f"{race['steps']} steps, {race['seconds']:.0f} s (budget {record['budget']:g}) |"
    )


def table(records: list[dict[str, Any]]) -> str:
    """The page."""
    order = {a.name: i for i, a in enumerate(ASKED)}
    lines = [
        "# Ten unedited scripts, asked by `watch` and `try`",
        "",
        "Made by `python -m benchmarks.scripts`: `watch --steps 1`, and `try` within the seconds named, starts of its",
        "processes included. Scored is the loss that is stepped on, of `ppo` the printed return (negated), of `dcgan`",
        "the generator's loss, which says little of a GAN. Odds: that the challenger ends better / over 2% worse.",
        "",
        "| script | seen to train | check | watch | verdict | score | odds | cost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(row, sorted(records, key=lambda r: order[r["script"]]))]) + "\n"


def main() -> None:
    """Ask and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scripts", nargs="*", choices=[*(a.name for a in ASKED), []])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each try")
    args = parser.parse_args()
    file = RESULTS / "scripts.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    records = {r["script"]: r for r in map(json.loads, lines)}
    for asked in ASKED:
        if not args.scripts or asked.name in args.scripts:
            records[asked.name] = {
                "script": asked.name,
                "watch": watched(asked.name),
                "try": tried(asked, args.budget),
                "budget": args.budget,
            }
            print(row(records[asked.name]), flush=True)
            file.write_text("".join(json.dumps(r) + "\n" for r in records.values()))
            (RESULTS / "table.md").write_text(table(list(records.values())))


if __name__ == "__main__":
    main()
