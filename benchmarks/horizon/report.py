"""Figures of what is on record: a report and a picture.

python -m benchmarks.horizon.report
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.horizon import store
from benchmarks.horizon.advisor_runs import ALL_RATES, ONE_RATE, asked, odds, picks
from benchmarks.horizon.figure import draw
from benchmarks.horizon.methods import PRIORS, SHAPES
from benchmarks.horizon.pool import SCREENING_STEPS
from benchmarks.horizon.store import RESULTS
from benchmarks.horizon.summary import (
    LOOKS,
    Line,
    as_trained,
    leader_regret,
    line,
    lines,
    of_training_loss,
    places,
    rho,
    searched,
    spearman,
    without_warmup,
)
from benchmarks.horizon.table import HARM, Table, View, build
from benchmarks.horizon.tasks import TASKS

PANELS = {ONE_RATE: "the user's one rate", ALL_RATES: "three rates to choose from"}


def tables(folder: Path = RESULTS) -> list[Table]:
    """Every task of which something is on record."""
    rows, proposals = store.load(folder), store.proposals(folder)
    return [build(TASKS[name], rows, proposals[name]) for name in TASKS if name in proposals]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lined = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lined)


def _number(x: float, digits: int = 2) -> str:
    if math.isnan(x):
        return "–"
    return f"{x:.{digits}f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.{digits}f}"


def _percent(x: float) -> str:
    return "–" if math.isnan(x) else f"{x:.0%}"


def by_cost(found: Sequence[Line], figure: str) -> str:
    """One row for each method, one column for each cost."""
    costs = sorted({x.cost for x in found})
    show = _percent if figure in ("harm", "rate") else _number
    rows = []
    for method in dict.fromkeys(x.method for x in found):
        mine = {x.cost: x for x in found if x.method == method}
        rows.append([method, *(show(getattr(mine[c], figure)) if c in mine else "" for c in costs)])
    return _table([f"{figure} at a cost of", *(f"{c:g}" for c in costs)], rows)


def advised(found: Sequence[Table], mode: str, folder: Path) -> list[Line]:
    """What the advisor's own picks are worth, by label and cost; a label says where tasks are missing."""
    every, told = len(views(found, mode)), []
    for label, modes in asked(folder).items():
        for share in sorted(modes.get(mode, ())):
            given = picks(found, label, mode, share, folder)
            name = label if len(given) == every else f"{label}, {len(given)} of {every} tasks"
            if given:
                told.append(line(name, share, given))
    return told


def said_and_true(found: Sequence[Table], folder: Path) -> str:
    """The odds that advice gives of a change, and what came of it."""
    rows = []
    for label, modes in asked(folder).items():
        for mode, shares in modes.items():
            for share in sorted(shares):
                given = [(v, arms[0], odds(v, folder, label, mode, share)) for v, arms in
                         picks(found, label, mode, share, folder)]  # fmt: skip
                changed = [(v, arm, p) for v, arm, p in given if not arm.is_default and None not in p]
                if not changed:
                    continue
                ends = [(v.end(arm) - v.base) / abs(v.base) for v, arm, _ in changed]
                better, worse = (sum(p[i] for _, _, p in changed) / len(changed) for i in (0, 1))
                was = sum(e < 0 for e in ends) / len(ends), sum(e > HARM for e in ends) / len(ends)
                figures = map(_number, (better, was[0], worse, was[1]))
                rows.append([label, mode, f"{share:g}", str(len(changed)), *figures])
    head = ["version", "given", "cost", "changes", "better: said", "true", "worse by over 2%: said", "true"]
    return _table(head, rows)


def views(found: Sequence[Table], mode: str) -> list[View]:
    """What is complete of one way of asking."""
    both = [table.one_rate if mode == ONE_RATE else table.all_rates for table in found]
    return [view for view in both if view is not None]


