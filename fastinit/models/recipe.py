"""Where the values of a model without memory come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest, Written
from fastinit.tensors.names import walk


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


def is_meta(tensor: Tensor) -> bool:
    """Whether the tensor has no memory."""
    return tensor.device.type == "meta"


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor or parameter of the same geometry, class, attributes and hooks without memory; a
    whole plain one for a DTensor."""
    data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        kind = type(tensor) if issubclass(type(tensor), nn.Parameter) else nn.Parameter
        data = Tensor._make_subclass(kind, data, tensor.requires_grad)
    attributes(tensor)(data)
    return data


def attributes(tensor: Tensor) -> Callable[[Tensor], None]:
    """What users have hung on a tensor; call it on the one that takes its place."""
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    own, hooks = dict(vars(tensor)), {name: getattr(tensor, name) for name in names}

    def hang(target: Tensor) -> None:
        vars(target).update(own)
        for name, hook in hooks.items():
            if hook is not None:
                setattr(target, name, hook)

    return hang
