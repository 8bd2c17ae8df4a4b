"""The record of a race as an Optuna study: the only file that knows Optuna.

One Optuna trial is one scheme at one learning rate in one phase. Its intermediate values are the race's scores at the
rungs; its user attributes hold every draw: curves, signal flow and status. A study in a storage opens in
optuna-dashboard; a race that was killed goes on from it, and what it had finished is not run again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from initadvisor.errors import StorageError
from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import SignalFlow, Status
from initadvisor.training.losses import quoted

IDENTITY = "initadvisor"
"""Study attribute that says which race it belongs to."""

DRAW = "draw"
"""Prefix of the trial attributes that hold one draw each."""

REFINE_STARTUP = 4
"""Refined schemes drawn at random before the sampler models what it has seen."""

FORMAT = 2
"""Version of what is stored; another version's studies are not resumed."""

_STATES = {
    Status.COMPLETED: TrialState.COMPLETE,
    Status.PRUNED: TrialState.PRUNED,
    Status.DIVERGED: TrialState.PRUNED,
    Status.FAILED: TrialState.FAIL,
    Status.INTERRUPTED: TrialState.FAIL,
    Status.GATED: TrialState.PRUNED,
}

TrialKey = tuple[str, str, float]
"""Phase, scheme and learning rate."""


