"""Modules that initialise themselves: `init_cfg` and `init_weights`."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import warnings
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from fastinit.capture.opened import initializing, opened
from fastinit.init_cfg import report
from fastinit.init_cfg.base import is_walked
from fastinit.init_cfg.mixed import INFO, ParamsInitInfo, Stamps, hand_over
from fastinit.init_cfg.rules import Rule, initialize, is_loading
from fastinit.kernels.native import _C, is_native
from fastinit.log import logger
from fastinit.plan.current import current, initialization_of
from fastinit.plan.provenance import Initialization
from fastinit.tensors.walk import WRAPPERS, Modules, walk
from fastinit.warning import NotInitializedWarning, OverwrittenWarning

InitCfg = Rule | list[Rule] | None


class BaseModule(nn.Module, metaclass=ABCMeta):
    """A module that initialises itself by its `init_cfg`.

    Args:
        init_cfg: a rule or a list of rules, see `fastinit.initialize`; by default none.

    Attributes:
        init_cfg: a copy of the argument.
    """

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        _join_mmengine()
        self._is_init = False
        self.init_cfg: Any = copy.deepcopy(init_cfg)

    @property
    def is_init(self) -> bool:
        """Whether `init_weights` has run. Set it to False to let it run again."""
        return self._is_init

    @is_init.setter
    def is_init(self, value: bool) -> None:
        self._is_init = value

    @property
    def _params_init_info(self) -> Any:
        """What mmengine's `update_init_info` looks for: its own, in a model of mmengine's; else
        ours, while an `init_weights` runs."""
        if INFO in vars(self):
            return vars(self)[INFO]
        if (running := initialization_of(self)) is None:
            raise AttributeError("_params_init_info is there while an init_weights runs")
        return ParamsInitInfo(running)

    @_params_init_info.setter
    def _params_init_info(self, value: Any) -> None:
        vars(self)[INFO] = value

    @_params_init_info.deleter
    def _params_init_info(self) -> None:
        del vars(self)[INFO]

    def init_weights(self, *, force: bool = False) -> None:
        """Initialise the module and its children.

        The module's own rules come first, then the `init_weights` of each child that has one and
        has not run yet, so that children win over parents, and last the module's own `Pretrained`
        rules. A second call does nothing but log a warning, unless it is forced. A subclass may
        override this method, with or without calling it.

        The call on the root of a model is one fill, and reports who wrote what to the logger
        "fastinit". If it raises, nothing that is pending is written and every `is_init` in the
        model is restored; except inside `fused`, where what is pending is written at the end of
        that block, and on the torch backend, where what was written stays.

        DTensors are filled as `fastinit.fused` says: each shard has the values that this part of
        the whole model would have, and all ranks have to make the call.

        Args:
            force: initialise again what has been initialised, the children too. (Setting `is_init`
                to False means one module.)

        Raises:
            TypeError: an `init_cfg` that is neither a dict nor a list.
            AssertionError: a rule that is not a dict.
            KeyError: a rule without `type`.
            Exception: whatever `fastinit.initialize` and the children raise.
        """
        running = initialization_of(self)
        if running is not None:
            if force:
                _forget(walk(self))
            _init_weights(self, running)
            return
        modules = walk(self)
        with restoring(modules), initializing(self, modules) as initialization:
            if force:
                _forget(modules)
            _init_weights(self, initialization)
            initialization.check()
        _warn_of_surprises(initialization)
        if not hand_over(initialization, self):
            report.dump(initialization)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("init_weights")
        if inspect.isfunction(own):
            cls.init_weights = _planned(own)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        text = super().__repr__()
        return f"{text}\ninit_cfg={self.init_cfg}" if self.init_cfg else text


class Sequential(BaseModule, nn.Sequential):
    """`nn.Sequential` with an `init_cfg`, a keyword argument."""

    def __init__(self, *args: Any, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.Sequential.__init__(self, *args)


class ModuleList(BaseModule, nn.ModuleList):
    """`nn.ModuleList` with an `init_cfg`."""

    def __init__(
        self, modules: Iterable[nn.Module] | None = None, init_cfg: InitCfg = None
    ) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleList.__init__(self, modules)


class ModuleDict(BaseModule, nn.ModuleDict):
    """`nn.ModuleDict` with an `init_cfg`."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module] | Iterable[tuple[str, nn.Module]] | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleDict.__init__(self, modules)  # type: ignore[arg-type]


