"""Where the values of a model without memory come from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest, Written
from fastinit.tensors.walk import walk


@dataclass
class Recipe:
    """How a model without memory comes by its values.

    Attributes:
        manifest: what its tensors are filled with.
        values: by name, what code computed for the others.
        seed: of the fills that brought none of their own.
        is_explicit: whether it was given, rather than drawn by this process alone.
        ties: names whose tensors have, since the account of them, been tied to others.
    """

    manifest: Manifest
    values: dict[str, Tensor]
    seed: int
    is_explicit: bool
    ties: dict[str, str] = field(default_factory=dict)

    def with_seed(self, seed: int) -> Recipe:
        """The same with another seed."""
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
        """What a tensor of this name or alias gets."""
        name = self.ties.get(name, name)
        if name in self.values:
            return self.values[name]
        try:
            written = self.manifest.named(name)
        except KeyError:
            return None
        return written if written.status == "filled" else None


# On the module itself, so that copies of it have it too, as a pipeline makes them for its stages.
_RECIPE = "_fastinit_recipe"


def attach(model: nn.Module, recipe: Recipe) -> None:
    """Keep a recipe with the model that it is for."""
    vars(model)[_RECIPE] = recipe


def attached(model: nn.Module) -> Recipe | None:
    """The recipe of a model built on meta, or of the one that wrappers stand around.

    Raises:
        ValueError: a part of the model has one, under another name there.
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
    """Forget the recipe, which has been followed."""
    for _, module in walk(model):
        vars(module).pop(_RECIPE, None)
