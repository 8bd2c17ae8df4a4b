"""Where a parameter lives in a module tree and how a value gets into it.

A parameter is not always a plain tensor: its weight may be recomputed from originals (weight norm, spectral norm, any
registered parametrization), be sharded over processes (DTensor), or be one tensor under two names. A :class:`Slot`
hides that behind "write this value" and "read it back".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from initadvisor.schemes.seeding import stream

_POWER_ITERATIONS = 30
"""Power iterations after a spectral-norm weight was rewritten; torch's own start does 15, twice that costs nothing."""

_PARAMETRIZATIONS = "parametrizations"
"""Name of the ``ModuleDict`` in which torch keeps a module's parametrizations."""


class SlotKind(Enum):
    """How the value reaches the tensor."""

    PLAIN = auto()
    PARAMETRIZED = auto()  # through the right inverse of torch.nn.utils.parametrize
    WEIGHT_NORM_HOOK = auto()  # torch.nn.utils.weight_norm, the older hook
    SPECTRAL_NORM_HOOK = auto()  # torch.nn.utils.spectral_norm, the older hook
    COMPANION = auto()  # written together with another slot (the g of a weight norm)


@dataclass(frozen=True)
class Slot:
    """One parameter of a model and the way to write it.

    Attributes:
        path: its first dotted name.
        param: the tensor itself.
        owner: module that holds it.
        kind: how it is written.
        aliases: further dotted names of the same tensor.
        padding_idx: row that must stay zero, None where there is none.
        module: for parametrized tensors: the module whose weight is recomputed; else the owner.
        tensor_name: for parametrized tensors: name of the recomputed tensor.
        hook: for the older hooks: the hook object.
        written_with: for companions: path of the slot that writes it.
    """

    path: str
    param: nn.Parameter
    owner: nn.Module
    kind: SlotKind = SlotKind.PLAIN
    aliases: tuple[str, ...] = ()
    padding_idx: int | None = None
    module: nn.Module | None = None
    tensor_name: str = ""
    hook: Any = field(default=None, repr=False)
    written_with: str | None = None

    def touched(self) -> list[torch.Tensor]:
        """Every tensor that :meth:`write` changes: what a caller must save to undo it."""
        if self.kind is SlotKind.PARAMETRIZED:
            plist = _parametrization_list(self)
            return [*plist.parameters(recurse=False), *(b for p in plist.children() for b in p.buffers())]
        if self.kind is SlotKind.WEIGHT_NORM_HOOK:
            return [self.param, getattr(self.owner, f"{self.tensor_name}_g")]
        if self.kind is SlotKind.SPECTRAL_NORM_HOOK:
            return [self.param, *(getattr(self.owner, f"{self.tensor_name}_{k}") for k in "uv")]
        return [self.param]

    def write(self, value: torch.Tensor) -> None:
        """Make the weight that the forward pass sees equal to ``value`` (up to rounding where it is recomputed).

        Args:
            value: CPU tensor of the parameter's shape and dtype.
        """
        if self.kind is SlotKind.PARAMETRIZED:
            _write_parametrized(self, value)
        elif self.kind is SlotKind.WEIGHT_NORM_HOOK:
            size = torch.norm_except_dim(value, 2, self.hook.dim)
            assign(getattr(self.owner, f"{self.tensor_name}_g"), size)
            assign(self.param, _directions(self.path, size, value))
            setattr(self.owner, self.tensor_name, self.hook.compute_weight(self.owner))
        elif self.kind is SlotKind.SPECTRAL_NORM_HOOK:
            assign(self.param, value)
            _settle_spectral(
                value,
                self.hook.dim,
                getattr(self.owner, f"{self.tensor_name}_u"),
                getattr(self.owner, f"{self.tensor_name}_v"),
            )
        else:
            assign(self.param, value)

    def read(self) -> torch.Tensor:
        """What was written, as a full CPU tensor: the tensor itself, or the weight recomputed from its originals.

        Of a spectral norm it is the unnormalised original, which is what was written.
        """
        if self.kind is SlotKind.WEIGHT_NORM_HOOK:
            return _full(self.hook.compute_weight(self.owner))
        if self.kind is SlotKind.PARAMETRIZED and not _is_spectral(_parametrization_list(self)):
            return _full(getattr(self.module, self.tensor_name))
        return _full(self.param)

    @property
    def recomputed(self) -> bool:
        """Whether reading back passes through arithmetic, so that it equals what was written only up to rounding."""
        return self.kind in (SlotKind.PARAMETRIZED, SlotKind.WEIGHT_NORM_HOOK)


