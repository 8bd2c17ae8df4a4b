"""Model and batch to op graph, by one forward pass without gradient, on any device, ``meta`` included.

A ``TorchFunctionMode`` sees every semantic call (``linear``, ``chunk``, ``+``, ``scaled_dot_product_attention``) before
it is split into kernels, and sees it once: what such a call does inside is not recorded. Python needs no tracing, so
control flow is no obstacle. Tensors are known by weak identity: nothing is kept alive by the recording.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from initadvisor.errors import AnalysisError, InitAdvisorError
from initadvisor.graph.excerpt import models_part
from initadvisor.graph.kinds import words
from initadvisor.graph.opgraph import Op, OpGraph, Ref, Source, Value
from initadvisor.guard import preserve_model, preserve_process, run_eagerly
from initadvisor.private import custom_functions_seen, owner_of, scripted_functions_seen, version_of
from initadvisor.training.data import Batch, own_copy, tensors_in
from initadvisor.twins import Originals

_QUESTIONS = words(
    "size dim ndimension numel nelement stride storage_offset is_floating_point is_complex is_contiguous is_inference "
    "element_size get_device data_ptr untyped_storage is_signed is_nonzero __len__ __bool__ __int__ __float__ "
    "__index__ __hash__ __repr__ __str__ __format__ item tolist numpy result_type promote_types can_cast is_tensor "
    "is_storage __contains__ equal allclose register_hook is_set_to is_same_size has_names is_pinned "
    "_set_grad_enabled requires_grad_ retain_grad dim_order is_shared __dlpack__ __dlpack_device__ "
    "__deepcopy__ __reduce_ex__ broadcast_shapes is_distributed _has_compatible_shallow_copy_type"
)
"""Calls that ask about a tensor and make none."""

_GETTERS = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})
"""Properties that give a tensor; all others are questions."""

_RENAMED = {
    "__add__": "add", "__radd__": "add", "__iadd__": "add", "__sub__": "sub", "__rsub__": "rsub", "__isub__": "sub",
    "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul", "__truediv__": "div", "__rtruediv__": "rdiv",
    "__rdiv__": "rdiv", "__itruediv__": "div", "__div__": "div", "__idiv__": "div", "__pow__": "pow", "__ipow__": "pow",
    "__rpow__": "rpow", "__matmul__": "matmul", "__rmatmul__": "rmatmul", "__neg__": "neg", "__abs__": "abs",
    "__getitem__": "getitem", "__setitem__": "setitem", "true_divide": "div", "divide": "div", "multiply": "mul",
    "subtract": "sub", "negative": "neg", "absolute": "abs", "linalg_norm": "norm", "linalg_vector_norm": "norm",
    "vector_norm": "norm", "concat": "cat", "concatenate": "cat", "swapaxes": "transpose", "swapdims": "transpose",
    "linalg_matrix_norm": "norm", "linalg_matmul": "matmul", "linalg_multi_dot": "multi_dot", "linalg_vecdot": "vecdot",
    "linalg_diagonal": "diagonal", "linalg_inv": "inverse", "arccos": "acos", "arcsin": "asin", "arcsinh": "asinh",
    "arccosh": "acosh", "arctanh": "atanh", "arctan2": "atan2", "fix": "trunc", "gammaln": "lgamma", "psi": "digamma",
    "clip": "clamp", "expit": "sigmoid", "__floordiv__": "floor_divide",
    "square_": "square", "_threshold": "threshold",
    "moveaxis": "movedim", "tensor_split": "split", "hsplit": "split", "vsplit": "split",
}  # fmt: skip
"""One name for the spellings of one op; in-place underscores are cut before this is asked."""

_KEPT = (int, float, complex, bool, str, torch.dtype, slice, type(Ellipsis), type(None))
_ROWS_SHOWN = 300
"""Characters of a model's own error that are quoted; more hides the sentence that says what to do."""


