"""Code inside a plan computes what it would compute eagerly.

The oracle is the same code with every fill executed at once.
"""

import copy
import io
import math
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from eager import Eager, constant_draws, recording_in
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fastinit
from fastinit import init
from fastinit.capture import opened as opening
from fastinit.plan.plan import Plan


@contextmanager
def opened(kind, root, seed=99):
    from unittest import mock

    torch.manual_seed(seed)
    with recording_in(kind), mock.patch.object(opening, "Plan", kind), opening.opened(root) as p:
        torch.manual_seed(seed)
        yield p


def both(
    program, make=lambda: nn.Sequential(nn.Linear(4, 6), nn.Embedding(5, 3), nn.Conv2d(2, 4, 3))
):
    """Run `program(model)` deferred and eagerly; (results, state) must agree bitwise.

    Streams count *executed* draws, so programs that read between draws of one tensor differ there
    by design only if the number of executed draws differs; those here do not.
    """
    outcomes = []
    for kind in (Plan, Eager):
        torch.manual_seed(0)
        m = make()
        with opened(kind, m) as p:
            result = program(m)
            left = len(p.pending.storages())
        outcomes.append((result, {k: v.clone() for k, v in m.state_dict().items()}, left))
    (result, state, left), (expected, expected_state, _) = outcomes
    for name in state:
        assert torch.equal(state[name], expected_state[name]), name
    assert str(result) == str(expected)
    return left


def uniform_method(m):
    with torch.no_grad():
        m[0].weight.uniform_(-2, 3)
        m[0].bias.uniform_(to=5)
        m[1].weight.uniform_()


def no_grad_maths(m):
    nn.init.normal_(m[0].weight)
    with torch.no_grad():
        m[0].weight.mul_(2).add_(1)
        m[0].weight[0] = 7
        m[0].weight /= m[0].weight.norm()


def read_item(m):
    init.normal_(m[0].weight)
    return m[0].weight.sum().item(), float(m[0].weight[1, 2]), m[0].weight.tolist()


def numpy_replaces(m):
    init.normal_(m[0].weight)
    array = m[0].weight.detach().numpy()
    array *= 3
    init.constant_(m[0].bias, 2.0)
    m[0].bias.data = torch.from_numpy(np.arange(6, dtype=np.float32))
    m[1].weight.data.copy_(torch.from_numpy(np.ones((5, 3))))


def numpy_alias_sees_later_fills(m):
    array = m[0].weight.detach().numpy()
    init.constant_(m[0].weight, 4.0)
    return array.sum()


def copy_from_pending(m):
    init.normal_(m[0].weight)
    with torch.no_grad():
        m[1].weight.copy_(m[0].weight[:5, :3])


def copy_over_pending(m):
    init.normal_(m[0].weight)
    m[0].weight.data.copy_(torch.arange(24.0).view(6, 4))


def copy_over_part(m):
    init.constant_(m[0].weight, 3.0)
    m[0].weight.data[1].copy_(torch.arange(4.0))


def padding_row(m):
    init.normal_(m[1].weight)
    with torch.no_grad():
        m[1].weight[2].fill_(0)


def advanced_index(m):
    init.normal_(m[0].weight)
    return m[0].weight[torch.tensor([0, 2])].sum(), m[0].weight[m[0].weight > 0].numel()


def out_argument(m):
    init.constant_(m[0].bias, 3.0)
    torch.add(m[0].bias.detach(), 1, out=m[0].bias.data)


def factories(m):
    init.normal_(m[0].bias)
    m[0].weight.data = torch.ones_like(m[0].weight) * 2 + torch.zeros_like(m[0].bias)[:, None]


def deepcopy_and_save(m):
    init.normal_(m[0].weight)
    twin = copy.deepcopy(m[0])
    buffer = io.BytesIO()
    init.normal_(m[2].weight)
    torch.save(m.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)
    thawed = pickle.loads(pickle.dumps(m[2].weight))
    return twin.weight, loaded["2.weight"].sum(), thawed.sum()


