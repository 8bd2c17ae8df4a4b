"""Recipes: which initializer goes where, as a file a person would write, read, edit and publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from initadvisor.errors import RecipeError
from initadvisor.files import write_text
from initadvisor.graph.spec import ModelSpec
from initadvisor.recipes.code import code
from initadvisor.recipes.document import Document, rule_needs_analysis
from initadvisor.recipes.model import FORMAT, Provenance, explain, migrate, register_migration
from initadvisor.recipes.resolve import read_model, resolve, where
from initadvisor.recipes.write import from_scheme, write
from initadvisor.recipes.yaml import parse, read_text
from initadvisor.schemes.apply import apply_scheme
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import ApplyResult
from initadvisor.training.calls import trained_batch

__all__ = [
    "FORMAT",
    "Provenance",
    "Recipe",
    "load_recipe",
    "loads_recipe",
    "recipe_from_scheme",
    "recipe_schema",
    "register_migration",
]


class Recipe(Document):
    """An ordered list of rules ``match → init``, each with its reason, and where it comes from.

    Every trainable parameter must be matched by exactly one rule; a later rule may replace an earlier one only where it
    says ``override: true``. A rule that matches nothing is an error unless it says ``optional: true``: a rule that
    silently never runs is how scaling bugs are shipped.

    Example:
        >>> recipe = loads_recipe('''
        ... format: 1
        ... name: orthogonal
        ... rules:
        ...   - {match: "**.weight", init: orthogonal, gain: 1.4, reason: ReLU layers}
        ...   - {match: "**.bias", init: zeros, reason: no offset at the start}
        ... ''')
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [t.path for t in recipe.apply(model).filled]
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def resolve(self, spec: ModelSpec) -> Scheme:
        """The scheme this recipe means for one model; see :func:`initadvisor.recipes.resolve.resolve`."""
        return resolve(self, spec)

    def apply(
        self,
        model: nn.Module,
        sample_batch: Any = None,
        *,
        seed: int = 0,
        loss: Callable[..., Any] | None = None,
    ) -> ApplyResult:
        """Fill a model in place, with every protection and check of :func:`initadvisor.schemes.apply.apply_scheme`.

        Args:
            model: of the architecture the recipe is for; changed in place.
            sample_batch: one batch or a loader. Needed where the recipe speaks of roles, depth, activations or
                branches, or measures on data; the same seed gives the same weights with it and without.
            seed: any integer.
            loss: of the training, as in ``advise``: for steps that descend on it, and for how it calls the model; None
                infers it from the batch.

        Raises:
            RecipeError: it does not fit the model, or needs the batch.
            SchemeError: see :func:`initadvisor.schemes.apply.apply_scheme`. Nothing was changed.
            VerificationError: a tensor reads back wrong. Everything was put back.
        """
        for index, rule in enumerate(self.rules):
            if sample_batch is None and rule_needs_analysis(rule):
                raise RecipeError(
                    f"{where(self, index)} speaks of what only a forward pass can tell (role, depth, activation or "
                    "branches); pass sample_batch"
                )
        batch = trained_batch(model, sample_batch, loss) if sample_batch is not None else None
        scheme = self.resolve(read_model(model, batch))
        return apply_scheme(scheme, model, seed=seed, batch=batch, loss=loss)

    def to_yaml(self) -> str:
        """The file's text: what a careful person would write, and to the bit what this recipe means."""
        return write(self)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_yaml` to a file, whole or not at all.

        Raises:
            InputError: the file cannot be written; an earlier one is as it was.
        """
        write_text(path, self.to_yaml())

    def to_code(
        self,
        model: nn.Module | None = None,
        sample_batch: Any = None,
        *,
        seed: int = 0,
        loss: Callable[..., Any] | None = None,
    ) -> str:
        """Python source of ``init_weights(model, seed)`` that needs torch alone and gives the same weights to the bit.

        Args:
            model: needed only where the recipe speaks of roles, depth, activations or branches: the code is for its
                architecture.
            sample_batch: the batch to read that model with.
            seed: default of the function's ``seed``.
            loss: of the training, where that calls the model otherwise than with the batch.

        Raises:
            RecipeError: the recipe needs a model to be resolved, or measures on data.
        """
        if model is not None and sample_batch is not None:
            sample_batch = trained_batch(model, sample_batch, loss)
        return code(self, model, sample_batch, seed=seed)


def loads_recipe(text: str, source: str = "recipe") -> Recipe:
    """A recipe from its text.

    Args:
        text: YAML.
        source: name of the file, for messages.

    Raises:
        RecipeError: with line and field.

    Example:
        >>> loads_recipe('''format: 1
        ... name: x
        ... rules: [{match: "**", init: xavier_nromal, reason: typo}]''')
        Traceback (most recent call last):
        initadvisor.errors.RecipeError: recipe:3: rules[0].init: unknown initializer "xavier_nromal"; did you mean ...
    """
    data, lines = parse(text, source)
    data = migrate(data, source, lines)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, source, lines) from error


def load_recipe(path: str | Path) -> Recipe:
    """A recipe from a file. Its content is data: nothing in it is ever run.

    Raises:
        RecipeError: unreadable or invalid, with line and field.
    """
    return loads_recipe(read_text(path), str(path))


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe file, for editors and other tools.

    Example:
        >>> recipe_schema()["title"]
        'Recipe'
    """
    return Recipe.model_json_schema(by_alias=True)


def recipe_from_scheme(scheme: Scheme, spec: ModelSpec, provenance: Provenance | None = None) -> Recipe:
    """The recipe of a scheme, repeated blocks folded into patterns.

    Args:
        scheme: fully resolved; ``current`` becomes a recipe that keeps everything.
        spec: of the model it was made for.
        provenance: where it comes from; the spec's fingerprint is filled in where it names none.

    Raises:
        RecipeError: the scheme says nothing about a parameter of the spec.
    """
    written = from_scheme(scheme, spec, provenance or Provenance())
    # Already checked: the fields are taken over as they are.
    return Recipe.model_construct(
        written.model_fields_set, **{name: getattr(written, name) for name in Document.model_fields}
    )
