"""Questions rules ask of the specs, answered in one place."""

from __future__ import annotations

from initadvisor.graph.spec import NORMALISED, Branch, Confidence, ModelSpec, NormStyle, ParamSpec
from initadvisor.types import NO_ACTIVATION, WEIGHT_ROLES, Role

ATTENTION_ROLES = frozenset({Role.QUERY, Role.KEY, Role.VALUE, Role.QKV, Role.ATTN_OUT})


def is_weight(param: ParamSpec) -> bool:
    """A linear map with at least two axes."""
    return param.role in WEIGHT_ROLES and len(param.shape) >= 2


def sure(param: ParamSpec) -> bool:
    """Only what the executed ops leave no doubt about may be filled with zeros or with anything daring."""
    return param.confidence is Confidence.CERTAIN


def branch_of(param: ParamSpec, spec: ModelSpec) -> Branch | None:
    """The residual branch a parameter lies on, None where it lies on none."""
    if param.branch is None or not 0 <= param.branch < len(spec.branches):
        return None
    return spec.branches[param.branch]


def ends_with_norm(param: ParamSpec, spec: ModelSpec) -> bool:
    """The norm scale behind the last weight of a branch that has no learned factor."""
    return param.role is Role.NORM_SCALE and any(b.last_norm == param.path and b.scale is None for b in spec.branches)


def closes_branch(param: ParamSpec, spec: ModelSpec) -> bool:
    """What sets the size of its branch: the last weight, or the norm scale behind it."""
    return ends_branch(param, spec) or ends_with_norm(param, spec)


def residual_count(spec: ModelSpec) -> int:
    """Branches that add up along the longest path; at least one."""
    return max(1, spec.residual_depth or len(spec.branches))


def ends_branch(param: ParamSpec, spec: ModelSpec) -> bool:
    """The weight whose output is what its branch adds to the stream, with no norm or learned factor in between.

    A norm without a scale of its own counts too: it undoes any factor, and of zeros it makes a gradient of 1/√ε.
    """
    branch = branch_of(param, spec)
    if branch is None or not is_weight(param) or param.role is Role.SHORTCUT or param.norm_after is not None:
        return False
    ends = param.branch_last or param.path in branch.last
    if ends and param.gate_partner in branch.last and not is_carrier(param, spec):
        return False
    return ends and branch.last_norm is None and branch.scale is None and param.branch_scale is None


def carrier_rank(path: str, spec: ModelSpec) -> tuple[bool, bool, int]:
    """Order in which the factors of a product carry its size: without an activation of their own first."""
    param = spec[path]
    return param.role is Role.MLP_GATE, param.activation != NO_ACTIVATION, param.depth


def is_carrier(param: ParamSpec, spec: ModelSpec) -> bool:
    """Not the gate of a product: of several factors one alone is scaled or zeroed for the whole."""
    seen = [param.path]
    while (partner := spec[seen[-1]].gate_partner) is not None and partner in spec and partner not in seen:
        seen.append(partner)
    order = {p.path: i for i, p in enumerate(spec.params) if p.path in seen} if len(seen) > 1 else {}
    return min(seen, key=lambda path: (carrier_rank(path, spec), order.get(path, 0))) == param.path


def is_transformer(spec: ModelSpec) -> bool:
    """Some weight belongs to an attention."""
    return any(p.role in ATTENTION_ROLES for p in spec.params)


def has_style(spec: ModelSpec, style: NormStyle) -> bool:
    """Most residual branches normalise in this place."""
    return 2 * sum(b.style is style for b in spec.branches) > len(spec.branches)


def has_norms(spec: ModelSpec) -> bool:
    """Any weight is normalised before or after, or any norm has a scale."""
    return any(p.norm_before or p.norm_after or p.role is Role.NORM_SCALE for p in spec.params)


def plain_depth(spec: ModelSpec) -> int:
    """Layers through which the signal is multiplied with nothing to restore its size; 1 with norms or residual sums."""
    return 1 if spec.branches or has_norms(spec) else max(1, spec.depth)


def is_tied(param: ParamSpec, spec: ModelSpec) -> bool:
    """The tensor appears under another name as well."""
    return param.tied_to is not None or any(p.tied_to == param.path for p in spec.params)


def size_is_a_rate(param: ParamSpec) -> bool:
    """A norm divides the weight's size out again: it decides no signal, only how far a step turns it."""
    return is_weight(param) and (param.acts_through == NORMALISED or param.norm_after is not None)


def is_head_too(param: ParamSpec, spec: ModelSpec) -> bool:
    """A table that makes the scores as well: under two names, or used again where no output layer is."""
    again = param.role is Role.EMBEDDING and param.uses > 1 and not spec.with_role(Role.OUTPUT)
    return is_tied(param, spec) or again


def weight_of_bias(param: ParamSpec, spec: ModelSpec) -> ParamSpec | None:
    """The weight a bias belongs to, None where it is not known."""
    if param.bias_of is None or param.bias_of not in spec:
        return None
    return spec[param.bias_of]


def gate_weight_of(param: ParamSpec, spec: ModelSpec) -> ParamSpec | None:
    """For a matrix fed by a gated product: the weight on the activated side of that product."""
    if param.role is not Role.MLP_OUT or param.branch is None:
        return None
    for other in spec.params:
        if other.role is Role.MLP_GATE and other.branch == param.branch:
            return other
    return None
