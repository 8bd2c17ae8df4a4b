"""Mimetic attention for vision transformers: projections whose products start as those of trained ones."""

from __future__ import annotations

from initadvisor.graph.spec import ModelSpec, ParamSpec
from initadvisor.schemes.rules.fills import fans_of
from initadvisor.schemes.rules.reading import is_weight, sure
from initadvisor.schemes.rules.rule import Context, Proposal, Rule
from initadvisor.schemes.values import Fill, Part
from initadvisor.types import Role, Slice

_INPUTS = (Role.QUERY, Role.KEY, Role.VALUE)
_NAMES = {Role.QUERY: "query", Role.KEY: "key", Role.VALUE: "value", Role.ATTN_OUT: "out"}


def _projections(branch: int, spec: ModelSpec) -> dict[Role, list[tuple[ParamSpec, Slice | None]]]:
    """Everything on a branch that makes queries, keys or values, or mixes the heads, packed or by itself."""
    found: dict[Role, list[tuple[ParamSpec, Slice | None]]] = {role: [] for role in _NAMES}
    for param in spec.params:
        if param.branch != branch or not is_weight(param):
            continue
        pieces: tuple[Slice | None, ...] = param.slices or (None,)
        for piece in pieces:
            role = param.role if piece is None else piece.role
            if role in found:
                found[role].append((param, piece))
    return found


def _heads(branch: int, spec: ModelSpec) -> int | None:
    """Heads of a whole attention: one square projection of each kind, as many heads in keys as in queries."""
    found = _projections(branch, spec)
    if any(len(entries) != 1 for entries in found.values()):
        return None
    for param, piece in (entries[0] for entries in found.values()):
        fans = piece.fans if piece is not None else fans_of(param)
        if len(param.shape) != 2 or fans.fan_in != fans.fan_out or not sure(param):
            return None
    (query, _), (key, _) = found[Role.QUERY][0], found[Role.KEY][0]
    return query.heads if query.heads == key.heads else None


def in_vision_attention(param: ParamSpec, spec: ModelSpec) -> bool:
    """Part of a whole attention in a net with learned places and no table of words."""
    roles = {p.role for p in spec.params}
    if param.branch is None or Role.POSITION not in roles or Role.EMBEDDING in roles:
        return False
    packed = param.role is Role.QKV and {s.role for s in param.slices} == set(_INPUTS)
    return (packed or param.role in _NAMES) and is_weight(param) and _heads(param.branch, spec) is not None


def _mimetic(param: ParamSpec, spec: ModelSpec, context: Context) -> Proposal:
    assert param.branch is not None
    heads = _heads(param.branch, spec)
    pieces: tuple[Slice | None, ...] = param.slices or (None,)
    parts = []
    for piece in pieces:
        role = param.role if piece is None else piece.role
        fans = piece.fans if piece is not None else fans_of(param)
        # Both halves of a product draw from one stream, named by the branch: queries and keys, values and output.
        pair = 2 * param.branch + (role not in (Role.QUERY, Role.KEY))
        args = (("part", _NAMES[role]), ("pair", float(pair)), ("heads", float(heads or 1)))
        parts.append(Part(Fill("mimetic", args=args), fans, piece))
    return Proposal(
        tuple(parts),
        "tokens attend to themselves first (query·key near the identity), and values and output undo a part of them, "
        "as in trained vision transformers",
    )


RULES = (
    Rule(
        "mimetic",
        in_vision_attention,
        _mimetic,
        "attention of vision transformers: query·key near the identity, value·output near its negative",
        ("trockman2023",),
    ),
)
