"""The table of distributions: one row for each, which the kernels, torch and the manifest share."""

import pytest
import torch

from fastinit import _C, init
from fastinit.capture.effects import FILLS
from fastinit.kernels.distributions import DISTRIBUTIONS, DTYPES, distribution_of, valid_parameters


def test_the_kernels_have_the_same_numbers():
    names = {row.kind: row.name for row in DISTRIBUTIONS.values()}
    ours = {kind: name for kind, name in enumerate(_C.KINDS) if name != "words"}
    assert names == ours
    for dtype, number in DTYPES.items():
        assert str(dtype) == f"torch.{_C.DTYPES[number]}"


@pytest.mark.parametrize("row", DISTRIBUTIONS.values(), ids=lambda row: row.name)
def test_a_row_is_complete(row):
    assert distribution_of(row.name) is row
    assert callable(getattr(init, f"{row.name}_"))
    if row.method is not None:
        assert FILLS[row.method] is row


@pytest.mark.parametrize("row", DISTRIBUTIONS.values(), ids=lambda row: row.name)
def test_what_the_kernels_accept_torch_accepts(row):
    """Arguments that no kernel refuses are none that torch would have refused."""
    count = len([name for name in row.arguments if name != "cast"])
    values = (-3.0, -0.5, 0.0, 0.5, 3.0)
    grid = torch.cartesian_prod(*[torch.tensor(values)] * count).reshape(-1, count).tolist()
    accepted = [tuple(p) for p in grid if valid_parameters(torch.float32, row.kind, tuple(p))]
    assert accepted
    for arguments in accepted:
        row.in_torch(torch.empty(2), *arguments)


def test_an_unknown_name_is_a_bad_value():
    with pytest.raises(ValueError, match=r"'cauchy'; there are 'constant', 'uniform'"):
        distribution_of("cauchy")
