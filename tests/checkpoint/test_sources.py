"""Where checkpoints come from. No test leaves the machine: a server on loopback, other tables."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint
import pytest
import safetensors.torch
import torch
from server import Server, serving
from torch import nn

import fastinit
from fastinit.checkpoint import download as downloading
from fastinit.checkpoint.download import download
from fastinit.checkpoint.sources import located


def content(value: float = 3.0) -> bytes:
    """Return a checkpoint of a Linear(2, 2), as a file."""
    file = io.BytesIO()
    torch.save({"weight": torch.full((2, 2), value), "bias": torch.zeros(2)}, file)
    return file.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(downloading, "_wait", lambda seconds: None)
    with serving() as state:
        state.files["/a.pth"] = content()
        yield state


def folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def left() -> list[str]:
    """Return what a failed download has left behind, but for locks."""
    return [p.name for p in folder().rglob("*") if p.is_file() and p.suffix != ".lock"]


class TestDownload:
    def test_once(self, server: Server) -> None:
        for _ in range(2):
            assert download(f"{server.url}/a.pth").read_bytes() == server.files["/a.pth"]
        assert server.asked == [("/a.pth", None)]
        assert left() == ["a.pth"]

    def test_redirected_and_with_a_query(self, server: Server) -> None:
        server.behave["/moved/a.pth"] = "redirect"
        path = download(f"{server.url}/moved/a.pth?download=true")
        assert path.name == "a.pth"
        assert path.read_bytes() == server.files["/a.pth"]

    def test_urls_with_one_name(self, server: Server) -> None:
        server.files["/other/a.pth"] = content(4)
        for name in ("/a.pth", "/other/a.pth"):
            assert download(f"{server.url}{name}").read_bytes() == server.files[name]

    @pytest.mark.parametrize(
        "name", ["/%2e%2e%2fevil.pth", "/..%5Cevil.pth", "/x/..%2f..%2fevil.pth"]
    )
    def test_names_stay_in_the_folder(self, server: Server, name: str) -> None:
        server.files[name] = content()
        path = download(f"{server.url}{name}")
        assert path.name == "evil.pth"
        assert folder() in path.parents
        assert ".." not in path.parts

    @pytest.mark.parametrize("name", ["", "/", "/..", "/%2e%2e", "/a/%2e"])
    def test_urls_without_a_file(self, server: Server, name: str) -> None:
        with pytest.raises(ValueError, match="names no file"):
            download(f"{server.url}{name}")

    @pytest.mark.parametrize("ranges", [True, False])
    def test_broken_off(self, server: Server, ranges: bool) -> None:
        """It goes on where it was, if the server can, and else from the beginning."""
        server.behave["/a.pth"], server.breaks["/a.pth"], server.ranges = 500, 2, ranges
        assert download(f"{server.url}/a.pth").read_bytes() == server.files["/a.pth"]
        assert [wanted for _, wanted in server.asked] == [
            None,
            "bytes=500-",
            "bytes=1000-" if ranges else "bytes=500-",
        ]

    def test_broken_off_again_and_again(self, server: Server) -> None:
        server.behave["/a.pth"], server.breaks["/a.pth"] = 10, 99
        with pytest.raises(OSError, match=r"could not be downloaded in 4 tries: 40 of .* bytes"):
            download(f"{server.url}/a.pth")
        assert left() == []

    def test_broken_off_and_nobody_knows(self, server: Server) -> None:
        """The server does not say how long the file is."""
        whole = safetensors.torch.save({"weight": torch.ones(40, 40)})
        server.files["/b.safetensors"] = whole
        server.tells_length = False
        server.behave["/b.safetensors"] = 1000
        with pytest.raises(RuntimeError, match=r"b.safetensors' is damaged, it may have broken"):
            download(f"{server.url}/b.safetensors")
        assert left() == []
        assert download(f"{server.url}/b.safetensors").read_bytes() == whole

    @pytest.mark.parametrize("code", ["404", "403"])
    def test_refused(self, server: Server, code: str) -> None:
        server.behave["/b.pth"] = code
        with pytest.raises(FileNotFoundError, match=f"b.pth': the server answers {code}"):
            download(f"{server.url}/b.pth")
        assert len(server.asked) == 1
        assert left() == []

    def test_a_page_is_not_kept(self, server: Server) -> None:
        server.behave["/a.pth"] = "page"
        with pytest.raises(RuntimeError, match="it is a page of HTML"):
            download(f"{server.url}/a.pth")
        assert left() == []
        del server.behave["/a.pth"]
        assert download(f"{server.url}/a.pth").read_bytes() == server.files["/a.pth"]

    def test_nobody_is_there(self, server: Server) -> None:
        with pytest.raises(OSError, match="could not be downloaded in 4 tries"):
            download("http://127.0.0.1:9/a.pth")

    def test_the_hash_in_a_name(self, server: Server) -> None:
        digest = hashlib.sha256(content()).hexdigest()
        names = (f"net-{digest[:8]}.pth", f"net-{digest}.pth", "mAP-0.384_x.pth", "n-20200101.pth")
        for name in names:
            server.files[f"/{name}"] = content()
            download(f"{server.url}/{name}")
        server.files["/net-00000000.pth"] = content()
        message = f"has the SHA-256 {digest}, not 00000000, by the digits at the end of its name"
        with pytest.raises(ValueError, match=message):
            download(f"{server.url}/net-00000000.pth")
        assert "net-00000000.pth" not in left()

    def test_the_hash_that_is_asked_for(self, server: Server) -> None:
        digest = hashlib.sha256(content()).hexdigest()
        with pytest.raises(ValueError, match="not 1111111111"):
            download(f"{server.url}/a.pth", "1" * 10)
        path = download(f"{server.url}/a.pth", digest)
        path.write_bytes(b"something else that is there")
        assert download(f"{server.url}/a.pth", digest).read_bytes() == content()

    @pytest.mark.parametrize("variable", ["FASTINIT_OFFLINE", "HF_HUB_OFFLINE"])
    def test_offline(self, server: Server, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, "1")
        with pytest.raises(FileNotFoundError, match=f"a.pth' in .* is not there, and {variable}"):
            download(f"{server.url}/a.pth")
        assert server.asked == []
        for source in ("s3://bucket/a.pth", "gs://bucket/a.pth", "petrel://a.pth"):
            with pytest.raises(FileNotFoundError, match=f"elsewhere, and {variable} keeps it"):
                located(source)
        monkeypatch.setenv(variable, "0")
        download(f"{server.url}/a.pth")
        monkeypatch.setenv(variable, "1")
        download(f"{server.url}/a.pth")
        with pytest.raises(FileNotFoundError, match=f"has another hash, and {variable} keeps"):
            download(f"{server.url}/a.pth", "0" * 64)

    def test_an_interrupt_leaves_nothing(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Interrupted(downloading._Bar):
            def __enter__(self) -> Any:
                raise KeyboardInterrupt

        monkeypatch.setattr(downloading, "_Bar", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            download(f"{server.url}/a.pth")
        assert left() == []

    def test_two_processes_at_once(self, server: Server) -> None:
        code = "import sys; from fastinit.checkpoint.download import download as d; d(sys.argv[1])"
        command = [sys.executable, "-c", code, f"{server.url}/a.pth"]
        server.delay.clear()
        running = [subprocess.Popen(command, env=dict(os.environ)) for _ in range(2)]
        threading.Timer(4, server.delay.set).start()
        assert [process.wait(60) for process in running] == [0, 0]
        assert server.asked == [("/a.pth", None)]


def test_a_rule_names_a_url(server: Server) -> None:
    linear = nn.Linear(2, 2)
    rule = {"type": "Pretrained", "checkpoint": f"{server.url}/a.pth"}
    fastinit.initialize(linear, rule)
    assert bool((linear.weight == 3).all())
    server.behave["/page.pth"] = "page"
    with pytest.raises(RuntimeError, match="it is a page of HTML or XML, such as a server's"):
        fastinit.initialize(linear, {**rule, "checkpoint": f"{server.url}/page.pth"})


class TestSchemes:
    def test_local(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a b.pth"
        path.write_bytes(content())
        assert located(path.as_uri()) == path
        assert located(path) == path
        assert located(tmp_path) == tmp_path
        quoted = tmp_path / "a%20b.pth"
        quoted.write_bytes(content(5))
        assert located(quoted.as_uri()) == quoted
        with pytest.raises(ValueError, match="names the machine 'store'; write file:///path"):
            located("file://store/a.pth")
        digest = hashlib.sha256(content()).hexdigest()
        assert located(path, digest[:8].upper()) == path
        for source in (path, path.as_uri()):
            with pytest.raises(ValueError, match=f"b.pth' has the SHA-256 {digest}, not 1111"):
                located(source, "1" * 64)
        with pytest.raises(ValueError, match=r"is of one file, and .* a folder"):
            located(tmp_path, digest)
        with pytest.raises(ValueError, match=r"checkpoint_sha256='123' is no SHA-256"):
            located(path, "123")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert located("~/a b.pth") == path
        with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*mean 'a b\.pth'"):
            located(tmp_path / "a-b.pth")

    @pytest.mark.parametrize("scheme", ["open-mmlab", "openmmlab"])
    def test_openmmlab(self, server: Server, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        tables = mmengine.runner.checkpoint
        monkeypatch.setattr(tables, "get_external_models", lambda: {"r50": f"{server.url}/a.pth"})
        monkeypatch.setattr(tables, "get_deprecated_model_names", lambda: {"old": "r50"})
        for name in ("r50", "old"):
            assert located(f"{scheme}://{name}").read_bytes() == content()
        with pytest.raises(FileNotFoundError, match=r"table has no 'r5', .*did you mean 'r50'"):
            located(f"{scheme}://r5")

    def test_mmcls_takes_the_backbone(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = io.BytesIO()
        state = {"backbone.weight": torch.full((2, 2), 7.0), "head.weight": torch.ones(2, 2)}
        torch.save({"state_dict": state}, file)
        server.files["/b.pth"] = file.getvalue()
        tables = mmengine.runner.checkpoint
        monkeypatch.setattr(tables, "get_mmcls_models", lambda: {"net": f"{server.url}/b.pth"})
        linear = nn.Linear(2, 2)
        fastinit.initialize(linear, {"type": "Pretrained", "checkpoint": "mmcls://net"})
        assert bool((linear.weight == 7).all())

    def test_torchvision(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        weights = types.SimpleNamespace(url=f"{server.url}/a.pth")
        models: Any = types.ModuleType("torchvision.models")

        def enum(name: str) -> Any:
            if name != "resnet50":
                raise ValueError(f"Unknown model {name}")
            return types.SimpleNamespace(__members__={"IMAGENET1K_V1": weights})

        models.get_model_weights = enum
        models.get_weight = lambda name: weights
        models.list_models = lambda: ["resnet50"]
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
        for name in (
            "torchvision://resnet50",
            "modelzoo://resnet50",
            "torchvision://resnet50.imagenet1k_v1",
            "torchvision://ResNet50_Weights.IMAGENET1K_V1",
        ):
            assert located(name).read_bytes() == content()
        with pytest.raises(FileNotFoundError, match="mean 'torchvision://resnet50'"):
            located("torchvision://resnet5")

    def test_torchvision_that_does_not_load(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
        asked = []
        monkeypatch.setattr(
            "fastinit.checkpoint.sources.download", lambda url, sha256: asked.append(url)
        )
        located("torchvision://resnet50")  # in mmengine's table
        assert asked[0].startswith("https://download.pytorch.org/models/resnet50-")
        with pytest.raises(ModuleNotFoundError, match="pip install torchvision"):
            located("torchvision://nothing")

    def test_hugging_face(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"")
        asked = []

        def download_file(repository: str, file: str, **given: Any) -> str:
            asked.append((repository, file, given["revision"]))
            offline.add(given["local_files_only"])
            return str(tmp_path / "model.safetensors")

        def download_all(repository: str, allow_patterns: Any, **given: Any) -> str:
            asked.append((repository, tuple(allow_patterns), given["revision"]))
            offline.add(given["local_files_only"])
            return str(tmp_path)

        offline = set()

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download_file)
        monkeypatch.setattr("huggingface_hub.snapshot_download", download_all)
        assert located("hf://org/net/sub/a.bin@v2") == tmp_path / "model.safetensors"
        assert located("hf://org/net") == tmp_path
        assert asked == [
            ("org/net", "sub/a.bin", "v2"),
            ("org/net", ("*.safetensors", "*.safetensors.index.json"), None),
        ]
        asked.clear()
        for text in (
            "net@v2",
            "net@v2/a.bin",
            "net@refs/pr/3/a.bin",
            "net/a.bin@refs/pr/3",
            "net@refs/pr/3",
        ):
            located(f"hf://org/{text}")
        assert [(file, revision) for _, file, revision in asked if isinstance(file, str)] == [
            ("a.bin", "v2"),
            ("a.bin", "refs/pr/3"),
            ("a.bin", "refs/pr/3"),
        ]
        assert {revision for _, file, revision in asked if isinstance(file, tuple)} == {
            "v2",
            "refs/pr/3",
        }
        assert offline == {False}
        monkeypatch.setenv("FASTINIT_OFFLINE", "1")
        located("hf://org/net/a.bin")
        assert offline == {False, True}
        for text in ("net", "/net", "org/@v"):
            with pytest.raises(ValueError, match="write hf://organisation/repository"):
                located(f"hf://{text}")

    def test_what_fsspec_knows(self, server: Server) -> None:
        import fsspec

        for value in (1.0, 2.0):  # the file is another one, not the copy that is kept
            with fsspec.open("memory://store/a.pth", "wb") as file:
                file.write(content(value))
            assert located("memory://store/a.pth").read_bytes() == content(value)
        with pytest.raises(FileNotFoundError, match="is a folder; give a file in it"):
            located("memory://store")
        with pytest.raises(FileNotFoundError):
            located("memory://store/b.pth")

    def test_what_mmengines_file_client_knows(self, server: Server) -> None:
        from mmengine.fileio import BaseStorageBackend, register_backend

        class Store(BaseStorageBackend):  # type: ignore[misc]
            def get(self, path: str) -> bytes:
                assert path == "somestore://bucket/net.pth"
                return content()

            def get_text(self, path: str, encoding: str = "utf-8") -> str:
                raise NotImplementedError

        register_backend("somestore", Store, force=True, prefixes="somestore")
        assert located("somestore://bucket/net.pth").read_bytes() == content()

    def test_what_is_not_installed(self) -> None:
        with pytest.raises(ModuleNotFoundError, match=r"s3://a/b.pth': .*s3fs"):
            located("s3://a/b.pth")

    def test_what_nobody_knows(self) -> None:
        with pytest.raises(ValueError, match="no library that is installed knows nowhere://, of"):
            located("nowhere://a/b.pth")
