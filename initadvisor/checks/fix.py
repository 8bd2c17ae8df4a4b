"""The recipe that mends what was found: only the parameters concerned are filled, the others keep their values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from initadvisor.checks.finding import Finding
from initadvisor.checks.registry import checks
from initadvisor.errors import InputError
from initadvisor.graph.analyze import analyze
from initadvisor.graph.spec import ModelSpec
from initadvisor.recipes.recipe import Recipe, recipe_from_scheme
from initadvisor.schemes.propose import propose_from_spec
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, SchemeKind
from initadvisor.training.calls import trained_batch
from initadvisor.types import Role

NAME = "mend"


def mendable(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings that filling their parameters anew can mend."""
    known = {c.code for c in checks() if c.mends}
    return tuple(f for f in findings if f.code in known and f.paths)


def mend(
    model: nn.Module, sample_batch: Any, findings: Iterable[Finding], *, loss: Callable[..., Any] | None = None
) -> Recipe:
    """The recipe that mends findings; applying it and checking again is the proof.

    Every parameter concerned is filled as the advisor's first rule-based scheme fills it; a bias goes with its weight.
    All others are kept as they are.

    Args:
        model: as it was checked; left as it is.
        sample_batch: as it was checked with.
        findings: what to mend.
        loss: as it was checked with.

    Raises:
        InputError: none of the findings can be mended by filling weights.
    """
    wanted = mendable(findings)
    if not wanted:
        told = ", ".join(sorted({f.code for f in findings})) or "there are none"
        raise InputError(f"no finding can be mended by filling weights ({told}); follow their remedies")
    batch = trained_batch(model, sample_batch, loss)
    spec = analyze(model, batch)
    paths = concerned(spec, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the model looks trained is no news: its findings are what is mended
        schemes = propose_from_spec(spec, model, batch, renew=paths)
    scheme = mended(spec, schemes, wanted)
    if scheme is None:
        raise InputError("no rule-based scheme fits this model, so there is nothing to mend it with")
    return recipe_from_scheme(scheme, spec)


def mended(spec: ModelSpec, schemes: Iterable[Scheme], findings: Iterable[Finding]) -> Scheme | None:
    """The scheme that fills only what findings name, as the likeliest rule-based scheme does; None without one.

    Args:
        spec: reading of the model.
        schemes: proposed for it.
        findings: what to mend.
    """
    wanted = mendable(findings)
    rules = [s for s in schemes if s.kind is SchemeKind.RULES and not s.calibrations]
    if not rules or not wanted:
        return None
    paths = concerned(spec, wanted)
    chosen = max(rules, key=lambda s: s.prior)
    codes = ", ".join(sorted({f.code for f in wanted}))
    return Scheme(
        NAME,
        SchemeKind.RECIPE,
        f"mends {codes} as {chosen.name} fills these parameters; all others keep their values",
        tuple(a if a.path in paths else _kept(a) for a in chosen.assignments),
        prior=chosen.prior,
        fingerprint=spec.fingerprint,
    )


def concerned(spec: ModelSpec, findings: Iterable[Finding]) -> frozenset[str]:
    """First names of the parameters that findings name, with the biases of the weights among them."""
    named = {p for f in findings for p in f.paths if p in spec}
    first = {spec.first_name(p) for p in named}
    biases = (p for p in spec.params if p.role is Role.BIAS and p.tied_to is None)
    return frozenset(
        first | {p.path for p in biases if p.bias_of in spec and p.bias_of and spec.first_name(p.bias_of) in first}
    )


def _kept(assignment: Assignment) -> Assignment:
    return replace(assignment, parts=(), rule="kept", reason="nothing was found wrong with it", references=())
