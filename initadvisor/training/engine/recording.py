"""A step written down as the list of its operations, and run again from it.

Over small tensors most of a step is not arithmetic: modules and functions of Python, the rules of ``vmap``, the graph
of ``autograd``. All of it comes to the same few hundred operations of torch each time. Here they are recorded once,
below all that, and then called one after another on the weights and batches of the moment.

Tensors are told apart by the memory they lie in, not by the objects that stand for it: what ``autograd`` has saved
comes back as another object. Memory is that of an input, which is another one at each step; of a fixed tensor, whose
place stays and whose content changes; of a result; or else it is a constant. A view of what is fixed is taken once.

A list of operations cannot know what else a step depends on. What is seen to depend on more than tensors is refused:
numbers read out of them, shapes that follow from their content, Python's random numbers, counters of modules. What
cannot be seen, such as a number that a loss takes from outside, is the concern of
:mod:`initadvisor.training.engine.replay`.
"""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

RECORDED_BYTES = 128 << 20
"""Memory of results, at most, while a step is recorded and nothing of it may be freed. Steps that are larger are
arithmetic."""

REFUSED_TAGS = {
    torch.Tag.data_dependent_output: "a number is read out of a tensor",
    torch.Tag.dynamic_output_shape: "a shape follows from content",
}

RESHAPING = {
    torch.ops.aten.as_strided_.default: torch.ops.aten.as_strided.default,
    torch.ops.aten.transpose_.default: torch.ops.aten.transpose.int,
    torch.ops.aten.t_.default: torch.ops.aten.t.default,
    torch.ops.aten.squeeze_.default: torch.ops.aten.squeeze.default,
    torch.ops.aten.squeeze_.dim: torch.ops.aten.squeeze.dim,
    torch.ops.aten.squeeze_.dims: torch.ops.aten.squeeze.dims,
    torch.ops.aten.unsqueeze_.default: torch.ops.aten.unsqueeze.default,
}
"""Operations that change the shape of a tensor in place, and those that give back a view of it instead."""

NEW_MEMORY = ("aten::resize_", "aten::resize_as_", "aten::set_")
"""Operations that give a tensor other memory."""

INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
"""Operations whose results' shapes follow from content only where they are given masks."""

READING = frozenset(
    {
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.__array__,
        torch.Tensor.data_ptr,
        torch.Tensor.untyped_storage,
        torch.Tensor.__dlpack__,
    }
)
"""Functions by which content leaves torch; what is made of it cannot be recorded."""

PLAIN = (int, float, bool, str, type(None))
"""Types of values that are compared to see whether anything beside tensors has changed."""

Memory = tuple[Any, ...]
Results = list[torch.Tensor]
Step = Callable[[], Results]


class NotRecordableError(Exception):
    """A step depends on more than its tensors; the message says on what."""


def memory_of(tensor: torch.Tensor) -> Memory:
    """What two tensors have in common if they are the same part of the same memory.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> memory_of(x.mT.mT) == memory_of(x), memory_of(x.mT) == memory_of(x)
        (True, False)

    Raises:
        NotRecordableError: it is no plain memory: sparse, or seen through a conjugation.
    """
    if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
        raise NotRecordableError("a tensor is no plain memory")
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


class _Taken(int):
    """The number of a register among arguments that may be numbers themselves."""


@dataclass
class _Call:
    """One operation.

    Attributes:
        func: the operation.
        args: its arguments, registers in the place of tensors.
        kwargs: its options, likewise.
        takes: the registers among both.
        puts: registers of its results; None for what is no tensor.
        several: whether it gives back a tuple or a list.
        is_view: its results lie in the memory of its arguments, which it does not change.
    """

    func: Any
    args: list[Any]
    kwargs: dict[str, Any]
    takes: list[int]
    puts: list[int | None]
    several: bool
    is_view: bool

    def written(self) -> tuple[Any, ...]:
        """Everything about it that must be the same in another recording; numbers as text, where NaN equals NaN."""
        return str(self.func), repr(self.args), repr(self.kwargs), self.takes, self.puts


