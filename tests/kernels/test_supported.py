"""Which tensors and parameters the kernels serve."""

import pytest
import torch

from fastinit.kernels.distributions import CONSTANT, NORMAL, TRUNC_NORMAL, UNIFORM, valid_parameters
from fastinit.kernels.supported import is_supported


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("tensor", "served"),
    [
        (torch.empty(3), True),
        (torch.nn.Parameter(torch.empty(3)), True),
        (torch.empty(3).as_subclass(Subclass), True),
        (torch.empty(()), True),
        (torch.empty(4, 4).t(), True),
        (torch.empty(3, dtype=torch.int32), False),
        (torch.empty(3, dtype=torch.complex64), False),
        (torch.empty(3, device="meta"), False),
        (torch.eye(3).to_sparse(), False),
        (torch.empty(1, 3).expand(4, 3), False),
        (torch.empty(2, 2, 2, 2, 2, 2, 2, 2, 4)[..., ::2], False),
    ],
)
def test_is_supported(tensor, served):
    assert is_supported(tensor) is served


@pytest.mark.parametrize(
    ("kind", "parameters", "valid"),
    [
        (CONSTANT, (3,), (3.0, 0.0, 0.0, 0.0)),
        (CONSTANT, (float("-inf"),), (float("-inf"), 0.0, 0.0, 0.0)),
        (CONSTANT, (2**60 + 1,), None),
        (CONSTANT, (1e39,), None),
        (UNIFORM, (-1, 1.0), (-1.0, 1.0, 0.0, 0.0)),
        (UNIFORM, (1.0, -1.0), None),
        (NORMAL, (0.0, -1.0), None),
        (NORMAL, (0.0, torch.tensor(1.0)), None),
        (TRUNC_NORMAL, (0.0, 1.0, float("-inf"), 2.0), (0.0, 1.0, float("-inf"), 2.0)),
        (TRUNC_NORMAL, (0.0, 1.0, 11.0, 12.0), None),
        (TRUNC_NORMAL, (0.0, 0.0, -1.0, 1.0), None),
        (TRUNC_NORMAL, (0.0, 1.0, float("nan"), 1.0), None),
    ],
)
def test_valid_parameters(kind, parameters, valid):
    assert valid_parameters(torch.float32, kind, parameters) == valid
