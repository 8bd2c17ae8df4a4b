"""Fills with a pattern: identity, Dirac, sparse rows, Hadamard, sinusoidal representation, explicit values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from initadvisor.errors import SchemeError
from initadvisor.initializers.card import Card, Declared, Hyperparameter, Initializer, register
from initadvisor.initializers.maps import centre_tap, draw_maps, working_dtype
from initadvisor.initializers.random import draw_uniform
from initadvisor.types import Fans

Values = Mapping[str, float | str]


def identity(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Fill with gain times the identity (as far as it reaches, where the map is not square).

    Example:
        >>> identity((2, 3), Fans(3, 2), gain=1.0, generator=torch.Generator(), dtype=torch.float32).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    def draw(maps: int, out: int, inputs: int, kernel: tuple[int, ...]) -> torch.Tensor:
        if kernel:
            raise SchemeError(f"identity fills matrices; for the convolution of shape {shape} use dirac")
        return gain * torch.eye(out, inputs).expand(maps, out, inputs)

    return draw_maps(shape, fans, draw).to(dtype)


def dirac(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Fill a convolution so that it passes its input through: 1 at the kernel's centre, per group.

    Example:
        >>> w = dirac((2, 1, 3), Fans(3, 3, groups=2), gain=1.0, generator=torch.Generator(), dtype=torch.float32)
        >>> w.tolist()
        [[[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]]
    """

    def draw(maps: int, out: int, inputs: int, kernel: tuple[int, ...]) -> torch.Tensor:
        if not kernel:
            raise SchemeError(f"dirac fills convolutions; for the matrix of shape {shape} use identity")
        value = torch.zeros(maps, out, inputs, *kernel)
        centre_tap(value, kernel).copy_(gain * torch.eye(out, inputs))
        return value

    return draw_maps(shape, fans, draw).to(dtype)


def sparse(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    connections: float = 15.0,
) -> torch.Tensor:
    """Give every output ``connections`` incoming weights of variance gain²/connections, zeros elsewhere.

    Martens 2010, section 5, connects each unit to 15 inputs; there the weights are N(0, 1) and the scale is left to
    the activation, here it keeps the output's variance.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> w = sparse((8, 40), Fans(40, 8), gain=1.0, generator=g, dtype=torch.float32)
        >>> (w != 0).sum(dim=1).tolist()
        [15, 15, 15, 15, 15, 15, 15, 15]
    """
    working = working_dtype(dtype)

    def draw(maps: int, out: int, inputs: int, kernel: tuple[int, ...]) -> torch.Tensor:
        columns = inputs * math.prod(kernel)
        kept = max(1, min(columns, round(connections)))
        # The places of the largest of independent uniforms are a random subset of the columns.
        places = torch.rand(maps, out, columns, generator=generator).topk(kept, dim=-1, sorted=False).indices
        value = torch.zeros(maps, out, columns, dtype=working)
        weights = torch.randn(maps, out, kept, generator=generator, dtype=working) * (gain / math.sqrt(kept))
        return value.scatter_(-1, places, weights).reshape(maps, out, inputs, *kernel)

    return draw_maps(shape, fans, draw).to(dtype)


def hadamard(order: int) -> torch.Tensor:
    """Sylvester's Hadamard matrix of size 2^order, entries ±1.

    Example:
        >>> hadamard(1).tolist()
        [[1.0, 1.0], [1.0, -1.0]]
    """
    matrix = torch.ones(1, 1)
    for _ in range(order):
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix


def zero_init(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """ZerO: the partial identity, and a scaled Hadamard matrix between where width grows (Zhao et al. 2022, alg. 1).

    Equal or shrinking width: the (partial) identity. Growing width: I·H·I/2^(c/2)·… with c = ⌈log₂ out⌉, which breaks
    the symmetry that a padded identity would keep. Convolutions hold it at the kernel's centre. Nothing is random.
    """

    def draw(maps: int, out: int, inputs: int, kernel: tuple[int, ...]) -> torch.Tensor:
        matrix = torch.eye(out, inputs)
        if out > inputs:
            order = math.ceil(math.log2(out))
            size = 2**order
            matrix = torch.eye(out, size) @ hadamard(order) @ torch.eye(size, inputs) / 2 ** (order / 2)
        value = torch.zeros(maps, out, inputs, *kernel)
        centre_tap(value, kernel).copy_(gain * matrix)
        return value

    return draw_maps(shape, fans, draw).to(dtype)


def siren_first(
    shape: tuple[int, ...], fans: Fans, *, gain: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Draw SIREN's first layer, U(±gain/fan_in) (Sitzmann et al. 2020, section 3.2)."""
    bound = gain / fans.fan_in
    return draw_uniform(shape, -bound, bound, generator, dtype)


def siren_hidden(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    omega: float = 30.0,
) -> torch.Tensor:
    """Draw a later SIREN layer, U(±gain·√(6/fan_in)/ω), ω being the factor inside the sine (same section)."""
    bound = gain * math.sqrt(6 / fans.fan_in) / omega
    return draw_uniform(shape, -bound, bound, generator, dtype)


def vector(
    shape: tuple[int, ...],
    fans: Fans,
    *,
    gain: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    values: str = "",
) -> torch.Tensor:
    """Fill with explicit numbers, written as text separated by blanks: class log-priors, a target's mean.

    Example:
        >>> vector((2,), Fans(0, 0), gain=1.0, generator=torch.Generator(), dtype=torch.float32, values="-1.5 0.5")
        tensor([-1.5000,  0.5000])
    """
    return (gain * torch.tensor(_numbers(shape, values), dtype=torch.float64)).reshape(shape).to(dtype)


def _numbers(shape: tuple[int, ...], values: str) -> list[float]:
    try:
        numbers = [float(v) for v in values.split()]
    except ValueError as error:
        raise SchemeError(f'vector takes numbers separated by blanks, not "{values[:40]}"') from error
    if len(numbers) != math.prod(shape):
        raise SchemeError(f"vector has {len(numbers)} values for a tensor of shape {shape}")
    return numbers


def _exact(fn: Initializer) -> Callable[[tuple[int, ...], Fans, float, Values], Declared]:
    """Declared statistics of a fill that draws nothing: those of the tensor itself."""

    def declare(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
        value = fn(shape, fans, gain=gain, generator=torch.Generator(), dtype=torch.float64, **args)
        std = float(value.std(correction=0)) if value.numel() else 0.0
        return Declared(float(value.mean()), std, float(value.min()), float(value.max()), exact=True)

    return declare


def _sparse_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    columns = math.prod(shape) // math.prod(shape[d] for d in (*fans.batch_dims, fans.out_dim))
    if fans.out_dim > fans.in_dim:
        columns //= fans.groups
    return Declared(0.0, abs(gain) / math.sqrt(columns))


def _siren_first_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    bound = abs(gain) / fans.fan_in
    return Declared(0.0, bound / math.sqrt(3), -bound, bound)


def _siren_hidden_declared(shape: tuple[int, ...], fans: Fans, gain: float, args: Values) -> Declared:
    bound = abs(gain) * math.sqrt(6 / fans.fan_in) / float(args.get("omega", 30.0))
    return Declared(0.0, bound / math.sqrt(3), -bound, bound)


register(
    Card(
        name="identity",
        fn=identity,
        declare=_exact(identity),
        summary="Identity matrix times the gain.",
        formula="W = gain·I",
        right_when="Recurrent weights of ReLU RNNs (IRNN) and square layers meant to start as pass-through.",
        wrong_when="Layers that widen: padded zeros leave the added units without signal (use zero_init).",
        references=("le2015",),
        aliases=("eye", "irnn"),
        min_dims=2,
    )
)
register(
    Card(
        name="dirac",
        fn=dirac,
        declare=_exact(dirac),
        summary="Convolution that passes its input through.",
        formula="W[i, i, centre] = gain, 0 elsewhere, per group",
        right_when="Deep plain or residual CNNs that should start near the identity.",
        wrong_when="Where channels widen: the added channels start dead.",
        references=("zagoruyko2017",),
        min_dims=3,
    )
)
register(
    Card(
        name="sparse",
        fn=sparse,
        declare=_sparse_declared,
        summary="A few strong connections per unit, zeros elsewhere.",
        formula="k = connections entries per output ~ N(0, gain²/k), the rest 0",
        right_when="Very wide saturating nets: units stay diverse without saturating.",
        wrong_when="Narrow layers, and nets that are pruned or quantised afterwards.",
        args={"connections": Hyperparameter(15.0, low=1.0, high=1024.0, log=True, meaning="weights per output")},
        references=("martens2010",),
        deviation="Scaled by 1/√k so that the output keeps its variance; Martens leaves N(0, 1).",
        min_dims=2,
    )
)
register(
    Card(
        name="zero_init",
        fn=zero_init,
        declare=_exact(zero_init),
        summary="ZerO: identity, and Hadamard where width grows; nothing is random.",
        formula="W = gain·I*, or gain·I*·H·I*/2^(c/2) with c = ⌈log₂ out⌉ where outputs outnumber inputs",
        right_when="Residual nets with normalisation, where bit-reproducible starts are wanted.",
        wrong_when="Plain nets: the partial identity drops inputs where width shrinks.",
        references=("zhao2022zero",),
        aliases=("ZerO",),
        min_dims=2,
    )
)
register(
    Card(
        name="siren_first",
        fn=siren_first,
        declare=_siren_first_declared,
        summary="First layer of a sinusoidal representation network.",
        formula="w ~ U(±gain/fan_in)",
        right_when="A sine with a frequency factor follows, and the input is coordinates in [-1, 1].",
        wrong_when="Any other activation.",
        references=("sitzmann2020",),
    )
)
register(
    Card(
        name="siren_hidden",
        fn=siren_hidden,
        declare=_siren_hidden_declared,
        summary="Later layers of a sinusoidal representation network.",
        formula="w ~ U(±gain·√(6/fan_in)/ω)",
        right_when="A sine of ω times this layer's output follows.",
        wrong_when="Any other activation; ω read wrongly (it must be the factor in the graph).",
        args={"omega": Hyperparameter(30.0, low=0.1, high=1000.0, log=True, meaning="factor inside the sine")},
        references=("sitzmann2020",),
    )
)
register(
    Card(
        name="vector",
        fn=vector,
        declare=_exact(vector),
        summary="Explicit numbers, one per element.",
        formula="w = gain·values",
        right_when="An output bias that should start at the class log-priors or the target's mean.",
        wrong_when="The data the figures came from are not the data of the training.",
        args={"values": Hyperparameter("", meaning="numbers separated by blanks")},
        references=("lin2017focal",),
    )
)