class _Recorder(TorchDispatchMode):
    """Writes down the operations that reach the kernels. Once it refuses, it lets everything pass."""

    def __init__(self, inputs: Sequence[torch.Tensor], fixed: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused = ""
        self.calls: list[_Call] = []
        self.constants: dict[int, torch.Tensor] = {}
        self._numbers: dict[Memory, int] = {}
        self._storages: list[Any] = []  # of every register
        self._passing: set[Any] = set()  # storages of inputs and results: other ones at each step
        self._lasting: set[Any] = set()  # of fixed tensors and constants
        self._seen: dict[int, int] = {}  # registers of objects: faster than by memory
        self._alive: list[torch.Tensor] = []  # what is freed gives its number and address to the next
        self._bytes = 0
        self.inputs = [self._enter(t, memory_of(t), self._passing) for t in inputs]
        for t in fixed:
            self.constants[self._enter(t, memory_of(t), self._lasting)] = t.detach()

    def __len__(self) -> int:
        return len(self._storages)

    def _enter(self, tensor: torch.Tensor, memory: Memory, kind: set[Any]) -> int:
        self._alive.append(tensor)
        number = self._numbers.get(memory)
        if number is None:
            number = self._numbers[memory] = len(self._storages)
            self._storages.append(memory[0])
            kind.add(memory[0])
        self._seen[id(tensor)] = number
        return number

    def refuse(self, reason: str) -> None:
        """Give up, and keep nothing alive any longer."""
        self.refused = self.refused or reason
        for held in (self._alive, self.calls, self.constants):
            held.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        takes: list[int] = []
        given: tuple[list[Any], dict[str, Any]] = ([], {})
        if not self.refused:
            try:
                _refuse_by_kind(func, args)
                given = self._named(args, takes), {k: self._named(v, takes) for k, v in kwargs.items()}
            except NotRecordableError as refusal:
                self.refuse(str(refusal))
        out = func(*args, **kwargs)
        if not self.refused:
            try:
                self._note(RESHAPING.get(func, func), *given, takes, out)
            except NotRecordableError as refusal:
                self.refuse(str(refusal))
        return out

    def _named(self, value: Any, takes: list[int]) -> Any:
        """``value`` with registers in the place of tensors."""
        if isinstance(value, torch.Tensor):
            takes.append(self.place(value))
            return _Taken(takes[-1])
        if isinstance(value, (tuple, list)):
            return [self._named(v, takes) for v in value]
        return value

    def place(self, tensor: torch.Tensor) -> int:
        """The register of a tensor; one from outside becomes a constant."""
        number = self._seen.get(id(tensor))
        if number is not None:
            return number
        memory = memory_of(tensor)
        if memory not in self._numbers and memory[0] in self._passing:
            raise NotRecordableError("a view comes from nowhere")
        is_new = memory not in self._numbers
        number = self._enter(tensor, memory, self._lasting)
        if is_new:
            self.constants[number] = tensor.detach()
        return number

    def _note(self, func: Any, args: list[Any], kwargs: dict[str, Any], takes: list[int], out: Any) -> None:
        several = isinstance(out, (tuple, list))
        outs = list(out) if several else [out]
        if any(isinstance(o, (tuple, list)) for o in outs):
            raise NotRecordableError(f"{func} gives back lists of lists")
        given = {self._storages[number] for number in takes}
        made = [memory_of(t) if isinstance(t, torch.Tensor) else None for t in outs]
        is_view = not _changes(func) and bool(made) and all(m is not None and m[0] in given for m in made)
        if is_view and all(m in self._numbers for m in made):
            for tensor, memory in zip(outs, made, strict=True):
                self._enter(tensor, memory or (), self._passing)
            return  # as ``detach``: the same part of the same memory
        lasting = is_view and given <= self._lasting
        puts: list[int | None] = []
        for tensor, memory in zip(outs, made, strict=True):
            if memory is None:
                puts.append(None)
                continue
            if memory[0] not in given and memory[0] not in self._passing:
                self._bytes += tensor.untyped_storage().nbytes()
                if self._bytes > RECORDED_BYTES:
                    raise NotRecordableError("a step too large to be recorded")
            puts.append(self._enter(tensor, memory, self._lasting if memory[0] in self._lasting else self._passing))
            if lasting:
                self.constants[puts[-1] or 0] = tensor.detach()
        if not lasting:
            self.calls.append(_Call(func, args, kwargs, takes, puts, several, is_view))


@functools.cache
def _changes(func: Any) -> bool:
    return bool(func._schema.is_mutable)


@functools.cache
def _reason_by_tag(func: Any) -> str:
    if torch.Tag.inplace_view in func.tags and func not in RESHAPING:
        return "the shape of a tensor is changed in place"
    reasons = (reason for tag, reason in REFUSED_TAGS.items() if tag in func.tags)
    return next(reasons, "it gives a tensor other memory" if func._schema.name in NEW_MEMORY else "")


def _refuse_by_kind(func: Any, args: Sequence[Any]) -> None:
    reason = _reason_by_tag(func)
    if reason and func._schema.name in INDEXING:
        indices = [t for t in args[1] if t is not None]
        reason = reason if any(t.dtype in (torch.bool, torch.uint8) for t in indices) else ""
    if reason:
        raise NotRecordableError(f"{reason} ({func._schema.name})")


class _Watch(TorchFunctionMode):
    """Has a recorder refuse functions by which content leaves torch."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in READING:
            self._recorder.refuse(f"content leaves torch by {func.__name__}")
        return func(*args, **(kwargs or {}))


def _beside_tensors(model: nn.Module) -> tuple[Any, ...]:
    """Python's random numbers, and what modules hold of plain values: a step that changes these depends on them."""
    held = [
        (index, name, value)
        for index, module in enumerate(model.modules())
        for name, value in vars(module).items()
        if isinstance(value, PLAIN)
    ]
    numpy_state: Any = np.random.get_state(legacy=True)
    return held, random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]


