from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from fakes import blobs, tanh_mlp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from initadvisor.errors import InputError
from initadvisor.training.batches import FOLDS
from initadvisor.training.data import Batch
from initadvisor.training.losses import LossKind
from initadvisor.training.task import make_task


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_a_loader_is_read_once_alike_for_a_seed_and_left_alone() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.arange(400.0).view(100, 4)
    loader = DataLoader(
        TensorDataset(x, torch.zeros(100, dtype=torch.long)), batch_size=10, shuffle=True, generator=generator
    )
    before, around = generator.get_state(), torch.get_rng_state()
    tasks = [make_task(tanh_mlp(), loader, lr=0.1, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(generator.get_state(), before)
    first = [t.choosing.train[0].args[0] for t in tasks]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert len(tasks[0].choosing.train) == 8
    assert len(tasks[0].choosing.heldout) == 2
    torch.manual_seed(0)  # tanh_mlp seeds; only its effect on the global state is expected
    tanh_mlp()
    del around


def rows(batches: Sequence[Batch]) -> set[float]:
    return {float(v) for b in batches for v in b.args[0][:, 0]}


@pytest.mark.parametrize("sizes", [(400,), (103,), (27,), (10,) * 60, (10,) * 11, (64,) * 4, (32, 32, 20)])
def test_confirming_trainings_hold_out_rows_no_choice_was_made_on(sizes: tuple[int, ...]) -> None:
    x = torch.arange(4.0 * sum(sizes)).view(-1, 4)
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(list(sizes))]
    task = make_task(tanh_mlp(), batches[0] if len(batches) == 1 else batches, lr=0.1)
    everything, chosen_by = {float(v) for v in x[:, 0]}, rows(task.choosing.heldout)
    most = {1: 5 if sizes == (27,) else FOLDS}.get(len(sizes), len(task.choosing.train))
    assert len(task.folds) == min(FOLDS, most)
    seen: set[float] = set()
    for fold in task.folds:
        held = rows(fold.heldout)
        assert held
        assert not held & (rows(fold.train) | chosen_by | seen)
        assert held | rows(fold.train) == everything
        seen |= held
    turned = task.turned(range(100, 108))
    assert [turned.split_of(s) for s in range(100, 106)] == [task.folds[i % len(task.folds)] for i in range(6)]
    assert turned.split_of(7) is task.choosing
    assert {float(b.args[0][0, 0]) for step in range(40) for b in [turned.batch_at(101, step)]} <= rows(
        turned.split_of(101).train
    )


def test_few_rows_serve_choosing_and_confirming_and_that_is_said() -> None:
    task = make_task(tanh_mlp(), (torch.randn(22, 4), torch.randint(3, (22,))), lr=0.1)
    assert task.separate
    assert not task.folds
    assert task.turned([5]).split_of(5) is task.choosing
    assert any("confirming trainings are scored on the same" in n for n in task.notes)


class Graph:
    """An object of a user's own type, as graph libraries make them: one of a kind, without rows to take."""

    def __init__(self) -> None:
        self.x, self.y = torch.randn(60, 4), torch.randint(3, (60,))

    def to(self, device: object) -> Graph:
        return self


class OnGraph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = tanh_mlp()

    def forward(self, graph: Graph) -> torch.Tensor:
        return self.net(graph.x)


def test_an_object_that_does_not_come_apart_is_never_called_held_out() -> None:
    def loss(model: nn.Module, graph: Graph) -> torch.Tensor:
        return nn.functional.cross_entropy(model(graph), graph.y)

    task = make_task(OnGraph(), Graph(), loss=loss, lr=0.1)
    assert not task.separate
    assert not task.folds
    assert any("scores are of the data trained on" in n for n in task.notes)


def test_no_sample_is_both_trained_on_and_held_out() -> None:
    x = torch.arange(200.0).view(50, 4)
    task = make_task(tanh_mlp(), (x, torch.zeros(50, dtype=torch.long)), lr=0.1)
    trained, held = rows(task.choosing.train), rows(task.choosing.heldout)
    assert task.separate
    assert len(held) == 10
    assert not trained & held
    assert trained | held == {float(v) for v in x[:, 0]}


def test_a_batch_too_small_to_split_is_said() -> None:
    task = make_task(tanh_mlp(), (torch.randn(8, 4), torch.randint(3, (8,))), lr=0.1)
    assert not task.separate
    assert any("only 8 samples" in n for n in task.notes)


class FixedSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.view(40, 4))


