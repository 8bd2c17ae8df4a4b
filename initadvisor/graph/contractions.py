"""Which axes of a weight are inputs, outputs, kernel and independent maps, by the op that contracts it.

One letter per axis of the weight as the op sees it: ``o`` output features, ``i`` input features, ``k`` kernel
positions, ``b`` independent maps (experts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from initadvisor.graph.gates import gates_of
from initadvisor.graph.kinds import LOOKUPS, RECURRENT_LAYERS
from initadvisor.graph.opgraph import Op, Ref, Value


@dataclass(frozen=True, slots=True)
class Reading:
    """One weight of one op.

    Attributes:
        data: values it is applied to.
        weight: value of the weight operand.
        axes: one letter per axis of the weight operand.
        fan_in, fan_out: connection counts (of one gate, of one group, of one expert).
        bias: value of the bias operand, if the op adds one itself.
        groups: independent blocks of a grouped convolution.
        out_axes: for each ``o`` axis in order: the axis of the op's output it becomes, negative.
        recurrent: it is applied to the layer's own state.
    """

    data: tuple[int, ...]
    weight: int
    axes: str
    fan_in: float
    fan_out: float
    bias: int | None = None
    groups: int = 1
    out_axes: tuple[int, ...] = (-1,)
    recurrent: bool = False


_Pure = Callable[[int], bool]


def _size(shape: tuple[int, ...], axes: str, letters: str) -> float:
    return float(math.prod(n for n, letter in zip(shape, axes, strict=True) if letter in letters))


def _reading(values: tuple[Value, ...], data: tuple[int, ...], weight: int, axes: str, **more: object) -> Reading:
    shape = values[weight].shape
    fan_in, fan_out = _size(shape, axes, "ik"), _size(shape, axes, "ok")
    return Reading(data, weight, axes, fan_in, fan_out, **more)  # type: ignore[arg-type]


def _linear(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    data, weight = op.ref(0, "input"), op.ref(1, "weight")
    if data is None or weight is None or not pure(weight):
        return None
    axes = "oi" if len(values[weight].shape) == 2 else "i"
    return _reading(values, (data,), weight, axes, bias=op.ref(2, "bias"), out_axes=(-1,) if axes == "oi" else ())


def _numbers(value: object, count: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * count
    if isinstance(value, tuple) and value:
        found = tuple(int(v) for v in value)
        return found if len(found) == count else found[:1] * count
    return (1,) * count


def _conv(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    data, weight = op.ref(0, "input"), op.ref(1, "weight")
    if data is None or weight is None or not pure(weight):
        return None
    shape = values[weight].shape
    spatial = len(shape) - 2
    transposed = op.name.startswith("conv_transpose") or (op.name == "convolution" and bool(op.arg(6, "transposed")))
    position = 8 if op.name == "convolution" else 6
    groups = int(op.arg(position, "groups", 1) or 1)
    bias, out_axes = op.ref(2, "bias"), (-(spatial + 1),)
    if not transposed:
        # Of the C_out filters only those of an input's own group read it; torch's helper forgets to divide.
        made = _reading(values, (data,), weight, "oi" + "k" * spatial, bias=bias, groups=groups, out_axes=out_axes)
        return Reading(made.data, weight, made.axes, made.fan_in, made.fan_out / groups, bias, groups, out_axes)
    stride = _numbers(op.arg(3, "stride", 1), spatial)
    kernel = math.prod(shape[2:])
    # Each output position is reached by one kernel tap in `stride`, from the C_in/g channels of its group.
    fan_in = shape[0] / groups * kernel / math.prod(stride)
    return Reading((data,), weight, "io" + "k" * spatial, fan_in, float(shape[1] * kernel), bias, groups, out_axes)


def _product_axes(shape: tuple[int, ...], core: str) -> str:
    if len(shape) == 1:
        return "i"
    return "b" * (len(shape) - 2) + core


def _matmul(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    first = 1 if op.name in ("addmm", "addmv", "addbmm", "baddbmm") else 0
    left, right = op.ref(first, "input" if not first else "mat1"), op.ref(first + 1, "other" if not first else "mat2")
    if op.name == "rmatmul":
        left, right = right, left
    if left is None:
        left = op.ref(first, "mat1") if op.ref(first, "mat1") is not None else op.ref(first, "batch1")
    if right is None:
        right = op.ref(first + 1, "mat2") if op.ref(first + 1, "mat2") is not None else op.ref(first + 1, "batch2")
    if left is None or right is None or pure(left) == pure(right):
        return None
    bias = op.ref(0, "input") if first else None
    if pure(right):
        shape = values[right].shape
        axes = _product_axes(shape, "io")
        return _reading(values, (left,), right, axes, bias=bias, out_axes=(-1,) if "o" in axes else ())
    shape = values[left].shape
    axes = _product_axes(shape, "oi")
    out = -2 if len(values[right].shape) > 1 else -1
    return _reading(values, (right,), left, axes, bias=bias, out_axes=(out,) if "o" in axes else ())


def _grouped(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    data, weight = op.ref(0, "input"), op.ref(1, "mat2")
    if weight is None:
        weight = op.ref(1, "weight")
    if data is None or weight is None or not pure(weight) or len(values[weight].shape) != 3:
        return None
    return _reading(values, (data,), weight, "bio", out_axes=(-1,))


def _bilinear(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    one, two, weight = op.ref(0, "input1"), op.ref(1, "input2"), op.ref(2, "weight")
    if one is None or two is None or weight is None or not pure(weight):
        return None
    return _reading(values, (one, two), weight, "oii", bias=op.ref(3, "bias"))


def _inner(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    left, right = op.ref(0, "input"), op.ref(1, "other")
    if left is None or right is None or pure(left) == pure(right):
        return None
    data, weight = (left, right) if pure(right) else (right, left)
    axes = "o" * (len(values[weight].shape) - 1) + "i"
    count = axes.count("o")
    return _reading(values, (data,), weight, axes, out_axes=tuple(range(-count, 0)))


def _terms(equation: str, shapes: list[tuple[int, ...]]) -> tuple[list[str], str] | None:
    """Letters of each operand and of the output, an ellipsis spelt out in capitals no equation uses."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if len(operands) != len(shapes):
        return None
    spare = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in equation]
    longest = max(
        (len(s) - len(t.replace("...", "")) for t, s in zip(operands, shapes, strict=True) if "..." in t), default=0
    )
    if longest > len(spare):
        return None
    dots = "".join(spare[:longest])
    full = []
    for term, shape in zip(operands, shapes, strict=True):
        own = len(shape) - len(term.replace("...", ""))
        full.append(term.replace("...", dots[len(dots) - own :] if own > 0 else ""))
        if len(full[-1]) != len(shape):
            return None
    if not arrow:
        joined = "".join(operands).replace("...", "")
        right = ("..." if dots else "") + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return full, right.replace("...", dots)


