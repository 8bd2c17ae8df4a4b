"""`apply`: a recipe fills the weights of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from initadvisor.cli.advising import check_writable
from initadvisor.cli.outcome import remark, tell, tell_json
from initadvisor.errors import InputError
from initadvisor.report.filled import apply_to_json, render_applied
from initadvisor.target import open_target

if TYPE_CHECKING:
    from torch import nn

WEIGHT_FILES = (".safetensors", ".pt", ".pth")


def run_apply(
    recipe: Path, target: str, *, out: Path | None, seed: int | None, as_json: bool, quiet: bool, no_color: bool
) -> None:
    """Fill the target's model as the recipe says; write its weights where asked."""
    from initadvisor.recipe import load_recipe

    if out is not None:
        if out.suffix not in WEIGHT_FILES:
            raise InputError(f'--out "{out}": weights are written as one of {", ".join(WEIGHT_FILES)}')
        check_writable(out)
    loaded = load_recipe(recipe)
    arguments: dict[str, Any] = {} if seed is None else {"seed": seed}
    with open_target(target) as opened:
        result = loaded.apply(opened.model, opened.sample_batch, **arguments)
        if out is not None:
            save_weights(opened.model, out)
    if as_json:
        tell_json(apply_to_json(result))
    else:
        tell(render_applied(result, color=False if no_color else None, brief=quiet))
    if out is not None:
        remark(f"weights written to {out}", quiet=quiet)
    elif not as_json:
        remark("nothing was written; name a file with --out weights.safetensors", quiet=quiet)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write a model's state, tied tensors once, in the format of the file's ending.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import save_model

            save_model(model, str(file))
        else:
            import torch

            torch.save(model.state_dict(), file)
    except (OSError, RuntimeError) as error:
        raise InputError(f'"{file}" cannot be written: {error}') from error
