"""Stream names and streams."""

import hashlib

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from fastinit.kernels.streams import stream_of
from fastinit.tensors.storage import storage_key
from fastinit.tensors.walk import named_tensors, walk


def names(module):
    return [name for name, _ in named_tensors(walk(module))]


def test_stream_is_blake2b_little_endian():
    digest = hashlib.blake2b(b"layers.0.weight", digest_size=8).digest()
    assert stream_of("layers.0.weight") == int.from_bytes(digest, "little")
    assert stream_of("ß") == int.from_bytes(
        hashlib.blake2b("ß".encode(), digest_size=8).digest(), "little"
    )


def test_names_are_torchs_and_ties_keep_every_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    expected = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    found = dict(named_tensors(walk(model)))
    assert found.keys() == expected.keys()
    assert all(found[name] is expected[name] for name in found)


def test_first_name_comes_first():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.register_parameter("own", nn.Parameter(torch.empty(1)))
    expected = [name for name, _ in model.named_parameters()]
    seen, first = set(), []
    for name, tensor in named_tensors(walk(model)):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            first.append(name)
    assert first == expected


def test_wrappers_leave_no_trace():
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    wrapped = nn.Sequential(checkpoint_wrapper(nn.Linear(2, 2)), nn.DataParallel(nn.Linear(2, 2)))
    assert names(wrapped) == names(plain)
    assert names(torch.compile(plain)) == names(plain)
    assert names(nn.ModuleDict({"module": nn.Linear(2, 2)})) == ["module.weight", "module.bias"]


def test_storage_key_is_the_memory():
    x = nn.Parameter(torch.empty(4, 4))
    for view in (x.data, x.detach(), x[1:], x.t(), nn.Parameter(x.data)):
        assert storage_key(view) == storage_key(x)
    assert storage_key(x.clone()) != storage_key(x)


def test_both_walks_are_the_same():
    from fastinit.tensors.walk import walk_in_python

    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ModuleDict({"a": nn.Sequential(shared, nn.Dropout())}))
    model.register_module("nothing", None)
    model.add_module("wrapped", nn.DataParallel(nn.Linear(3, 3)))
    model.add_module("_orig_mod", nn.Linear(4, 4))
    model.add_module("scripted", torch.jit.script(nn.Sequential(nn.Linear(2, 2))))
    assert walk(model) == walk_in_python(model)
