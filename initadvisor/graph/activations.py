"""Activations in the graph: the elementwise functions of one signal, however many ops they are spelt with."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from initadvisor.graph import kinds
from initadvisor.graph.flow import Flow
from initadvisor.graph.kinds import Kind, words
from initadvisor.graph.opgraph import Op, Ref, Source
from initadvisor.graph.responses import Args, Elementwise, grid, is_affine, recognise

_CASTS = words("to type float double half bfloat16 type_as contiguous clone detach data")
_COMPARISONS = words("gt lt ge le eq ne greater less greater_equal less_equal __gt__ __lt__ __ge__ __le__")
_PICKS = frozenset({"where", "masked_fill", "maximum", "minimum"})
_NOT_ELEMENTWISE = frozenset({"glu"})
_WAVES = frozenset({"sin", "cos"})
"""Activations whose frequency may be learned, one for each feature."""
_LONGEST = 24
"""Ops one activation may be spelt with; GELU by its tanh formula takes 8."""
_PRELU_SLOPE = 0.25
"""What a PReLU's slope is where its value cannot be read (meta): torch's default."""

_STANDARD: dict[Any, tuple[int, str, Args] | None] = {}
"""Spellings that were looked into -> position of the last op, name and constants; pure, so kept between analyses."""
_MOST_SPELLINGS = 1024
"""Bounds that memory; a model has a handful."""

Mean = Callable[[str], float | None]


@dataclass(frozen=True, slots=True)
class Bend:
    """One activation.

    Attributes:
        name, args: as in ``ParamSpec.activation`` and ``activation_args``.
        start: the value it is applied to.
        exit: its result.
        ops: indices of the ops it consists of.
        learned: values of the parameters inside it.
    """

    name: str
    args: Args
    start: int
    exit: int
    ops: frozenset[int]
    learned: frozenset[int] = frozenset()


@dataclass
class Bends:
    """All activations of a graph.

    Attributes:
        by_start: value -> the activation it meets.
        by_exit: value -> the activation that made it.
        inner: ops inside activations.
        custom: callables of activations without a standard name.
    """

    by_start: dict[int, Bend] = field(default_factory=dict)
    by_exit: dict[int, Bend] = field(default_factory=dict)
    inner: dict[int, Bend] = field(default_factory=dict)
    custom: dict[str, Elementwise] = field(default_factory=dict)


def find_bends(flow: Flow, mean: Mean) -> Bends:
    """All activations, each value's longest.

    Args:
        flow: the graph, norms marked.
        mean: mean value of a parameter by its path, None where it cannot be read.
    """
    finder = _Finder(flow, mean)
    for value in range(len(flow.values)):
        if flow.is_live(value):
            finder.look(value)
    return finder.found


@dataclass(frozen=True, slots=True)
class _Step:
    """One op of a region: its arguments with members and constants filled in as positions and numbers."""

    op: Op
    numbers: dict[int, float]
    learned: frozenset[int]


class _Finder:
    def __init__(self, flow: Flow, mean: Mean) -> None:
        self.flow = flow
        self.mean = mean
        self.found = Bends()
        self._named: dict[Any, tuple[int, str, Args] | None] = {}

    def look(self, start: int) -> None:
        """Find the activation that begins at a value."""
        made = self.flow.values[start].op
        if made is not None and made in self.found.inner and start not in self.found.by_exit:
            return
        for steps in self._apart(start, self._region(start)):
            self._find(start, steps)

    def _find(self, start: int, steps: list[_Step]) -> None:
        closings = self._closings(start, steps)
        leads = bool(closings) and closings[0] == 0 and self._is_affine_op(steps[0].op)
        # A learned shift or scale before the bend is a bias or a norm's; the bend begins behind it.
        if leads and steps[0].learned and not self._may_be_frequency(start, steps[0].op):
            return
        named = self._known_name(start, steps, closings)
        if named is None:
            return
        last, name, args = named
        if leads and steps[0].learned and name not in _WAVES:
            return
        if leads and name in self.found.custom and self._is_sum(start):
            return  # the factor of a mean belongs to the sum (parallel branches), and the bend begins behind it
        ops = frozenset(s.op.index for s in steps[: last + 1])
        learned = frozenset().union(*(s.learned for s in steps[: last + 1]))
        bend = Bend(name, args, start, steps[last].op.outputs[0], ops, learned)
        self.found.by_start.setdefault(start, bend)
        self.found.by_exit[bend.exit] = bend
        for index in ops:
            self.found.inner[index] = bend

    def _may_be_frequency(self, start: int, op: Op) -> bool:
        """A learned factor on what no norm has just made."""
        made = self.flow.maker(start)
        return op.name == "mul" and (made is None or made.index not in self.flow.norms)

    def _is_sum(self, value: int) -> bool:
        """Several signals added up, perhaps moved since."""
        made = self.flow.maker(value)
        return made is not None and self.flow.kind_of(made) is Kind.SUM

    # ---- regions

    def _region(self, start: int) -> list[_Step]:
        """Elementwise ops that read ``start`` and what they make of it, in order; empty where none of them bends."""
        flow = self.flow
        first = flow.graph.consumers[start]
        if not any(self._may_belong(flow.graph.ops[i]) for i in first):
            return []
        members, todo, queued = {start}, list(first), set(first)
        steps: list[_Step] = []
        bends = False
        heapq.heapify(todo)
        limit = _LONGEST * len(first)
        while todo and len(steps) < limit:
            op = flow.graph.ops[heapq.heappop(todo)]
            step = self._step(op, members)
            if step is None:
                continue
            steps.append(step)
            bends |= flow.kind_of(op) in (Kind.BEND, Kind.PRODUCT, Kind.JOIN) or op.name in _COMPARISONS
            for out in op.outputs:
                members.add(out)
                for index in flow.graph.consumers[out]:
                    if index not in queued:
                        queued.add(index)
                        heapq.heappush(todo, index)
        return steps if bends else []

    def _apart(self, start: int, steps: list[_Step]) -> list[list[_Step]]:
        """Parts of a region that meet in nothing but its start: every reader may bend the value for itself."""
        groups: list[tuple[set[int], list[_Step]]] = []
        for step in steps:
            read = set(step.op.inputs) - {start}
            joined = [g for g in groups if not read.isdisjoint(g[0])]
            made, members = set(step.op.outputs), [step]
            for values, others in joined:
                made |= values
                members = others + members
            groups = [g for g in groups if g not in joined] + [(made, members)]
        parts = [sorted(members, key=lambda s: s.op.index) for _, members in groups]
        return sorted((p[:_LONGEST] for p in parts), key=lambda p: p[0].op.index)

    def _may_belong(self, op: Op) -> bool:
        if self.flow.kind_of(op) is Kind.INNER or op.index in self.flow.norms or len(op.outputs) != 1:
            return False
        name = op.name
        return (
            (name in kinds.BENDS and name not in _NOT_ELEMENTWISE)
            or name in kinds.AFFINE
            or name in _CASTS
            or name in _COMPARISONS
            or name in _PICKS
        )

    def _step(self, op: Op, members: set[int]) -> _Step | None:
        if not self._may_belong(op) or "out" in op.kwargs:
            return None
        flow = self.flow
        numbers: dict[int, float] = {}
        learned: set[int] = set()
        shape = flow.values[op.outputs[0]].shape
        if op.name in _CASTS and op.inputs[0] not in members:
            return None  # something else is cast to the signal's type
        for value in op.inputs:
            if value in members:
                if len(flow.values[value].shape) != len(shape) and op.name not in _CASTS:
                    return None
                continue
            if op.name in _CASTS:
                continue  # type_as(x, like)
            number = None if flow.is_live(value) else self._number(value, op.name)
            if number is None:
                return None
            numbers[value] = number
            if flow.is_pure(value):
                learned |= flow.origins[value]
        return _Step(op, numbers, frozenset(learned))

    def _number(self, value: int, consumer: str) -> float | None:
        """What a constant or a learned constant is, on average."""
        found = self.flow.values[value]
        if found.number is not None:
            return found.number
        if found.source is Source.PARAMETER:
            mean = self.mean(found.name)
            return mean if mean is not None else (_PRELU_SLOPE if consumer == "prelu" else 1.0)
        op = self.flow.producer(value)
        if op is None:
            return None
        if op.name in kinds.LAYOUT and op.inputs:
            return self._number(op.inputs[0], consumer)
        if op.name in kinds.RANDOM and op.args and isinstance(op.args[0], (int, float)) and op.name == "tensor":
            return float(op.args[0])
        if not self.flow.is_pure(value) or not self._may_belong(op):
            return None
        numbers = {i: self._number(i, consumer) for i in op.inputs}
        if any(n is None for n in numbers.values()):
            return None
        made = _call(op, {i: torch.tensor([n], dtype=torch.float64) for i, n in numbers.items()})
        return None if made is None else float(made.reshape(-1)[0])

    def _closings(self, start: int, steps: list[_Step]) -> list[int]:
        """Positions after which nothing but that op's result is read further on within the region."""
        last_read: dict[int, int] = {}
        for position, step in enumerate(steps):
            for value in step.op.inputs:
                last_read[value] = position
        found, furthest = [], last_read.get(start, -1)
        for position, step in enumerate(steps):
            out = step.op.outputs[0]
            if furthest <= position and self.flow.is_live(out):
                found.append(position)
            furthest = max(furthest, last_read.get(out, -1))
        return found

    def _is_affine_op(self, op: Op) -> bool:
        return op.name in kinds.AFFINE and self.flow.kind_of(op) is Kind.CARRY

    # ---- names

    def _known_name(self, start: int, steps: list[_Step], closings: list[int]) -> tuple[int, str, Args] | None:
        """As :meth:`_name`, asked once per spelling: of what has a standard name, once per process."""
        signature = (self._signature(start, steps), tuple(closings))
        if signature in _STANDARD:
            return _STANDARD[signature]
        if signature not in self._named:
            customs = len(self.found.custom)
            named = self._named[signature] = self._name(start, steps, closings)
            if len(self.found.custom) == customs and len(_STANDARD) < _MOST_SPELLINGS:
                _STANDARD[signature] = named
        return self._named[signature]

    def _signature(self, start: int, steps: list[_Step]) -> tuple[Any, ...]:
        position = {start: -1}
        rows = []
        for i, step in enumerate(steps):
            numbers = step.numbers

            def told(arg: Any, numbers: dict[int, float] = numbers) -> Any:
                if isinstance(arg, Ref):
                    return ("@", position.get(arg.value)) if arg.value in position else numbers.get(arg.value)
                if isinstance(arg, tuple):
                    return tuple(told(a) for a in arg)
                return arg if isinstance(arg, (int, float, str, bool, type(None))) else str(arg)

            kwargs = tuple((k, told(v)) for k, v in sorted(step.op.kwargs.items()))
            rows.append((step.op.name, tuple(told(a) for a in step.op.args), kwargs, bool(step.learned)))
            position[step.op.outputs[0]] = i
        return tuple(rows)

    def _name(self, start: int, steps: list[_Step], closings: list[int]) -> tuple[int, str, Args] | None:
        """The longest run of ops that is a known activation, else the longest that is none but bends."""
        curved: list[tuple[int, Callable[[torch.Tensor], Any], torch.Tensor]] = []
        for last in closings:
            if steps[last].learned and self._is_affine_op(steps[last].op) and curved:
                break  # a learned factor behind the bend belongs to what comes next
            if steps[last].op.name == "rrelu":
                return last, "rrelu", ()
            response = _replay(start, steps[: last + 1])
            values = response(grid())
            if values is None or values.shape != grid().shape:
                break
            if is_affine(values, grid()):
                continue
            curved.append((last, response, values))
        for last, response, values in reversed(curved):
            if torch.isfinite(values).all():
                known = recognise(lambda z, r=response: r(z))  # type: ignore[misc]
                if known is not None:
                    learned = steps[last].op.name == "prelu" and known[0] == "leaky_relu"
                    return last, "prelu" if learned else known[0], known[1]
        if not curved:
            return None
        last, response, values = curved[-1]
        if not torch.isfinite(values).all():
            first = curved[0][0]  # a root or a logarithm: named after its op, no gain can be computed
            return first, steps[first].op.name, ()
        name = f"custom_{len(self.found.custom)}"
        self.found.custom[name] = lambda z: response(z)
        return last, name, ()


