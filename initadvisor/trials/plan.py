"""How much is tried, and how far? A budget becomes a race: who enters, and how far the better part goes on.

A race is successive halving in optimizer steps (Jamieson & Talwalkar 2016, section 3): every arm, a scheme at a
learning rate, trains for some twenty-five steps; the better part goes on, four times as far each time, until the money
is used or the full training is reached. What is left then buys fresh seeds of those that matter. Money is optimizer
steps, or seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from initadvisor.errors import InputError

FIRST_RUNG = 25
"""Optimizer steps that every arm takes. On most long trainings the rank correlation with the end passes .5 at 20 to 40
steps. Replayed on nineteen trainings of 3,000 steps (`benchmarks/horizon`), first rungs of 25 and 30 steps lie on a
plateau; after 10 four trainings in ten are lost."""

SHORTEST_RUNG = 10
"""Fewest steps that two arms are compared after: fewer rank noise."""

GROWTH = 4.0
"""Length of each rung in lengths of the one before. Replayed on the same trainings, with half of the arms going on, the
mean regret is .23, .21, .19, .13 at a cost of .1, .3, 1 and 3 trainings; with doublings .40, .35, .32, .13."""

KEEP = 0.5
"""Share of the arms that goes on, where the money allows no more."""

MOST_KEPT = 0.95
"""Largest share that goes on; nearly everything then trains in full."""

FEW_SCHEMES = 10
"""Schemes that enter before rates are given up: the best one is seldom further down in the rules' order."""

FIRST_SHARE = 0.6
"""Share of the money that the first rung may take; the rest lets the better part go on."""

RACE_SHARE = 0.65
"""Share of the money for the race where that is enough to reach the full training; the rest is for fresh seeds."""

SEEN_SHARE = 0.3
"""Share of the full training that ranks as well as a whole training of one seed (rank correlation .72 against .74)."""

SEEN_MONEY = 0.5
"""Share of the money for getting there; what is left goes further with the best."""

MOST_SEEDS = 4
"""Seeds of each arm at most, while there are many arms."""

SECOND_SEED_FROM = 0.3
"""Share of the training from which a second seed of the last arms brings more than more steps: two seeds at 30% had a
mean regret of .12, one at 50% of .16."""

FEW_ARMS = 3
"""Arms that get a second seed then."""

WORTH_A_RUNG = 0.25
"""Least growth of a rung of its own; what is left for less lengthens the rung before."""

ASSUMED_LENGTHS = 400, 12_800
"""Bounds of the length that is assumed where the user names none."""

ASSUMED_TRAININGS = 20
"""Full trainings that a budget is taken for where the length of one is unknown."""

REFINE_FROM = 30.0
"""Full trainings from which gains are refined around the leader: fewer are better spent on seeds."""

REFINE_SHARE = 0.25
"""Share of the money for that."""

MOST_REFINED = 9
"""Refined schemes at most; more need more seeds to be told apart."""

MOST_STEPS = 1 << 40
"""Steps beyond which nothing is counted."""

ROUNDING = 1e-12
"""By which a sum of prices may miss the money."""

SEARCH_ROUNDS = 30
"""Bisections when a share is fitted to the money."""


@dataclass(frozen=True, slots=True)
class Word:
    """A budget in words.

    Attributes:
        share: of one full training, where its length is known.
        seconds: of trials that it is at least, up to ``trainings``.
        trainings: full trainings that the seconds may buy at most.
    """

    share: float
    seconds: float
    trainings: float


WORDS = {
    "fast": Word(0.01, 15.0, 3.0),
    "standard": Word(0.05, 45.0, 20.0),
    "thorough": Word(0.25, 300.0, 80.0),
}
"""What a budget in words buys: a share of ONE full training, or what so many seconds buy, whichever is more. Small
trainings are cheap, so there the seconds decide, up to a number of trainings beyond which little changes."""