def _canonical(function: Callable[..., Any]) -> tuple[str, bool] | None:
    """Name of a call and whether it is in-place by its spelling; None for what makes no tensor."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", "")
        return (name, False) if name in _GETTERS else None
    if name in _QUESTIONS or name in ("__set__", "__delete__"):
        return ("set_data", True) if _is_data_setter(function) else None
    in_place = name in ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__idiv__")
    if name.endswith("_") and not name.endswith("__"):
        name, in_place = name[:-1], True
    name = name.removeprefix("_VF.").removeprefix("special_")
    return _RENAMED.get(name, name), in_place


def _is_data_setter(function: Callable[..., Any]) -> bool:
    owner = getattr(function, "__self__", None)
    return getattr(function, "__name__", "") == "__set__" and getattr(owner, "__name__", "") == "data"


class _Recorder(TorchFunctionMode):
    """Writes down every call that makes or changes a tensor."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.ops: list[Op] = []
        self.stack: list[str] = [""]
        self.failed_in: str | None = None
        self.left: list[int] = []  # values that came out of modules which no other one had called
        self._names = names
        self._within = 0
        # id -> (weak reference, value, version). A stale id is told by its reference being dead or another tensor.
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self._writes: dict[int, int] = {}  # id of the tensor that owns the memory -> value last written through a view
        self._calls: dict[Any, tuple[str, bool] | None] = {}

    # ---- values

    def source(self, tensor: torch.Tensor, kind: Source, name: str = "") -> int:
        """Name a tensor that no op made."""
        number = None
        known = kind in (Source.CONSTANT, Source.BUFFER) and tensor.numel() == 1
        if known and not tensor.is_meta and not tensor.is_complex():
            number = float(tensor.detach().reshape(()))
        return self._bind(tensor, kind, None, name, number)

    def _bind(
        self, tensor: torch.Tensor, kind: Source, op: int | None, name: str = "", number: float | None = None
    ) -> int:
        index = len(self.values)
        self.values.append(Value(index, tuple(tensor.shape), tensor.dtype, kind, op, name, number))
        self._known[id(tensor)] = (weakref.ref(tensor), index, version_of(tensor))
        return index

    def lookup(self, tensor: torch.Tensor) -> int:
        """The value a tensor holds now; a tensor never seen is a constant of the model's."""
        entry = self._known.get(id(tensor))
        if entry is None or entry[0]() is not tensor:
            return self.source(tensor, Source.CONSTANT)
        if entry[2] >= 0 and entry[2] != version_of(tensor):
            return self._refresh(tensor, entry[1])
        return entry[1]

    def _refresh(self, tensor: torch.Tensor, before: int) -> int:
        """Someone wrote to this memory through another view: the tensor now holds what it held and that."""
        written = self._writes.get(id(owner_of(tensor)))
        inputs = (before,) if written is None else (before, written)
        return self._append("alias", owner_of, tuple(Ref(i) for i in inputs), {}, inputs, [tensor], in_place=False)[0]

    # ---- ops

    def _append(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[int, ...],
        outputs: Iterable[torch.Tensor],
        *,
        in_place: bool,
    ) -> tuple[int, ...]:
        index = len(self.ops)
        made = tuple(self._bind(t, Source.OP, index) for t in outputs)
        self.ops.append(Op(index, name, function, args, kwargs, inputs, made, self.stack[-1], in_place))
        return made

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            call = self._calls[func]
        except KeyError:
            call = self._calls[func] = _canonical(func)
        except TypeError:  # a callable that cannot be hashed
            call = _canonical(func)
        if call is None:
            return self._run(func, args, kwargs)
        name, in_place = call
        refs: list[int] = []
        plain_args = tuple(self._plain(a, refs) for a in args)
        plain_kwargs = {k: self._plain(v, refs) for k, v in kwargs.items()}
        versions = [version_of(a) for a in args[:1] if isinstance(a, torch.Tensor)]
        out = self._run(func, args, kwargs)
        target = kwargs.get("out")
        if target is None and args and isinstance(args[0], torch.Tensor):
            changed = versions[0] >= 0 and version_of(args[0]) != versions[0]
            if in_place or changed:
                target = args[0]
        if isinstance(target, torch.Tensor):
            made = self._append(name, func, plain_args, plain_kwargs, tuple(refs), [target], in_place=True)
            self._wrote(target, made[0])
            return out
        outputs = list(_flat(out))
        if not outputs:
            return out
        first = args[0] if args else None
        if len(outputs) == 1 and outputs[0] is first:
            return out  # nothing was done: contiguous, to, dropout outside training
        if isinstance(target, (tuple, list)):
            outputs = [t for t in target if isinstance(t, torch.Tensor)]
        self._append(name, func, plain_args, plain_kwargs, tuple(refs), outputs, in_place=False)
        return out

    def opaque(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Note a call of a scripted function whose inside cannot be seen."""
        refs: list[int] = []
        plain_args = tuple(self._plain(a, refs) for a in args)
        plain_kwargs = {k: self._plain(v, refs) for k, v in kwargs.items()}
        self._append(
            "scripted_function", owner_of, plain_args, plain_kwargs, tuple(refs), list(_flat(out)), in_place=False
        )

    def custom(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Note a function with a gradient of its own whose ops lead no signal through (a spike: a comparison)."""
        refs: list[int] = []
        plain_args = tuple(self._plain(a, refs) for a in args)
        plain_kwargs = {k: self._plain(v, refs) for k, v in kwargs.items()}
        lost = [t for t in _flat(out) if t.is_floating_point() and not self._leads(frozenset(refs), self.lookup(t))]
        if refs and lost:
            self._append(name, owner_of, plain_args, plain_kwargs, tuple(refs), lost, in_place=False)

    def _leads(self, sources: frozenset[int], value: int) -> bool:
        """Whether a value was computed from others by way of numbers with fractions."""
        todo, seen = [value], {value}
        first = min((self.values[s].op or 0 for s in sources), default=0)
        while todo:
            current = self.values[todo.pop()]
            if current.index in sources:
                return True
            if current.op is None or current.op < first:
                continue
            fresh = {i for i in self.ops[current.op].inputs if self.values[i].dtype.is_floating_point} - seen
            seen |= fresh
            todo += fresh
        return False

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return func(*args, **kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.stack[-1]
            raise

    def _wrote(self, tensor: torch.Tensor, value: int) -> None:
        """Pass a write through a view on to the tensor it is a view of."""
        owner = owner_of(tensor)
        self._writes[id(owner)] = value
        if owner is not tensor:
            entry = self._known.get(id(owner))
            if entry is not None and entry[0]() is owner:
                inputs = (entry[1], value)
                self._append("alias", owner_of, tuple(Ref(i) for i in inputs), {}, inputs, [owner], in_place=False)

    def _plain(self, value: Any, refs: list[int]) -> Any:
        if isinstance(value, torch.Tensor):
            index = self.lookup(value)
            refs.append(index)
            return Ref(index)
        if isinstance(value, _KEPT):
            return value
        if isinstance(value, (tuple, list)):
            return tuple(self._plain(v, refs) for v in value)
        if isinstance(value, dict):
            return {k: self._plain(v, refs) for k, v in value.items()}
        return None

    # ---- modules

    def enter(self, module: nn.Module, args: Any) -> None:
        self.stack.append(self._names.get(id(module), self.stack[-1]))
        self._within += id(module) in self._names

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if len(self.stack) > 1:
            self.stack.pop()
        if id(module) in self._names:
            self._within -= 1
            if self._within == 0:
                self.left += [self.lookup(t) for t in _returned(output, set())]


def _flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _flat(item)


def _returned(value: Any, seen: set[int], depth: int = 0) -> Iterator[torch.Tensor]:
    """Tensors of an output, also of one that refers to itself."""
    if id(value) in seen or depth > _OUTPUT_NESTING:
        return
    if isinstance(value, torch.Tensor):
        yield value
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, (tuple, list)):
        parts = value
    elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)) and not callable(value):
        parts = vars(value).values()
    else:
        return
    for part in parts:
        yield from _returned(part, seen, depth + 1)


