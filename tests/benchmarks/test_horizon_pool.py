"""The pool's order, and that a training on record is never done again; the store gives back what it was given."""

import gzip
import math

import pytest

from benchmarks.horizon import pool, store
from benchmarks.horizon.pool import SEEDS, at_other_rates, chosen, leading, plan
from benchmarks.horizon.store import CONSTANT, FULL, SHORT, Row
from benchmarks.horizon.tasks import TASKS
from benchmarks.horizon.train import Curve
from benchmarks.regret.store import CURRENT_DIGEST, digest

TASK = TASKS["lm_prenorm"]


def row(loss, *, name="current", lr=TASK.rate, seed=SEEDS[0], variant=FULL, task=TASK, diverged=None, version=None):
    scheme = next(s for s in chosen(task.name) if s.name == name)
    heldout = (4.0, loss, math.nan) if diverged else (4.0, loss, loss)
    curve = Curve((0, 10, 3000)[: len(heldout)], heldout, (math.nan, 4.0, loss), diverged, 1.0, 0.1)
    return Row(task.name, version or task.version, name, digest(scheme), lr, seed, variant, curve)


def everything(batches):
    return [(b.task.name, digest(s), lr, b.seed, b.variant) for b in batches for s, lr in b.members]


def test_the_pool_holds_the_default_the_rules_first_and_others():
    schemes = chosen(TASK.name)
    assert digest(schemes[0]) == CURRENT_DIGEST
    assert 6 <= len(schemes) <= 9
    assert [s.prior for s in schemes[1:]] == sorted((s.prior for s in schemes[1:]), reverse=True)
    assert len({digest(s) for s in schemes}) == len(schemes)


def test_the_plan_begins_with_all_schemes_at_the_middle_rate():
    first = next(plan([TASK], []))
    assert (first.variant, first.seed, first.steps) == (FULL, SEEDS[0], TASK.steps)
    assert [(s.name, lr) for s, lr in first.members] == [(s.name, TASK.rate) for s in chosen(TASK.name)]


def test_what_is_on_record_is_not_planned_unless_the_task_has_changed():
    assert everything(plan([TASK], []))[0] == row(2.0).key
    assert row(2.0).key not in everything(plan([TASK], [row(2.0)]))
    assert row(2.0).key in everything(plan([TASK], [row(2.0, version=TASK.version + 1)]))


def test_everything_is_planned_once():
    rows = [row(2.0, name=s.name, lr=lr) for s in chosen(TASK.name) for lr in TASK.lrs]
    others = {digest(s) for s, _ in at_other_rates(TASK)}
    assert CURRENT_DIGEST in others
    assert not {digest(s) for s in chosen(TASK.name) if s.name in ("lsuv", "he_normal")} & others
    keys = everything(plan([TASK], rows))
    assert not {r.key for r in rows} & set(keys)
    assert {k[4] for k in keys} == {FULL, CONSTANT, SHORT}
    assert {k[4] for k in everything(plan([TASKS["tanh_16"]], []))} == {FULL}, "a constant rate hides nothing"


def test_leaders_go_on_at_their_own_best_rate():
    names = [s.name for s in chosen(TASK.name)]
    rows = [row(2.0 - 0.1 * i, name=n, lr=lr) for i, n in enumerate(names) for lr in TASK.lrs[1:]]
    rows.append(row(0.5, name=names[3], lr=TASK.lrs[0]))
    found = {s.name: lr for s, lr in leading(TASK, rows)}
    assert set(found) == {names[0], names[1], names[3], names[-1]}
    assert found[names[3]] == TASK.lrs[0]


def test_the_store_gives_back_what_it_was_given(tmp_path):
    rows = [row(2.0), row(1.5, name="gpt2"), row(2.0, lr=TASK.lrs[2], diverged=3000)]
    store.add(rows[:2], tmp_path)
    assert store.pack(tmp_path) == 2
    store.add(rows[1:], tmp_path)
    found = store.load(tmp_path)
    assert len(found) == 3, "a training that is packed and loose is one"
    by_key = {r.key: r for r in found}
    assert by_key[rows[0].key].curve.heldout == rows[0].curve.heldout
    assert math.isinf(by_key[rows[2].key].last)
    assert by_key[rows[2].key].best == 2.0


def test_packing_is_the_same_bytes_whatever_the_order(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    rows = [row(2.0), row(1.5, name="gpt2")]
    for folder, given in ((one, rows), (two, rows[::-1])):
        store.add(given, folder)
        store.pack(folder)
    assert (one / store.PACKED).read_bytes() == (two / store.PACKED).read_bytes()
    assert len(gzip.decompress((one / store.PACKED).read_bytes()).splitlines()) == 2


def test_losses_up_to_a_step():
    curve = Curve((0, 10, 20, 40), (3.0, 1.0, 2.0, math.nan), (math.nan, 1.0, 1.0, 1.0), 40, 1.0, 0.0)
    broken = Row("t", 1, "s", "d", 0.1, 1, FULL, curve)
    assert [broken.until(s) for s in (0, 10, 25, 99)] == [3.0, 1.0, 1.0, 1.0]
    assert [broken.at(s) for s in (0, 15, 25)] == [3.0, 1.0, 2.0]
    assert math.isinf(broken.at(40))


def test_a_short_run_is_kept_and_taken_up_again(tmp_path, monkeypatch):
    asked = []

    def fake(task, members, seed, *, steps, schedule):
        asked.append((task.name, len(members), seed))
        return [Curve((0, steps), (2.0, 1.0), (math.nan, 1.0), None, 0.1, 0.0) for _ in members]

    monkeypatch.setattr(pool, "train", fake)
    count = pool.run([TASKS["siren_photo"]], minutes=1, folder=tmp_path)
    assert count == len(store.load(tmp_path)) > 0
    assert pool.run([TASKS["siren_photo"]], minutes=1, folder=tmp_path) == 0
    trained = [p for p in store.proposals(tmp_path)["siren_photo"] if p["trained"]]
    assert {p["digest"] for p in trained} == {r.digest for r in store.load(tmp_path)}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_pool_can_be_proposed(task):
    assert len(chosen(task.name)) >= 5
