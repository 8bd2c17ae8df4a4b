"""The words the rooms share: connection counts, roles and the names of the two baselines.

This is the lowest floor. It knows torch's tensors but no module classes, and imports nothing of the package but errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CURRENT = "current"
"""Name of the scheme that leaves every weight exactly as the model came (the control of every comparison)."""

TORCH_DEFAULT = "torch_default"
"""Name of the scheme that draws what torch's own ``reset_parameters`` would draw."""

NO_ACTIVATION = "none"
"""Value of ``ParamSpec.activation`` where nothing nonlinear follows."""


class Role(StrEnum):
    """What a parameter does, decided by how the executed ops use it, never by the name of its module's class."""

    INPUT = "input"  # weight applied to data straight from the batch
    HIDDEN = "hidden"  # weight between hidden features, nothing more special about it
    OUTPUT = "output"  # weight that makes the model's output
    EMBEDDING = "embedding"  # table looked up by integer ids
    POSITION = "position"  # table or tensor added per position
    TOKEN = "token"  # class, mask or query token joined to a sequence
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    QKV = "qkv"  # packed projection; its parts are in ParamSpec.slices
    ATTN_OUT = "attn_out"  # mixes heads after attention
    MLP_IN = "mlp_in"  # first matrix of a residual feed-forward branch
    MLP_GATE = "mlp_gate"  # matrix whose activation multiplies another's output
    MLP_OUT = "mlp_out"  # matrix that writes a feed-forward branch to the residual stream
    RESIDUAL_OUT = "residual_out"  # last weight of any other residual branch
    SHORTCUT = "shortcut"  # projection on the skip path
    RECURRENT_INPUT = "recurrent_input"
    RECURRENT_HIDDEN = "recurrent_hidden"
    NORM_SCALE = "norm_scale"
    NORM_SHIFT = "norm_shift"
    BIAS = "bias"
    RELATIVE_BIAS = "relative_bias"  # added to attention logits
    ROUTER = "router"  # chooses experts
    MODULATION = "modulation"  # writes scale, shift or gate of a normalised stream (adaLN, FiLM)
    BRANCH_SCALE = "branch_scale"  # LayerScale, ReZero, SkipInit
    ACTIVATION = "activation"  # learned part of an activation (PReLU slope, Snake frequency)
    STATE = "state"  # dynamics of a state-space layer (A_log, D, dt_bias)
    ADAPTER_IN = "adapter_in"  # LoRA A
    ADAPTER_OUT = "adapter_out"  # LoRA B
    LATENT = "latent"  # a learned array that is itself a signal (latents, queries, start states, prototypes)
    ELEMENTWISE = "elementwise"  # scales or shifts a signal entry by entry, along several axes or behind a function
    SCALAR = "scalar"  # a single learned number (temperature, logit scale)
    UNUSED = "unused"  # no executed op touched it
    UNKNOWN = "unknown"  # touched, but not understood: always named in coverage


WEIGHT_ROLES: frozenset[Role] = frozenset(
    {
        Role.INPUT,
        Role.HIDDEN,
        Role.OUTPUT,
        Role.QUERY,
        Role.KEY,
        Role.VALUE,
        Role.QKV,
        Role.ATTN_OUT,
        Role.MLP_IN,
        Role.MLP_GATE,
        Role.MLP_OUT,
        Role.RESIDUAL_OUT,
        Role.SHORTCUT,
        Role.RECURRENT_INPUT,
        Role.RECURRENT_HIDDEN,
        Role.ROUTER,
        Role.MODULATION,
        Role.ADAPTER_IN,
        Role.ADAPTER_OUT,
    }
)
"""Roles of linear maps: they have fans in the usual sense."""


@dataclass(frozen=True, slots=True)
class Fans:
    """Connection counts of one linear map and where its axes lie in the tensor.

    ``fan_in`` is the number of inputs summed into one output value, ``fan_out`` the number of output values one input
    value reaches. Both are floats, since a strided transposed convolution has fractional averages.

    Attributes:
        fan_in: summands per output value.
        fan_out: output values per input value.
        out_dim: axis of output features (0 for ``nn.Linear`` and ``nn.Conv2d``, 1 for transposed convolutions and for
            weights used as ``x @ W``).
        in_dim: axis of input features.
        groups: number of independent blocks along ``grouped_dim``'s axis (grouped and depthwise convolutions).
        batch_dims: leading axes that enumerate independent maps (experts); every map is filled on its own.
    """

    fan_in: float
    fan_out: float
    out_dim: int = 0
    in_dim: int = 1
    groups: int = 1
    batch_dims: tuple[int, ...] = ()

    @property
    def fan_avg(self) -> float:
        """Mean of both counts, Glorot and Bengio's compromise (AISTATS 2010, eq. 12)."""
        return (self.fan_in + self.fan_out) / 2


@dataclass(frozen=True, slots=True)
class Slice:
    """One of several maps packed in a single tensor: a gate of an LSTM, the key part of a fused QKV, one expert.

    ``ranges`` are half-open index ranges along ``dim``; interleaved layouts (per-head q, k, v) have several.
    """

    name: str
    dim: int
    ranges: tuple[tuple[int, int], ...]
    role: Role
    fans: Fans

    @property
    def size(self) -> int:
        """Number of indices along ``dim`` that belong to this part."""
        return sum(stop - start for start, stop in self.ranges)