_OUTPUT_NESTING = 8
"""Deeper than any output in use; bounds the walk over foreign objects."""


def module_names(model: nn.Module) -> dict[int, str]:
    """Id of each module -> its first dotted name."""
    return {id(module): name for name, module in model.named_modules()}


def has_lazy(model: nn.Module) -> bool:
    """Some parameter or buffer takes its shape from the first batch."""
    tensors = [*model.parameters(), *model.buffers()]
    return any(is_lazy(t) for t in tensors)


def _shaped(model: nn.Module, batch: Batch) -> tuple[nn.Module, Batch]:
    """Copies of a model whose lazy parameters have got their shapes, and of a loss that calls it.

    The shapes come with the first call; only the second has them all as ordinary parameters.
    """
    made = Originals({"model": model, "loss": batch.through}).copy()
    twin, batch = made["model"], replace(batch, through=made["loss"])
    with torch.no_grad(), run_eagerly():
        _call(twin, own_copy(batch), _Recorder(module_names(twin)))
    return twin, batch


def _meta_device(model: nn.Module) -> torch.device | None:
    """``meta`` where every parameter lies there, so that the batch has to follow."""
    devices = {p.device.type for p in model.parameters()}
    return torch.device("meta") if devices == {"meta"} else None


def capture(model: nn.Module, batch: Batch) -> OpGraph:
    """Record one forward pass, in the mode (training or evaluation) the model is in.

    The model, the batch and all global state are afterwards what they were. A lazy model is run as a deep copy, a
    compiled one as it was written.

    Args:
        model: any module; on ``meta`` the batch is moved there and no weight is allocated.
        batch: what to call it with.

    Returns:
        The ops, the values between them and the named tensors they start from.

    Raises:
        AnalysisError: the forward pass failed; the model's own error is quoted with the module it came from.

    Example:
        >>> graph = capture(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), Batch((torch.zeros(5, 3),)))
        >>> [op.name for op in graph.ops], [graph.values[i].shape for i in graph.outputs]
        (['linear', 'tanh'], [(5, 2)])
    """
    with preserve_process(), preserve_model(model, batch.through):
        if has_lazy(model):
            model, batch = _shaped(model, batch)
        with torch.no_grad(), recording(model, batch) as record:
            return record.graph(record.run())


