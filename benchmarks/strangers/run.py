"""Reads every stranger, tries every proposal's first pass and every check, and writes a table."""

from __future__ import annotations

import argparse
import copy
import math
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import benchmarks.strangers.attentions
import benchmarks.strangers.fields
import benchmarks.strangers.generators
import benchmarks.strangers.policies
import benchmarks.strangers.recurrences  # noqa: F401  (entered by being imported)
import initadvisor
from benchmarks.strangers.entry import KEPT, STRANGERS, Stranger
from initadvisor.errors import InitAdvisorError
from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import SchemeKind
from initadvisor.training.task import make_task
from initadvisor.types import WEIGHT_ROLES

WORSE_LOSS, WORSE_GRADIENT = 2.0, 10.0
"""By how much a proposal may make the first step worse than the weights as they came."""

_ENOUGH_DIGITS = 0.02
"""Relative room for a factor that was written down by hand to three digits."""

_SEEDS = (0, 1, 2)
"""Draws of a proposal whose geometric mean is judged: one draw of a small net says little."""

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results" / "strangers.md"


@dataclass
class Outcome:
    """What was found about one stranger.

    Attributes:
        facts: number asked.
        wrong: facts that were read otherwise.
        schemes: number tried.
        worse: proposals whose first pass is worse than allowed, and by how much.
        alarms: errors that a check raised about a sound model.
        crashes: last lines of what was raised.
    """

    facts: int = 0
    wrong: list[str] = field(default_factory=list)
    schemes: int = 0
    worse: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)


def _told(p: ParamSpec, fact: str) -> bool:
    """Whether a parameter's reading is what a fact says, but for what is kept."""
    told, _, factor = fact.partition(" × ")
    words = [w for w in told.split() if w != KEPT]
    if not words:
        return p.role not in WEIGHT_ROLES
    if words[0] == "map":
        words[0] = p.role.value if p.role in WEIGHT_ROLES else ""
    if p.role.value != words[0]:
        return False
    if len(words) > 1:
        fan_in, fan_out = map(float, words[1].split(">"))
        if not (math.isclose(p.fan_in, fan_in) and math.isclose(p.fan_out, fan_out)):
            return False
    wanted = float(factor) if factor else 1.0
    return math.isclose(p.factor, wanted, rel_tol=_ENOUGH_DIGITS) or (p.acts_through == "norm" and not factor)


def _is_kept(path: str, model: nn.Module, filled: nn.Module) -> bool:
    before, after = (dict(m.named_parameters())[path].detach() for m in (model, filled))
    return torch.allclose(before, after, rtol=1e-5, atol=1e-7)


def tell_facts(it: Stranger, spec: ModelSpec, out: Outcome) -> None:
    """Compare a reading with the facts that were checked by hand."""
    for path, fact in it.facts.items():
        out.facts += 1
        p = spec[path]
        if not _told(p, fact):
            factor = "" if p.factor == 1 else f" × {p.factor:.3g}"
            out.wrong.append(f"{path}: {p.role} {p.fan_in:g}>{p.fan_out:g}{factor}, not {fact}")
    if it.branches is not None:
        out.facts += 1
        if spec.residual_depth != it.branches:
            out.wrong.append(f"branches: {spec.residual_depth}, not {it.branches}")


def _first_pass(task: Any, model: nn.Module) -> tuple[float, float]:
    """Loss and length of the gradient of the first batch."""
    torch.manual_seed(0)
    model.zero_grad()
    loss = task.compute_loss(model, task.choosing.train[0])
    loss.backward()
    square = sum(float(p.grad.abs().square().sum()) for p in model.parameters() if p.grad is not None)
    return float(loss.detach()), math.sqrt(square)


