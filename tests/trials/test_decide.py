from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initadvisor.graph.analyze import analyze
from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import Status
from initadvisor.trials.decide import decide, paired, settled
from initadvisor.trials.odds import Facts
from initadvisor.trials.race import Setting
from initadvisor.trials.result import Decision, Ground, Verdict
from initadvisor.trials.standings import Arm, Field, Standing, ahead, standing

CURRENT, OTHER = ("current", 0.1), ("other", 0.1)


def run(
    arm: Arm, losses: list[tuple[int, float]], *, seed: int = 0, phase: str = "race", dead: Status | None = None
) -> MemberState:
    steps = losses[-1][0] if losses else 0
    return MemberState(MemberKey(phase, arm[0], seed, arm[1]), steps, (2.0,) * steps, tuple(losses), dead)


def decided(*runs: MemberState, full: int | None = 1000, phases: tuple[str, ...] = ("race",)) -> Decision:
    states = {r.key: r for r in runs}
    return decide(paired(OTHER, CURRENT, states, phases, "fresh"), initial=2.3, full_steps=full, place=0)


def test_only_common_seeds_and_horizons_are_compared() -> None:
    runs = [
        run(CURRENT, [(20, 2.0), (40, 1.5)]),
        run(OTHER, [(20, 1.0), (40, 0.5), (80, 0.1)]),
        run(CURRENT, [(20, 2.0)], seed=1),
        run(OTHER, [(20, 1.9)], seed=2),
    ]
    found = decided(*runs)
    assert (found.horizon, found.seeds, found.fresh) == (40, 1, 0)
    assert (found.current_loss, found.challenger_loss, found.effect) == (1.5, 0.5, 1.0)


def test_facts_of_the_network_move_the_odds() -> None:
    """The same early lead says more of a deep network without norms than of a normalised one."""
    pairing = paired(
        OTHER, CURRENT, {r.key: r for r in (run(CURRENT, [(20, 2.2)]), run(OTHER, [(20, 2.1)]))}, ("race",), "fresh"
    )
    deep, normed = (
        decide(pairing, initial=2.3, full_steps=3000, place=0, facts=Facts(20, normalised=normalised))
        for normalised in (False, True)
    )
    assert deep.p_better > normed.p_better


def test_a_race_knows_its_network() -> None:
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    spec = analyze(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (x, y))
    assert Setting((), spec, 0).facts == Facts(2, normalised=False) and Setting((), None, 0).facts == Facts()


def test_a_clear_lead_is_a_switch_and_a_level_race_is_none() -> None:
    clear = decided(run(CURRENT, [(20, 2.2), (40, 2.0)]), run(OTHER, [(20, 1.0), (40, 0.5)]))
    assert clear.verdict is Verdict.SWITCH
    assert (clear.scheme, clear.ground) == ("other", Ground.COMPARED)
    level = decided(run(CURRENT, [(20, 1.0), (400, 0.5)]), run(OTHER, [(20, 1.0), (400, 0.51)]))
    assert level.verdict is Verdict.KEEP
    assert level.scheme == "current"


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 2000), st.booleans())
@settings(max_examples=200, deadline=None)
def test_figures_and_verdict_are_one_story(current: float, other: float, steps: int, known: bool) -> None:
    """What is advised is expected to be lower, and is lower where both have got to."""
    found = decided(run(CURRENT, [(steps, current)]), run(OTHER, [(steps, other)]), full=2000 if known else None)
    assert found.p_better + found.p_worse <= 1 + 1e-9
    assert found.gain_low <= found.gain <= found.gain_high
    assert 0 <= found.p_worse <= 1
    if found.verdict is Verdict.SWITCH:
        assert found.scheme == "other"
        assert found.p_better > 0.5
        assert found.gain > 0
        assert other <= current
    else:
        assert found.scheme == "current"


