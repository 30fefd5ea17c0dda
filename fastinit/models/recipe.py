"""Recipes: where the values of a model on meta come from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest, Written
from fastinit.tensors.walk import walk


@dataclass
class Recipe:
    """The source of every value of a model on meta.

    Attributes:
        manifest: the fills of its tensors.
        values: by name, the values that code computed for the others.
        seed: the seed of the fills that brought none of their own.
        is_explicit: whether that seed was given; otherwise this process alone has drawn it.
        ties: from names that the code tied while it ran, to the names that they are tied to.
    """

    manifest: Manifest
    values: dict[str, Tensor]
    seed: int
    is_explicit: bool
    ties: dict[str, str] = field(default_factory=dict)

    def with_seed(self, seed: int) -> Recipe:
        """Return the same recipe with another seed."""
        tensors = tuple(
            replace(
                tensor,
                fills=tuple(
                    replace(drawn, seed=seed) if drawn.seed == self.seed else drawn
                    for drawn in tensor.fills
                ),
            )
            for tensor in self.manifest.tensors
        )
        manifest = Manifest(tensors, self.manifest.unmatched)
        return replace(self, manifest=manifest, seed=seed, is_explicit=True)

    def of(self, name: str) -> Written | Tensor | None:
        """Return the fills or the values for this name or alias; None if there are none."""
        name = self.ties.get(name, name)
        if name in self.values:
            return self.values[name]
        try:
            written = self.manifest.named(name)
        except KeyError:
            return None
        return written if written.status == "filled" else None


# An attribute of the module, so that copies have it too: a pipeline copies modules for its stages.
_RECIPE = "_fastinit_recipe"


def attach(model: nn.Module, recipe: Recipe) -> None:
    """Attach a recipe to its model."""
    vars(model)[_RECIPE] = recipe


def attached(model: nn.Module) -> Recipe | None:
    """Return the recipe of a model built on meta, also if it is wrapped; None without one.

    Raises:
        ValueError: a part of the model was built on meta by itself.
    """
    found: Recipe | None = None
    for prefix, module in walk(model):
        if _RECIPE in vars(module):
            if prefix:
                raise ValueError(
                    f"materialize: {prefix[:-1]} was built on meta by itself; build the whole "
                    "model, or materialize that part first"
                )
            found = vars(module)[_RECIPE]
    return found


def detach(model: nn.Module) -> None:
    """Remove the recipe from its model."""
    for _, module in walk(model):
        vars(module).pop(_RECIPE, None)