class Program:
    """The operations of a step, ready to be called again."""

    def __init__(self, recorder: _Recorder, outputs: Sequence[torch.Tensor]) -> None:
        self._inputs, self._outputs = recorder.inputs, [recorder.place(t) for t in outputs]
        self._constants = dict(recorder.constants)
        self._written = [call.written() for call in recorder.calls]
        calls = _needed(recorder.calls, self._outputs)
        self._begin: list[Any] = [None] * len(recorder)
        for number, tensor in self._constants.items():
            self._begin[number] = tensor
        last: dict[int, int] = {}
        for index, call in enumerate(calls):
            last.update(dict.fromkeys((*call.takes, *(p for p in call.puts if p is not None)), index))
        freed: list[list[int]] = [[] for _ in calls]
        for number, index in last.items():
            if number not in self._constants and number not in self._outputs:
                freed[index].append(number)
        binder = _Binder(self._begin)
        self._steps = [(*binder.bind(call), tuple(free)) for call, free in zip(calls, freed, strict=True)]

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The step's results for other ``inputs`` of the same shapes, and on what the fixed tensors hold now."""
        registers: list[Any] = self._begin.copy()
        for number, tensor in zip(self._inputs, inputs, strict=True):
            registers[number] = tensor
        with torch.no_grad():
            for func, take, put, several, free in self._steps:
                out = func(*take(registers))
                if several:
                    for number, value in zip(put, out, strict=True):
                        if number is not None:
                            registers[number] = value
                else:
                    registers[put] = out
                for number in free:
                    registers[number] = None
        return [registers[number] for number in self._outputs]

    def same_as(self, other: Program) -> bool:
        """Whether another recording of the step is the same list of operations, with the same numbers in it."""
        if (self._written, self._inputs, self._outputs) != (other._written, other._inputs, other._outputs):
            return False
        pairs = [(self._constants.get(n), other._constants.get(n)) for n in {**self._constants, **other._constants}]
        return all(a is not None and b is not None and _is_same_constant(a, b) for a, b in pairs)


