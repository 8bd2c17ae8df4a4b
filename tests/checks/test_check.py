"""What `check` promises beside its findings: nothing is changed, bad input is told, findings are in order."""

from __future__ import annotations

import copy
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import LanguageModel, NeverScaled, attention, changed, fill, fresh, language, mlp, on_rows, plain, rows
from torch import nn

from initadvisor.checks import runner
from initadvisor.checks.fix import mend, mendable
from initadvisor.checks.registry import checks
from initadvisor.checks.runner import check
from initadvisor.checks.topics.flow import trend
from initadvisor.checks.watch import Watch
from initadvisor.errors import InputError
from initadvisor.testing import assert_healthy


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("loss", [None, nn.functional.cross_entropy, "model_batch"])
def test_everything_is_put_back(training: bool, loss: Any) -> None:
    model = Normed().train(training)
    model.net[1].eval()
    model.net[4].bias.requires_grad_(False)
    model.net[0].weight.grad = torch.full_like(model.net[0].weight, 3.0)
    if loss == "model_batch":
        loss = lambda model, batch: model(batch[0]).square().mean()  # noqa: E731
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    before = copy.deepcopy(model.state_dict())
    kept, copies = model.net[0].weight.grad, (x.clone(), y.clone())
    flags, hooks = [m.training for m in model.modules()], [len(m._forward_hooks) for m in model.modules()]
    random = torch.get_rng_state()
    check(model, (x, y), loss=loss)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.net[0].weight.grad is kept
    assert bool((kept == 3.0).all())
    assert model.net[4].weight.grad is None
    assert [m.training for m in model.modules()] == flags
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert not model.net[4].bias.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


