"""The registry: what `register_module`, `get` and `build` accept and refuse."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import fastinit
from fastinit import WEIGHT_INITIALIZERS
from fastinit.init_cfg.registry import Registry


class Thing:
    def __init__(self, size: int = 1) -> None:
        self.size = size


class Other:
    pass


class Between(Thing):
    pass


class Heir(Between):
    def __init__(self, colour: str = "red", **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Fails:
    def __init__(self, size: int = 1) -> None:
        made(other=size)  # type: ignore[call-arg]


def made() -> int:
    return 7


@pytest.fixture
def registry() -> Registry:
    return Registry("thing")


class TestRegister:
    def test_decorator_takes_the_name_of_the_class(self, registry: Registry) -> None:
        assert registry.register_module()(Thing) is Thing
        assert registry.get("Thing") is Thing

    @pytest.mark.parametrize("name", ["Mine", ["Mine"], ("Mine", "Yours")])
    def test_decorator_with_a_name(self, registry: Registry, name: Any) -> None:
        registry.register_module(name=name)(Thing)
        names = [name] if isinstance(name, str) else list(name)
        assert registry.module_dict == dict.fromkeys(names, Thing)

    def test_plain_call(self, registry: Registry) -> None:
        assert registry.register_module(name="Mine", module=Thing) is Thing
        assert registry.get("Mine") is Thing

    def test_functions_count(self, registry: Registry) -> None:
        @registry.register_module()
        def make() -> int:
            return 7

        assert registry.build({"type": "make"}) == 7

    def test_a_taken_name_is_an_error_and_nothing_is_registered(self, registry: Registry) -> None:
        registry.register_module(module=Thing)
        with pytest.raises(KeyError, match="force=True"):
            registry.register_module(name=["New", "Thing"], module=Other)
        assert registry.module_dict == {"Thing": Thing}

    def test_force_replaces(self, registry: Registry) -> None:
        registry.register_module(module=Thing)
        registry.register_module(name="Thing", force=True, module=Other)
        assert registry.get("Thing") is Other

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"force": 1}, "force must be True or False, got 1"),
            ({"name": 3}, "name must be a str or a sequence of str, got 3"),
            ({"name": ["a", 3]}, "name must be a str"),
            ({"module": 3}, "a thing must be callable, got 3"),
            ({"name": Thing}, r"write register_module\(\) with parentheses"),
        ],
    )
    def test_wrong_types(self, registry: Registry, arguments: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            registry.register_module(**arguments)


class TestLookUp:
    def test_len_contains_repr(self, registry: Registry) -> None:
        registry.register_module(name=["B", "A"], module=Thing)
        assert len(registry) == 2
        assert "A" in registry
        assert "C" not in registry
        assert repr(registry) == "Registry('thing': A, B)"

    def test_get_of_an_unknown_name(self, registry: Registry) -> None:
        assert registry.get("Thing") is None

    def test_without_mmengine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "mmengine.registry", raising=False)
        assert WEIGHT_INITIALIZERS.get("mmengine.Normal") is fastinit.NormalInit
        with pytest.raises(KeyError, match="no weight initializer is called 'Normall'"):
            WEIGHT_INITIALIZERS.build({"type": "Normall"})

    def test_get_wants_a_str(self, registry: Registry) -> None:
        with pytest.raises(TypeError, match="looked up by a str, not by 3"):
            registry.get(3)  # type: ignore[arg-type]


class TestBuild:
    @pytest.mark.parametrize("kind", ["Thing", Thing])
    def test_by_name_or_class(self, registry: Registry, kind: Any) -> None:
        registry.register_module(module=Thing)
        cfg = {"type": kind, "size": 3}
        assert registry.build(cfg).size == 3
        assert cfg == {"type": kind, "size": 3}

    @pytest.mark.parametrize(
        ("cfg", "error", "message"),
        [
            ("Thing", TypeError, "built from a dict, got 'Thing'"),
            ({}, KeyError, "needs the key 'type', one of 'Thing'"),
            ({"type": "Thin"}, KeyError, "no thing is called 'Thin'.*did you mean 'Thing'"),
            ({"type": "Zebra"}, KeyError, "Registered are 'Thing'"),
            ({"type": 3}, TypeError, "must be a registered name or a callable, got 3"),
            ({"type": None}, TypeError, "must be a registered name or a callable, got None"),
            ({"type": "Thing", "sise": 3}, TypeError, "'sise'.*while building"),
            ({"type": Heir, "sise": 3}, TypeError, "no 'sise'; did you mean 'size'.*colour, size"),
            ({"type": made, "sise": 3}, TypeError, r"made\(\) got an unexpected.*while building"),
            ({"type": Fails, "size": 3}, TypeError, r"made\(\) got an unexpected.*'other'"),
            ({"type": Thing, "sise": 3, "override": 1}, TypeError, "got an unexpected.*'sise'"),
        ],
    )
    def test_mistakes(self, registry: Registry, cfg: Any, error: Any, message: str) -> None:
        registry.register_module(module=Thing)
        with pytest.raises(error, match=message):
            registry.build(cfg)


def test_the_initializers() -> None:
    standard = {"Constant", "Xavier", "Normal", "TruncNormal", "Uniform", "Kaiming"}
    for name in standard | {"Caffe2Xavier", "Pretrained"}:
        assert WEIGHT_INITIALIZERS.module_dict[name].__name__ == f"{name}Init"
