"""The plan: one fill, last write wins, streams by name, seeds."""

import threading

import pytest
import torch
from torch import nn

import fastinit
from fastinit import _C, init
from fastinit.capture.opened import opened
from fastinit.kernels.streams import stream_of
from fastinit.plan import seeds
from fastinit.plan.current import current


def reference(seed, name, shape, dtype=torch.float32):
    """normal(0, 1) of stream `name`, filled directly."""
    x = torch.empty(shape, dtype=dtype)
    code = {torch.float32: _C.FLOAT32, torch.bfloat16: _C.BFLOAT16}[dtype]
    row = (_C.NORMAL, code, x.data_ptr(), seed, stream_of(name), 0, x.numel(), 0.0, 1.0, 0.0, 0.0)
    _C.fill([row])
    return x


def model():
    return nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)))


def test_one_fill_at_the_end_and_streams_by_name(fill_sizes):
    m = model()
    with opened(m) as p:
        for parameter in reversed(list(m.parameters())):
            init.normal_(parameter)
        init.normal_(m[1][1].running_mean)
        assert fill_sizes == []
    assert fill_sizes == [7]
    for name, tensor in m.named_parameters():
        assert torch.equal(tensor, reference(p.seed, name, tensor.shape)), name
    assert torch.equal(m[1][1].running_mean, reference(p.seed, "1.1.running_mean", 7))


def test_last_write_wins(fill_sizes):
    m = model()
    with opened(m) as p:
        init.constant_(m[0].weight, 3.0)
        init.uniform_(m[0].weight)
        init.normal_(m[0].weight.data)
    assert fill_sizes == [1]
    assert torch.equal(m[0].weight, reference(p.seed, "0.weight", (5, 3)))


def test_a_part_is_indexed_in_the_whole_and_keeps_its_turn():
    m = nn.Sequential(nn.Embedding(6, 4))
    with opened(m) as p:
        init.constant_(m[0].weight, 5.0)
        init.normal_(m[0].weight[2:4])
        init.zeros_(m[0].weight.data[3])
    expected = torch.full((6, 4), 5.0)
    expected[2:4] = reference(p.seed, "0.weight@1", (6, 4))[2:4]
    expected[3] = 0
    assert torch.equal(m[0].weight, expected)


def test_executed_draws_move_the_stream_on():
    m = model()
    with opened(m) as p:
        init.normal_(m[0].weight)
        first = m[0].weight.clone()
        init.normal_(m[0].weight)
        second = m[0].weight.clone()
        init.normal_(m[0].weight)
    assert torch.equal(first, reference(p.seed, "0.weight", (5, 3)))
    assert torch.equal(second, reference(p.seed, "0.weight@1", (5, 3)))
    assert torch.equal(m[0].weight, reference(p.seed, "0.weight@2", (5, 3)))


def test_tied_parameters_use_their_first_name():
    m = model()
    m[1][0].weight = nn.Parameter(m[0].weight.data.view(-1)[:15].view(5, 3))
    with opened(m) as p:
        init.normal_(m[1][0].weight)
    assert torch.equal(m[0].weight, reference(p.seed, "0.weight", (5, 3)))


def test_names_protect_from_changes_elsewhere():
    def filled(m):
        torch.manual_seed(11)
        with opened(m):
            for parameter in m.parameters():
                init.normal_(parameter)
        return dict(m.named_parameters())

    small, large = filled(model()), filled(model().append(nn.Linear(7, 7)))
    assert all(torch.equal(small[name], large[name]) for name in small)


def test_nameless_tensors_are_numbered_by_execution():
    m = model()
    with opened(m) as p:
        a, b = torch.empty(8), torch.empty(8)
        init.normal_(b)
        init.normal_(a)
        init.normal_(b)
    assert torch.equal(b, reference(p.seed, "#0@1", 8))
    assert torch.equal(a, reference(p.seed, "#1", 8))


def test_a_second_root_is_prefixed():
    first, second = model(), model()
    with opened(first) as p:
        with opened(first[1]):
            init.normal_(first[1][0].weight)
        with opened(second):
            init.normal_(second[0].weight)
    assert torch.equal(first[1][0].weight, reference(p.seed, "1.0.weight", (7, 5)))
    assert torch.equal(second[0].weight, reference(p.seed, "#1/0.weight", (5, 3)))


def test_seed_comes_from_torchs_default_generator():
    m = model()
    torch.manual_seed(42)
    low, high = torch.empty(2, dtype=torch.int64).random_(0, 2**32).tolist()
    torch.manual_seed(42)
    with opened(m) as p:
        pass
    assert p.seed == low | high << 32


def test_a_calls_own_generator_governs_its_record():
    m = model()
    with opened(m):
        init.normal_(m[0].weight, generator=torch.Generator().manual_seed(5))
    seed = seeds.draw_seed(torch.Generator().manual_seed(5))
    assert torch.equal(m[0].weight, reference(seed, "0.weight", (5, 3)))


def test_a_single_fill_is_stream_0():
    x = init.normal_(torch.empty(50), generator=torch.Generator().manual_seed(5))
    seed = seeds.draw_seed(torch.Generator().manual_seed(5))
    assert torch.equal(x, reference(seed, "#0", 50))


def test_an_exception_leaves_the_model_as_it_was():
    m = model()
    before = {k: v.clone() for k, v in m.state_dict().items()}

    def fail():
        with opened(m):
            for parameter in m.parameters():
                init.normal_(parameter)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    assert current() is None


def test_an_inner_exception_that_is_caught_keeps_what_was_written():
    m = model()
    with opened(m):
        try:
            with opened(m[0]):
                init.constant_(m[0].weight, 2.0)
                raise KeyError
        except KeyError:
            pass
    assert (m[0].weight == 2.0).all()


def test_torch_backend_writes_at_once():
    m = model()
    with fastinit.backend("torch"), opened(m) as p:
        torch.manual_seed(1)
        init.normal_(m[0].weight)
        assert not p.deferring
        written = m[0].weight.detach().numpy().copy()
    torch.manual_seed(1)
    assert (written == nn.init.normal_(torch.empty(5, 3)).numpy()).all()


def test_threads_have_their_own_plans():
    m = model()
    inside = []
    with opened(m):
        thread = threading.Thread(target=lambda: inside.append(current()))
        thread.start()
        thread.join()
        assert current() is not None
    assert inside == [None]


def test_versions_move_when_filled():
    m = model()
    version = m[0].weight._version
    with opened(m):
        init.normal_(m[0].weight)
    assert m[0].weight._version > version


def test_mixed_dtypes_in_one_fill(fill_sizes):
    m = model()
    m[1].bfloat16()
    with opened(m) as p:
        for parameter in m.parameters():
            init.normal_(parameter)
    assert len(fill_sizes) == 1
    assert torch.equal(m[1][0].weight, reference(p.seed, "1.0.weight", (7, 5), torch.bfloat16))


@pytest.mark.parametrize("part", [lambda w, n: w[n], lambda w, n: w[:, n]])
def test_parts_of_one_tensor_are_one_fill(part, fill_sizes):
    w = torch.zeros(3000, 3000)
    with fastinit.fused(seed=1):
        for n in range(3000):
            init.constant_(part(w, n), n)
    assert fill_sizes == [3000]
    assert torch.equal(part(w, 7), torch.full((3000,), 7.0))
