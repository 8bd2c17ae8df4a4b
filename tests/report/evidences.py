"""Hand-made evidence for every kind of answer, so that reports can be tested without a training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from initadvisor.graph.spec import Branch, Confidence, Coverage, CoverageGap, ModelSpec, NormStyle, ParamSpec
from initadvisor.report.evidence import Evidence, WeightSample
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.training.engine.result import SignalFlow, Status, TrialResult
from initadvisor.trials.result import Cost, Decision, Ground, RaceResult, RankingEntry, Verdict
from initadvisor.types import Fans, Role, Slice

LAYERS = 24
INF, NAN = math.inf, math.nan


def spec(*, gaps: bool = False) -> ModelSpec:
    """A deep MLP with one residual branch and, on request, parts that were not understood."""
    params = []
    for i in range(LAYERS):
        role = Role.INPUT if i == 0 else Role.OUTPUT if i == LAYERS - 1 else Role.HIDDEN
        params.append(
            ParamSpec(
                f"layers.{2 * i}.weight",
                (64, 64),
                torch.float32,
                role,
                64,
                64,
                activation="none" if i == LAYERS - 1 else "tanh",
                depth=i + 1,
                op="linear",
                fans=Fans(64, 64),
                module_type="Linear",
            )
        )
        params.append(
            ParamSpec(f"layers.{2 * i}.bias", (64,), torch.float32, Role.BIAS, depth=i + 1, bias_of=params[-1].path)
        )
    parts = tuple(
        Slice(n, 0, ((64 * k, 64 * k + 64),), role, Fans(64, 64))
        for k, (n, role) in enumerate((("q", Role.QUERY), ("k", Role.KEY), ("v", Role.VALUE)))
    )
    params.append(
        ParamSpec(
            "attention.in_proj_weight",
            (192, 64),
            torch.float32,
            Role.QKV,
            64,
            64,
            slices=parts,
            branch=0,
            norm_before="layer_norm",
            depth=LAYERS + 1,
            confidence=Confidence.INFERRED,
        )
    )
    params.append(
        ParamSpec(
            "attention.out_proj.weight",
            (64, 64),
            torch.bfloat16,
            Role.ATTN_OUT,
            64,
            64,
            branch=0,
            branch_last=True,
            depth=LAYERS + 2,
            protected="frozen",
        )
    )
    coverage = Coverage(len(params), len(params))
    if gaps:
        params.append(ParamSpec("strange.kernel_with_a_very_long_name", (3, 3), torch.float32, Role.UNKNOWN))
        coverage = Coverage(
            len(params) + 1,
            len(params) - 1,
            (CoverageGap("strange.kernel_with_a_very_long_name", "my_fft", "no rule knows what my_fft does"),),
            ("spare.weight",),
            ("attention.in_proj_weight",),
            ("my_fft",),
        )
    branch = Branch(
        0,
        ("attention.in_proj_weight", "attention.out_proj.weight"),
        2,
        ("attention.out_proj.weight",),
        style=NormStyle.PRE_NORM,
    )
    return ModelSpec(tuple(params), (branch,), LAYERS + 2, coverage, "9f3c1a77b2d04e55" * 2, residual_depth=1)


def flow(factor: float, *, start: float = 1.0, bad: float | None = None) -> SignalFlow:
    """Figures that change by ``factor`` a layer; ``bad`` replaces the last ones."""
    forward = [start * factor**i for i in range(LAYERS)]
    backward = [0.01 * factor ** (LAYERS - 1 - i) for i in range(LAYERS)]
    if bad is not None:
        forward[-3:], backward[:3] = [bad] * 3, [bad] * 3
    names = tuple(f"layers.{2 * i}.weight" for i in range(LAYERS))
    dead = tuple(min(1.0, 0.05 * i) if factor < 0.9 else 0.0 for i in range(LAYERS))
    return SignalFlow(names, tuple(range(1, LAYERS + 1)), tuple(forward), tuple(backward), dead, dead, dead)


def trial(scheme: str, lr: float, seed: int, low: float, *, phase: str = "fresh", factor: float = 1.0) -> TrialResult:
    """A training whose loss falls from ln 10 to ``low``; infinite ``low`` diverges."""
    if not math.isfinite(low):
        return TrialResult(
            scheme, lr, seed, phase, Status.DIVERGED, 40, (2.3, 9.1, low), ((0, 2.3), (40, low)), flow(1.7, bad=low),
            seconds=0.2, message="loss is not finite after step 40",
        )  # fmt: skip
    losses = tuple(low + (2.3026 - low) * math.exp(-step / 80) for step in range(400))
    heldout = tuple((step, losses[min(step, 399)] + 0.01) for step in range(0, 401, 40))
    return TrialResult(
        scheme, lr, seed, phase, Status.COMPLETED, 400, losses, heldout, flow(factor), flow(factor), seconds=1.5
    )


def scheme(name: str, *, gain: float = 5 / 3) -> Scheme:
    """A scheme that fills all weights of :func:`spec`."""
    fill = Part(Fill("orthogonal", gain), Fans(64, 64))
    hidden = tuple(
        Assignment(
            f"layers.{2 * i}.weight",
            (64, 64),
            (fill,),
            "bounded_activation",
            "a deep tanh stack keeps its signal only where every layer is orthogonal with tanh's gain",
            ("glorot2010",),
        )
        for i in range(LAYERS)
    )
    biases = tuple(
        Assignment(f"layers.{2 * i}.bias", (64,), (Part(Fill("zeros"), Fans(1, 1)),), "bias", "biases start at zero")
        for i in range(LAYERS)
    )
    return Scheme(name, SchemeKind.RULES, "orthogonal everywhere, gain 5/3", hidden + biases, prior=2.0)


def weights() -> tuple[WeightSample, ...]:
    """Two histograms, one with and one without a declared spread."""
    edges = tuple(-0.5 + 0.05 * i for i in range(21))
    bell = tuple(round(1000 * math.exp(-(((i - 9.5) / 4) ** 2))) for i in range(20))
    box = tuple(300 if 4 <= i < 16 else 0 for i in range(20))
    return (
        WeightSample("layers.0.weight", "orthogonal", edges, bell, box, 0.208, 0.2079),
        WeightSample("layers.46.weight", "zeros", edges, tuple([0] * 10 + [4096] + [0] * 9), box, None, 0.0),
    )


def ranking(best: str, best_loss: float, current_loss: float) -> tuple[RankingEntry, ...]:
    """Five candidates, one diverged, one gated."""
    return (
        RankingEntry(best, 0.03, best_loss, best_loss * 0.9, best_loss * 1.1, 400, 5, Status.COMPLETED),
        RankingEntry("kaiming_normal", 0.01, 0.92, 0.8, 1.1, 200, 3, Status.PRUNED, ""),
        RankingEntry("current", 0.1, current_loss, current_loss - 0.01, current_loss + 0.01, 400, 5, Status.COMPLETED),
        RankingEntry("normal_std_1", 0.001, INF, INF, INF, 40, 1, Status.DIVERGED),
        RankingEntry("zeros", 0.01, INF, INF, INF, 0, 1, Status.GATED, "gradient is exactly zero in 23 layers"),
    )


def _race(decision: Decision, best: str, best_loss: float, current_loss: float, before: float) -> RaceResult:
    trials = [trial("normal_std_1", 0.001, 0, INF, phase="race")]
    for seed in range(100, 105):
        trials.append(trial("current", 0.1, seed, current_loss, factor=before))
        trials.append(trial(best, 0.03, seed, best_loss, factor=0.98))
    return RaceResult(
        decision,
        ranking(best, best_loss, current_loss),
        tuple(trials),
        Cost(18_400, 41.3, 46.0, 96),
        (("engine", "batched, 2 processes"), ("rungs", "20, 40, 80, 160")),
        ("learning rates 0.003 to 0.3 were searched with the schemes",),
    )


def _evidence(race: RaceResult, *, gaps: bool = False, extra: str = "orthogonal_tanh") -> Evidence:
    current = Scheme("current", SchemeKind.CURRENT, "the weights as given")
    return Evidence(
        "DeepTanhMLP",
        101_834,
        spec(gaps=gaps),
        (current, scheme(extra)),
        race,
        "cross-entropy (inferred from integer targets)",
        "SGD, momentum 0.9",
        0,
        400,
        {"initadvisor": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        ("the loader was read for 48 batches",),
        weights(),
    )


def compared(verdict: Verdict, current: float, challenger: float, **more: Any) -> Decision:
    """A decision between the current weights and one challenger, on five fresh seeds in full."""
    switched = verdict is Verdict.SWITCH
    given: dict[str, Any] = {
        "lr": 0.03 if switched else 0.1,
        "challenger": "orthogonal_tanh",
        "challenger_lr": 0.03,
        "control_lr": 0.1,
        "effect": current - challenger,
        "current_loss": current,
        "challenger_loss": challenger,
        "seeds": 5,
        "fresh": 5,
        "horizon": 400,
        "full_steps": 400,
        **more,
    }
    return Decision(
        verdict, given.pop("ground", Ground.COMPARED), "orthogonal_tanh" if switched else "current", **given
    )


def switch() -> Evidence:
    """The clear case: as built it does not train."""
    decision = compared(
        Verdict.SWITCH, 2.29, 0.11, p_better=0.999, p_worse=0.0004, gain=0.95, gain_low=0.9, gain_high=0.97,
        interval=(2.06, 2.22),
    )  # fmt: skip
    return _evidence(_race(decision, "orthogonal_tanh", 0.11, 2.29, 0.55))


def keep() -> Evidence:
    """Normalised and residual: nothing to gain."""
    decision = compared(
        Verdict.KEEP, 1.203, 1.2, p_better=0.52, p_worse=0.08, gain=0.001, gain_low=-0.01, gain_high=0.013,
        interval=(-0.012, 0.016), diagnosis=("train and held-out loss part after 200 steps: look at regularisation",),
    )  # fmt: skip
    return _evidence(_race(decision, "orthogonal_tanh", 1.2, 1.203, 0.97))


def undecided() -> Evidence:
    """Too noisy to tell."""
    decision = compared(
        Verdict.UNDECIDED, 1.18, 1.1, p_better=0.6, p_worse=0.36, gain=0.02, gain_low=-0.2, gain_high=0.21,
        interval=(-0.24, 0.25), seeds=1, fresh=0, horizon=200, more_steps=400, out_of_money=True,
    )  # fmt: skip
    return _evidence(_race(decision, "orthogonal_tanh", 1.1, 1.18, 0.8))


def interrupted() -> Evidence:
    """Stopped before anything could be compared."""
    race = RaceResult(Decision.unconfirmed(Ground.STOPPED, 0.1, interrupted=True), (), (), Cost(12, 0.4))
    return replace(_evidence(race), weights=(), full_steps=None)


def infinite() -> Evidence:
    """The current weights die on every seed; figures are infinite; parts were not understood."""
    decision = compared(
        Verdict.SWITCH, INF, 0.11, ground=Ground.CURRENT_BREAKS, p_better=0.93, p_worse=0.02, gain=0.9, gain_low=0.5,
        gain_high=1.0, dead=5,
    )  # fmt: skip
    race = _race(decision, "orthogonal_tanh", 0.11, INF, 1.0)
    entries = tuple(
        replace(e, status=Status.DIVERGED, low=INF, high=INF) if e.scheme == "current" else e for e in race.ranking
    )
    return _evidence(replace(race, ranking=entries), gaps=True)


def nothing_else() -> Evidence:
    """Only the current weights were a candidate."""
    entry = RankingEntry("current", 0.1, 1.2, 1.2, 1.2, 400, 1, Status.COMPLETED)
    decision = Decision.unconfirmed(Ground.NO_CANDIDATE, 0.1, full_steps=400)
    race = RaceResult(decision, (entry,), (trial("current", 0.1, 0, 1.2, phase="race"),), Cost(400, 2.0))
    evidence = _evidence(race, gaps=True)
    return replace(evidence, schemes=evidence.schemes[:1], versions={}, notes=())


def hasty() -> Evidence:
    """A "keep" after so few steps of the full training that nothing is settled."""
    evidence = keep()
    decision = replace(evidence.race.decision, horizon=10)
    return replace(evidence, race=replace(evidence.race, decision=decision))


def untried() -> Evidence:
    """A "keep" with candidates that the budget left out."""
    evidence = keep()
    rest = tuple(RankingEntry(f"scheme_{i}", NAN, INF, INF, INF, 0, 0, Status.NOT_TRIED) for i in range(20))
    return replace(evidence, race=replace(evidence.race, ranking=evidence.race.ranking + rest))


ALL = {f.__name__: f for f in (switch, keep, undecided, interrupted, infinite, nothing_else, hasty, untried)}