def test_a_model_that_takes_no_part_of_its_batch_trains_on_the_whole() -> None:
    task = make_task(FixedSize(), (torch.randn(40, 4), torch.randint(3, (40,))), lr=0.1)
    assert not task.separate
    assert task.choosing.train[0].args[0].shape == (40, 4)


def test_the_model_is_untouched() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, around = state_of(model), torch.get_rng_state()
    task = make_task(model, blobs(), lr=0.1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training
    assert bool((model[0].weight.grad == 1).all())
    assert torch.equal(around, torch.get_rng_state())
    assert task.random
    assert task.member().training


def test_old_weight_norm_can_be_copied() -> None:
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 3)))
    model(torch.randn(2, 4))
    task = make_task(model, blobs(), lr=0.1)
    twin = task.member()
    assert twin[0].weight_v is not model[0].weight_v
    assert torch.equal(twin[0].weight_v, model[0].weight_v)


def test_lazy_models_are_materialised_on_a_copy() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    task = make_task(model, blobs(), lr=0.1)
    assert nn.parameter.is_lazy(model[0].weight)
    assert task.model[0].weight.shape == (8, 4)


class Classes(nn.Module):
    """Gives its parameter-scaled input back, so that any output shape can be made."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("output", "target", "kind"),
    [
        (torch.randn(24, 5), torch.randint(5, (24,)), LossKind.CROSS_ENTROPY_LAST),
        (torch.randn(24, 7, 5), torch.randint(5, (24, 7)), LossKind.CROSS_ENTROPY_LAST),
        (torch.randn(24, 5, 4, 4), torch.randint(5, (24, 4, 4)), LossKind.CROSS_ENTROPY_SECOND),
        (torch.randn(24, 1), torch.randint(2, (24,)), LossKind.BINARY),
        (torch.randn(24, 6), torch.randint(2, (24, 6)), LossKind.BINARY),
        (torch.randn(24, 1), torch.randn(24), LossKind.SQUARED),
        (torch.randn(24, 3, 2), torch.randn(24, 3, 2), LossKind.SQUARED),
    ],
)
def test_inferred_losses(output: torch.Tensor, target: torch.Tensor, kind: LossKind) -> None:
    task = make_task(Classes(), (output, target), lr=0.1)
    assert task.loss.kind is kind
    assert task.compute_loss(task.member(), task.sample).ndim == 0


@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        (torch.randn(24, 5), torch.randint(9, (24, 3)), "cannot be inferred"),
        (torch.randn(24, 5), torch.full((24,), 7), "5 classes"),
        (torch.randn(24, 5), torch.randn(24, 4), "cannot be inferred"),
        (torch.randn(24, 5), None, "no target"),
    ],
)
def test_where_no_loss_fits_the_message_says_what_to_give(
    output: torch.Tensor, target: torch.Tensor | None, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_task(Classes(), output if target is None else (output, target), lr=0.1)
    assert "\n" not in str(caught.value)
    assert "loss=" in str(caught.value)


def of_model_and_batch(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (nn.CrossEntropyLoss(), LossKind.OUTPUT_TARGET),
        (nn.functional.cross_entropy, LossKind.OUTPUT_TARGET),
        (of_model_and_batch, LossKind.MODEL_BATCH),
        (lambda a, b: nn.functional.cross_entropy(a(b[0]), b[1]), LossKind.MODEL_BATCH),
    ],
)
def test_both_calling_conventions_are_found_out(loss: object, kind: LossKind) -> None:
    task = make_task(tanh_mlp(), blobs(), loss=loss, lr=0.1)
    assert task.loss.kind is kind
    assert task.compute_loss(task.member(), task.sample).ndim == 0


def test_a_loss_that_fits_neither_way_quotes_both() -> None:
    with pytest.raises(InputError, match=r"\(output, target\).*\(model, batch\)"):
        make_task(tanh_mlp(), blobs(), loss=lambda a, b: nn.functional.nll_loss(a.nope, b), lr=0.1)
    with pytest.raises(InputError, match="not one number"):
        make_task(tanh_mlp(), blobs(), loss=nn.CrossEntropyLoss(reduction="none"), lr=0.1)


def test_an_optimizer_bound_to_the_model_keeps_groups_by_identity() -> None:
    model = tanh_mlp()
    bound = torch.optim.AdamW(
        [
            {"params": [model[0].weight, model[2].weight], "weight_decay": 0.3},
            {"params": [model[0].bias], "lr": 0.05, "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.5, 0.9),
    )
    task = make_task(model, blobs(), optimizer=bound)
    assert task.rates == (0.01,)
    assert task.lr_locked
    twin = task.member()
    built = task.optimizer.build(twin, 0.1)
    names = {id(p): n for n, p in twin.named_parameters()}
    groups = [({names[id(p)] for p in g["params"]}, g["lr"], g["weight_decay"], g["betas"]) for g in built.param_groups]
    assert groups == [
        ({"0.weight", "2.weight"}, pytest.approx(0.1), 0.3, (0.5, 0.9)),
        ({"0.bias"}, pytest.approx(0.5), 0.0, (0.5, 0.9)),
    ]
    assert any("in no group" in n for n in task.notes)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "Adamax", "ASGD"]
)
def test_every_way_to_give_an_optimizer_trains_alike(name: str) -> None:
    kind = getattr(torch.optim, name)
    after = []
    for given in (kind, partial(kind), lambda params: kind(params, lr=0.5), "bound"):
        model = tanh_mlp()
        chosen = kind(model.parameters(), lr=0.5) if given == "bound" else given
        task = make_task(model, blobs(), optimizer=chosen, lr=0.02)
        twin = task.member()
        optimizer = task.optimizer.build(twin, 0.02)
        for _ in range(2):
            optimizer.zero_grad()
            task.compute_loss(twin, task.sample).backward()
            optimizer.step()
        after.append(torch.cat([p.detach().flatten() for p in twin.parameters()]))
    for other in after[1:]:
        torch.testing.assert_close(after[0], other, rtol=0, atol=0)


def test_learning_rates_are_locked_searched_or_chosen() -> None:
    sgd = partial(torch.optim.SGD, momentum=0.9)
    assert make_task(tanh_mlp(), blobs(), optimizer=sgd, lr=0.2).rates == (0.2,)
    assert make_task(tanh_mlp(), blobs(), optimizer=sgd, lr=[0.3, 0.1]).rates == (0.1, 0.3)
    assert make_task(tanh_mlp(), blobs(), optimizer=sgd).rates == (0.003, 0.01, 0.03, 0.1)
    carrying = partial(torch.optim.SGD, lr=0.7)
    assert make_task(tanh_mlp(), blobs(), optimizer=carrying).rates == (0.7,)
    searched = make_task(tanh_mlp(), blobs(), optimizer=carrying, lr="search")
    assert not searched.lr_locked
    assert 0.7 in searched.rates
    for bad in (0.0, -1, float("nan"), "fast", [], [0.1, -2], True):
        with pytest.raises(InputError, match="lr="):
            make_task(tanh_mlp(), blobs(), lr=bad)


def test_a_scheduler_that_sets_the_rate_itself_is_not_searched() -> None:
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=50)
    task = make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.1, 0.2), scheduler=cycle)
    assert task.lr_locked
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=50)
    assert not make_task(tanh_mlp(), blobs(), optimizer=torch.optim.SGD, lr=(0.1, 0.2), scheduler=cosine).lr_locked


def frozen() -> nn.Module:
    return tanh_mlp().requires_grad_(False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": frozen()}, "no trainable parameter"),
        ({"sample_batch": []}, "no batch"),
        ({"sample_batch": (torch.full((30, 4), torch.nan), torch.zeros(30).long())}, "NaN"),
        ({"sample_batch": (torch.randn(30, 9), torch.zeros(30).long())}, "rejects the batch"),
        ({"optimizer": 3}, "optimizer="),
        ({"optimizer": lambda p: 3}, "returns int"),
        ({"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)}, "no parameter of this model"),
        ({"steps": 0}, "steps="),
        ({"clip_norm": -1.0}, "clip_norm="),
        ({"device": "nowhere"}, "device="),
        ({"scheduler": lambda o: 1 / 0}, "the scheduler raises ZeroDivisionError"),
        ({"loss": lambda o, t: o.detach().mean()}, "does not depend on any trainable"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: dict[str, object], words: str) -> None:
    given = {"model": tanh_mlp(), "sample_batch": blobs(), "lr": 0.1, **arguments}
    if "optimizer" in arguments:
        given["lr"] = None
    with pytest.raises(InputError, match=words) as caught:
        make_task(given.pop("model"), given.pop("sample_batch"), **given)
    assert "\n" not in str(caught.value)


def test_a_loss_that_differentiates_by_itself_is_scored_with_gradients() -> None:
    def residual(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (slope - 1).square().mean()

    task = make_task(
        nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(40, 1), loss=residual, lr=0.1
    )
    assert task.eval_needs_grad
    assert not make_task(tanh_mlp(), blobs(), lr=0.1).eval_needs_grad
