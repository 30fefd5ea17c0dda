"""Random module trees and init_cfgs, described once and built twice: with mmengine's classes and
with fastinit's.

A description is plain data. `Kit` turns it into modules; a class made by one kit has the same name
as its twin from the other, because `layer` matches names.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import mmengine.model
import mmengine.registry
import torch
from hypothesis import strategies as st
from torch import nn

import fastinit
import fastinit.init

LEAVES = {
    "linear": lambda: nn.Linear(3, 2),
    "unbiased": lambda: nn.Linear(2, 3, bias=False),
    "conv1d": lambda: nn.Conv1d(2, 3, 3),
    "conv2d": lambda: nn.Conv2d(2, 3, 2),
    "norm": lambda: nn.BatchNorm1d(3),
    "layernorm": lambda: nn.LayerNorm(3),
    "embedding": lambda: nn.Embedding(4, 3),
    "custom": lambda: MyLinear(3, 2),
    "grandchild": lambda: MyMyLinear(3, 2),
}
CONTAINERS = ("block", "Sequential", "ModuleList", "ModuleDict", "nn.Sequential", "plain")
RANDOM_CODE = ("nn.init", "kit.init", "from numpy")
USER_CODE = (*RANDOM_CODE, "data.fill_", "in place", "numpy", "super", "none")
OWNERS = ("BaseModule", "Module")


# `torch.manual_seed` without its detour to accelerators, which is slow.
SEED = torch.default_generator.manual_seed


class MyLinear(nn.Linear):
    """Matched by its own name and by Linear."""


class MyMyLinear(MyLinear):
    """Matched by its own name and by MyLinear, but not by Linear."""


@dataclass
class Node:
    """A module to build. `kind` is a key of LEAVES, one of CONTAINERS, "user" or "parallel"."""

    kind: str
    children: list[Node] = field(default_factory=list)
    init_cfg: Any = None
    user: tuple[str, str] = ("none", "BaseModule")  # what init_weights does, and the base class


@dataclass
class Tree:
    """`shared` and `tied` are pairs of positions in the list of leaves that the first takes over
    from the second: the whole module, or the weight alone."""

    root: Node
    shared: list[tuple[int, int]] = field(default_factory=list)
    tied: list[tuple[int, int]] = field(default_factory=list)


class Kit:
    """The classes of one library."""

    def __init__(self, library: Any, registry: Any, init: Any) -> None:
        self.library = library

        class Block(library.BaseModule):
            pass

        class User(library.BaseModule):
            def __init__(self, code: str, number: float, init_cfg: Any) -> None:
                super().__init__(init_cfg)
                self.code = code
                self.number = number
                self.linear = nn.Linear(3, 2)
                self.norm = nn.BatchNorm1d(3)

            def init_weights(self) -> None:
                if self.code in ("super", "in place"):
                    super().init_weights()
                run_user_code(self.code, self.number, self.linear, init)

        class PlainUser(nn.Module):
            def __init__(self, code: str, number: float) -> None:
                super().__init__()
                self.code = code
                self.number = number
                self.linear = nn.Linear(3, 2)

            def init_weights(self) -> None:
                run_user_code(self.code, self.number, self.linear, init)

        class Plain(nn.Module):
            pass

        @registry.register_module(name="TestCustom", force=True)
        class TestCustomInit(library.BaseInit):
            def __init__(self, scale: float = 1.0, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.scale = scale

            def __call__(self, module: nn.Module) -> None:
                def visit(m: nn.Module) -> None:
                    if self.wholemodule or type(m).__name__ in self.layer:
                        library.uniform_init(m, 0, self.scale, self.bias)

                module.apply(visit)
                if hasattr(module, "_params_init_info"):
                    library.update_init_info(module, self._get_init_info())

        self.Block, self.User, self.PlainUser, self.Plain = Block, User, PlainUser, Plain
        self.classes = {"CustomInit": TestCustomInit, **vars(library)}

    def build(self, tree: Tree, files: dict[str, str]) -> nn.Module:
        """The tree as modules, from a fixed seed. `files` replaces the names of checkpoints."""
        SEED(11)
        self._users = 0
        root = self._module(tree.root, files)
        places = [
            (parent, name)
            for parent in root.modules()
            for name, child in parent._modules.items()
            if type(child).__name__ in LEAF_CLASSES
        ]
        for one, other in tree.tied if places else []:
            (parent, name), (source, key) = (places[i % len(places)] for i in (one, other))
            weight = source._modules[key].weight
            if parent._modules[name].weight.shape == weight.shape:
                parent._modules[name].weight = weight
        for one, other in tree.shared if places else []:
            (parent, name), (source, key) = (places[i % len(places)] for i in (one, other))
            parent._modules[name] = source._modules[key]
        return root

    def cfg(self, description: Any, files: dict[str, str]) -> Any:
        """A description's init_cfg, with this kit's classes and the paths of the files."""
        if isinstance(description, list):
            return [self.cfg(each, files) for each in description]
        if not isinstance(description, dict):
            return copy.deepcopy(description)
        cfg = {key: self.cfg(value, files) for key, value in description.items()}
        if isinstance(cfg.get("type"), tuple):
            cfg["type"] = self.classes[cfg["type"][0]]
        if "checkpoint" in cfg:
            cfg["checkpoint"] = files.get(cfg["checkpoint"], cfg["checkpoint"])
        return cfg

    def _module(self, node: Node, files: dict[str, str]) -> nn.Module:
        if node.kind in LEAVES:
            return LEAVES[node.kind]()
        cfg = self.cfg(node.init_cfg, files)
        if node.kind == "user":
            code, owner = node.user
            self._users += 1
            if owner == "BaseModule":
                return self.User(code, 10.0 * self._users, cfg)
            return self.PlainUser(code, 10.0 * self._users)
        children = [self._module(child, files) for child in node.children]
        if node.kind == "parallel":
            return nn.DataParallel(children[0])
        named = {f"c{i}": child for i, child in enumerate(children)}
        if node.kind == "Sequential":
            return self.library.Sequential(*children, init_cfg=cfg)
        if node.kind == "ModuleList":
            return self.library.ModuleList(children, init_cfg=cfg)
        if node.kind == "ModuleDict":
            return self.library.ModuleDict(named, init_cfg=cfg)
        if node.kind == "nn.Sequential":
            return nn.Sequential(*children)
        module = self.Block(cfg) if node.kind == "block" else self.Plain()
        for name, child in named.items():
            module.add_module(name, child)
        return module


def run_user_code(code: str, number: float, linear: nn.Linear, init: Any) -> None:
    """The bodies of init_weights that users write; `number` is another for each module."""
    if code == "nn.init":
        nn.init.xavier_uniform_(linear.weight)
        nn.init.constant_(linear.bias, number)
    elif code == "kit.init":
        init.normal_(linear.weight, std=0.02)
        init.constant_(linear.bias, number)
    elif code == "data.fill_":
        linear.weight.data.fill_(number)
        linear.bias.data[0] = number + 1
    elif code == "in place":
        with torch.no_grad():
            linear.weight.mul_(1.5).add_(number)
            linear.bias -= number
    elif code == "numpy":
        array = linear.weight.detach().numpy()
        array[:] = array * 2 + number
    elif code == "from numpy":
        values = torch.rand(linear.weight.shape).numpy()
        linear.weight.data = torch.from_numpy(values)


MMENGINE = Kit(mmengine.model, mmengine.registry.WEIGHT_INITIALIZERS, torch.nn.init)
FASTINIT = Kit(fastinit, fastinit.WEIGHT_INITIALIZERS, fastinit.init)
LEAF_CLASSES = {type(make()).__name__ for make in LEAVES.values()}

LAYERS = [*sorted(LEAF_CLASSES), "Module", "_ConvNd", "Block", "Sequential", "BaseModule", "Nope"]
NAMES = ["c0", "c1", "0", "linear", "module", "nope", "forward", "weight", "training"]
FLOATS = st.floats(-2, 2, width=32)

ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "Constant": {"val": FLOATS},
    "Xavier": {"gain": FLOATS, "distribution": st.sampled_from(["normal", "uniform"])},
    "Normal": {"mean": FLOATS, "std": st.floats(0, 2, width=32)},
    "TruncNormal": {"mean": st.floats(-1, 1), "std": st.floats(0.5, 2)},
    "Uniform": {"a": st.floats(-3, 0), "b": st.floats(0, 3)},
    "Kaiming": {
        "a": FLOATS,
        "mode": st.sampled_from(["fan_in", "fan_out"]),
        "nonlinearity": st.sampled_from(["relu", "leaky_relu", "tanh"]),
        "distribution": st.sampled_from(["normal", "uniform"]),
    },
    "Caffe2Xavier": {},
    "TestCustom": {"scale": st.floats(0.5, 3)},
}
REQUIRED = {"Constant": {"val"}}


@dataclass(frozen=True)
class Options:
    """What a random rule may be made of."""

    types: tuple[str, ...] = tuple(ARGUMENTS)
    layers: tuple[str, ...] = tuple(LAYERS)
    names: tuple[str, ...] = tuple(NAMES)
    mistakes: bool = True
    unserved: bool = True
    pretrained: bool = True
    user_code: bool = True


@st.composite
def rules(draw: st.DrawFn, options: Options, *, inside_override: bool = False) -> dict[str, Any]:
    """One rule, or with `mistakes` sometimes a wrong one."""
    if options.pretrained and draw(st.integers(0, 9)) == 0:
        files = ["plain", "nested", "prefixed"] + ["missing"] * options.mistakes
        rule: dict[str, Any] = {"type": "Pretrained", "checkpoint": draw(st.sampled_from(files))}
        if draw(st.booleans()):
            rule["prefix"] = draw(st.sampled_from(["part", "part."] + ["no"] * options.mistakes))
        return rule
    kind = draw(st.sampled_from(options.types))
    arguments = ARGUMENTS[kind]
    chosen = {key for key in arguments if draw(st.booleans())} | REQUIRED.get(kind, set())
    rule = {"type": kind, **{key: draw(arguments[key]) for key in sorted(chosen)}}
    if draw(st.booleans()):
        rule["bias"] = draw(FLOATS)
    elif draw(st.integers(0, 3)) == 0:
        rule["bias_prob"] = draw(st.floats(0.05, 0.95))
    if not inside_override:
        some = st.lists(st.sampled_from(options.layers), min_size=1, max_size=3)
        rule["layer"] = draw(st.one_of(some, st.sampled_from(options.layers)))
        if draw(st.integers(0, 2)) == 0:
            one = overrides(options)
            rule["override"] = draw(st.one_of(one, st.lists(one, max_size=2)))
    if options.mistakes and draw(st.integers(0, 5)) == 0:
        draw(st.sampled_from(MISTAKES + UNSERVED * options.unserved))(rule)
    return rule


@st.composite
def overrides(draw: st.DrawFn, options: Options) -> dict[str, Any]:
    """An override by name, half of them with a rule of their own."""
    rule = draw(rules(options, inside_override=True)) if draw(st.booleans()) else {}
    rule["name"] = draw(st.sampled_from(options.names))
    return rule


def _set(**values: Any) -> Any:
    return lambda rule: rule.update(values)


def _drop(*keys: str) -> Any:
    return lambda rule: [rule.pop(key, None) for key in keys]


MISTAKES = [
    _drop("type"),
    _drop("layer"),
    _drop("val"),
    _drop("type", "layer"),
    _set(type="Kaimin"),
    _set(type=3),
    _set(type=None),
    _set(type=("KaimingInit",)),  # these three are right: a class instead of its name
    _set(type=("CustomInit",)),
    _set(type=("PretrainedInit",), checkpoint="plain"),
    _set(layer=("Linear",)),
    _set(layer=7),
    _set(layer=[["Linear"]]),
    _set(layer=[1, "Linear"]),
    _set(layer=[]),
    _set(bias="0"),
    _set(bias=None),
    _set(bias=[1.0]),
    _set(bias_prob=1),
    _set(bias_prob=0.0),
    _set(bias_prob="0.1"),
    _set(mode="fan_up"),
    _set(nonlinearity="cubic"),
    _set(distribution="triangular"),
    _set(distribution=None),
    _set(gain="high"),
    _set(foo=1),
    _set(override="c0"),
    _set(override=("c0",)),
    _set(override={}),
    _set(override=[{}]),
    _set(override=["c0"]),
    _set(override=[["c0"]]),
    _set(override=[None]),
    _set(override={"type": "Constant", "val": 1}),
    _set(override={"name": None}),
    _set(override={"name": 3}),
    _set(override={"name": "c0", "val": 3}),
    _set(override={"name": "c0", "type": "Constant"}),
    _set(override={"name": "nope"}),
    _set(override={"name": "c0", "type": "Normal", "override": {"name": "c0"}}),
    _set(override={"name": "c0", "type": "Normal", "layer": 3}),
    _set(override={"name": "c0", "type": "Kaiming"}),
    _set(std=-1.0),
    _set(std="wide"),
    _set(mean=None),
    _set(a=2, b=1),
    _set(val="one"),
    _set(val=None),
]
# What torch accepts and the kernels do not serve: torch writes it at once.
UNSERVED = [
    _set(bias=True),
    _set(bias=float("nan")),
]
NOT_CFGS = ["Kaiming", 5, ["Kaiming"], [None], {}, [], (), 0, ({"type": "Normal"},), True]


def cfgs(options: Options) -> st.SearchStrategy[Any]:
    """An init_cfg: nothing, a rule, several, or with `mistakes` something else."""
    rule = rules(options)
    several = st.lists(rule, min_size=2, max_size=3)
    possible = [st.none(), rule, several, several]
    if options.mistakes:
        mixed = st.lists(st.one_of(rule, st.sampled_from([None, "x", []])), max_size=2)
        possible.append(st.one_of(rule, rule, st.sampled_from(NOT_CFGS), mixed))
    return st.one_of(possible)


def nodes(options: Options, depth: int = 3) -> st.SearchStrategy[Node]:
    """A module with at most `depth` levels of containers below it."""
    leaf = st.builds(Node, st.sampled_from(sorted(LEAVES)))
    if depth == 0:
        return leaf
    inner = nodes(options, depth - 1)
    children = st.lists(inner, min_size=1, max_size=3)
    container = st.builds(Node, st.sampled_from(CONTAINERS), children, cfgs(options))
    parallel = st.builds(Node, st.just("parallel"), st.lists(inner, min_size=1, max_size=1))
    possible = [leaf, container, container, parallel]
    if options.user_code:
        user = st.tuples(st.sampled_from(USER_CODE), st.sampled_from(OWNERS))
        possible.append(st.builds(Node, st.just("user"), st.just([]), cfgs(options), user))
    return st.one_of(possible)


def trees(options: Options) -> st.SearchStrategy[Tree]:
    """A tree whose root has an `init_weights`."""
    root = st.builds(
        Node,
        st.sampled_from(["block", "block", "Sequential", "ModuleList", "ModuleDict"]),
        st.lists(nodes(options), min_size=1, max_size=3),
        cfgs(options),
    )
    pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2)
    return st.builds(Tree, root, pairs, pairs)
