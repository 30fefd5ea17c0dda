"""Checkpoints that would do harm: nothing in them runs, and nothing is written."""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_contents import Net, distributed, saved, state

from fastinit.checkpoint.load import load_pretrained


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def harmful(path: Path) -> dict[str, Any]:
    import os

    target = str(path)
    return {
        "os.system": Calls(os.system, f"touch {target}"),
        "os.mkdir": Calls(os.mkdir, target),
        "open": Calls(open, target, "w"),
        "eval": Calls(eval, f"open({target!r}, 'w')"),
        "exec": Calls(exec, f"open({target!r}, 'w')"),
        "subprocess": Calls(subprocess.Popen, ["touch", target]),
        "getattr": Calls(getattr, pathlib.Path(target), "touch"),
        "path": Calls(pathlib.Path.touch, pathlib.Path(target)),
        "nested": Calls(print, Calls(open, target, "w")),
        "runpy": Calls(__import__("runpy").run_path, target),
        "numpy": Calls(np.save, target, 3),
        "torch": Calls(torch.save, 3, target),
        "hub": Calls(torch.hub.load, target, "x"),
    }


@pytest.mark.parametrize("where", ["new", "legacy", "in folder", "dcp"])
@pytest.mark.parametrize("name", list(harmful(Path("x"))))
def test_nothing_runs(name: str, where: str, tmp_path: Path) -> None:
    """It is refused, or stands in its place emptied; the file that it would make is not there."""
    target = tmp_path / "made"
    content = {"model": state(), "more": harmful(target)[name]}
    path = tmp_path / "a.pth"
    if where == "dcp":
        path = distributed(lambda s: s)(tmp_path)
        (path / ".metadata").write_bytes(pickle.dumps(harmful(target)[name]))
    elif where == "in folder":
        torch.save(content, tmp_path / "pytorch_model.bin")
        path = tmp_path
    else:
        torch.save(content, path, _use_new_zipfile_serialization=where == "new")
    net = Net()
    before = {key: t.clone() for key, t in net.state_dict().items()}
    try:
        load_pretrained(net, path)
        expected = state()
    except (pickle.UnpicklingError, RuntimeError):
        expected = before
    assert not target.exists()
    assert all(torch.equal(expected[key], t) for key, t in net.state_dict().items())
    if where == "dcp":
        assert expected is before


def test_a_description_that_changes_its_own_classes(tmp_path: Path) -> None:
    """Pickle's BUILD sets attributes of classes: an entry of bytes that is a tensor at first."""
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    path = distributed(lambda s: s)(tmp_path)
    known = pickle.loads((path / ".metadata").read_bytes())
    data = io.BytesIO()
    torch.save(Calls(open, str(tmp_path / "made"), "w"), data)
    (path / "evil.distcp").write_bytes(data.getvalue())

    def piece(value: Any) -> bytes:
        out = io.BytesIO()
        pickler = pickle.Pickler(out, 2)
        pickler.fast = True
        pickler.dump(value)
        return out.getvalue()[2:-1]

    def named(name: str) -> bytes:
        return f"ctorch.distributed.checkpoint.metadata\n{name}\n".encode()

    def table(items: dict[str, bytes]) -> bytes:
        return b"}(" + b"".join(piece(key) + value for key, value in items.items()) + b"u"

    def slots(items: dict[str, bytes]) -> bytes:
        return b"N" + table(items) + b"\x86b"

    stored = known.state_dict_metadata["head.weight"]
    fields = {"properties": stored.properties, "size": stored.size, "chunks": stored.chunks}
    entry = named("BytesStorageMetadata") + b")\x81"
    entry += slots({"__class__": named("TensorStorageMetadata")}) + piece(fields) + b"b"
    info = type(next(iter(known.storage_data.values())))("evil.distcp", 0, data.tell())
    places = {MetadataIndex("head.weight"): info}
    parts = {
        "state_dict_metadata": table({"head.weight": entry}),
        "planner_data": piece({"head.weight": ("head.weight",)}),
        "storage_data": piece(places),
        "storage_meta": b"N",
    }
    program = b"\x80\x02" + named("Metadata") + b")\x81" + table(parts) + b"b"
    program += named("BytesStorageMetadata") + slots({"__setstate__": named("Metadata")}) + b"0."
    (path / ".metadata").write_bytes(program)
    with pytest.raises(RuntimeError, match="could not be read"):
        load_pretrained(Net(), path)
    assert not (tmp_path / "made").exists()
    assert "__setstate__" not in vars(BytesStorageMetadata)


def test_a_description_with_another_dtype(tmp_path: Path) -> None:
    path = distributed(lambda s: s)(tmp_path)
    known = pickle.loads((path / ".metadata").read_bytes())
    known.state_dict_metadata["head.weight"].properties.dtype = "float32"
    (path / ".metadata").write_bytes(pickle.dumps(known))
    with pytest.raises(RuntimeError, match=r"'head\.weight' has the dtype 'float32'"):
        load_pretrained(Net(), path)


@pytest.mark.parametrize("elsewhere", ["../secret.pt", "absolute"])
def test_a_description_that_names_files_elsewhere(elsewhere: str, tmp_path: Path) -> None:
    path = distributed(lambda s: s)(tmp_path)
    torch.save(torch.ones(2, 4), tmp_path / "secret.pt")
    file = str(tmp_path / "secret.pt") if elsewhere == "absolute" else elsewhere
    known = pickle.loads((path / ".metadata").read_bytes())
    for index, info in known.storage_data.items():
        known.storage_data[index] = type(info)(file, 0, (tmp_path / "secret.pt").stat().st_size)
    (path / ".metadata").write_bytes(pickle.dumps(known))
    with pytest.raises(RuntimeError, match="which is no file in the folder"):
        load_pretrained(Net(), path)


def headers() -> dict[str, bytes]:
    def file(header: Any, data: bytes = bytes(16)) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "overlapping": file({"a": entry, "b": entry}),
        "beyond the end": file({"a": {**entry, "shape": [99], "data_offsets": [0, 396]}}),
        "negative": file({"a": {**entry, "shape": [-2]}}),
        "huge shape": file({"a": {**entry, "shape": [1 << 40, 1 << 40]}}),
        "huge header": (1 << 62).to_bytes(8, "little") + b"{}",
        "no JSON": file(b"{nothing}"),
        "unknown dtype": file({"a": {**entry, "dtype": "F7"}}),
    }


@pytest.mark.parametrize("kind", headers())
def test_harmful_headers_of_safetensors(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(headers()[kind])
    with pytest.raises(RuntimeError, match="damaged"):
        load_pretrained(Net(), tmp_path / "a.safetensors")


def test_archives_whose_files_lie_elsewhere(tmp_path: Path) -> None:
    path = saved(lambda s: s)(tmp_path)
    evil = tmp_path / "evil.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(evil, "w") as new:
        for name in old.namelist():
            new.writestr(f"../{name}" if "/data/" in name else name, old.read(name))
    with pytest.raises(RuntimeError):
        load_pretrained(Net(), evil)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "evil.pth"]