def _join_mmengine() -> None:
    """Let our BaseModule count as mmengine's, where that is imported: code that asks `isinstance`
    means its protocol, `init_cfg` and `init_weights`, which is the same."""
    theirs = sys.modules.get("mmengine.model.base_module")
    if theirs is not None and not issubclass(BaseModule, theirs.BaseModule):
        theirs.BaseModule.register(BaseModule)


def reinitialize(module: nn.Module) -> None:
    """Call a module's `init_weights`, whether it and its children have been initialised or not.

    Args:
        module: any module with an `init_weights` that takes no arguments, of mmengine too.

    Raises:
        AttributeError: it has none.
        Exception: what `init_weights` raises; then every `is_init` is as it was.
    """
    if not callable(own := getattr(module, "init_weights", None)):
        raise AttributeError(f"reinitialize: {type(module).__name__} has no init_weights")
    modules = walk(module)
    with restoring(modules):
        _forget(modules)
        own()


def _forget(modules: Modules) -> None:
    """Count modules as not initialised."""
    for _, module in modules:
        if getattr(module, "is_init", False) is True:
            module.is_init = False  # type: ignore[assignment]


def _planned(init_weights: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a subclass's `init_weights`, so that its code outside `super()` runs in the plan too."""

    @functools.wraps(init_weights)
    def planned(self: BaseModule, *args: Any, **kwargs: Any) -> Any:
        if current() is not None:
            with opened(self):
                return init_weights(self, *args, **kwargs)
        modules = walk(self)
        stamps = Stamps(self)
        with restoring(modules), opened(self, modules):
            found = init_weights(self, *args, **kwargs)
            stamps.look()
        stamps.settle()
        return found

    return planned


def _warn_of_surprises(initialization: Initialization) -> None:
    """Warn of pretrained parameters that were overwritten, and of modules that were not reached."""
    for name, (loaded, by) in initialization.overwritten.items():
        warnings.warn(
            f"the pretrained {name} ({loaded}) was overwritten ({by.strip()}); give Pretrained as "
            "a rule of its own, and write nothing after `super().init_weights()` that it loads",
            OverwrittenWarning,
            stacklevel=3,
        )
    kinds = {
        kind
        for kind in set(map(type, initialization.modules))
        if issubclass(kind, BaseModule) and kind.init_weights is BaseModule.init_weights
    }
    for module in initialization.modules:
        if _has_idle_cfg(module):
            of_it = (n for n, m in initialization.root.named_modules() if m is module)
            warnings.warn(
                f"the init_cfg of {next(of_it, '?')} was not applied: a {type(module).__name__} is "
                "no BaseModule, and has no init_weights; derive it from fastinit.BaseModule",
                NotInitializedWarning,
                stacklevel=3,
            )
    unreached = {
        id(module)
        for module in initialization.modules
        if type(module) in kinds and getattr(module, "init_cfg", None) and not module.is_init
    }
    if not unreached:
        return
    names = [n for n, m in initialization.root.named_modules() if id(m) in unreached]
    if names:
        warnings.warn(
            f"the init_cfg of {', '.join(names)} was not applied: a BaseModule is only reached "
            "through BaseModules; use fastinit.Sequential, ModuleList or ModuleDict around it",
            NotInitializedWarning,
            stacklevel=3,
        )


def _has_idle_cfg(module: nn.Module) -> bool:
    """Whether a module that is none of ours, nor of mmengine's, has rules that nobody looks for."""
    cfg = vars(module).get("init_cfg")
    if not cfg or hasattr(module, "init_weights"):
        return False
    rules = cfg if isinstance(cfg, list) else [cfg]
    return all(isinstance(rule, dict) and "type" in rule for rule in rules)


def _init_weights(module: BaseModule, running: Initialization) -> None:
    """Carry out `init_weights` of a module, and of children that do not override it: on a stack of
    our own, because models may be nested deeper than Python's calls."""
    stack = [_steps(module, running)]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
        else:
            stack.append(_steps(child, running))


def _steps(module: BaseModule, running: Initialization) -> Iterator[BaseModule]:
    """Initialise a module, and yield children that the caller has to initialise meanwhile."""
    name = type(module).__name__
    if module._is_init:
        logger.warning("init_weights of %s has been called more than once.", name)
        return
    if module.init_cfg:
        logger.debug("initialize %s with init_cfg %s", name, module.init_cfg)
    with _naming(module, running):
        first, pretrained = _split(module)
        initialize(module, first)
    for child in _children_to_initialise(module):
        kind: Any = type(child)
        if not getattr(child, "is_init", False):
            is_ours = getattr(kind, "init_weights", None) is BaseModule.init_weights
            is_plain = is_ours and "init_weights" not in vars(child)
            if is_plain and initialization_of(child) is running:
                yield cast(BaseModule, child)
            else:
                child.init_weights()  # type: ignore[operator]
            # A text for writes that the child's rules were not credited with.
            running.update(
                child, f"Initialized by user-defined `init_weights` in {type(child).__name__} "
            )
    with _naming(module, running):
        initialize(module, pretrained)
    module._is_init = True


@contextmanager
def _naming(module: BaseModule, running: Initialization) -> Iterator[None]:
    """Tell with an error whose init_cfg it is of, where Python has notes (3.11)."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "add_note") and module is not running.root:
            names = (name for name, each in running.root.named_modules() if each is module)
            error.add_note(
                f"in the init_cfg of {next(names, '?')!r}, a {type(module).__name__}, of "
                f"{type(running.root).__name__}"
            )
        raise


def _children_to_initialise(module: nn.Module) -> Iterable[nn.Module]:
    """Return the children with an `init_weights`, or what they wrap."""
    kind: Any = type(module)
    children: Iterable[nn.Module] = module.children()
    if _C is not None and is_walked(kind):
        children = _C.children_with(module, "init_weights", _may_have_init_weights)
    return (child for child in map(_unwrapped, children) if hasattr(child, "init_weights"))


def _unwrapped(child: nn.Module) -> nn.Module:
    if not hasattr(child, "init_weights") and isinstance(child, WRAPPERS):
        return cast(nn.Module, child.module)
    return child


@functools.lru_cache(maxsize=1 << 10)
def _may_have_init_weights(kind: Any) -> bool:
    """Whether all instances of a class have an `init_weights`, or what they have is not only in
    their own dictionaries."""
    is_torchs = kind.__getattr__ is nn.Module.__getattr__
    return hasattr(kind, "init_weights") or not is_torchs or issubclass(kind, WRAPPERS)


def _split(module: BaseModule) -> tuple[list[Rule], list[Rule]]:
    """Return the rules of a module in two lists: all but Pretrained, and Pretrained."""
    cfg = module.init_cfg
    if not cfg:
        return [], []
    if isinstance(cfg, dict):
        cfg = [cfg]
    elif not isinstance(cfg, Iterable):
        raise TypeError(
            f"init_cfg of {type(module).__name__} must be a dict or a list, got {cfg!r}"
        )
    first: list[Rule] = []
    pretrained: list[Rule] = []
    if isinstance(cfg, str):
        raise AssertionError(
            f"init_cfg of {type(module).__name__} must be a dict or a list of dicts, got {cfg!r}; "
            f"write dict(type={cfg!r}, layer=...)"
        )
    for rule in cfg:
        if not isinstance(rule, dict):
            raise AssertionError(
                f"init_cfg of {type(module).__name__} must be a dict or a list of dicts, but it "
                f"holds {rule!r}"
            )
        if "type" not in rule:
            raise KeyError(f"the rule {rule} in init_cfg of {type(module).__name__} has no 'type'")
        (pretrained if is_loading(rule["type"]) else first).append(rule)
    return first, pretrained


@contextmanager
def restoring(modules: Modules) -> Iterator[None]:
    """Restore `is_init` of the modules if the block raises, as the plan drops what is pending.

    The block is around the plan, because its fill, at the very end, may be interrupted too.
    """
    plan = current()
    deferring = is_native() if plan is None else plan.deferring
    kinds = {kind for kind in {type(m) for _, m in modules} if hasattr(kind, "is_init")}
    flagged = [m for _, m in modules if type(m) in kinds or "is_init" in vars(m)]
    before = [(m, m.is_init) for m in flagged if hasattr(m, "is_init")]
    try:
        yield
    except BaseException:
        if deferring:
            for module, flag in before:
                if module.is_init is not flag:
                    module.is_init = flag
        raise
