"""Regret, harm and the replayed searches, on small curves whose answers can be told by hand."""

import math
from dataclasses import replace

import pytest

from benchmarks.horizon import summary
from benchmarks.horizon.methods import (
    FREE,
    SEARCHES,
    affordable,
    asha,
    default,
    halving,
    one_rung,
    ordered,
    rules,
    tpe_hyperband,
)
from benchmarks.horizon.pool import SCREENING_STEPS, SEEDS
from benchmarks.horizon.report import by_cost
from benchmarks.horizon.store import CONSTANT, FULL, Row
from benchmarks.horizon.summary import COSTS, line, lines, rho, spearman
from benchmarks.horizon.table import Arm, View, build
from benchmarks.horizon.task import Schedule
from benchmarks.horizon.tasks import TASKS
from benchmarks.horizon.train import Curve, evaluation_steps

TASK = TASKS["tanh_16"]
STEPS = evaluation_steps(TASK.steps)


def falling(end, pace):
    """From 4 down to ``end``, the faster the higher ``pace``."""
    return [end + (4.0 - end) * math.exp(-pace * s) for s in STEPS]


def row(scheme, heldout, *, lr=TASK.rate, seed=SEEDS[0], variant=FULL, steps=STEPS):
    heldout = tuple(heldout)
    curve = Curve(steps[: len(heldout)], heldout, (math.nan, *heldout[1:]), None, 1.0, 0.0)
    digest = "current" if scheme == "current" else scheme
    return Row(TASK.name, TASK.version, scheme, digest, lr, seed, variant, curve)


def proposals(*names):
    kinds = [{"name": n, "kind": "rules", "prior": 1 - 0.1 * i, "digest": n} for i, n in enumerate(names)]
    return [{**k, "trained": True, "rated": True} for k in kinds]


def view(*ends, pace=0.01, others=()):
    """The default and further schemes that end at these losses and are ordered from the first step on."""
    names = ["current", *(f"s{i}" for i in range(1, len(ends)))]
    rows = [row(n, falling(e, pace)) for n, e in zip(names, ends, strict=True)]
    return build(TASK, [*rows, *others], proposals(*names)).one_rate


def test_regret_is_zero_at_the_best_and_one_at_the_default():
    v = view(2.0, 1.0, 1.5)
    assert [v.regret(a) for a in v.arms] == pytest.approx([1.0, 0.0, 0.5], abs=1e-6)
    assert v.is_won
    assert v.best.scheme == "s1"


def test_regret_has_a_floor_where_nothing_is_to_be_won_and_a_ceiling():
    v = view(2.0, 1.999, 1e6)
    assert not v.is_won
    assert v.regret(v.arms[0]) == pytest.approx(0.001 / 0.1)
    assert v.regret(v.arms[2]) == 10.0


def test_harm_is_beyond_two_percent_and_two_standard_errors():
    v = view(2.0, 2.03, 2.05)
    assert [v.harms(a) for a in v.arms] == [False, False, True]
    noisy = [
        row(n, falling(e, 0.01), seed=s)
        for n, ends in {"current": (2.0, 2.0), "s2": (1.0, 3.0)}.items()
        for s, e in zip(SEEDS[1:], ends, strict=True)
    ]
    assert not any(view(2.0, 2.03, 2.05, others=noisy).harms(a) for a in v.arms[1:2])
    wide = view(2.0, 2.03, 2.05, others=noisy)
    assert wide.spread > 0.5
    assert not any(wide.harms(a) for a in wide.arms), "what differs by one from seed to seed is not told from noise"


def test_ends_are_differences_to_the_default_on_the_same_seeds():
    """A hard second seed raises all ends alike and must not favour an arm that was not trained there."""
    second = [row("current", falling(3.0, 0.01), seed=SEEDS[1]), row("s1", falling(2.0, 0.01), seed=SEEDS[1])]
    v = view(2.0, 1.0, 1.2, others=second)
    assert [v.end(a) for a in v.arms] == pytest.approx([2.5, 1.5, 1.7], abs=1e-6)


def test_a_table_is_complete_rate_by_rate():
    low = [row("current", falling(2.0, 0.01), lr=TASK.lrs[0])]
    rows = [row("current", falling(2.0, 0.01)), row("s1", falling(1.0, 0.01)), *low]
    table = build(TASK, rows, proposals("current", "s1"))
    assert table.one_rate is not None
    assert table.at(TASK.lrs[0]) is None
    assert table.all_rates is None


def test_default_and_rules_cost_nothing():
    v = view(2.0, 1.0, 0.5)
    assert default(v, 0)[0].is_default
    assert rules(v, 0)[0].scheme == "s1"


def test_arms_are_dropped_rates_first():
    rows = [row(n, falling(1.0, 0.01), lr=lr) for n in ("current", "s1", "s2") for lr in TASK.lrs]
    v = build(TASK, rows, proposals("current", "s1", "s2")).all_rates
    assert len(affordable(v, 100)) == 9
    assert {a.lr for a in affordable(v, 6)} == {TASK.rate, TASK.lrs[0]}
    assert [(a.rank, a.lr) for a in affordable(v, 2)] == [(0, TASK.rate), (1, TASK.rate)]


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("cost", COSTS)
def test_searches_pick_arms_of_the_view_and_the_best_where_it_leads_throughout(name, cost):
    v = view(2.0, 1.5, 1.0, 1.8)
    picks = SEARCHES[name](v, round(cost * TASK.steps))
    assert picks
    assert all(a in v.arms for a in picks)
    if cost >= 1 and name != "TPE + Hyperband":
        assert {a.scheme for a in picks} == {"s2"}


