"""`apply` and `diff`: a recipe fills the weights of a model; two recipes are compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from initadvisor.cli.outcome import ExitCode, remark, tell, tell_json
from initadvisor.cli.places import try_outputs
from initadvisor.cli.target import open_target
from initadvisor.errors import InputError
from initadvisor.files import write_with
from initadvisor.report.filled import apply_to_json, render_applied
from initadvisor.report.jsonout import envelope

if TYPE_CHECKING:
    from torch import nn

    from initadvisor.recipes.recipe import Recipe

WEIGHT_FILES = (".safetensors", ".pt", ".pth")


def run_apply(
    recipe: Path, target: str, *, out: Path | None, seed: int | None, as_json: bool, quiet: bool, no_color: bool
) -> None:
    """Fill the target's model as the recipe says; write its weights where asked."""
    from initadvisor.recipes.recipe import load_recipe

    if out is not None:
        if out.suffix not in WEIGHT_FILES:
            raise InputError(f'--out "{out}": weights are written as one of {", ".join(WEIGHT_FILES)}')
        try_outputs(target, {"--out": out}, inputs=(recipe,))
    loaded = load_recipe(recipe)
    if seed is None:
        seed = loaded.provenance.seed or 0  # so that a recipe gives the very weights its evidence is about
    with open_target(target) as opened:
        try_outputs(target, {"--out": out}, inputs=(recipe, *opened.sources))
        result = loaded.apply(opened.model, opened.sample_batch, seed=seed, loss=opened.arguments.get("loss"))
    try:
        if as_json:
            tell_json(apply_to_json(result))
        else:
            tell(render_applied(result, color=False if no_color else None, brief=quiet))
    finally:  # also where nobody reads what is told
        if out is not None:
            save_weights(opened.model, out)
            remark(f"weights written to {out}", quiet=quiet)
    if out is None and not as_json:
        remark("nothing was written; name a file with --out weights.safetensors", quiet=quiet)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write a model's state, tied tensors once, in the format of the file's ending.

    Raises:
        InputError: the file cannot be written.
    """

    def write(place: Path) -> None:
        try:
            if file.suffix == ".safetensors":
                from safetensors.torch import save_model

                save_model(model, str(place))
            else:
                import torch

                torch.save(model.state_dict(), place)
        except RuntimeError as error:  # both libraries' own words for a disk that is full
            raise OSError(str(error)) from error
        except Exception as error:
            # safetensors has an error class of its own, which only its compiled part exports.
            if type(error).__name__ != "SafetensorError":
                raise
            raise OSError(str(error)) from error

    write_with(file, write)


DIFF_FORMAT = "initadvisor.diff"
TOLD_NOT_DONE = {"match", "reason", "rule", "references"}
"""Fields of a recipe's rule that say where and why, not what; two recipes that differ only here fill the same."""


def run_diff(old: Path, new: Path, *, as_json: bool, quiet: bool) -> ExitCode:
    """Tell in which rules two recipes differ."""
    from initadvisor.recipes.recipe import load_recipe

    before, after = (_rules_of(load_recipe(file)) for file in (old, new))
    removed = [match for match in before if match not in after]
    added = [match for match in after if match not in before]
    changed = [match for match in before if match in after and before[match] != after[match]]
    if as_json:
        content = {
            "removed": {m: before[m] for m in removed},
            "added": {m: after[m] for m in added},
            "changed": {m: {"from": before[m], "to": after[m]} for m in changed},
        }
        tell_json(envelope(DIFF_FORMAT, _counted(removed, added, changed), content))
    elif quiet or not (removed or added or changed):
        tell(_counted(removed, added, changed))
    else:
        lines = [f"- {m}: {_worded(before[m])}" for m in removed] + [f"+ {m}: {_worded(after[m])}" for m in added]
        lines += [f"~ {m}: {_worded(before[m])} → {_worded(after[m])}" for m in changed]
        tell("\n".join(lines))
    return ExitCode.FINDINGS if removed or added or changed else ExitCode.OK


def _rules_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What is filled how: selector in words -> the fields that decide the values."""
    found: dict[str, dict[str, Any]] = {}
    for rule in recipe.rules:
        fields = rule.model_dump(mode="json", exclude_defaults=True, by_alias=True)
        selector = fields.get("match", {})
        told = ", ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in selector.items())
        found[told] = {k: v for k, v in fields.items() if k not in TOLD_NOT_DONE}
    return found


def _worded(fields: dict[str, Any]) -> str:
    return ", ".join(str(v) if k == "init" else f"{k} {v}" for k, v in fields.items())


def _counted(removed: list[str], added: list[str], changed: list[str]) -> str:
    if not (removed or added or changed):
        return "the recipes fill the same"
    return f"{len(removed)} rules removed, {len(added)} added, {len(changed)} changed"