def _einsum(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    if not op.args or not isinstance(op.args[0], str):
        return None
    operands = list(op.inputs)
    weights = [v for v in operands if pure(v)]
    if len(weights) != 1 or len(operands) < 2:
        return None
    terms = _terms(op.args[0], [values[v].shape for v in operands])
    if terms is None:
        return None
    letters, out = terms
    position = operands.index(weights[0])
    data = "".join(t for i, t in enumerate(letters) if i != position)
    own = letters[position]
    axes = "".join(("b" if c in data else "o") if c in out else "i" for c in own)
    if "i" not in axes:
        return None  # no sum over features: a broadcast product, which the elementwise reading understands
    out_axes = tuple(out.index(c) - len(out) for c, a in zip(own, axes, strict=True) if a == "o")
    return _reading(values, tuple(v for v in operands if v != weights[0]), weights[0], axes, out_axes=out_axes)


def _tensordot(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    left, right, dims = op.ref(0, "a"), op.ref(1, "b"), op.arg(2, "dims", 2)
    if left is None or right is None or pure(left) == pure(right):
        return None
    weight, data = (right, left) if pure(right) else (left, right)
    rank = len(values[weight].shape)
    if isinstance(dims, int):
        summed = set(range(dims)) if weight == right else set(range(rank - dims, rank))
    elif isinstance(dims, tuple) and len(dims) == 2:
        own = dims[1] if weight == right else dims[0]
        summed = {d % rank for d in ((own,) if isinstance(own, int) else own)}
    else:
        return None
    axes = "".join("i" if d in summed else "o" for d in range(rank))
    count = axes.count("o")
    whole = len(values[op.outputs[0]].shape)
    out_axes = range(-count, 0) if weight == right else range(-whole, -whole + count)
    return _reading(values, (data,), weight, axes, out_axes=tuple(out_axes))


def _lookup(op: Op, values: tuple[Value, ...], pure: _Pure) -> Reading | None:
    refs = [r for r in (op.ref(0, "input"), op.ref(1, "weight")) if r is not None]
    floats = [r for r in refs if values[r].dtype.is_floating_point or values[r].dtype.is_complex]
    if len(refs) != 2 or len(floats) != 1 or not pure(floats[0]):
        return None
    index = refs[0] if refs[1] == floats[0] else refs[1]
    return lookup_reading(values, index, floats[0])


def lookup_reading(values: tuple[Value, ...], index: int, table: int) -> Reading:
    """A table of vectors read by row: one row is summed into an output, one row's entry reaches the row's width."""
    shape = values[table].shape
    return Reading((index,), table, "i" + "o" * (len(shape) - 1), 1.0, float(math.prod(shape[1:])))


def _recurrent(op: Op, values: tuple[Value, ...], pure: _Pure) -> list[Reading]:
    data, input_weight, state_weight, *rest = (a.value for a in op.args if isinstance(a, Ref))
    biases = rest[:2] if op.kwargs["has_bias"] else [None, None]
    gates = gates_of(op.name)
    states = tuple(r.value for r in op.kwargs.get("state", ()) if isinstance(r, Ref))
    found = []
    for weight, bias, recurrent in ((input_weight, biases[0], False), (state_weight, biases[1], True)):
        rows, columns = values[weight].shape
        read = states if recurrent and states else (data,)
        found.append(Reading(read, weight, "oi", float(columns), float(rows // gates), bias, recurrent=recurrent))
    if op.kwargs["projected"]:
        found.append(_reading(values, (data,), rest[-1], "oi"))
    return [r for r in found if pure(r.weight)]


_READERS: dict[str, Callable[[Op, tuple[Value, ...], _Pure], Reading | None]] = {
    "linear": _linear,
    "einsum": _einsum,
    "bilinear": _bilinear,
    "inner": _inner,
    "tensordot": _tensordot,
    "_grouped_mm": _grouped,
    "grouped_mm": _grouped,
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"), _conv
    ),
    **dict.fromkeys(
        ("matmul", "rmatmul", "mm", "bmm", "mv", "addmm", "addmv", "addbmm", "baddbmm", "dot", "vecdot"), _matmul
    ),
    **dict.fromkeys(LOOKUPS, _lookup),
}


def read_weights(op: Op, values: tuple[Value, ...], pure: _Pure) -> list[Reading]:
    """The weights an op contracts with a signal, none where it contracts no parameter.

    Args:
        op: any op.
        values: of its graph.
        pure: whether a value is made of parameters and constants only, with at least one parameter.
    """
    if op.name in RECURRENT_LAYERS:
        return _recurrent(op, values, pure)
    reader = _READERS.get(op.name)
    found = reader(op, values, pure) if reader is not None else None
    return [] if found is None else [found]
