"""Which scheme trains best: gate, rungs under common random numbers, confirmation on fresh seeds, a statement."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from initadvisor.errors import InputError
from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.scheme import Scheme
from initadvisor.streams import derive
from initadvisor.training.engine.engine import PACE_STEPS, Engine
from initadvisor.training.engine.member import MemberKey, MemberState
from initadvisor.training.engine.result import Status, TrialResult
from initadvisor.training.task import TrainingTask
from initadvisor.trials.budget import (
    CONFIRM_EVALS,
    LEVELS,
    PLAY_OFF,
    SWEEP_SEEDS,
    Budget,
    Plan,
    Rung,
    read_budget,
)
from initadvisor.trials.clock import OutOfTimeError, PlanPace, Timekeeper
from initadvisor.trials.confirm import Confirmation, Wave, rates_to_confirm
from initadvisor.trials.decide import CONFIDENCE, too_short_to_keep
from initadvisor.trials.diagnose import Figures, diagnose
from initadvisor.trials.gate import Passed, gate, longer_to_draw, weights_digest
from initadvisor.trials.progress import OnEvent, Progress, ignore
from initadvisor.trials.refine import HIGHEST, LOWEST, refinable, refined
from initadvisor.trials.result import Cost, Decision, RaceResult, Verdict
from initadvisor.trials.standings import Contest, Standing, ranking, standing
from initadvisor.types import CURRENT

if TYPE_CHECKING:
    from initadvisor.trials.study import StudyLog

PACE_SHARE = 0.1
"""Share of a budget in seconds that finding the pace may take."""

DRAWING_SHARE = 0.05
"""Share of a budget in seconds in which schemes that measure on data may be drawn for the first time."""

PACE_MEMBERS = 16
"""Members that set the pace at most: as many as tell what stacks of them cost."""


def run_race(
    task: TrainingTask,
    schemes: Sequence[Scheme],
    spec: ModelSpec,
    *,
    budget: str | float | int = "standard",
    seed: int = 0,
    study: StudyLog | None = None,
    executor: Executor | None = None,
    on_event: OnEvent = ignore,
) -> RaceResult:
    """Find the scheme that trains best at the user's own settings, and say how sure that is.

    Ctrl-C ends the race early: the decision is made from the trainings that are done and is marked as interrupted.

    Args:
        task: the training.
        schemes: candidates, best prior first; one must be named ``"current"``.
        spec: the reading of the model.
        budget: ``"fast"``, ``"standard"``, ``"thorough"``, seconds (a float) or model-steps (an int).
        seed: of everything drawn.
        study: where it is recorded; None records in memory.
        executor: runs chunks of members; None uses processes of its own where they pay.
        on_event: told about progress.

    Raises:
        InputError: the candidates or the budget cannot be used, or every training fails.
        StorageError: the record cannot be written.
    """
    names = [s.name for s in schemes]
    if CURRENT not in names or len(set(names)) != len(names):
        raise InputError(f'candidates must have distinct names and one must be "{CURRENT}"; got {", ".join(names)}')
    if study is None:
        from initadvisor.trials.study import StudyLog

        study = StudyLog()
    most = max(level.confirm_seeds for level in LEVELS.values())
    task = task.turned([derive(seed, "confirm", i) for i in range(most)])
    with Engine(task, schemes, spec, executor=executor) as engine:
        race = _Race(task, schemes, spec, read_budget(budget), seed, study, engine, on_event)
        try:
            race.run()
        except OutOfTimeError:
            race.notes.append(f"the budget of {race.budget.text} was used up before all was tried")
            race.interrupted = True
        except KeyboardInterrupt:
            race.interrupted = True
        return race.result()


class _Race:
    """The state of one running race; :func:`run_race` is its only user."""

    def __init__(
        self,
        task: TrainingTask,
        schemes: Sequence[Scheme],
        spec: ModelSpec,
        budget: Budget,
        seed: int,
        log: StudyLog,
        engine: Engine,
        on_event: OnEvent,
    ) -> None:
        self.task, self.schemes, self.spec, self.budget, self.seed = task, tuple(schemes), spec, budget, seed
        self.log, self.engine, self.on_event = log, engine, on_event
        self.clock = Timekeeper(budget.clock, lambda: engine.steps)
        self.known: dict[MemberKey, MemberState] = {}
        self.states: dict[MemberKey, MemberState] = {}
        self.passed: tuple[Passed, ...] = ()
        self.contest = Contest()
        self.plan: Plan | None = None
        self.confirmation: Confirmation | None = None
        self.interrupted = False
        self.resumed = 0
        self.notes: list[str] = []
        self.refined_schemes: list[Scheme] = []

    def run(self) -> None:
        """Gate, plan, rungs, confirmation."""
        self._open()
        self._tell("gate", f"first pass of {len(self.schemes)} candidates")
        drawing = self.clock.share(DRAWING_SHARE)
        self.passed = gate(self.task, self.schemes, derive(self.seed, "rung", 0), seconds=drawing)
        # A forward and backward pass is most of a step; the fastest of them is the one nothing disturbed.
        self.engine.step_seconds = min((p.seconds for p in self.passed if p.seconds), default=None)
        entering = [p.scheme for p in self.passed if not p.fault and p.scheme != CURRENT]
        self.plan = self._make_plan(len(entering))
        looked_at = {p.scheme for p in self.passed}
        left_out = [*entering[self.plan.candidates :], *(s.name for s in self.schemes if s.name not in looked_at)]
        self.contest.enter([CURRENT, *entering[: self.plan.candidates]], self.task.rates, left_out)
        for index in range(len(self.plan.rungs)):
            self._run_rung(index)
        for s in self.contest.finish():
            self._finish(s)
        self._refine()
        self._run_confirmation()
        self._tell("done", "done")

    # -- setting up ----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        identity = {
            "model": self.spec.fingerprint,
            "schemes": {s.name: _scheme_digest(s) for s in self.schemes},
            "optimizer": self.task.optimizer_name,
            "loss": self.task.loss_name,
            "rates": list(self.task.rates),
            "full_steps": self.task.full_steps,
            "seed": self.seed,
        }
        self.known = self.log.open(identity)
        weights = weights_digest(self.task.model)
        before = self.log.noted("weights")
        if before is not None and before != weights:
            self.known = {k: s for k, s in self.known.items() if k.scheme != CURRENT}
            self.notes.append("the model's weights differ from those of the stored race, so these were trained again")
        self.log.note("weights", weights)

    def _make_plan(self, candidates: int) -> Plan:
        stored = self.log.noted("plan")
        if stored is not None and stored.get("budget") == self.budget.text:
            plan = dict(stored["plan"])
            # A study of another version may hold a plan of another shape: a new one is made then.
            with contextlib.suppress(TypeError):
                return Plan(**plan | {"rungs": tuple(Rung(**r) for r in plan["rungs"])})
        budget, rate = self.budget, None
        make = partial(Budget.plan, candidates=candidates, rates=len(self.task.rates), full_steps=self.task.full_steps)
        if budget.seconds is not None:
            seed = derive(self.seed, "probe")
            self.engine.time_loop(seed)
            expected = make(budget, rate=self.engine.rate())
            self.engine.choose(seed, expected.steps, expected.side_by_side)
            if budget.clock is not None:
                by_clock = self._plan_by_clock(make, candidates)
                self._keep_plan(by_clock)
                return by_clock
            # What is spent by now is not there to be planned with.
            budget, rate = replace(budget, seconds=max(0.0, budget.seconds - self.clock.elapsed)), self.engine.rate()
        fitted = make(budget, rate=rate)
        self._keep_plan(fitted)
        return fitted

    def _plan_by_clock(self, make: Callable[..., Plan], candidates: int) -> Plan:
        """The plan that fits into what is left of a budget in seconds, at the pace of a few members."""
        step = self.engine.step_seconds or 0.0
        affordable = self.clock.share(PACE_SHARE) / max(step * 2 * PACE_STEPS[-1], 1e-9)
        count = max(1, int(min(affordable, PACE_MEMBERS)) // len(self.task.rates))
        fit = [p.scheme for p in self.passed if not p.fault][: min(count, candidates + 1)]
        pace = self.engine.pace(fit or [CURRENT], derive(self.seed, "pace"))
        # Rates share a draw, workers share the draws.
        longer = longer_to_draw(self.passed, fit) / (self.engine.workers * len(self.task.rates))
        self.clock.pace = priced = PlanPace.of(replace(pace, start=pace.start + longer))
        budget = replace(self.budget, seconds=None)
        return priced.fit(self.clock.left, lambda limit: make(replace(budget, steps=limit), rate=None))

    def _keep_plan(self, plan: Plan) -> None:
        from dataclasses import asdict

        self.plan = plan
        self.log.note("plan", {"budget": self.budget.text, "plan": asdict(plan)})

    def _tell(self, phase: str, message: str) -> None:
        done, total = self.engine.steps, max(self.engine.steps, self.plan.steps - self.resumed if self.plan else 0)
        eta = (total - done) * self.clock.elapsed / done if done else None
        if phase == "done":
            total, eta = done, 0.0
        self.on_event(Progress(done, total, phase, message, self.clock.elapsed, eta))

    # -- training ------------------------------------------------------------------------------------------------

    def _advance(self, keys: Sequence[MemberKey], until: int, evals: Sequence[int], message: str) -> None:
        """Bring members to ``until`` steps, each written down as soon as it is there; stored ones are taken over."""
        self.log.begin(keys, schemes=[s.name for s in self.schemes], rates=self.task.rates)
        todo = []
        for key in keys:
            stored = self.known.get(key)
            state = self.states.get(key)
            if stored is not None and stored.reached(until) and (state is None or state.steps <= stored.steps):
                if state is None:
                    self.resumed += stored.steps
                self.states[key] = stored
                continue
            todo.append(state if state is not None else MemberState(key))
        phase = keys[0].phase if keys else "rung"
        self._tell(phase, message)
        if todo and not self.engine.chosen:
            assert self.plan is not None
            self.engine.choose(derive(self.seed, "probe"), self.plan.steps, self.plan.side_by_side)
        self.engine.measured = (derive(self.seed, phase, 0),)
        for done in self.engine.advance(todo, until, evals):
            for state in done:
                self.states[state.key] = state
            self.log.save(done)
            self._tell(phase, message)
            self.clock.check()

    def _refit(self, done: int) -> None:
        """Under a clock, fit what is left of the plan after so many rungs to the seconds left."""
        if self.clock.seconds is not None and self.plan is not None:
            self._keep_plan(self.clock.refitted(self.plan, done))

    def _seeds(self, phase: str, count: int) -> list[int]:
        return [derive(self.seed, phase, i) for i in range(count)]

    def _run_rung(self, index: int) -> None:
        assert self.plan is not None
        if 0 < index < len(self.plan.rungs):
            self._refit(index)
        if index >= len(self.plan.rungs):
            return  # the plan has fewer rungs than when it was made
        rung = self.plan.rungs[index]
        seeds = self._seeds("rung", rung.draws)
        keys = [MemberKey("rung", scheme, seed, lr) for scheme, lr in self.contest.alive for seed in seeds]
        message = f"rung {index + 1} of {len(self.plan.rungs)}: {len(keys)} trainings to step {rung.steps}"
        # With the earlier horizons: a member whose weights were lost with a killed process starts over.
        with self.clock.rung(self.plan, index):
            self._advance(keys, rung.steps, tuple(r.steps for r in self.plan.rungs[: index + 1]), message)
        scores = [self._standing(scheme, lr, rung) for scheme, lr in self.contest.alive]
        for s in scores:
            self.log.report(MemberKey("rung", s.scheme, seeds[0], s.lr), rung.steps, s.score)
        last = index == len(self.plan.rungs) - 1
        for dropped in self.contest.close_rung(scores, rung, index, len(self.plan.rungs)):
            self._finish(dropped)
        self._forget_checkpoints(everything=last)

    def _standing(self, scheme: str, lr: float, rung: Rung) -> Standing:
        assert self.plan is not None
        draws = [self.states[MemberKey("rung", scheme, seed, lr)] for seed in self._seeds("rung", rung.draws)]
        return standing(scheme, lr, draws, rung.steps, self.plan.length)

    def _finish(self, s: Standing) -> None:
        self.log.finish(MemberKey("rung", s.scheme, 0, s.lr), s.status, s.heldout, s.why)

    def _forget_checkpoints(self, *, everything: bool) -> None:
        """Free the weights of members that go no further."""
        alive = set() if everything else set(self.contest.alive)
        for key, state in self.states.items():
            if (key.scheme, key.lr) not in alive and state.checkpoint is not None:
                self.states[key] = replace(state, checkpoint=None)

    def _refine(self) -> None:
        """Search multipliers per group of roles around the leader, at its rate, each variant as long as the leader.

        Where the leader has no multipliers of its own, around the next of those left that has.
        """
        assert self.plan is not None
        if not self.plan.refine or not self.plan.rungs:
            return
        with_gains = (s for s in self.contest.challengers() if refinable(self.engine.schemes[s.scheme], self.spec))
        leader = next(with_gains, None)
        if leader is None:
            return
        scheme, horizon = self.engine.schemes[leader.scheme], self.plan.rungs[-1].steps
        groups = refinable(scheme, self.spec)
        horizons = tuple(r.steps for r in self.plan.rungs)
        seeds = self._seeds("rung", self.plan.draws)
        for number in range(1, self.plan.refine + 1):
            name, seed = f"{leader.scheme}×{number}", derive(self.seed, "refine", number)
            multipliers = self.log.suggest(groups, name, leader.lr, low=LOWEST, high=HIGHEST, seed=seed)
            variant = refined(scheme, self.spec, multipliers, number)
            self.engine.add(variant)
            self.refined_schemes.append(variant)
            keys = [MemberKey("refine", name, s, leader.lr) for s in seeds]
            self._advance(keys, horizon, horizons, f"refining {leader.scheme}: {number} of {self.plan.refine}")
            # On the leader's own seeds: the comparison is paired, and fresh seeds judge the winner.
            found = standing(name, leader.lr, [self.states[k] for k in keys], horizon, self.plan.length)
            self.log.finish(keys[0], found.status, found.score, found.why)
            self.contest.add(found)
            self._forget_checkpoints(everything=True)
        self._play_off(horizons)

    def _play_off(self, horizons: Sequence[int]) -> None:
        """The best variants and the best that is none on further draws: the least of many scores is partly luck."""
        assert self.plan is not None
        draws, more = self.plan.draws, self.plan.play_off
        contenders = self.contest.contenders({s.name for s in self.refined_schemes}, PLAY_OFF) if more else []
        runners = [(s.scheme, s.lr) for s in contenders]
        seeds = self._seeds("rung", draws + more)[draws:]
        keys = [MemberKey("playoff", scheme, seed, lr) for scheme, lr in runners for seed in seeds]
        if not keys:
            return
        message = f"the best refined schemes against the one that led: {more} draws more"
        self._advance(keys, horizons[-1], horizons, message)
        for scheme, lr in runners:
            states = [s for k, s in self.states.items() if (k.scheme, k.lr) == (scheme, lr) and k.phase != "confirm"]
            found = standing(scheme, lr, states, horizons[-1], self.plan.length)
            self.contest.update(found)
            self.log.finish(MemberKey("playoff", scheme, 0, lr), found.status, found.score, found.why)
        self._forget_checkpoints(everything=True)

    def _run_confirmation(self) -> None:
        assert self.plan is not None
        finalists = self.contest.finalists()
        if finalists is None:
            return
        self._refit(len(self.plan.rungs))
        plan = self.plan
        self.confirmation = Confirmation(
            rates_to_confirm(self.contest.controls(), plan.control_rates),
            finalists[1],
            seeds=tuple(self._seeds("confirm", plan.confirm_seeds)),
            first=plan.first_look,
            rate_seeds=plan.rate_seeds,
            horizon=plan.confirm_steps,
            initial=self._initial_loss(),
            fold_of=self.task.fold_of,
            states=self.states,
        )
        self.confirmation.run(self._train_wave, self._can_afford)
        for s in self.confirmation.trained:
            key = MemberKey("confirm", s.scheme, 0, s.lr)
            self.log.finish(key, Status.COMPLETED, self.confirmation.mean(s))

    def _train_wave(self, wave: Wave) -> None:
        assert self.plan is not None
        horizon = self.plan.confirm_steps
        keys = [MemberKey("confirm", s.scheme, seed, s.lr) for seed in wave.seeds for s in wave.runners]
        names = " against ".join(dict.fromkeys(s.scheme for s in reversed(wave.runners)))
        message = f"confirming {names} on {len(wave.seeds)} fresh seeds, {horizon} steps each"
        self._advance(keys, horizon, evaluation_steps(horizon), message)

    def _can_afford(self, wave: Wave) -> bool:
        """Whether a wave fits into a budget in seconds."""
        assert self.plan is not None
        return self.clock.affords(self.plan, len(wave.runners) * len(wave.seeds), len(wave.seeds))

    # -- telling -------------------------------------------------------------------------------------------------

    def _decision(self) -> Decision:
        best = self.contest.best_of(CURRENT)
        lr = best.lr if best is not None else self.task.rates[0]
        horizon = self.plan.confirm_steps if self.plan else 0
        if self.confirmation is None:
            verdict = Verdict.UNDECIDED if self.interrupted else Verdict.KEEP
            why = self._why_no_finalist()
            return Decision(
                verdict, CURRENT, lr, CURRENT, 0.0, (-math.inf, math.inf), CONFIDENCE, 1.0, 0.0, 0, 0,
                self._scope(0), (why,), (), self.interrupted,
            )  # fmt: skip
        if self.interrupted:
            self.confirmation.review()
        current, challenger = self.confirmation.control, self.confirmation.challenger
        finding = self.confirmation.finding
        if finding.verdict is Verdict.KEEP and too_short_to_keep(horizon, self.task.full_steps):
            why = f"the trials were too short to say that nothing is to be gained ({self._scope(horizon)})"
            finding = replace(finding, verdict=Verdict.UNDECIDED, why=why)
        switch = finding.verdict is Verdict.SWITCH
        return Decision(
            verdict=finding.verdict,
            scheme=challenger.scheme if switch else CURRENT,
            lr=challenger.lr if switch else self.confirmation.kept.lr,
            challenger=challenger.scheme,
            effect=finding.effect,
            interval=finding.interval,
            confidence=CONFIDENCE,
            p=finding.p,
            smallest_effect=finding.smallest,
            seeds=len(self.confirmation.pairs()),
            horizon=horizon,
            scope=self._scope(horizon),
            why=(finding.why, *self.confirmation.about_rate),
            interrupted=self.interrupted,
            control_lr=current.lr,
        )

    def _why_no_finalist(self) -> str:
        if self.interrupted:
            return "stopped before any challenger was chosen, so nothing is confirmed"
        if not [p for p in self.passed if p.scheme != CURRENT and not p.fault]:
            return "no other candidate passed its first forward and backward pass"
        return "every other candidate's training broke down"

    def _initial_loss(self) -> float:
        found = (s.heldout[0][1] for s in self.states.values() if s.key.scheme == CURRENT and s.heldout)
        return next(found, math.nan)

    def _scope(self, horizon: int) -> str:
        full = self.task.full_steps
        if horizon == 0:
            return "nothing was trained to the end"
        if full is None:
            return f"over the first {horizon} steps; the length of the full training is not known"
        if horizon >= full:
            return f"over the full training of {full} steps"
        return f"over the first {horizon} of {full} steps"

    def result(self) -> RaceResult:
        """Everything as the other rooms read it."""
        self._raise_if_all_failed()
        decision = self._decision()
        figures = Figures(self.task, tuple(self.states.values()), self.contest, decision.verdict)
        decision = replace(decision, diagnosis=diagnose(figures))
        trials = tuple(self._trials())
        steps = self.engine.steps + self.resumed
        full = self.task.full_steps
        sweep = len(self.schemes) * len(self.task.rates) * SWEEP_SEEDS * full if full else None
        cost = Cost(
            model_steps=steps,
            seconds=self.clock.elapsed,
            share_of_full=steps / sweep if sweep else None,
            full_trainings=steps / full if full else None,
            members=self.engine.started,
        )
        if self.resumed:
            self.notes.append(f"{self.resumed} of {steps} model-steps were read from the stored study")
        settings = (
            ("optimizer", self.task.optimizer_name),
            ("loss", self.task.loss_name),
            (
                "learning rates",
                ", ".join(f"{r:g}" for r in self.task.rates) + (" (locked)" if self.task.lr_locked else ""),
            ),
            ("budget", self.budget.text),
            ("seeds", f"{self.plan.draws if self.plan else 0} in the rungs, {decision.seeds} fresh to confirm"),
            ("rungs", ", ".join(str(r.steps) for r in self.plan.rungs) if self.plan else "none"),
            ("engine", self.engine.description),
        )
        notes = (*self.notes, *self.engine.notes)
        order = ranking(self.contest, (*self.schemes, *self.refined_schemes), self.passed, interrupted=self.interrupted)
        return RaceResult(decision, order, trials, cost, settings, notes, tuple(self.refined_schemes))

    def _raise_if_all_failed(self) -> None:
        ran = [s for s in self.states.values() if s.status is not None or s.steps]
        if ran and all(s.status is Status.FAILED for s in ran):
            raise InputError(f"every training fails: {ran[0].message}")

    def _trials(self) -> Iterable[TrialResult]:
        for p in self.passed:
            if p.fault:
                seed = derive(self.seed, "rung", 0)
                yield TrialResult(p.scheme, self.task.rates[0], seed, "gate", Status.GATED, 0, message=p.fault)
        for key, state in self.states.items():
            yield state.result(self._fallback(key, state))

    def _fallback(self, key: MemberKey, state: MemberState) -> Status:
        assert self.plan is not None
        if key.phase == "confirm":
            return Status.COMPLETED if state.steps >= self.plan.confirm_steps else Status.INTERRUPTED
        return self.contest.fate(key.scheme, key.lr, interrupted=self.interrupted)


def evaluation_steps(horizon: int) -> tuple[int, ...]:
    """Steps at which a confirming training is scored, the end included.

    Example:
        >>> evaluation_steps(24)[:3], evaluation_steps(3)
        ((2, 4, 6), (1, 2, 3))
    """
    return tuple(sorted({max(1, round(horizon * (i + 1) / CONFIRM_EVALS)) for i in range(CONFIRM_EVALS)}))


def _scheme_digest(scheme: Any) -> str:
    told = repr((getattr(scheme, "assignments", ()), getattr(scheme, "calibrations", ())))
    return hashlib.sha256(told.encode()).hexdigest()[:12]