def _one_step(runs: int) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class Prices:
    """What runs cost, in the unit of the money.

    Attributes:
        step: one optimizer step of one of so many runs side by side.
        begin: beginning a run: its weights are drawn.
        resume: having a run go on for another rung, and scoring it.
    """

    step: Callable[[int], float] = _one_step
    begin: float = 0.0
    resume: float = 0.0

    def cost(self, runs: int, steps: float, begun: int = 0) -> float:
        """Of so many runs that take so many steps in all, where ``begun`` of them start from nothing."""
        return steps * self.step(runs) + runs * self.resume + begun * self.begin

    def affordable(self, money: float, runs: int, begun: int = 0) -> int:
        """Steps each of so many runs can take at most."""
        left = money - runs * self.resume - begun * self.begin
        if self.step(runs) <= 0:  # nothing has been timed yet
            return MOST_STEPS if left > 0 else 0
        each = left / (runs * self.step(runs)) * (1 + ROUNDING)
        return max(0, math.floor(min(each, MOST_STEPS)))


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of a race.

    Attributes:
        steps: optimizer steps of each run when it ends, from the start of its training.
        arms: schemes at rates that take part, the current weights among them.
        seeds: of each arm.
    """

    steps: int
    arms: int
    seeds: int = 1

    def cost(self, prices: Prices, before: Rung | None) -> float:
        """Of getting there; runs of more seeds than before start from nothing."""
        done, seeds = (before.steps, before.seeds) if before else (0, 0)
        begun = self.arms * max(0, self.seeds - seeds)
        steps = self.arms * self.seeds * (self.steps - done) + begun * done
        return prices.cost(self.runs, steps, begun)

    @property
    def runs(self) -> int:
        """Trainings side by side."""
        return self.arms * self.seeds


@dataclass(frozen=True, slots=True)
class Plan:
    """What a race will run.

    Attributes:
        schemes: that enter, the current weights among them; one or none where nothing can be compared.
        rates: learning rates that each enters with.
        rungs: expected; each is settled only when the one before is done.
        keep: share of the arms that goes on.
        seeds: of every arm.
        refined: schemes with refined gains, each trained as far as the race went.
        length: of the full training, or the one assumed.
        money: that it may cost, in steps or seconds.
        in_seconds: the money is seconds of wall time.
        low_rates: rates above the one to fall back on do not enter.
    """

    schemes: int
    rates: int
    rungs: tuple[Rung, ...]
    keep: float = KEEP
    seeds: int = 1
    refined: int = 0
    length: int = ASSUMED_LENGTHS[0]
    money: float = 0.0
    in_seconds: bool = False
    low_rates: bool = False

    @property
    def sees_rates(self) -> bool:
        """It goes far enough to tell which learning rate ends best: early views prefer rates that are too high."""
        return bool(self.rungs) and self.rungs[-1].steps >= SEEN_SHARE * self.length

    @property
    def arms(self) -> int:
        """Schemes at rates that enter."""
        return self.schemes * self.rates

    @property
    def reaches(self) -> bool:
        """The race reaches the full training."""
        return bool(self.rungs) and self.rungs[-1].steps >= self.length


@dataclass(frozen=True, slots=True)
class Terms:
    """What does not change while a race runs.

    Attributes:
        length: steps of the full training, or the one assumed.
        keep: share of the arms that goes on after each rung.
        prices: what runs cost.
        reaches: the money is planned to reach the full training and fresh seeds after it.
    """

    length: int
    keep: float = KEEP
    prices: Prices = field(default_factory=Prices)
    reaches: bool = False


def next_rung(before: Rung, money: float, terms: Terms) -> Rung | None:
    """The rung after one that is done.

    Args:
        before: the last one, with the arms that could go on.
        money: that is left.
        terms: of the race.

    Returns:
        None where the full training is reached or no arm can take one more step.

    Example:
        >>> next_rung(Rung(20, 8), 1000, Terms(2000)), next_rung(Rung(20, 8), 50, Terms(2000))
        (Rung(steps=80, arms=4, seeds=1), Rung(steps=32, arms=4, seeds=1))
        >>> next_rung(Rung(2000, 2), 1000, Terms(2000)) is None
        True
    """
    if before.arms < 2 or before.steps >= terms.length:
        return None
    arms = max(2, math.ceil(before.arms * terms.keep - 1e-9))
    if not terms.reaches and arms <= FEW_ARMS and before.seeds == 1 and before.steps >= SECOND_SEED_FROM * terms.length:
        again = Rung(before.steps, arms, 2)
        if again.cost(terms.prices, before) <= money:
            return again
    goal = min(terms.length, math.ceil(before.steps * GROWTH))
    while True:
        runs = arms * before.seeds
        reach = before.steps + terms.prices.affordable(money, runs)
        if arms == 2 or min(reach, goal) >= min(goal, before.steps * (1 + WORTH_A_RUNG)):
            break
        arms = max(2, arms // 2)
    if reach <= before.steps:
        return None
    rung = Rung(min(goal, reach), arms, before.seeds)
    left = money - rung.cost(terms.prices, before)
    following = max(2, math.ceil(arms * terms.keep - 1e-9)) * before.seeds
    if rung.steps < terms.length and terms.prices.affordable(left, following) < WORTH_A_RUNG * rung.steps:
        rung = Rung(min(terms.length, reach), arms, before.seeds)
    return rung


def forecast(first: Rung, money: float, terms: Terms) -> tuple[Rung, ...]:
    """All rungs of a race that begins with ``first``, if no run breaks down."""
    rungs, left = [first], money - first.cost(terms.prices, None)
    while (rung := next_rung(rungs[-1], left, terms)) is not None:
        left -= rung.cost(terms.prices, rungs[-1])
        rungs.append(rung)
    return tuple(rungs)


def total(rungs: tuple[Rung, ...], prices: Prices) -> float:
    """Cost of all rungs."""
    return math.fsum(r.cost(prices, b) for r, b in zip(rungs, (None, *rungs), strict=False))


def make_plan(
    money: float,
    *,
    schemes: int,
    rates: int,
    length: int,
    prices: Prices | None = None,
    in_seconds: bool = False,
) -> Plan:
    """The race that so much money buys: fewer rates where it is short, then fewer schemes, then two, then none.

    Args:
        money: steps or seconds.
        schemes: there are, the current weights among them, best prior first.
        rates: learning rates there are.
        length: steps of the full training.
        prices: what runs cost; None where money is steps.
        in_seconds: it is not.

    Example:
        >>> plan = make_plan(200, schemes=8, rates=1, length=2000)
        >>> plan.arms, plan.rungs
        (4, (Rung(steps=25, arms=4, seeds=1), Rung(steps=75, arms=2, seeds=1)))
        >>> make_plan(30, schemes=8, rates=3, length=2000).rungs, make_plan(15, schemes=8, rates=3, length=2000).rungs
        ((Rung(steps=15, arms=2, seeds=1),), ())
    """
    prices = prices or Prices()
    entering, lrs, first = _entry(money, schemes, rates, min(FIRST_RUNG, length), prices)
    if first is None:
        return Plan(0, 0, (), length=length, money=money, in_seconds=in_seconds)
    terms = Terms(length, KEEP, prices, reaches=True)
    seeds, keep, refined = 1, KEEP, 0
    in_full = total(forecast(first, math.inf, terms), prices)
    seen = Terms(max(first.steps, round(SEEN_SHARE * length)), KEEP, prices)
    if in_full <= RACE_SHARE * money:
        refined = _refined(money, length, prices)
        share = (RACE_SHARE - REFINE_SHARE if refined else RACE_SHARE) * money
        first = _longest_first(first, share, terms)
        seeds = _most_seeds(first, share, terms)
        first = Rung(first.steps, first.arms, seeds)
        keep = _largest_keep(first, share, terms)
        rungs = forecast(first, math.inf, Terms(length, keep, prices, reaches=True))
        # Refined schemes run on all seeds of the race.
        refined = min(refined, int(REFINE_SHARE * money / max(prices.step(1), 1e-12) / (length * seeds)))
    else:
        if in_full <= money:
            first = _longest_first(first, money, terms)
        else:
            # Where the money reaches the share that ranks well, more arms come along as far as that.
            keep = _largest_keep(first, SEEN_MONEY * money, seen)
        rungs = forecast(first, money, Terms(length, keep, prices, reaches=in_full <= money))
    return Plan(entering, lrs, rungs, keep, seeds, refined, length, money, in_seconds)


def _entry(money: float, schemes: int, rates: int, steps: int, prices: Prices) -> tuple[int, int, Rung | None]:
    """Schemes and rates that enter, and the first rung; none where two arms cannot be compared."""

    def fits(count: int, lrs: int, share: float) -> bool:
        return Rung(steps, count * lrs).cost(prices, None) <= share * money

    if schemes < 2:
        return 0, 0, None
    count, lrs = schemes, rates
    if not fits(count, lrs, FIRST_SHARE):
        few = min(count, FEW_SCHEMES)
        while lrs > 1 and not fits(few, lrs, FIRST_SHARE):
            lrs -= 1
        while count > 2 and not fits(count, lrs, FIRST_SHARE):
            count -= 1
    if fits(count, lrs, 1.0):
        return count, lrs, Rung(steps, count * lrs)
    reach = min(steps, prices.affordable(money, 2, 2))
    return (2, 1, Rung(reach, 2)) if reach >= min(SHORTEST_RUNG, steps) else (0, 0, None)


def _longest_first(first: Rung, money: float, terms: Terms) -> Rung:
    """The first rung as long as the money allows, up to the share of a training that ranks well.

    What starts late is only seen late: of nineteen trainings of 3,000 steps, halving from 20 steps on had a mean regret
    of .22 at a cost of three trainings, halving from the longest first rung that this pays .09.
    """
    low, high = first.steps, max(first.steps, round(SEEN_SHARE * terms.length))

    def cost(steps: int) -> float:
        return total(forecast(Rung(steps, first.arms), math.inf, terms), terms.prices)

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= money else (low, middle)
    return Rung(low, first.arms)


def _most_seeds(first: Rung, money: float, terms: Terms) -> int:
    seeds = 1
    while seeds < MOST_SEEDS:
        more = Rung(first.steps, first.arms, seeds + 1)
        if total(forecast(more, math.inf, terms), terms.prices) > money:
            break
        seeds += 1
    return seeds


def _largest_keep(first: Rung, money: float, terms: Terms) -> float:
    def cost(keep: float) -> float:
        return total(forecast(first, math.inf, Terms(terms.length, keep, terms.prices, terms.reaches)), terms.prices)

    low, high = KEEP, MOST_KEPT
    if cost(low) > money:
        return low
    if cost(high) <= money:
        return high
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= money else (low, middle)
    return low


def _refined(money: float, length: int, prices: Prices) -> int:
    return MOST_REFINED if money >= REFINE_FROM * length * prices.step(1) else 0


def describe(plan: Plan) -> str:
    """A plan in words.

    Example:
        >>> describe(make_plan(400, schemes=9, rates=1, length=2000))
        '9 schemes at 1 learning rate: 25 steps of 9 runs, 60 of 5'
    """
    if not plan.rungs:
        return "nothing: the budget does not reach for two candidates to be compared"
    first, *later = plan.rungs
    runs = [f"{first.steps} steps of {first.runs} runs", *(f"{r.steps} of {r.runs}" for r in later)]
    rates = f"{plan.rates} learning rate{'s' if plan.rates > 1 else ''}"
    text = f"{plan.schemes} schemes at {rates}: {', '.join(runs)}"
    if plan.refined:
        text += f"; {plan.refined} refined schemes"
    return text + ("; then fresh seeds" if plan.reaches else "")


@dataclass(frozen=True, slots=True)
class Budget:
    """What the user allows.

    Attributes:
        text: as the user gave it, for the report.
        word: its terms, where it was given in words.
        seconds: limit of wall time, or None.
        steps: limit of optimizer steps over all runs, or None.
    """

    text: str
    word: Word | None = None
    seconds: float | None = None
    steps: int | None = None

    @property
    def clock(self) -> float | None:
        """Seconds the whole race is held to; None where steps or a word limit it."""
        return None if self.word is not None else self.seconds

    def length(self, full_steps: int | None, per_second: float | None) -> int:
        """Steps of the full training, or an assumed number that the budget is some twenty times.

        Args:
            full_steps: as the user gave it.
            per_second: optimizer steps a second of wall time, over all runs; None where nothing is known.
        """
        if full_steps is not None:
            return full_steps
        low, high = ASSUMED_LENGTHS
        money = self.steps if self.steps is not None else (self.seconds or 0.0) * (per_second or 0.0)
        length = low
        # By doublings, so that machines of about one speed assume the same.
        while 2 * length <= min(high, money / ASSUMED_TRAININGS):
            length *= 2
        return length

    def in_steps(self, full_steps: int | None, per_second: float | None) -> int:
        """Optimizer steps that a budget in words or steps allows.

        Example:
            >>> read_budget("standard").in_steps(20_000, 1.0), read_budget("standard").in_steps(400, 1e6)
            (1000, 8000)
        """
        if self.steps is not None:
            return self.steps
        assert self.word is not None
        length = self.length(full_steps, per_second)
        bought = self.word.trainings * length
        # Halving keeps the race, and with it the advice, the same on machines of about the same speed.
        while per_second is not None and bought > self.word.seconds * per_second and bought > 1:
            bought /= 2
        share = self.word.share * full_steps if full_steps is not None else 0.0
        return max(2 * FIRST_RUNG, math.ceil(share), int(bought))


def read_budget(given: str | float | int) -> Budget:
    """Read ``budget=``: a word, seconds as a float, or optimizer steps as an int.

    Raises:
        InputError: neither.

    Example:
        >>> read_budget(2000).steps, read_budget(30.0).seconds, read_budget("fast").word.share
        (2000, 30.0, 0.01)
    """
    if isinstance(given, str) and given in WORDS:
        return Budget(given, word=WORDS[given], seconds=WORDS[given].seconds)
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return Budget(f"{given:,} optimizer steps", steps=given)
    if isinstance(given, float) and math.isfinite(given) and given > 0:
        return Budget(f"{given:g} s", seconds=given)
    raise InputError(
        f"budget={given!r}; give {', '.join(map(repr, WORDS))}, seconds as a float, or optimizer steps as a positive "
        "int"
    )