def steps_looked_at(monkeypatch):
    looked = {}

    def until(self, step):
        looked[self.key] = max(looked.get(self.key, 0), step)
        return real(self, step)

    real = Row.until
    monkeypatch.setattr(Row, "until", until)
    return looked


@pytest.mark.parametrize("method", [halving, one_rung], ids=["halving", "one rung"])
@pytest.mark.parametrize("budget", [0, 39, 60, 150, 300, 900, 3000, 9000])
def test_no_search_looks_further_than_it_pays(method, budget, monkeypatch):
    looked = steps_looked_at(monkeypatch)
    method(view(2.0, 1.5, 1.0, 1.8, 1.2), budget)
    assert sum(looked.values()) <= budget


def test_halving_uses_what_it_may(monkeypatch):
    looked = steps_looked_at(monkeypatch)
    halving(view(2.0, 1.5, 1.0, 1.8, 1.2), 900)
    assert sum(looked.values()) >= 450, "rungs double, so at most half is left"


def test_halving_errs_where_the_order_turns_late():
    rows = [*(a.first for a in view(2.0, 1.0, 1.2).arms), row("late", falling(0.5, 0.002))]
    late = build(TASK, rows, proposals("current", "s1", "s2", "late")).one_rate
    assert late.best.scheme == "late"
    assert halving(late, 300)[0].scheme == "s1"
    assert halving(late, 20_000, first=1280)[0].scheme == "late"


def test_rungs_leave_the_warm_up_out_and_the_rest_starts_again(monkeypatch):
    """As long as the warm-up is felt, the order under it is upside down; at the full rate it is that of the end."""
    ends = {"current": 2.0, "s1": 1.0, "s2": 1.5}
    screened = [s for s in STEPS if s <= SCREENING_STEPS]
    full = {n: falling(e, 0.01) for n, e in ends.items()}
    hidden = {n: [9 - x if s <= SCREENING_STEPS else x for s, x in zip(STEPS, full[n], strict=True)] for n in ends}
    rows = [row(n, [9.0, *hidden[n][1:]]) for n in ends]
    rows += [row(n, full[n][: len(screened)], variant=CONSTANT) for n in ends]
    warm = replace(TASK, schedule=Schedule("cosine", SCREENING_STEPS))
    v = build(warm, rows, proposals(*ends)).one_rate
    assert halving(v, 200)[0].scheme == "s1"
    assert halving(v, 200, warm=True)[0].scheme == "current"
    looked = steps_looked_at(monkeypatch)
    halving(v, 4000)
    assert sum(looked.values()) <= 4000


def test_lots_are_averaged_within_a_task():
    v = view(2.0, 1.0)
    found = line("m", 0.1, [(v, [v.arms[0], v.arms[1]]), (v, [v.arms[1]])])
    assert (found.tasks, found.regret, found.harm) == (2, pytest.approx(0.25), 0.0)


def test_asha_and_tpe_are_fixed_by_their_draws():
    v = view(2.0, 1.5, 1.0, 1.8)
    for search in (asha, tpe_hyperband):
        assert [a.scheme for a in search(v, 600)] == [a.scheme for a in search(view(2.0, 1.5, 1.0, 1.8), 600)]


def test_rank_correlation():
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert spearman([1, 2, math.inf], [10, 20, 30]) == pytest.approx(1.0)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert rho([view(2.0, 1.0, 1.5)], summary.as_trained, 40) == pytest.approx(1.0)


def test_mean_training_loss_weighs_steps():
    curve = Curve((0, 1, 3), (4.0, 3.0, 2.0), (math.nan, 5.0, 2.0), None, 1.0, 0.0)
    found = Row("t", 1, "s", "d", 0.1, 1, FULL, curve)
    assert summary.mean_training_loss(found, 3) == pytest.approx((5 + 2 * 2) / 3)
    assert summary.mean_training_loss(found, 2) == 5.0


def test_every_method_has_a_line_at_every_cost():
    found = lines([view(2.0, 1.5, 1.0)])
    assert len(found) == len(FREE) + len(SEARCHES) * len(COSTS)
    table = by_cost(found, "regret")
    assert len(table.splitlines()) == 2 + len(FREE) + len(SEARCHES)


def test_the_rate_of_a_pick_is_judged_against_its_other_rates():
    rows = [row("current", falling(2.0, 0.01), lr=lr) for lr in TASK.lrs]
    rows += [row("s1", falling(e, 0.01), lr=lr) for e, lr in zip((1.5, 1.0, 1.01), TASK.lrs, strict=True)]
    v = build(TASK, rows, proposals("current", "s1")).all_rates
    assert [summary.costs_by_rate(v, a) for a in v.arms if a.scheme == "s1"] == [True, False, False]


def test_arms_are_told_apart_by_identity():
    """Searches keep them in sets."""
    v = view(2.0, 1.0)
    assert len({*v.arms, *v.arms}) == 2
    assert isinstance(v, View)
    assert isinstance(v.arms[0], Arm)


def test_the_rules_order_settles_what_is_nearly_level():
    v = view(2.0, 1.0, 0.99, 1.5)
    losses = [a.first.until(40) for a in v.arms]
    assert [a.scheme for a in ordered(v.arms, losses, 0.0)] == ["s2", "s1", "s3", "current"]
    assert ordered(v.arms, losses, 2.0)[0].scheme == "s1"
    assert ordered(v.arms, losses, 2.0)[-1].is_default
    assert ordered(v.arms[:1], losses[:1], 2.0) == [v.arms[0]]
