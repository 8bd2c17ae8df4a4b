"""Residual branches: sums whose one side is, but for weightless ops, what the other side was computed from."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from initadvisor.graph.activations import Bends
from initadvisor.graph.flow import Flow, Layer
from initadvisor.graph.kinds import SPLITTING, Kind
from initadvisor.graph.opgraph import Op

_PASSES_SHORTCUT = frozenset({Kind.CARRY, Kind.NORM, Kind.SUM, Kind.BEND})
"""What may lie on a shortcut: no product (a gate decides, a shortcut does not) and no concatenation."""

_NO_SHORTCUT = frozenset({"square", "pow", "abs"})
"""Even functions keep no direction of a stream: what is added to them is no branch of it (factorisation machines)."""

_CANDIDATES = 48
"""Values of a shortcut that are tried as the fork, latest first; in every model seen the first few suffice."""

_SCORE_STEPS = 12
"""Masks, scales and casts between scores and their softmax."""


@dataclass
class Path:
    """One residual branch.

    Attributes:
        fork: the value it starts from.
        join: index of the op that adds it.
        term: the value that is added.
        ops: indices of the ops on it that descend from the fork.
        side_ops: ops that feed it but do not descend from the fork (a condition, another stream's keys).
        layers: uses of weights that descend from the fork, in order.
        side_layers: uses of weights that only this branch reads but that do not descend from the fork.
        projection: uses of weights on the shortcut.
        index: position among the branches.
    """

    fork: int
    join: int
    term: int
    ops: frozenset[int]
    side_ops: frozenset[int]
    layers: tuple[Layer, ...]
    side_layers: tuple[Layer, ...]
    projection: tuple[Layer, ...] = ()
    index: int = 0


@dataclass
class Residuals:
    """All branches of a graph.

    Attributes:
        paths: in order of their sums.
        joins: op index of each sum -> its branches.
        forks: values that some branch starts from.
        adapters: (first, second) uses of low-rank updates beside a weight.
        scores: indices of sums of a query and a key, from which one weight reads attention's scores.
    """

    paths: list[Path] = field(default_factory=list)
    joins: dict[int, list[Path]] = field(default_factory=dict)
    forks: set[int] = field(default_factory=set)
    adapters: list[tuple[Layer, Layer, Layer]] = field(default_factory=list)
    scores: set[int] = field(default_factory=set)


def find_residuals(flow: Flow, bends: Bends) -> Residuals:
    """All residual branches, nested ones included, in execution order of their sums."""
    found = Residuals()
    for op in flow.graph.ops:
        if flow.kind_of(op) is not Kind.SUM or op.index in bends.inner:
            continue
        sides = [v for v in dict.fromkeys(op.inputs) if flow.is_live(v)]
        if len(sides) != 2 or _makes_scores(flow, op, sides):
            continue
        if _is_additive_score(flow, op):
            found.scores.add(op.index)
            continue
        paths = _identity(flow, found, op, sides[0], sides[1]) or _identity(flow, found, op, sides[1], sides[0])
        paths = paths or _projected(flow, bends, found, op, sides)
        if paths:
            found.joins[op.index] = paths
            for path in paths:
                path.index = len(found.paths)
                found.paths.append(path)
                found.forks.add(path.fork)
    return _without_inner_skips(flow, found)


def _without_inner_skips(flow: Flow, found: Residuals) -> Residuals:
    """The same without skips inside a branch (a state space's ``u · D``), which no stream of the model runs through.

    What is added inside a branch belongs to a stream where it is added to the branch's own (blocks within a long skip),
    or where several sums follow each other (a whole net within one).
    """
    roots = _stream_roots(flow, found)
    inner: dict[tuple[int, int], list[Path]] = {}
    for outer in found.paths:
        if flow.depth[outer.fork] == 0:
            continue  # around the whole model: what lies inside is the model
        for path in found.paths:
            if path.join in outer.ops and roots[path.fork] != roots[outer.fork]:
                inner.setdefault((outer.index, roots[path.fork]), []).append(path)
    alone = {id(own[0]) for own in inner.values() if len({p.join for p in own}) == 1 and len(own) == 1}
    if not alone:
        return found
    kept = [p for p in found.paths if id(p) not in alone]
    joins = {j: own for j, paths in found.joins.items() if (own := [p for p in paths if id(p) not in alone])}
    for index, path in enumerate(kept):
        path.index = index
    return Residuals(kept, joins, {p.fork for p in kept}, found.adapters, found.scores)


def _stream_roots(flow: Flow, found: Residuals) -> list[int]:
    """Per value: where the stream that it is a state of began."""
    roots = list(range(len(flow.values)))
    for op in flow.graph.ops:
        sources = flow.signals(op)
        if op.index in found.joins:
            root = roots[found.joins[op.index][0].fork]
        elif flow.kind_of(op) in (Kind.CARRY, Kind.NORM, Kind.BEND) and len(sources) == 1:
            root = roots[sources[0]]
        else:
            continue
        for out in op.outputs:
            roots[out] = root
    return roots


def _makes_scores(flow: Flow, op: Op, sides: list[int]) -> bool:
    """Attention scores plus something, on the way to their softmax: a bias that layers share is no stream."""
    behind = [_origin(flow, side) for side in sides]
    if not any(made is not None and flow.kind_of(made) is Kind.MIX for made in behind):
        return False
    todo, seen = list(op.outputs), set[int]()
    while todo and len(seen) < _SCORE_STEPS:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        for reader in flow.consumers(value):
            if flow.kind_of(reader) is Kind.SOFTMAX:
                return True
            if flow.kind_of(reader) in (Kind.CARRY, Kind.SUM, Kind.JOIN):
                todo += list(reader.outputs)
    return False


def _is_additive_score(flow: Flow, op: Op) -> bool:
    """A query plus a key, bent and read by one weight whose softmax weighs other signals: additive attention."""
    layers, softmax = 0, False
    for _ in range(_SCORE_STEPS):
        readers = {r.index: r for out in op.outputs for r in flow.consumers(out)}
        if softmax and any(flow.kind_of(r) in (Kind.MIX, Kind.PRODUCT) for r in readers.values()):
            return True
        if len(readers) != 1 and not softmax:
            return False  # a stream is read by more than its scores
        op = next((r for r in readers.values() if flow.kind_of(r) in _TO_SCORES), op)
        if op.index not in readers:
            return False
        layers += op.index in flow.layers_of
        softmax |= flow.kind_of(op) is Kind.SOFTMAX
        if layers > 1:
            return False
    return False


_TO_SCORES = frozenset({Kind.CARRY, Kind.BEND, Kind.LAYER, Kind.SOFTMAX})
"""From the sum of a query and a key to the weight that each place gets."""


def _origin(flow: Flow, value: int) -> Op | None:
    """The op a value comes from, behind those that only carry."""
    for _ in range(_SCORE_STEPS):
        op = flow.producer(value)
        if op is None or flow.kind_of(op) is not Kind.CARRY or len(flow.signals(op)) != 1:
            return op
        value = flow.signals(op)[0]
    return None


class Ancestors:
    """Everything a value was computed from, opened only as far back as asked."""

    def __init__(self, flow: Flow, value: int) -> None:
        self.flow = flow
        self.layered = {value: False}
        self._heap: list[tuple[int, int]] = []
        self._push(value)

    def holds(self, op: Op) -> bool:
        """Whether something an op made is among the ancestors opened so far."""
        return any(out in self.layered for out in op.outputs)

    def _push(self, value: int) -> None:
        op = self.flow.values[value].op
        if op is not None:
            heapq.heappush(self._heap, (-op, value))

    def has(self, value: int) -> bool | None:
        """Whether ``value`` is an ancestor by way of a weight (False: without one); None where it is none."""
        made = self.flow.values[value].op
        bound = -1 if made is None else made
        while self._heap and -self._heap[0][0] > bound:
            _, current = heapq.heappop(self._heap)
            op = self.flow.producer(current)
            assert op is not None
            layered = self.layered[current] or op.index in self.flow.layers_of
            for source in self.flow.signals(op):
                new = source not in self.layered
                self.layered[source] = self.layered.get(source, False) or layered
                if new:
                    self._push(source)
        return self.layered.get(value)


def _shortcut(flow: Flow, value: int, *, whole: bool = False) -> Iterator[int]:
    """Values that reach ``value`` without a weight, latest first; with ``whole`` never as a part of them."""
    made = flow.values[value].op
    todo: list[tuple[int, int]] = [(1 if made is None else -made, value)]
    seen = {value}
    for _ in range(_CANDIDATES):
        if not todo:
            return
        current = heapq.heappop(todo)[1]
        yield current
        op = flow.producer(current)
        if op is None or flow.kind_of(op) not in _PASSES_SHORTCUT:
            continue
        if (whole and op.name in SPLITTING) or op.name in _NO_SHORTCUT:
            continue
        for source in flow.signals(op):
            if source not in seen:
                seen.add(source)
                made = flow.values[source].op
                heapq.heappush(todo, (1 if made is None else -made, source))


def _identity(flow: Flow, found: Residuals, op: Op, stream: int, branch: int) -> list[Path]:
    """Branches of ``stream + branch`` where ``stream`` reaches the sum without a weight."""
    if flow.values[stream].shape != flow.values[op.outputs[0]].shape:
        return []  # what is spread over a stream modulates it
    ancestors = Ancestors(flow, branch)
    for fork in _shortcut(flow, stream):
        layered = ancestors.has(fork)
        if layered:
            if _are_streams(flow, found, fork, stream, branch):
                return []
            if _other_parts(flow, fork, stream, ancestors):
                return []
            return _paths(flow, found, op, fork, branch, ancestors)
        if layered is not None:
            return []
    return []


def _are_streams(flow: Flow, found: Residuals, fork: int, one: int, two: int) -> bool:
    """Both sides are the fork with something added to it: two states of a stream that are averaged, no branch."""
    return all(fork in _joined_forks(flow, found, side) for side in (one, two))


def _joined_forks(flow: Flow, found: Residuals, value: int) -> set[int]:
    """Forks of the residual sums that a value is, or is a sum of."""
    todo, forks = [value], set[int]()
    for _ in range(_CANDIDATES):
        if not todo:
            break
        op = _origin(flow, todo.pop())
        if op is None or flow.kind_of(op) is not Kind.SUM:
            return set()
        if op.index in found.joins:
            forks |= {p.fork for p in found.joins[op.index]}
        else:
            todo += [i for i in op.inputs if flow.is_live(i)]
    return forks


def _other_parts(flow: Flow, fork: int, stream: int, ancestors: Ancestors) -> bool:
    """The branch was computed from other features of the fork than those it is added to (Res2Net's scales)."""
    splits = [op for op in flow.consumers(fork) if len(op.outputs) > 1 and op.name in SPLITTING]
    if len(splits) != 1:
        return False
    read = {o for o in splits[0].outputs if o in ancestors.layered}
    readers = [op for op in flow.consumers(fork) if op is not splits[0] and ancestors.holds(op)]
    return bool(read) and not readers and read.isdisjoint(_shortcut(flow, stream))


def _projected(flow: Flow, bends: Bends, found: Residuals, op: Op, sides: list[int]) -> list[Path]:
    """Branches where the shortcut carries one weight (and perhaps a norm) to match shapes."""
    shape = flow.values[op.outputs[0]].shape
    for stream, branch in (sides, sides[::-1]):
        if flow.values[stream].shape != shape:
            continue
        layer = _only_layer(flow, bends, stream)
        if layer is None or len(layer.reading.data) != 1:
            continue
        dtype = flow.values[layer.reading.data[0]].dtype
        if not (dtype.is_floating_point or dtype.is_complex):
            continue  # rows picked from a table (an expert's bias) are no other way of the stream
        ancestors = Ancestors(flow, branch)
        for fork in _shortcut(flow, layer.reading.data[0], whole=True):
            layered = ancestors.has(fork)
            if not layered:
                if layered is not None:
                    break
                continue
            paths = _paths(flow, found, op, fork, branch, ancestors)
            if not paths:
                break
            longest = max(_length(flow, p) for p in paths)
            adapter = _adapter(flow, bends, paths, layer)
            if adapter is not None:
                found.adapters.append(adapter)
                return []
            if flow.depth[fork] == 0 and _no_weight_after(flow, op):
                break  # a linear and a deep reading of the data, side by side: both make the output (wide & deep)
            bent = any(i in bends.inner or flow.kind[i] in _MIXES for p in paths for i in p.ops)
            if longest < 2 or not bent or any(_carries_older_stream(flow, found, p) for p in paths):
                break
            for path in paths:
                path.projection = (layer,)
            return paths
    return []


def _no_weight_after(flow: Flow, op: Op) -> bool:
    todo, seen = [op], {op.index}
    while todo:
        for reader in (r for out in todo.pop().outputs for r in flow.consumers(out)):
            if reader.index in flow.layers_of or len(seen) > _CANDIDATES:
                return False
            if reader.index not in seen:
                seen.add(reader.index)
                todo.append(reader)
    return True


def _carries_older_stream(flow: Flow, found: Residuals, path: Path) -> bool:
    """A stream that began before the fork runs on inside: what is summed are two readings of it (WaveNet's skips)."""
    inside = {path.fork, *(o for i in path.ops for o in flow.graph.ops[i].outputs)}
    return any(inner.fork not in inside for i in path.ops for inner in found.joins.get(i, ()))


_MIXES = frozenset({Kind.ATTENTION, Kind.SOFTMAX, Kind.MIX})


def _only_layer(flow: Flow, bends: Bends, value: int) -> Layer | None:
    """The single weight behind a value with nothing but linear ops and norms after it."""
    for _ in range(_CANDIDATES):
        if value in bends.by_exit:
            return None
        op = flow.producer(value)
        if op is None:
            return None
        layers = flow.layers_of.get(op.index)
        if layers:
            return layers[0] if len(layers) == 1 else None
        if flow.kind_of(op) not in (Kind.CARRY, Kind.NORM) or len(flow.signals(op)) != 1:
            return None
        value = flow.signals(op)[0]
    return None


def _adapter(flow: Flow, bends: Bends, paths: list[Path], beside: Layer) -> tuple[Layer, Layer, Layer] | None:
    """A low-rank update: two maps in a row through a bottleneck, beside one map of the same input."""
    if len(paths) != 1 or len(paths[0].layers) != 2 or paths[0].side_layers:
        return None
    first, second = paths[0].layers
    if any(i in bends.inner or flow.kind[i] is Kind.NORM for i in paths[0].ops):
        return None
    rank = first.reading.fan_out
    limit = min(beside.reading.fan_in, beside.reading.fan_out)
    return (first, second, beside) if rank < limit and second.reading.fan_in == rank else None


def _terms(flow: Flow, found: Residuals, value: int, ancestors: Ancestors, fork: int) -> list[int]:
    """Parts of a branch that are themselves sums of computations from the fork (attention and MLP side by side)."""
    inside = value
    while True:
        op = flow.producer(inside)
        if op is None or inside == fork:
            return [value]
        kind = flow.kind_of(op)
        if kind is Kind.CARRY and len(flow.signals(op)) == 1:
            inside = flow.signals(op)[0]
            continue
        if kind is not Kind.SUM or op.index in found.joins:
            return [value]
        sides = [v for v in dict.fromkeys(op.inputs) if flow.is_live(v)]
        if len(sides) != 2 or not all(Ancestors(flow, side).has(fork) for side in sides):
            return [value]
        return [t for side in sides for t in _terms(flow, found, side, ancestors, fork)]


def _paths(flow: Flow, found: Residuals, join: Op, fork: int, branch: int, ancestors: Ancestors) -> list[Path]:
    terms = _terms(flow, found, branch, ancestors, fork)
    paths = [_path(flow, found, join.index, fork, term) for term in terms]
    return paths if all(p.layers for p in paths) else [_path(flow, found, join.index, fork, branch)]


def _path(flow: Flow, found: Residuals, join: int, fork: int, term: int) -> Path:
    ancestors = Ancestors(flow, term)
    ancestors.has(fork)
    made = flow.values[fork].op
    first = -1 if made is None else made
    behind = sorted({i for v in ancestors.layered if (i := flow.values[v].op) is not None and i > first})
    reached, on = {fork}, set[int]()
    for index in behind:
        op = flow.graph.ops[index]
        if any(s in reached for s in flow.signals(op)):
            on.add(index)
            reached.update(op.outputs)
    side = _beside(flow, found, on, reached)
    layers = tuple(layer for i in sorted(on) for layer in flow.layers_of.get(i, ()))
    sides = tuple(layer for i in sorted(side) for layer in flow.layers_of.get(i, ()))
    return Path(fork, join, term, frozenset(on), frozenset(side), layers, sides)


def _beside(flow: Flow, found: Residuals, on: set[int], reached: set[int]) -> set[int]:
    """Ops that feed a branch from elsewhere and nothing else, whenever they ran.

    They end with the maps that read another stream (a cross-attention's keys); what is made of constants alone (a net
    over distances) is followed to its beginning.
    """
    side, todo, queued = set[int](), list[tuple[int, int]](), set[int]()

    def follow(op: Op) -> None:
        for value in flow.signals(op):
            made = flow.values[value].op
            if value not in reached and made is not None and made not in on and made not in queued:
                queued.add(made)
                heapq.heappush(todo, (-made, made))

    for index in on:
        follow(flow.graph.ops[index])
    while todo:
        op = flow.graph.ops[heapq.heappop(todo)[1]]
        readers = {r for out in op.outputs for r in flow.graph.consumers[out]}
        if op.index in found.joins or not readers <= on | side:
            continue
        side.add(op.index)
        if op.index not in flow.layers_of or not any(flow.from_batch[v] for v in flow.signals(op)):
            follow(op)
    return side


def _length(flow: Flow, path: Path) -> int:
    return branch_length(flow, path)


def branch_length(flow: Flow, path: Path) -> int:
    """Weight layers along a branch's longest way."""
    depth = {path.fork: 0}
    for index in sorted(path.ops):
        op = flow.graph.ops[index]
        level = max((depth[s] for s in flow.signals(op) if s in depth), default=0)
        level += index in flow.layers_of
        for out in op.outputs:
            depth[out] = level
    return depth.get(path.term, 0)