def ranking(one: Sequence[View], every: Sequence[View]) -> str:
    """How what is seen at a step ranks with the end, and what its leader loses."""
    warmed = [v for v in one if v.task.schedule.warms_up]
    head = [
        "after steps", "ρ, one rate", "by the training loss", "ρ, all rates", "leader's regret, one rate",
        "leader's regret, all rates", "ρ under a warm-up", "ρ, same tasks, left out", "leader's regret under it",
        "left out",
    ]  # fmt: skip
    rows = []
    for step in LOOKS:
        left_out = step <= SCREENING_STEPS
        rows.append(
            [
                str(step),
                _number(rho(one, as_trained, step)),
                _number(rho(one, of_training_loss, step)),
                _number(rho(every, as_trained, step)),
                _number(leader_regret(one, as_trained, step)),
                _number(leader_regret(every, as_trained, step)),
                _number(rho(warmed, as_trained, step)),
                _number(rho(warmed, without_warmup, step)) if left_out else "",
                _number(leader_regret(warmed, as_trained, step)),
                _number(leader_regret(warmed, without_warmup, step)) if left_out else "",
            ]
        )
    return _table(head, rows)


def warmups(one: Sequence[View]) -> str:
    """Task by task: what a warm-up hides."""
    steps = (10, 20, 40, 80, 160, 320)
    rows = []
    for view in one:
        if view.task.schedule.warms_up and all(a.constant is not None for a in view.arms):
            hidden = [_number(rho([view], as_trained, s)) for s in steps]
            shown = [_number(rho([view], without_warmup, s)) for s in steps]
            cells = [f"{a} / {b}" for a, b in zip(hidden, shown, strict=True)]
            rows.append([view.task.name, str(view.task.schedule), *cells])
    return _table(["ρ under the warm-up / without", "schedule", *(str(s) for s in steps)], rows)


def decays(one: Sequence[View]) -> str:
    """Task by task: a short training that holds the whole decay against one at the full rate, equally long."""
    rows = []
    for view in one:
        short = [a.short for a in view.arms]
        constant = [a.constant for a in view.arms]
        if any(s is None for s in short) or any(c is None for c in constant):
            continue
        ends = [view.end(a) for a in view.arms]
        length = max(s.curve.steps[-1] for s in short if s is not None)
        flat = [c.until(length) for c in constant if c is not None]
        fell = [s.best for s in short if s is not None]
        ranked = [_number(spearman(seen, ends)) for seen in (flat, fell)]
        lost = [_number(view.regret(view.arms[seen.index(min(seen))])) for seen in (flat, fell)]
        rows.append([view.task.name, str(view.task.schedule), *ranked, *lost])
    head = ["task", "schedule", "ρ at the full rate", "with the decay", "its leader's regret", "with the decay"]
    return _table(head, rows)


def by_task(found: Sequence[Table]) -> str:
    """Where the rules' first stands on every task."""
    rows = []
    for table in found:
        view, every = table.one_rate, table.all_rates
        if view is None:
            continue
        first = next(p for p in places(table) if p.rank == 1)
        rows.append(
            [
                table.task.name,
                table.task.family,
                str(table.task.schedule),
                "yes" if view.is_won else "no",
                f"{view.base:.4g}",
                f"{view.end(view.best):.4g}",
                view.best.scheme,
                f"{first.scheme}: {first.place} of {view.schemes}",
                _number(first.at_rate),
                _number(first.at_best),
                f"{every.best.scheme} at {every.best.lr:g}" if every is not None else "–",
            ]
        )
    head = [
        "task", "family", "rate", "to win", "default", "best", "best scheme", "the rules' first: its place",
        "its regret at that rate", "at its own best", "best of all rates",
    ]  # fmt: skip
    return _table(head, rows)


def positions(found: Sequence[Table]) -> str:
    """Task by task the regret of every scheme at the user's rate, in the order in which the rules propose them."""
    told = {table.task.name: [p for p in places(table) if p.rank] for table in found}
    most = max(map(len, told.values()), default=0)
    rows = []
    for name, mine in told.items():
        cells = [f"{_number(p.at_rate)} {p.scheme.removeprefix('rules_')}" for p in mine]
        rows.append([name, *cells, *[""] * (most - len(cells))])
    return _table(["regret by place in the order", *(str(i + 1) for i in range(most))], rows)


def by_scheme(found: Sequence[Table]) -> str:
    """How every scheme fares over the tasks with something to win."""
    won = {t.task.name for t in found if (v := t.one_rate) is not None and v.is_won}
    every = [(table, p) for table in found for p in places(table) if table.task.name in won]
    rows = []
    for scheme in dict.fromkeys(p.scheme for _, p in every):
        mine = [p for _, p in every if p.scheme == scheme]
        rates = [p.at_best for p in mine if math.isfinite(p.at_best)]
        first = sum(p.place == 1 for p in mine)
        mean = sum(p.at_rate for p in mine) / len(mine)
        own = sum(rates) / len(rates) if rates else math.nan
        rows.append((mean, [scheme, str(len(mine)), _number(mean), _number(own), str(first)]))
    rows.sort(key=lambda pair: pair[0])
    head = ["scheme", "tasks", "mean regret at the user's rate", "at its own best rate", "best of all"]
    return _table(head, [row for _, row in rows])