def slots_of(model: nn.Module) -> dict[str, Slot]:
    """Every parameter by its first name, in model order; further names of tied tensors are in ``aliases``.

    Example:
        >>> tied = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False)})
        >>> tied["b"] = tied["a"]
        >>> [(s.path, s.aliases) for s in slots_of(tied).values()]
        [('a.weight', ('b.weight',))]
    """
    names: dict[int, list[str]] = {}
    owners: dict[int, tuple[nn.Module, str, nn.Parameter]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, param in module._parameters.items():
            if param is None:
                continue
            path = f"{prefix}.{name}" if prefix else name
            names.setdefault(id(param), []).append(path)
            owners.setdefault(id(param), (module, name, param))
    found = {}
    for key, (owner, name, param) in owners.items():
        first, *others = names[key]
        found[first] = _slot(model, first, tuple(others), owner, name, param)
    return found


def _slot(
    model: nn.Module, path: str, aliases: tuple[str, ...], owner: nn.Module, name: str, param: nn.Parameter
) -> Slot:
    if isinstance(owner, parametrize.ParametrizationList):
        prefix, _, rest = path.rpartition(f"{_PARAMETRIZATIONS}.")
        module = model.get_submodule(prefix.rstrip("."))
        tensor_name = rest.split(".")[0]
        main = _main_original(owner)
        if name == main:
            return Slot(path, param, owner, SlotKind.PARAMETRIZED, aliases, None, module, tensor_name)
        partner = f"{path.rpartition('.')[0]}.{main}"
        return Slot(path, param, owner, SlotKind.COMPANION, aliases, module=module, written_with=partner)
    for hook in owner._forward_pre_hooks.values():
        kind, stem = type(hook).__name__, getattr(hook, "name", None)
        if kind == "WeightNorm" and name == f"{stem}_v":
            return Slot(
                path, param, owner, SlotKind.WEIGHT_NORM_HOOK, aliases, module=owner, tensor_name=str(stem), hook=hook
            )
        if kind == "WeightNorm" and name == f"{stem}_g":
            partner = f"{path.removesuffix('_g')}_v"
            return Slot(path, param, owner, SlotKind.COMPANION, aliases, module=owner, written_with=partner)
        if kind == "SpectralNorm" and name == f"{stem}_orig":
            return Slot(
                path, param, owner, SlotKind.SPECTRAL_NORM_HOOK, aliases, module=owner, tensor_name=str(stem), hook=hook
            )
    padding = owner.padding_idx if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) else None
    return Slot(path, param, owner, SlotKind.PLAIN, aliases, padding, owner, name)


def _main_original(plist: parametrize.ParametrizationList) -> str:
    """Name of the original through which the whole weight is set: ``original``, or the largest of several."""
    originals = dict(plist.named_parameters(recurse=False))
    # Weight norm keeps (g, v); v has the weight's shape. The last of the largest, since g of a single unit ties with v.
    return max(originals, key=lambda n: (originals[n].numel(), n))


def _parametrization_list(slot: Slot) -> parametrize.ParametrizationList:
    if not isinstance(slot.owner, parametrize.ParametrizationList):
        raise TypeError(f"{slot.path} is not an original of a parametrization")
    return slot.owner


def is_weight_norm(slot: Slot) -> bool:
    """Whether a parametrized tensor is a magnitude times a direction, and nothing else."""
    return [type(step).__name__ for step in slot.owner.children()] == ["_WeightNorm"]


