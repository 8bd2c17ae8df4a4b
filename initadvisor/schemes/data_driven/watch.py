"""See the linear maps of a model at work: which weights an executed kernel multiplies with, and what comes out.

Below the level of modules and of ``torch.nn.functional``, at that of kernels: packed projections, hand-written
``x @ W`` and the inside of ``nn.MultiheadAttention`` all arrive here as a handful of contractions. A weight is known by
its memory, so a transposed, reshaped or sliced one is still itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from initadvisor.schemes.slots import Slot

Use = Callable[[str, torch.Tensor, torch.Tensor, Callable[[], torch.Tensor]], torch.Tensor]
"""``(path, weight as used, output, again) -> output to go on with``; ``again()`` repeats the kernel."""

_OPERANDS = {
    # kernel -> positions of its operands that may be a weight
    "mm": (0, 1),
    "bmm": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "mv": (0,),
    "addmv": (1,),
    "linear": (1,),
    "convolution": (1,),
    "_convolution": (1,),
    "mkldnn_convolution": (1,),
    "mkldnn_linear": (1,),
    "_grouped_mm": (1,),
}

_WEIGHT_NORM = ("_weight_norm_interface", "_weight_norm")
"""Kernels that make the effective weight from v and g."""


class _Watcher(TorchDispatchMode):
    def __init__(self, slots: Mapping[str, Slot], use: Use) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._use = use
        self._owner = {slot.param.untyped_storage().data_ptr(): path for path, slot in slots.items()}
        # Effective weights are kept alive, so that their memory is not given to another tensor meanwhile.
        self._effective: list[torch.Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[-1]
        if name in _WEIGHT_NORM:
            path = self._path(args[0])
            if path is not None:
                made = out[0] if isinstance(out, tuple) else out
                self._effective.append(made)
                self._owner[made.untyped_storage().data_ptr()] = path
            return out
        for position in _OPERANDS.get(name, ()):
            path = self._path(args[position])
            if path is not None:
                return self._use(path, args[position], out, lambda: func(*args, **kwargs))
        return out

    def _path(self, value: Any) -> str | None:
        if not isinstance(value, torch.Tensor) or value.numel() == 0:
            return None
        return self._owner.get(value.untyped_storage().data_ptr())


@contextmanager
def watching(slots: Mapping[str, Slot], use: Use) -> Iterator[None]:
    """Call ``use`` at every contraction with a weight of ``slots``, in execution order."""
    fast = torch.backends.mha.get_fastpath_enabled()
    # The fused inference kernel of torch's encoder layer would hide its weights.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _Watcher(slots, use):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