def forward(m):
    init.normal_(m[0].weight)
    init.constant_(m[0].bias, 1.0)
    return m[0](torch.ones(4)).sum().item()


def orthogonal(m):
    init.orthogonal_(m[0].weight)
    nn.init.sparse_(m[1].weight, 0.5)
    init.dirac_(m[2].weight)


def torch_functions(m):
    nn.init.kaiming_uniform_(m[0].weight, a=math.sqrt(5))
    nn.init.trunc_normal_(m[1].weight, std=0.02)
    nn.init.xavier_normal_(m[2].weight)
    nn.init.ones_(m[0].bias)
    nn.init.zeros_(m[2].bias)


def foreach(m):
    init.constant_(m[0].bias, 1.0)
    init.constant_(m[2].bias, 2.0)
    torch._foreach_mul_([m[0].bias.data, m[2].bias.data], 3.0)


def to_other_dtype(m):
    init.normal_(m[0].weight)
    m[0].double()
    return m[0].weight.dtype


def load_state(m):
    init.normal_(m[0].weight)
    m.load_state_dict({k: torch.ones_like(v) for k, v in m.state_dict().items()})


def contiguous_in_another_format(m):
    init.normal_(m[2].weight)
    return m[2].weight.data.contiguous(memory_format=torch.channels_last).sum()


def index_by_a_bool(m):
    init.normal_(m[0].weight)
    return m[0].weight.data[True].sum()


def gradients_accumulate(m):
    m[0].weight.grad = torch.full_like(m[0].weight, 100.0)
    m[0].weight.grad.zero_()
    m[0](torch.ones(4)).sum().backward()
    return m[0].weight.grad.sum()


def copy_that_fails(m):
    init.constant_(m[0].weight, 1.0)
    try:
        m[0].weight.data.copy_(torch.zeros(5, 3))
    except RuntimeError:
        return "shapes"


def swapped_memory(m):
    other = nn.Parameter(torch.zeros(6, 4))
    init.constant_(m[0].weight, 1.0)
    torch.utils.swap_tensors(m[0].weight, other)
    return m[0].weight.sum()


def swapped_by_the_helper(m):
    other = nn.Parameter(torch.full((6, 4), 9.0))
    init.constant_(m[0].weight, 1.0)
    torch._C._swap_tensor_impl(m[0].weight, other)
    init.constant_(m[0].weight, 2.0)
    return m[0].weight.sum(), other.sum()


def vmap(m):
    init.constant_(m[0].weight, 1.0)
    return torch.vmap(lambda x: x * 2)(torch.ones(2, 3)).sum(), m[0].weight.sum()


def same_numpy_memory(m):
    array = np.zeros((6, 4), dtype=np.float32)
    m[0].weight.data = torch.from_numpy(array)
    m[0].bias.data = torch.from_numpy(array.reshape(-1)[:6])
    init.constant_(m[0].weight, 1.0)
    init.constant_(m[0].bias, 2.0)
    return m[0].weight.sum()


