"""Boxes of views, in the index of the whole."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastinit.tensors.boxes import box_in, own_box


def index_of(view, whole):
    """Oracle: the logical index of each element of a view, by letting torch slice an arange."""
    places = torch.empty_strided(whole.shape, whole.stride(), dtype=torch.int64)
    places.copy_(torch.arange(whole.numel()).view(whole.shape))
    offset = view.storage_offset() - whole.storage_offset()
    return torch.as_strided(places, view.shape, view.stride(), offset)


def box_indices(start, box):
    if isinstance(box, int):
        return torch.arange(start, start + box)
    index = torch.tensor(start)
    for size, _, step in box:
        index = index[..., None] + torch.arange(size) * step
    return index.flatten()


WHOLES = {
    "contiguous": lambda: torch.empty(6, 5, 4, 3),
    "channels_last": lambda: torch.empty(6, 5, 4, 3).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.empty(3, 4, 5, 6).permute(3, 2, 1, 0),
    "with gaps": lambda: torch.empty(6, 5, 8, 6)[:, :, ::2, 1::2],
}
slices = st.builds(
    lambda a, n, s: slice(a, a + n, s), st.integers(0, 2), st.integers(1, 4), st.integers(1, 3)
)


@given(
    st.sampled_from(sorted(WHOLES)),
    st.tuples(slices, slices, slices, slices),
    st.permutations(range(4)),
)
def test_box_of_a_slice(name, cut, order):
    whole = WHOLES[name]()
    view = whole[cut].permute(order)
    place = box_in(view, whole)
    assert place is not None
    assert torch.equal(box_indices(*place), index_of(view, whole).flatten())


@pytest.mark.parametrize("name", WHOLES)
def test_box_of_the_whole(name):
    whole = WHOLES[name]()
    assert torch.equal(box_indices(*box_in(whole.detach(), whole)), torch.arange(360))
    assert torch.equal(box_indices(*own_box(whole)), torch.arange(360))


def test_views_that_are_no_box():
    whole = WHOLES["channels_last"]()
    memory_order = whole.permute(0, 2, 3, 1).reshape(-1)
    assert memory_order.untyped_storage()._cdata == whole.untyped_storage()._cdata
    assert box_in(memory_order, whole) is None
    storage = torch.empty(20)
    assert box_in(storage[5:15], storage[8:20]) is None
    assert box_in(storage[5:15], storage[0:10]) is None
    assert box_in(storage.view(torch.int32), storage) is None