def _directions(path: str, size: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The directions of a weight norm; where the weight is to be zero they are drawn, for zero has none.

    ``g·v/|v|`` is zero by ``g = 0`` alone, while ``v = 0`` is not a number and would stay so. All directions have to
    differ: the first step changes ``g`` only, and equal ones would leave a map of rank one.
    """
    if bool(size.all()):
        return value
    drawn = torch.randn(value.shape, generator=stream(0, path, "direction"), dtype=torch.float32)
    return torch.where(size == 0, drawn.to(value), value)


def _is_spectral(plist: parametrize.ParametrizationList) -> bool:
    return any(hasattr(p, "_power_method") for p in plist.children())


def _write_parametrized(slot: Slot, value: torch.Tensor) -> None:
    plist = _parametrization_list(slot)
    device = slot.param.device
    originals: Any = value.to(device)
    for step in reversed(list(plist.children())):
        inverse: Any = getattr(step, "right_inverse", None)
        originals = inverse(originals) if inverse is not None else originals
    # Not through `setattr(module, name, value)`: that swaps storages, which optimizers and flat RNN weights hold on to.
    pieces = list(originals) if isinstance(originals, (tuple, list)) else [originals]
    if is_weight_norm(slot):
        pieces[1] = _directions(slot.path, pieces[0], pieces[1])
    names = ["original"] if len(pieces) == 1 else [f"original{i}" for i in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        assign(getattr(plist, name), piece)
    for step in plist.children():
        if hasattr(step, "_power_method"):
            u, v = getattr(step, "_u", None), getattr(step, "_v", None)
            if u is not None and v is not None:
                _settle_spectral(value, int(getattr(step, "dim", 0)), u, v)


def _settle_spectral(weight: torch.Tensor, dim: int, u: torch.Tensor, v: torch.Tensor) -> None:
    """Point u and v along the leading singular pair of a freshly written weight.

    Started from the row of largest norm rather than from a random vector, so that it needs no random stream.
    """
    matrix = weight.detach().double().movedim(dim, 0).flatten(1)
    right = matrix[matrix.norm(dim=1).argmax()].clone()
    if not bool(right.any()):
        right = torch.ones_like(right)
    right = nn.functional.normalize(right, dim=0)
    left = nn.functional.normalize(matrix @ right, dim=0)
    for _ in range(_POWER_ITERATIONS):
        left = nn.functional.normalize(matrix @ right, dim=0)
        right = nn.functional.normalize(matrix.T @ left, dim=0)
    assign(u, left.to(u.dtype))
    assign(v, right.to(v.dtype))


def _is_dtensor(tensor: torch.Tensor) -> bool:
    # By name, since importing torch.distributed costs more than this whole package.
    return type(tensor).__name__ == "DTensor" or type(tensor.data).__name__ == "DTensor"


def assign(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a full value into a tensor in place, on whatever device it lives and however it is sharded."""
    target = tensor.detach()
    if _is_dtensor(tensor):
        from torch.distributed.tensor import distribute_tensor

        sharded: Any = target
        local = sharded.to_local()
        # Every process has drawn the same full value (the stream knows no rank), so none needs to be sent.
        placed: Any = distribute_tensor(
            value.detach().to(local.device), sharded.device_mesh, sharded.placements, src_data_rank=None
        )
        local.copy_(placed.to_local())
        return
    target.copy_(value.detach())


def _full(tensor: torch.Tensor) -> torch.Tensor:
    whole: Any = tensor.detach()
    if _is_dtensor(tensor):
        whole = whole.full_tensor()
    result: torch.Tensor = whole.cpu()
    return result


def norm_statistics(model: nn.Module) -> Iterator[tuple[nn.Module, torch.Tensor, float]]:
    """``(module, buffer, fresh value)`` of every running statistic in the model."""
    for module in model.modules():
        if not hasattr(module, "reset_running_stats"):
            continue
        for name, fresh in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0.0)):
            buffer = getattr(module, name, None)
            if isinstance(buffer, torch.Tensor):
                yield module, buffer, fresh
