"""Recurrent ops by name: how many sums lie stacked in one weight of theirs."""

from __future__ import annotations

from initadvisor.graph.layers import GATES

_SUMS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Kinds of recurrent layers as torch calls them."""

RECURRENT = frozenset(_SUMS)
"""Canonical names of torch's calls of whole recurrent nets."""


def gate_names(op: str) -> tuple[str, ...]:
    """Names of the gates stacked in a weight of a recurrent op, none where there is one sum alone or no such op.

    Example:
        >>> gate_names("gru_layer"), gate_names("linear")
        (('reset_gate', 'update_gate', 'new_gate'), ())
    """
    return GATES.get(op.removesuffix("_layer"), ())


def gates_of(op: str) -> int:
    """Sums stacked in a weight of a recurrent op.

    Example:
        >>> gates_of("lstm"), gates_of("rnn_tanh_layer")
        (4, 1)
    """
    return max(1, len(gate_names(op)))
