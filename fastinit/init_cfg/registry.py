"""The registry of initializers, in which an init_cfg finds one by its `type`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

Factory = Callable[..., Any]
_F = TypeVar("_F", bound=Factory)


class Registry:
    """A registry of callables by name, such as `fastinit.WEIGHT_INITIALIZERS`.

    Args:
        name: a name for the entries, in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.module_dict: dict[str, Factory] = {}

    def __len__(self) -> int:
        return len(self.module_dict)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __repr__(self) -> str:
        return f"Registry({self.name!r}: {', '.join(sorted(self.module_dict))})"

    def get(self, key: str) -> Factory | None:
        """Return the entry registered as `key`, or None.

        A name that begins with `mmengine.` means ours; what is not here is looked for in mmengine's
        registry and those of its scopes, if mmengine is imported.

        Raises:
            TypeError: `key` is not a string.
        """
        if not isinstance(key, str):
            raise TypeError(f"a {self.name} is looked up by a str, not by {key!r}")
        found = self.module_dict.get(key)
        if found is None:
            found = self.module_dict.get(key.removeprefix("mmengine.")) or _of_mmengine(key)
        return found

    def register_module(
        self, name: str | Sequence[str] | None = None, force: bool = False, module: Any = None
    ) -> Any:
        """Register a class or function: `@registry.register_module(name="Mine")`, or a plain call
        with `module=`.

        Args:
            name: its name or names; by default its `__name__`.
            force: replace an entry that already has the name.
            module: the class or function; by default a decorator is returned.

        Returns:
            `module`, or a decorator that returns its argument.

        Raises:
            KeyError: the name is taken and `force` is False; nothing is registered.
            TypeError: an argument of another type, or a `module` that is not callable.
        """
        if not isinstance(force, bool):
            raise TypeError(f"force must be True or False, got {force!r}")
        if name is not None and not is_names(name):
            raise TypeError(
                f"name must be a str or a sequence of str, got {name!r}; as a decorator, write "
                "register_module() with parentheses"
            )

        def register(entry: _F) -> _F:
            self._add(entry, name, force)
            return entry

        return register if module is None else register(module)

    def _add(self, entry: Factory, name: str | Sequence[str] | None, force: bool) -> None:
        if not callable(entry):
            raise TypeError(f"a {self.name} must be callable, got {entry!r}")
        if name is None:
            name = entry.__name__
        names = [name] if isinstance(name, str) else list(name)
        for taken in self.module_dict.keys() & set(names):
            if not force:
                raise KeyError(
                    f"{taken!r} is already registered as a {self.name}, by "
                    f"{self.module_dict[taken]!r}; pass force=True to replace it"
                )
        self.module_dict.update(dict.fromkeys(names, entry))

    def build(self, cfg: dict[str, Any]) -> Any:
        """Call the entry that `cfg["type"]` names, with the rest of `cfg` as keyword arguments.

        Args:
            cfg: its `type` is a registered name, or any callable; not modified. `_scope_` names a
                scope of mmengine's, in which the name is looked for first.

        Raises:
            KeyError: no `type`, or a name that is not registered.
            TypeError: `cfg` is no dict, `type` is neither a string nor callable, or the entry
                refuses the arguments.
        """
        if not isinstance(cfg, dict):
            raise TypeError(f"a {self.name} is built from a dict, got {cfg!r}")
        if "type" not in cfg:
            raise KeyError(f"{cfg} needs the key 'type', one of {self._names()}")
        arguments = cfg.copy()
        kind = arguments.pop("type")
        scope = arguments.pop("_scope_", None)  # mmengine's key: where it is looked for first
        if scope is not None and isinstance(kind, str) and f"{scope}.{kind}" in self:
            kind = f"{scope}.{kind}"
        factory = kind
        if isinstance(kind, str):
            factory = self.get(kind)
            if factory is None:
                raise KeyError(self._unknown(kind, cfg))
        elif not callable(kind):
            raise TypeError(
                f"'type' must be a registered name or a callable, got {kind!r} in {cfg}"
            )
        try:
            return factory(**arguments)
        except TypeError as error:
            if type(error) is not TypeError:
                raise
            told = None
            if "unexpected keyword argument" in str(error):
                told = _unexpected(factory, kind, arguments)
            raise TypeError(f"{told or error}; while building {cfg}") from error

    def _names(self) -> str:
        return ", ".join(map(repr, sorted(self.module_dict)))

    def _unknown(self, kind: str, cfg: dict[str, Any]) -> str:
        close = get_close_matches(kind, self.module_dict, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        return (
            f"no {self.name} is called {kind!r}, which {cfg} asks for{hint} Registered are "
            f"{self._names()}. Register your own with `register_module`, or pass it as 'type'"
        )


def _unexpected(factory: Any, kind: Any, given: dict[str, Any]) -> str | None:
    """Return what to say of an argument that a class does not take; None if all are known."""
    if not isinstance(factory, type):
        return None
    known: list[str] = []
    for each in factory.__mro__:
        own = vars(each).get("__init__")
        if not inspect.isfunction(own):
            continue
        parameters = inspect.signature(own).parameters.values()
        known += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    known = [name for name in dict.fromkeys(known) if name != "self"]
    name = next((name for name in given if name not in known), None)
    if name is None or "override" in given:
        return None
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{kind} takes no {name!r}{hint} It takes {', '.join(known)}"


def _of_mmengine(key: str) -> Factory | None:
    registries: Any = sys.modules.get("mmengine.registry")
    if registries is None:
        return None
    root = registries.WEIGHT_INITIALIZERS
    scope, has_scope, _ = key.partition(".")
    is_known = key in root.module_dict or (has_scope and scope in {"mmengine", *root.children})
    found: Factory | None = root.get(key) if is_known else None
    return found


def is_names(value: Any) -> bool:
    """Whether a value is a string or a sequence of strings."""
    if isinstance(value, str):
        return True
    return isinstance(value, Sequence) and all(isinstance(item, str) for item in value)


WEIGHT_INITIALIZERS = Registry("weight initializer")
