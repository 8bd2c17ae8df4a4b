"""The pool goes on where it stopped, never trains twice, and keeps its seeds apart."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.regret import pool
from benchmarks.regret.advisor_runs import ADVISOR_SEEDS
from benchmarks.regret.store import CURRENT_DIGEST, Key, Store, digest
from benchmarks.regret.table import build
from benchmarks.regret.tasks import TASKS
from benchmarks.regret.train import Curve, evaluation_steps
from benchmarks.regret.train import train as real_train
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Calibration, Fill, Part, SchemeKind
from initadvisor.types import Fans

TASK = replace(TASKS["cancer_shallow"], steps=4)
CURRENT = Scheme("current", SchemeKind.CURRENT, "as it came")


def made(lr, seed):
    steps = evaluation_steps(TASK.steps)
    losses = tuple(1.0 + lr + seed % 10 / 10 - 0.01 * s for s in steps)
    return Curve(steps, losses, losses, False, 0.5, 0.1)


@pytest.fixture
def trained(monkeypatch):
    calls = []

    def fake(_task, _scheme, lr, seed):
        calls.append((lr, seed))
        return made(lr, seed)

    monkeypatch.setattr(pool, "train", fake)
    return calls


def test_seeds_are_disjoint():
    assert not {*pool.SEEDS} & {*pool.TUNING_SEEDS}
    assert not {*pool.SEEDS, *pool.TUNING_SEEDS, pool.PROPOSAL_SEED} & {*ADVISOR_SEEDS}
    assert len(pool.SEEDS) >= 4


def test_a_scheme_is_tuned_then_measured_at_its_best_rate_on_other_seeds(trained):
    rows = pool.complete(TASK, CURRENT, {})
    tuning = [(lr, seed) for lr in TASK.lrs for seed in pool.TUNING_SEEDS]
    assert trained == tuning + [(TASK.lrs[0], seed) for seed in pool.SEEDS]
    assert pool.complete(TASK, CURRENT, dict(rows)) == []
    assert len(trained) == len(tuning) + len(pool.SEEDS)


def test_what_was_cut_off_is_all_that_is_done_later(trained, tmp_path):
    store = Store(tmp_path)
    for key, curve in pool.complete(TASK, CURRENT, {})[:5]:
        store.add(TASK, "current", key, curve)
    with store.curves_file(TASK).open("a") as file:
        file.write('{"scheme": "current", "dig')  # killed in the middle of a line
    trained.clear()
    rest = pool.complete(TASK, CURRENT, store.curves(TASK))
    assert len(rest) == len(TASK.lrs) * len(pool.TUNING_SEEDS) + len(pool.SEEDS) - 5


def test_the_store_gives_back_what_it_was_given(tmp_path):
    store = Store(tmp_path)
    steps = evaluation_steps(TASK.steps)[:2]
    curve = Curve(steps, (1.5, float("nan")), (float("nan"), 2.0), True, 0.25, 0.0)
    store.add(TASK, "x", Key("abc", 0.1, 7), curve)
    back = store.curves(TASK)[Key("abc", 0.1, 7)]
    assert back.steps == steps
    assert back.best == 1.5
    assert back.diverged
    json.loads(store.curves_file(TASK).read_text(), parse_constant=pytest.fail)
    assert store.curves(replace(TASK, version=TASK.version + 1)) == {}
    assert store.forget(TASK, ["x"]) == 1
    assert store.curves(TASK) == {}


def test_what_is_trained_survives_the_disk_unchanged(tmp_path):
    # Otherwise near ties between rates are broken one way in memory and another way when going on.
    store = Store(tmp_path)
    curve = real_train(TASK, None, TASK.lrs[0], 3)
    store.add(TASK, "current", Key(CURRENT_DIGEST, TASK.lrs[0], 3), curve)
    back = store.curves(TASK)[Key(CURRENT_DIGEST, TASK.lrs[0], 3)]
    assert (back.heldout, back.train[1:], back.seconds) == (curve.heldout, curve.train[1:], curve.seconds)


def test_a_table_needs_every_training_of_every_scheme(trained, tmp_path, monkeypatch):
    store = Store(tmp_path)
    other = replace(CURRENT, name="lsuv", calibrations=(Calibration("lsuv"),))
    store.set_proposals(TASK, [pool.describe(CURRENT), pool.describe(other)])
    for scheme in (CURRENT, other):
        assert build(TASK, store) is None
        for key, curve in pool.complete(TASK, scheme, {}):
            store.add(TASK, scheme.name, key, curve)
    table = build(TASK, store)
    assert [row.name for row in table.rows] == ["current", "lsuv"]
    assert table.losses.shape == (2, len(pool.SEEDS))
    store.set_proposals(
        TASK, [*store.proposals()[TASK.name], pool.describe(replace(other, name="x", calibrations=(Calibration("x"),)))]
    )
    assert build(TASK, store) is None
    store.set_fault(TASK, "x", "cannot be filled")
    assert [row.name for row in build(TASK, store).rows] == ["current", "lsuv"]
    assert table.sweep_steps == 2 * len(TASK.lrs) * TASK.steps


def test_digest_follows_what_a_scheme_does_and_not_what_it_is_called():
    part = Part(Fill("kaiming_normal", 1.4), Fans(4, 4))
    one = Scheme("a", SchemeKind.TEXTBOOK, "s", (Assignment("w", (4, 4), (part,), "rule", "why"),))
    renamed = replace(one, name="b", summary="t", prior=3.0)
    other = replace(one, assignments=(replace(one.assignments[0], parts=(replace(part, fill=Fill("zeros")),)),))
    assert digest(one) == digest(renamed) != digest(other)
    assert digest(replace(one, calibrations=(Calibration("lsuv"),))) != digest(one)
    assert digest(CURRENT) == digest(None) == CURRENT_DIGEST


def test_the_process_is_prepared_for_many_small_trainings():
    threads = torch.get_num_threads()
    try:
        pool.prepare_process()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
