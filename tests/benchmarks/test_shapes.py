"""The replay of rung shapes on curves whose leader is known."""

import math

import pytest

from benchmarks.regret.shapes import SHAPES, Rung, cost, leader, score
from benchmarks.regret.train import Curve

STEPS = (0, 5, 10, 20, 50, 100)


def curve(*heldout, diverged=False):
    return Curve(STEPS[: len(heldout)], heldout, heldout, diverged, 1.0, 0.0)


FAST = curve(2.0, 1.0, 0.9, 0.9, 0.9, 0.9)
SLOW = curve(2.0, 1.9, 1.5, 0.8, 0.3, 0.1)
DEAD = curve(2.0, 0.1, math.inf, diverged=True)


@pytest.mark.parametrize(("share", "winner"), [(0.05, 0), (0.5, 1)])
def test_a_longer_rung_sees_the_later_leader(share, winner):
    assert leader([Rung(share, 1, 1)], [[FAST], [SLOW], [DEAD]], 100) == (winner if share > 0.05 else 2)
    assert leader([Rung(share, 1, 1)], [[FAST], [SLOW]], 100) == winner


def test_the_worst_draw_counts_and_a_dead_one_is_no_score():
    assert score([FAST, SLOW], 0.5, 100) == pytest.approx((0.9 + 0.3) / 2 + 0.25 * 0.3, abs=0.1)
    assert score([FAST, DEAD], 0.5, 100) == math.inf


def test_who_is_dropped_early_does_not_come_back():
    assert leader([Rung(0.05, 1, 1), Rung(0.5, 1, 1)], [[FAST], [SLOW]], 100) == 0
    assert leader([Rung(0.05, 2, 1), Rung(0.5, 1, 1)], [[FAST], [SLOW]], 100) == 1


def test_cost_counts_late_draws_from_the_start():
    one = [Rung(0.1, 1, 1), Rung(0.5, 1, 1)]
    two = [Rung(0.1, 1, 1), Rung(0.5, 1, 2)]
    assert cost(one, 9) == pytest.approx(10 * 3 * 0.1 + 2 * 2 * 0.4)
    assert cost(two, 9) == pytest.approx(10 * 3 * 0.1 + 2 * 2 * (2 * 0.4 + 0.1))
    assert all(cost(rungs, 20) > 0 for rungs in SHAPES.values())