PROGRAMS = [
    contiguous_in_another_format, index_by_a_bool, gradients_accumulate, copy_that_fails,
    swapped_memory, swapped_by_the_helper, vmap, same_numpy_memory,
    uniform_method, no_grad_maths, read_item, numpy_replaces, numpy_alias_sees_later_fills,
    copy_from_pending, copy_over_pending, copy_over_part, padding_row, advanced_index, out_argument,
    factories, deepcopy_and_save, forward, orthogonal, torch_functions, foreach, to_other_dtype,
    load_state,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_deferred_equals_eager(program):
    both(program)


STILL_PENDING = {
    "metadata": lambda m: (
        m[0].weight.shape,
        m[0].weight.dtype,
        m[0].weight.requires_grad,
        len(m[0].weight),
    ),
    "views": lambda m: (
        m[0].weight.data,
        m[0].weight.detach(),
        m[0].weight.t(),
        m[0].weight.view(-1),
    ),
    "slices": lambda m: (m[0].weight[1:], m[0].weight[:, None], m[0].weight[0, 1]),
    "other tensors": lambda m: m[1].weight.sum().item(),
    "walking": lambda m: (list(m.named_parameters()), m.state_dict().keys(), repr(m)),
    "likes": lambda m: (torch.zeros_like(m[0].weight), m[0].weight.new_empty(3)),
    "parameter": lambda m: nn.Parameter(m[0].weight.data).requires_grad_(False).numel(),
}


@pytest.mark.parametrize("look", STILL_PENDING)
def test_looking_is_not_reading(look):
    def program(m):
        init.normal_(m[0].weight)
        STILL_PENDING[look](m)

    assert both(program) == 1


def test_autograd_knows_of_a_pending_write():
    m = nn.Linear(2, 2)
    with opening.opened(m):
        loss = (m.weight * m.weight).sum()
        init.constant_(m.weight, 3.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_the_torch_backend_inside_a_plan():
    m = nn.Linear(2, 2)
    with opening.opened(m):
        init.constant_(m.weight, 3.0)
        with fastinit.backend("torch"):
            torch.manual_seed(0)
            init.normal_(m.weight)
    torch.manual_seed(0)
    assert torch.equal(m.weight, nn.init.normal_(torch.empty(2, 2)))


def test_a_leaf_that_requires_grad_is_torchs_error():
    m = nn.Linear(2, 2)
    with opening.opened(m), pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        m.weight.normal_()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.normal_(0, -1),
        lambda x: x.uniform_(2, 1),
        lambda x: x.uniform_(wrong=1),
        lambda x: x.fill_("a"),
        lambda x: nn.init.normal_(x, 0, -1),
        lambda x: nn.init.trunc_normal_(x, 0, 0),
    ],
)
def test_errors_come_at_the_call(call):
    with pytest.raises(Exception) as eager:  # noqa: PT011 - whatever torch raises
        call(torch.zeros(3))
    m = nn.Linear(2, 2)
    with opening.opened(m), pytest.raises(eager.type):
        call(m.weight.data)


def test_values_beyond_the_kernels_are_written_in_turn():
    m = nn.Linear(2, 2)
    with opening.opened(m):
        init.normal_(m.weight)
        init.constant_(m.weight, math.inf)
        m.bias.data.fill_(math.nan)
    assert (m.weight == math.inf).all()
    assert m.bias.isnan().all()


step = st.one_of(
    st.tuples(
        st.just("fill"), st.integers(0, 3), st.sampled_from(["normal", "uniform", "constant"])
    ),
    st.tuples(st.just("part"), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("maths"), st.integers(0, 3), st.sampled_from([2.0, -0.5])),
    st.tuples(st.just("copy"), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("read"), st.integers(0, 3), st.booleans()),
)


@given(st.lists(step, max_size=12))
def test_random_programs(steps):
    """Draws are constants here where a read may come between, so that streams cannot differ."""

    def program(m):
        seen = []
        for n, (what, k, arg) in enumerate(steps):
            x = m[k].data
            if what == "fill" and arg == "constant":
                init.constant_(x, n)
            elif what == "fill":
                g = torch.Generator().manual_seed(n)
                getattr(init, arg + "_")(x, 0.0, 1.0, generator=g)
            elif what == "part":
                x[arg].fill_(n)
            elif what == "maths":
                x.mul_(arg).add_(1)
            elif what == "copy":
                x.copy_(m[arg].data)
            else:
                seen.append(x.sum().item() if arg else x[1, 2].item())
        return seen

    with constant_draws():
        both(program, lambda: nn.ParameterList([nn.Parameter(torch.zeros(4, 5)) for _ in range(4)]))
