"""Pretrained weights: which files are read, what fits where, and that errors change nothing."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import fastinit
from fastinit import initialize
from fastinit.checkpoint.load import load_pretrained


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 1)


def saved() -> OrderedDict[str, Tensor]:
    torch.manual_seed(4)
    source = Net()
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    source.body[1].running_mean.fill_(6)
    return source.state_dict()


def differing(net: nn.Module, expected: dict[str, Tensor]) -> list[str]:
    state = net.state_dict()
    return [name for name, t in expected.items() if not torch.equal(state[name], t)]


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> Any:
    return lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


class TestFiles:
    @pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors", "no_extension"])
    @pytest.mark.parametrize("as_path", [True, False])
    def test_kinds(self, tmp_path: Path, name: str, as_path: bool, warnings_logged: Any) -> None:
        path = tmp_path / name
        (safetensors.torch.save_file if "safe" in name else torch.save)(saved(), path)
        net = Net()
        load_pretrained(net, path if as_path else str(path))
        assert differing(net, saved()) == []
        assert warnings_logged() == []

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"state_dict": state, "meta": {"epoch": 3}},
            lambda state: {f"module.{name}": t for name, t in state.items()},
            lambda state: {"state_dict": {f"module.{n}": t for n, t in state.items()}},
        ],
        ids=["state_dict", "module.", "both"],
    )
    def test_layouts(self, tmp_path: Path, wrap: Any, warnings_logged: Any) -> None:
        torch.save(wrap(saved()), tmp_path / "a.pth")
        net = Net()
        load_pretrained(net, tmp_path / "a.pth")
        assert differing(net, saved()) == []
        assert warnings_logged() == []

    @pytest.mark.parametrize("prefix", ["net.model", "net.model."])
    def test_prefix(self, tmp_path: Path, prefix: str, warnings_logged: Any) -> None:
        state = {f"net.model.{name}": t for name, t in saved().items()}
        torch.save({"state_dict": state | {"net.models.x": torch.ones(1)}}, tmp_path / "a.pth")
        net = Net()
        load_pretrained(net, tmp_path / "a.pth", prefix)
        assert differing(net, saved()) == []
        assert warnings_logged() == []

    def test_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        torch.save(saved(), tmp_path / "a.pth")
        net = Net()
        load_pretrained(net, "~/a.pth")
        assert differing(net, saved()) == []

    def test_dtype_is_that_of_the_module(self, tmp_path: Path) -> None:
        torch.save(saved(), tmp_path / "a.pth")
        net = Net().double()
        load_pretrained(net, tmp_path / "a.pth")
        assert (
            differing(net, {n: t.double() for n, t in saved().items() if t.is_floating_point()})
            == []
        )

    @pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
    @pytest.mark.parametrize("where", [None, "cpu", torch.device("cpu")])
    def test_map_location(self, tmp_path: Path, name: str, where: Any) -> None:
        path = tmp_path / name
        (safetensors.torch.save_file if "safe" in name else torch.save)(saved(), path)
        net = Net()
        load_pretrained(net, path, map_location=where)
        assert differing(net, saved()) == []


class TestFit:
    """The entries that do not fit are left out, and the log says which."""

    def load(self, tmp_path: Path, state: Any, net: nn.Module | None = None) -> nn.Module:
        torch.save(state, tmp_path / "a.pth")
        net = Net() if net is None else net
        load_pretrained(net, tmp_path / "a.pth")
        return net

    def test_missing(self, tmp_path: Path, warnings_logged: Any) -> None:
        state = saved()
        del state["head.weight"], state["body.1.num_batches_tracked"]
        self.load(tmp_path, state)
        (message,) = warnings_logged()
        assert message.endswith(
            "a.pth does not fit Net exactly:\nnot in the checkpoint: head.weight"
        )

    def test_only_num_batches_tracked_missing(self, tmp_path: Path, warnings_logged: Any) -> None:
        state = saved()
        del state["body.1.num_batches_tracked"]
        self.load(tmp_path, state)
        assert warnings_logged() == []

    def test_unexpected(self, tmp_path: Path, warnings_logged: Any) -> None:
        net = self.load(tmp_path, saved() | {"tail.weight": torch.ones(1), "epoch": 3})
        assert differing(net, saved()) == []
        assert "not in the model: tail.weight, epoch" in warnings_logged()[0]

    def test_other_shape(self, tmp_path: Path, warnings_logged: Any) -> None:
        net = Net()
        before = net.head.weight.detach().clone()
        self.load(tmp_path, saved() | {"head.weight": torch.ones(4, 3)}, net)
        assert torch.equal(net.head.weight, before)
        assert differing(net, saved()) == ["head.weight"]
        assert "size mismatch for head.weight" in warnings_logged()[0]

    def test_not_a_tensor(self, tmp_path: Path, warnings_logged: Any) -> None:
        net = self.load(tmp_path, saved() | {"head.weight": 3})
        assert differing(net, saved()) == ["head.weight"]
        assert '"head.weight"' in warnings_logged()[0]

    def test_other_ranks_are_silent(
        self, tmp_path: Path, warnings_logged: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        self.load(tmp_path, {"x": torch.ones(1), "head.bias": torch.ones(1)})
        assert warnings_logged() == []

    @pytest.mark.parametrize("wrap", [lambda n: n, nn.DataParallel], ids=["plain", "parallel"])
    def test_wrappers_are_looked_through(
        self, tmp_path: Path, wrap: Any, warnings_logged: Any
    ) -> None:
        net = Net()
        net.body = wrap(net.body)
        self.load(tmp_path, saved(), wrap(net))
        assert warnings_logged() == []
        assert torch.equal(net.head.weight, saved()["head.weight"])

    def test_modules_upgrade_old_entries(self, tmp_path: Path, warnings_logged: Any) -> None:
        class Renamed(nn.Linear):
            _version = 2

            def _load_from_state_dict(self, state: Any, prefix: str, meta: Any, *rest: Any) -> None:
                if meta.get("version", 1) < 2:
                    state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")
                super()._load_from_state_dict(state, prefix, meta, *rest)

        old = OrderedDict(kernel=torch.ones(2, 2), bias=torch.ones(2))
        net = self.load(tmp_path, old, Renamed(2, 2))
        assert bool((net.weight == 1).all())
        new = net.state_dict()
        assert new._metadata[""]["version"] == 2
        new["weight"].fill_(3)
        assert bool((self.load(tmp_path, new, Renamed(2, 2)).weight == 3).all())
        assert warnings_logged() == []

    def test_post_hooks(self, tmp_path: Path, warnings_logged: Any) -> None:
        net = Net()
        net.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())
        self.load(tmp_path, {"head.bias": torch.ones(1)}, net)
        assert warnings_logged() == []
        net.register_load_state_dict_post_hook(lambda module, keys: keys)
        with pytest.raises(AssertionError, match="change its keys in place and return None"):
            self.load(tmp_path, {"head.bias": torch.ones(1)}, net)


BAD = [
    ("a.pth", lambda path: None, FileNotFoundError, "there is no checkpoint .*a.pth"),
    ("a.safetensors", lambda path: None, FileNotFoundError, "there is no checkpoint"),
    ("a.pth", lambda path: path.write_bytes(b""), RuntimeError, "it is empty"),
    ("a.pth", lambda path: path.write_bytes(b"hello"), RuntimeError, "begins with b'hello'"),
    ("a.safetensors", lambda path: path.write_bytes(b"hello"), RuntimeError, "is no checkpoint"),
    ("a.pth", lambda path: torch.save(torch.ones(2), path), RuntimeError, "holds no state dict"),
    ("a.pth", lambda path: torch.save({3: torch.ones(2)}, path), RuntimeError, "no state dict"),
    ("a.pth", lambda path: torch.save({"state_dict": 3}, path), RuntimeError, "holds no state di"),
]


class TestErrors:
    @pytest.mark.parametrize(("name", "write", "error", "message"), BAD)
    def test_change_nothing(
        self, tmp_path: Path, name: str, write: Any, error: Any, message: str
    ) -> None:
        write(tmp_path / name)
        net = Net()
        before = {key: t.clone() for key, t in net.state_dict().items()}
        rule = {"type": "Pretrained", "checkpoint": str(tmp_path / name)}
        with fastinit.backend("native"), pytest.raises(error, match=message):
            initialize(net, [{"type": "Constant", "layer": "Linear", "val": 1}, rule])
        assert differing(net, before) == []

    @pytest.mark.parametrize("kind", ["pth", "safetensors"])
    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
    def test_truncated_file(self, tmp_path: Path, kind: str, part: float) -> None:
        path = tmp_path / f"a.{kind}"
        (safetensors.torch.save_file if kind == "safetensors" else torch.save)(saved(), path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])
        net = Net()
        before = {key: t.clone() for key, t in net.state_dict().items()}
        with pytest.raises(RuntimeError, match="damaged"):
            load_pretrained(net, path)
        assert differing(net, before) == []

    def test_prefix_of_nothing(self, tmp_path: Path) -> None:
        torch.save(saved(), tmp_path / "a.pth")
        with pytest.raises(AssertionError, match=r"prefix 'tail.'; its names .* 'body', 'head'"):
            load_pretrained(Net(), tmp_path / "a.pth", "tail")

    def test_safetensors_map_location(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(saved(), tmp_path / "a.safetensors")
        with pytest.raises(TypeError, match="must be a device"):
            load_pretrained(Net(), tmp_path / "a.safetensors", map_location={"cuda:0": "cpu"})


def test_what_is_loaded_and_reported_is_mmengines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = saved() | {"head.weight": torch.ones(4, 3), "tail.x": torch.ones(1)}
    del state["body.0.bias"]
    torch.save(state, tmp_path / "a.pth")
    torch.manual_seed(1)
    theirs = Net()
    mmengine.runner.checkpoint.load_checkpoint(
        theirs, str(tmp_path / "a.pth"), map_location="cpu", logger=logging.getLogger("theirs")
    )
    torch.manual_seed(1)
    ours = Net()
    load_pretrained(ours, tmp_path / "a.pth")
    assert differing(ours, theirs.state_dict()) == []
    logs = {r.name: r.getMessage() for r in caplog.records if r.levelno == logging.WARNING}
    for named in ("tail.x", "body.0.bias", "size mismatch for head.weight"):
        assert named in logs["theirs"]
        assert named in logs["fastinit"]


def test_a_later_error_undoes_the_load(tmp_path: Path) -> None:
    """And what reads the loaded values before the end sees them."""
    path = tmp_path / "model.pth"
    torch.save({"0.weight": torch.ones(2, 2), "1.running_mean": torch.ones(2)}, path)
    seen = []

    class Net(fastinit.Sequential):
        def init_weights(self) -> None:
            fastinit.initialize(self, {"type": "Pretrained", "checkpoint": str(path)})
            seen.append(self[0].weight.sum().item())
            fastinit.initialize(self, {"type": "Pretrained", "checkpoint": str(path)})
            if len(seen) == 1:
                raise LookupError

    def model() -> Net:
        return Net(nn.Linear(2, 2), nn.BatchNorm1d(2))

    class Unread(fastinit.Sequential):
        def init_weights(self) -> None:
            fastinit.initialize(self, {"type": "Pretrained", "checkpoint": str(path)})
            raise LookupError

    unread = Unread(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in unread.state_dict().items()}
    with fastinit.backend("native"), pytest.raises(LookupError):
        unread.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in unread.state_dict().items())

    with fastinit.backend("native"), pytest.raises(LookupError):
        model().init_weights()
    assert seen == [4.0]
    loaded = model()
    loaded.init_weights()
    assert torch.equal(loaded[0].weight, torch.ones(2, 2))
    assert torch.equal(loaded[1].running_mean, torch.ones(2))
