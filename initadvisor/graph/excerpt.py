"""The model's part of a pass that holds more: what a loss did to call parts of it, without what it made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from initadvisor.graph.opgraph import Op, OpGraph, Source


def models_part(graph: OpGraph, left: Iterable[int]) -> OpGraph:
    """The ops that what came out of the model depends on.

    Args:
        graph: of a whole loss.
        left: values that came out of modules which no other module had called.

    Returns:
        The same values, and of the ops those that lead to one of ``left`` or to where a weight met data outside of any
        module; the outputs are what no op that is kept reads.
    """
    ends = [*left, *_meetings(graph)]
    needed, pending = set[int](), list(ends)
    while pending:
        op = graph.values[pending.pop()].op
        if op is not None and op not in needed:
            needed.add(op)
            pending.extend(graph.ops[op].inputs)
    number = {old: new for new, old in enumerate(sorted(needed))}
    ops = tuple(replace(graph.ops[old], index=new) for old, new in number.items())
    values = tuple(
        v if v.op is None else replace(v, op=number.get(v.op), source=Source.OP if v.op in number else Source.CONSTANT)
        for v in graph.values
    )
    read = {v for op in ops for v in op.inputs}
    outputs = tuple(v for v in dict.fromkeys(ends) if v not in read)
    return OpGraph(ops, values, outputs, graph.parameters, graph.buffers, graph.input_count)


def _meetings(graph: OpGraph) -> list[int]:
    """Results of ops outside of modules that take a weight, or what is made of weights alone, together with data.

    A number reduced from weights, such as their norm, is a penalty's and stands for no weight.
    """
    weights = {v.index for v in graph.sources(Source.PARAMETER)}
    found: list[int] = []
    for op in graph.ops:
        if op.module or weights.isdisjoint(op.inputs):
            continue
        if weights.issuperset(op.inputs):
            weights.update(v for v in op.outputs if not _is_reduced(graph, op, v))
        else:
            found.extend(op.outputs)
    return found


def _is_reduced(graph: OpGraph, op: Op, value: int) -> bool:
    return not graph.values[value].shape and any(graph.values[v].shape for v in op.inputs)