def _trial_key(key: MemberKey) -> TrialKey:
    return key.phase, key.scheme, key.lr


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class StudyLog:
    """Writes a race down as it runs and reads back what an earlier run of it had finished.

    Args:
        storage: an Optuna storage URL; None keeps the study in memory.
        name: of the study; None takes one that follows from what the race is about.

    Raises:
        StorageError: the storage cannot be opened.
    """

    def __init__(self, storage: str | None = None, name: str | None = None) -> None:
        self.url, self.name = storage, name
        self._study: optuna.Study | None = None
        self._trials: dict[TrialKey, optuna.trial.Trial] = {}
        self._finished: set[TrialKey] = set()
        self._reported: set[tuple[TrialKey, int]] = set()
        self._storage: Any = None
        if storage is not None:
            with _quiet(), self._guarded("cannot be opened"):
                self._storage = optuna.storages.get_storage(storage)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, once the race has begun."""
        if self._study is None:
            raise StorageError("the study is not open yet; it is once a race has begun")
        return self._study

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            raise StorageError(
                f'storage "{self.url}" {what}: {quoted(error)}; '
                'give a URL like "sqlite:///study.db" in a folder you may write to'
            ) from error

    def open(self, identity: Mapping[str, Any]) -> dict[MemberKey, MemberState]:
        """Create the study of a race, or open it and give back what is known of its members.

        Args:
            identity: all that decides what the members compute, as plain values.

        Raises:
            StorageError: the study holds a race about something else, or the storage fails.
        """
        identity = json.loads(json.dumps({"format": FORMAT, **identity}))
        name = self.name or f"initadvisor-{_digest(identity)}"
        with _quiet(), self._guarded("cannot be used"):
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, direction="minimize", load_if_exists=True
            )
            held = self._study.user_attrs.get(IDENTITY)
            if held is None and self._study.get_trials(deepcopy=False):
                raise StorageError(
                    f'study "{name}" in "{self.url}" was not made by initadvisor; give another study_name'
                )
            if held is not None and held != identity:
                differ = ", ".join(sorted(k for k in {*held, *identity} if held.get(k) != identity.get(k)))
                raise StorageError(
                    f'study "{name}" in "{self.url}" is about something else ({differ} differ); give another study_name'
                )
            if held is None:
                self._study.set_user_attr(IDENTITY, identity)
            return self._read()

    def _read(self) -> dict[MemberKey, MemberState]:
        known: dict[MemberKey, MemberState] = {}
        for frozen in self.study.get_trials(deepcopy=False):
            attrs = frozen.user_attrs
            if not {"phase", "scheme", "lr"} <= set(attrs):
                continue
            key: TrialKey = (attrs["phase"], attrs["scheme"], float(attrs["lr"]))
            self._reported |= {(key, step) for step in frozen.intermediate_values}
            if frozen.state.is_finished():
                self._finished.add(key)
            self._trials[key] = optuna.trial.Trial(self.study, frozen._trial_id)
            for attr, value in attrs.items():
                if attr.startswith(f"{DRAW} "):
                    state = _decode(key, int(attr.removeprefix(f"{DRAW} ")), value)
                    known[state.key] = state
        return known

    def note(self, name: str, value: Any) -> None:
        """Keep a plain value with the study (the plan, the decision)."""
        with _quiet(), self._guarded("cannot be written"):
            self.study.set_user_attr(name, value)

    def noted(self, name: str) -> Any:
        """A value kept by :meth:`note`, None where there is none."""
        return self.study.user_attrs.get(name)

    def begin(self, keys: Sequence[MemberKey], *, schemes: Sequence[str], rates: Sequence[float]) -> None:
        """Ask for one trial per scheme and rate of ``keys``, unless there is one already.

        Args:
            keys: members about to start.
            schemes: all names the race began with, in a fixed order.
            rates: all learning rates of the race.
        """
        rate = FloatDistribution(min(rates), max(rates), log=True)
        with _quiet(), self._guarded("cannot be written"):
            for key in dict.fromkeys(_trial_key(k) for k in keys):
                if key in self._trials:
                    continue
                _, scheme, lr = key
                # Refined schemes are told by their multipliers; their names are no choice a sampler could make.
                space: dict[str, Any] = {"scheme": CategoricalDistribution(list(schemes))} if scheme in schemes else {}
                self.study.enqueue_trial({"scheme": scheme, "lr": lr} if space else {"lr": lr})
                self._keep(key, self.study.ask(fixed_distributions={**space, "lr": rate}))

    def _keep(self, key: TrialKey, trial: optuna.trial.Trial) -> None:
        for name, value in zip(("phase", "scheme", "lr"), key, strict=True):
            trial.set_user_attr(name, value)
        self._trials[key] = trial

    def suggest(
        self, names: Sequence[str], scheme: str, lr: float, *, low: float, high: float, seed: int
    ) -> dict[str, float]:
        """Multipliers for a refined scheme, by the sampler; those of an earlier run where it got as far.

        Args:
            names: groups of roles.
            scheme: name the variant will have.
            lr: rate it will train at.
            low: smallest multiplier.
            high: largest.
            seed: of the sampler.
        """
        key = ("refine", scheme, lr)
        with _quiet(), self._guarded("cannot be written"):
            if key not in self._trials:
                # Few trials in few dimensions: Parzen estimators, one per multiplier, of those tried so far.
                self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=REFINE_STARTUP)
                space: dict[str, Any] = {f"× {n}": FloatDistribution(low, high, log=True) for n in names}
                self._keep(key, self.study.ask(fixed_distributions=space))
            params = self._trials[key].params
        return {n: float(params[f"× {n}"]) for n in names}

    def save(self, states: Sequence[MemberState]) -> None:
        """Write down what is known of members now; each replaces what was known before."""
        with _quiet(), self._guarded("cannot be written"):
            for state in states:
                key = _trial_key(state.key)
                if key not in self._finished:
                    self._trials[key].set_user_attr(f"{DRAW} {state.key.seed}", _encode(state))

    def report(self, key: MemberKey, step: int, value: float) -> None:
        """Write down the score of a scheme and rate at a rung."""
        trial_key = _trial_key(key)
        if trial_key not in self._finished and (trial_key, step) not in self._reported:
            self._reported.add((trial_key, step))
            with _quiet(), self._guarded("cannot be written"):
                self._trials[trial_key].report(value, step)

    def finish(self, key: MemberKey, status: Status, value: float, why: str = "") -> None:
        """Close a trial: its final score and how it ended."""
        trial_key = _trial_key(key)
        if trial_key in self._finished or trial_key not in self._trials:
            return
        state = _STATES[status]
        if state is TrialState.COMPLETE and not math.isfinite(value):
            state = TrialState.PRUNED
        with _quiet(), self._guarded("cannot be written"):
            trial = self._trials[trial_key]
            trial.set_user_attr("status", status.name)
            trial.set_user_attr("why", why or status.value)
            self.study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)
        self._finished.add(trial_key)


def _digest(identity: Mapping[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _number(value: float) -> float | str:
    """Finite numbers as they are, others as text: JSON knows no infinity."""
    return value if math.isfinite(value) else str(value)


def _encode(state: MemberState) -> dict[str, Any]:
    flows = {
        name: {k: list(v) if k in ("layers", "depth") else [_number(x) for x in v] for k, v in asdict(flow).items()}
        for name, flow in (("flow", state.flow), ("flow_after", state.flow_after))
        if flow is not None
    }
    return {
        "steps": state.steps,
        "train": [_number(v) for v in state.train],
        "heldout": [[step, _number(v)] for step, v in state.heldout],
        "status": None if state.status is None else state.status.name,
        "message": state.message,
        "seconds": round(state.seconds, 4),
        **flows,
    }


def _decode(key: TrialKey, seed: int, value: Mapping[str, Any]) -> MemberState:
    phase, scheme, lr = key
    state = MemberState(
        MemberKey(phase, scheme, seed, lr),
        steps=int(value["steps"]),
        train=tuple(float(v) for v in value["train"]),
        heldout=tuple((int(step), float(v)) for step, v in value["heldout"]),
        status=None if value["status"] is None else Status[value["status"]],
        message=str(value["message"]),
        seconds=float(value["seconds"]),
    )
    return replace(state, flow=_flow(value.get("flow")), flow_after=_flow(value.get("flow_after")))


def _flow(value: Mapping[str, Any] | None) -> SignalFlow | None:
    if value is None:
        return None
    read: dict[str, Callable[[Any], Any]] = {"layers": str, "depth": int, "trains": bool}
    return SignalFlow(**{k: tuple(read.get(k, float)(x) for x in v) for k, v in value.items()})
