"""Everything a check may look at: the reading of the model, its numbers, and what the passes showed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from initadvisor.checks.figures import Figures, LayerFigures
from initadvisor.checks.finding import Location
from initadvisor.checks.source import ClassSource, source_of
from initadvisor.checks.statistics import Statistics, statistics_of
from initadvisor.graph.spec import Branch, ModelSpec, ParamSpec
from initadvisor.types import Role, Slice


@dataclass(frozen=True)
class CheckContext:
    """What one audit knows.

    Attributes:
        spec: the reading of the model.
        tensors: first dotted name -> values of every floating-point parameter, detached.
        buffers: the same of buffers.
        figures: of one forward and one backward pass.
        padding: path of an embedding -> its padding row.
        owners: module path -> the class around it that is not torch's.
        sources: definitions of the classes the model is made of.
        module_classes: module path -> names of its class and ancestors.
        warms_up: the learning rate rises from a small one; None where the schedule is not known.
        settings: constants the model carries that its source speaks of (``"initializer_range"``).
    """

    spec: ModelSpec
    tensors: Mapping[str, torch.Tensor]
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures)
    padding: Mapping[str, int] = field(default_factory=dict)
    owners: Mapping[str, type] = field(default_factory=dict)
    sources: tuple[ClassSource, ...] = ()
    module_classes: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    warms_up: bool | None = None

    @cached_property
    def _known(self) -> dict[str, Statistics]:
        return {}

    def statistics(self, path: str, part: Slice | None = None) -> Statistics:
        """Figures of a parameter or buffer, or of one of its parts."""
        key = path if part is None else f"{path}[{part.dim}:{part.ranges}]"
        if key not in self._known:
            tensor = self.tensors[path] if path in self.tensors else self.buffers[path]
            self._known[key] = statistics_of(tensor if part is None else rows_of(tensor, part))
        return self._known[key]

    @cached_property
    def params(self) -> tuple[ParamSpec, ...]:
        """Trainable parameters with numbers to look at, each tensor once."""
        return tuple(
            p for p in self.spec.params if p.tied_to is None and p.protected is None and p.path in self.tensors
        )

    def with_role(self, *roles: Role) -> Iterator[ParamSpec]:
        """Those of :attr:`params` that have one of ``roles``."""
        return (p for p in self.params if p.role in roles)

    def finite(self, path: str) -> bool:
        """All elements are numbers; where they are not, one check says so and the others keep silent."""
        return path in self.tensors and self.statistics(path).finite

    def param_of(self, layer: LayerFigures) -> ParamSpec | None:
        """What is known of the weight of a layer that was seen."""
        if layer.path not in self.spec:
            return None
        return self.spec[layer.path]

    def moves(self, path: str) -> bool:
        """A gradient reaches the parameter before the first step, or within a few; true where that was not measured."""
        size = self.figures.gradients.get(path, math.nan)
        return bool(size) or self.figures.waking.get(path, size == 0.0 and not self.figures.waking)

    def stuck(self, path: str) -> bool:
        """It was measured that no gradient reaches the parameter, neither before the first step nor after some."""
        size = self.figures.gradients.get(path, math.nan)
        return size is None or (size == 0.0 and self.figures.waking.get(path) is False)

    @cached_property
    def broken(self) -> str:
        """The first thing that holds NaN or infinity: data, then parameters, then buffers; empty where none does."""
        for data in self.figures.data:
            if data.infinite:
                return data.what
        return next((p for p in (*self.tensors, *self.buffers) if self._is_broken(p)), "")

    def _is_broken(self, path: str) -> bool:
        # Masks hold infinities on purpose, averages do not.
        s, name = self.statistics(path), path.rpartition(".")[2]
        return not s.finite if path in self.tensors else bool(s.nans or (s.infs and name.startswith("running_")))

    def branch_of(self, param: ParamSpec) -> Branch | None:
        """The residual branch a parameter lies on."""
        return None if param.branch is None else self.spec.branches[param.branch]

    def is_zero(self, path: str | None) -> bool:
        """The parameter exists and holds nothing but zeros."""
        return path is not None and path in self.tensors and self.statistics(path).zero

    def biases_of(self, path: str) -> tuple[ParamSpec, ...]:
        """Biases added to the output of a weight."""
        return self._biases.get(path, ())

    @cached_property
    def _biases(self) -> dict[str, tuple[ParamSpec, ...]]:
        found: dict[str, list[ParamSpec]] = {}
        for p in self.params:
            if p.role is Role.BIAS and p.bias_of is not None and p.bias_of in self.spec:
                found.setdefault(self.spec.first_name(p.bias_of), []).append(p)
        return {path: tuple(biases) for path, biases in found.items()}

    def weight_of(self, bias: ParamSpec) -> ParamSpec | None:
        """The weight a bias belongs to."""
        return self.spec[bias.bias_of] if bias.bias_of is not None and bias.bias_of in self.spec else None

    def location_of(self, path: str) -> Location | None:
        """Where the class that owns a parameter or buffer is defined."""
        cls = self.owners.get(path.rpartition(".")[0])
        source = None if cls is None else source_of(cls)
        return None if source is None else source.at(source.node)

    def instances_of(self, cls: type) -> tuple[str, ...]:
        """Paths of the modules that are instances of a class."""
        return tuple(path for path, classes in self.module_classes.items() if cls in classes)


def rows_of(tensor: torch.Tensor, part: Slice) -> torch.Tensor:
    """The elements of one part of a packed tensor, in its shape."""
    pieces = [tensor.narrow(part.dim, start, stop - start) for start, stop in part.ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=part.dim)


def units_first(tensor: torch.Tensor, param: ParamSpec) -> torch.Tensor:
    """A weight as a matrix whose rows are the weights of one unit; experts and groups stacked along the rows."""
    fans = param.fans
    if fans is None or tensor.ndim < 2:
        return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1)
    batch = [d for d in fans.batch_dims if d != fans.out_dim]
    order = [*batch, fans.out_dim, *(d for d in range(tensor.ndim) if d != fans.out_dim and d not in batch)]
    lead = 1
    for d in (*batch, fans.out_dim):
        lead *= tensor.shape[d]
    return tensor.permute(order).reshape(lead, -1)
