"""The odds' artefact: made from the committed results by the code that is here, and said as the advisor says it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.odds import rates, replay
from benchmarks.odds.calibrate import auc, brier, fifths, left_out
from benchmarks.odds.fit import GAP_UNIT, Model, columns, regress, untried
from benchmarks.odds.pairs import Pair, looks, pairs, weights
from benchmarks.odds.records import KINDS, Record, best_so_far, digest, inputs, long_records, short_records
from initadvisor.trials.odds import ARTEFACT, Odds, artefact, no_trial, odds
from initadvisor.trials.view import seen

FEW = ("tanh_24", "gpt_prenorm", "lstm_adding")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(short_records(FEW))


@pytest.fixture(scope="module")
def found(records: list[Record]) -> list[Pair]:
    return list(pairs(records))


def shipped(*, tried: bool, like: Model) -> Model:
    """The artefact's coefficients in the order of the columns."""
    held = artefact() if tried else artefact()["untried"]
    odd = [*held.get("trust", {}).values(), *held["prior"].values()]
    assert (len(odd), len(held["spread"])) == (len(like.odd), len(like.even))
    return Model(np.array(odd), np.array(list(held["spread"].values())))


def test_arrays_say_what_the_advisor_says(found: list[Pair]) -> None:
    """The page judges arrays, the advisor says single odds: the same figures."""
    some = found[:: len(found) // 60]
    given, before = columns(some), untried(some)
    ends, weight = np.array([p.end for p in some]), weights(some)
    for columns_, tried in ((given, True), (before, False)):
        said = shipped(tried=tried, like=regress(columns_, ends, weight)).said(columns_)
        for i, pair in enumerate(some):
            single = odds(pair.view) if tried else no_trial(pair.view.place, pair.view.facts)
            assert _same(single, said, i)


def _same(single: Odds, said: object, i: int) -> bool:
    return all(
        getattr(single, n) == pytest.approx(float(getattr(said, n)[i]), abs=1e-9)
        for n in ("better", "worse", "gain", "low", "high")
    )


def test_the_artefact_reads_as_the_code_does(found: list[Pair]) -> None:
    assert artefact()["unit"]["gap"] == GAP_UNIT
    given = columns(found[:10])
    assert [n.removeprefix("lead × ") for n in given.odd_names] == [*artefact()["trust"], *artefact()["prior"]]
    assert list(given.even_names) == list(artefact()["spread"])
    assert ARTEFACT.read_text().endswith("}\n") and set(json.loads(ARTEFACT.read_text())) == set(artefact())


def test_views_hold_what_a_race_had_seen(records: list[Record], found: list[Pair]) -> None:
    for record in records:
        assert all(0 < record.steps[i] < 0.6 * record.full_steps for i in looks(record))
    for pair in found:
        assert len(pair.view.candidate) == len(pair.view.current) == pair.look + 1
        assert math.isfinite(pair.end) and pair.view.steps == pair.record.steps[pair.look]
    leaders = [p for p in found if p.leader and p.design == "early"]
    assert len(leaders) == sum(len(looks(r)) for r in records)


def test_ends_are_of_other_seeds_where_there_are_some(records: list[Record]) -> None:
    """Changing what one seed ends with changes no odds' truth of views on that seed alone."""
    record = records[0]
    seed = record.seeds("current", record.own_rate("current"))[0]
    shifted = replace(record, ends={k: x * (10 if k.seed == seed else 1) for k, x in record.ends.items()})
    for a, b in zip(pairs([record]), pairs([shifted]), strict=True):
        if a.design == "own" and a.view.seeds == 1 and a.view.candidate[-1] == _last(record, a, seed):
            assert a.end == b.end


def _last(record: Record, pair: Pair, seed: int) -> float:
    return float(next(c[pair.look] for k, c in record.curves.items() if k[0] == pair.scheme and k.seed == seed))


def test_null_pairs_favour_nobody(found: list[Pair]) -> None:
    null = [p for p in found if p.design == "null"]
    assert weights(null)[[p.view.seeds == 2 for p in null]].max() == 0
    assert abs(np.mean([p.end for p in null])) < 1e-9 and {p.view.place for p in null} == {-1}


def test_tasks_count_alike(found: list[Pair]) -> None:
    weight = weights([p for p in found if p.design != "null"])
    task = np.array([p.record.task for p in found if p.design != "null"])
    totals = [weight[task == name].sum() for name in FEW]
    assert totals == pytest.approx([totals[0]] * len(FEW), rel=0.3)


def test_a_family_is_judged_by_others(found: list[Pair]) -> None:
    """What one family's ends are cannot change what is said of it."""
    given, weight = columns(found), weights(found)
    first = left_out(found, given, weight)
    turned = [replace(p, end=-p.end) if p.record.task == FEW[0] else p for p in found]
    second = left_out(turned, given, weight)
    mine = np.array([p.record.task == FEW[0] for p in found])
    assert np.array_equal(first.said.better[mine], second.said.better[mine])
    assert not np.array_equal(first.said.better[~mine], second.said.better[~mine])


def test_calibrated_odds_look_calibrated() -> None:
    generator = np.random.default_rng(0)
    said = generator.random(40_000)
    true = (generator.random(40_000) < said).astype(float)
    weight = np.ones(40_000)
    # A fifth holds 8,000 draws: three standard errors of its mean are below .017.
    assert all(abs(a - b) < 0.017 for a, b in fifths(said, true, weight))
    assert brier(said, true, weight) == pytest.approx(1 / 6, abs=0.01)
    assert auc(said, true, weight) == pytest.approx(5 / 6, abs=0.01)


def test_replayed_races_know_best_and_worst(found: list[Pair]) -> None:
    judged = left_out(found, columns(found), weights(found))
    races = list(replay.races(judged))
    best = replay.outcome(judged, races, lambda r: max(r.members, key=lambda i: judged.ends[i]))
    keep = replay.outcome(judged, races, lambda r: None)
    assert keep.harm == keep.switched == 0 and best.regret <= 1e-9 + keep.regret
    assert replay.regret(0.5, 0.5) == 0 and replay.regret(0.0, 0.5) == pytest.approx(1.0)


def test_rates_are_judged_by_their_ends(records: list[Record]) -> None:
    some = list(rates.cases(records))
    perfect = [min(c.ends, key=lambda lr, c=c: c.ends[lr]) for c in some]  # type: ignore[misc]
    assert all(c.mean == 0 and c.best == pytest.approx(1) for c in rates.costs(some, perfect))
    assert all(lr in c.record.lrs for lr, c in zip(rates.left_out(some), some, strict=True))


def test_curves_end_and_break() -> None:
    assert best_so_far((3.0, 2.0, math.nan, 1.0), 5).tolist() == [3.0, 2.0, 2.0, 1.0, 1.0]
    assert seen(20, 3000) > 0 and "mlp" in KINDS
    lines = {"a": ["1", "2"], "b": ["3"]}
    assert digest(lines) == digest({"b": ["3"], "a": ["2", "1"]}) != digest({"a": ["1", "2"], "b": ["4"]})


def test_the_artefact_is_of_the_committed_results() -> None:
    """Run ``python -m benchmarks.odds`` after results have changed; long trainings may have been added since."""
    held, made = inputs(), artefact()["provenance"]
    assert made["inputs"]["regret"] == digest(held["regret"])
    assert made["trainings"]["horizon"] <= len(held["horizon"]["curves"])


def test_long_tasks_are_read() -> None:
    for record in long_records():
        assert record.long and record.steps[0] == 0 and record.place
        break