class Counting(nn.Module):
    """Counts its passes, and writes to what it is given.

    In queues, which are taken for what connects to elsewhere: numbers would be put back with all else.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards: SimpleQueue[int] = SimpleQueue()
        self.backwards: SimpleQueue[int] = SimpleQueue()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards.put(1)
        x.mul_(2.0)
        out = self.net(x)
        if out.requires_grad:
            out.register_hook(self.count)
        return out

    def count(self, grad: torch.Tensor) -> None:
        self.backwards.put(1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("loss", [None, nn.functional.cross_entropy])
def test_one_forward_and_one_backward_pass_do_it_all(training: bool, loss: Any) -> None:
    model = Counting(mlp()).train(training)
    x, y = torch.randn(16, 64), torch.randint(10, (16,))
    before = x.clone()
    check(model, (x, y), loss=loss)
    assert (model.forwards.qsize(), model.backwards.qsize()) == (1, 1)
    assert torch.equal(x, before)


def test_a_loss_that_calls_the_model_is_measured_as_it_calls_it() -> None:
    """It may call the model as often as it likes, here twice; it is watched first, and the analysis takes a pass."""
    model = Counting(mlp())
    x, y = torch.randn(16, 64), torch.randint(10, (16,))
    check(model, (x, y), loss=lambda model, batch: (model(batch[0].clone()) + model(batch[0].clone())).square().mean())
    assert model.forwards.qsize() == 2 + 1 + 2


def test_the_same_model_gives_the_same_findings() -> None:
    model, batch = fresh(attention)
    first = check(model, batch)
    torch.rand(7)
    assert check(model, batch) == first


def test_the_worst_comes_first_and_blocks_are_one_finding() -> None:
    model, batch = fresh(language(NeverScaled))
    with torch.no_grad():
        for block in model.blocks:  # type: ignore[union-attr]
            block.fc.weight.fill_(0.1)
    found = check(model, batch)
    ranks = [f.severity.rank for f in found]
    assert ranks == sorted(ranks)
    (constant,) = [f for f in found if f.code == "INI104"]
    assert constant.paths == tuple(f"blocks.{i}.fc.weight" for i in range(4))
    assert constant.where is not None
    assert constant.where.symbol == "Block"
    assert constant.where.file.endswith("planted.py")


def test_a_frozen_weight_is_nobodys_business() -> None:
    model, batch = fresh(changed(plain, fill("2.weight", 0.05)))
    model[2].weight.requires_grad_(False)  # type: ignore[index,union-attr,operator]
    assert "INI104" not in {f.code for f in check(model, batch)}


@pytest.mark.parametrize(
    ("model", "batch", "told"),
    [
        (nn.ReLU(), torch.zeros(2, 3), "no parameters"),
        (nn.Linear(3, 2, device="meta"), torch.zeros(2, 3), "meta"),
        (nn.Sequential(nn.LazyLinear(3)), torch.zeros(2, 3), "lazy"),
        (nn.Linear(3, 2), torch.full((2, 3), float("nan")), "NaN"),
    ],
)
def test_bad_input_is_told_in_a_line(model: nn.Module, batch: Any, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        check(model, batch)
    assert "\n" not in str(caught.value)


def test_a_loss_that_cannot_be_called_is_told() -> None:
    with pytest.raises(InputError, match="loss"):
        check(nn.Linear(3, 2), (torch.randn(4, 3), torch.randn(4, 5)), loss=nn.functional.mse_loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_types(dtype: torch.dtype) -> None:
    model, (x, y) = fresh(plain)
    assert not [f for f in check(model.to(dtype), (x.to(dtype), y)) if f.severity.value != "info"]


@settings(deadline=None, max_examples=8)
@given(
    width=st.sampled_from([24, 48, 96]), layers=st.integers(1, 6), seed=st.integers(0, 10**6),
    family=st.sampled_from(["kaiming_normal_", "kaiming_uniform_", "orthogonal_", "torch"]),
)  # fmt: skip
def test_well_made_nets_have_no_fault(width: int, layers: int, seed: int, family: str) -> None:
    """He, orthogonal and, as far as they are shallow, torch's own weights raise neither errors nor warnings."""
    torch.manual_seed(seed)
    net = mlp(width, layers)
    for m in net:
        if not isinstance(m, nn.Linear) or m.out_features == 10:
            continue
        if family == "torch" and layers <= 3:
            m.reset_parameters()
        elif family == "orthogonal_":
            nn.init.orthogonal_(m.weight, gain=2**0.5)
        elif family != "torch":
            getattr(nn.init, family)(m.weight, nonlinearity="relu")
    bad = [f for f in check(*on_rows(net, width)) if f.severity.value != "info"]
    assert not bad, bad[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_scaled_language_model_is_healthy(seed: int) -> None:
    torch.manual_seed(seed)
    _, batch = language()()
    assert_healthy(LanguageModel(), batch, fail_on="warning")


def test_assert_healthy_tells_what_and_how() -> None:
    model, batch = fresh(changed(plain, fill("2.weight", 0.05)))
    with pytest.raises(AssertionError, match="INI104") as caught:
        assert_healthy(model, batch)
    assert "remedy" in str(caught.value)
    assert_healthy(model, batch, ignore=["INI104", "INI4"])


@pytest.mark.parametrize("code", ["INI104", "INI110", "INI201", "INI203", "INI301", "INI406", "INI501"])
def test_the_recipe_mends_what_was_found_and_nothing_else(code: str) -> None:
    from planted import BUGS

    bug = next(b for b in BUGS if b.code == code)
    model, batch = fresh(bug.sick)
    found = [f for f in check(model, batch) if f.code == code]
    recipe = mend(model, batch, found)
    before = copy.deepcopy(model.state_dict())
    result = recipe.apply(model, batch, seed=1)
    assert not [f for f in check(model, batch) if f.code == code]
    assert {p for f in found for p in f.paths} <= {t.path for t in result.filled}
    concerned = {p.rpartition(".")[0] for f in found for p in f.paths}
    for path, value in model.state_dict().items():
        if path.rpartition(".")[0] not in concerned:
            assert torch.equal(value, before[path]), path


def test_what_no_filling_mends_is_told() -> None:
    model, batch = fresh(lambda: (mlp(), rows(16, 64)))
    found = check(model, batch)
    assert found
    assert not mendable(found)
    with pytest.raises(InputError, match="INI901"):
        mend(model, batch, found)


@settings(deadline=None, max_examples=50)
@given(
    factor=st.floats(0.2, 5.0), depths=st.integers(5, 40), start=st.floats(1e-6, 1e6),
)  # fmt: skip
def test_a_geometric_trend_is_read_exactly(factor: float, depths: int, start: float) -> None:
    found = trend(range(1, depths + 1), [start * factor**i for i in range(depths)])
    assert found is not None
    assert found.per_layer == pytest.approx(factor, rel=1e-6)
    assert found.total == pytest.approx(factor ** (depths - 1), rel=1e-4)


@pytest.mark.parametrize("code", ["INI104", "INI403", "INI501"])
def test_a_check_that_fails_is_told_and_the_others_go_on(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = fresh(changed(plain, fill("2.weight", -0.05)))
    before = [f for f in check(model, batch) if f.code != code]
    assert before

    def broken(context: object) -> list[object]:
        raise KeyError("blocks.7")

    every = tuple(replace(c, run=broken) if c.code == code else c for c in checks())
    monkeypatch.setattr(runner, "checks", lambda: iter(every))
    monkeypatch.delenv("INITADVISOR_STRICT", raising=False)
    found = check(model, batch)
    assert [f for f in found if f.code != "INI903"] == before
    (told,) = [f for f in found if f.code == "INI903"]
    assert (told.severity.value, code in told.message, "KeyError" in told.message) == ("info", True, True)
    monkeypatch.setenv("INITADVISOR_STRICT", "1")
    with pytest.raises(KeyError):
        check(model, batch)


def test_an_op_that_cannot_be_watched_is_told_and_the_pass_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no figure")

    monkeypatch.setattr(Watch, "_follow", broken)
    monkeypatch.delenv("INITADVISOR_STRICT", raising=False)
    found = check(*fresh(plain))
    assert any(f.code == "INI901" and "relu" in f.message for f in found)


def test_a_model_that_refuses_to_tell_of_itself_is_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        def to_dict(self) -> dict[str, int]:
            raise RuntimeError("secret")

    model, batch = fresh(changed(plain, fill("2.weight", 0.05)))
    monkeypatch.delenv("INITADVISOR_STRICT", raising=False)
    model.config = Config()  # type: ignore[assignment]
    assert "INI104" in {f.code for f in check(model, batch)}