def test_training_that_breaks_down_on_one_side_only() -> None:
    alive = [run(OTHER, [(20, 1.0), (60, 0.4)], seed=s) for s in range(3)]
    dead = [run(CURRENT, [], seed=s, dead=Status.DIVERGED) for s in range(3)]
    found = decided(*alive, *dead)
    assert (found.verdict, found.ground, found.effect) == (Verdict.SWITCH, Ground.CURRENT_BREAKS, math.inf)
    assert (found.dead, found.challenger_dead, found.seeds) == (3, 0, 3)
    swapped = decided(
        *(run(CURRENT, [(20, 1.0), (60, 0.4)], seed=s) for s in range(3)),
        *(run(OTHER, [], seed=s, dead=Status.DIVERGED) for s in range(3)),
    )
    assert swapped.verdict is Verdict.KEEP
    assert swapped.effect == -math.inf


def test_where_all_break_down_nothing_is_kept_for_a_reason() -> None:
    arms = (CURRENT, OTHER)
    found = decided(*(run(a, [], seed=s, dead=Status.DIVERGED) for a in arms for s in range(2)))
    assert (found.verdict, found.ground) == (Verdict.UNDECIDED, Ground.ALL_BREAK)


@pytest.mark.parametrize("ground", list(Ground))
def test_keep_is_said_only_where_trainings_ran(ground: Ground) -> None:
    found = Decision.unconfirmed(ground, 0.1)
    assert (found.verdict is Verdict.KEEP) == (ground in (Ground.NO_CANDIDATE, Ground.CANDIDATES_BREAK))
    assert Decision.unconfirmed(ground, 0.1, interrupted=True).verdict is Verdict.UNDECIDED


def test_more_seeds_that_agree_settle_a_decision() -> None:
    def pair(seed: int) -> list[MemberState]:
        return [run(CURRENT, [(1000, 1.0)], seed=seed), run(OTHER, [(1000, 0.5 + 0.01 * seed)], seed=seed)]

    one = decided(*pair(0))
    many = decided(*(r for s in range(6) for r in pair(s)))
    assert many.p_better >= one.p_better - 1e-9
    assert settled(many)


def test_a_run_that_broke_down_counts_with_what_it_began_with() -> None:
    runs = [run(OTHER, [(20, 0.5)]), run(OTHER, [], seed=1, dead=Status.DIVERGED)]
    found = standing(*OTHER, runs, 20, first_loss=2.5)
    assert (found.heldout, found.dead, found.alive) == (1.5, 1, True)
    gone = standing(*OTHER, runs[1:], 20, first_loss=2.5)
    assert (gone.heldout, gone.alive, gone.status) == (math.inf, False, Status.DIVERGED)


def test_of_level_rates_the_lower_goes_first() -> None:
    low, high = Standing("a", 0.01, 0.502, 0.0, 40, 1), Standing("a", 0.1, 0.500, 0.0, 40, 1)
    assert ahead([high, low]) == [low, high]
    better = Standing("a", 0.1, 0.400, 0.0, 40, 1)
    assert ahead([low, better]) == [better, low]


@given(st.lists(st.floats(0.1, 5.0), min_size=2, max_size=12), st.integers(2, 12), st.integers(0, 11))
def test_the_current_weights_always_go_on(losses: list[float], count: int, mine: int) -> None:
    names = [f"s{i}" for i in range(len(losses))]
    names[mine % len(names)] = "current"
    field = Field([(n, 0.1) for n in names])
    field.close([Standing(n, 0.1, loss, 0.0, 20, 1) for n, loss in zip(names, losses, strict=True)])
    going = field.going(count)
    assert ("current", 0.1) in going
    assert len(going) == min(count, len(names))
    best = min(zip(losses, names, strict=True))[1]
    assert (best, 0.1) in going or count < 2


def test_runs_with_and_without_the_warm_up_are_one_seed() -> None:
    runs = [run(CURRENT, [(25, 2.0)]), run(OTHER, [(25, 1.0)], phase="warm")]
    found = decided(*runs, phases=("race", "warm"))
    assert (found.seeds, found.horizon, found.effect) == (1, 25, 1.0)
