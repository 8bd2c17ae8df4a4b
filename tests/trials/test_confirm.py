from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.stats import binom

from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import Status
from initadvisor.trials.confirm import Confirmation, Wave, close, rates_to_confirm
from initadvisor.trials.decide import ALPHA
from initadvisor.trials.result import Verdict
from initadvisor.trials.standings import Standing

HORIZON = 100
DRAWS = 1500
LOOKS = [(3, 5), (3, 7), (4, 7)]


def runner(scheme: str, lr: float = 0.1, heldout: float = 1.0, error: float = 0.0, horizon: int = 50) -> Standing:
    return Standing(scheme, lr, heldout, heldout, error, horizon, 2)


@dataclass
class Bench:
    """A confirmation whose trainings are read from a table: losses by scheme and rate, one per seed; None died."""

    losses: Mapping[tuple[str, float], Sequence[float | None]]
    first: int = 3
    folds: int | None = None
    rate_seeds: int = 2
    waves: list[Wave] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(next(iter(self.losses.values())))
        controls = tuple(runner(s, lr) for s, lr in self.losses if s == "current")
        challenger = next(runner(s, lr) for s, lr in self.losses if s != "current")
        self.states: dict[MemberKey, MemberState] = {}
        self.seeds = tuple(range(100, 100 + count))
        self.confirmation = Confirmation(
            controls,
            challenger,
            self.seeds,
            self.first,
            self.rate_seeds,
            HORIZON,
            2.3,
            {} if self.folds is None else {s: s % self.folds for s in self.seeds},
            self.states,
        )

    def train(self, wave: Wave) -> None:
        self.waves.append(wave)
        for r in wave.runners:
            for seed in wave.seeds:
                key = MemberKey("confirm", r.scheme, seed, r.lr)
                assert key not in self.states, "nothing is trained twice"
                loss = self.losses[r.scheme, r.lr][self.seeds.index(seed)]
                self.states[key] = (
                    MemberState(key, steps=3, status=Status.DIVERGED)
                    if loss is None
                    else MemberState(key, steps=HORIZON, heldout=((0, 2.3), (HORIZON, loss)))
                )

    def run(self, may: Callable[[Wave], bool] = lambda wave: True) -> Verdict:
        self.confirmation.run(self.train, may)
        return self.confirmation.finding.verdict


def unclear(other_rate: float) -> Bench:
    """A challenger that is ahead, but not for sure; at another rate the current weights gain ``other_rate``."""
    first = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9]
    return Bench(
        {
            ("current", 0.1): first,
            ("current", 0.3): [x - other_rate for x in first],
            ("new", 0.1): [x - 0.1 + 0.15 * (i % 2) for i, x in enumerate(first)],
        }
    )


def allowed(rate: float) -> float:
    """Largest count that a rate of ``rate`` exceeds once in ten thousand times."""
    return float(binom.ppf(1 - 1e-4, DRAWS, rate))


def test_a_clear_case_takes_the_first_seeds_of_two_runners_alone() -> None:
    bench = Bench({("current", 0.1): [2.3, 2.31, 2.29] * 2, ("current", 0.3): [2.3] * 6, ("new", 0.1): [0.1] * 6})
    assert bench.run() is Verdict.SWITCH
    assert [(len(w.runners), len(w.seeds)) for w in bench.waves] == [(2, 3)]


def test_weights_that_are_kept_are_kept_at_the_rate_that_is_better_on_fresh_seeds() -> None:
    bench = Bench({("current", 0.1): [1.0] * 6, ("current", 0.3): [0.8] * 6, ("new", 0.1): [1.2, 0.9, 1.1] * 2})
    assert bench.run() is Verdict.KEEP
    assert bench.confirmation.kept.lr == 0.3
    assert bench.confirmation.control.lr == 0.1
    assert [(len(w.runners), len(w.seeds)) for w in bench.waves] == [(2, 3), (1, 2)], "who is behind goes no further"
    assert "at learning rate 0.3 than at 0.1" in bench.confirmation.about_rate[0]


def test_a_challenger_ahead_goes_on_to_all_seeds_against_the_rate_that_was_chosen_before() -> None:
    """Whichever rate of the current weights does best on the seeds that judge, it was not chosen by them."""
    bench = unclear(other_rate=0.01)
    assert bench.run() is Verdict.UNDECIDED
    assert [(len(w.runners), len(w.seeds)) for w in bench.waves] == [(2, 3), (2, 3), (1, 2)]
    assert len(bench.confirmation.pairs()) == 6
    assert bench.confirmation.kept.lr == 0.3


def test_what_another_rate_brings_as_well_is_no_reason_to_doubt() -> None:
    """The challenger may be better than at the one rate; at another the current weights are."""
    bench = unclear(other_rate=0.3)
    assert bench.run() is Verdict.KEEP
    assert "at learning rate 0.3 the current weights do as well" in bench.confirmation.finding.why


@pytest.mark.parametrize(("rung", "kept"), [(1.0, 0.3), (1.1, 0.3), (1.19, 0.1)])
def test_what_the_rungs_saw_counts_half_beside_fresh_seeds(rung: float, kept: float) -> None:
    """On fresh seeds the other rate is ahead by .08, so it may have been behind by .16 in the last rung."""
    bench = Bench({("current", 0.1): [1.0] * 6, ("current", 0.3): [0.92] * 6, ("new", 0.1): [1.2] * 6})
    bench.confirmation.controls = runner("current", 0.1, 1.0), runner("current", 0.3, rung)
    assert bench.run() is Verdict.KEEP
    assert bench.confirmation.kept.lr == kept


