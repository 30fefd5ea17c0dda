"""Pretrained weights: a checkpoint is found, read, and copied into a module where it fits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastinit.checkpoint import copying, keys, resize
from fastinit.checkpoint.read import read
from fastinit.checkpoint.sources import located
from fastinit.log import is_main_process, logger
from fastinit.tensors.walk import named_tensors, walk


def load_pretrained(
    module: nn.Module,
    checkpoint: str | os.PathLike[str],
    prefix: str | None = None,
    map_location: Any = "cpu",
    *,
    key: str | None = None,
    revise_keys: Sequence[tuple[str, str]] | None = None,
    strict: bool = False,
    interpolate_pos_embed: bool = False,
    adapt_input_conv: bool = False,
    checkpoint_sha256: str | None = None,
) -> None:
    """Load a checkpoint into a module. Entries that do not fit are skipped and logged as a warning.

    All of it is read, on the CPU mapped into memory, and seen by the module's own loading code,
    before the first parameter is written: an error leaves the module as it was. What the file
    overwrites whole is not drawn first.

    Args:
        module: receives parameters and buffers, in its own dtypes and on its own devices. Of
            DTensors each rank copies its part.
        checkpoint: a path or URL, see `sources.located`, of what `read.read` reads. It holds a
            state dict, or nested dicts with one, of which `state_dict` and `model` come first.
        prefix: load only the entries below this name, given with or without a trailing dot.
            `mmcls://` has `"backbone"` by default, as in mmengine.
        map_location: where to read to, as for `torch.load`; for safetensors a device or None.
        key: the nested dict that has the weights: `"ema"`, `"teacher"`, `"model.state_dict"`.
        revise_keys: pairs of a regular expression and its replacement, made in this order in the
            names of the file, after prefixes of wrappers (`module.`, `_orig_mod.`) are taken off.
        strict: raise for what does not fit.
        interpolate_pos_embed: resize position embeddings of square grids to those of the model.
        adapt_input_conv: fit weights of convolutions to the model's input channels.
        checkpoint_sha256: the hash that the file must have, or its first eight digits or more.

    Raises:
        FileNotFoundError, ModuleNotFoundError, OSError: see `sources.located`.
        ValueError: another hash, a source or `map_location` that is not there, `revise_keys` that
            are no pairs of texts, or two entries with one name.
        TypeError: a `map_location` that safetensors does not take.
        KeyError: no dict `key`.
        AssertionError: no name in the file has that prefix, or a post-hook returns something.
        pickle.UnpicklingError: the file holds what torch refuses.
        RuntimeError: the file is damaged or no checkpoint, holds no state dict, nothing in it fits,
            or something does not and `strict` is set.
    """
    where = os.fspath(checkpoint)
    logger.info("load %s from: %s", "model" if prefix is None else f"{prefix} in model", where)
    content = read(located(checkpoint, checkpoint_sha256), map_location)
    entries = keys.entries_in(content.tree, where, key)
    # Versions of the saved modules: some can upgrade old entries.
    metadata = getattr(entries, "_metadata", {})
    if prefix is None and where.startswith("mmcls://"):
        prefix = "backbone"
    if prefix is not None:
        entries, metadata = keys.below(prefix, entries, where), {}
    entries = content.take(entries)
    names = dict(named_tensors(walk(module)))
    state_dict = keys.renamed(entries, names, revise_keys)
    for name, value in state_dict.items():
        state_dict[name] = _fitted(
            name, value, names.get(name), interpolate_pos_embed, adapt_input_conv
        )
    outcome, writes = copying.prepare(module, state_dict, metadata)
    name = type(module).__name__
    lines = "\n".join(outcome.problems)
    if names and outcome.loaded == 0:
        if names.keys() & state_dict.keys():
            raise RuntimeError(f"nothing in {where!r} fits {name}, although names do:\n{lines}")
        others = keys.containers(content.tree)
        raise RuntimeError(keys.nothing_fits(where, name, state_dict, names, others))
    text = f"{where} does not fit {name} exactly:\n{lines}"
    if strict and outcome.problems:
        raise RuntimeError(text)
    writes.carry_out()
    if outcome.problems and is_main_process():
        logger.warning("%s", text)


def _fitted(name: str, value: Any, own: Tensor | None, positions: bool, channels: bool) -> Any:
    """Return an entry as the model can take it."""
    if not isinstance(value, Tensor):
        return value
    if value.is_quantized:
        value = value.dequantize()
    if own is None or value.shape == own.shape:
        return value
    resized = resize.position_embedding(name, value, own.shape) if positions else None
    if resized is None and channels:
        resized = resize.input_channels(value, own.shape)
    return value if resized is None else resized