def _is_same_constant(a: torch.Tensor, b: torch.Tensor) -> bool:
    return memory_of(a) == memory_of(b) or (a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b)))


def _needed(calls: Sequence[_Call], outputs: Sequence[int]) -> list[_Call]:
    """Calls without the views that nothing reads; what else nothing reads may have changed its arguments."""
    read, found = set(outputs), []
    for call in reversed(calls):
        if not call.is_view or not read.isdisjoint(p for p in call.puts if p is not None):
            read.update(call.takes)
            found.append(call)
    return found[::-1]


Take = Callable[[list[Any]], Any]
"""Makes something of the registers."""


class _Binder:
    """Makes calls ready: what can be settled now is, since each costs about as much as calling a small kernel."""

    def __init__(self, registers: list[Any]) -> None:
        self._registers = registers

    def bind(self, call: _Call) -> tuple[Callable[..., Any], Take, Any, bool]:
        """What to call, how to take its arguments from the registers, where to put results, and if they are several."""
        # An overload's own call does nothing but call this.
        func, args = getattr(call.func, "_op", call.func), call.args
        if any(_takes(v) for v in call.kwargs.values()):
            func = partial(_with_options, func, len(args), tuple(call.kwargs))
            args = [*args, *call.kwargs.values()]
        elif call.kwargs:
            func = partial(func, **call.kwargs)
        if call.several:
            return func, self._arguments(args), tuple(call.puts), True
        # A result that is no tensor goes to a place of its own.
        return func, self._arguments(args), self._place_for(None) if call.puts[0] is None else call.puts[0], False

    def _place_for(self, value: Any) -> int:
        self._registers.append(value)
        return len(self._registers) - 1

    def _arguments(self, args: Sequence[Any]) -> Take:
        if any(isinstance(a, list) and _takes(a) for a in args):
            return partial(_filled, args)
        places = [int(a) if isinstance(a, _Taken) else self._place_for(a) for a in args]
        if len(places) == 1:
            return partial(_single, places[0])
        return operator.itemgetter(*places) if places else _nothing


def _takes(value: Any) -> bool:
    return any(_takes(v) for v in value) if isinstance(value, list) else isinstance(value, _Taken)


def _with_options(func: Callable[..., Any], given: int, names: tuple[str, ...], *args: Any) -> Any:
    return func(*args[:given], **dict(zip(names, args[given:], strict=True)))


def _single(place: int, registers: list[Any]) -> tuple[Any]:
    return (registers[place],)


def _nothing(registers: list[Any]) -> tuple[Any, ...]:
    return ()


def _filled(value: Any, registers: list[Any]) -> Any:
    if type(value) is _Taken:
        return registers[value]
    if isinstance(value, list):
        return [_filled(v, registers) for v in value]
    return value


def record(
    real: Step, inputs: Sequence[torch.Tensor], fixed: Sequence[torch.Tensor], model: nn.Module
) -> tuple[Results, Program | str]:
    """Compute a step and write it down: its results, and the program, or why there is none.

    Example:
        >>> x, w = torch.ones(2), torch.full((2,), 3.0)
        >>> outputs, program = record(lambda: [(x * w).sum()], [x], [w], nn.Identity())
        >>> outputs, program.run([torch.tensor([1.0, 2.0])])
        ([tensor(6.)], [tensor(9.)])
    """
    beside = _beside_tensors(model)
    try:
        recorder = _Recorder(inputs, fixed)
    except NotRecordableError as refusal:
        return real(), str(refusal)
    with _Watch(recorder), recorder:
        outputs = real()
    if _beside_tensors(model) != beside:
        recorder.refuse("Python's random numbers or plain values of modules change")
    if recorder.refused:
        return outputs, recorder.refused
    try:
        return outputs, Program(recorder, outputs)
    except NotRecordableError as refusal:
        return outputs, str(refusal)