def by_rank(found: Sequence[Table]) -> str:
    """What each place in the rules' order is worth."""
    won = [t for t in found if (v := t.one_rate) is not None and v.is_won]
    ranks = sorted({p.rank for t in won for p in places(t)})
    rows = []
    for rank in ranks:
        mine = [p for t in won for p in places(t) if p.rank == rank]
        name = "default" if rank == 0 else str(rank)
        mean = sum(p.at_rate for p in mine) / len(mine)
        rows.append([name, str(len(mine)), _number(mean), str(sum(p.place == 1 for p in mine))])
    return _table(["place in the order", "tasks", "mean regret at the user's rate", "best of all"], rows)


def render(found: Sequence[Table], panels: dict[str, list[Line]], said: dict[str, list[Line]], folder: Path) -> str:
    """The whole report as markdown."""
    one, every = views(found, ONE_RATE), views(found, ALL_RATES)
    rows = store.load(folder)
    hours = sum(r.curve.seconds + r.curve.fill_seconds for r in rows) / 3600
    won = {mode: sum(v.is_won for v in views(found, mode)) for mode in PANELS}
    parts = [
        "# Early advice on long trainings",
        f"{len(rows)} trainings ({hours:.2f} processor hours). Every scheme is trained at the rate a user would try "
        f"first on {len(one)} of {len(TASKS)} tasks, {won[ONE_RATE]} of them with something to win (the best beats "
        "the default by over 2% and two standard errors); at all three rates on "
        f"{len(every)} tasks, {won[ALL_RATES]} of them with something to win.",
        f"On {sum(v.spread > 0 for v in one)} of the tasks some schemes have more than one seed at that rate; on the "
        "others there is no standard error, and 2% decide alone.",
        "Regret: 0 is the best of the pool, 1 torch's default (among several rates: at its best one), a mean over the "
        "tasks with something to win. Harm: the share of all tasks whose pick ends worse than the default by over 2% "
        "and two standard errors. Costs are in full trainings.",
    ]
    for mode, title in PANELS.items():
        if not panels.get(mode):
            continue
        both = [*panels[mode], *said.get(mode, ())]
        parts += [f"## {title[0].upper()}{title[1:]}", by_cost(both, "regret"), by_cost(both, "median")]
        parts += [by_cost(both, "harm")]
        if mode == ALL_RATES:
            parts += ["Another rate of the picked scheme ends better by over 2%:", by_cost(both, "rate")]
        parts += [
            "Other shapes of halving, without the warm-up:",
            by_cost(searched(views(found, mode), SHAPES), "regret"),
            "The rules' order as a prior, by its weight:",
            by_cost(searched(views(found, mode), PRIORS), "regret"),
        ]
    parts += [
        "## Are the advisor's odds right here?",
        said_and_true(found, folder),
        "## How early views rank",
        "Spearman's correlation with the end, a mean over tasks; what is seen is the best held-out loss so far, on one "
        "seed. The last four columns are the tasks with a warm-up or a one-cycle, under it and at the full rate from "
        "the first step.",
        ranking(one, every),
        "## What the schedule does to the order",
        warmups(one),
        "Three hundred steps at the full rate, and three hundred that hold the whole decay:",
        decays(one),
        "## The rules' order",
        by_task(found),
        positions(found),
        by_scheme(found),
        by_rank(found),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Command line of this part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are kept")
    folder = parser.parse_args().folder
    found = tables(folder)
    panels = {mode: lines(given) for mode in PANELS if (given := views(found, mode))}
    said = {mode: advised(found, mode, folder) for mode in PANELS}
    (folder / "report.md").write_text(render(found, panels, said, folder))
    titled = {PANELS[mode]: given for mode, given in panels.items()}
    complete = {PANELS[mode]: [x for x in given if not x.method.endswith(" tasks")] for mode, given in said.items()}
    draw(titled, complete, folder / "regret.png")
    print((folder / "report.md").read_text())


if __name__ == "__main__":
    main()
