"""Modules that tests initialise, and looks at what was written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastinit import BaseModule


class Own(BaseModule):
    """Its `init_weights` is its own, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.calls = 0

    def init_weights(self) -> None:
        self.calls += 1
        nn.init.constant_(self.linear.weight, 11.0)


class Foreign(nn.Module):
    """Not of ours, but with an `init_weights`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def init_weights(self) -> None:
        self.linear.weight.data.fill_(12.0)


class Net(BaseModule):
    """Any children under any rules."""

    def __init__(self, init_cfg: Any = None, **children: nn.Module) -> None:
        super().__init__(init_cfg)
        for name, child in children.items():
            self.add_module(name, child)


def net(**layers: nn.Module) -> nn.Module:
    """A plain module with these children."""
    root = nn.Module()
    for name, layer in layers.items():
        root.add_module(name, layer)
    return root


def llama(**changes: Any) -> nn.Module:
    """transformers' Llama with a padding row, small."""
    import transformers  # here, because it takes seconds

    sizes = dict(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=1000,
        pad_token_id=3,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | changes)))


def constants(module: nn.Module) -> dict[str, float | None]:
    """The value of every parameter, None for one that is not constant."""
    return {
        name: p.flatten()[0].item() if bool((p == p.flatten()[0]).all()) else None
        for name, p in module.named_parameters()
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def copied(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict().items()
    return {name: t.detach().clone() for name, t in state if isinstance(t, Tensor)}


def quiet(function: Callable[[], object]) -> None:
    """Call it; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function()