class Recording:
    """One forward pass to be run and read; made by :func:`recording`."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self._recorder = recorder = _Recorder(module_names(model))
        self._parameters = _name(recorder, model.named_parameters(remove_duplicate=False), Source.PARAMETER)
        self._buffers = _name(recorder, model.named_buffers(remove_duplicate=False), Source.BUFFER)
        self._inputs = len([recorder.source(t, Source.INPUT) for t in tensors_in(batch.inputs)])

    def run(self) -> Any:
        """The model's output; what it does is written down.

        Raises:
            AnalysisError: the forward pass failed; the model's own error is quoted with the module it came from.
        """
        recorder = self._recorder
        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(recorder.enter).remove)
            stack.callback(register_module_forward_hook(recorder.leave, always_call=True).remove)
            stack.enter_context(scripted_functions_seen(recorder.opaque))
            stack.enter_context(custom_functions_seen(recorder.custom))
            stack.enter_context(recorder)
            return _call(self._model, self._batch, recorder)

    def graph(self, output: Any) -> OpGraph:
        """What was written down; ``output`` is what :meth:`run` gave, still alive."""
        recorder = self._recorder
        outputs = tuple(dict.fromkeys(recorder.lookup(t) for t in _returned(output, set())))
        ops, values = tuple(recorder.ops), tuple(recorder.values)
        graph = OpGraph(ops, values, outputs, self._parameters, self._buffers, self._inputs)
        return graph if self._batch.through is None else models_part(graph, recorder.left)


@contextmanager
def recording(model: nn.Module, batch: Batch) -> Iterator[Recording]:
    """For who needs the output, or the gradients, of the very pass that is recorded; :func:`capture` asks for no more.

    The caller guards the model and the process (:mod:`initadvisor.guard`), and chooses training and gradient mode. The
    model is given a copy of the batch.

    Args:
        model: without lazy parameters.
        batch: what to call it with.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> with recording(model, Batch((torch.ones(5, 3),))) as record:
        ...     output = record.run()
        ...     graph = record.graph(output)
        >>> output.requires_grad, [op.name for op in graph.ops]
        (True, ['linear'])
    """
    with run_eagerly():
        yield Recording(model, own_copy(batch, _meta_device(model)))


def _name(recorder: _Recorder, named: Iterable[tuple[str, torch.Tensor]], kind: Source) -> dict[str, int]:
    found: dict[str, int] = {}
    first: dict[int, int] = {}
    for path, tensor in named:
        if id(tensor) not in first:
            first[id(tensor)] = recorder.source(tensor, kind, path)
        found[path] = first[id(tensor)]
    return found


def _call(model: nn.Module, batch: Batch, recorder: _Recorder) -> Any:
    try:
        return batch.call(model)
    except InitAdvisorError:
        raise
    except Exception as error:  # whatever the model raises is quoted, not swallowed
        where = f' in "{recorder.failed_in}"' if recorder.failed_in else ""
        quoted = " ".join(str(error).split())
        shown = quoted if len(quoted) <= _ROWS_SHOWN else f"{quoted[:_ROWS_SHOWN]} …"
        # Its arguments do not fit: a training that runs calls it otherwise.
        hint = "; give loss=(model, batch) -> scalar if that calls it otherwise" if _misfits(error, recorder) else ""
        raise AnalysisError(
            f"{type(model).__name__} failed on the sample batch{where}: {type(error).__name__}: {shown}{hint}"
        ) from error


def _misfits(error: Exception, recorder: _Recorder) -> bool:
    return isinstance(error, (TypeError, NotImplementedError)) and not recorder.failed_in and not recorder.ops
