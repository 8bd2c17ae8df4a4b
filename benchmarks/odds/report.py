"""The page: said and true with families left out, what advice by the odds leads to, and the rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.odds.calibrate import Judged, Mask, auc, brier, fifths, mean
from benchmarks.odds.rates import Costs
from benchmarks.odds.replay import Outcome, Policy, Race, outcome, races
from initadvisor.trials.odds import LEAST_GAIN

PAGE = Path(__file__).parent / "results" / "odds.md"

CLOSE, CLOSE_KIND = 0.05, 0.15
"""How far said and true may be apart in a fifth, and in a kind of network."""

Table = list[Sequence[object]]


def markdown(heads: Sequence[str], rows: Table) -> str:
    """A table."""
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join(["---"] * len(heads)) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def two(x: float) -> str:
    """Two decimals."""
    return f"{x:.2f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.2f}"


def groups(judged: Judged) -> dict[str, Mask]:
    """What the tables show, by name."""
    pairs = judged.pairs
    long = np.array([p.record.long for p in pairs])
    null = np.array([p.design == "null" for p in pairs])
    settled = judged.weights > 0
    leads = np.array([p.leader for p in pairs])
    seeds = np.array([p.view.seeds for p in pairs])
    steps = np.array([p.view.steps for p in pairs])
    found = {"short tasks": ~long & ~null, "long tasks": long & ~null}
    found["leaders, short"], found["leaders, long"] = leads & ~long, leads & long
    found["two seeds"] = (seeds == 2) & ~null
    found["two seeds of one scheme (null)"] = null & settled
    for low, high in ((5, 15), (15, 30), (30, 80), (80, 250), (250, 2000)):
        found[f"long, {low} to {high} steps seen"] = long & ~null & (steps >= low) & (steps < high)
    return {name: mask for name, mask in found.items() if mask.any()}


def calibration(judged: Judged, before: Judged) -> str:
    """Said and true by fifths."""
    rows: Table = []
    for name, mask in groups(judged).items():
        part, prior = judged.where(mask), before.where(mask)
        for what in ("better", "worse"):
            said, true = getattr(part.said, what), getattr(part, what)
            cells = [f"{two(a)} / {two(b)}" for a, b in fifths(said, true, part.weights)]
            bare = brier(getattr(prior.said, what), true, part.weights)
            scores = (auc(said, true, part.weights), brier(said, true, part.weights), bare)
            rows.append((name, len(part.pairs), what, *cells, *(f"{x:.3f}" for x in scores)))
    return markdown(("pairs of", "count", "ends", *("said / true",) * 5, "AUC", "Brier", "Brier, rules alone"), rows)


def by_kind(judged: Judged, key: str) -> str:
    """Mean said and true of each kind of network, or of each family."""
    rows: Table = []
    names = np.array([getattr(p.record, key) for p in judged.pairs])
    long = np.array([p.record.long for p in judged.pairs])
    real = np.array([p.design != "null" for p in judged.pairs])
    for name in np.unique(names):
        cells: list[object] = [name]
        for which in (~long, long):
            part = judged.where((names == name) & which & real)
            count = len({p.record.task for p in part.pairs})
            cells.append(count or "")
            for what in ("better", "worse"):
                a, b = (mean(x, part.weights) for x in (getattr(part.said, what), getattr(part, what)))
                far = "**" if abs(a - b) > CLOSE_KIND else ""
                cells.append(f"{far}{two(a)} / {two(b)}{far}" if count else "")
        rows.append(cells)
    return markdown((key, "short tasks", "better", "worse by 2%", "long tasks", "better", "worse by 2%"), rows)


def gains(judged: Judged) -> str:
    """Expected and true gain by fifths, and how often the 90% interval holds."""
    rows: Table = []
    for name, mask in groups(judged).items():
        part = judged.where(mask)
        inside = ((part.gain >= part.said.low) & (part.gain <= part.said.high)).astype(float)
        cells = [f"{two(a)} / {two(b)}" for a, b in fifths(part.said.gain, part.gain, part.weights)]
        rows.append((name, *cells, f"{mean(inside, part.weights):.0%}"))
    return markdown(("pairs of", *("said / true",) * 5, "inside the 90% interval"), rows)


def advised(judged: Judged, least: float, bound: float, by: str = "leader", surely: float = 0.5) -> Policy:
    """Switch to the leader where a gain is to be expected and harm is not likely."""

    def pick(race: Race) -> int | None:
        i = race.leader if by == "leader" else race.expected
        said = judged.said
        go = said.gain[i] > least and said.better[i] >= surely and said.worse[i] <= bound
        return i if go else None

    return pick


SURELY = (0.6, 0.65, 0.7)
BOUNDS = (0.1, 0.2, 0.25, 0.3, 0.35, 1.0)


def policies(judged: Judged) -> Iterator[tuple[str, Policy]]:
    """What is compared."""
    yield "keep the current weights", lambda race: None
    yield "the rules' first, no trial", lambda race: race.members[0]
    yield "always the leader", lambda race: race.leader
    yield "the leader if it leads by 10%", lambda race: race.leader if _lead(judged, race.leader) > 0.1 else None
    for by, what in (("leader", "the leader"), ("expected", "the one with the largest expected gain")):
        for bound in BOUNDS:
            yield f"{what}, if worse ≤ {two(bound)}", advised(judged, LEAST_GAIN, bound, by)
    for least in (0.0, 0.02, 0.05):
        yield f"the last, if the gain is over {least:.0%}", advised(judged, least, 1.0, "expected")
    for surely in SURELY:
        yield f"the last, if better ≥ {two(surely)}", advised(judged, LEAST_GAIN, 1.0, "expected", surely)


def _lead(judged: Judged, i: int) -> float:
    view = judged.pairs[i].view
    return 1 - min(view.candidate) / min(view.current)


def _cells(found: Outcome) -> tuple[str, ...]:
    return f"{found.regret:.3f}", f"{found.harm:.1%}", f"{found.switched:.0%}", f"{found.idle:.0%}"


def decisions(judged: Judged) -> str:
    """Regret and harm of every policy, on short and on long tasks."""
    every = list(races(judged))
    long = [judged.pairs[r.leader].record.long for r in every]
    parts = {name: [r for r, x in zip(every, long, strict=True) if x is which] for name, which in PARTS}
    rows: Table = []
    for name, policy in policies(judged):
        rows.append((name, *(c for part in parts.values() if part for c in _cells(outcome(judged, part, policy)))))
    heads = [f"{what}, {name}" for name in parts if parts[name] for what in ("regret", "harm", "changes", "idle")]
    return markdown(("policy", *heads), rows)


PARTS = (("short", False), ("long", True))


def null(judged: Judged, bound: float) -> str:
    """How often two seeds of one scheme would be told apart."""
    rows: Table = []
    for name, seeds in (("one seed", 1), ("two seeds", 2)):
        said = judged.where(np.array([p.design == "null" and p.view.seeds == seeds for p in judged.pairs])).said
        if len(said.better):
            go = (said.gain > LEAST_GAIN) & (said.worse <= bound)
            told = [two(float(np.quantile(said.better, q))) for q in (0.1, 0.5, 0.9)]
            changes = [f"{(go & (said.better >= s)).mean():.0%}" for s in (0.5, *SURELY)]
            rows.append((name, len(said.better), *told, *changes, f"{(said.better > 0.9).mean():.1%}"))
    changes = [f"changes if better ≥ {two(s)}" for s in (0.5, *SURELY)]
    return markdown(("null pairs", "count", "better, said: 10%", "50%", "90%", *changes, "said over .9"), rows)


def rates(costs: Mapping[str, Sequence[Costs]]) -> str:
    """What the choice of a rate costs at the end, before and after."""
    rows: Table = [
        (name, c.seen, c.count, f"{c.best:.0%}", f"{c.costly:.0%}", f"{c.too_high:.0%}", f"{c.mean:.3f}")
        for name, some in costs.items()
        for c in some
    ]
    heads = ("choice", "seen", "cases", "best in the end", "costs > 2%", "of that too high", "mean cost")
    return markdown(heads, rows)


def page(
    made: Mapping[str, Any], judged: Judged, before: Judged, across: Judged | None, costs: Mapping[str, Sequence[Costs]]
) -> str:
    """The whole page."""
    p = made["provenance"]
    bound = made["action"]["most_worse"]
    section: Callable[[str, str, str], str] = lambda title, text, table: f"## {title}\n\n{text}\n\n{table}\n"  # noqa: E731
    parts = [
        "# Odds of early views: said and true\n",
        f"Made by `{p['by']}` on {p['made']} from {p['tasks']['short']} short tasks (`benchmarks/regret`, 120 to 900 "
        f"steps) and {p['tasks']['long']} long ones (`benchmarks/horizon`, 3,000 steps), {p['families']} families, "
        f"{sum(p['trainings'].values()):,} trainings, {p['pairs']:,} pairs of a view and its end; scikit-learn "
        f"{p['scikit-learn']}. Every figure is said by a fit that saw nothing of the family it is said of.\n",
        "A view is what a race has seen of a candidate and of the current weights on one or two seeds. Its end is the "
        "ratio of their final losses (best checkpoint) on other seeds where both were trained on others, on the same "
        "seed where not. Tasks, looks and designs count alike, a long task twice.\n",
        section(
            "By fifths",
            "Fifths of the pairs by what was said, least first. *Rules alone* are odds from the rules' order and the "
            "facts of the network, nothing trained.",
            calibration(judged, before),
        ),
        section("Expected gain", "Relative reduction of the final loss, by fifths of what was said.", gains(judged)),
        section(
            "By kind of network",
            f"Mean said and true over all pairs of a kind; bold where they are more than {CLOSE_KIND:.2f} apart.",
            by_kind(judged, "kind"),
        ),
        section("By family", "The same for each family; most have one or two tasks.", by_kind(judged, "family")),
    ]
    if across is not None:
        parts.append(
            section(
                "Fitted on short tasks alone, said of long ones",
                "Other families.",
                calibration(across, before_of(before)),
            )
        )
    parts += [
        section(
            "What advice would have led to",
            "Each look at each race of the records, at one rate or at each scheme's leading rate: regret (0 the best "
            "of the race in the end, 1 the current weights), share that ends worse than the current weights by over "
            "2%, share of changes, and of the changes those that gain less than 1%. By odds, a change needs an "
            "expected gain over 1%, too.",
            decisions(judged),
        ),
        section(
            "Two seeds of one scheme",
            f"Nothing is to be won or lost; advice changes where the expected gain is over 1% and `worse` at most "
            f"{bound}. One seed cannot tell a difference of two seeds from one of two schemes; two seeds a side can.",
            null(judged, bound),
        ),
        section(
            "The rate",
            "Of three rates of a scheme, the one taken after an early view, against the best in the end. *After* is "
            "`choose_rate`, fitted without the family.",
            rates(costs),
        ),
    ]
    return "\n".join(parts)


def before_of(before: Judged) -> Judged:
    """The long part of what the rules alone say."""
    return before.where(np.array([p.record.long for p in before.pairs]))
