"""Regret, nulls, intervals and replays on tables whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.regret import methods
from benchmarks.regret.bootstrap import Bootstrap, mean, quantile
from benchmarks.regret.limits import limits, regrets_of_best
from benchmarks.regret.summary import share_interval
from benchmarks.regret.table import (
    DENOMINATOR_FLOOR,
    REGRET_CEILING,
    Row,
    Table,
    excess,
    honest_gap,
    is_null,
    regret,
    standard_error,
)
from benchmarks.regret.tasks import TASKS
from benchmarks.regret.train import Curve, evaluation_steps

TASK = TASKS["tanh_24"]
STEPS = evaluation_steps(TASK.steps)


def curve(values):
    return Curve(STEPS[: len(values)], tuple(values), tuple(values), len(values) < len(STEPS), 1.0, 0.0)


def flat(level):
    return curve([level] * len(STEPS))


def row(name, losses, *, kind="textbook", prior=0.0, tuning=None, calibrations=()):
    losses = np.asarray(losses, dtype=float)
    tuning = tuning or {lr: flat(float(losses.mean())) for lr in TASK.lrs}
    return Row(name, kind, prior, calibrations, name, TASK.lrs[0], losses, tuning)


def table(*rows):
    return Table(TASK, rows)


losses = st.floats(0.01, 10)


@given(losses, losses, losses)
@settings(deadline=None, max_examples=60)
def test_regret_is_zero_at_the_best_and_one_at_the_default(a, b, c):
    best, pick, default = sorted((a, b, c))
    at = lambda x: float(regret(np.array(x), np.array(best), np.array(default)))  # noqa: E731
    assert at(best) == 0
    assert 0 <= at(pick) <= at(default) <= 1 + 1e-9
    if default - best >= DENOMINATOR_FLOOR * default:
        assert at(default) == pytest.approx(1)


def test_regret_by_hand():
    pick, best, default = (
        np.array([0.5, 1.0, 0.99, 99.0]),
        np.array([0.2, 0.2, 0.98, 0.2]),
        np.array([1.0, 0.6, 1.0, 1.0]),
    )
    expected = [0.3 / 0.8, 2.0, 0.01 / 0.05, REGRET_CEILING]
    np.testing.assert_allclose(regret(pick, best, default), expected)


@given(losses, losses, losses, st.floats(0.1, 100))
@settings(deadline=None, max_examples=60)
def test_regret_knows_no_unit(pick, best, default, unit):
    best = min(pick, best, default)
    args = np.array(pick), np.array(best), np.array(default)
    np.testing.assert_allclose(regret(*args), regret(*(unit * a for a in args)), rtol=1e-6, atol=1e-9)


def test_honest_gap_is_unbiased_where_nothing_matters_and_finds_what_does():
    rng = np.random.default_rng(0)
    gaps, naive, nulls, fooled = [], [], [], []
    repeats, schemes = 400, 20
    for _ in range(repeats):
        t = table(*(row(f"s{i}", 1 + 0.1 * rng.standard_normal(4)) for i in range(schemes)))
        gaps.append(honest_gap(t).mean())
        naive.append(t.default.mean() - t.best.losses.mean())
        nulls.append(is_null(t))
        difference = t.default - t.best.losses
        fooled.append(difference.mean() <= 2 * standard_error(difference))
    # Standard deviation of the mean of 400 gaps, each of 4 differences of N(0, .1): at most .1·√2/√400.
    assert abs(np.mean(gaps)) < 4 * 0.1 * math.sqrt(2 / repeats)
    assert np.mean(naive) > 0.05
    # A t-test with 3 degrees of freedom errs 7% at 2 standard errors, and gaps that share seeds a little more often;
    # three standard deviations of 400 draws are 5%. Taking the least of twenty means at its word errs far more often.
    assert np.mean(nulls) > 0.8
    assert np.mean(fooled) < np.mean(nulls) - 0.1
    real = table(row("current", [1.0, 1.1, 0.9, 1.0]), row("a", [0.2, 0.25, 0.2, 0.21]), row("b", [1.0, 0.9, 1.1, 1.0]))
    assert not is_null(real)


def test_excess_counts_paired_standard_errors():
    t = table(row("current", [1.0, 2.0, 3.0, 4.0]), row("a", [1.1, 2.3, 3.1, 4.3]))
    difference = np.array([0.1, 0.3, 0.1, 0.3])
    assert excess(t, t.rows[1].losses) == pytest.approx(0.2 / standard_error(difference))
    assert excess(t, t.default) == 0
    assert excess(t, t.default - 0.5 * difference) < 0


def test_quantile_gives_each_task_one_vote():
    many = [np.zeros(100), np.ones(1), np.ones(1)]
    assert quantile(0.5)(many) == pytest.approx(1)
    assert mean(many) == pytest.approx(2 / 3)
    values = np.arange(101.0)
    assert quantile(0.9)([np.array([v]) for v in values]) == pytest.approx(90, abs=0.5)


def test_bootstrap_of_equal_tasks_is_a_point_and_of_unequal_ones_is_not():
    fixed = table(row("current", [1.0] * 4), row("best", [0.5] * 4), row("mid", [0.75] * 4))
    tables = {f"t{i}": fixed for i in range(8)}
    bootstrap = Bootstrap(tables, resamples=200)
    same = {name: bootstrap.regrets(name, [fixed.rows[2].losses]) for name in tables}
    interval = bootstrap.interval(same, mean)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))
    mixed = {name: bootstrap.regrets(name, [fixed.rows[i % 2].losses]) for i, name in enumerate(tables)}
    interval = bootstrap.interval(mixed, mean)
    assert interval.value == pytest.approx(0.5)
    # Eight fair coins: the 95% interval of their mean reaches at least to 2/8 and 6/8.
    assert interval.low <= 0.25 < 0.75 <= interval.high


def test_bootstrap_resamples_seeds_with_the_tasks():
    noisy = table(row("current", [1.0, 1.0, 1.0, 1.0]), row("best", [0.1, 0.5, 0.1, 0.5]))
    regrets = Bootstrap({"t": noisy}, resamples=300).regrets("t", [np.full(4, 0.5)])
    assert regrets.shape == (1, 301)
    assert regrets[0, 0] == pytest.approx((0.5 - 0.3) / 0.7)
    assert regrets[0, 1:].min() == pytest.approx(0)
    assert regrets[0, 1:].max() == pytest.approx(0.4 / 0.9)


def test_share_interval_holds_its_share():
    interval = share_interval(2, 10)
    assert interval.low < 0.2 < interval.high
    assert math.isnan(share_interval(0, 0).value)


def falling(end, *, fast):
    return curve(
        np.interp(STEPS, [0, (0.05 if fast else 0.8) * TASK.steps, TASK.steps], [2.0, end if fast else 1.5, end])
    )


def grid(made):
    return dict.fromkeys(TASK.lrs, made)


def test_one_rung_is_fooled_by_a_fast_start_and_the_oracle_is_not():
    t = table(
        row("current", [2.0] * 4),
        row("fast", [1.0] * 4, tuning=grid(falling(1.0, fast=True))),
        row("slow", [0.1] * 4, tuning=grid(falling(0.1, fast=False))),
    )
    assert methods.one_rung(t, 0)[0].name == "fast"
    assert methods.oracle(t, 0)[0].name == "slow"


def test_methods_pick_by_kind_name_and_calibration():
    t = table(
        row("current", [2.0] * 4, kind="current"),
        row("he", [1.0] * 4),
        row("weak_rule", [1.0] * 4, kind="rules", prior=0.1),
        row("strong_rule", [1.0] * 4, kind="rules", prior=0.9),
        row("lsuv_x", [1.0] * 4, kind="data_driven", calibrations=("lsuv",)),
    )
    assert [r.name for r in methods.rules(t, 0)] == ["strong_rule"]
    assert [r.name for r in methods.calibrated("lsuv")(t, 0)] == ["lsuv_x"]
    assert [r.name for r in methods.named("he")(t, 0)] == ["he"]
    assert methods.named("absent")(t, 0) == []
    assert len(methods.random_choice(t, 0)) == 5


def test_search_spends_no_more_than_its_budget_and_finds_the_best_with_enough():
    rows = [row("current", [2.0] * 4)] + [
        row(f"s{i}", [1 + 0.1 * i] * 4, tuning=grid(flat(1 + 0.1 * i))) for i in range(6)
    ]
    t = table(*rows)
    assert {r.name for r in methods.tpe_hyperband(t, 0)} == {"current"}
    assert {r.name for r in methods.tpe_hyperband(t, 60 * TASK.steps)} == {"s0"}


def test_a_sweep_chooses_on_some_seeds_and_is_judged_on_the_others():
    """By hand: on the first seed the second scheme is best, on the others the third; their best mean is 0.3."""
    losses = np.array([[1.0, 1.0, 1.0], [0.1, 0.9, 0.9], [0.4, 0.2, 0.3]])
    best, span = 0.3, 1 - 0.3
    one = [(0.9 - best) / span, (0.35 - best) / span, (0.3 - best) / span]
    np.testing.assert_allclose(regrets_of_best(losses, 1), one)
    # On seeds 0 and 1 the third scheme wins .3 to .5, and so it does on 0 and 2, and on 1 and 2.
    np.testing.assert_allclose(regrets_of_best(losses, 2), [0, (0.2 - best) / span, (0.4 - best) / span], atol=1e-12)


def test_without_noise_one_seed_is_enough_and_what_it_costs_is_counted():
    made = table(row("current", [1.0] * 4, kind="current"), row("a", [0.2] * 4), row("b", [0.5] * 4))
    found = limits({"tanh_24": made}, Bootstrap({"tanh_24": made}, resamples=20))
    assert [x.seeds for x in found] == [1, 2, 3]
    assert [x.mean.value for x in found] == [x.p90.value for x in found] == pytest.approx([0, 0, 0])
    assert [x.cost for x in found] == [3 * (len(TASK.lrs) + k) for k in (1, 2, 3)]
    sweep = 4 * 3 * len(TASK.lrs)
    assert [x.of_sweep for x in found] == pytest.approx([x.cost / sweep for x in found])
    assert limits({}, Bootstrap({}, resamples=5)) == []


def test_noise_alone_leaves_a_sweep_regret():
    rng = np.random.default_rng(0)
    losses = np.vstack([np.ones(4), 0.5 + 0.1 * rng.normal(size=(20, 4))])
    means = [regrets_of_best(losses, k).mean() for k in (1, 2, 3)]
    assert means[0] > 0.05, "twenty equal schemes: the best of them on one seed is not the best on others"