def test_more_seeds_of_other_rates_are_more_to_choose_by() -> None:
    """On two seeds the other rate is ahead by luck; on four it is behind."""
    losses = {("current", 0.1): [1.0] * 7, ("current", 0.3): [0.8, 0.8, 1.4, 1.4] * 2, ("new", 0.1): [1.2] * 7}
    kept = {}
    for count in (2, 4):
        bench = Bench(losses, first=4, rate_seeds=count)
        assert bench.run() is Verdict.KEEP
        assert bench.waves[-1].seeds == bench.seeds[:count]
        kept[count] = bench.confirmation.kept.lr
    assert kept == {2: 0.3, 4: 0.1}


def test_whether_the_weights_do_as_well_is_read_from_fresh_seeds_alone() -> None:
    """The rungs chose the challenger; what they saw of it would count for it twice."""
    bench = unclear(other_rate=0.08)
    bench.confirmation.challenger = runner("new", 0.1, heldout=0.0)
    first, other = bench.confirmation.controls
    bench.confirmation.controls = replace(first, heldout=9.0), replace(other, heldout=9.0)
    assert bench.run() is Verdict.KEEP
    assert "do as well" in bench.confirmation.finding.why


def test_a_rate_that_dies_is_not_the_one_to_keep() -> None:
    bench = Bench({("current", 0.1): [1.0] * 6, ("current", 0.3): [0.2, None, 0.2] * 2, ("new", 0.1): [1.1] * 6})
    assert bench.run() is Verdict.KEEP
    assert bench.confirmation.kept.lr == 0.1


def test_current_weights_that_die_everywhere_lose() -> None:
    bench = Bench({("current", 0.1): [None] * 7, ("current", 0.3): [None] * 7, ("new", 0.1): [0.5] * 7})
    assert bench.run() is Verdict.SWITCH
    assert bench.confirmation.finding.effect == math.inf


def test_what_cannot_be_afforded_is_left_out() -> None:
    losses = {("current", 0.1): [1.0] * 7, ("current", 0.3): [0.8] * 7, ("new", 0.1): [0.99, 0.5, 0.9] * 2 + [1]}
    asked: list[int] = []

    def may(wave: Wave) -> bool:
        asked.append(len(wave.runners) * len(wave.seeds))
        return False

    bench = Bench(losses)
    assert bench.run(may) is Verdict.UNDECIDED
    assert [len(w.seeds) for w in bench.waves] == [3]
    assert asked == [2 * 4, bench.rate_seeds]


def test_a_stop_in_the_middle_is_judged_by_the_pairs_that_are_there() -> None:
    bench = Bench({("current", 0.1): [2.3, 2.31, 2.29], ("new", 0.1): [0.1, 0.11, 0.12]})
    bench.train(Wave((bench.confirmation.control,), bench.seeds[:2]))
    bench.confirmation.review()
    assert bench.confirmation.finding.verdict is Verdict.UNDECIDED
    bench.train(Wave((bench.confirmation.challenger,), bench.seeds))
    bench.confirmation.review()
    assert [p.seed for p in bench.confirmation.pairs()] == [100, 101]


@pytest.mark.parametrize("noise", ["normal", "heavy"])
@pytest.mark.parametrize("rates", [1, 2, 3])
@pytest.mark.parametrize(("first", "planned"), LOOKS)
def test_false_switches_stay_at_the_nominal_rate(noise: str, rates: int, first: int, planned: int) -> None:
    """The whole procedure on made-up tables without a true difference, over two looks and any number of rates."""
    rng = np.random.default_rng(1000 * rates + planned)
    draw = rng.normal if noise == "normal" else lambda size: rng.standard_t(3, size=size)
    false = early = 0
    for _ in range(DRAWS):
        *controls, challenger = draw(size=(rates + 1, planned))
        tables = {("current", 0.1 * (i + 1)): list(c) for i, c in enumerate(controls)}
        bench = Bench({**tables, ("new", 0.1): list(challenger)}, first)
        bench.confirmation.initial = math.nan  # so that the least effect that matters is next to nothing
        false += bench.run() is Verdict.SWITCH
        early += len(bench.confirmation.pairs()) == first
    assert false <= allowed(ALPHA)
    assert early > DRAWS / 3, "half of the time nothing speaks for the challenger, and that is soon seen"


@pytest.mark.parametrize("sd", [(0.1, 0.0), (0.02, 0.1), (0.0, 0.1)])
@pytest.mark.parametrize(("first", "planned"), LOOKS)
@pytest.mark.parametrize("folds", [4, 7])
def test_the_rows_that_happen_to_be_held_out_cause_no_false_switch(
    sd: tuple[float, float], first: int, planned: int, folds: int
) -> None:
    """Other rows are part of the chance: over draws of both, the rate of false switches is the nominal one."""
    rng = np.random.default_rng(planned + folds)
    of_seed, of_rows = sd
    false = 0
    for _ in range(DRAWS):
        rows = of_rows * rng.normal(size=folds)
        losses = [of_seed * float(rng.normal()) + float(rows[(100 + i) % folds]) for i in range(planned)]
        bench = Bench({("current", 0.1): losses, ("new", 0.1): [0.0] * planned}, first, folds)
        bench.confirmation.initial = math.nan
        false += bench.run() is Verdict.SWITCH
    assert false <= allowed(ALPHA)


def test_rates_far_behind_are_not_confirmed() -> None:
    best, near, far = runner("current", 0.1, 0.5), runner("current", 0.3, 0.55), runner("current", 1.0, 0.65)
    dropped = runner("current", 0.03, 0.4, horizon=20)
    assert rates_to_confirm([best, near, far, dropped], 3) == (best, near)
    assert rates_to_confirm([best, near], 1) == (best,)
    assert not close(best, dropped), "a loss at an earlier step is no comparison"
    assert close(runner("current", 0.1, 0.5, error=0.2), runner("current", 0.3, 0.9, error=0.2))
