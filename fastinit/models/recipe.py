"""Recipes: where the values of a model on meta come from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest, Written
from fastinit.tensors.meta import is_meta
from fastinit.tensors.walk import named_tensors, walk


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

    def __deepcopy__(self, memo: dict[int, object]) -> Recipe:
        return self  # a copy of a part is a part of the same whole

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


# An attribute of every module, so that copies and parts have it too: a pipeline makes stages of
# them. A module that takes another's place has none.
_RECIPE = "_fastinit_recipe"


class _Part(NamedTuple):
    """What a module knows of the recipe that it is part of: the prefix of its names there."""

    recipe: Recipe
    prefix: str


class Sources(NamedTuple):
    """The recipe of a model, or of parts of one.

    Attributes:
        recipe: the recipe of the model that was built.
        names: from names of tensors to those that the recipe has for them.
    """

    recipe: Recipe
    names: dict[str, str]

    def of(self, name: str) -> Written | Tensor | None:
        """Return the fills or the values for this name; None if there are none."""
        return self.recipe.of(self.names[name]) if name in self.names else None


def attach(model: nn.Module, recipe: Recipe) -> None:
    """Attach a recipe to its model."""
    for prefix, module in walk(model):
        vars(module)[_RECIPE] = _Part(recipe, prefix)


def attached(model: nn.Module) -> Sources | None:
    """Return what is known of a model whose modules were built on meta; None if none of them was.

    Raises:
        ValueError: some were built on meta by themselves, the others elsewhere.
    """
    parts = [(prefix, module, vars(module).get(_RECIPE)) for prefix, module in walk(model)]
    known = [(prefix, part) for prefix, _, part in parts if part is not None]
    if not known:
        return None
    recipe = known[0][1].recipe
    other = [prefix for prefix, part in known if part.recipe is not recipe]
    names = {
        prefix + own: part.prefix + own
        for prefix, module, part in parts
        if part is not None
        for own in (*module._parameters, *module._buffers)
    }
    if not other and known[0][0] != "":
        bare = (name for name, tensor in named_tensors(walk(model)) if is_meta(tensor))
        other = [known[0][0]] if any(name not in names for name in bare) else []
    if other:
        raise ValueError(
            f"materialize: {other[0][:-1]} was built on meta by itself; build the whole model, or "
            "materialize that part first"
        )
    return Sources(recipe, names)


def detach(model: nn.Module) -> None:
    """Remove the recipe from its model."""
    for _, module in walk(model):
        vars(module).pop(_RECIPE, None)
