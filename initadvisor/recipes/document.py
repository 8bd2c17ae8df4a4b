"""What a recipe file says, as one checked value; reading, meaning and writing it are other files' work."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from initadvisor.recipes.model import FORMAT, KEEP, CalibrationModel, FillModel, Provenance, RuleModel, _Strict
from initadvisor.recipes.symbols import NEED_ANALYSIS


class Document(_Strict):
    """The content of a recipe file: ordered rules, data-driven steps after them, and where it comes from."""

    format: int = FORMAT
    name: str = Field(min_length=1)
    summary: str = ""
    rules: tuple[RuleModel, ...] = Field(min_length=1)
    calibrations: tuple[CalibrationModel, ...] = ()
    provenance: Provenance = Provenance()

    @property
    def needs_analysis(self) -> bool:
        """Whether it speaks of roles, depth, activations or branches, which only a forward pass can tell."""
        return any(rule_needs_analysis(rule) for rule in self.rules)

    @property
    def needs_batch(self) -> bool:
        """Whether it can be applied only with a batch: for what it speaks of, or for what it measures."""
        return self.needs_analysis or bool(self.calibrations)

    @property
    def fills_nothing(self) -> bool:
        """Whether it keeps every weight as it is."""
        fills = [f for rule in self.rules for f in (rule, *rule.slices.values())]
        return not self.calibrations and all(f.init in (None, KEEP) for f in fills)


def rule_needs_analysis(rule: RuleModel) -> bool:
    """Whether a rule speaks of what only a forward pass can tell."""
    fills: Sequence[FillModel] = (rule, *rule.slices.values())
    return rule.match.needs_analysis or any(isinstance(f.gain, str) or f.scale in NEED_ANALYSIS for f in fills)