def _replay(start: int, steps: list[_Step]) -> Callable[[torch.Tensor], Any]:
    """The region as a function; None where an op does not run by itself."""

    def run(z: torch.Tensor) -> torch.Tensor | None:
        known = {start: z}
        for step in steps:
            constants = {v: torch.tensor(n, dtype=z.dtype, device=z.device) for v, n in step.numbers.items()}
            made = _call(step.op, known | constants)
            if made is None:
                return None
            known[step.op.outputs[0]] = made
        return known[steps[-1].op.outputs[0]]

    return run


def _call(op: Op, known: dict[int, torch.Tensor]) -> torch.Tensor | None:
    """One op on other tensors, never in place."""

    def filled(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return known[arg.value]
        if isinstance(arg, tuple):
            return tuple(filled(a) for a in arg)
        return arg

    if op.name in _CASTS:
        return known.get(op.inputs[0])  # of "y.to(x)" only x may be known
    args = [filled(a) for a in op.args]
    if op.name == "prelu":
        return torch.where(args[0] >= 0, args[0], args[0] * args[1])
    if op.in_place:
        args[0] = args[0].clone()
    try:
        made = op.function(*args, **{k: filled(v) for k, v in op.kwargs.items()})
    except (RuntimeError, TypeError, ValueError):
        return None
    return made if isinstance(made, torch.Tensor) else None