def _try(it: Stranger, spec: ModelSpec, task: Any, scheme: Scheme, before: tuple[float, float], out: Outcome) -> None:
    ratios = []
    for seed in _SEEDS:
        twin = copy.deepcopy(it.model)
        scheme.apply(twin, seed=seed, batch=it.batch, loss=it.loss)
        after = _first_pass(task, twin)
        if not all(map(math.isfinite, after)):
            out.worse.append(f"{scheme.name}: loss {after[0]:.3g}, gradient {after[1]:.3g}")
            return
        ratios.append([a / max(b, 1e-12) for a, b in zip(after, before, strict=True)])
    kept = (path for path, fact in it.facts.items() if KEPT in fact)
    if scheme.kind is SchemeKind.DEFAULT:  # draws the same again where the tensor is that of a layer of torch's
        kept = (path for path in kept if not spec[path].torch_layer)
    changed = [path for path in kept if not _is_kept(path, it.model, twin)]
    out.wrong += [f"{path}: filled by {scheme.name}" for path in changed]
    loss, gradient = (math.exp(sum(math.log(max(r[i], 1e-12)) for r in ratios) / len(ratios)) for i in (0, 1))
    if loss > WORSE_LOSS or gradient > WORSE_GRADIENT:
        out.worse.append(f"{scheme.name}: loss ×{loss:.3g}, gradient ×{gradient:.3g}")


def examine(it: Stranger) -> Outcome:
    """Everything about one stranger; what is raised is noted, and the rest goes on."""
    out = Outcome()

    def safely(what: str, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # noqa: BLE001  (what is counted here is whatever a user would see)
            where = traceback.extract_tb(error.__traceback__)[-1]
            known = "" if isinstance(error, InitAdvisorError) else f" ({Path(where.filename).name}:{where.lineno})"
            out.crashes.append(f"{what}: {type(error).__name__}: {str(error)[:120]}{known}")
            return None

    spec = safely("analyze", lambda: initadvisor.analyze(it.model, it.batch))
    if spec is not None:
        safely("facts", lambda: tell_facts(it, spec, out))
    findings = safely("check", lambda: initadvisor.check(it.model, it.batch, loss=it.loss)) or ()
    out.alarms += [f"{f.code} {f.path}: {f.message[:90]}" for f in findings if f.severity.value == "error"]
    task = safely("task", lambda: make_task(it.model, it.batch, loss=it.loss))
    schemes = safely("propose", lambda: initadvisor.propose(it.model, it.batch, loss=it.loss)) or ()
    if task is None or spec is None:
        return out
    before = _first_pass(task, copy.deepcopy(it.model))
    for scheme in schemes:
        if scheme.kind in (SchemeKind.CURRENT, SchemeKind.TEXTBOOK):
            continue  # what people try by hand is no proposal of ours; trials gate it
        out.schemes += 1
        safely(scheme.name, lambda s=scheme: _try(it, spec, task, s, before, out))
    return out


def table(outcomes: dict[str, Outcome]) -> str:
    """The results as Markdown."""
    facts, wrong = sum(o.facts for o in outcomes.values()), sum(len(o.wrong) for o in outcomes.values())
    schemes, worse = sum(o.schemes for o in outcomes.values()), sum(len(o.worse) for o in outcomes.values())
    alarms, crashes = (sum(len(getattr(o, n)) for o in outcomes.values()) for n in ("alarms", "crashes"))
    lines = [
        "# Strangers",
        "",
        f"{len(outcomes)} models in the idioms of public repositories. Of {facts} facts checked by hand {wrong} are "
        f"read otherwise; of {schemes} proposals {worse} make the first pass worse than allowed (loss ×{WORSE_LOSS:g}, "
        f"gradient ×{WORSE_GRADIENT:g}); {alarms} false errors, {crashes} crashes. "
        f"Written by `python -m benchmarks.strangers`.",
        "",
        "| model | facts | wrong | proposals | worse | false errors | crashes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, o in outcomes.items():
        counts = (o.facts, len(o.wrong), o.schemes, len(o.worse), len(o.alarms), len(o.crashes))
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    said = {n: [*o.wrong, *o.worse, *o.alarms, *o.crashes] for n, o in outcomes.items()}
    if any(said.values()):
        lines += ["", "## What was found", ""]
        lines += [f"- {name}: {line}".replace("\n", " ") for name, own in said.items() for line in own]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of strangers; all where none is given")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}, too")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    outcomes = {}
    for name in args.names or STRANGERS:
        torch.manual_seed(0)
        outcomes[name] = examine(STRANGERS[name]())
        o = outcomes[name]
        print(f"{name}: {o.facts} facts, {o.schemes} proposals", flush=True)
        for line in (*o.wrong, *o.worse, *o.alarms, *o.crashes):
            print("   ", line, flush=True)
    if args.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(table(outcomes), encoding="utf-8")
    return int(any(o.wrong or o.worse or o.alarms or o.crashes for o in outcomes.values()))
